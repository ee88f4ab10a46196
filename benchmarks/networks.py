"""A small network of Stable Diffusion's shape with random weights: true shapes and calls, no pictures worth seeing."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

FLORA = Path(__file__).resolve().parents[1] / "assets" / "models" / "flora"


def sd_shaped(folder: Path) -> Path:
    """Four levels, two layers each, attention on three of them, an AutoencoderKL of factor 8; flora's tokenizer.

    192 × 192 pixels: nine tokens a channel at the finest attention (Stable Diffusion 1.5: thirteen), so that attention
    has about its share of the work.
    """
    torch.manual_seed(0)
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=24, block_out_channels=(64, 128, 256, 256), layers_per_block=2, cross_attention_dim=64,
            attention_head_dim=(2, 4, 8, 8),  # heads of 32 channels
        ),
        "vae": AutoencoderKL(
            block_out_channels=(16, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=8,
        ),
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
            set_alpha_to_one=False,
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(
            vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=24, projection_dim=64, bos_token_id=1, eos_token_id=2,
        )),
    }  # fmt: skip
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    shutil.copytree(FLORA / "tokenizer", folder / "tokenizer")
    return folder
