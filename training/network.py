"""flora's UNet and text encoder, trained together on cached latents.

The network sees [noisy latent, sketch latent, strokes latent], as DiSS concatenates its conditions (methods.md §3); a
missing drawing, Φ, is the latent of mid-grey. v-prediction (Salimans & Ho 2022) up to zero terminal SNR (Lin et al.
2024), weighted by min-SNR 5 (Hang et al. 2023). Some of the steps are at half of the size, without drawings: a third of
their cost, and the whole flower within reach of every layer.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel

from training.autoencoder import exported, load_autoencoder
from training.latents import Batch, Examples
from training.loop import CUDA, DEVICE, Run, Weights, get, put, working
from training.text import WIDTH, build_text_encoder, tokenizer

CHANNELS = (64, 128, 256, 384)
AVERAGES = (20_000, 150_000)  # samples


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


def modules(start: Path | None) -> tuple[UNet2DConditionModel, CLIPTextModel, list[torch.nn.Parameter]]:
    """UNet, text encoder and the parameters in the order of the checkpoint; from an export if ``start`` is given."""
    unet, text = build_unet(), build_text_encoder()
    if start:
        unet.load_state_dict(exported(start, "unet"))
        text.load_state_dict(exported(start, "text_encoder"))
    if not CUDA:  # the fused attention of CPUs takes 1.4 to 1.7 times as long a step
        unet.set_attn_processor(AttnProcessor())
    # A head that no step trains ends the checkpoints of the recipe: kept, so that they go on here and there.
    spare = torch.nn.Sequential(torch.nn.Conv2d(256, 512, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(512, 328, 1))
    parts = [m.to(DEVICE, memory_format=torch.channels_last) for m in (unet, text, spare)]
    return unet, text, [p for m in parts for p in m.parameters()]


def scale_of(state: dict[str, Any] | None, start: Path | None) -> float:
    """The scaling factor of the latents that the weights were trained on; 0 for weights from nothing."""
    if state:
        return state["scale"]
    return json.loads((start / "vae" / "config.json").read_text(encoding="utf8"))["scaling_factor"] if start else 0.0


def train(minutes: float, start: Path | None = None, batch=0, lr=0.0, halves=0.3, decay=False, whole=False, **more):
    """Goes on from ``WORK/unet.pt``, else from the export ``start`` with a fresh optimiser, else from nothing.

    ``batch``, ``lr``: 0 for the machine's own. ``decay``: the rate falls to nothing within these minutes. ``whole``:
    they hold the making of the latents too. ``halves``, ``more``: see `Examples`.
    """
    began, state, lr = time.time(), get("unet"), lr or (8e-4 if CUDA else 5e-4)
    behind = (state["n"], state["steps"], state["sec"]) if state else (0, 0, 0.0)
    vae, batch = load_autoencoder(start), batch or (256 if CUDA else 32)
    examples = Examples(vae, tokenizer(), scale_of(state, start), batch, halves, seed=behind[1], **more)
    unet, text, params = modules(None if state else start)
    weights = Weights(params, lr, AVERAGES, 0.01)
    if state:
        weights.load(state["w"])
        state.clear()  # half a gigabyte
    run = Run("network", minutes - (time.time() - began) / 60 * whole, *behind)
    abar = scheduler().alphas_cumprod.to(DEVICE)

    def save() -> None:
        counters = {"n": run.samples, "steps": run.steps, "sec": run.seconds}
        put({"w": weights.state(), "scale": examples.scale} | counters, "unet")

    for _ in run.until(save, every=400):
        rate = lr * min(1, (run.steps + 1) / 500, (run.steps - behind[1] + 1) / 50)
        rate *= max(0.02, 1 - run.share) if decay else 1
        one = examples()
        loss = loss_of(unet, text(one.ids).last_hidden_state, one, abar)
        loss.backward()
        weights.step(rate, len(one.clean), run.samples)
        run.count(len(one.clean), lr=rate, **{f"loss{one.clean.shape[-1]}": loss})
