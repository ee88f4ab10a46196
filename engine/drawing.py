"""Drawings made from photographs: lines and flattened colours. Pixels are uint8 arrays here."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image


def sketch_of(photo: np.ndarray, coarseness: float = 1.6) -> np.ndarray:
    """Lines of a photograph, as a pen would draw them.

    ``photo`` (H, W, 3) uint8 → (H, W) uint8, dark lines on white. ``coarseness`` (0.8 … 4) is the width of the lines
    that are looked for, in pixels at 256. A difference of Gaussians with a soft threshold (XDoG, Winnemöller 2012).
    """
    grey = cv2.bilateralFilter(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), 7, 40, 5).astype(np.float32) / 255
    sigma = coarseness * max(photo.shape[:2]) / 256
    fine, wide = (cv2.GaussianBlur(grey, (0, 0), sigma * k) for k in (1.0, 1.6))
    contrast = cv2.GaussianBlur(np.abs(fine - wide), (0, 0), sigma * 12) + 0.006
    valley = np.clip((wide - fine) / contrast - 0.75, 0, None)
    return (255 * (1 - np.tanh(1.8 * valley))).astype(np.uint8)


def strokes_of(photo: np.ndarray, kernel: int = 23, colours: int = 6) -> np.ndarray:
    """Flat strokes of colour: a median filter and a small adaptive palette (SDEdit's simulator, its appendix).

    ``photo`` (H, W, 3) uint8 → the same shape. ``kernel``: odd, in pixels at 256; ``colours``: 2 … 64.
    """
    kernel = int(kernel * max(photo.shape[:2]) / 256) | 1
    flat = Image.fromarray(cv2.medianBlur(np.ascontiguousarray(photo), kernel))
    # The palette of a small copy is the same to the eye, and ten times cheaper to find.
    palette = flat.resize((64, 64), Image.Resampling.NEAREST).quantize(colours, method=Image.Quantize.MEDIANCUT)
    return np.asarray(flat.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB"))
