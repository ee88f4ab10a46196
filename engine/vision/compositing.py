"""Layers, masks and photographs brought to one frame, and results put back into their photograph.

Pictures are uint8 arrays (H, W, 3), masks float32 (H, W) 0 … 1, latents tensors (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from engine.requests import EngineError
from engine.vision.drawing import feather, grow, lowpass

LEAST = 0.01  # a mask under this is not painted: rounding of soft brushes


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


def paste(pictures: list[Image.Image], photo: np.ndarray, mask: np.ndarray, edge: float) -> list[Image.Image]:
    """The pictures inside ``mask`` (H, W), the photograph itself, to the last bit, outside; the edge is soft inside."""
    w = feather(mask, edge)[..., None]
    return [Image.fromarray((w * np.asarray(p) + (1 - w) * photo).round().astype(np.uint8)) for p in pictures]
