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
CATALOGUE_NAMES = ("flora", "sd15", "sd15-smooth", "sd21-base", "sd21", "sd-turbo")


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


def layers(request: Any) -> None:
    """Refuses what is no picture of the mode a layer needs, layers of other proportions, and a mask that is all 0.

    A layer without any alpha is as good as none: it becomes None. Photographs are fitted, whatever their size.
    """
    first = None
    for name, mode in request.LAYERS.items():
        value = getattr(request, name)
        if value is None:
            continue
        picture(name, value)
        if value.mode not in ((mode,) if mode else ("RGB", "RGBA")):
            raise EngineError(f"{name} must be a picture of mode {mode or 'RGB or RGBA'}, got {value.mode}")
        if value.mode == "RGBA" and not value.getextrema()[3][1]:
            object.__setattr__(request, name, None)
            continue
        if value.mode == "L" and not value.getextrema()[1]:
            raise EngineError(f"{name} must cover something, got nothing; paint where the picture may change")
        if name == "photo":
            continue
        first = first or (name, value.size)
        (w, h), (w0, h0) = value.size, first[1]
        if abs(w * h0 - h * w0) > 0.02 * w * h0:
            raise EngineError(f"{name} must have the proportions of {first[0]}, {w0} × {h0}, got {w} × {h}")
