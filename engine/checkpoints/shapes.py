"""The shapes of Stable Diffusion 1 and 2, as their own config files give them, for checkpoints that come without any.

Also what makes a network of exactly that shape with random weights: true speeds and memory without a download.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_UNET = {
    "_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
_VAE = {
    "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "latent_channels": 4,
    "scaling_factor": 0.18215, "sample_size": 512,
}  # fmt: skip
_TEXT = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 49408,
         "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}  # fmt: skip
_SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {
        "unet": _UNET | {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        "text_encoder": _TEXT | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                                 "num_attention_heads": 12, "hidden_act": "quick_gelu", "projection_dim": 768},
    },
    "sd2": {
        "unet": _UNET | {"sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
                         "use_linear_projection": True},
        "text_encoder": _TEXT | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
                                 "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512},
    },
}  # fmt: skip
FAMILY_OF = {768: "sd1", 1024: "sd2"}  # by the width of the words


def skeleton(folder: Path, family: str, prediction: str = "epsilon") -> Path:
    """Writes a diffusers folder without weights: configs, CLIP's tokenizer, ``model_index.json``. Returns it."""
    unet = dict(SHAPES[family]["unet"])
    if prediction == "v_prediction":
        unet["sample_size"] = 96
    parts = {"unet": unet, "vae": _VAE, "text_encoder": SHAPES[family]["text_encoder"]}
    for name, config in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "scheduler").mkdir(exist_ok=True)
    config = _SCHEDULER | {"prediction_type": prediction}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    tokenizer(family).save_pretrained(folder / "tokenizer")
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "DDIMScheduler"]}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def tokenizer(family: str) -> Any:
    """CLIP's tokenizer from the vocabulary that open_clip brings along: nothing is fetched."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    own = SimpleTokenizer()
    named = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {named.get(word, word): i for word, i in own.encoder.items()}
    merges = [pair for pair, _ in sorted(own.bpe_ranks.items(), key=lambda item: item[1])]
    end = "<|endoftext|>"
    return CLIPTokenizer(vocab=vocab, merges=merges, unk_token=end, bos_token="<|startoftext|>", eos_token=end,
                         pad_token=end if family == "sd1" else "!", model_max_length=77)  # fmt: skip
