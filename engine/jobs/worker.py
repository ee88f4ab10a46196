"""One thread owns a device. `Worker.submit(request)` gives a `Job`; iterating it gives events.

`submit` is the whole seam: `engine.jobs.ray` (several devices or machines) and `engine.jobs.zerogpu` (ZeroGPU)
implement it too, with the same `Job`. What both need to bring events over from another process is at the end.
"""

from __future__ import annotations

import logging
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

from engine.requests import Cancelled, Event, Preview, Progress, Waiting

HEARTBEAT = 0.25  # seconds between two `Waiting`s, so that a vanished reader is noticed
_END = object()
Run = Callable[[Any], Iterator[Event]]
Fetch = Callable[[Any], Iterator[Progress]]


class Job:
    """One submitted request. Iterate it once; leaving the iteration early cancels it."""

    def __init__(self, request: Any, place: Callable[[Job], int] = lambda job: 0):
        self.request, self.cancelled = request, False
        self.model: str | None = getattr(request, "model", None)  # the network that it needs
        self._events: deque[Any] = deque()
        self._ready = threading.Condition()
        self._place, self._closed = place, False

    def cancel(self) -> None:
        """Stops the job: at once while it waits, at its next step while it runs."""
        self.cancelled = True
        with self._ready:
            self._ready.notify_all()

    def put(self, event: Any) -> None:
        """For the worker: an event, an error that ends the job, or its end."""
        with self._ready:
            if self._closed:
                return
            if isinstance(event, Preview | Progress):  # only the newest of these is worth showing
                kind = type(event), getattr(event, "index", 0)
                self._events = deque(e for e in self._events if (type(e), getattr(e, "index", 0)) != kind)
            self._events.append(event)
            self._ready.notify_all()

    def __iter__(self) -> Iterator[Event]:
        """Events until `Done`. Raises what the method raised, and `Cancelled` after `cancel`."""
        try:
            while True:
                with self._ready:
                    if not self._events and not self.cancelled:
                        self._ready.wait(HEARTBEAT)
                    if self._events:
                        event = self._events.popleft()
                    elif self.cancelled:
                        raise Cancelled
                    else:
                        event = Waiting(self._place(self))
                if event is _END:
                    return
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.cancelled = self._closed = True
            self._events.clear()


class Worker:
    """Runs jobs in the order in which they came, each on the first free device, one at a time on each.

    A device is a callable, ``run(request)``, which gives the events of one job, and a daemon thread that calls it.
    ``fetch(request)`` brings what a job has to download, before it joins the queue and beside jobs that have a device;
    it ends without an event where nothing is to be brought, and soon gives its first one otherwise.
    """

    def __init__(self, *runs: Run, fetch: Fetch | None = None):
        self._fetch = fetch or (lambda request: iter(()))
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._free: dict[int, str | None] = dict.fromkeys(range(len(runs)))  # device → network it last served
        self._closing = False
        for device, run in enumerate(runs):
            threading.Thread(target=self._loop, args=(device, run), daemon=True, name=f"device {device}").start()

    def submit(self, request: Any) -> Job:
        """Queues a request and returns at once."""
        job = Job(request, self._place)
        try:
            events = self._fetch(request)
            whole = chain([next(events)], events)
            threading.Thread(target=self._bring, args=(job, whole), daemon=True, name="fetch").start()
        except StopIteration:  # there is nothing to fetch
            self._join(job)
        except Exception as e:
            job.put(e)
        return job

    def close(self) -> None:
        """Ends the threads, each at its job's end; jobs that wait are cancelled."""
        with self._changed:
            self._closing = True
            for job in self._waiting:
                job.cancel()
            self._changed.notify_all()

    def _bring(self, job: Job, events: Iterator[Progress]) -> None:
        end = forward(lambda request: takewhile(lambda event: not self._closing, events), job)
        self._join(job) if end is _END else job.put(end)

    def _join(self, job: Job) -> None:
        with self._changed:
            if self._closing:
                job.cancel()
            self._waiting.append(job)
            self._changed.notify_all()

    def _place(self, job: Job) -> int:
        """How many jobs are before this one; 0 while it fetches or runs."""
        with self._changed:
            if job not in self._waiting:
                return 0
            return sum(not j.cancelled for j in takewhile(lambda j: j is not job, self._waiting)) + (not self._free)

    def _take(self, device: int) -> Job | None:
        """The next job, when its turn comes and it is for this device; None when the worker closes."""

        def mine() -> bool:
            return bool(self._waiting) and prefer(self._waiting[0].model, self._free) == device

        with self._changed:
            self._changed.wait_for(lambda: self._closing or mine())
            if self._closing:
                return None
            del self._free[device]
            self._changed.notify_all()  # the job behind it may be for another device
            return self._waiting.popleft()

    def _loop(self, device: int, run: Run) -> None:
        last = None
        while (job := self._take(device)) is not None:
            end: Any = Cancelled()
            if not job.cancelled:
                end, last = forward(run, job), job.model or last  # enlarging needs none
            with self._changed:
                self._free[device] = last
                self._changed.notify_all()
            job.put(end)  # only now, so that whoever has read the end finds the device free


def prefer(model: str | None, free: Mapping[int, str | None]) -> int | None:
    """The device for a job: one that last served its network, else one that served none, else the longest free.

    ``free`` maps free devices, longest free first, to the network each last served. None where none is free.
    """
    return min(free, key=lambda device: (free[device] != model, free[device] is not None), default=None)


def forward(run: Run, job: Job) -> Any:
    """Gives a job's events to its reader until it ends or is cancelled. Returns its end, which `Job.put` takes."""
    try:
        events = run(job.request)
        try:
            for event in events:
                job.put(event)
                if job.cancelled:
                    return Cancelled()
        finally:
            getattr(events, "close", lambda: None)()
    except BaseException as e:  # whatever it was, the next job must run
        if not isinstance(e, ValueError | Cancelled):
            logging.getLogger(__name__).error("a job failed: %s", type(job.request).__name__, exc_info=e)
        return e
    return _END


@dataclass(frozen=True)
class Failure:
    """An error on its way from another process: itself, if it can be pickled, and its traceback as text."""

    error: BaseException
    trace: str


def send(run: Run, request: Any) -> Generator[Any, None, None]:
    """There: the events of a request; an error comes as the last value, since no transport hands errors over as is."""
    try:
        yield from run(request)
    except Exception as e:
        trace = "".join(traceback.format_exception(type(e), e, e.__traceback__))
        try:
            pickle.loads(pickle.dumps(e))
        except Exception:
            e = RuntimeError(f"{type(e).__name__}: {e}")
        yield Failure(e, trace)


def receive(values: Iterable[Any]) -> Generator[Event, None, None]:
    """Here: the events of what `send` gave there; raises its error, with the traceback from there as the cause."""
    for value in values:
        if isinstance(value, Failure):
            raise value.error from RuntimeError(f"in the other process:\n{value.trace}")
        yield value
