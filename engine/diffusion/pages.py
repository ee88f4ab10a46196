"""What a process takes of memory, and how it gives it back: files that it has mapped, free pages of the heap."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor

Span = tuple[int, int]  # addresses


def free() -> float:
    """Bytes of memory that a program may still take, where the system tells."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf8").splitlines()
        return int(next(s for s in lines if s.startswith("MemAvailable")).split()[1]) * 1024
    return inf


def spans(place: Path | None) -> set[Span]:
    """Where files below ``place`` lie in memory, on Linux."""
    found = set()
    with suppress(OSError, ValueError):
        lines = Path("/proc/self/maps").read_text(encoding="utf8").splitlines() if place else ()
        for line in lines:
            if f" {place.resolve() if place else ''}/" in line:
                start, end = (int(n, 16) for n in line.split()[0].split("-"))
                found.add((start, end))
    return found


def held(place: Path | None, tensors: list[Tensor]) -> set[Span]:
    """Where files below ``place`` lie that hold such tensors."""
    at = {t.untyped_storage().data_ptr() for t in tensors}
    return {(start, end) for start, end in spans(place) if any(start <= p < end for p in at)}


def leave(own: set[Span]) -> None:
    """What was read of the files at ``own`` leaves memory, and can be read again. Whoever calls holds on to what lies
    there: else it could be another's memory by now."""
    c: Any = ctypes.CDLL(None) if own else None
    for start, end in own:
        c.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 4)  # MADV_DONTNEED


def trim() -> None:
    """Gives back the heap's free pages, where C's library can."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def lean(own: set[Span]) -> Iterator[None]:
    """Inside, what is read at ``own`` leaves at once."""

    def leaving() -> None:
        while not over.wait(0.05):
            leave(own)

    over, thread = threading.Event(), threading.Thread(target=leaving, name="graphs")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        leave(own)
