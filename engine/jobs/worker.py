"""One thread owns a device. `Worker.submit(request, visitor)` gives a `Job`; iterating it gives events.

`submit` is the whole seam: `engine.jobs.ray` (several devices or machines) and `engine.jobs.zerogpu` (ZeroGPU)
implement it too, with the same `Job`.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, takewhile
from time import monotonic
from typing import Any

from engine.jobs.queue import Limits, Overdue, Queue
from engine.requests import Cancelled, Done, EngineError, Event, Preview, Progress, Waiting

HEARTBEAT = 0.25  # seconds between two `Waiting`s, so that a vanished reader is noticed
_END = object()
Run = Callable[[Any], Iterator[Event]]
Fetch = Callable[[Any], Iterator[Progress]]


class Job:
    """One submitted request. Iterate it once; leaving the iteration early cancels it.

    ``place`` says how many jobs are before it, ``leave`` is told when nobody wants it any more."""

    def __init__(
        self,
        request: Any,
        visitor: str = "",
        place: Callable[[Job], int] = lambda job: 0,
        leave: Callable[[Job], None] = lambda job: None,
    ):
        self.request, self.visitor, self.id, self.cancelled = request, visitor, secrets.token_hex(4), False
        self.model: str | None = getattr(request, "model", None)  # the network that it needs
        self.size: tuple[int, int] | None = None  # of its first picture, when it is done
        self.executor = ""  # who answered for it (`Done`)
        self.noted = False  # whether the log has it
        self._events: deque[Any] = deque()
        self._ready = threading.Condition()
        self._place, self._leave, self._closed = place, leave, False

    def cancel(self) -> None:
        """Stops the job: at once while it waits, at its next step while it runs."""
        self.cancelled = True
        with self._ready:
            self._ready.notify_all()
        self._leave(self)

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
                    event = self._events.popleft() if self._events else None
                if event is None:
                    if self.cancelled:
                        raise Cancelled
                    event = Waiting(self._place(self))  # not within the lock: this asks for the worker's
                if event is _END:
                    return
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self._closed = True
            self._events.clear()
            self.cancel()


class Worker:
    """Runs jobs, visitors in turn (`Queue`), each on the first free device, one at a time on each.

    A device is a callable, ``run(request)``, which gives the events of one job, and a daemon thread that calls it.
    ``fetch(request)`` brings what a job has to download, before it joins the queue and beside jobs that have a device;
    it ends without an event where nothing is to be brought, and soon gives its first one otherwise.
    """

    def __init__(self, *runs: Run, fetch: Fetch | None = None, limits: Limits | None = None):
        self._fetch = fetch or (lambda request: iter(()))
        self._queue = Queue(limits)
        self._changed = threading.Condition()
        self._free: dict[int, str | None] = dict.fromkeys(range(len(runs)))  # device → network it last served
        self._closing, self._runs = False, runs
        for device, run in enumerate(runs):
            threading.Thread(target=self._loop, args=(device, run), daemon=True, name=f"device {device}").start()

    @property
    def load(self) -> tuple[int, int]:
        """How many jobs wait, downloads among them, and how many run."""
        with self._changed:
            return len(self._queue), len(self._runs) - len(self._free)

    @property
    def networks(self) -> list[str]:
        """Those on its devices, as far as these tell: a run may have ``networks``."""
        return sorted({name for run in self._runs for name in getattr(run, "networks", ())})

    def submit(self, request: Any, visitor: str = "") -> Job:
        """Queues a request and returns at once. ``visitor``: whoever sends it; they are served in turn."""
        job = Job(request, visitor, self._place, self._leave)
        try:
            with self._changed:
                self._queue.expect(job)
            events = self._fetch(request)
            whole = chain([next(events)], events)
            threading.Thread(target=self._bring, args=(job, whole), daemon=True, name="fetch").start()
        except StopIteration:  # there is nothing to fetch
            self._join(job)
        except Exception as e:
            self._give_up(job, e)
        return job

    def close(self) -> None:
        """Ends the threads, each at its job's end; jobs that wait are cancelled."""
        with self._changed:
            self._closing = True
            waiting = self._queue.jobs()
            self._changed.notify_all()
        for job in waiting:
            job.cancel()

    def _bring(self, job: Job, events: Iterator[Progress]) -> None:
        end = forward(lambda request: takewhile(lambda event: not self._closing, events), job)
        self._join(job) if end is _END else self._give_up(job, end)

    def _join(self, job: Job) -> None:
        with self._changed:
            self._queue.join(job)
            self._changed.notify_all()
        if self._closing:
            job.cancel()

    def _leave(self, job: Job) -> None:
        """It is cancelled: if it waits, others have its place at once, and its pictures are let go."""
        with self._changed:
            left = self._queue.leave(job)
            self._changed.notify_all()
        if left:
            note(job, Cancelled())

    def _give_up(self, job: Job, error: Any) -> None:
        """It never gets a device."""
        with self._changed:
            self._queue.leave(job)
        note(job, error)
        job.put(error)

    def _place(self, job: Job) -> int:
        """How many jobs are before this one; 0 while it fetches or runs."""
        with self._changed:
            return self._queue.before(job) + (not self._free) if job in self._queue else 0

    def _take(self, device: int) -> Job | None:
        """The next job, when its turn comes and it is for this device; None when the worker closes."""

        def mine() -> bool:
            job = self._queue.first()
            return job is not None and prefer(job.model, self._free) == device

        with self._changed:
            self._changed.wait_for(lambda: self._closing or mine())
            if self._closing:
                return None
            del self._free[device]
            self._changed.notify_all()  # the job behind it may be for another device
            return self._queue.take()

    def _loop(self, device: int, run: Run) -> None:
        last = None
        while (job := self._take(device)) is not None:
            began, end = monotonic(), None
            try:
                end = forward(run, job, self._queue.limits.seconds)
                note(job, end, monotonic() - began)
            except BaseException as e:  # without its thread the device would be lost to all who wait
                logging.getLogger(__name__).error("the thread of a device failed", exc_info=e)
                end = e if end is None else end
            last = job.model or last  # enlarging needs none
            with self._changed:
                self._free[device] = last
                self._queue.end(job)
                self._changed.notify_all()
            job.put(end)  # only now, so that whoever has read the end finds the device free
            del job, end  # its pictures, while nothing comes


def prefer(model: str | None, free: Mapping[int, str | None]) -> int | None:
    """The device for a job: one that last served its network, else one that served none, else the longest free.

    ``free`` maps free devices, longest free first, to the network each last served. None where none is free.
    """
    return min(free, key=lambda device: (free[device] != model, free[device] is not None), default=None)


def note(job: Job, end: Any, seconds: float = 0.0) -> None:
    """The line of a job in the log, once it is over. What it is of (words, pictures, names of files) is not in it."""
    if job.noted:
        return
    job.noted, r = True, job.request
    size = "x".join(map(str, job.size)) if job.size else getattr(r, "size", None) or "-"
    outcomes = (Overdue, "overdue"), (Cancelled, "cancelled"), (EngineError, "refused"), (BaseException, "failed")
    outcome = next((word for kind, word in outcomes if isinstance(end, kind)), "done")
    what = f"{getattr(r, 'method', '-')} size={size} steps={getattr(r, 'steps', '-')}"
    told = job.id, what, seconds, job.executor or "-", outcome
    logging.getLogger(__name__).info("job=%s method=%s seconds=%.2f by=%s outcome=%s", *told)


def forward(run: Run, job: Job, most: float = 0.0) -> Any:
    """Gives a job's events to its reader until it ends, is cancelled or has taken the ``most`` seconds (0: no limit).

    Returns its end, which `Job.put` takes."""
    began = monotonic()
    try:
        if job.cancelled:
            return Cancelled()
        events = run(job.request)
        try:
            for event in events:
                job.put(event)
                if isinstance(event, Done) and event.frames:
                    job.size, job.executor = event.frames[0].size, event.executor.replace(" ", "")
                if job.cancelled:
                    return Cancelled()
                if most and monotonic() - began > most and not isinstance(event, Done):
                    return Overdue(most)
        finally:
            getattr(events, "close", lambda: None)()
    except BaseException as e:  # whatever it was, the next job must run
        if not isinstance(e, ValueError | Cancelled):
            logging.getLogger(__name__).error("a job failed: %s", type(job.request).__name__, exc_info=e)
        return e
    return _END
