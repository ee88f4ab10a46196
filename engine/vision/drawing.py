"""Drawings: made from photographs (lines, flattened colours), their low-pass, their masks, how they are followed.

Pictures are uint8 arrays (H, W, 3) here, latents tensors (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


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


def darkest(rgb: np.ndarray) -> np.ndarray:
    """How light each pixel of a drawing is in the colour that it is darkest in, (H, W, 3) uint8 → (H, W) uint8.

    So yellow and red pencil are ink like black. The paper's own tint is taken out first.
    """
    level = np.median(rgb.reshape(-1, 3)[:: max(1, rgb.shape[0] * rgb.shape[1] // 250_000)], 0).clip(1)
    tables = [(np.arange(256) * k).clip(0, 255).round().astype(np.uint8) for k in (level.max() / level).clip(1, 2)]
    return np.minimum.reduce([tables[c][rgb[..., c]] for c in range(3)])


def ink_of(grey: np.ndarray) -> tuple[np.ndarray, bool]:
    """How much ink is on the paper, (H, W) uint8 → the same, and whether light lines on dark were turned round.

    On even paper ink is how much darker it is than the paper. On a photograph of paper the light is estimated, its
    noise and the table under it left aside. The darkest lines are full ink.
    """
    sheet = ~_table(grey)
    seen = grey[sheet].astype(np.float32)
    away = seen - np.median(seen)
    turned = float(np.median(seen)) < 128 and bool(np.maximum(away, 0).mean() > np.maximum(-away, 0).mean())
    g = 255 - grey if turned else grey
    near = np.convolve(np.bincount(g[sheet], minlength=256), np.ones(7), "same")
    level, most = 255 - int(near[::-1].argmax()), 90
    if near[level] >= 0.5 * len(seen):
        level, most = float(np.median(g[sheet & (np.abs(g.astype(int) - level) <= 3)])), 99
        light = np.full(g.shape, max(level, 1), np.float32)
    else:
        light = paper(g, sheet)
    ink = np.where(sheet, 1 - g / light, 0)
    blank = ink[sheet & (np.abs(ink) < 0.15)]
    noise = float(np.median(np.abs(blank))) if len(blank) else 0.0
    lines = ink[ink > max(0.04, 8 * noise)]
    full = float(np.percentile(lines, most)) if len(lines) > 1e-4 * ink.size else 1.0
    ink = _unruled(ink, sheet, full)
    floor = noise * (4 if full > 0.3 else 6)  # what is faint is drawn up, and with it what is left of the noise
    ink = (ink - floor) / max(full - floor, 0.06)
    return (ink.clip(0, 1) * 255).round().astype(np.uint8), turned


def _small(grey: np.ndarray, around: int = 255) -> np.ndarray:
    """At 128, with dark lines closed over; 0 ``around`` it keeps dark strips at the border."""
    w, h = (max(2, round(n * 128 / max(grey.shape))) for n in grey.shape[::-1])
    small = cv2.resize(grey, (w, h), interpolation=cv2.INTER_AREA)
    small = cv2.copyMakeBorder(small, 9, 9, 9, 9, cv2.BORDER_REPLICATE if around else cv2.BORDER_CONSTANT)
    return cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((9, 9)))[9:-9, 9:-9]


def _table(grey: np.ndarray) -> np.ndarray:
    """Where a photograph shows what the paper lies on, (H, W): dark, at the border, around one light sheet.

    A drawing made on a computer has none: its paper is of one value, and what is dark at its border was drawn.
    """
    none = np.zeros(grey.shape, bool)
    if np.bincount(grey.ravel()).max() > 0.3 * grey.size:
        return none
    small = _small(grey, 0)
    step = cv2.dilate(small, np.ones((5, 5))) / cv2.erode(small, np.ones((5, 5))).clip(1)
    found, best = none, 1.3
    for level in np.linspace(0.15, 0.65, 11) * np.percentile(small, 90):
        _, parts = cv2.connectedComponents((small <= level).astype(np.uint8))
        edge = set(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])) - {0}
        table = np.isin(parts, [i for i in edge if np.mean(parts == i) > 0.005]).astype(np.uint8)
        sheet = cv2.morphologyEx(1 - table, cv2.MORPH_OPEN, np.ones((15, 15)))
        rim = (cv2.dilate(table, np.ones((3, 3))) > table) & (sheet > 0)
        # A sheet is one piece and light, and ends at once: shadows and the fall of light do not.
        whole = sheet.mean() > 0.15 and sheet.sum() > 0.8 * (1 - table).sum() and np.median(small[sheet > 0]) > level
        if table.any() and whole and rim.any() and (sharp := np.percentile(step[rim], 10)) > best:
            found, best = cv2.dilate(1 - sheet, np.ones((5, 5))), sharp
    return cv2.resize(found.astype(np.uint8), grey.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0


def _unruled(ink: np.ndarray, sheet: np.ndarray, full: float) -> np.ndarray:
    """Without the lines that the paper came with, (H, W): six or more across it, fainter than what is drawn."""
    for axis in (1, 0):
        level = np.median(np.where(sheet, ink, 0), axis)
        starts = np.flatnonzero(np.diff((level > 0.03).astype(int)) == 1)
        gaps = np.diff(starts)
        if len(starts) > 5 and np.mean(np.abs(gaps - np.median(gaps)) < 0.2 * np.median(gaps)) > 0.6:
            usual = float(np.median([level[i + 1 : i + 4].max() for i in starts]))
            if usual < 0.7 * full:
                ink = ink - np.expand_dims(np.minimum(level, 1.2 * usual), axis)
    return ink


def paper(grey: np.ndarray, sheet: np.ndarray) -> np.ndarray:
    """The light on a sheet of paper in a photograph, (H, W) uint8 → float32, at least 1: without what is drawn on it.

    Only the ``sheet`` (H, W) counts. Lines are closed over; what is far darker than the paper's own even light (a
    parabola, pulled to the light side) is no shadow but ink.
    """
    small = cv2.GaussianBlur(_small(grey).astype(np.float32), (0, 0), 2)
    h, w = small.shape
    on = cv2.resize(sheet.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST).ravel()
    y, x = (p.ravel() for p in np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j])
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
    value = small.ravel()
    even = np.full(h * w, np.percentile(value[on > 0], 75))
    for _ in range(20):
        away = (value - even) / np.maximum(even, 1)
        weight = on * np.where(away > 0, 1, 0.3 / (1 + (away / 0.15) ** 4)) ** 0.5
        even = terms @ np.linalg.lstsq(terms * weight[:, None], value * weight, rcond=None)[0]
    even = even.reshape(h, w).astype(np.float32)
    light = cv2.GaussianBlur(np.where((small < 0.6 * even) | (on.reshape(h, w) == 0), even, small), (0, 0), 1)
    return cv2.resize(light, grey.shape[::-1], interpolation=cv2.INTER_LINEAR).clip(1)


def strokes_of(photo: np.ndarray, kernel: int = 23, colours: int = 6) -> np.ndarray:
    """Flat strokes of colour: a median filter and a small adaptive palette (SDEdit's simulator, its appendix).

    ``photo`` (H, W, 3) uint8 → the same shape. ``kernel``: odd, in pixels at 256; ``colours``: 2 … 64.
    """
    kernel = int(kernel * max(photo.shape[:2]) / 256) | 1
    flat = Image.fromarray(cv2.medianBlur(np.ascontiguousarray(photo), kernel))
    # The palette of a small copy is the same to the eye, and ten times cheaper to find.
    palette = flat.resize((64, 64), Image.Resampling.NEAREST).quantize(colours, method=Image.Quantize.MEDIANCUT)
    return np.asarray(flat.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB"))


def refine_size(side: int, realism: float, k: int = 0) -> int:
    """Cells a side that realism keeps of a picture of ``side`` pixels: int(−s·(m/8 − 1) + m/8 + k) (DiSS, methods.md
    §3.3). 512 pixels: 64 at realism 0, 32 at .5, 1 at 1; with k = 16: 80, 48, 17."""
    return int(-realism * (side / 8 - 1) + side / 8 + k)


def lowpass(x: Tensor, cells: int) -> Tensor:
    """What ``cells`` a longer side can tell of ``x`` (B, C, h, w): made so small and large again, linearly."""
    h, w = x.shape[2:]
    if cells >= max(h, w):
        return x
    small = (max(1, round(cells * h / max(h, w))), max(1, round(cells * w / max(h, w))))
    down = F.interpolate(x, small, mode="bilinear", antialias=True)
    return F.interpolate(down, (h, w), mode="bilinear")


def ilvr(x: Tensor, y: Tensor, cells: Sequence[int], where: Tensor) -> Tensor:
    """``x`` with the low-pass of ``y`` in place of its own, ``where`` it is 1 (ILVR, Choi et al. 2021).

    x, y (B, C, h, w), ``where`` (B or 1, 1, h, w); ``cells`` for every row. Near an edge of ``where`` only what is
    inside counts.
    """
    where = where.expand(len(x), -1, -1, -1)
    away, out = where * (y - x), torch.empty_like(x)
    for n in set(cells):
        rows = [i for i, own in enumerate(cells) if own == n]
        out[rows] = lowpass(away[rows], n) / lowpass(where[rows], n).clamp(min=1e-3)
    return x + where * out


def spread(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The colours of what is painted, carried on where nothing is: (H, W, 3) uint8 and (H, W) 0 … 1 → (H, W, 3) uint8.

    Pulled up and pushed down a pyramid (Gortler et al. 1996, *The Lumigraph*). Without any paint: mid-grey.
    """
    if alpha.max() <= 0:
        return np.full_like(colour, 128)
    levels = [(colour.astype(np.float32) * alpha[..., None], alpha.astype(np.float32))]
    while max(levels[-1][1].shape) > 1:
        half = tuple(max(1, -(-n // 2)) for n in levels[-1][1].shape[::-1])
        c, a = (cv2.resize(p, half, interpolation=cv2.INTER_AREA) for p in levels[-1])
        levels.append((c, a))
    c, a = levels.pop()
    known = c.reshape(1, 1, 3) / max(float(a.max()), 1e-12)
    for c, a in reversed(levels):
        wide = cv2.resize(known, a.shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(*a.shape, 3)
        known = c + (1 - a[..., None]) * wide
    return known.round().clip(0, 255).astype(np.uint8)


def grow(alpha: np.ndarray, pixels: float) -> np.ndarray:
    """Where ``alpha`` (H, W) is not 0, and ``pixels`` around it: (H, W) of 0 and 1."""
    if not alpha.any():
        return np.zeros(alpha.shape, np.float32)
    far = cv2.distanceTransform((alpha <= 0).astype(np.uint8), cv2.DIST_L2, 5)
    return (far <= pixels).astype(np.float32)


def feather(mask: np.ndarray, pixels: float) -> np.ndarray:
    """How much of the result shows: 0 wherever ``mask`` (H, W) is 0, rising to 1 within ``pixels`` inside it."""
    inside = (mask > 0).astype(np.uint8)
    if inside.all():
        return np.ones(mask.shape, np.float32)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    # Not more than the mask is deep, or a thin one would hardly show.
    return np.clip(depth / max(min(pixels, float(depth.max())), 1e-6), 0, 1).astype(np.float32)


def faithfulness(
    picture: np.ndarray, lines: np.ndarray | None, paint: np.ndarray | None, alpha: np.ndarray | None = None
) -> dict[str, float]:
    """How far a picture (H, W, 3) is from its drawing: ``lines`` 0 … 1 (mean absolute difference of its own lines from
    the sketch (H, W)), ``colours`` 0 … 255 (mean absolute at 16 × 16, where ``alpha`` is painted). uint8 arrays."""
    out: dict[str, float] = {}
    if lines is not None:
        out["lines"] = float(np.abs(sketch_of(picture).astype(np.float32) - lines).mean() / 255)
    if paint is not None:
        whole = np.ones(picture.shape[:2], np.float32) if alpha is None else alpha.astype(np.float32)
        a, b, w = (cv2.resize(p, (16, 16), interpolation=cv2.INTER_AREA) for p in (picture, paint, whole))
        a, b = a.astype(np.float32), b.astype(np.float32)
        out["colours"] = float((np.abs(a - b).mean(2) * w).sum() / max(float(w.sum()), 1e-6))
    return out
