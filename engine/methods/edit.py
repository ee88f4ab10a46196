"""SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (Meng et al. 2021, arXiv
2108.01073, algorithms 4 and 5; methods.md §4), in sigma scale.

The guide is noised to t0 and denoised again; a mask keeps the rest of a photograph, at every level and in the end to
the last bit. The published code's slips (kept part one level too noisy, noise left in it) are not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine import images, rendering
from engine.models import Models
from engine.network import Network, guided
from engine.rendering import cells, colourless, fresh, latents, pasted, region
from engine.sampling import ancestral, euler, generator, keeping
from engine.schema import Done, EditRequest, Event, Frame, Progress

BATCH = 16  # results that are under way together
DECODE = 0.06  # of the progress bar


def edit(models: Models, request: EditRequest) -> Iterator[Event]:
    """`Frame`s of the guide made real, one for every seed, in one batch."""
    started = perf_counter()
    yield Progress(0.0, f"loading {request.model}")
    net, r = models.load(request.model), request
    before = net.evaluations
    size = images.frame_size(r.guide, "fit", r.size or net.size, net.multiple)
    guide, photo, mask = layers(r, size)
    pictures: list[Image.Image] = []
    if not r.strength or (mask is not None and not mask.any()):
        pictures = [Image.fromarray(guide)] * r.count
    else:
        z = latents(models, net, [guide, photo])
        look = net.previewer(z, images.to_tensor([Image.fromarray(p) for p in (guide, photo)]))
        for start in range(0, r.count, BATCH):
            nth = list(range(start, min(r.count, start + BATCH)))
            low, high = start / r.count, (nth[-1] + 1) / r.count
            x = yield from _rounds(net, r, z, look, mask, nth, low, high - DECODE * (high - low))
            pictures += images.to_pictures(net.decode(x))
        if mask is not None:
            pictures = pasted(pictures, photo, mask, r.feather)
    for i, picture in enumerate(pictures):
        yield Frame(i, picture)
    yield Progress(1.0, "done")
    notes = [f"the prompt is {n} tokens too long for {net.name}; its end was left out"
             for n in (net.overlong(r.prompt),) if n]  # fmt: skip
    away = np.asarray(pictures[0], np.float32) / 255 - guide.astype(np.float32) / 255
    quality = {"l2": float(np.square(away).sum())}  # ‖x_g − SDEdit(x_g)‖², the paper's faithfulness
    settings = r.settings() | {"width": size[0], "height": size[1]}
    yield Done(tuple(pictures), settings, perf_counter() - started, net.evaluations - before, tuple(notes), quality)


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
    net: Network, r: EditRequest, z: Tensor, look, mask: np.ndarray | None, nth: list[int], low: float, high: float
):
    """K times up to t0 and down again, from the last result; returns the clean latents (len(nth), C, h, w)."""
    x, z_photo = z[:1].expand(len(nth), -1, -1, -1), z[1:]
    words = net.embed([r.prompt, r.negative])
    field = net.field(guided(words[:1], words[1:], 1 if r.prompt == r.negative else r.guidance))
    levels = net.below(net.sigma(r.strength), r.steps)
    free = None if mask is None else rendering.level_of(net, cells(mask, net), r.strength)
    for k in range(r.repeats):
        noise = fresh(net, z.shape[1:], [(r.seed, i, k) for i in nth])
        eps = noise()
        # At t0 = 1 nothing of the guide is left, not even the mean colour that the last level still shows.
        up = x + levels[0] * eps if r.strength < 1 else colourless(eps, levels[0], 1.0)
        step = ancestral(r.eta, [generator(r.seed, i, k, 1) for i in nth]) if r.eta else euler
        if free is not None:
            up = torch.where(free >= levels[0] - 1e-9, up, z_photo + levels[0] * eps)
            step = keeping(step, z_photo, free, noise if r.noise == "fresh" else lambda eps=eps: eps)
        span = (high - low) / r.repeats
        doing = "making it real" if r.repeats == 1 else f"round {k + 1} of {r.repeats}"
        x = yield from rendering.walk(
            net, field, up, levels, step, look, nth[0], doing, low + k * span, low + (k + 1) * span
        )
    return x
