"""DiffMorpher (Zhang et al. 2023, arXiv 2312.07409; methods.md §2), through two or more pictures.

A LoRA is fitted to every picture; each picture is inverted with its own LoRA and denoised again, while what enters the
decoder's self-attentions is kept. A frame between two pictures then walks down from the slerp of their noises, with the
mix of their LoRAs, of their words and, for the first steps, of what was kept. A quick look at few frames in few steps
says where the frames have to stand so that the picture changes evenly.

What a picture needs by itself (its LoRA, its noise, its features) is made once and kept on disk by content.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from engine.context import Advance, Context, Output, Steps, walk
from engine.diffusion import attention, lora
from engine.diffusion.geometry import adain, lerp, slerp
from engine.diffusion.lora import LoraStack
from engine.methods import align
from engine.methods.fast import fast
from engine.methods.learn import Job, Place, files, fit, invert, redraw, start
from engine.requests import Frame, MorphRequest
from engine.vision import images, perceptual

PROBE_FRAMES, PROBE_STEPS = 9, 8  # of the quick look


def morph(context: Context, r: MorphRequest) -> Steps:
    """`Frame`s of the way through the pictures. The pictures themselves are drawn again too, unless ``exact_ends``."""
    if r.tier == "fast":
        return (yield from fast(context, r))
    model = context.model
    size = images.frame_size(r.pictures[0], r.fit, r.size or model.size, model.multiple)
    keys = [images.fit_frame(p, size, r.fit) for p in r.pictures]
    at = [k * (r.frames - 1) for k in range(len(keys))]
    yield Advance("looking at the pictures", frames=at, pictures=keys)
    job = start(context, r, keys)
    joints = [job.leg(k) for k in range(job.legs)]
    pictures = [r.pictures[job.of.index(k)] for k in range(len(job.names))]
    job.alignment = yield from align.find(context, r, pictures, joints, job.z, job.words)
    job.notes += job.alignment.notes
    with ExitStack() as inside:
        if r.lora != "none":
            yield from fit(job)
            inside.enter_context(lora.attach(model, LoraStack.join(job.loras), r.form))
        noise, whose = yield from invert(job)
        again, features = yield from redraw(job, noise, whose)
        ends = keys if r.exact_ends else images.to_pictures(model.decode(again[job.of]))
        frames = dict(zip(at, ends, strict=True))
        yield from (Frame(i, frames[i]) for i in at)
        inside.enter_context(attention.mix(model, features, r.own, job.blend))
        ways = [[i / (r.frames - 1) for i in range(r.frames)]] * job.legs
        if r.reschedule:
            ways = yield from probe(job, noise)
        inner = {k * (r.frames - 1) + i: (k, ways[k][i]) for k in range(job.legs) for i in range(1, r.frames - 1)}
        for cells in (list(inner)[i : i + model.rows] for i in range(0, len(inner), model.rows)):
            doing = "drawing the frames" + f", from number {cells[0] + 1}" * (len(inner) > model.rows)
            x = yield from between(job, noise, [inner[i] for i in cells], job.sigmas, doing, cells)
            for i, z in zip(cells, x.split(1), strict=True):
                frames[i] = images.to_pictures(model.decode(z))[0]
                yield Advance(doing, decoded=1)
                yield Frame(i, frames[i])
    yield Advance("measuring the way")
    pictures = [frames[i] for i in range(r.total)]
    quality = perceptual.quality(model, images.to_tensor(pictures), images.to_tensor(keys), at, r.loop)
    return Output(pictures, {}, quality, job.notes + model.unread(r.words()), files(job))


def between(
    job: Job, noise: Tensor, places: Sequence[Place], sigmas: list[float], doing: str, cells: Sequence[int] = ()
) -> Generator[Advance, None, Tensor]:
    """Frames at ``places``, all in one batch (eq. 4 to 8)."""
    a, b = (torch.tensor([job.leg(k)[i] for k, _ in places]) for i in (0, 1))
    w = torch.tensor([w for _, w in places], dtype=torch.float64)
    job.moves = job.alignment.rows(places, [job.leg(k) for k, _ in places]) if job.alignment else None
    ends = [noise[k] if not job.moves else job.moves.noise(noise[k], side) for side, k in enumerate((a, b))]
    x = slerp(*ends, w)
    if job.request.adain:
        # Of what is there once it has moved: a larger flower counts for more.
        spreads, means = zip(*(torch.std_mean(z, dim=(2, 3), keepdim=True, correction=0) for z in ends), strict=True)
        x = adain(x, lerp(*means, w), lerp(*spreads, w))
    weights = job.weights(places)
    mix = weights if job.fixed is None else job.fixed.expand(len(places), -1)
    rows = job.conditionings(job.words[a].lerp(job.words[b], w), mix, weights if job.attending else None)
    return (yield from walk(job.context.model.denoiser(rows), x, sigmas, doing, cells))


def probe_sigmas(sigmas: list[float], steps: int) -> list[float]:
    """About ``steps`` of the sigmas, evenly chosen, the first and the last among them: what was kept still serves."""
    n = len(sigmas) - 1
    chosen = sorted({round(i * n / min(steps, n)) for i in range(min(steps, n))})
    return [*(sigmas[i] for i in chosen), 0.0]


def probe(job: Job, noise: Tensor) -> Generator[Advance, None, list[list[float]]]:
    """Where the frames of every leg have to stand so that the picture changes evenly (§3.5; methods.md §2.2 D).

    Measured on few frames in few steps.
    """
    places, last, doing = [i / (PROBE_FRAMES - 1) for i in range(PROBE_FRAMES)], job.request.frames - 1, "looking"
    doing = "looking where the picture changes"
    # The ends are drawn in as few steps as the rest: better ones would seem farther away than they are.
    every = [(k, w) for k in range(job.legs) for w in places]
    x = yield from between(job, noise, every, probe_sigmas(job.sigmas, PROBE_STEPS), doing)
    model, out = job.context.model, []
    for k, part in enumerate(model.decode(x).cpu().split(PROBE_FRAMES)):
        out.append(perceptual.even(places, perceptual.steps(model, part).tolist(), job.request.frames))
        # Each is shown where it will about be, until the frame itself comes.
        nearest = {round(w * last): i for i, w in enumerate(places) if round(w * last) not in (0, last)}
        shown = images.to_pictures(part[list(nearest.values())]) if nearest else []
        yield Advance(doing, decoded=PROBE_FRAMES, frames=[k * last + i for i in nearest], pictures=shown)
    return out
