"""The request that only looks which part of one picture becomes which of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from PIL.Image import Image

from engine.requests import points, shared
from engine.requests.spec import Request, Spec


@dataclass(frozen=True)
class MatchRequest(Request):
    """Where the parts of picture A go in picture B: what ``align`` moves, as arrows to be looked at.

    ``points`` is the list of one joint (`engine.requests.points`). Only the align "automatic" loads a network, which
    ``prompt`` and ``prompt_b`` tell what it sees. The settings of the output hold ``arrows``: [x0, y0, x1, y1, trust],
    fractions of both pictures as they were given, and how surely, 0 … 1.
    """

    a: Annotated[Image, Spec("picture A", "first picture", layer="RGB")]
    b: Annotated[Image, Spec("picture B", "second picture", layer="RGB")]
    points: points.POINTS = ()
    align: points.ALIGN = "points"
    prompt: shared.PROMPT = ""
    prompt_b: Annotated[str, Spec("", "words for the second picture")] = ""
    fit: shared.FIT = "fit"
    size: shared.SIZE = 0
    model: shared.MODEL = "flora"

    method: ClassVar = "match"

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", points.nested(self.points))
        super().__post_init__()
        points.check(self.points, 1, 2)

    @property
    def loads(self) -> bool:  # type: ignore[override]
        """Whether its network is made ready before it begins."""
        return self.align == "automatic"
