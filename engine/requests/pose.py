"""The request that only looks for people in pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from PIL.Image import Image

from engine.requests import shared
from engine.requests.spec import Request, Spec

DETECTORS = {
    "dwpose": "found in the pictures (DWPose)",
    "openpose": "found by OpenPose (non-commercial research only)",
}


@dataclass(frozen=True)
class PoseRequest(Request):
    """Find the people in one picture or two (methods.md §1.5): their keypoints as OpenPose's JSON, and skeletons.

    ``rescue``: words for a photograph that a network makes of a picture in which nobody is found (a drawing), to look
    again there; empty: it does not. Only then ``model`` counts: one with a control for edges.
    """

    pictures: Annotated[tuple[Image, ...], Spec("Pictures", "one or two", 1, 2, layer="RGB")]
    detector: Annotated[str, Spec("Found by", "openpose: non-commercial research only", choices=DETECTORS)] = "dwpose"
    rescue: Annotated[
        str, Spec("If nobody is found", "words for a photograph made of the drawing, to look again there")
    ] = ""
    model: shared.MODEL = "flora"

    method: ClassVar = "pose"
    loads: ClassVar = False  # only where nobody is found

    @property
    def wants(self) -> tuple[str, ...]:
        return (self.detector, "canny") if self.rescue else (self.detector,)

    @property
    def total(self) -> int:
        return len(self.pictures)
