"""flora's UNet and text encoder, trained together on cached latents.

The network sees [noisy latent, sketch latent, strokes latent], as DiSS concatenates its conditions (methods.md §3); a
missing drawing, Φ, is the latent of mid-grey. v-prediction (Salimans & Ho 2022) up to zero terminal SNR (Lin et al.
2024), weighted by min-SNR 5 (Hang et al. 2023). Some of the steps are at half of the size, without drawings: a third of
their cost, and the whole flower within reach of every layer.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from engine.requests import EngineError
from training.autoencoder import load_autoencoder
from training.data import KINDS, caption, looks, photographs, picture_of, pixels, remembered, rows, split
from training.loop import BF16, CUDA, DEVICE, WORK, Run, Weights, working
from training.text import WIDTH, build_text_encoder, tokenizer, tokens

CHANNELS = (64, 128, 256, 384)
AVERAGES = (20_000, 150_000)  # samples
DRAWN = 0.55  # share of the whole pictures that come with a drawing


def build_unet() -> UNet2DConditionModel:
    """34 M parameters, 4.6 GFLOP a 32 × 32 latent: thin where the grid is fine, attention at 16 × 16 and 8 × 8."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=3 * 4,
        out_channels=4,
        block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=tuple(c // 32 for c in CHANNELS),  # diffusers' name; it is the number of heads
    )


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


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


class Batch(NamedTuple):
    clean: Tensor  # (B, 4, h, w), float32, scaled
    drawings: Tensor  # (B, 8, h, w), Φ where there is none
    ids: Tensor  # (B, 32), tokens of the captions


class Examples:
    """Latents of photographs with their drawings and captions, in batches of ``batch`` whole or thrice as many half.

    ``scale``: the scaling factor, 0 for that which gives the photographs of `train` unit variance. ``halves``: share of
    the steps at half of the size. ``mirrored``: with the mirror images, as many latents more to make.
    """

    def __init__(
        self, vae: AutoencoderDC, words: CLIPTokenizer, scale: float, batch: int, halves=0.3, mirrored=True, seed=0
    ):
        self.batch, self.halves, self.mirrored, self.tokenizer = batch, halves, mirrored, words
        self.index, self.seen = rows(), looks(photographs())
        self.train = split(self.index, "train")
        kinds = [k for k in KINDS if (mirrored or not k.endswith("-m")) and (halves or "half" not in k)]
        raw = {k: latents(vae, k) for k in kinds}
        self.scale = scale or 1 / float(raw["photo"][self.train].float().std())
        self.z = {k: (v.float() * self.scale).to(DEVICE, BF16) for k, v in raw.items()}
        self.phi = nulls(vae, self.scale)
        self.rng, self.random, self.pool = np.random.default_rng(seed), random.Random(seed), ThreadPoolExecutor(1)
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


def loss_of(unet: UNet2DConditionModel, embeds: Tensor, batch: Batch, abar: Tensor) -> Tensor:
    """The weighted error of v. Stratified times: less noisy than independent ones."""
    size = len(batch.clean)
    t = ((torch.randperm(size) + torch.rand(size)) / size * 1000).long().clamp(0, 999).to(DEVICE)
    a, noise = abar[t].view(-1, 1, 1, 1), torch.randn_like(batch.clean)
    x = a.sqrt() * batch.clean + (1 - a).sqrt() * noise
    v = a.sqrt() * noise - (1 - a).sqrt() * batch.clean
    out = unet(working(torch.cat([x, batch.drawings], 1)), t, embeds).sample.float()
    snr = a / (1 - a)
    weight = (snr.clamp(max=5) / (snr + 1)).clamp(min=0.02)  # not quite nothing at pure noise
    return ((out - v).square() * weight).mean()


def modules(start: Path | None) -> tuple[UNet2DConditionModel, CLIPTextModel, list[torch.nn.Parameter]]:
    """UNet, text encoder and the parameters in the order of the checkpoint; from an export if ``start`` is given."""
    unet, text = build_unet(), build_text_encoder()
    if start:
        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        text = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    if not CUDA:  # the fused attention of CPUs takes 1.4 to 1.7 times as long a step
        unet.set_attn_processor(AttnProcessor())
    # A head that no step trains ends the checkpoints of the recipe: kept, so that they go on here and there.
    spare = torch.nn.Sequential(torch.nn.Conv2d(256, 512, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(512, 328, 1))
    parts = [m.to(DEVICE, memory_format=torch.channels_last) for m in (unet, text, spare)]
    return unet, text, [p for m in parts for p in m.parameters()]


def train(minutes: float, start: Path | None = None, batch=0, lr=0.0, decay=False, mirrored=True) -> None:
    """Goes on from ``WORK/unet.pt``, else from the export ``start`` with a fresh optimiser, else from nothing.

    ``minutes``: the making of the latents included. ``batch``, ``lr``: 0 for the machine's own. ``decay``: the rate
    falls to nothing within these minutes. ``mirrored``: see `Examples`.
    """
    began, run = time.time(), Run("network", "unet", minutes)
    batch, lr, first, scale = batch or (256 if CUDA else 32), lr or (8e-4 if CUDA else 5e-4), run.steps, 0.0
    if not (vae := load_autoencoder(start)):
        raise EngineError(f"{WORK / 'ae.pt'} must hold an autoencoder, got none: python -m training joint, or --start")
    vae.eval().requires_grad_(False).to(DEVICE, BF16, memory_format=torch.channels_last)
    unet, text, params = modules(None if run.state else start)
    weights = Weights(params, lr, AVERAGES, 0.01)
    if run.state:
        weights.load(run.state["w"])
        scale = run.state["scale"]
    elif start:
        scale = AutoencoderDC.load_config(start / "vae")["scaling_factor"]
    examples = Examples(vae, tokenizer(), scale, batch, mirrored=mirrored, seed=first)
    run.minutes -= (time.time() - began) / 60
    abar = scheduler().alphas_cumprod.to(DEVICE)
    for _ in run.until(lambda: {"w": weights.state(), "scale": examples.scale}, every=400):
        rate = lr * min(1, (run.steps + 1) / 500, (run.steps - first + 1) / 50)
        rate *= max(0.02, 1 - run.share) if decay else 1
        one = examples()
        loss = loss_of(unet, text(one.ids).last_hidden_state, one, abar)
        loss.backward()
        weights.step(rate, len(one.clean), run.samples)
        run.count(len(one.clean), lr=rate, **{f"loss{one.clean.shape[-1]}": loss})
