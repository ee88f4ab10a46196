"""Which part of one picture is which of another, by the network's own features.

Features are what leaves the decoder blocks while noisy pictures are denoised (DIFT, Tang et al. 2023, arXiv
2306.03881). They are matched by optimal transport (Sinkhorn; Cuturi 2013), and the matches become a smooth map
without folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, normalize, pad

from engine.diffusion import warp
from engine.diffusion.guidance import Conditioning
from engine.diffusion.sampling import gaussian, generator
from engine.diffusion.warp import Size, Warp
from engine.diffusion.words import Words

TIME, DRAWS = 261, 8  # the noise (of 1,000 levels) under which pictures are looked at, and how often
BLOCKS = (-3, -2)  # decoder blocks that are listened to, from the last one
MOST = 32  # cells a side that are matched
EPSILON, ROUNDS, REACH = 0.1, 100, 4  # Sinkhorn's; cells about a row's maximum that say where the match is
SHARP, CYCLE = 0.2, 1.5  # the least sharpness of a match, the most cells by which it may miss its way back
ANCHORS, ROBUST, HUBER = 64, 6, 2.5
SMOOTH = 3 / 32  # of the longer side: deviation of the Gaussian that smooths what is not affine


class Match(NamedTuple):
    """For every cell of the first picture: where it is in the second (n, 2), and how surely (n,), 0 … 1."""

    places: Tensor
    weights: Tensor


@torch.no_grad()
def features(
    model: Any, z: Tensor, words: Words, seed: int = 0, time: int = TIME, blocks: Sequence[int] = BLOCKS
) -> list[Tensor]:
    """What leaves ``blocks`` for each of the latents ``z`` (K, C, h, w) under its words (K rows): a (K, c, h', w')
    each, the mean over `DRAWS` noises, the same for all pictures."""
    parts: dict[int, list[Tensor]] = {b: [] for b in blocks}
    ups = model.unet.up_blocks
    chosen = {b: ups[max(b, -len(ups))] for b in blocks}
    hooks = [m.register_forward_hook(lambda m, a, out, b=b: parts[b].append(out.float())) for b, m in chosen.items()]
    training = model.schedule.training
    sigma = float(training[round(time / 1000 * (len(training) - 1))])
    noise = gaussian(z.shape[1:], [generator(seed, 7, i) for i in range(DRAWS)]).to(z)
    found: dict[int, list[Tensor]] = {b: [] for b in blocks}
    try:
        for one, own in zip(z.split(1), words.split(1), strict=True):
            model.denoiser([Conditioning(own)])(one + sigma * noise, sigma)
            for b in blocks:
                found[b].append(torch.cat(parts[b]).mean(0, keepdim=True))
                parts[b].clear()
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(found[b]) for b in blocks]


def grid_of(size: Size) -> Size:
    """The cells that are matched, for latents of ``size``: at most `MOST` a side."""
    shrink = min(1.0, MOST / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def described(found: Sequence[Tensor], size: Size) -> Tensor:
    """(K, n, c): features of the cells of ``size``, each block's of unit length."""
    rows = [interpolate(f, size, mode="bilinear", align_corners=False).flatten(2).mT for f in found]
    return torch.cat([normalize(r - r.mean(1, keepdim=True), dim=2) for r in rows], 2) / len(rows) ** 0.5


def matched(a: Tensor, b: Tensor, size: Size) -> Match:
    """Cells (n, c) of one picture found among those of another, of ``size`` (h, w) both.

    Each direction by itself; a match counts as far as it is sharp both ways and leads back to where it came from.
    """
    there, sharp = _barycentres(a, b, size)
    back, sharp_back = _barycentres(b, a, size)
    again = torch.stack([warp.sampled(_image(back[:, i : i + 1], size), there)[:, 0] for i in (0, 1)], 1)
    sharp_back = warp.sampled(_image(sharp_back[:, None], size), there)[:, 0]
    cells = torch.tensor([size[1], size[0]], dtype=there.dtype)
    cycle = ((again - warp.centres(size).flatten(0, 1)) * cells).norm(dim=1)
    weights = sharp * sharp_back * torch.exp(-(cycle**2) / (2 * (CYCLE / 2) ** 2))
    return Match(there, torch.where((cycle > CYCLE) | (sharp < SHARP), 0.0, weights))


def _image(rows: Tensor, size: Size) -> Tensor:
    """(n, c) by cells → (c, h, w)."""
    return rows.T.unflatten(1, size)


def _barycentres(a: Tensor, b: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Where each row of ``a`` lies among the cells of ``b``, (n, 2), and how sharply it is told, (n,)."""
    n = len(a)
    plan = sinkhorn(1 - a @ b.T)
    best, at = plan.max(1)
    sharp = ((n * n * best.double()).log() / math.log(n)).clamp(0, 1)
    spots = warp.centres(size).flatten(0, 1)
    cells = torch.tensor([size[1], size[0]], dtype=spots.dtype)
    near = torch.cdist(spots[at.cpu()] * cells, spots * cells) <= REACH
    weights = torch.where(near, plan.cpu().double(), 0.0)
    return weights @ spots / weights.sum(1, keepdim=True).clamp(min=1e-30), sharp.cpu()


def sinkhorn(cost: Tensor) -> Tensor:
    """The plan (n, m) that moves even marginals at least ``cost`` (n, m), 0 … 2, softened by `EPSILON`.

    Such costs need no logarithms: nothing is under e^(−2/ε).
    """
    kernel = torch.exp(-cost.float() / EPSILON)
    n, m = kernel.shape
    v = kernel.new_ones(m)
    for _ in range(ROUNDS):
        u = 1 / (n * (kernel @ v))
        v = 1 / (m * (u @ kernel))
    return u[:, None] * kernel * v


def regular(match: Match, grid: Size, size: Size) -> Warp:
    """A map without folds of the matches of ``grid``'s cells, for latents of ``size``: a robust affine map, and the
    rest of the matches smoothed. With fewer than `ANCHORS` sure ones (of 1,024 cells) it moves nothing."""
    where, start = warp.between(size), warp.centres(grid).flatten(0, 1)
    sure = match.weights > 0
    if sure.sum() < ANCHORS * len(start) / 1024:
        return Warp(warp.identity().affine, trust=torch.zeros(grid))
    side = torch.tensor([size[1], size[0]], dtype=torch.float64) / max(size)
    fits = (_robust(fit, start[sure], match.places[sure], match.weights[sure], side) for fit in KINDS)
    base = next(w for w in map(Warp, fits) if w.least(where) >= warp.LEAST)
    rest = torch.where(sure[:, None], match.places - base(start), 0.0)
    sigma = SMOOTH * max(grid)
    # Where few matches lie near, the affine map alone counts.
    density = _smooth(_image(match.weights[:, None], grid), sigma)
    field = _smooth(_image(match.weights[:, None] * rest, grid), sigma) / (density + 0.03)
    trust = (density[0] / density.max().clamp(min=1e-6)).clamp(0, 1).float()
    return warp.unfolded(Warp(base.affine, trust=trust), lambda p: warp.sampled(field, p), where)


KINDS = (warp.affine, warp.similarity, warp.translation)


def _robust(fit: Any, start: Tensor, end: Tensor, weights: Tensor, side: Tensor) -> Tensor:
    """The affine map of the surest third, refitted with less weight for those that it misses (Huber 1964)."""
    w = weights**2
    w = torch.where(w >= w.quantile(2 / 3), w, 0.0)
    own = w
    for _ in range(ROBUST):
        m = warp.in_units(fit(start * side, end * side, own), side)
        miss = ((end - Warp(m)(start)) * side).norm(dim=1)
        bound = HUBER * miss[w > 0].median().clamp(min=1e-4)
        own = w * (bound / miss.clamp(min=1e-9)).clamp(max=1)
    return m


def _smooth(x: Tensor, sigma: float) -> Tensor:
    """(c, h, w) under a Gaussian of deviation ``sigma`` cells; nothing lies beyond the frame."""
    reach = math.ceil(3 * sigma)
    line = torch.exp(-(torch.arange(-reach, reach + 1, dtype=x.dtype) ** 2) / (2 * sigma**2))
    line, x = line / line.sum(), pad(x[:, None], [reach] * 4)
    return conv2d(conv2d(x, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))[:, 0]
