"""The request of *Draw*, its presets, and what a sheet shows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from PIL.Image import Image

from engine.requests.interpolate import SAMPLERS
from engine.requests.spec import EngineError, Range, bounded, layers, plain

REFINES = ("auto", "noised", "clean", "off")
COMBINES = ("joint", "sum")
SHEETS = ("none", "sketch-stroke", "sketch-realism", "stroke-realism", "ladder")
_AXES = {
    "sketch": ("sketch_scale", (0.0, 1.0, 2.0)),
    "stroke": ("stroke_scale", (0.0, 1.0, 2.0)),
    "realism": ("realism", (0.0, 0.5, 1.0)),
}
LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class DrawRequest:
    """A picture from lines and strokes with DiSS (Cheng et al. 2022, arXiv 2208.12675; methods.md §3).

    ``sketch`` and ``strokes`` are RGBA layers of the same proportions (`engine.vision.images.layer`): what has alpha was
    drawn. Regions without strokes stay free. With a ``photo`` the drawing is a local edit of it: ``mask`` (L, 255 =
    may change), or where there is none what was drawn and ``around`` it. ``combine`` "sum" is the paper's guidance of
    three rows, "joint" adds the interaction of both drawings, so that scales of 1 are the network that sees both.
    ``refine`` "noised" is the published low-pass rule, "clean" the same on the clean picture in mind, with ``k``;
    "auto" takes the first on networks that see drawings beside the noise (flora), the second on those that are steered.
    A ``sheet`` varies one or two of the scales with the same seed.
    """

    sketch: Image | None = None
    strokes: Image | None = None
    photo: Image | None = None
    mask: Image | None = None
    prompt: str = ""
    negative: str = ""
    realism: float = 0.8
    sketch_scale: float = 1.0
    stroke_scale: float = 1.0
    count: int = 1
    seed: int = 0
    steps: int = 24
    guidance: float = 3.0
    sampler: str = "ddim"
    combine: str = "joint"
    refine: str = "auto"
    k: int = 0
    free: float = 0.2
    eta: float = 0.0
    around: int = 16
    feather: int = 8
    sheet: str = "none"
    size: int = 0
    model: str = "flora"

    BOUNDS: ClassVar = {
        "realism": Range(0.0, 1.0, 0.05, "where there are colours: 0 keeps the drawing, 1 only its mean colour"),
        "sketch_scale": Range(0.0, 3.0, 0.1, "how strictly the lines are followed; 0 leaves them out"),
        "stroke_scale": Range(0.0, 3.0, 0.1, "how strictly the colours are followed; 0 leaves them out"),
        "count": Range(1, 16, 1, "results, with this seed, the next, and so on"),
        "seed": Range(0, 2**32 - 1, 1),
        "steps": Range(1, 1000, 1, "steps from noise to picture; live: at most 4"),
        "guidance": Range(0.0, 20.0, 0.1, "how strictly the words, if any, are followed; 1 is off"),
        "k": Range(0, 64, 1, "the low-pass keeps so much more of the drawing; the paper's landscapes: 16"),
        "free": Range(0.0, 1.0, 0.05, "share of the steps, the last ones, that leave the low-pass out"),
        "eta": Range(0.0, 1.0, 0.05, "fresh noise at every step (DDIM's η); 1 is the paper's"),
        "around": Range(0, 256, 1, "pixels around the drawing that may change, over a photograph"),
        "feather": Range(0, 128, 1, "pixels of soft edge inside the part that may change"),
        "size": Range(0, 1536, 8, "longer side in pixels; 0 is the network's own"),
    }
    WHOLE: ClassVar = ("count", "seed", "steps", "k", "around", "feather", "size")
    TEXTS: ClassVar = ("prompt", "negative", "model")
    CHOICES: ClassVar = {"sampler": SAMPLERS, "combine": COMBINES, "refine": REFINES, "sheet": SHEETS}
    LAYERS: ClassVar = {"sketch": "RGBA", "strokes": "RGBA", "mask": "L", "photo": "RGB"}

    def __post_init__(self) -> None:
        layers(self)
        bounded(self)
        if self.sketch is None and self.strokes is None:
            got = " and ".join(n for n in ("photo", "mask") if getattr(self, n)) or "nothing"
            raise EngineError(f"sketch or strokes must hold something drawn, got {got}")
        if self.mask is not None and self.photo is None:
            raise EngineError("mask must come with a photo that is kept outside of it, got no photo")
        if self.sheet != "none":
            if self.count > 1:
                raise EngineError(f"count must be 1 with a sheet, which has a seed of its own, got {self.count}")
            axes = {"realism"} if self.sheet == "ladder" else set(self.sheet.split("-"))
            lacking = {"sketch": self.sketch is None and self.photo is None,
                       "stroke": self.strokes is None and self.photo is None}  # fmt: skip
            lacking["realism"] = lacking["stroke"] or self.refine == "off"
            if idle := sorted(a for a in axes if lacking[a]):
                need = {"sketch": "lines", "stroke": "colours", "realism": "colours, and refine on"}
                raise EngineError(
                    f"sheet must vary what the drawing has, got {self.sheet} where {idle[0]} needs {need[idle[0]]}"
                )
        if self.sampler == "live" and self.eta:
            raise EngineError(f"eta must be 0 with the sampler live, got {self.eta:g}")

    @property
    def wants(self) -> tuple[str, ...]:
        """What it asks for beside the network (`engine.checkpoints.resolve`)."""
        kinds = {"sketch": self.sketch or self.photo, "stroke": self.strokes or self.photo,
                 "live": self.sampler == "live"}  # fmt: skip
        return tuple(k for k, wanted in kinds.items() if wanted)

    @property
    def drawn(self) -> Image:
        """The layer that gives the frame its proportions."""
        found = self.sketch or self.strokes
        assert found is not None
        return found

    def plan(self) -> list[dict[str, Any]]:
        """What each result has of its own: its seed (this one, the next …), and the scales a sheet gives it."""
        if self.sheet == "none":
            return [{"seed": (self.seed + i) % 2**32} for i in range(self.count)]
        if self.sheet == "ladder":
            return [{"seed": self.seed, "realism": r} for r in LADDER]
        rows, columns = (_AXES[a] for a in self.sheet.split("-"))
        return [{"seed": self.seed, rows[0]: r, columns[0]: c} for r, c in product(rows[1], columns[1])]

    @property
    def total(self) -> int:
        return len(self.plan())

    @property
    def columns(self) -> int:
        """Pictures in a row of the sheet; 0 for a plain row of results."""
        return 3 if "-" in self.sheet else 0

    def settings(self) -> dict[str, Any]:
        """All but the pictures, as plain values."""
        return plain(self, "draw", tuple(self.LAYERS))


DRAW_PRESETS: dict[str, dict[str, Any]] = {
    "live": {"steps": 2, "sampler": "live", "combine": "joint", "eta": 0.0, "guidance": 1.0},
    "draft": {"steps": 12, "sampler": "ddim", "combine": "joint", "eta": 0.0},
    "standard": {"steps": 24, "sampler": "ddim", "combine": "joint", "eta": 0.0},
    "paper": {"steps": 250, "sampler": "ddim", "combine": "sum", "eta": 1.0, "free": 0.0},
}
