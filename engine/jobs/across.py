"""Events on their way from another process (Ray's, ZeroGPU's): neither errors nor generators can be handed over."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

from engine.jobs.worker import Run
from engine.requests import Event


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
