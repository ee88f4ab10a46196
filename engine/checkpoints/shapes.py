"""The shapes of Stable Diffusion 1 and 2, as their own config files give them, for checkpoints that come without any.

Also what makes a network of exactly that shape with random weights: true speeds and memory without a download.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIRST = "model.diffusion_model.input_blocks.0.0.weight"  # of the UNet in single files
# How wide the words are is the second side of this tensor in single files.
WORDS = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
FAMILY_OF = {768: "sd1", 1024: "sd2"}  # by the width of the words
# Where they differ from what the classes have by themselves, which is Stable Diffusion 1's for the UNet.
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "sample_size": 512,
}
TEXTS: dict[str, dict[str, Any]] = {
    "sd1": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
    "sd2": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23},
}
TEXTS["sd2"]["hidden_act"] = "gelu"  # OpenCLIP's
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULER |= {"clip_sample": False, "set_alpha_to_one": False}


# Where the last level is pure noise, steps begin at it (Lin et al. 2024, arXiv 2305.08891, §3.1 and 3.3).
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def skeleton(folder: Path, family: str, prediction: str = "epsilon", zero_snr: bool = False) -> Path:
    """Writes a diffusers folder without weights: configs, CLIP's tokenizer, ``model_index.json``. Returns it."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig

    side = 96 if prediction == "v_prediction" else 64
    with torch.device("meta"):  # shapes only
        UNet2DConditionModel(sample_size=side, **UNETS[family]).save_config(folder / "unet")
        AutoencoderKL(**VAE).save_config(folder / "vae")
    CLIPTextConfig(**TEXTS[family]).save_pretrained(folder / "text_encoder")
    noise: dict[str, Any] = SCHEDULER | (ZERO_SNR if zero_snr else {})
    DDIMScheduler(**noise, prediction_type=prediction).save_config(folder / "scheduler")
    tokenizer(family).save_pretrained(folder / "tokenizer")
    index = {n: ["diffusers", c] for n, c in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"))}
    index |= {n: ["transformers", c] for n, c in (("text_encoder", "CLIPTextModel"), ("tokenizer", "CLIPTokenizer"))}
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline"} | index), encoding="utf8"
    )
    return folder


def tokenizer(family: str) -> Any:
    """CLIP's tokenizer from the vocabulary that open_clip brings along: nothing is fetched."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    own, start, end = SimpleTokenizer(), "<|startoftext|>", "<|endoftext|>"
    named = {"<start_of_text>": start, "<end_of_text>": end}
    vocab = {named.get(word, word): i for word, i in own.encoder.items()}
    merges = [pair for pair, _ in sorted(own.bpe_ranks.items(), key=lambda item: item[1])]
    marks = {"unk_token": end, "bos_token": start, "eos_token": end, "pad_token": end if family == "sd1" else "!"}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, **marks)
