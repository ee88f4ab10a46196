"""Pictures between two neighbouring frames of a film, by optical flow: what moves a little is moved, not cross-faded.

The flow is OpenCV's DIS (Kroeger et al. 2016, arXiv 1603.03590), both ways. A pixel of the picture at ``t`` is looked
up where it comes from in either frame; where the two ways disagree (something is covered or appears) the frame that is
sure counts more, and where neither is, the two are cross-faded where they lie. Of a step that is too large nothing is
made: flow then bends one thing into another like jelly. A learnt network (RIFE's HDv3, 12 MB, MIT) was 0.3 to 1.5 dB
farther from frames of flora that were left out than this is, and takes ten times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

ROUNDS = 4  # of the fixed point that inverts a way; it has converged to a tenth of a pixel by then
SURE = 0.02  # of the longer side: ways that come back within this are trusted (1/e there)
AROUND = (9, 9)  # pixels
GAIN = 0.5  # of the difference is explained by moving: then it counts wholly
# What flow may leave unexplained of a step (`Step.residual`). Measured on frames of flora that were left out and made
# again: steps of Morph's 16 frames have 0.01 to 0.02 (made 0.1 to 0.8 dB nearer than by a cross-fade), of Interpolate's
# 33 and 9 frames 0.07 to 0.21 (nearer by up to 0.1 dB); beyond 0.25 nothing is gained any more.
LARGEST = 0.25


@dataclass(frozen=True)
class Step:
    """From frame ``a`` to frame ``b``, both (H, W, 3) uint8 sRGB of one size."""

    a: np.ndarray
    b: np.ndarray

    @cached_property
    def ways(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 2) float32 pixels: where what is here in ``a`` lies in ``b``, and the other way round."""
        grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (self.a, self.b)]
        dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return dis.calc(*grey, None), dis.calc(*grey[::-1], None)

    @cached_property
    def trust(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) float32, 0 … 1, for both ways: 1 where going there and back ends where it began."""
        far = SURE * max(self.a.shape[:2])
        there, back = self.ways
        return _closes(there, back, far), _closes(back, there, far)

    @cached_property
    def residual(self) -> float:
        """What flow leaves unexplained, 0 … 1: the mean over the picture of the difference of the frames along the way,
        and of 1 where the ways do not close, each a half."""
        there, _ = self.ways
        off = np.abs(lookup(self.b, there).astype(np.float32) - self.a).mean() / 255
        return float(off + (1 - np.mean(self.trust))) / 2

    @property
    def small(self) -> bool:
        """Whether pictures between the frames can be made."""
        return self.residual <= LARGEST

    def at(self, t: float) -> np.ndarray:
        """The picture at ``t`` (0: ``a``, 1: ``b``), (H, W, 3) uint8."""
        if t in (0, 1):
            return self.b if t else self.a
        (there, back), (sure_a, sure_b) = self.ways, self.trust
        from_a, from_b = _source(there, t), _source(back, 1 - t)
        a, b = (lookup(p, way, cv2.INTER_CUBIC).astype(np.float32) for p, way in ((self.a, from_a), (self.b, from_b)))
        sure_a, sure_b = lookup(sure_a, from_a), lookup(sure_b, from_b)
        wa, wb = (1 - t) * sure_a, t * sure_b
        share = (wa / np.maximum(wa + wb, 1e-6))[..., None]
        moved = share * a + (1 - share) * b
        faded = (1 - t) * self.a.astype(np.float32) + t * self.b
        sure = (np.maximum(sure_a, sure_b) * _gained(a, b, self.a, self.b))[..., None]
        return (sure * moved + (1 - sure) * faded + 0.5).clip(0, 255).astype(np.uint8)


def lookup(picture: np.ndarray, way: np.ndarray, how: int = cv2.INTER_LINEAR) -> np.ndarray:
    """``picture`` (H, W[, C]) at every pixel's place + ``way`` (H, W, 2); the edge goes on outside."""
    h, w = way.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    return cv2.remap(picture, x + way[..., 0], y + way[..., 1], how, borderMode=cv2.BORDER_REPLICATE)


def _source(way: np.ndarray, t: float) -> np.ndarray:
    """Where what is at a pixel at time ``t`` comes from: the v with v = −t · way(x + v), by a fixed point."""
    v = -t * way
    for _ in range(ROUNDS):
        v = -t * lookup(way, v)
    return v


def _gained(moved_a: np.ndarray, moved_b: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W), 0 … 1: how much less the frames differ around a pixel when they are moved: a colour that changes where it
    lies is not to be moved, whatever way flow finds for it."""
    moved, stay = (cv2.blur(np.abs(x.astype(np.float32) - y).mean(-1), AROUND) for x, y in ((moved_a, moved_b), (a, b)))
    return ((1 - moved / np.maximum(stay, 1e-3)) / GAIN).clip(0, 1)


def _closes(there: np.ndarray, back: np.ndarray, far: float) -> np.ndarray:
    off = np.linalg.norm(there + lookup(back, there), axis=-1)
    return np.exp(-((off / far) ** 2))
