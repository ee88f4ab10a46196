"""The request of *Enlarge*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from PIL.Image import Image

from engine.requests.errors import EngineError, shown
from engine.requests.spec import Request, Spec

SCALES = {2: "×2", 4: "×4"}
GIVEN = "pictures, folders, zips and films"
SMALLEST = 16  # pixels a side
LARGEST = 40  # megapixels of one result
MOST = 600  # pictures: a film of 25 seconds
TOTAL = 600  # megapixels of all pictures, which are held while they are enlarged


class Room:
    """Counts pictures as they come. EngineError for the first that is too small, too large, or too many."""

    def __init__(self, scale: Any):
        if scale not in list(SCALES):
            raise EngineError(f"scale must be one of {', '.join(map(str, SCALES))}, got {shown(scale)}")
        self.scale, self.count, self.held = scale, 0, 0.0

    def take(self, size: tuple[int, int]) -> None:
        """Of the next picture, (width, height)."""
        (w, h), megapixels = size, size[0] * size[1] / 1e6
        self.count, self.held = self.count + 1, self.held + megapixels
        if min(size) < SMALLEST:
            raise EngineError(f"picture {self.count} must be at least {SMALLEST} × {SMALLEST} pixels, got {w} × {h}")
        if megapixels * self.scale**2 > LARGEST:
            raise EngineError(
                f"picture {self.count} must have at most {LARGEST} megapixels when it is enlarged, got "
                f"{megapixels * self.scale**2:.0f} ({w} × {h}, {SCALES[self.scale]}); choose a smaller one"
            )
        if self.count > MOST:
            raise EngineError(f"pictures must be 1 to {MOST}, got more; enlarge them in parts")
        if self.held > TOTAL:
            raise EngineError(
                f"pictures must have at most {TOTAL} megapixels together, got more with picture {self.count}; "
                "enlarge them in parts"
            )


@dataclass(frozen=True)
class EnlargeRequest(Request):
    """Pictures, or the frames of a film, 2 or 4 times as wide and as high (`engine.vision.enlarge`).

    ``pictures`` (RGB or RGBA) may differ in size; a result has at most 40 megapixels, and all pictures together 600.
    Each comes up as a `Frame` as soon as it is made; `Done` holds none of them, so that a long film need not be held.
    """

    pictures: Annotated[tuple[Image, ...], Spec("Pictures", GIVEN, 1, MOST, layer="RGB or RGBA")]
    scale: Annotated[int, Spec("Enlarge", "times as wide and as high", choices=SCALES)] = 2

    method: ClassVar = "enlarge"
    loads: ClassVar = False

    def __post_init__(self) -> None:
        super().__post_init__()
        room = Room(self.scale)
        for p in self.pictures:
            room.take(p.size)

    @property
    def total(self) -> int:
        return len(self.pictures)
