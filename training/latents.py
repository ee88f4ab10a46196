"""What the network learns on: the latents of the photographs and of their drawings, made once, and batches of them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor
from transformers import CLIPTokenizer

from training.data import KINDS, caption, looks, photographs, picture_of, pixels, remembered, rows, split
from training.loop import BF16, CUDA, DEVICE, working
from training.text import tokens

DRAWN = 0.55  # share of the whole pictures that come with a drawing


def latents(model: AutoencoderDC, kind: str) -> Tensor:
    """(N, 4, h, w) float16: every photograph as one of `KINDS`, encoded once, not yet scaled. ``model`` in `BF16`."""
    return torch.from_numpy(np.array(remembered(f"z-{kind}", encoded(model, kind))))


@torch.no_grad()
def encoded(model: AutoencoderDC, kind: str) -> Iterator[np.ndarray]:
    block, size = photographs(), 256 if CUDA else 8  # eight fit a small chip's cache
    encode = model.encoder if CUDA else torch.compile(model.encoder, dynamic=False)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i in range(0, len(block), size):
            part = range(i, min(i + size, len(block)))
            drawn = list(pool.map(lambda j: picture_of(kind, j, block[j]), part))
            x = pixels(np.stack(drawn + drawn[:1] * (size - len(drawn))))
            yield from encode(working(x))[: len(drawn)].float().half().cpu().numpy()


def drop(lines: Tensor, paint: Tensor, phi: Tensor, share: float = DRAWN) -> Tensor:
    """Both drawings (B, C, h, w) beside each other, with Φ (1, C, h, w) for some → (B, 2C, h, w).

    ``share`` of the rows keep a drawing: 45 % of these both, 22 % the lines alone, 33 % the colours alone.
    """
    q = torch.rand(len(lines), 1, 1, 1, device=lines.device)
    none, both, one = 1 - share, 1 - 0.55 * share, 1 - 0.33 * share
    keep_lines, keep_paint = (q >= none) & (q < one), (q >= none) & (q < both) | (q >= one)
    return torch.cat([torch.where(keep_lines, lines, phi), torch.where(keep_paint, paint, phi)], 1)


@dataclass(frozen=True)
class Batch:
    clean: Tensor  # (B, 4, h, w), float32, scaled
    drawings: Tensor  # (B, 8, h, w), Φ where there is none
    ids: Tensor  # (B, 32), tokens of the captions


class Examples:
    """Latents of photographs with their drawings and captions, in batches of ``batch`` whole or thrice as many half."""

    def __init__(
        self, vae: AutoencoderDC, words: CLIPTokenizer, scale: float, batch: int, halves=0.3, mirrored=True, seed=0
    ):
        """``scale``: the scaling factor, 0 for that which gives the photographs of `train` unit variance. ``halves``:
        share of the steps at half of the size. ``mirrored``: with the mirror images, as many latents more to make."""
        self.batch, self.halves, self.mirrored = batch, halves, mirrored
        self.index, self.tokenizer = rows(), words
        self.seen = looks(photographs())
        self.train = split(self.index, "train")
        kinds = [k for k in KINDS if (mirrored or not k.endswith("-m")) and (halves or "half" not in k)]
        raw = {k: latents(vae, k) for k in kinds}
        self.scale = scale or 1 / float(raw["photo"][self.train].float().std())
        self.z = {k: (v.float() * self.scale).to(DEVICE, BF16) for k, v in raw.items()}
        self.phi = nulls(vae, self.scale)
        self.rng, self.random = np.random.default_rng(seed), random.Random(seed)
        self.pool = ThreadPoolExecutor(1)
        self.next = self.pool.submit(self._choose)

    def _choose(self) -> tuple[int, str, np.ndarray, Tensor]:
        """Side, mirror, rows and words of the next batch, while the last one is worked on."""
        side = 16 if self.rng.random() < self.halves else 32
        mirror = "-m" if self.mirrored and self.rng.random() < 0.5 else ""
        count = self.batch * (3 if side == 16 else 1)
        pick = np.sort(self.rng.choice(self.train, count, replace=count > len(self.train)))
        texts = [caption(self.index[i].label, self.seen[i], self.random) for i in pick]
        return side, mirror, pick, tokens(self.tokenizer, texts)

    def __call__(self) -> Batch:
        (side, mirror, pick, ids), self.next = self.next.result(), self.pool.submit(self._choose)
        at, phi = torch.from_numpy(pick).to(DEVICE), self.phi[side]
        if side == 16:
            return Batch(self.z["half" + mirror][at].float(), torch.cat([phi, phi], 1).expand(len(at), -1, -1, -1), ids)
        photo, lines, paint = (self.z[k + mirror][at].float() for k in ("photo", "sketch", "strokes"))
        return Batch(photo, drop(lines, paint, phi), ids)


@torch.no_grad()
def nulls(vae: AutoencoderDC, scale: float) -> dict[int, Tensor]:
    """Φ, the missing drawing, by the latent's side: the latent (1, 4, h, w) of mid-grey."""
    grey = {side: torch.zeros(1, 3, 8 * side, 8 * side) for side in (16, 32)}
    return {side: vae.encode(working(x)).latent.float() * scale for side, x in grey.items()}
