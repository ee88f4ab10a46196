"""Where the parts of one picture lie in another. Pure functions on tensors.

Positions are (x, y), fractions of the frame; a row of n cells has its centres at (i + ½)/n. At place u of the way,
0 … 1, a part that is at p in the first picture is at (1 − u)·p + u·f(p).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

LEAST = 0.1  # the least determinant of the map's Jacobian
RIDGE = 1e-3  # the variance that points must have across a line before they shear the picture
WAY = (0.25, 0.5, 0.75, 1.0)  # places at which no frame may fold
STEP = 1e-4  # of differences
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.0)
Size = tuple[int, int]  # (h, w) of a latent
Field = Callable[[Tensor], Tensor]  # positions (n, 2) → (n, 2)


@dataclass(frozen=True)
class Warp:
    """f, from positions in the first picture to positions in the second, both (n, 2) float64.

    ``affine`` (3, 2): [x, y, 1] @ affine. ``bend``: what it does on top of that; beyond the frame as at its edge.
    ``trust`` (h, w), 0 … 1: how surely fine structure goes along, by the cells of the first picture; None: surely.
    ``share``: how much of what would have been exact is left, so that nothing folds.
    """

    affine: Tensor
    bend: Field | None = None
    trust: Tensor | None = None
    share: float = 1.0

    def __call__(self, p: Tensor) -> Tensor:
        out = p @ self.affine[:2] + self.affine[2]
        return out + self.bend(p.clamp(0, 1)) if self.bend else out

    @property
    def still(self) -> bool:
        """Whether it moves nothing."""
        return self.bend is None and torch.equal(self.affine, torch.eye(3, 2, dtype=torch.float64))

    def jacobian(self, p: Tensor) -> Tensor:
        """(n, 2, 2) at positions (n, 2): row i is how f changes along axis i."""
        steps = STEP * torch.eye(2, dtype=p.dtype)
        return torch.stack([(self(p + d) - self(p - d)) / (2 * STEP) for d in steps], 1)

    def least(self, p: Tensor) -> float:
        """The least determinant at positions (n, 2), of f and of the ways to it."""
        (a, b), (c, d) = (row.unbind(1) for row in self.jacobian(p).unbind(1))
        det, trace = a * d - b * c, a + d
        return min(float(((1 - u) ** 2 + u * (1 - u) * trace + u * u * det).min()) for u in WAY)

    def origin(self, m: Tensor, u: float) -> Tensor:
        """Where in the first picture that is which stands at m (n, 2) at place u: (n, 2), by Newton's method."""
        if not u:
            return m
        p, one = m.clone(), torch.eye(2, dtype=m.dtype)
        for _ in range(20):
            miss = (1 - u) * p + u * self(p) - m
            if miss.abs().max() < 1e-7:
                break
            (a, b), (c, d) = (row.unbind(1) for row in ((1 - u) * one + u * self.jacobian(p)).unbind(1))
            # The inverse of a Jacobian whose rows are derivatives; no step is a leap.
            x, y = miss.unbind(1)
            step = torch.stack([d * x - c * y, a * y - b * x], 1) / (a * d - b * c)[:, None]
            p = p - step.clamp(-0.2, 0.2)
        return p

    def look(self, size: Size, u: float, *places: float) -> tuple[list[Tensor], Tensor]:
        """For the cells of a frame at place u: where each is in what stands at each of ``places``, (h, w, 2), and how
        surely fine structure goes along, (1, 1, h, w)."""
        p = self.origin(centres(size).flatten(0, 1), 0.0 if self.still else u)
        end = p if self.still else self(p)
        surely = torch.ones(size) if self.trust is None else sampled(self.trust[None], p)[:, 0]
        return [torch.lerp(p, end, v).unflatten(0, size) for v in places], surely.reshape(1, 1, *size)


def identity() -> Warp:
    return Warp(torch.eye(3, 2, dtype=torch.float64))


def centres(size: Size) -> Tensor:
    """(h, w, 2) positions of the cells, float64."""
    y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in size)
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)


def between(size: Size) -> Tensor:
    """(n, 2) positions of the cells, of their edges and corners: where a map is looked at for folds."""
    y, x = (torch.linspace(0, 1, 2 * n + 1, dtype=torch.float64) for n in size)
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).flatten(0, 1)


def sampled(field: Tensor, p: Tensor) -> Tensor:
    """A field (c, h, w) at positions (n, 2), bilinear between its cells: (n, c)."""
    grid = (2 * p - 1)[None, None].to(field)
    return grid_sample(field[None], grid, padding_mode="border", align_corners=False)[0, :, 0].T


# ------------------------------------------------------------------------------------------------ from points


def of_points(points: Tensor, size: Size, base: Warp | None = None) -> Warp:
    """The map that carries (x0, y0) to (x1, y1) of each of ``points`` (n, 4), for latents of ``size``.

    Of one point a translation, of two a similarity, of more an affine map and a thin-plate spline (Bookstein 1989)
    that is nothing in the corners; with a ``base``, that map and the spline of what it misses. What would fold, a
    Jacobian's determinant under `LEAST`, has its spline halved until it does not.
    """
    if not len(points):
        return base or identity()
    points, where = points.double(), between(size)
    side = torch.tensor([size[1], size[0]], dtype=torch.float64) / max(size)  # positions to equal units
    start, end = points[:, :2], points[:, 2:]
    if base is None and torch.equal(start, end):
        return identity()
    if base is None:
        kinds = (affine, similarity, translation)[max(0, 3 - len(points)) :]
        fits = (Warp(in_units(fit(start * side, end * side), side)) for fit in kinds)
        base = next(w for w in fits if w.least(where) >= LEAST)
    missed = end - base(start)
    if missed.abs().max() < 1e-12:
        return base
    mend = spline(start * side, missed, side)
    return unfolded(base, lambda p: mend(p * side), where)


def unfolded(base: Warp, more: Field, where: Tensor) -> Warp:
    """``base`` and the largest share (1, ½, ¼ …) of ``more`` with which nothing folds at positions (n, 2)."""

    def with_share(share: float) -> Warp:
        own = base.bend
        return replace(base, bend=lambda p: share * more(p) + (own(p) if own else 0), share=share)

    whole = (with_share(share) for share in SHARES if share)
    return next((w for w in whole if w.least(where) >= LEAST), replace(base, share=0.0))


def in_units(m: Tensor, side: Tensor) -> Tensor:
    """An affine map (3, 2) between positions times ``side`` → between positions."""
    return torch.cat([side[:, None] * m[:2], m[2:]]) / side


def translation(start: Tensor, end: Tensor, w: Tensor | None = None) -> Tensor:
    """(3, 2): the shift that brings ``start`` nearest to ``end``, both (n, 2), under weights ``w`` (n,)."""
    a, b = mean(start, w), mean(end, w)
    return torch.cat([torch.eye(2, dtype=a.dtype), (b - a)[None]])


def similarity(start: Tensor, end: Tensor, w: Tensor | None = None) -> Tensor:
    """(3, 2): shift, turn and size, by least squares; complex numbers say all three."""
    a, b = mean(start, w), mean(end, w)
    x, y = (torch.view_as_complex((v - m).contiguous()) for v, m in ((start, a), (end, b)))
    w = torch.ones(len(start), dtype=a.dtype) if w is None else w
    z = (w * x.conj() * y).sum() / (w * (x.conj() * x).real).sum().clamp(min=1e-12)
    linear = torch.stack([torch.stack([z.real, z.imag]), torch.stack([-z.imag, z.real])])
    return torch.cat([linear, (b - a @ linear)[None]])


def affine(start: Tensor, end: Tensor, w: Tensor | None = None) -> Tensor:
    """(3, 2), by least squares; across a line on which the points nearly lie it is the similarity."""
    near, a = similarity(start, end, w), mean(start, w)
    w = (torch.ones(len(start), dtype=a.dtype) if w is None else w)[:, None]
    x, rest = start - a, end - start @ near[:2] - near[2]
    more = torch.linalg.solve((w * x).T @ x / w.sum() + RIDGE * torch.eye(2, dtype=x.dtype), (w * x).T @ rest / w.sum())
    return near + torch.cat([more, -(a @ more)[None]])


def mean(x: Tensor, w: Tensor | None = None) -> Tensor:
    return x.mean(0) if w is None else (w[:, None] * x).sum(0) / w.sum().clamp(min=1e-12)


def spline(start: Tensor, values: Tensor, frame: Tensor) -> Field:
    """The thin-plate spline of ``values`` (n, 2) at ``start`` (n, 2), which is nothing in the corners of a ``frame``
    (2,), unless a point is near one."""
    corners = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64) * frame
    corners = corners[torch.cdist(corners, start).amin(1) > 0.1]
    at, values = torch.cat([start, corners]), torch.cat([values, values.new_zeros(len(corners), 2)])
    n, flat = len(at), torch.cat([torch.ones(len(at), 1, dtype=at.dtype), at], 1)
    system = torch.zeros(n + 3, n + 3, dtype=at.dtype)
    system[:n, :n], system[:n, n:], system[n:, :n] = _plate(at, at), flat, flat.T
    weights = torch.linalg.lstsq(system, torch.cat([values, values.new_zeros(3, 2)]), driver="gelsd").solution
    return lambda p: _plate(p, at) @ weights[:n] + weights[n] + p @ weights[n + 1 :]


def _plate(p: Tensor, at: Tensor) -> Tensor:
    """r² log r² between positions (n, 2) and (m, 2)."""
    square = (p[:, None] - at).square().sum(2)
    return square * square.clamp(min=1e-24).log()
