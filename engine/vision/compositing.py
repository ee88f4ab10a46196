"""What drawing and editing share: layers brought to one frame, a walk that shows itself, and the exact kept part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from engine.checkpoints.manager import Models
from engine.diffusion.model import Network
from engine.diffusion.sampling import Denoise, StepRule, sample, gaussian, generator
from engine.requests import EngineError, Preview, Progress
from engine.vision import images
from engine.vision.drawing import feathered, grown, lowpass

PREVIEW_EVERY = 0.2  # seconds
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
    block = np.asarray(_framed(layer.convert("RGBa"), size).convert("RGBA"))
    return Paint(block[..., :3], block[..., 3].astype(np.float32) / 255)


def scaled(mask: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """A mask (L) in a frame of ``size``, cropped as photographs are, (H, W) 0 … 1."""
    small = np.asarray(_framed(mask, size), np.float32) / 255
    return np.where(small < LEAST, 0, small)


def _framed(layer: Image.Image, size: tuple[int, int]) -> Image.Image:
    way = Image.Resampling.BOX if layer.width > size[0] else Image.Resampling.BILINEAR
    return layer if layer.size == size else ImageOps.fit(layer, size, way)


def region(mask: Image.Image | None, alphas: Sequence[np.ndarray], around: float, size: tuple[int, int]) -> np.ndarray:
    """How much each pixel of a photograph may change, (H, W) 0 … 1: the mask, or what was painted and ``around`` it.

    EngineError if that is nothing."""
    if mask is not None:
        found, name = scaled(mask, size), "mask"
    else:
        found, name = grown(np.maximum.reduce([np.where(a < LEAST, 0, a) for a in alphas]), around), "paint"
    if not found.any():
        raise EngineError(f"{name} must cover something at {size[0]} × {size[1]}, got nothing that would be seen")
    return found


def cells(block: np.ndarray, net: Network, most: bool = False) -> Tensor:
    """(H, W) 0 … 1 → (1, 1, h, w) on the latent grid, on the device: of every cell the mean, or the ``most``."""
    pool = torch.nn.functional.max_pool2d if most else torch.nn.functional.avg_pool2d
    return pool(torch.from_numpy(block)[None, None], net.factor).to(net.device)


def latents(models: Models, net: Network, pictures: Sequence[np.ndarray]) -> Tensor:
    """(H, W, 3) pictures → (B, C, h, w), remembered by content.

    Each is encoded alone, so that what is remembered already does not change the last bits of the rest.
    """
    out = []
    for p in pictures:
        key = ("latent", net.fingerprint, p.shape, images.digest_of(p.tobytes()))
        z = models.memo.get(key)
        if z is None:
            z = net.encode(images.to_tensor([Image.fromarray(p)]))
            models.memo.put(key, z, z.numel() * 4)
        out.append(z)
    return torch.cat(out)


def words(models: Models, net: Network, *texts: str) -> Tensor:
    """Texts → (B, L, D), remembered: live drawing asks for the same several times a second."""
    key = ("words", net.fingerprint, texts)
    known = models.memo.get(key)
    return models.memo.put(key, z := net.embed(texts), z.numel() * 4) if known is None else known


def level_of(net: Network, strength: Tensor, top: float) -> Tensor:
    """The level from which each cell of ``strength`` (1, 1, h, w), 0 … 1, is free, when 1 is t0 = ``top``."""
    known = {v: net.sigma(min(1.0, v * top)) for v in set(strength.flatten().tolist())}
    return torch.tensor([known[v] for v in strength.flatten().tolist()]).reshape(strength.shape).to(net.device)


def fresh(net: Network, shape: Sequence[int], keys: Sequence[tuple[int, ...]]) -> Callable[[], Tensor]:
    """A source of noise (len(keys), *shape), every row from a generator of its own."""
    own = [generator(*k) for k in keys]
    return lambda: gaussian(shape, own).to(net.device)


def colourless(noise: Tensor, s: float, painted: Tensor | float = 0.0) -> Tensor:
    """Noise (B, C, h, w) of level ``s`` to begin with, without its coarse part where nothing is ``painted``.

    The last level of a schedule still shows a picture's coarse colours (Lin et al. 2024, *Common diffusion noise
    schedules*): of pure noise the network would read patches of colour that nobody asked for. Eight cells a side by
    eye, over four drawings without colours; under paint the mean is enough.
    """
    coarse = (1 - painted) * lowpass(noise, min(8, max(noise.shape[2:]) // 4)) + painted * noise.mean(
        (2, 3), keepdim=True
    )
    return (noise - coarse) * (1 + s**2) ** 0.5


def walk(net: Network, field: Denoise, x: Tensor, levels: Sequence[float], step: StepRule, look: Callable,
         doing: str, low: float, high: float) -> Iterator[Progress | Preview]:  # fmt: skip
    """Denoises rows ``x``, one a frame, and shows them; returns the clean latents."""
    shown, n = 0.0, len(levels) - 1
    for i, state in enumerate(sample(field, x, levels, step), 1):
        x = state.x
        yield Progress(low + (high - low) * i / n, doing)
        if perf_counter() - shown > PREVIEW_EVERY and i < n:
            for j, picture in enumerate(images.to_pictures(look(state.x0))):
                yield Preview(j, picture)
            shown = perf_counter()
    return x


def pasted(pictures: list[Image.Image], photo: np.ndarray, mask: np.ndarray, feather: float) -> list[Image.Image]:
    """The pictures inside ``mask`` (H, W), the photograph itself, to the last bit, outside; the edge is soft inside."""
    w = feathered(mask, feather)[..., None]
    return [Image.fromarray((w * np.asarray(p) + (1 - w) * photo).round().astype(np.uint8)) for p in pictures]
