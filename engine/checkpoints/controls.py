"""ControlNets and T2I-Adapters that lie in folders: whether one is for this network, and unions of several as one each.

A union (xinsir's ControlNet++, for SDXL) sees many kinds of pictures and is told which; here each kind has its own view
of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.checkpoints import load
from engine.checkpoints.kinds import short
from engine.checkpoints.signs import WIDTHS
from engine.checkpoints.whole import check_weights, config, header, weights
from engine.requests import EngineError

TASKS = "task_embedding"  # a union's tensor, a row for each kind of pictures
SEES = {"pose": 0, "sketch": 2, "canny": 3, "tile": 6}  # the rows of ControlNet++; without "tile" in its first version


class Union(nn.Module):
    """A ControlNetUnionModel that is shown one kind of pictures, called as a ControlNetModel is."""

    def __init__(self, net: Any, row: int):
        super().__init__()
        self.net, self.row, self.config = net, row, net.config
        self.controlnet_cond_embedding = net.controlnet_cond_embedding

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, controlnet_cond: Tensor, **more):
        kinds = sample.new_zeros(len(sample), self.config.num_control_type)
        kinds[:, self.row] = 1
        shown = {"controlnet_cond": [controlnet_cond], "control_type": kinds, "control_type_idx": [self.row]}
        return self.net(sample, timestep, encoder_hidden_states=encoder_hidden_states, **shown, **more)


def control(folder: Path, dtype: torch.dtype, unet: Any, kind: str, name: str) -> Any:
    """What lies in ``folder`` for ``kind``, to steer the ``unet`` of the network ``name``. EngineError if it is for
    another network, or not whole: told before its weights are read."""
    said, refused = config(folder / "config.json"), f"control for {kind} must be for {short(name)}, got"
    width, own = said.get("cross_attention_dim"), unet.config.cross_attention_dim
    if width and width != own:
        raise EngineError(f"{refused} one for {WIDTHS.get(width, f'words {width} wide')}")
    if "Adapter" in said.get("_class_name", ""):
        xl, for_xl = unet.config.addition_embed_type == "text_time", said.get("adapter_type", "").endswith("_xl")
        if for_xl and not xl:
            raise EngineError(f"{refused} one for SDXL")
        if xl and not for_xl and len(said.get("channels", ())) > len(unet.config.block_out_channels):
            raise EngineError(f"{refused} one for Stable Diffusion 1 or 2")
    check_weights(folder, folder.parent.name)
    found = weights(folder)
    tasks = header(found.files[0], folder.name).get(TASKS) if found and found.safe else None
    if not tasks:
        return load.module(folder, dtype)
    rows = tasks["shape"][0]
    if SEES.get(kind, rows) >= rows:
        raise EngineError(f"control for {kind} must see such pictures, got a union that sees others")
    return Union(load.module(folder, dtype, "ControlNetUnionModel", num_control_type=rows), SEES[kind])
