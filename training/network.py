"""flora's UNet and text encoder, trained together on cached latents.

The network sees [noisy latent, sketch latent, strokes latent], as DiSS concatenates its conditions (methods.md §3); a
missing drawing, Φ, is the latent of mid-grey. v-prediction (Salimans & Ho 2022) up to zero terminal SNR (Lin et al.
2024), weighted by min-SNR 5 (Hang et al. 2023). Some of the steps are at half of the size, without drawings: a third of
their cost, and the whole flower within reach of every layer.
"""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from training.autoencoder import exported, load_autoencoder
from training.data import arrays, photographs, picture_of, sheet, split
from training.latents import Batch, Examples
from training.loop import CUDA, DEVICE, STOP, WORK, Run, Weights, get, put, working
from training.text import WIDTH, build_text_encoder, find_tokenizer, tokens

CHANNELS = (64, 128, 256, 384)
AVERAGES = (20_000, 150_000)  # samples
PROMPTS = ["", "a yellow tulip", "a photograph of a pink rose", "a white daisy, dark green background", "a red poppy"]
PROMPTS += ["a purple passion flower", "a yellow sunflower", "a pink water lily"]


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


def modules(tokenizer: CLIPTokenizer, start: Path | None) -> tuple[UNet2DConditionModel, CLIPTextModel, list[Any]]:
    """UNet, text encoder and the parameters in the order of the checkpoint; from an export if ``start`` is given."""
    unet, text = build_unet(), build_text_encoder(tokenizer)
    if start:
        unet.load_state_dict(exported(start, "unet"))
        text.load_state_dict(exported(start, "text_encoder"))
    if not CUDA:  # the fused attention of CPUs takes 1.4 to 1.7 times as long a step
        unet.set_attn_processor(AttnProcessor())
    # A head that no step trains ends the checkpoints of the recipe: kept, so that they go on here and there.
    spare = torch.nn.Sequential(torch.nn.Conv2d(256, 512, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(512, 328, 1))
    parts = [m.to(DEVICE, memory_format=torch.channels_last) for m in (unet, text, spare)]
    return unet, text, [p for m in parts for p in m.parameters()]


@torch.no_grad()
def walk(
    unet: UNet2DConditionModel, x: Tensor, times: list[int], drawings: Tensor, embeds: Tensor, *guided: Any
) -> Tensor:
    """DDIM from ``x`` (B, 4, h, w) at ``times[0]`` down to a picture; ``guided``: embeddings of no words, the scale."""
    abar = scheduler().alphas_cumprod.to(DEVICE)
    for t, then in pairwise([*times, None]):
        at, seen = torch.full((len(x),), t, device=DEVICE), working(torch.cat([x, drawings], 1))
        v = unet(seen, at, embeds).sample.float()
        if guided:
            plain = unet(seen, at, guided[0]).sample.float()
            v = plain + guided[1] * (v - plain)
        a, b = abar[t], abar[then] if then is not None else torch.ones((), device=DEVICE)
        clean, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        x = b.sqrt() * clean + (1 - b).sqrt() * noise
    return x


@torch.no_grad()
def look(unet: UNet2DConditionModel, text: CLIPTextModel, vae: AutoencoderDC, examples: Examples, path: Path) -> None:
    """A sheet of eight columns: words; lines, colours, both; lines alone; noised to t = 600 and back; photographs."""
    g, block, times = torch.Generator().manual_seed(3), photographs(), list(range(999, 0, -37))
    at = np.resize(split(examples.index, "val", 8), 8)
    words, none = (text(tokens(examples.tokenizer, p)).last_hidden_state for p in (PROMPTS, [""] * 8))
    photo, lines, paint = (examples.z[k][at].float() for k in ("photo", "sketch", "strokes"))
    phi = examples.phi[32].expand(8, -1, -1, -1)
    a, noise = scheduler().alphas_cumprod[600], [torch.randn(8, 4, 32, 32, generator=g).to(DEVICE) for _ in range(4)]
    made = [
        walk(unet, noise[0], times, torch.cat([phi, phi], 1), words, none, 3.0),
        walk(unet, noise[1], times, torch.cat([lines, paint], 1), none),
        walk(unet, noise[2], times, torch.cat([lines, phi], 1), none),
        walk(
            unet, a**0.5 * photo + (1 - a) ** 0.5 * noise[3], list(range(600, 0, -30)), torch.cat([phi, phi], 1), none
        ),
    ]
    own = [np.stack([picture_of(k, i, block[i]) for i in at]) for k in ("sketch", "strokes", "photo")]
    drawn, both, sketched, back = (arrays(vae.decode(working(z / examples.scale)).sample) for z in made)
    sheet([drawn, own[0], own[1], both, sketched, back, own[2]], path)


def scale_of(state: dict[str, Any] | None, start: Path | None) -> float:
    """The scaling factor of the latents that the weights were trained on; 0 for weights from nothing."""
    if state:
        return state["scale"]
    return json.loads((start / "vae" / "config.json").read_text())["scaling_factor"] if start else 0.0


def train(
    minutes: float,
    batch: int = 0,
    lr: float = 0.0,
    halves: float = 0.3,
    decay: bool = False,
    mirrored: bool = True,
    start: Path | None = None,
    whole: bool = False,
    sheets: float = 30.0,
) -> None:
    """Goes on from ``WORK/unet.pt``, else from the export ``start`` with a fresh optimiser, else from nothing.

    ``batch``, ``lr``: 0 for the machine's own. ``decay``: the rate falls to nothing within these minutes. ``whole``:
    they hold the making of the latents too. ``mirrored``: with the mirror images, which are as many latents more.
    ``sheets``: minutes from one sheet of pictures to the next.
    """
    began, state, lr = time.time(), get("unet"), lr or (8e-4 if CUDA else 5e-4)
    counters = {"samples": state["n"], "steps": state["steps"], "seconds": state["sec"]} if state else {}
    tokenizer, vae = find_tokenizer(start, learn=not state and not start), load_autoencoder(start)
    how = {"batch": batch or (256 if CUDA else 32), "halves": halves, "mirrored": mirrored}
    examples = Examples(vae, tokenizer, scale_of(state, start), seed=counters.get("steps", 0), **how)
    unet, text, params = modules(tokenizer, None if state else start)
    weights = Weights(params, lr, AVERAGES, 0.01)
    if state:
        weights.load(state["w"])
        state.clear()  # half a gigabyte
    run = Run("network", minutes - (time.time() - began) / 60 * whole, **counters)
    first, shown, abar = run.steps, time.time(), scheduler().alphas_cumprod.to(DEVICE)

    def save() -> None:
        counters = {"n": run.samples, "steps": run.steps, "sec": run.seconds}
        put({"w": weights.state(), "scale": examples.scale} | counters, "unet")

    for _ in run.until(save, every=400):
        rate = lr * min(1, (run.steps + 1) / 500, (run.steps - first + 1) / 50)
        rate *= max(0.02, 1 - run.share) if decay else 1
        one = examples()
        loss = loss_of(unet, text(one.ids).last_hidden_state, one, abar)
        loss.backward()
        weights.step(rate, len(one.clean), run.samples)
        run.count(len(one.clean), lr=rate, **{f"loss{one.clean.shape[-1]}": loss})
        if time.time() - shown > 60 * sheets:
            shown = time.time()
            with weights.shown(AVERAGES[0]):
                look(unet, text, vae, examples, WORK / f"unet-{run.samples // 1000:05d}k.png")
    if not STOP.is_set():
        with weights.shown(AVERAGES[0]):
            look(unet, text, vae, examples, WORK / f"unet-{run.samples // 1000:05d}k.png")
