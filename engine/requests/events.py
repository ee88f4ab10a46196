"""What comes up from the engine while a request runs."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from PIL.Image import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """A heartbeat: nothing new. ``place`` is the number of jobs before this one; 0 when it runs."""

    place: int


@dataclass(frozen=True)
class Progress:
    """``fraction`` of the work done, 0 … 1, and what is being done."""

    fraction: float
    doing: str


@dataclass(frozen=True)
class Preview:
    """How frame ``index`` looks while it forms; small and rough."""

    index: int
    picture: Image


@dataclass(frozen=True)
class Frame:
    """A finished frame, with every candidate tried for it (``picture`` is the chosen one)."""

    index: int
    picture: Image
    candidates: tuple[Image, ...] = ()
    chosen: int = 0


@dataclass(frozen=True)
class Done:
    """The result, whole. ``settings`` makes it again; ``evaluations`` counts network rows (guidance included).

    ``quality``: see `engine.vision.perceptual.quality`. ``files``: what else was made, by file name (LoRAs).
    ``executor``: who answered for the network, torch or another.
    """

    frames: tuple[Image, ...]
    settings: dict[str, Any]
    seconds: float
    evaluations: int
    notes: tuple[str, ...] = field(default=())
    quality: dict[str, float] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    executor: str = ""


@dataclass(frozen=True)
class Cost:
    """What a job is going to take, known before it begins: what progress and a loan of a device are reckoned by.

    ``steps``: pictures × steps that the network walks; ``rows``: guidance rows in each; ``fits``: rows that go forward
    and backward (LoRAs, inversion); ``pictures``: decoded; ``steered``: with a ControlNet beside it.
    """

    steps: float = 0
    rows: float = 1
    fits: float = 0
    pictures: float = 0
    steered: bool = False


Event = Waiting | Progress | Preview | Frame | Done


def within(events: Generator[Any, None, T], low: float, high: float) -> Generator[Any, None, T]:
    """Passes a part's events on, its progress scaled into ``low`` … ``high``; returns what the part returns."""
    try:
        while True:
            event = next(events)
            if isinstance(event, Progress):
                event = replace(event, fraction=low + (high - low) * event.fraction)
            yield event
    except StopIteration as end:
        return end.value
    finally:
        events.close()


def result(events: Generator[Any, None, T]) -> T:
    """What a part returns, its events left aside."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value
