"""One thread owns the device. `Worker.submit(request)` gives a `Job`; iterating it gives events.

`submit` is the whole seam: whatever runs elsewhere later (another process, a ZeroGPU call, a cluster) implements it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from engine.schema import Cancelled, Event, Preview, Progress, Waiting

HEARTBEAT = 0.25  # seconds between two `Waiting`s, so that a vanished reader is noticed
_END = object()


class Job:
    """One submitted request. Iterate it once; leaving the iteration early cancels it."""

    def __init__(self, request: Any, number: int, places: Callable[[Job], int]):
        self.request, self.number = request, number
        self.cancelled = False
        self._events: deque[Any] = deque()
        self._ready = threading.Condition()
        self._places = places
        self._closed = False

    def cancel(self) -> None:
        """Stops the job: at once while it waits, at its next step while it runs."""
        self.cancelled = True
        with self._ready:
            self._ready.notify_all()

    def _put(self, event: Any) -> None:
        with self._ready:
            if self._closed:
                return
            if isinstance(event, Preview | Progress):  # only the newest of these is worth showing
                stale = [
                    e
                    for e in self._events
                    if type(e) is type(event) and getattr(e, "index", 0) == getattr(event, "index", 0)
                ]
                for e in stale:
                    self._events.remove(e)
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
                        event = Waiting(self._places(self))
                if event is _END:
                    return
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.cancelled = self._closed = True
            self._events.clear()


class Worker:
    """Runs jobs one after another on a daemon thread; ``run(request)`` gives the events of one."""

    def __init__(self, run: Callable[[Any], Iterator[Event]]):
        self._run = run
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._current: Job | None = None
        self._numbers = count(1)
        threading.Thread(target=self._loop, daemon=True, name="device").start()

    def submit(self, request: Any) -> Job:
        """Queues a request and returns at once."""
        job = Job(request, next(self._numbers), self._place)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return job

    def _place(self, job: Job) -> int:
        """How many jobs are before this one; 0 while it runs."""
        with self._changed:
            before = [j for j in self._waiting if j.number < job.number and not j.cancelled]
            running = self._current is not None and self._current is not job
            return len(before) + int(running and job in self._waiting)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                self._current = self._waiting.popleft()
            if not self._current.cancelled:
                self._work(self._current)
            self._current = None

    def _work(self, job: Job) -> None:
        events: Any = None
        try:
            events = self._run(job.request)
            for event in events:
                job._put(event)
                if job.cancelled:
                    return
            job._put(_END)
        except BaseException as e:  # whatever it was, the next job must run
            if not isinstance(e, ValueError):
                logging.getLogger(__name__).exception("job %d failed", job.number)
            job._put(e)
        finally:
            close = getattr(events, "close", None)
            if close:
                close()
