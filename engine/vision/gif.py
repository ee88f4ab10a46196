"""GIF: one palette of 255 colours for the whole film, an ordered dither that lies still, and only what changes.

What is shown already and is near enough is left (the 256th colour is clear), which costs next to nothing in LZW. An
ordered dither (Bayer 1973) repeats, which LZW likes, and does not crawl from frame to frame as diffused errors do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import GifImagePlugin, Image

from engine.vision.video import on_white

CLEAR = 255  # the colour of what stays
SEEN = 40_000  # pixels that the palette is made of
ROUNDS = 8  # of k-means
DITHER = 4.0  # levels between the lowest and the highest threshold
NEAR = 7.0  # root mean square levels of a pixel by which what is shown may be off
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32) / 16 - 15 / 32


def palette_of(pictures: Sequence[Image.Image]) -> Image.Image:
    """A "P" picture that holds 255 colours for all of ``pictures``, of one size: once for all alike, then again with
    more pixels of those that came off worse."""
    shares = np.full(len(pictures), 1 / len(pictures))
    for _ in range(2):
        rng, found = np.random.default_rng(0), []
        for picture, share in zip(pictures, shares, strict=True):
            pixels = np.asarray(on_white(picture)).reshape(-1, 3)
            found.append(pixels[rng.integers(0, len(pixels), 1 + round(SEEN * share))])
        pixels = np.concatenate(found)
        labels, means = _means(pixels)
        off = np.square(pixels - means[labels]).mean(1)
        ends = np.cumsum([0, *map(len, found)])
        each = np.array([off[i:j].mean() for i, j in pairwise(ends)]) + 1e-3
        shares = each / each.sum()
    palette = Image.new("P", (1, 1))
    palette.putpalette((means + 0.5).astype(np.uint8).tobytes())
    return palette


def _means(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) uint8 → which of at most 255 colours suits each, and these, float32: k-means from the median cut."""
    start = Image.fromarray(pixels[None]).quantize(255, Image.Quantize.MEDIANCUT)
    used, labels = np.unique(np.asarray(start), return_inverse=True)
    until, how = (cv2.TERM_CRITERIA_MAX_ITER, ROUNDS, 0.0), cv2.KMEANS_USE_INITIAL_LABELS
    first = labels.reshape(-1, 1).astype(np.int32)
    _, labels, means = cv2.kmeans(pixels.astype(np.float32), len(used), first, until, 1, how)
    return labels[:, 0], means


def writing(shots: Iterable[tuple[Image.Image, int]], path: Path, palette: Image.Image, comment: str) -> Iterator[None]:
    """Writes (picture, hundredths of a second) as a GIF that plays again and again; yields before each picture."""
    colours = np.zeros((256, 3), np.uint8)
    own = np.array((palette.getpalette() or [])[: 255 * 3], np.uint8).reshape(-1, 3)
    colours[: len(own)] = own
    shown: np.ndarray | None = None  # the colours' numbers that are to be seen
    with path.open("wb") as file:
        for picture, hundredths in shots:
            yield
            rgb = np.asarray(on_white(picture))
            if shown is None:
                file.write(_head(rgb.shape[1], rgb.shape[0], colours, comment))
            index = dithered(rgb, palette)
            if shown is not None:
                near = np.square(colours[shown].astype(np.float32) - rgb).mean(-1) <= NEAR**2
                index = np.where(near, shown, index)
            (left, top), block = _changed(index, shown)
            shown = index
            how: dict[str, Any] = {"duration": hundredths * 10, "transparency": CLEAR, "disposal": 1}
            for part in GifImagePlugin.getdata(block, (left, top), **how):
                file.write(part)
        file.write(b";")


def dithered(rgb: np.ndarray, palette: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 → (H, W) numbers of colours of the palette."""
    h, w = rgb.shape[:2]
    pattern = np.tile(BAYER, (-(-h // 4), -(-w // 4)))[:h, :w, None] * DITHER
    noisy = Image.fromarray((rgb + pattern + 0.5).clip(0, 255).astype(np.uint8))
    return np.asarray(noisy.quantize(palette=palette, dither=Image.Dither.NONE)).copy()


def _changed(index: np.ndarray, shown: np.ndarray | None) -> tuple[tuple[int, int], Image.Image]:
    """(left, top) and the picture of what is to be drawn over what is shown; of nothing one clear pixel."""
    if shown is None:
        return (0, 0), Image.fromarray(index, "P")
    off = index != shown
    index = np.where(off, index, CLEAR).astype(np.uint8)
    rows, columns = np.flatnonzero(off.any(1)), np.flatnonzero(off.any(0))
    top, bottom, left, right = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else (0, 1, 0, 1)
    return (int(left), int(top)), Image.fromarray(np.ascontiguousarray(index[top:bottom, left:right]), "P")


def _head(width: int, height: int, colours: np.ndarray, comment: str) -> bytes:
    """The file's head: size, palette, "again and again", a comment."""
    text = comment.encode("ascii")
    parts = (text[i : i + 255] for i in range(0, len(text), 255))
    blocks = b"".join(bytes([len(p)]) + p for p in parts)
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    head = b"GIF89a" + size + b"\xf7\0\0" + colours.tobytes()
    return head + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" + (b"!\xfe" + blocks + b"\0" if text else b"")
