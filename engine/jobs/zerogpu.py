"""Hugging Face ZeroGPU behind the worker's seam: the GPU is lent to one call at a time, in a process of that call.

`spaces` must be imported before torch, which it changes: app.py calls `zero_gpu` before it imports `morph_ui` (whose
pages import torch) or anything of the engine but this file, `engine.requests`, and `across`, `queue` and `worker` of
`engine.jobs`, which do not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from time import monotonic
from typing import Any

from engine.jobs.across import receive, send
from engine.jobs.worker import Fetch, Job, Run, forward, note
from engine.requests import EngineError, Event, LoadRequest, Waiting

# Seconds, guessed for a slice of an H200 with an SD 1.5 at 512 × 512 in bfloat16. None of them was measured there.
LOADING = 12.0  # networks from disk to the GPU, for a call in a fresh process
ROW = 0.015  # one network row of a batch
DECODING = 0.05  # one picture; one enlarged takes as long (measured on one core: 0.2 s a megapixel)
FITTING = 0.06  # one row forward, backward and update: LoRAs, textual inversion
STEERED = 1.5  # a row with a ControlNet, in rows without
SPARE = 1.5  # a call that runs over is ended, one that asks for too much is refused sooner
LEAST, MOST = 10, 120


def zero_gpu() -> Any:
    """The ``spaces`` module where this is a ZeroGPU Space (``SPACES_ZERO_GPU`` is true), else None."""
    if os.environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):
        return None
    try:
        import spaces  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return spaces


def seconds(request: Any) -> int:
    """GPU seconds to ask for, from the request's own numbers. They count against the visitor's day."""
    from engine.jobs.plan import plan  # it imports torch, which comes after `spaces`

    if isinstance(request, LoadRequest):
        return round(LOADING * SPARE)
    cost = plan(request)
    row = ROW * (STEERED if cost.steered else 1)
    work = row * cost.steps * cost.rows + FITTING * cost.fits + DECODING * cost.pictures
    area = ((getattr(request, "size", 0) or 512) / 512) ** 2
    loading = LOADING if cost.steps or getattr(request, "loads", True) else 0
    return max(LEAST, min(MOST, round(SPARE * (loading + area * work))))


class ZeroWorker:
    """One `spaces.GPU` call a job: a request and events cross as pickled values, and nothing else is shared.

    ZeroGPU queues and runs jobs side by side, so places in the queue are not known here. ``fetch(request)`` brings what
    a job has to download before its call. ``run`` makes its networks within the call: a fresh process loads them again,
    a reused one has them. (Networks made at module level would be ready in every call, at the price of all of them
    being loaded when the Space starts.) Make the worker before the page is launched: `spaces` reports its calls then.
    ``estimate(request)`` gives seconds.
    """

    def __init__(self, run: Run, estimate: Callable[[Any], int] = seconds, fetch: Fetch | None = None):
        spaces = zero_gpu()
        if spaces is None:
            raise EngineError("SPACES_ZERO_GPU must be true and spaces installed, got no ZeroGPU")

        def call(request: Any) -> Iterator[Any]:
            yield Waiting(0)  # the GPU is there: the first chance to notice a cancelled job, before networks load
            yield from send(run, request)

        self._estimate, self._fetch = estimate, fetch or (lambda request: ())
        self._going = set[Job]()
        self._call = spaces.GPU(duration=estimate)(call)

    networks: tuple[str, ...] = ()  # each call has its own

    @property
    def load(self) -> tuple[int, int]:
        """None waits here, and how many calls go on: ZeroGPU does not say which of them have a GPU."""
        return 0, len(self._going)

    def submit(self, request: Any, visitor: str = "") -> Job:
        """Starts a call and returns at once; ZeroGPU knows its visitors, and bounds them, itself."""
        job = Job(request, visitor)
        # The context says who asks: `spaces` finds the visitor's quota, and whether the tab is still open, in it.
        threading.Thread(target=copy_context().run, args=(self._work, job), daemon=True, name="zero").start()
        return job

    def _work(self, job: Job) -> None:
        began = monotonic()
        self._going.add(job)
        end = forward(self._events, job)
        self._going.discard(job)
        note(job, end, monotonic() - began)
        job.put(end)

    def _events(self, request: Any) -> Iterator[Event]:
        yield from self._fetch(request)
        values = self._call(request)
        try:
            yield from receive(values)
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
