"""Requests and events: plain frozen values that cross between the clients and the engine.

A request says everything that matters to its result: the same request gives the same pictures. Its
``__post_init__`` refuses what cannot be, in a sentence with the field's name, what was expected and what came.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from PIL.Image import Image


class EngineError(ValueError):
    """Something the person can mend. Its text is shown as it is: name, expectation, value."""


class Cancelled(Exception):
    """The job was stopped by the person; nothing is wrong."""


# --------------------------------------------------------------------------------------------- bounds


@dataclass(frozen=True)
class Range:
    """Closed range of a number, its step in the page, and the words that explain it."""

    low: float
    high: float
    step: float
    help: str = ""


def _number(name: str, value: Any, bound: Range, whole: bool) -> None:
    ok = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not ok or not bound.low <= value <= bound.high:  # a NaN is not between anything
        kind = "a whole number" if whole else "a number"
        raise EngineError(f"{name} must be {kind} from {bound.low:g} to {bound.high:g}, got {str(value)[:40]}")


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EngineError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _picture(name: str, value: Any) -> None:
    if not isinstance(value, Image):
        raise EngineError(f"{name} must be a picture, got {'nothing' if value is None else type(value).__name__}")


SCHEMES = ("branch", "did", "did-independent", "interpolate-denoise", "interpolate")
SCHEDULES = ("linear", "convex", "concave")
MIXES = ("slerp", "lerp")
FITS = ("fit", "crop", "pad")
PICKERS = ("smoothest", "first", "clip")
SAMPLERS = ("ddim", "live")
CATALOGUE_NAMES = ("flora", "sd15", "sd21-base")
FRAMES = (3, 5, 9, 17, 33, 65, 129)


# ------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class InterpolateRequest:
    """Morph between two pictures (Wang & Golland 2023, arXiv 2307.12560; methods.md §1).

    ``a`` and ``b`` are PIL pictures as `engine.images.read` gives them. ``picks`` holds (frame, candidate) pairs and
    ``reseeds`` (frame, seed) pairs: with them one frame is chosen by hand or made again; every frame that does not
    descend from it stays as it was. The picker "clip" ranks by ``rank_for`` (empty: the prompts)
    against ``rank_against`` (empty: the negative); the sampler "live" walks with the few-step weights.
    """

    a: Image
    b: Image
    prompt: str = ""
    prompt_b: str = ""
    negative: str = ""
    frames: int = 9
    low: float = 0.25
    high: float = 0.5
    steps: int = 24
    guidance: float = 1.5
    seed: int = 0
    scheme: str = "branch"
    schedule: str = "linear"
    mix: str = "slerp"
    eta: float = 0.0
    bias: float = 0.0
    candidates: int = 1
    picker: str = "smoothest"
    rank_for: str = ""
    rank_against: str = ""
    sampler: str = "ddim"
    invert_steps: int = 0
    invert_rate: float = 1e-3
    fit: str = "fit"
    size: int = 0
    model: str = "flora"
    picks: tuple[tuple[int, int], ...] = ()
    reseeds: tuple[tuple[int, int], ...] = ()

    BOUNDS = {
        "low": Range(0.0, 1.0, 0.01, "least noise, given to the frames closest to their parents"),
        "high": Range(0.0, 1.0, 0.01, "most noise, given to the middle frame; .25 to .65 is useful"),
        "steps": Range(4, 500, 1, "steps of the whole noise schedule; a frame walks its share of them"),
        "guidance": Range(0.0, 20.0, 0.1, "how strictly the words are followed; 1 is off"),
        "seed": Range(0, 2**32 - 1, 1),
        "eta": Range(0.0, 1.0, 0.05, "fresh noise at every step (DDIM's η)"),
        "bias": Range(-0.4, 0.4, 0.01, "draws the frames beside an end picture nearer to it"),
        "candidates": Range(1, 16, 1, "pictures tried for each frame; one fewer at every finer level"),
        "invert_steps": Range(0, 500, 1, "steps that fit the words to each picture (textual inversion)"),
        "invert_rate": Range(1e-6, 0.1, 1e-4, "learning rate of textual inversion"),
        "size": Range(0, 1536, 8, "longer side in pixels; 0 is the network's own"),
    }
    WHOLE = ("steps", "seed", "candidates", "invert_steps", "size")

    def __post_init__(self) -> None:
        _picture("picture A", self.a)
        _picture("picture B", self.b)
        if not isinstance(self.frames, int) or self.frames not in FRAMES:
            raise EngineError(f"frames must be a power of two plus one, 3 to 129 (3, 5, 9, 17 …), got {self.frames!r}")
        for name, bound in self.BOUNDS.items():
            _number(name, getattr(self, name), bound, name in self.WHOLE)
        if self.sampler == "live" and self.scheme != "branch":
            raise EngineError(f"sampler must be ddim for the scheme {self.scheme}, got 'live'")
        if self.picker == "clip" and not (self.rank_for or self.prompt):
            raise EngineError("rank_for or prompt must be words for the picker clip, got neither")
        if self.low > self.high:
            raise EngineError(f"low must not be above high, got low {self.low:g} and high {self.high:g}")
        _choice("scheme", self.scheme, SCHEMES)
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("mix", self.mix, MIXES)
        _choice("picker", self.picker, PICKERS)
        _choice("sampler", self.sampler, SAMPLERS)
        _choice("fit", self.fit, FITS)
        for name in ("prompt", "prompt_b", "negative", "rank_for", "rank_against", "model"):
            if not isinstance(getattr(self, name), str):
                raise EngineError(f"{name} must be text, got {getattr(self, name)!r}")
        for name in ("picks", "reseeds"):
            for pair in getattr(self, name):
                if len(pair) != 2 or not 0 < pair[0] < self.frames - 1 or pair[1] < 0:
                    raise EngineError(f"{name} must be pairs of an inner frame and a number, got {pair!r}")

    def settings(self) -> dict[str, Any]:
        """All but the pictures, as plain values: what the files carry and the page reads back."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("a", "b")}
        return {"method": "interpolate"} | plain


@dataclass(frozen=True)
class LoadRequest:
    """Make a network resident, so that the first picture need not wait for it."""

    model: str = "flora"


PRESETS: dict[str, dict[str, Any]] = {
    "instant": {"steps": 24, "candidates": 1, "eta": 0.0, "low": 0.25, "high": 0.5, "scheme": "branch",
                "sampler": "live", "guidance": 1.0},
    "draft": {"steps": 24, "candidates": 1, "eta": 0.0, "low": 0.25, "high": 0.5, "scheme": "branch"},
    "standard": {"steps": 60, "candidates": 3, "eta": 0.0, "low": 0.25, "high": 0.6, "scheme": "branch"},
    "paper": {"steps": 200, "candidates": 8, "eta": 0.1, "low": 0.3, "high": 0.55, "scheme": "branch",
              "guidance": 7.5, "invert_steps": 100, "invert_rate": 1e-4},
}  # fmt: skip


def preset(request: InterpolateRequest, name: str) -> InterpolateRequest:
    """The request with a preset's values in place of its own."""
    _choice("preset", name, tuple(PRESETS))
    return replace(request, **PRESETS[name])


# --------------------------------------------------------------------------------------------- events


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
    """The result, whole. ``settings`` makes it again; ``evaluations`` counts network rows (guidance included)."""

    frames: tuple[Image, ...]
    settings: dict[str, Any]
    seconds: float
    evaluations: int
    notes: tuple[str, ...] = field(default=())


Event = Waiting | Progress | Preview | Frame | Done
