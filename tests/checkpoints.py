"""Tiny checkpoints in the other formats that artists have: one file, half precision, ControlNet, adapter, LoRA."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, T2IAdapter, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.tiny import TOKENS, letters
from engine.checkpoints.resolve import resolve
from engine.requests import EngineError

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TEXTS = ("text_encoder", "text_encoder_2")
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def refused(name: Path | str, **more: Any) -> str:
    """The sentence with which a network is refused before anything of it is loaded."""
    with pytest.raises(EngineError) as e:
        resolve(str(name)).needs(**more)
    return str(e.value)


def changed(config: Path, **values: Any) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | values))


def sdxl(folder: Path, seed: int = 0) -> Path:
    """A tiny checkpoint of Stable Diffusion XL's classes and random weights, in the diffusers format: its levels and
    layers are named as the real one's are (level 0 without attention, two layers a level), 64 px."""
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(
            sample_size=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32, 32),
            transformer_layers_per_block=(1, 2, 2),
            attention_head_dim=(2, 4, 4),
            cross_attention_dim=16 + 32,  # the widths of both text encoders
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,  # the pooled words and six numbers
            norm_num_groups=8,
        ),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            scaling_factor=0.13025,
        ),
        "text_encoder": CLIPTextModel(_words(16, "quick_gelu")),
        "text_encoder_2": CLIPTextModelWithProjection(_words(32, "gelu")),
        "tokenizer": letters(),
        "tokenizer_2": letters(),
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
    }
    parts["tokenizer_2"].pad_token = "!"  # OpenCLIP's
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {n: ["transformers" if n[0] == "t" else "diffusers", type(part).__name__] for n, part in parts.items()}
    own = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(own | index), encoding="utf8")
    return folder


def _words(width: int, act: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(TOKENS),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        hidden_act=act,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=24,
        bos_token_id=len(TOKENS) - 2,
        eos_token_id=len(TOKENS) - 1,
        pad_token_id=len(TOKENS) - 1,
    )


def controlnet(network: Path, kind: str, seed: int = 1, folder: Path | None = None) -> Path:
    """A ControlNet for a tiny network, beside it in ``kind``; its zero convolutions are not zero."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(network / "unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    net.save_pretrained(folder or network / kind)
    return folder or network / kind


def adapter(network: Path, kind: str, seed: int = 2) -> Path:
    torch.manual_seed(seed)
    T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=8).save_pretrained(network / kind)
    return network / kind


def halved(network: Path, copy: Path) -> Path:
    """The same network with half-precision files only, as a download of ours leaves it."""
    shutil.copytree(network, copy)
    named = [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")]
    for part, name in named + [(t, "model") for t in TEXTS if (copy / t).is_dir()]:
        (copy / part / f"{name}.safetensors").rename(copy / part / f"{name}.fp16.safetensors")
    return copy


def cached(hub: Path, source: Any, folder: Path) -> None:
    """Puts the files of ``folder`` where the hub's client would have put them for ``source``."""
    place = hub / ("models--" + source.repos[0].replace("/", "--"))
    shutil.copytree(folder, place / "snapshots" / ("0" * 40), dirs_exist_ok=True)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text("0" * 40)


def single(network: Path, file: Path, openclip: bool = False) -> Path:
    """The same weights in one file under the names of the original Stable Diffusion code, its configs beside it.

    ``openclip``: the text encoder as Stable Diffusion 2 has it. SDXL's second is so, anyway.
    """
    out = {}
    unet = load_file(network / "unet" / "diffusion_pytorch_model.safetensors")
    for name, tensor in unet.items():
        out["model.diffusion_model." + original(name, network)] = tensor
    vae = load_file(network / "vae" / "diffusion_pytorch_model.safetensors")
    levels = len(json.loads((network / "vae" / "config.json").read_text())["block_out_channels"])
    for name, tensor in vae.items():
        old = _vae(name, levels)
        square = ".mid.attn_1." in old and old.endswith("weight") and tensor.ndim == 2
        out["first_stage_model." + old] = tensor[:, :, None, None].contiguous() if square else tensor
    if (network / "text_encoder_2").is_dir():
        out |= {f"conditioner.embedders.0.transformer.text_model.{n}": t for n, t in _text(network / TEXTS[0]).items()}
        out |= {f"conditioner.embedders.1.model.{n}": t for n, t in _openclip(_text(network / TEXTS[1])).items()}
    elif openclip:
        out |= {f"cond_stage_model.model.{n}": t for n, t in _openclip(_text(network / TEXTS[0])).items()}
    else:
        out |= {f"cond_stage_model.transformer.text_model.{n}": t for n, t in _text(network / TEXTS[0]).items()}
    save_file(out, file)
    shutil.copytree(network, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    return file


def _text(folder: Path) -> dict[str, torch.Tensor]:
    return {n.removeprefix("text_model."): t for n, t in load_file(folder / "model.safetensors").items()}


def _openclip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    own = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    out = {names[n]: t for n, t in text.items() if n in names}
    for n, t in text.items():
        if m := re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", n):
            if m[2] in own:
                out[f"transformer.resblocks.{m[1]}.{own[m[2]]}.{m[3]}"] = t
            elif m[2] == "self_attn.q_proj":
                three = [text[n.replace("q_proj", f"{p}_proj")] for p in "qkv"]
                out[f"transformer.resblocks.{m[1]}.attn.in_proj_{m[3]}"] = torch.cat(three)
    projection = text.get("text_projection.weight", torch.eye(out["token_embedding.weight"].shape[1]))
    return out | {"text_projection": projection.T.contiguous()}


def original(name: str, network: Path) -> str:
    """What the original code calls a layer of the UNet in that folder."""
    config = json.loads((network / "unet" / "config.json").read_text())
    n, attends = config["layers_per_block"], ["Attn" in block for block in config["up_block_types"]]
    for new, old in (("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2")):
        name = name.replace(new, old)
    name = name.replace("time_embedding.linear_1", "time_embed.0").replace("time_embedding.linear_2", "time_embed.2")
    name = re.sub("^conv_in", "input_blocks.0.0", name)
    name = re.sub("^conv_norm_out", "out.0", re.sub("^conv_out", "out.2", name))
    part = ("resnets", "attentions")

    def down(m: re.Match) -> str:
        return f"input_blocks.{1 + int(m[1]) * (n + 1) + int(m[3])}.{part.index(m[2])}"

    def up(m: re.Match) -> str:
        return f"output_blocks.{int(m[1]) * (n + 1) + int(m[3])}.{part.index(m[2])}"

    name = re.sub(r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)", down, name)
    name = re.sub(
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{(int(m[1]) + 1) * (n + 1)}.0.op", name
    )
    name = re.sub(r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)", up, name)
    name = re.sub(  # after the attention where the block has one
        r"^up_blocks\.(\d)\.upsamplers\.0\.conv",
        lambda m: f"output_blocks.{int(m[1]) * (n + 1) + n}.{1 + attends[int(m[1])]}.conv",
        name,
    )
    name = re.sub(r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", name)
    name = name.replace("mid_block.attentions.0", "middle_block.1")
    if re.match(r"(input|output|middle)_block", name) and "transformer_blocks" not in name:
        for new, old in RESNET.items():
            name = re.sub(rf"\.{new}\.", f".{old}.", name)
    return name


def _vae(name: str, levels: int) -> str:
    name = re.sub(r"(down|up)_blocks\.(\d)\.resnets\.(\d)", r"\1.\2.block.\3", name)
    name = re.sub(r"(down|up)_blocks\.(\d)\.(down|up)samplers\.0", r"\1.\2.\3sample", name)
    name = re.sub(r"decoder\.up\.(\d)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
    for new, old in VAE_ATTENTION.items():
        name = re.sub(rf"(mid\.attn_1)\.{re.escape(new)}\.", rf"\1.{old}.", name)
    return name.replace("conv_shortcut", "nin_shortcut")
