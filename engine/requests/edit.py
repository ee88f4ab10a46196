"""The request of *Edit*, and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from PIL.Image import Image

from engine.requests.spec import EngineError, Range, bounded, layers, plain

NOISES = ("fresh", "frozen")
USEFUL = (0.3, 0.6)  # strengths that suit a reasonable guide (the paper, §4; methods.md §4.3)


@dataclass(frozen=True)
class EditRequest:
    """A guide made real with SDEdit (Meng et al. 2021, arXiv 2108.01073, algorithms 4 and 5; methods.md §4).

    ``guide`` is a stroke painting or an edited photograph (RGB), or a layer of paint (RGBA) over the ``photo``.
    ``strength`` is t0: how far up the noise the guide goes before it comes down again. With a ``mask`` (L: 255 changes
    with the whole strength, 0 is kept, in between with so much of it) the rest is kept exactly as it is in ``photo``
    (the guide, if there is none). Where there is no mask but a layer of paint over a photo, the paint and what is
    ``around`` it may change. ``noise`` "frozen" keeps one noise for the kept part, as the published code does.
    """

    guide: Image
    photo: Image | None = None
    mask: Image | None = None
    strength: float = 0.5
    prompt: str = ""
    negative: str = ""
    repeats: int = 1
    count: int = 1
    seed: int = 0
    steps: int = 50
    guidance: float = 3.0
    eta: float = 0.0
    noise: str = "fresh"
    around: int = 24
    feather: int = 8
    size: int = 0
    model: str = "flora"

    BOUNDS: ClassVar = {
        "strength": Range(0.0, 1.0, 0.01, "t0: 0 gives the guide back, 1 forgets it; .3 to .6 suits most"),
        "repeats": Range(1, 10, 1, "times the result goes round again (the paper's K)"),
        "count": Range(1, 16, 1, "results, with this seed, the next, and so on"),
        "seed": Range(0, 2**32 - 1, 1),
        "steps": Range(2, 1000, 1, "steps of the whole noise schedule; a strength of .5 walks half of them"),
        "guidance": Range(0.0, 20.0, 0.1, "how strictly the words, if any, are followed; 1 is off"),
        "eta": Range(0.0, 1.0, 0.05, "fresh noise at every step: 0 is deterministic, 1 the paper's ancestral VP"),
        "around": Range(0, 256, 1, "pixels around the paint that may change, over a photograph without a mask"),
        "feather": Range(0, 128, 1, "pixels of soft edge inside the mask"),
        "size": Range(0, 1536, 8, "longer side in pixels; 0 is the network's own"),
    }
    WHOLE: ClassVar = ("repeats", "count", "seed", "steps", "around", "feather", "size")
    TEXTS: ClassVar = ("prompt", "negative", "model")
    CHOICES: ClassVar = {"noise": NOISES}
    LAYERS: ClassVar = {"guide": "", "mask": "L", "photo": "RGB"}

    def __post_init__(self) -> None:
        if self.guide is None:
            raise EngineError("guide must be a picture, got nothing")
        layers(self)
        bounded(self)
        if self.guide is None:
            raise EngineError("guide must hold something painted, got an empty layer")

    def plan(self) -> list[dict[str, Any]]:
        """What each result has of its own: its seed."""
        return [{"seed": (self.seed + i) % 2**32} for i in range(self.count)]

    @property
    def total(self) -> int:
        return self.count

    columns = 0

    def settings(self) -> dict[str, Any]:
        """All but the pictures, as plain values."""
        return plain(self, "edit", tuple(self.LAYERS))


EDIT_PRESETS: dict[str, dict[str, Any]] = {
    "draft": {"steps": 24, "repeats": 1, "eta": 0.0},
    "standard": {"steps": 50, "repeats": 1, "eta": 0.0},
    "paper": {"steps": 1000, "repeats": 3, "eta": 1.0, "noise": "frozen"},
}
