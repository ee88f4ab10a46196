"""The shapes of Stable Diffusion 1, 2 and XL, as their own config files give them, for checkpoints that come without.

Also what makes a network of exactly that shape with random weights: true speeds and memory without a download.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FIRST = "model.diffusion_model.input_blocks.0.0.weight"  # of the UNet in single files
# How wide the words are is the second side of the first of these tensors in single files.
WORDS = re.compile(r"model\.diffusion_model\.input_blocks\.\d+\.1\.transformer_blocks\.0\.attn2\.to_k\.weight")
# The last layer of XL's deepest block: its smaller kin (SSD-1B, Vega) lack it.
DEEPEST = "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight"
FAMILY_OF = {768: "sd1", 1024: "sd2", 2048: "sdxl"}  # by the width of the words
FEW = {"sd2": "turbo", "sdxl": "sdxl-turbo"}  # families whose own weights take few steps
WIDTH_OF = {family: width for width, own in FAMILY_OF.items() for family in (own, FEW.get(own))}
# Where they differ from what the classes have by themselves, which is Stable Diffusion 1's for the UNet.
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "sdxl": {
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "block_out_channels": [320, 640, 1280],
        "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1280 + 6 * 256,  # the pooled words and six numbers
    },
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "sample_size": 512,
}
SCALE, SCALE_XL = 0.18215, 0.13025  # what makes latents of unit variance: of Stable Diffusion 1 and 2, and of XL
TEXTS: dict[str, dict[str, Any]] = {
    "sd1": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
    "sd2": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23},
    "bigG": {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32},
}
TEXTS["sd2"]["hidden_act"] = TEXTS["bigG"]["hidden_act"] = "gelu"  # OpenCLIP's
TEXTS["bigG"]["projection_dim"] = 1280
TEXTS["sdxl"] = TEXTS["sd1"]
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULER |= {"clip_sample": False, "set_alpha_to_one": False}


# Where the last level is pure noise, steps begin at it (Lin et al. 2024, arXiv 2305.08891, §3.1 and 3.3).
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def words(said: dict[str, Any]) -> int:
    """How wide the words of a single file with this header are; 0 if it does not say."""
    shape = next((said[n]["shape"] for n in said if WORDS.fullmatch(n)), [])
    return shape[-1] if len(shape) > 1 else 0


def skeleton(folder: Path, family: str, prediction: str = "epsilon", zero_snr: bool = False, side: int = 0) -> Path:
    """Writes a diffusers folder without weights: configs, CLIP's tokenizer, ``model_index.json``. Returns it.

    ``side``: the UNet's own, in latents; 0: as the family has it."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig

    xl = family == "sdxl"
    side = side or (128 if xl else 96 if prediction == "v_prediction" else 64)
    scale = SCALE_XL if xl else SCALE
    with torch.device("meta"):  # shapes only
        UNet2DConditionModel(sample_size=side, **UNETS[family]).save_config(folder / "unet")
        AutoencoderKL(**VAE | {"sample_size": 8 * side if xl else 512}, scaling_factor=scale).save_config(
            folder / "vae"
        )
    CLIPTextConfig(**TEXTS[family]).save_pretrained(folder / "text_encoder")
    noise: dict[str, Any] = SCHEDULER | (ZERO_SNR if zero_snr else {})
    DDIMScheduler(**noise, prediction_type=prediction).save_config(folder / "scheduler")
    tokenizer(family).save_pretrained(folder / "tokenizer")
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {n: ["diffusers", c] for n, c in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"))}
    index |= {n: ["transformers", c] for n, c in (("text_encoder", "CLIPTextModel"), ("tokenizer", "CLIPTokenizer"))}
    if xl:
        CLIPTextConfig(**TEXTS["bigG"]).save_pretrained(folder / "text_encoder_2")
        tokenizer("bigG").save_pretrained(folder / "tokenizer_2")
        index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
        index |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
        index |= {"tokenizer_2": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf8")
    return folder


def tokenizer(family: str) -> Any:
    """CLIP's tokenizer from the vocabulary that open_clip brings along: nothing is fetched. "bigG": XL's second."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    own, start, end = SimpleTokenizer(), "<|startoftext|>", "<|endoftext|>"
    named = {"<start_of_text>": start, "<end_of_text>": end}
    vocab = {named.get(word, word): i for word, i in own.encoder.items()}
    merges = [pair for pair, _ in sorted(own.bpe_ranks.items(), key=lambda item: item[1])]
    marks = {
        "unk_token": end,
        "bos_token": start,
        "eos_token": end,
        "pad_token": end if family in ("sd1", "sdxl") else "!",
    }
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, **marks)
