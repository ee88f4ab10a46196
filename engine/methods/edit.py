"""SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (Meng et al. 2021, arXiv
2108.01073, algorithms 4 and 5; methods.md §4), in sigma scale.

The guide is noised to t0 and denoised again; a mask keeps the rest of a photograph, at every level and in the end to
the last bit. The published code's slips (kept part one level too noisy, noise left in it) are not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.checkpoints.manager import Models
from engine.diffusion.model import Network, guided
from engine.diffusion.sampling import ancestral, euler, generator, masked_step
from engine.requests import Done, EditRequest, Event, Frame, Progress
from engine.vision import compositing as rendering
from engine.vision import images
from engine.vision.compositing import cells, colourless, fresh, latents, pasted, region

DECODE = 0.06  # of the progress bar


def edit(models: Models, request: EditRequest) -> Iterator[Event]:
    """`Frame`s of the guide made real, one for every seed, in one batch."""
    started = perf_counter()
    yield Progress(0.0, f"loading {request.model}")
    net, r = (yield from models.loading(request.model)), request
    before = net.evaluations
    size = images.frame_size(r.guide, "fit", r.size or net.size, net.multiple)
    guide, photo, mask = layers(r, size)
    if r.strength:
        z = latents(models, net, [guide])
        look = net.previewer(z, images.to_tensor([Image.fromarray(guide)]))
        words = rendering.words(models, net, r.prompt, r.negative)
        x = yield from _rounds(net, r, z, words, look, mask)
        pictures = images.to_pictures(net.decode(x))
    else:
        pictures = [Image.fromarray(guide)] * r.count
    if mask is not None:
        pictures = pasted(pictures, photo, mask, r.feather)
    for i, picture in enumerate(pictures):
        yield Frame(i, picture)
    yield Progress(1.0, "done")
    away = np.asarray(pictures[0], np.float32) / 255 - guide.astype(np.float32) / 255
    quality = {"l2": float(np.square(away).sum())}  # ‖x_g − SDEdit(x_g)‖², the paper's faithfulness
    settings = r.settings() | {"width": size[0], "height": size[1], "plan": r.plan()}
    yield Done(
        tuple(pictures),
        settings,
        perf_counter() - started,
        net.evaluations - before,
        tuple(net.notes(r.prompt)),
        quality,
    )


def layers(r: EditRequest, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Guide, photograph (H, W, 3) and mask (H, W) 0 … 1 at the size of the frame; no mask if everything may change.

    The guide is the photograph wherever nothing may change.
    """
    photo = None if r.photo is None else np.asarray(images.fitted(r.photo, size, "fit"))
    mask = None if r.mask is None else region(r.mask, [], 0, size)
    if r.guide.mode == "RGBA":
        own = rendering.paint(r.guide, size)
        guide = own.over(np.full((size[1], size[0], 3), 255, np.uint8) if photo is None else photo)
        if mask is None and photo is not None:
            mask = region(None, [own.alpha], r.around, size)
    else:
        guide = np.asarray(images.fitted(r.guide, size, "fit"))
    photo = guide if photo is None else photo
    if mask is None:
        return guide, photo, None
    return np.where(mask[..., None] > 0, guide, photo), photo, None if mask.min() >= 1 else mask


def _rounds(
    net: Network, r: EditRequest, z: Tensor, words: Tensor, look: Callable, mask: np.ndarray | None
) -> Iterator[Event]:
    """K times up to t0 and down again, from the last result; returns the clean latents (count, C, h, w)."""
    seeds, span = [p["seed"] for p in r.plan()], (1 - DECODE) / r.repeats
    x = z.expand(len(seeds), -1, -1, -1)
    field = net.field(guided(words[:1], words[1:], 1 if r.prompt == r.negative else r.guidance))
    levels = net.below(r.strength, r.steps)
    free = None if mask is None else rendering.level_of(net, cells(mask, net, most=True), r.strength)
    for k in range(r.repeats):
        noise = fresh(net, z.shape[1:], [(s, k) for s in seeds])
        eps = noise()
        # At t0 = 1 nothing of the guide is left, not even the mean colour that the last level still shows.
        up = x + levels[0] * eps if r.strength < 1 else colourless(eps, levels[0], 1.0)
        step = ancestral(r.eta, [generator(s, k, 1) for s in seeds]) if r.eta else euler
        if free is not None:
            # Kept is the guide, which is the photograph where nothing may change at all.
            up = torch.where(free >= levels[0] - 1e-9, up, z + levels[0] * eps)
            step = masked_step(step, z, free, noise if r.noise == "fresh" else lambda eps=eps: eps)
        doing = "making it real" if r.repeats == 1 else f"round {k + 1} of {r.repeats}"
        x = yield from rendering.walk(net, field, up, levels, step, look, doing, k * span, (k + 1) * span)
    return x
