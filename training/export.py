"""Writes the averaged weights of the checkpoints to ``assets/models/flora`` in the diffusers folder format (bf16)."""

from __future__ import annotations

import json
import shutil

import numpy as np
import torch
from transformers import CLIPTokenizer

from training.data import rows
from training.loop import FLORA, WORK, spent
from training.text import build_text_encoder
from training.unet import WIDTH, build, load_autoencoder, scheduler


def export() -> None:
    """Needs both checkpoints and the latents they were trained on (for the scale)."""
    train_index = [i for i, r in enumerate(rows()) if r.split == "train"]
    scale = 1 / float(np.load(WORK / "latents-photo.npy")[train_index].astype(np.float32).std())
    vae = load_autoencoder()
    vae.register_to_config(scaling_factor=scale)
    vae.to(torch.bfloat16).save_pretrained(FLORA / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(WORK / "tokenizer")
    unet, text = build(), build_text_encoder(tokenizer, WIDTH)
    state = torch.load(WORK / "unet.pt", map_location="cpu", weights_only=True)
    params = [*unet.parameters(), *text.parameters()]
    with torch.no_grad():
        for p, e in zip(params, state["ema"], strict=True):
            p.copy_(e)
    unet.to(torch.bfloat16).save_pretrained(FLORA / "unet")
    text.to(torch.bfloat16).save_pretrained(FLORA / "text_encoder")
    shutil.copytree(WORK / "tokenizer", FLORA / "tokenizer", dirs_exist_ok=True)
    scheduler().save_pretrained(FLORA / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderDC"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (FLORA / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    shutil.rmtree(FLORA / "live", ignore_errors=True)  # distilled from the weights before
    spent("unet", state["samples"], state["seconds"])
    state = torch.load(WORK / "autoencoder.pt", map_location="cpu", weights_only=True)
    spent("autoencoder", state["samples"], state["seconds"])
    for file in sorted(FLORA.rglob("*.safetensors")):
        print(f"{file.relative_to(FLORA)} {file.stat().st_size / 1e6:.1f} MB")
