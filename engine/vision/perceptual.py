"""How different two pictures look, without downloads: features of the resident network's own autoencoder.

The Euclidean distance between the features of the encoder's first stage (its first convolution, and the blocks there
where it has any), averaged over the picture. Nothing is learnt for it. It was chosen among all stages, normalised over
channels as in LPIPS (Zhang et al. 2018, eq. 1) or not, squared or not, by rank correlation with a learnt metric over
200 pairs (both of flora's encoders .888, the next best stage .82 and .86); ``python -m training report`` measures it on
others (.886 and .885; squared differences of pixels .848).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from engine.diffusion.model import LatentDiffusion


def features(model: LatentDiffusion, x: Tensor) -> Tensor:
    """(B, C, h, w) float32 features of pictures (B, 3, H, W) in [−1, 1]."""
    encoder = model.vae.encoder
    x = x.to(model.device, model.dtype, memory_format=torch.channels_last)
    return encoder.down_blocks[0](encoder.conv_in(x)).float()


def distance(model: LatentDiffusion, x: Tensor, y: Tensor) -> Tensor:
    """(B,) distances between pictures ``x`` and ``y``, both (B, 3, H, W) in [−1, 1]; 0 for equal ones.

    In units of the network's own features: distances of different networks do not compare.
    """

    def one(a: Tensor, b: Tensor) -> Tensor:
        p, q = features(model, torch.cat([a, b])).chunk(2)
        return (p - q).square().sum(1).sqrt().mean((1, 2))

    return model.with_pictures(one, x, y, share=2).cpu()


def steps(model: LatentDiffusion, x: Tensor) -> Tensor:
    """(B − 1,) distances between neighbours in the sequence ``x`` (B, 3, H, W)."""
    return distance(model, x[:-1], x[1:])


def arc(places: Sequence[float], lengths: Sequence[float]) -> list[float]:
    """The share of the whole way, 0 … 1, at each of ``places`` (n), whose neighbours are ``lengths`` (n − 1) apart.

    A way without length is walked evenly.
    """
    total = sum(lengths)
    if not total > 0:
        return [(p - places[0]) / (places[-1] - places[0]) for p in places]
    return [s / total for s in accumulate(lengths, initial=0.0)]


def even(places: Sequence[float], lengths: Sequence[float], frames: int) -> list[float]:
    """``frames`` places equally far apart in looks: the inverse of `arc`, piecewise straight (methods.md §2.2 D)."""
    shares = arc(places, lengths)
    out = []
    for i in range(frames):
        y = i / (frames - 1)
        k = max(1, min(bisect_left(shares, y), len(shares) - 1))
        a, b = shares[k - 1], shares[k]
        w = (y - a) / (b - a) if b > a else 0.0
        out.append(places[k - 1] + w * (places[k] - places[k - 1]))
    return out


def quality(
    model: LatentDiffusion, frames: Tensor, keys: Tensor, at: Sequence[int], loop: bool = False
) -> dict[str, float]:
    """How good a way through pictures is, against a plain cross-fade of the same.

    ``frames`` (N, 3, H, W) is the way, ``keys`` (K, 3, H, W) the pictures it should pass through at frames ``at``.
    ``length``: Σ of the distances between neighbours (PPL), ``variance``: of these distances (PDV), both as methods.md
    §2.5 has them, in the units of `distance`; ``ends``: mean distance of the frames ``at`` from their pictures.
    Empty where there is no memory for it: the way itself is finished by then, and must not be lost.
    """
    try:
        return _quality(model, frames, keys, at, loop)
    except ValueError as e:
        if "memory" not in str(e):
            raise
        return {}


def _quality(model: LatentDiffusion, frames: Tensor, keys: Tensor, at: Sequence[int], loop: bool) -> dict[str, float]:
    stops = list(pairwise(at)) + ([(at[-1], len(frames))] if loop else [])
    fade = []
    for k, (i, j) in enumerate(stops):
        w = torch.linspace(0, 1, j - i + 1, device=keys.device).view(-1, 1, 1, 1)[: j - i]
        fade.append(torch.lerp(keys[k], keys[(k + 1) % len(keys)], w))
    fade.append(keys[:1] if loop else keys[-1:])
    if loop:
        frames = torch.cat([frames, frames[:1]])
    way, faded = steps(model, frames), steps(model, torch.cat(fade))
    ends = distance(model, frames[list(at)], keys)
    found = {"length": way.sum(), "variance": way.var(correction=0), "ends": ends.mean()}
    found |= {"fade_length": faded.sum(), "fade_variance": faded.var(correction=0)}
    return {k: float(f"{float(v):.4g}") for k, v in found.items()}
