"""Hugging Face ZeroGPU behind the worker's seam: the GPU is lent to one call at a time, in a process of that call.

`spaces` must be imported before torch, which it changes: app.py calls `zero_gpu` before it imports `morph_ui` (whose
pages import torch) or anything of the engine but this file, `engine.jobs.worker` and `engine.requests`, which do not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from itertools import count
from typing import Any

from engine.jobs.worker import Job, Run, far, forward, near
from engine.requests import (
    DrawRequest,
    EditRequest,
    EngineError,
    Event,
    InterpolateRequest,
    LoadRequest,
    MorphRequest,
    Waiting,
)

# Seconds, guessed for a slice of an H200 with an SD 1.5 at 512 × 512 in bfloat16. None of them was measured there.
LOADING = 12.0  # networks from disk to the GPU, for a call in a fresh process
ROW = 0.015  # one network row of a batch; guidance makes it two, drawings three
DECODING = 0.05  # one picture
FITTING = 0.06  # one row forward, backward and update: LoRAs, textual inversion
STEERED = 1.5  # a row with a ControlNet, in rows without
SPARE = 1.5  # a call that runs over is ended, one that asks for too much is refused sooner
LEAST, MOST = 10, 120
LIVE, QUICK = 4, 9 * 8  # steps of the sampler live at most; rows of DiffMorpher's quick look


def zero_gpu() -> Any:
    """The ``spaces`` module where this is a ZeroGPU Space (``SPACES_ZERO_GPU`` is true), else None."""
    if os.environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):
        return None
    try:
        import spaces  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return spaces


def rows(request: Any) -> tuple[float, float, int]:
    """Network rows, fitted rows and pictures that a request takes; upper bounds where that depends on its pictures."""
    r = request
    if isinstance(r, InterpolateRequest):
        tries, level = 0, 0
        while 2**level < r.frames - 1:
            tries += 2**level * max(r.candidates - level, min(r.candidates, 3))
            level += 1
        share = LIVE if r.sampler == "live" else r.steps * r.high
        steered = STEERED if r.pose != "off" else 1
        return tries * share * (2 if r.guidance != 1 else 1) * steered, 2 * r.invert_steps, tries
    if isinstance(r, MorphRequest):
        n, ways = len(r.pictures), len(r.pictures) - (not r.loop)
        learnt = 0 if r.lora == "none" else n - sum(map(bool, r.loras))
        look = QUICK * ways if r.reschedule else 0
        return (n + r.total) * r.steps + look, learnt * r.lora_steps * r.lora_draws, r.total
    if isinstance(r, DrawRequest):
        steps = min(r.steps, LIVE) if r.sampler == "live" else r.steps
        return r.total * steps * (STEERED if r.model != "flora" else 1) * (4 + _worded(r)), 0, r.total
    if isinstance(r, EditRequest):
        return r.total * r.steps * r.strength * r.repeats * (1 + _worded(r)), 0, r.total
    return 0, 0, 1


def _worded(request: Any) -> bool:
    """Whether words are guided to, which takes a row more."""
    return bool(request.prompt or request.negative) and request.guidance != 1


def seconds(request: Any) -> int:
    """GPU seconds to ask for, from the request's own numbers. They count against the visitor's day."""
    if isinstance(request, LoadRequest):
        return round(LOADING * SPARE)
    walked, fitted, pictures = rows(request)
    area = ((getattr(request, "size", 0) or 512) / 512) ** 2
    work = area * (ROW * walked + FITTING * fitted + DECODING * pictures)
    return max(LEAST, min(MOST, round(SPARE * (LOADING + work))))


class ZeroWorker:
    """One `spaces.GPU` call a job: a request and events cross as pickled values, and nothing else is shared.

    ZeroGPU queues and runs jobs side by side, so places in the queue are not known here. ``run`` makes its networks
    within the call: a fresh process loads them again, a reused one has them. (Networks made at module level would be
    ready in every call, at the price of all of them being loaded when the Space starts.) Make the worker before the
    page is launched: `spaces` reports its calls then. ``estimate(request)`` gives seconds.
    """

    def __init__(self, run: Run, estimate: Callable[[Any], int] = seconds):
        spaces = zero_gpu()
        if spaces is None:
            raise EngineError("SPACES_ZERO_GPU must be true and spaces installed, got no ZeroGPU")

        def call(request: Any) -> Iterator[Any]:
            yield Waiting(0)  # the GPU is there: the first chance to notice a cancelled job, before networks load
            yield from far(run, request)

        self._estimate = estimate
        self._call = spaces.GPU(duration=estimate)(call)
        self._numbers = count(1)

    def submit(self, request: Any) -> Job:
        """Starts a call and returns at once."""
        job = Job(request, next(self._numbers), lambda job: 0)
        # The context says who asks: `spaces` finds the visitor's quota, and whether the tab is still open, in it.
        threading.Thread(target=copy_context().run, args=(self._work, job), daemon=True, name="zero").start()
        return job

    def _work(self, job: Job) -> None:
        job._put(forward(self._events, job))

    def _events(self, request: Any) -> Iterator[Event]:
        values = self._call(request)
        try:
            yield from near(values)
        except Exception as e:
            refused = refusal(e, self._estimate(request))
            if refused:
                raise refused from e
            raise
        finally:
            values.close()  # the call ends at its next event


def refusal(error: BaseException, asked: int) -> EngineError | None:
    """The sentence for what ZeroGPU itself says (a gradio error whose title begins so); None for anything else."""
    title = str(getattr(error, "title", ""))
    if not title.startswith("ZeroGPU"):
        return None
    if "quota" in title or "duration" in title or "credits" in title:
        return EngineError(
            f"your GPU time here must cover the {asked} s of this job, got less; sign in, choose fewer frames or "
            "steps, or come back later"
        )
    if "worker" in title:
        return EngineError(
            f"the job must end within the {asked} s it asked for, got no end; choose fewer frames or steps"
        )
    return EngineError("a GPU must become free within a minute, got none; try again in a while")
