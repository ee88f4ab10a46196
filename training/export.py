"""Writes the averaged weights of the checkpoints to ``FLORA`` as an ordinary diffusers folder, bf16."""

from __future__ import annotations

import shutil

import torch

from engine.requests import EngineError
from training.autoencoder import build_autoencoder
from training.loop import FLORA, WORK, get, spent, write
from training.network import AVERAGES, build_unet, scheduler
from training.text import WORDS, build_text_encoder


@torch.no_grad()
def export(average: int = AVERAGES[0]) -> None:
    """``average``: of so many samples. The few-step weights of the network before are removed."""
    state, autoencoder = get("unet"), get("ae")
    if not state or not autoencoder:
        raise EngineError(f"{WORK} must hold unet.pt and ae.pt, got {sorted(p.name for p in WORK.glob('*.pt'))}")
    unet, text, vae = build_unet(), build_text_encoder(), build_autoencoder()
    for p, e in zip([*unet.parameters(), *text.parameters()], state["w"]["ema"][average], strict=False):
        p.copy_(e)
    vae.load_state_dict(autoencoder["sd"])
    vae.register_to_config(scaling_factor=state["scale"])
    for name, model in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        model.to(torch.bfloat16).save_pretrained(FLORA / name)
    if WORDS != FLORA / "tokenizer":
        shutil.copytree(WORDS, FLORA / "tokenizer", dirs_exist_ok=True)
    scheduler().save_pretrained(FLORA / "scheduler")
    index = {"vae": ["diffusers", "AutoencoderDC"], "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"scheduler": ["diffusers", "DDIMScheduler"]}
    write(FLORA / "model_index.json", {"_class_name": "StableDiffusionPipeline"} | index)
    shutil.rmtree(FLORA / "live", ignore_errors=True)
    spent("unet", state["n"], state["sec"])
    if stages := [s for s in (get("ae-joint"), get("ae-decoder")) if s]:
        spent("autoencoder", sum(s["seen"] for s in stages), sum(s["sec"] for s in stages))
