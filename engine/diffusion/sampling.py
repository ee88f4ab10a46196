"""The heart: walk a picture along the noise axis. Nothing here knows a network, a method or a page.

Everything is in sigma scale: x = x0 + σ·eps. With ``d = field(x, s)`` (eps at s = σ for Stable-Diffusion-like networks,
the velocity at s = t for flow networks) an Euler step is x + (s_next − s)·d, which for eps is exactly a DDIM step with
η = 0 (Song et al. 2020, eq. 12), and x − s·d is the clean picture in mind. Falling levels denoise; the same levels
reversed invert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]
StepRule = Callable[[Tensor, Tensor, float, float], Tensor]


class Step(NamedTuple):
    """After one step: the clean picture in mind and the state, both (B, C, h, w)."""

    x0: Tensor
    x: Tensor


def euler(x: Tensor, d: Tensor, s: float, s_next: float) -> Tensor:
    return x + (s_next - s) * d


def ancestral(eta: float, generators: Sequence[torch.Generator]) -> StepRule:
    """Euler with fresh noise: DDIM's η (Song et al. 2020, eq. 16) in sigma scale; one CPU generator a row."""

    def step(x: Tensor, d: Tensor, s: float, s_next: float) -> Tensor:
        # σ̃² = η²(1−ā')/(1−ā)·(1−ā/ā') in VP scale; divided by ā', with ā = 1/(1+s²), it is the line below.
        up = eta * (s_next / s) * max(0.0, s**2 - s_next**2) ** 0.5
        down = (s_next**2 - up**2) ** 0.5
        x = x + (down - s) * d
        return x + up * gaussian(x.shape[1:], generators).to(x) if up > 0 else x

    return step


def renoised(generators: Sequence[torch.Generator]) -> StepRule:
    """The clean picture in mind, with fresh noise of the next level: how consistency models jump (Song et al. 2023,
    algorithm 1; Luo et al. 2023); one CPU generator a row."""

    def step(x: Tensor, d: Tensor, s: float, s_next: float) -> Tensor:
        x = x - s * d
        return x + s_next * gaussian(x.shape[1:], generators).to(x) if s_next else x

    return step


def flow(field: Field, x: Tensor, levels: Sequence[float], step: StepRule = euler) -> Iterator[Step]:
    """Walks ``x`` (B, C, h, w) along ``levels`` and shows every step. Fall to denoise, rise to invert."""
    for s, s_next in pairwise(levels):
        d = field(x, s)
        yield Step(x0=x - s * d, x=(x := step(x, d, s, s_next)))


def keeping(step: StepRule, z: Tensor, own: Tensor, noise: Callable[[], Tensor]) -> StepRule:
    """``step``, after which what is not yet free is ``z`` at the new level (SDEdit, algorithm 5, at level i − 1).

    ``own`` (1 or B, 1, h, w): the level from which a cell is free; 0 keeps it to the end. With one level for all that
    is a mask, with several a strength for every place (Levin & Fried 2023, *Differential Diffusion*).
    """

    def kept(x: Tensor, d: Tensor, s: float, s_next: float) -> Tensor:
        return torch.where(own >= s - 1e-9, step(x, d, s, s_next), z + s_next * noise())

    return kept


def gaussian(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard noise (len(generators), *shape), drawn on the CPU: the same picture on any device."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])


def generator(*key: int) -> torch.Generator:
    """A CPU generator of its own for a (run, frame, candidate, …), so that any one frame can be made again."""
    state = 0x9E3779B97F4A7C15
    for part in key:
        state = (state ^ (part + 0x632BE59BD9B4E019)) * 0xBF58476D1CE4E5B9 % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state % 2**63)
