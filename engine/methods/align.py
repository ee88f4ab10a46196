"""Parts that move instead of ghosting: the map of every joint, and what is moved along it.

A joint is a way from one picture to the next. Its map comes of the points that a person put and, if that is asked for,
of the network's own features; what stands at one place of the way is moved to where it belongs at another.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from engine.context import Advance, Context
from engine.diffusion import correspondence, transport, warp
from engine.diffusion.geometry import lerp
from engine.diffusion.warp import Size, Warp
from engine.diffusion.words import Words

Row = tuple[int, float]  # a joint, and how far along it, 0 … 1


@dataclass
class Alignment:
    """The map of every joint, for latents of ``size``; without any, or with one that is still, nothing moves."""

    size: Size
    warps: list[Warp] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not all(w.still for w in self.warps)

    def bring(self, z: Tensor, joint: int, stands: float, to: float) -> Tensor:
        """Clean latents ``z`` (B, C, h, w) of what stands at one place of a joint, moved to another place of it."""
        if not self or stands == to or (f := self.warps[joint]).still:
            return z
        (places,), trust = f.look(self.size, to, stands)
        return transport.moved(z, places[None], None if f.trust is None else trust)

    def rows(self, rows: Sequence[Row], ends: Sequence[tuple[int, int]]) -> Moves | None:
        """What brings both pictures to the place of each row; ``ends``: which pictures these are."""
        return Moves([self.warps[k] for k, _ in rows], [u for _, u in rows], ends, self.size) if self else None


@dataclass
class Moves:
    """What brings the pictures of n rows to their places: maps, places, and numbers of both pictures."""

    warps: Sequence[Warp]
    places: Sequence[float]
    ends: Sequence[tuple[int, int]]
    size: Size

    def __post_init__(self) -> None:
        self._looks: dict[Size, list[tuple[list[Tensor], Tensor]]] = {}

    def looks(self, size: Size) -> list[tuple[list[Tensor], Tensor]]:
        """`Warp.look` of every row into its first and second picture, with so many cells."""
        if size not in self._looks:
            self._looks[size] = [w.look(size, u, 0.0, 1.0) for w, u in zip(self.warps, self.places, strict=True)]
        return self._looks[size]

    def noise(self, z: Tensor, end: int) -> Tensor:
        """The noises ``z`` (n, C, h, w) of each row's first (0) or second (1) picture, moved."""
        places = [found[end][None] for found, _ in self.looks(self.size)]
        return torch.cat([transport.moved_noise(*pair) for pair in zip(z.split(1), places, strict=True)])

    def blend(self, kept: Tensor, first: int, rows: int) -> Tensor:
        """Features kept of all pictures (K, tokens, c) → (rows, tokens, c), the mix of both pictures of the ``rows``
        from ``first``, each moved to the row's place."""
        level = round(math.log(self.size[0] * self.size[1] / kept.shape[1], 4))
        size = self.size[0] >> level, self.size[1] >> level
        pictures, out = kept.mT.unflatten(2, size), []
        for i in range(first, first + rows):
            (places, _), pair = self.looks(size)[i], self.ends[i]
            a, b = (transport.bring(pictures[[k]], p[None]) for k, p in zip(pair, places, strict=True))
            out.append(lerp(a, b, self.places[i]))
        return torch.cat(out).flatten(2).mT


def find(
    context: Context,
    r: Any,
    pictures: Sequence[Image],
    joints: Sequence[tuple[int, int]],
    z: Tensor,
    words: Words,
    first: int = 0,
) -> Generator[Advance, None, Alignment]:
    """The maps of a request's ``joints``, pairs of numbers of its ``pictures`` as they were given.

    ``z`` (n, C, h, w) and ``words`` (n rows): these pictures' latents and words. ``first``: how many pictures came
    before these, for the notes.
    """
    size = (z.shape[2], z.shape[3])
    out = Alignment(size)
    if r.align == "off":
        if any(r.points):
            out.notes.append("the points move nothing while Move parts (align) is off")
        return out
    points = [*r.points, *[()] * (len(joints) - len(r.points))]
    seen: list[Tensor] = []
    grid = correspondence.grid_of(size)
    if r.align == "automatic":
        yield Advance("looking for the parts of the pictures")
        seen = list(correspondence.described(correspondence.features(context.model, z, words), grid))
        rows = 1 if getattr(r, "guidance", 1) == 1 else 2  # which the bar counts for every step
        yield Advance("looking for the parts of the pictures", steps=correspondence.DRAWS * len(z) / rows)
    frame = size[1] * context.model.vae_scale_factor, size[0] * context.model.vae_scale_factor
    stops = first + len(joints) + (not getattr(r, "loop", False))
    for n, (a, b) in enumerate(joints):
        base = None
        if seen:
            match = correspondence.matched(seen[a], seen[b], grid)
            base = correspondence.regular(match, grid, size)
        put = in_frame(points[n], pictures[a], pictures[b], frame, r.fit)
        out.warps.append(warp.of_points(put, size, base))
        where = f"from picture {first + n + 1} to {(first + n + 1) % stops + 1}"
        out.notes += said(r, where, len(points[n]), len(put), out.warps[-1], base)
    return out


def said(r: Any, where: str, given: int, inside: int, whole: Warp, base: Warp | None) -> list[str]:
    """Notes on one joint's map."""
    out = []
    if given > inside:
        out.append(f"{given - inside} of {given} points {where} lie in what the frame leaves out")
    if inside == 1 and base is None:
        out.append(f"the one point {where} moves the picture as a whole")
    if base is not None:
        moving = 0.0 if base.trust is None else float(base.trust.mean())
        text = f"{where} the network knows where {moving:.0%} of the picture goes"
        out.append(text if moving else f"{where} the pictures show nothing that the network finds in both")
    if inside and whole.share < 1:
        text = f"the points {where} are followed by {whole.share:.0%} only, for they would fold the picture"
        out.append(text if whole.share else f"the points {where} are followed as a whole only: they would fold it")
    if not inside and base is None:
        out.append(f"{where} there are no points, so nothing moves there")
    return out


def in_frame(points: Sequence[Sequence[float]], a: Image, b: Image, frame: tuple[int, int], fit: str) -> Tensor:
    """Points (n, 4), fractions of two pictures as they were given → fractions of the frame; those that both show."""
    if not points:
        return torch.zeros(0, 4, dtype=torch.float64)
    p = torch.tensor(points, dtype=torch.float64)
    p = torch.cat([shown(side, q.size, frame, fit) for side, q in zip(p.split(2, 1), (a, b), strict=True)], 1)
    return p[((p >= 0) & (p <= 1)).all(1)]


def shown(p: Tensor, picture: tuple[int, int], frame: tuple[int, int], fit: str) -> Tensor:
    """Positions (n, 2) in a picture (width, height) where `images.fit_frame` puts them in a frame."""
    if picture == frame:
        return p
    own, whole = (torch.tensor(s, dtype=p.dtype) for s in (picture, frame))
    scale = (whole / own).min() if fit == "pad" else (whole / own).max()
    return ((whole - own * scale) / 2 + p * own * scale) / whole
