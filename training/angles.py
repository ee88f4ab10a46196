"""Noise levels as angles (Salimans & Ho 2022): x = cos φ·x0 + sin φ·ε, v = cos φ·ε − sin φ·x0.

A DDIM step is a turn of (x, v). Pure noise is φ = π/2, where sigma scale has no number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def angles(abar: Tensor) -> Tensor:
    """φ of every timestep (T,), float64; the first, where every sampler ends, is 0."""
    phi = abar.double().sqrt().acos()
    phi[0] = 0
    return phi


def at(phi: Tensor, t: Tensor) -> Tensor:
    """φ of timesteps (B,), whole or between two: (B, 1, 1, 1)."""
    low = t.long()
    return torch.lerp(phi[low], phi[(low + 1).clamp(max=len(phi) - 1)], (t - low).double()).view(-1, 1, 1, 1)


def turn(x: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The DDIM step of ``x`` (B, C, h, w) from the angle ``a`` to ``b``."""
    return ((a - b).cos() * x - (a - b).sin() * v).float()


def velocity_to(x: Tensor, landed: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The v whose one step from ``a`` to ``b`` < ``a`` takes ``x`` to ``landed``."""
    return (((a - b).cos() * x - landed) / (a - b).sin()).float()


def noised(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``x`` of the angle ``a`` under so much more noise that it is of the angle ``b`` ≥ ``a``."""
    keep = b.cos() / a.cos()
    more = (b.sin() ** 2 - (keep * a.sin()) ** 2).clamp(min=0).sqrt()
    return (keep * x + more * torch.randn_like(x)).float()


def walk(predict: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Sequence[Tensor], phi: Tensor) -> Tensor:
    """Where the path of ``predict``, (x, t) → v, leads along falling ``times``, (B,) each.

    DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); a last step to φ = 0 is DDIM's.
    """
    x0 = depth = None
    for t, then in pairwise(times):
        a, b = at(phi, t), at(phi, then)
        before, x0 = x0, a.cos() * x - a.sin() * predict(x, t)
        last, depth = depth, -a.tan().log()
        mean = x0
        if before is not None and last is not None:
            ahead = (-b.tan().log() - depth) / (2 * (depth - last))
            mean = x0 + torch.where(b > 0, ahead, 0.0) * (x0 - before)
        x = (b.sin() / a.sin() * x + (b.cos() - b.sin() * a.cos() / a.sin()) * mean).float()
    return x
