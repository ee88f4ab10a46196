"""`run`: the envelope of every job. Methods say what their paper says; the rest of a job is here, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from time import perf_counter
from typing import Any

import torch

from engine.checkpoints.manager import ModelManager
from engine.context import Advance, Context, Method, Output, Steps
from engine.diffusion.guidance import Conditioning
from engine.diffusion.memory import SHORT, short_of_memory
from engine.jobs.cache import Cache
from engine.jobs.plan import DECODE, FIT, plan, total
from engine.methods.draw import draw
from engine.methods.edit import edit
from engine.methods.enlarge import enlarge
from engine.methods.interpolate import interpolate
from engine.methods.match import match
from engine.methods.morph import morph
from engine.methods.pose import find
from engine.requests import (
    Cost,
    Done,
    DrawRequest,
    EditRequest,
    EngineError,
    EnlargeRequest,
    Event,
    InterpolateRequest,
    LoadRequest,
    MatchRequest,
    MorphRequest,
    PoseRequest,
    Preview,
    Progress,
)
from engine.requests.phrases import spoken
from engine.requests.settings import Settings
from engine.vision import images

PREVIEW_EVERY = 0.2  # seconds
# Looks by the light decoder may take this share of a job that goes on for longer than so many seconds, and they must
# come as often; else the linear map is looked through.
PREVIEW_SHARE, PREVIEW_RARELY = 0.1, 1.0


def warm_up(context: Context, r: LoadRequest) -> Steps:
    """The first step and the first decoding of a process take several times as long as the rest."""
    model = context.model
    yield Advance(f"warming {r.model} up")
    side = model.size // model.vae_scale_factor
    z = torch.zeros(2, model.channels, side, side, device=model.device)
    z = model.denoiser([Conditioning(model.embed([""]))])(z, 1.0)
    model.look(z)
    model.decode(z)
    return Output(())


METHODS: dict[type, Method] = {
    InterpolateRequest: interpolate,
    MorphRequest: morph,
    DrawRequest: draw,
    EditRequest: edit,
    LoadRequest: warm_up,
    EnlargeRequest: enlarge,
    PoseRequest: find,
    MatchRequest: match,
}


def run(context: Context, request: Any) -> Iterator[Event]:
    """Events of one request, the last of them `Done`. Close it to stop: every hook is undone on the way out.

    EngineError for what the person can mend, a lack of memory among it.
    """
    asked, request = request, spoken(request)
    started, bar = perf_counter(), Bar(plan(request), context)
    steps = _steps(context, request)
    output = None
    try:
        if request.loads:
            yield Progress(0.0, f"loading {request.model}")
        while output is None:
            event, output = _next(context, steps)
            if isinstance(event, Advance):
                yield from bar.advance(event)
            elif isinstance(event, Progress) and context.loaded:  # a download in the middle
                yield replace(event, fraction=bar.fraction)
            elif event is not None:
                yield event
            yield from bar.tell()
    finally:
        steps.close()
    yield Progress(1.0, "done")
    settings, size = asked.settings() | dict(output.settings), output.frames[0].size if output.frames else None
    if size:
        settings |= dict(zip(("width", "height"), size, strict=True))
    notes = [*images.notes(request, size), *output.notes]
    notes += [t for t in (context.trouble, context.cache and context.cache.trouble) if t]
    seconds, quality = perf_counter() - started, dict(output.quality)
    own = {"quality": quality, "files": dict(output.files), "executor": context.executor}
    yield Done(tuple(output.frames), settings, seconds, context.evaluations, tuple(notes), **own)


def _steps(context: Context, request: Any) -> Steps:
    if request.loads:
        yield from context.load(request.model, request.wants)
    return (yield from METHODS[type(request)](context, request))


def _next(context: Context, steps: Steps) -> tuple[Any, Output | None]:
    """What a method yields next, or what it returns."""
    with torch.no_grad():  # grad mode is a thread's own; a generator must not leave it changed while it waits
        try:
            return next(steps), None
        except StopIteration as end:
            return None, end.value
        except SHORT as e:  # where no smaller chunk would help
            if not short_of_memory(e):
                raise
            raise EngineError(
                f"memory of {context.models.device} must hold the pictures of the job, got too little; choose a "
                "smaller size or fewer pictures"
            ) from None


class Bar:
    """How far a job is, and how its pictures look on the way."""

    def __init__(self, cost: Cost, context: Context):
        self.cost, self.context, self.whole = cost, context, max(1.0, total(cost))
        self.done, self.shown, self.said = 0.0, 0.0, ""
        self.begun = self.row = 0.0  # when pictures were there first, and seconds of the light decoder a row

    @property
    def fraction(self) -> float:
        return min(self.done / self.whole, 0.999)

    def advance(self, a: Advance) -> Iterator[Progress | Preview]:
        self.done += a.steps * self.cost.rows + FIT * a.fits + DECODE * a.decoded
        yield Progress(self.fraction, a.doing)
        yield from (Preview(i, p) for i, p in zip(a.frames, a.pictures, strict=False))
        if a.latents is not None:
            rows = {frame: n for n, frame in reversed(list(enumerate(a.frames)))}  # the first candidate of each
            pictures = self.look(a.latents[sorted(rows.values())])
            frames = sorted(rows, key=lambda frame: rows[frame])
            yield from (Preview(i, p) for i, p in zip(frames, pictures, strict=False))

    def look(self, latents: Any) -> list[Any]:
        """Pictures of latents (n, C, h, w) when they are due, as good as the time for them allows."""
        now, apart = perf_counter(), self.row * len(latents) / PREVIEW_SHARE
        self.begun = self.begun or now
        light = apart <= PREVIEW_RARELY < now - self.begun and self.context.lights
        if now - self.shown <= (max(apart, PREVIEW_EVERY) if light else PREVIEW_EVERY):
            return []
        pictures = self.context.look(latents, light)
        self.shown = perf_counter()
        if light:
            self.row = (self.shown - now) / len(latents)
        return pictures

    def tell(self) -> Iterator[Progress]:
        """A lack of memory is told while it is news."""
        if self.context.trouble != self.said:
            self.said = self.context.trouble
            yield Progress(self.fraction, self.said)


def runner(settings: Settings) -> Callable[[Any], Iterator[Event]]:
    """``run(request)`` over networks and a cache that are made at the first job, in the thread that has it."""

    @cache
    def resident() -> tuple[ModelManager, Cache]:
        cache = Cache(settings.cache, int(settings.cache_gb * 1e9))
        own = {"memory": settings.memory, "paths": settings.paths, "folders": settings.folders}
        own |= {"executor": settings.executor, "graphs": cache.graphs}
        return ModelManager(settings.device, **own), cache

    return lambda request: run(Context(*resident()), request)
