"""Pictures 2 or 4 times as large: a small network invents fine edges, and what the picture itself says is kept.

The network is SRVGGNetCompact with the weights *realesr-animevideov3* (Wang et al. 2021, Real-ESRGAN, arXiv 2107.10833;
``assets/models/enlarge/README.md``). Alone it paints petals flat; two rounds of back-projection (Irani & Peleg 1991,
*Improving resolution by image registration*) bring grain and colours back: reduced again, a result is the picture.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.requests import Progress, result
from engine.vision.drawing import spread
from engine.vision.video import on_white, side_by_side

WEIGHTS = Path(__file__).parents[2] / "assets/models/enlarge/model.safetensors"
FACTOR, WIDTH, DEPTH = 4, 64, 16  # of the network: it enlarges by 4
MARGIN = DEPTH + 2  # pixels that a result sees around itself: one a convolution; so tiles show no seams
TILE = 256  # pixels a side of a tile, about
ROUNDS = 2  # of back-projection
LANCZOS = Image.Resampling.LANCZOS


class Enlarger(nn.Module):
    """(1, 3, H, W) in [0, 1] → (1, 3, 4H, 4W), about that range, both float32."""

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), nn.PReLU(WIDTH)]
        for _ in range(DEPTH):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.PReLU(WIDTH)]
        self.body = nn.Sequential(*layers, nn.Conv2d(WIDTH, 3 * FACTOR**2, 3, padding=1))
        self.load_state_dict(load_file(WEIGHTS))
        self.eval().requires_grad_(False).to(device, dtype, memory_format=torch.channels_last)

    @property
    def bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        own = next(self.parameters())
        fine = F.pixel_shuffle(self.body(x.to(own.device, own.dtype)), FACTOR)
        return fine.float().cpu() + F.interpolate(x, scale_factor=FACTOR)


def tiles(width: int, height: int, tile: int = TILE) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of about ``tile`` pixels a side that cover a picture once."""
    across, down = (max(1, round(n / tile)) for n in (width, height))
    xs, ys = ([round(i * n / parts) for i in range(parts + 1)] for n, parts in ((width, across), (height, down)))
    return [(x0, y0, x1, y1) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]


def enlarge(
    net: Enlarger, picture: Image.Image, scale: int, doing: str = "enlarging", tile: int = TILE
) -> Generator[Progress, None, Image.Image]:
    """RGB or RGBA, ``scale`` 2 or 4 → the same mode, exactly ``scale`` times as wide and high. Yields how much is done
    after every tile. Grey pictures stay grey; alpha is enlarged plainly, and what it hides colours no edge."""
    given = np.asarray(picture.convert("RGB"))
    if picture.mode == "RGBA":
        alpha = np.asarray(picture.getchannel("A"))
        given = np.where(alpha[..., None] > 0, given, spread(given, alpha / np.float32(255)))
    given = given.astype(np.float32) / 255
    height, width, _ = given.shape
    out = np.empty((height * scale, width * scale, 3), np.float32)
    boxes = tiles(width, height, tile)
    for n, (x0, y0, x1, y1) in enumerate(boxes, 1):
        left, top = max(0, x0 - MARGIN), max(0, y0 - MARGIN)
        block = np.ascontiguousarray(given[top : y1 + MARGIN, left : x1 + MARGIN])
        with torch.inference_mode():
            fine = net(torch.from_numpy(block).permute(2, 0, 1)[None])
            fine = F.avg_pool2d(fine, FACTOR // scale)[0].permute(1, 2, 0).numpy()
        inner = slice((y0 - top) * scale, (y1 - top) * scale), slice((x0 - left) * scale, (x1 - left) * scale)
        out[y0 * scale : y1 * scale, x0 * scale : x1 * scale] = fine[inner]
        yield Progress(n / len(boxes), doing)
    if (given == given[..., :1]).all():
        out[:] = out.mean(-1, keepdims=True)
    for c in range(3):
        out[..., c] = back_projected(out[..., c], given[..., c])
    result = Image.fromarray((out.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    if picture.mode == "RGBA":
        result.putalpha(picture.getchannel("A").resize(result.size, LANCZOS))
    return result


def back_projected(fine: np.ndarray, given: np.ndarray) -> np.ndarray:
    """``fine`` (H, W) with what is lacking of ``given`` (h, w) when it is reduced to that size."""
    for _ in range(ROUNDS):
        fine = fine + resized(given - resized(fine, given.shape), fine.shape)
    return fine


def resized(channel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 channel (H, W) in another shape, by Lanczos."""
    return np.asarray(Image.fromarray(channel).resize(shape[::-1], LANCZOS))


def busiest(picture: Image.Image, side: int) -> tuple[int, int, int, int]:
    """The box of ``side`` pixels (at most the picture's) where it changes most: what a detail is shown of."""
    grey = np.asarray(picture.convert("L"), np.float32)
    slopes = sum(np.abs(g) for g in np.gradient(grey))
    h, w = (min(side, n) for n in grey.shape)
    sums = np.pad(slopes.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return int(x), int(y), int(x) + w, int(y) + h


def detail(net: Enlarger, picture: Image.Image, scale: int, side: int = 256, gap: int = 4) -> Image.Image:
    """A detail of the result, pixel by pixel: plainly enlarged (Lanczos), and beside it as it becomes. RGB (alpha on
    white), ``side`` pixels a half, less where the picture is smaller."""
    x0, y0, x1, y1 = busiest(on_white(picture), side // scale)
    left, top = max(0, x0 - MARGIN), max(0, y0 - MARGIN)
    around = picture.crop((left, top, min(picture.width, x1 + MARGIN), min(picture.height, y1 + MARGIN)))
    fine = result(enlarge(net, around, scale))
    box = tuple(v * scale for v in (x0 - left, y0 - top, x1 - left, y1 - top))
    return side_by_side([p.crop(box) for p in (around.resize(fine.size, LANCZOS), fine)], gap=gap)
