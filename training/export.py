"""Writes the averaged weights of the checkpoints to ``FLORA`` as an ordinary diffusers folder, bf16."""

from __future__ import annotations

import json
import shutil

import torch

from engine.requests import EngineError
from training.autoencoder import build_autoencoder
from training.loop import FLORA, WORK, get, spent
from training.network import AVERAGES, build_unet, scheduler
from training.text import build_text_encoder, find_tokenizer

PARTS = {
    "vae": ["diffusers", "AutoencoderDC"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}


@torch.no_grad()
def export(average: int = AVERAGES[0]) -> None:
    """``average``: of so many samples. The few-step weights of the network before are removed."""
    state, autoencoder = get("unet"), get("ae")
    if not state or not autoencoder:
        raise EngineError(f"{WORK} must hold unet.pt and ae.pt, got {sorted(p.name for p in WORK.glob('*.pt'))}")
    tokenizer = find_tokenizer(None, learn=False)
    unet, text, vae = build_unet(), build_text_encoder(tokenizer), build_autoencoder()
    for p, e in zip([*unet.parameters(), *text.parameters()], state["w"]["ema"][average], strict=False):
        p.copy_(e)
    vae.load_state_dict(autoencoder["sd"])
    vae.register_to_config(scaling_factor=state["scale"])
    for name, model in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        model.to(torch.bfloat16).save_pretrained(FLORA / name)
    shutil.copytree(WORK / "tokenizer", FLORA / "tokenizer", dirs_exist_ok=True)
    scheduler().save_pretrained(FLORA / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline"} | PARTS
    (FLORA / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    shutil.rmtree(FLORA / "live", ignore_errors=True)
    spent("unet", state["n"], state["sec"])
    stages = [s for s in (get("ae-joint"), get("ae-decoder")) if s]
    if stages:
        spent("autoencoder", sum(s["seen"] for s in stages), sum(s["sec"] for s in stages))
    for file in sorted(FLORA.rglob("*.safetensors")):
        print(f"{file.relative_to(FLORA)} {file.stat().st_size / 1e6:.1f} MB")
