"""The request that only looks for people in pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from PIL.Image import Image

from engine.requests.spec import EngineError, bounded, picture, plain

DETECTORS = ("dwpose", "openpose")


@dataclass(frozen=True)
class PoseRequest:
    """Find the people in one picture or two (methods.md §1.5): their keypoints as OpenPose's JSON, and skeletons.

    ``rescue``: words for a photograph that a network makes of a picture in which nobody is found (a drawing), to look
    again there; empty: it does not. Only then ``model`` counts: one with a control for edges.
    """

    pictures: tuple[Image, ...]
    detector: str = "dwpose"
    rescue: str = ""
    model: str = "flora"

    BOUNDS: ClassVar = {}
    WHOLE: ClassVar = ()
    TEXTS: ClassVar = ("rescue", "model")
    CHOICES: ClassVar = {"detector": DETECTORS}

    def __post_init__(self) -> None:
        if not 1 <= len(self.pictures) <= 2:
            raise EngineError(f"pictures must be one or two, got {len(self.pictures) or 'none'}")
        for i, p in enumerate(self.pictures, 1):
            picture(f"picture {i}", p)
        bounded(self)

    @property
    def wants(self) -> tuple[str, ...]:
        return (self.detector, "canny") if self.rescue else (self.detector,)

    @property
    def total(self) -> int:
        return len(self.pictures)

    def settings(self) -> dict[str, Any]:
        return plain(self, "pose", ("pictures",))
