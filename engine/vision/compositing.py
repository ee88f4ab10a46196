"""Layers, masks and photographs brought to one frame, and results put back into their photograph.

Pictures are uint8 arrays (H, W, 3), masks float32 (H, W) 0 … 1, latents tensors (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from engine.requests import DrawRequest, EngineError
from engine.vision.drawing import faithfulness, feather, grow, lowpass, sketch_of, spread, strokes_of
from engine.vision.images import fit_frame

LEAST = 0.01  # a mask under this is not painted: rounding of soft brushes
SEAM, ALIKE, FEW = 16, 48, 64  # pixels; levels; pixels: of `match`
GAINS, SHIFT = (0.8, 1.25), 20  # what light does; more of either is another colour, and meant


@dataclass(frozen=True)
class Paint:
    """A layer at the size of the frame: its colours (H, W, 3) uint8, and where it is, (H, W) 0 … 1."""

    colour: np.ndarray
    alpha: np.ndarray

    def over(self, ground: np.ndarray) -> np.ndarray:
        a = self.alpha[..., None]
        return (a * self.colour + (1 - a) * ground).round().astype(np.uint8)


def paint(layer: Image.Image, size: tuple[int, int]) -> Paint:
    """A layer (RGBA) in a frame of ``size``, cropped as photographs are; its colours do not fade into what is clear."""
    block = np.asarray(_fit(layer.convert("RGBa"), size).convert("RGBA"))
    return Paint(block[..., :3], block[..., 3].astype(np.float32) / 255)


def scale(mask: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """A mask (L) in a frame of ``size``, cropped as photographs are, (H, W) 0 … 1."""
    small = np.asarray(_fit(mask, size), np.float32) / 255
    return np.where(small < LEAST, 0, small)


def _fit(layer: Image.Image, size: tuple[int, int]) -> Image.Image:
    way = Image.Resampling.BOX if layer.width > size[0] else Image.Resampling.BILINEAR
    return layer if layer.size == size else ImageOps.fit(layer, size, way)


def region(mask: Image.Image | None, alphas: Sequence[np.ndarray], around: float, size: tuple[int, int]) -> np.ndarray:
    """How much each pixel of a photograph may change, (H, W) 0 … 1: the mask, or what was painted and ``around`` it.

    EngineError if that is nothing."""
    if mask is not None:
        found, name = scale(mask, size), "mask"
    else:
        found, name = grow(np.maximum.reduce([np.where(a < LEAST, 0, a) for a in alphas]), around), "paint"
    if not found.any():
        raise EngineError(f"{name} must cover something at {size[0]} × {size[1]}, got nothing that would be seen")
    return found


@dataclass(frozen=True)
class Layers:
    """A request's layers at the size of the frame: what was drawn, and what the network is shown of it.

    ``lines`` and ``colours`` (H, W, 3) uint8; ``alpha`` (H, W) 0 … 1 is where colours count. ``photo`` and ``mask``: of
    a local edit.
    """

    sketch: Paint | None
    strokes: Paint | None
    lines: np.ndarray | None
    colours: np.ndarray | None
    alpha: np.ndarray
    photo: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def painted(self) -> np.ndarray:
        """Where something was drawn, (H, W) bool."""
        return np.maximum.reduce([p.alpha for p in (self.sketch, self.strokes) if p]) > LEAST

    def measure(self, picture: Image.Image) -> dict[str, float]:
        """How far a picture is from its drawing (`engine.vision.drawing.faithfulness`)."""
        lines = self.lines[..., 0] if self.lines is not None and self.sketch else None
        paint, alpha = (self.colours, self.strokes.alpha) if self.strokes else (None, None)
        return faithfulness(np.asarray(picture), lines, paint, alpha)


def compose(r: DrawRequest, size: tuple[int, int]) -> Layers:
    """Brings a request's layers to the frame of ``size`` (width, height)."""
    sketch, strokes = (paint(p, size) if p else None for p in (r.sketch, r.strokes))
    white = np.full((size[1], size[0], 3), 255, np.uint8)
    lines = sketch.over(white) if sketch else None
    colours = spread(strokes.colour, strokes.alpha) if strokes else None
    alpha = strokes.alpha if strokes else np.zeros(white.shape[:2], np.float32)
    if r.photo is None:
        return Layers(sketch, strokes, _grey(lines), colours, alpha)
    photo = np.asarray(fit_frame(r.photo, size, "fit"))
    mask = region(r.mask, [p.alpha for p in (sketch, strokes) if p], r.around, size)
    # The photograph's own lines go on where nothing was drawn, and its colours where nothing was painted, so that the
    # edit grows out of what is there.
    own = np.repeat(sketch_of(photo)[..., None], 3, 2)
    over = np.maximum.reduce([grow(p.alpha, n) for p, n in ((sketch, r.around), (strokes, 0)) if p])
    own = np.where(over[..., None] > 0, white, own)
    lines = own if lines is None else np.minimum(own, lines)
    colours = strokes.over(strokes_of(photo)) if strokes else strokes_of(photo)
    return Layers(sketch, strokes, _grey(lines), colours, np.ones_like(alpha), photo, mask)


def _grey(lines: np.ndarray | None) -> np.ndarray | None:
    """The network has seen grey lines only."""
    if lines is None:
        return None
    return np.repeat(np.asarray(Image.fromarray(lines.astype(np.uint8)).convert("L"))[..., None], 3, 2)


def latent_grid(block: np.ndarray, factor: int, most: bool = False) -> Tensor:
    """(H, W) 0 … 1 → (1, 1, h, w), ``factor`` pixels a latent: of every cell the mean, or the ``most``."""
    pool = torch.nn.functional.max_pool2d if most else torch.nn.functional.avg_pool2d
    return pool(torch.from_numpy(block)[None, None], factor)


def without_coarse(noise: Tensor, s: float, painted: Tensor | float = 0.0) -> Tensor:
    """Noise (B, C, h, w) of sigma ``s`` to begin with, without its coarse part where nothing is ``painted``.

    The last level of a schedule still shows a picture's coarse colours (Lin et al. 2024, *Common diffusion noise
    schedules*): of pure noise the network would read patches of colour that nobody asked for. Eight cells a side by
    eye, over four drawings without colours; under paint the mean is enough.
    """
    coarse = (1 - painted) * lowpass(noise, min(8, max(noise.shape[2:]) // 4)) + painted * noise.mean(
        (2, 3), keepdim=True
    )
    return (noise - coarse) * (1 + s**2) ** 0.5


def match(made: np.ndarray, photo: np.ndarray, mask: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """What was ``made``, (H, W, 3), in the light of the photograph: of each channel mean and deviation (Reinhard et al.
    2001, *Color transfer between images*) as the photograph has them along the seam, (H, W, 3) float32 0 … 255.

    The seam is `SEAM` pixels inside ``mask`` (H, W), where nothing was ``painted`` (H, W, bool) and both still show
    about the same: what is new there keeps its colours. Where that is next to nothing it is `SEAM` pixels outside, of
    which the network made nothing but another copy; where there is none of it either, ``made`` stays as it is.
    In sRGB, which made seams as even as linear light did: over eight photographs a mean step of 9.0 levels for 15.7
    (masks), 5.3 for 10.2 (paint) and 3.4 for 10.4 (*Draw*); wider gains made it no better.
    """
    made, ground = made.astype(np.float32), photo.astype(np.float32)
    inside = mask > 0
    for side, own in ((inside, grow(painted, 4) == 0), (~inside, True)):
        band = side & own & (cv2.distanceTransform(np.uint8(side), cv2.DIST_L2, 5) <= SEAM)
        seen = cv2.GaussianBlur(np.float32(side), (0, 0), 2)[..., None].clip(1e-3)
        apart = cv2.GaussianBlur((made - ground) * side[..., None], (0, 0), 2) / seen
        band &= np.abs(apart).max(2) < ALIKE
        if band.sum() >= FEW:
            x, y = made[band], ground[band]
            gain = (y.std(0) / x.std(0).clip(1e-3)).clip(*GAINS)
            middle = x.mean(0) + (y.mean(0) - x.mean(0)).clip(-SHIFT, SHIFT)
            return (gain * (made - x.mean(0)) + middle).clip(0, 255)
    return made


def paste(
    pictures: list[Image.Image], photo: np.ndarray, mask: np.ndarray, edge: float, painted: np.ndarray | None = None
) -> list[Image.Image]:
    """The pictures inside ``mask`` (H, W), the photograph itself, to the last bit, outside; the edge is soft inside.

    Where it is told what was ``painted`` (H, W, bool) they take the photograph's light (`match`)."""
    w, blocks = feather(mask, edge)[..., None], [np.asarray(p) for p in pictures]
    if painted is not None:
        blocks = [match(block, photo, mask, painted) for block in blocks]
    return [Image.fromarray((w * block + (1 - w) * photo).round().astype(np.uint8)) for block in blocks]
