"""What the original code of Stable Diffusion calls a UNet's layers: kohya's and ComfyUI's LoRAs for SDXL do as well.

Its blocks are counted through (``input_blocks.4.1``), each with a resnet, an attention and what changes the size;
diffusers counts them by levels (``down_blocks.1.attentions.0``).
"""

from __future__ import annotations

import re

from torch import nn

HEADS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCK = re.compile(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def originals(unet: nn.Module) -> dict[str, str]:
    """The original names of a UNet2DConditionModel's layers → its own; empty where levels have layers of their own
    number, which the original code has not."""
    layers = getattr(getattr(unet, "config", None), "layers_per_block", None)
    if not isinstance(layers, int):
        return {}
    names = [n for n, m in unet.named_modules() if not any(m.children())]
    attends = {found[0] for n in names if (found := re.match(r"up_blocks\.\d+\.attentions", n))}
    return {_original(n, layers, attends): n for n in names}


def _original(name: str, layers: int, attends: set[str]) -> str:
    """``layers``: resnets a level going down; ``attends``: the levels going up that attend."""
    found = BLOCK.fullmatch(name)
    if not found:
        return HEADS.get(name, name)
    way, part, i, rest = found[1], found[3], int(found[4]), found[5]
    level, inside = int(found[2] or 0), RESNET.get(rest, rest) if part == "resnets" else rest
    if way == "mid":
        return f"middle_block.{1 if part == 'attentions' else 2 * i}.{inside}"
    if part == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
    if part == "upsamplers":  # after the attention, where there is one
        place = 1 + (f"up_blocks.{level}.attentions" in attends)
        return f"output_blocks.{level * (layers + 1) + layers}.{place}.conv"
    kind, first = ("input", 1) if way == "down" else ("output", 0)
    return f"{kind}_blocks.{first + level * (layers + 1) + i}.{int(part == 'attentions')}.{inside}"
