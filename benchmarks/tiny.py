"""Networks of Stable Diffusion's classes with random weights, and a job run to its end: for tests and benchmarks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    T2IAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.checkpoints.shapes import ZERO_SNR
from engine.context import Context
from engine.jobs.run import run
from engine.requests import Done, Event

TOKENS = [chr(c) for c in range(33, 127)]
TOKENS = [*TOKENS, *(c + "</w>" for c in TOKENS), "<|startoftext|>", "<|endoftext|>"]
# "tiny": two levels, 64 pixels, milliseconds a step. "small": four levels of two layers, three with attention, 192
# pixels: nine tokens a channel at the finest one (Stable Diffusion 1.5: thirteen), so about its share of the work.
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "unet": {
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
        "vae": {"block_out_channels": (8, 8, 16, 16)},
        "text": {"hidden_size": 32, "intermediate_size": 64},
    },
    "small": {
        "unet": {
            "sample_size": 24,
            "block_out_channels": (64, 128, 256, 256),
            "cross_attention_dim": 64,
            "attention_head_dim": (2, 4, 8, 8),  # heads of 32 channels
        },
        "vae": {"block_out_channels": (16, 32, 32, 32)},
        "text": {"hidden_size": 64, "intermediate_size": 128},
    },
}
# What LCM-LoRA changes.
FEW_STEPS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]
FEW_STEPS += ["conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]


def make_network(
    folder: Path,
    prediction: str = "epsilon",
    extra: int = 0,
    seed: int = 0,
    attends: tuple[int, ...] = (1,),
    shape: str = "tiny",
) -> Path:
    """A checkpoint of random weights, factor 8, 4 channels (and ``extra`` beside the noise), in the diffusers format.

    ``attends``: which of the tiny one's levels look at the words; in Stable Diffusion all but the last do."""
    own = {part: dict(values) for part, values in SHAPES[shape].items()}
    if shape == "tiny":
        own["unet"] |= {
            "down_block_types": ["CrossAttnDownBlock2D" if i in attends else "DownBlock2D" for i in (0, 1)],
            "up_block_types": ["CrossAttnUpBlock2D" if i in attends else "UpBlock2D" for i in (1, 0)],
        }
    torch.manual_seed(seed)
    parts = {
        "unet": UNet2DConditionModel(in_channels=4 + extra, out_channels=4, **own["unet"]),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            scaling_factor=0.18215,
            **own["vae"],
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(TOKENS),
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=24,
                projection_dim=own["text"]["hidden_size"],
                bos_token_id=len(TOKENS) - 2,
                eos_token_id=len(TOKENS) - 1,
                pad_token_id=len(TOKENS) - 1,
                **own["text"],
            )
        ),
        "tokenizer": letters(),
        "scheduler": schedule(prediction_type=prediction),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {n: ["transformers" if n[0] == "t" else "diffusers", type(part).__name__] for n, part in parts.items()}
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline"} | index), encoding="utf8"
    )
    return folder


def make_flora(folder: Path, generation: int = 2, seed: int = 0) -> Path:
    """A tiny network as flora's of a ``generation`` (1 or 2) are: it sees drawings beside the noise, AutoencoderDC's
    latents, few-step weights and a CLIP beside it."""
    make_network(folder, extra=8, seed=seed)
    three = {"block_types": "ResBlock", "block_out_channels": (8, 8, 16, 16), "layers_per_block": (1, 1, 1, 1)}
    own = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in three.items()}
    own |= {"encoder_qkv_multiscales": ((),) * 4, "decoder_qkv_multiscales": ((),) * 4}
    vae: Any = AutoencoderDC(latent_channels=4, attention_head_dim=8, scaling_factor=0.22, **own)
    second = ZERO_SNR | {"prediction_type": "v_prediction"}
    for name, part in (("vae", vae), ("scheduler", schedule(**(second if generation == 2 else {})))):
        for file in (folder / name).iterdir():
            file.unlink()
        part.save_pretrained(folder / name)
    make_few_steps(UNet2DConditionModel.from_pretrained(folder / "unet"), folder)
    make_clip(folder / "clip", folder / "tokenizer")
    return folder


def make_clip(folder: Path, tokenizer: Path) -> Path:
    """A CLIP of random weights in open_clip's own format, with the tokenizer of the folder ``tokenizer``."""
    from open_clip.model import CLIP

    shutil.copytree(tokenizer, folder)
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text: dict[str, Any] = {"context_length": 24, "vocab_size": len(TOKENS), "width": 32, "heads": 2, "layers": 1}
    weights = CLIP(16, vision, text).state_dict()  # type: ignore[arg-type]
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "open_clip_model.safetensors")
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "here"}}
    whole = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole), encoding="utf8")
    return folder


def letters(length: int = 24) -> CLIPTokenizer:
    """CLIP's tokenizer without its merges: a token a letter."""
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(TOKENS)},
        merges=[],
        unk_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=length,
    )


def schedule(**own: Any) -> DDIMScheduler:
    """Stable Diffusion's noise."""
    usual = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDIMScheduler(**usual | {"steps_offset": 1, "set_alpha_to_one": False} | own)


def make_controls(unet: UNet2DConditionModel, folder: Path, save: Callable[[Any, str], None], rank: int) -> None:
    """Beside a network what the engine looks for there: a ControlNet for sketches, an adapter for strokes, and
    few-step weights. Changes ``unet``, so save it before."""
    control: Any = ControlNetModel.from_unet(unet)
    for p in control.parameters():
        if not p.any():  # its zero convolutions
            torch.nn.init.normal_(p, std=0.01)
    save(control, "sketch")
    del control
    widths = list(unet.config.block_out_channels)
    # The light kind repeats its last width, as Stable Diffusion has it.
    kind, widths = ("light_adapter", widths[:3]) if len(widths) == 4 else ("full_adapter", widths)
    save(T2IAdapter(3, widths, num_res_blocks=4, downscale_factor=8, adapter_type=kind), "stroke")
    make_few_steps(unet, folder, rank)


def make_few_steps(unet: UNet2DConditionModel, folder: Path, rank: int = 4) -> None:
    """A few-step LoRA in ``folder``/live, as LCM-LoRA changes layers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank / 10, target_modules=FEW_STEPS, init_lora_weights=False)  # pyright: ignore
    get_peft_model(unet, config).half().save_pretrained(str(folder / "live"))


def events(models: Any, request: Any, cache: Any = None) -> list[Event]:
    """All that a job gives. Without a ``cache`` nothing of it is kept on disk."""
    return list(run(Context(models, cache), request))


def done(models: Any, request: Any, cache: Any = None) -> Done:
    """The result of a job run to its end."""
    event = None
    for event in run(Context(models, cache), request):  # noqa: B007, only the last one counts
        pass
    assert isinstance(event, Done), event
    return event
