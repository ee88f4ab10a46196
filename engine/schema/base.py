"""What a request may hold, and the sentences that refuse the rest: name, expectation, value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from PIL.Image import Image


class EngineError(ValueError):
    """Something the person can mend. Its text is shown as it is: name, expectation, value."""


class Cancelled(Exception):
    """The job was stopped by the person; nothing is wrong."""


@dataclass(frozen=True)
class Range:
    """Closed range of a number, its step in the page, and the words that explain it."""

    low: float
    high: float
    step: float
    help: str = ""


def number(name: str, value: Any, bound: Range, whole: bool) -> None:
    ok = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not ok or not bound.low <= value <= bound.high:  # a NaN is not between anything
        kind = "a whole number" if whole else "a number"
        raise EngineError(f"{name} must be {kind} from {bound.low:g} to {bound.high:g}, got {str(value)[:40]}")


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EngineError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def picture(name: str, value: Any) -> None:
    if not isinstance(value, Image):
        raise EngineError(f"{name} must be a picture, got {'nothing' if value is None else type(value).__name__}")


MIXES = ("slerp", "lerp")
FITS = ("fit", "crop", "pad")
CATALOGUE_NAMES = ("flora", "sd15", "sd21-base")


def bounded(request: Any) -> None:
    """Refuses numbers outside the request's ``BOUNDS``, those of ``WHOLE`` with a fraction, and what is no text."""
    for name, bound in request.BOUNDS.items():
        number(name, getattr(request, name), bound, name in request.WHOLE)
    for name in request.TEXTS:
        if not isinstance(getattr(request, name), str):
            raise EngineError(f"{name} must be text, got {getattr(request, name)!r}")
    for name, allowed in request.CHOICES.items():
        choice(name, getattr(request, name), allowed)


def plain(request: Any, method: str, without: tuple[str, ...]) -> dict[str, Any]:
    """All fields but ``without``, as plain values: what the files carry and the page reads back."""
    return {"method": method} | {f.name: getattr(request, f.name) for f in fields(request) if f.name not in without}
