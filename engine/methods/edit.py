"""SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (Meng et al. 2021, arXiv
2108.01073, algorithms 4 and 5; methods.md §4), in sigma scale.

The guide is noised to t0 and denoised again; a mask keeps the rest of a photograph, at every level and in the end to
the last bit. The published code's slips (kept part one level too noisy, noise left in it) are not repeated.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.context import Advance, Context, Output, Steps, free_from, noise_source, walk
from engine.diffusion.guidance import classifier_free
from engine.diffusion.sampling import ancestral, euler, generator, masked_step
from engine.requests import EditRequest, Frame
from engine.vision import compositing, images

SAME = 8  # levels: a guide that was saved by another program is not the photograph to the last bit


def edit(context: Context, r: EditRequest) -> Steps:
    """`Frame`s of the guide made real, one for every seed, in one batch."""
    model = context.model
    size = images.frame_size(r.guide, "fit", r.size or model.size, model.multiple)
    guide, photo, mask = layers(r, size)
    if r.strength:
        z = yield from rounds(context, r, context.encode_each([guide]), mask)
        pictures = images.to_pictures(model.decode(z))
    else:
        pictures = [Image.fromarray(guide)] * r.count
    if mask is not None:
        painted = np.abs(guide.astype(np.int16) - photo).max(2) > SAME if r.match else None
        pictures = compositing.paste(pictures, photo, mask, r.feather, painted)
    for i, picture in enumerate(pictures):
        yield Frame(i, picture)
    away = np.asarray(pictures[0], np.float32) / 255 - guide.astype(np.float32) / 255
    quality = {"l2": float(np.square(away).sum())}  # ‖x_g − SDEdit(x_g)‖², the paper's faithfulness
    return Output(pictures, {"plan": r.plan()}, quality, model.unread([r.prompt, r.negative]))


def layers(r: EditRequest, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Guide, photograph (H, W, 3) and mask (H, W) 0 … 1 at the size of the frame; no mask if everything may change.

    The guide is the photograph wherever nothing may change.
    """
    photo = None if r.photo is None else np.asarray(images.fit_frame(r.photo, size, "fit"))
    mask = None if r.mask is None else compositing.region(r.mask, [], 0, size)
    if r.guide.mode == "RGBA":
        own = compositing.paint(r.guide, size)
        guide = own.over(np.full((size[1], size[0], 3), 255, np.uint8) if photo is None else photo)
        if mask is None and photo is not None:
            mask = compositing.region(None, [own.alpha], r.around, size)
    else:
        guide = np.asarray(images.fit_frame(r.guide, size, "fit"))
    photo = guide if photo is None else photo
    if mask is None:
        return guide, photo, None
    return np.where(mask[..., None] > 0, guide, photo), photo, None if mask.min() >= 1 else mask


def rounds(context: Context, r: EditRequest, z: Tensor, mask: np.ndarray | None) -> Generator[Advance, None, Tensor]:
    """K times up to t0 and down again, from the last result; returns the clean latents (count, C, h, w)."""
    model, seeds = context.model, [p["seed"] for p in r.plan()]
    cond, uncond = context.embed(r.prompt, r.negative).split(1)
    denoise = model.denoiser(classifier_free(cond, uncond, 1 if r.prompt == r.negative else r.guidance))
    sigmas = model.schedule.sigmas_from_strength(r.strength, r.steps)
    if mask is not None:
        free = free_from(model, compositing.latent_grid(mask, model.vae_scale_factor, most=True), r.strength)
    x = z.expand(len(seeds), -1, -1, -1)
    for k in range(r.repeats):
        noise = noise_source(z.shape[1:], [(s, k) for s in seeds], model.device)
        eps = noise()
        up = x + sigmas[0] * eps
        if r.strength == 1 and not model.schedule.zero_terminal_snr:
            # At t0 = 1 nothing of the guide is left, not even the mean colour that the last level still shows.
            up = compositing.without_coarse(eps, sigmas[0], 1.0)
        step = ancestral(r.eta, [generator(s, k, 1) for s in seeds]) if r.eta else euler
        if mask is not None:
            # Kept is the guide, which is the photograph where nothing may change at all.
            up = torch.where(free >= sigmas[0] - 1e-9, up, z + sigmas[0] * eps)
            step = masked_step(step, z, free, noise if r.noise == "fresh" else lambda eps=eps: eps)
        doing = "making it real" if r.repeats == 1 else f"round {k + 1} of {r.repeats}"
        x = yield from walk(denoise, up, sigmas, doing, range(len(seeds)), step)
    return x
