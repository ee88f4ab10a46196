"""The heart: walk a picture along the noise axis. Nothing here knows a network, a method or a page.

Everything is in sigma scale: x = x0 + σ·eps. ``denoise(x, σ)`` is the clean picture in mind, x0 (as k-diffusion has it,
Karras et al. 2022): eps = (x − x0)/σ, and an Euler step is exactly a DDIM step with η = 0 (Song et al. 2020, eq. 12).
Falling sigmas denoise; `invert` finds where such a walk began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]  # (x, σ) → x0, both (B, C, h, w)
StepRule = Callable[[Tensor, Tensor, float, float], Tensor]  # (x, x0, σ, next σ) → x at the next σ
Noise = Callable[[], Tensor]
ITERATIONS = 1  # of `invert`: flora then comes back within .007 of its deviation in 50 steps, .016 in 30, .06 in 12


class Step(NamedTuple):
    """After one step: the clean picture in mind and the state, both (B, C, h, w)."""

    x0: Tensor
    x: Tensor


def euler(x: Tensor, x0: Tensor, s: float, s_next: float) -> Tensor:
    return x0 + (s_next / s) * (x - x0)


def sample(denoise: Denoise, x: Tensor, sigmas: Sequence[float], step: StepRule = euler) -> Iterator[Step]:
    """Walks ``x`` (B, C, h, w) down falling ``sigmas`` and shows every step."""
    for s, s_next in pairwise(sigmas):
        x0 = denoise(x, s)
        yield Step(x0, x=(x := step(x, x0, s, s_next)))


def invert(denoise: Denoise, x: Tensor, sigmas: Sequence[float], iterations: int = ITERATIONS) -> Iterator[Step]:
    """Walks a clean ``x`` (B, C, h, w) up rising ``sigmas``, from 0, to the noise of which `sample` makes it again.

    Every step is solved for the x' from which an Euler step leads to x, by fixed-point iterations of one evaluation
    each (Pan et al. 2023, arXiv 2309.04907; Garibi et al. 2024, *ReNoise*, arXiv 2403.14602), the first of which begins
    where the last step's v leads. A `Step` an evaluation. It is done on the unit circle (Salimans & Ho 2022, app. D:
    σ = tan φ, and an Euler step turns x/√(1+σ²) by −δ towards v), where no level is too small or too large for it.
    """
    v = torch.zeros_like(x)
    for s, up in pairwise(sigmas):
        turn = math.atan(up) - math.atan(s)
        here, c = x / (1 + s * s) ** 0.5, 1 / (1 + up * up) ** 0.5
        x = (math.cos(turn) * here + math.sin(turn) * v) / c
        for _ in range(iterations):
            x0 = denoise(x, up)
            v = (c * c * x - x0) / (up * c)
            yield Step(x0, x=(x := (here + math.sin(turn) * v) / (math.cos(turn) * c)))


def ancestral(eta: float, generators: Sequence[torch.Generator]) -> StepRule:
    """Euler with fresh noise: DDIM's η (Song et al. 2020, eq. 16) in sigma scale; one CPU generator a row."""

    def step(x: Tensor, x0: Tensor, s: float, s_next: float) -> Tensor:
        # σ̃² = η²(1−ā')/(1−ā)·(1−ā/ā') in VP scale; divided by ā', with ā = 1/(1+s²), it is the line below.
        up = eta * (s_next / s) * max(0.0, s**2 - s_next**2) ** 0.5
        x = euler(x, x0, s, (s_next**2 - up**2) ** 0.5)
        return x + up * gaussian(x.shape[1:], generators).to(x) if up > 0 else x

    return step


def lcm_step(generators: Sequence[torch.Generator]) -> StepRule:
    """The clean picture in mind, with fresh noise of the next sigma: how consistency models jump (Song et al. 2023,
    algorithm 1; Luo et al. 2023); one CPU generator a row."""

    def step(x: Tensor, x0: Tensor, s: float, s_next: float) -> Tensor:
        return x0 + s_next * gaussian(x.shape[1:], generators).to(x) if s_next else x0

    return step


def masked_step(step: StepRule, z: Tensor, free_from: Tensor, noise: Noise) -> StepRule:
    """``step``, after which what is not yet free is ``z`` at the new sigma (SDEdit, algorithm 5, at level i − 1).

    ``free_from`` (1 or B, 1, h, w): the sigma from which a cell is free; 0 keeps it to the end. With one sigma for all
    that is a mask, with several a strength for every place (Levin & Fried 2023, *Differential Diffusion*).
    """

    def kept(x: Tensor, x0: Tensor, s: float, s_next: float) -> Tensor:
        return torch.where(free_from >= s - 1e-9, step(x, x0, s, s_next), z + s_next * noise())

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
