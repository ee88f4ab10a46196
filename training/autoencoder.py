"""flora's autoencoder: diffusers' AutoencoderDC of residual blocks, factor 8 with 4 channels."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderDC
from safetensors.torch import load_file
from torch import Tensor

from training.loop import BF16, DEVICE, WORK, get, put


def build_autoencoder() -> AutoencoderDC:
    """4.7 M parameters; decoding a 256 × 256 picture is 16.4 GFLOP."""
    return AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(32, 32, 64, 128),
        decoder_block_out_channels=(24, 48, 96, 192),
        encoder_layers_per_block=(0, 1, 2, 4),
        decoder_layers_per_block=(1, 2, 2, 4),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        upsample_block_type="interpolate",  # pixel shuffle leaves a checkerboard
    )


def exported(folder: Path, part: str) -> dict[str, Tensor]:
    """The float32 weights of a part of an exported folder: "vae", "unet" or "text_encoder"."""
    files = sorted((folder / part).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder / part} must hold a safetensors file, got none")
    return {k: v.float() for k, v in load_file(files[0]).items()}


def load_autoencoder(start: Path | None = None) -> AutoencoderDC:
    """That of the work folder (else that of the export ``start``, which becomes it), frozen, in `BF16` on `DEVICE`."""
    state = get("ae")
    if state is None and start:
        state = {"sd": exported(start, "vae")}
        put(state, "ae")
    if state is None:
        raise ValueError(f"{WORK / 'ae.pt'} must hold an autoencoder, got none: python -m training joint, or --start")
    model = build_autoencoder()
    model.load_state_dict(state["sd"])
    return model.eval().requires_grad_(False).to(DEVICE, BF16, memory_format=torch.channels_last)
