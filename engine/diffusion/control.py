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

PALETTE_CELL = 64  # pixels of one colour in what the colour controls are shown


@dataclass
class ControlInput:
    """What a control is shown: pictures (B or 1, 3, H, W) in [0, 1], and how strongly (a number, or (B,))."""

    picture: Tensor
    scale: float | Tensor = 1.0
    features: list[Tensor] = field(default_factory=list)  # of an adapter, made once

    def scales(self, n: int) -> Tensor:
        """(n,) float32."""
        if isinstance(self.scale, Tensor):
            return self.scale.float().cpu().expand(n)
        return torch.full((n,), self.scale)


def adapts(module: Any) -> bool:
    """Whether it looks at its picture once (an adapter), not at every step (a ControlNet)."""
    return not hasattr(module, "controlnet_cond_embedding")


def palette(picture: Tensor) -> Tensor:
    """(B, 3, H, W) as the colour controls were shown it in training: one colour a cell of `PALETTE_CELL` pixels."""
    size = picture.shape[2:]
    cells = [max(1, n // PALETTE_CELL) for n in size]
    small = torch.nn.functional.interpolate(picture, cells, mode="bicubic", antialias=True).clamp(0, 1)
    return torch.nn.functional.interpolate(small, size, mode="nearest")


def residuals(
    controls: Mapping[str, Any], inputs: Sequence[Mapping[str, ControlInput]], n: int, dtype: torch.dtype
) -> Callable[[int, Tensor, Tensor, dict[str, Any]], dict[str, Any]]:
    """(first row, rows of latents, their timesteps, what the UNet sees of their words) → what it takes besides.

    ``inputs``: of each guidance row; each has ``n`` pictures.
    """
    names = sorted({name for own in inputs for name in own})
    none = torch.zeros(n)
    scales = {name: torch.cat([own[name].scales(n) if name in own else none for own in inputs]) for name in names}

    def steer(first: int, part: Tensor, times: Tensor, seen: dict[str, Any]) -> dict[str, Any]:
        around: list[Tensor] = []  # a ControlNet's, of the blocks down and of the middle
        inside: list[Tensor] = []  # an adapter's
        for name in names:
            strength = scales[name][first : first + len(part)]
            live = strength.nonzero().flatten()
            if not len(live):
                continue
            weights = strength[live].to(part).view(-1, 1, 1, 1)
            shown = [(inputs[row][name], k) for row, k in (divmod(first + int(i), n) for i in live)]
            if adapts(controls[name]):
                inside = _add(inside, _adapter(controls[name], shown, part, weights), live, len(part))
            else:
                own = times[live] if times.ndim else times
                found = _controlnet(controls[name], shown, part[live], own, _only(live, seen), dtype)
                around = _add(around, [weights * f for f in found], live, len(part))
        out: dict[str, Any] = {}
        if around:
            out["down_block_additional_residuals"] = around[:-1]
            out["mid_block_additional_residual"] = around[-1]
        return out | ({"down_intrablock_additional_residuals": inside} if inside else {})

    return steer


def _adapter(module: Any, shown: Sequence[tuple[ControlInput, int]], like: Tensor, weights: Tensor) -> list[Tensor]:
    for given, _ in shown:
        if not given.features:
            given.features = module(given.picture.to(like.device, like.dtype))
    rows = [[_one(f, k) for f in given.features] for given, k in shown]
    return [weights * torch.stack(f) for f in zip(*rows, strict=True)]


def _controlnet(
    module: Any,
    shown: Sequence[tuple[ControlInput, int]],
    x: Tensor,
    times: Tensor,
    seen: dict[str, Any],
    dtype: torch.dtype,
) -> list[Tensor]:
    for given, _ in shown:  # once for all steps
        given.picture = given.picture.to(x.device, dtype)
    pictures = torch.stack([_one(given.picture, k) for given, k in shown])
    down, mid = module(x, times, controlnet_cond=pictures, **seen, return_dict=False)
    return [*down, mid]


def _only(live: Tensor, seen: dict[str, Any]) -> dict[str, Any]:
    """What the rows ``live`` see."""
    return {k: _only(live, v) if isinstance(v, dict) else v[live] for k, v in seen.items()}


def _one(pictures: Tensor, k: int) -> Tensor:
    return pictures[k if len(pictures) > 1 else 0]


def _add(before: list[Tensor], more: list[Tensor], live: Tensor, total: int) -> list[Tensor]:
    """Residuals of the rows ``live`` on top of those of all ``total`` rows."""
    before = before or [m.new_zeros(total, *m.shape[1:]) for m in more]
    return [b.index_add(0, live.to(b.device), m) for b, m in zip(before, more, strict=True)]
