"""ControlNets and T2I-Adapters: what a row is shown steers it, as residuals that are added inside the UNet.

Zhang et al. 2023 (arXiv 2302.05543), Mou et al. 2023 (arXiv 2302.08453). A row that is shown nothing, or at strength 0,
gets residuals of 0 (Φ of DiSS on Stable Diffusion, methods.md §3.6 B), and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

GRID = 64  # pixels a cell of the colour adapter's palette


@dataclass
class Hint:
    """What a control is shown: pictures (B or 1, 3, H, W) in [0, 1], and how strongly (a number, or (B,))."""

    picture: Tensor
    scale: float | Tensor = 1.0
    features: list[Tensor] = field(default_factory=list)  # of an adapter, made once


def adapts(module: Any) -> bool:
    """Whether it looks at its picture once (an adapter), not at every step (a ControlNet)."""
    return not hasattr(module, "controlnet_cond_embedding")


def palette(picture: Tensor) -> Tensor:
    """(B, 3, H, W) as the colour controls were shown it in training: one colour a cell of `GRID` pixels."""
    size = picture.shape[2:]
    cells = [max(1, n // GRID) for n in size]
    small = torch.nn.functional.interpolate(picture, cells, mode="bicubic", antialias=True).clamp(0, 1)
    return torch.nn.functional.interpolate(small, size, mode="nearest")


def steering(controls: Mapping[str, Any], hints: Sequence[Mapping[str, Hint]], n: int, dtype: torch.dtype
             ) -> Callable[[int, Tensor, Tensor, Tensor], dict[str, Any]]:  # fmt: skip
    """(first row, rows of latents, their timesteps, their words) → what the UNet takes besides.

    ``hints``: of each guidance row; each has ``n`` pictures.
    """
    names = sorted({name for own in hints for name in own})
    scales = {name: torch.cat([_scale(own.get(name), n) for own in hints]) for name in names}

    def steer(first: int, part: Tensor, times: Tensor, text: Tensor) -> dict[str, Any]:
        down: list[Tensor] = []
        mid: Tensor | None = None
        inside: list[Tensor] = []
        for name in names:
            strength = scales[name][first : first + len(part)]
            live = strength.nonzero().flatten()
            if not len(live):
                continue
            module, where = controls[name], [divmod(first + int(i), n) for i in live]
            w = strength[live].to(part).view(-1, 1, 1, 1)
            shown = [(hints[r][name], k) for r, k in where]
            if adapts(module):
                found = [torch.stack(f) for f in zip(*(_features(module, h, part, k) for h, k in shown), strict=True)]
                inside = _added(inside, [w * f for f in found], live, len(part))
                continue
            for hint, _ in shown:  # once for all steps
                hint.picture = hint.picture.to(part.device, dtype)
            pictures = torch.stack([_one(h.picture, k) for h, k in shown])
            d, m = module(part[live], times[live] if times.ndim else times, encoder_hidden_states=text[live],
                          controlnet_cond=pictures, return_dict=False)  # fmt: skip
            *down, mid = _added([*down, mid] if mid is not None else [], [w * r for r in (*d, m)], live, len(part))
        out: dict[str, Any] = {}
        if mid is not None:
            out |= {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        if inside:
            out["down_intrablock_additional_residuals"] = inside
        return out

    return steer


def _scale(hint: Hint | None, n: int) -> Tensor:
    if hint is None:
        return torch.zeros(n)
    return hint.scale.float().cpu().expand(n) if isinstance(hint.scale, Tensor) else torch.full((n,), hint.scale)


def _one(pictures: Tensor, k: int) -> Tensor:
    return pictures[k if len(pictures) > 1 else 0]


def _features(module: Any, hint: Hint, like: Tensor, k: int) -> list[Tensor]:
    if not hint.features:
        hint.features = module(hint.picture.to(like.device, like.dtype))
    return [_one(f, k) for f in hint.features]


def _added(before: list[Tensor], more: list[Tensor], live: Tensor, total: int) -> list[Tensor]:
    """Residuals of the rows ``live`` on top of those of all ``total`` rows."""
    before = before or [m.new_zeros(total, *m.shape[1:]) for m in more]
    return [b.index_add(0, live.to(b.device), m) for b, m in zip(before, more, strict=True)]
