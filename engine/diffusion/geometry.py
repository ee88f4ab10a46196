"""Ways between two points, and the order in which a path is filled. Pure functions on tensors and numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    """In float64; on the CPU where the device (MPS) has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def _rows(w: Tensor | float, like: Tensor) -> Tensor:
    """Weights (B,) or a number → (B, 1, …), to go with ``like`` (B, …)."""
    w = w.cpu().double() if isinstance(w, Tensor) else torch.tensor(w, dtype=torch.float64)
    return w.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def lerp(a: Tensor, b: Tensor, w: Tensor | float) -> Tensor:
    """Straight line from ``a`` (w = 0) to ``b`` (w = 1); a, b (B, …), ``w`` a number or (B,)."""
    x, y = _wide(a), _wide(b)
    return torch.lerp(x, y, _rows(w, x).expand_as(x)).to(a)


def slerp(a: Tensor, b: Tensor, w: Tensor | float) -> Tensor:
    """Great-circle way from ``a`` to ``b``, each row one flat vector (Shoemake 1985); a, b (B, …), w number or (B,).

    Computed in float64; rows that are nearly parallel (or zero) fall back to the straight line.
    """
    x, y = _wide(a).flatten(1), _wide(b).flatten(1)
    w = _rows(w, x)
    cos = (x * y).sum(1, keepdim=True) / (x.norm(dim=1, keepdim=True) * y.norm(dim=1, keepdim=True)).clamp(min=1e-12)
    angle = torch.acos(cos.clamp(-1, 1))
    sin = torch.sin(angle)
    near = sin.abs() < 1e-6
    safe = torch.where(near, torch.ones_like(sin), sin)
    round_way = (torch.sin((1 - w) * angle) * x + torch.sin(w * angle) * y) / safe
    return torch.where(near, (1 - w) * x + w * y, round_way).reshape(a.shape).to(a)


MIX = {"clean": slerp, "slerp": slerp, "lerp": lerp}  # of states; "clean" is told apart where there are clean ones


def adain(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Gives each row and channel of ``x`` (B, C, h, w) a ``mean`` and ``std`` (B, C, 1, 1) (Huang & Belongie 2017)."""
    own_std, own_mean = torch.std_mean(x, dim=(2, 3), keepdim=True, correction=0)
    return (x - own_mean) / (own_std + 1e-5) * std + mean


def noise_steps(levels: int, steps: int, low: float, high: float, schedule: str) -> list[int]:
    """How far each tree level walks up the noise, coarsest level first (methods.md §1.2).

    ``low`` and ``high`` are fractions of ``steps``. linear: even spacing; convex: x²; concave: √x. Every entry is in
    [1, steps − 1].
    """
    bend = {"linear": lambda x: x, "convex": lambda x: x * x, "concave": lambda x: x**0.5}[schedule]
    first, last = int(steps * low), int(steps * high)
    grid = [i / (levels - 1) if levels > 1 else 1.0 for i in range(levels)]
    rising = [first + bend(x) * (last - first) for x in grid]
    return [min(max(round(k), 1), steps - 1) for k in reversed(rising)]


def tree(frames: int) -> Iterator[tuple[int, list[int]]]:
    """Coarse to fine: (distance to the parents, frames of the level). 9 → (4, [4]), (2, [2, 6]), (1, [1, 3, 5, 7])."""
    distance = (frames - 1) // 2
    while distance:
        yield distance, list(range(distance, frames - 1, 2 * distance))
        distance //= 2
