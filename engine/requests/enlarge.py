"""The request of *Enlarge*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from PIL.Image import Image

from engine.requests.errors import EngineError
from engine.requests.spec import Request, Spec

SCALES = {2: "×2", 4: "×4"}
GIVEN = "pictures, folders, zips and films"
LARGEST = 40  # megapixels of one result
MOST = 600  # pictures: a film of 25 seconds


@dataclass(frozen=True)
class EnlargeRequest(Request):
    """Pictures, or the frames of a film, 2 or 4 times as wide and as high (`engine.vision.enlarge`).

    ``pictures`` (RGB or RGBA) may differ in size; a result has at most 40 megapixels. Each comes up as a `Frame` as
    soon as it is made; `Done` holds none of them, so that a long film need not be held.
    """

    pictures: Annotated[tuple[Image, ...], Spec("Pictures", GIVEN, 1, MOST, layer="RGB or RGBA")]
    scale: Annotated[int, Spec("Enlarge", "times as wide and as high", choices=SCALES)] = 2

    method: ClassVar = "enlarge"
    loads: ClassVar = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, p in enumerate(self.pictures, 1):
            pixels = p.width * p.height * self.scale**2 / 1e6
            if pixels > LARGEST:
                raise EngineError(
                    f"picture {i} must have at most {LARGEST} megapixels when it is enlarged, got {pixels:.0f} "
                    f"({p.width} × {p.height}, {SCALES[self.scale]}); choose a smaller one"
                )

    @property
    def total(self) -> int:
        return len(self.pictures)
