"""Latents, noises and features moved along a map (`engine.diffusion.warp`). Pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, pad

from engine.diffusion.warp import centres

LOW = 3 / 32  # of the longer side, over which the low band is a mean
GAIN = 2.0  # the most by which what moving has smoothed is steepened again


def bring(x: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Features ``x`` (B, C, h, w), of which every cell is what was at ``places`` (B or 1, h, w, 2)."""
    if torch.equal(places, centres((x.shape[2], x.shape[3])).expand_as(places).to(places)):
        return x
    grid = (2 * places - 1).to(x).expand(len(x), -1, -1, -1)
    return grid_sample(x, grid, mode, padding_mode="border", align_corners=False)


def moved(z: Tensor, places: Tensor, trust: Tensor | None = None) -> Tensor:
    """The same of latents: T(z) = W(L) + t·W(H) + (1 − t)·H, with L the means over small squares and H the rest.

    Fine structure H goes along by ``trust`` t (B or 1, 1, h, w), and stays where it is as far as there is none (None:
    all goes). It keeps the deviation that it had where it comes from, or pictures would come out woven.
    """
    low, high = bands(z)
    found = bring(high, places, "bicubic")
    if found is high:
        return z
    gain = (bring(deviation(high), places) / deviation(found)).clamp(1, GAIN)
    n = window(z) // 2  # at the edge no two deviations are of the same cells
    found = found * pad(gain[..., n:-n, n:-n], [n] * 4, mode="replicate")
    t = 1.0 if trust is None else trust.to(z)
    return bring(low, places) + t * found + (1 - t) * high


def deviation(x: Tensor) -> Tensor:
    """How far ``x`` (B, C, h, w), of no low band, goes about each cell: the root mean square over small squares."""
    return band(x.square()).clamp(min=1e-8).sqrt()


def moved_noise(z: Tensor, places: Tensor) -> Tensor:
    """The same of noise, which is to stay white: whole cells go along, for means of several would have less deviation,
    and what comes from beyond the frame stays as it was, for copies of the edge would not be independent. Where things
    grow, cells are repeated, which strengthens the low band, and colours with it: both bands keep their deviation.
    """
    grid, inside = (2 * places - 1).to(z), ((places >= 0) & (places <= 1)).all(-1)[:, None].to(z.device)
    found = torch.where(inside, grid_sample(z, grid, mode="nearest", align_corners=False), z)
    if torch.equal(found, z):
        return z
    out = sum(now * (spread(was) / spread(now)) for was, now in zip(bands(z), bands(found), strict=True))
    return out * (spread(z) / spread(out))


def spread(x: Tensor) -> Tensor:
    """The standard deviation of each row, (B, 1, 1, 1)."""
    return x.std((1, 2, 3), keepdim=True)


def bands(z: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) taken apart: the low band, and the high band, fine structure."""
    low = band(z)
    return low, z - low


def band(z: Tensor) -> Tensor:
    """The low band of ``z`` (B, C, h, w): means over squares of `LOW` of the longer side."""
    n = window(z)
    return avg_pool2d(pad(z, [n // 2] * 4, mode="replicate"), n, 1)


def window(z: Tensor) -> int:
    """Cells a side of the small squares, an odd number."""
    return max(3, 2 * round((LOW * max(z.shape[2:]) - 1) / 2) + 1)
