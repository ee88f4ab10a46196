"""The request of *Edit*, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from PIL.Image import Image

from engine.requests import shared
from engine.requests.spec import Request, Spec, advanced, results

NOISES = {"fresh": "fresh noise at every step", "frozen": "one noise for all (the published code)"}
USEFUL = (0.3, 0.6)  # strengths that suit a reasonable guide (the paper, §4; methods.md §4.3)


@dataclass(frozen=True)
class EditRequest(Request):
    """A guide made real with SDEdit (Meng et al. 2021, arXiv 2108.01073, algorithms 4 and 5; methods.md §4).

    ``guide`` is a stroke painting or an edited photograph (RGB), or a layer of paint (RGBA) over the ``photo``.
    ``strength`` is t0: how far up the noise the guide goes before it comes down again. With a ``mask`` (L: 255 changes
    with the whole strength, 0 is kept, in between with so much of it) the rest is kept exactly as it is in ``photo``
    (the guide, if there is none). Where there is no mask but a layer of paint over a photo, the paint and what is
    ``around`` it may change. ``noise`` "frozen" keeps one noise for the kept part, as the published code does.
    """

    guide: Annotated[Image, Spec("", "a painting, or paint with alpha over a photo", layer="RGB or RGBA")]
    photo: shared.PHOTO = None
    mask: shared.MASK = None
    prompt: shared.PROMPT = ""
    seed: shared.SEED = 0
    strength: Annotated[float, Spec("Strength", "0 gives your picture back, 1 forgets it", 0, 1, 0.01, term="t0")] = 0.5
    count: shared.COUNT = 1
    repeats: Annotated[int, results("Rounds", "the result goes in again", 1, 10, 1, beside=True, term="K")] = 1
    negative: shared.NEGATIVE = ""
    steps: Annotated[
        int,
        advanced("Steps", "more: finer and slower", 2, 1000, 1, term="of the whole noise; strength .5 walks half"),
    ] = 50
    guidance: Annotated[float, replace(shared.GUIDANCE, group="advanced", beside=True)] = 3.0
    around: Annotated[int, advanced("Around the paint", "pixels of a photograph that may change", 0, 256, 1)] = 24
    feather: shared.FEATHER = 8
    match: shared.MATCH = True
    eta: Annotated[float, shared.CHANCE] = 0.0
    size: shared.SIZE = 0
    noise: Annotated[str, advanced("The kept part gets", "where a mask keeps it", choices=NOISES)] = "fresh"
    model: shared.MODEL = "flora"

    method: ClassVar = "edit"
    preset: ClassVar = "standard"
    presets: ClassVar = {
        "draft": {"steps": 24, "repeats": 1, "eta": 0.0},
        "standard": {"steps": 50, "repeats": 1, "eta": 0.0},
        "paper": {"steps": 1000, "repeats": 3, "eta": 1.0, "noise": "frozen", "match": False},
    }

    def plan(self) -> list[dict[str, Any]]:
        """What each result has of its own: its seed."""
        return [{"seed": (self.seed + i) % 2**32} for i in range(self.count)]

    @property
    def total(self) -> int:
        return self.count
