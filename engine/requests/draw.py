"""The request of *Draw*, its presets, and what a sheet shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any, ClassVar

from PIL.Image import Image

from engine.requests import shared
from engine.requests.errors import EngineError
from engine.requests.spec import Request, Spec, advanced, hidden, results

SHEETS = {
    "none": "none: just the results",
    "sketch-stroke": "lines × colours, 3 × 3",
    "sketch-realism": "lines × realism, 3 × 3",
    "stroke-realism": "colours × realism, 3 × 3",
    "ladder": "a ladder of realism",
}
COMBINES = {"joint": "together", "sum": "one after the other, added up (the paper's)"}
REFINES = {
    "auto": "as suits the network",
    "noised": "while it still is noise (the paper's)",
    "clean": "on the picture it has in mind",
    "start": "at the start: it begins with your colours",
    "off": "not at all",
}
DECODERS = {"full": "whole", "light": "light: rougher, in a fraction of the time"}
REFINE = "low-pass refinement of x_t or of the predicted x_0; SDEdit's start"
_AXES = {
    "sketch": ("sketch_scale", (0.0, 1.0, 2.0)),
    "stroke": ("stroke_scale", (0.0, 1.0, 2.0)),
    "realism": ("realism", (0.0, 0.5, 1.0)),
}
_LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class DrawRequest(Request):
    """A picture from lines and strokes with DiSS (Cheng et al. 2022, arXiv 2208.12675; methods.md §3).

    ``sketch`` and ``strokes`` are RGBA layers of the same proportions (`engine.vision.images.layer`): what has alpha
    was drawn. Regions without strokes stay free. With a ``photo`` the drawing is a local edit of it: ``mask`` (L, 255 =
    may change), or where there is none what was drawn and ``around`` it. ``combine`` "sum" is the paper's guidance of
    three rows, "joint" adds the interaction of both drawings, so that scales of 1 are the network that sees both.
    ``refine`` "noised" is the published low-pass rule, "clean" the same on the clean picture in mind, with ``k``;
    "auto" takes the first on networks that see drawings beside the noise, but for those with zero terminal SNR (flora),
    and the second on the others. "start" lays the colours under as much noise as realism says and begins there, as
    SDEdit does: what "auto" takes where a network can be shown no colours, as SDXL's family.
    ``decoder`` "light" shows the same latents by the network's light decoder, as live drawing does, where it has one.
    A ``sheet`` varies one or two of the scales with the same seed.
    """

    sketch: Annotated[Image | None, Spec("", "lines: dark ones on white, or with alpha", layer="RGBA")] = None
    strokes: Annotated[Image | None, Spec("", "colours; what is transparent stays free", layer="RGBA")] = None
    photo: shared.PHOTO = None
    mask: shared.MASK = None
    prompt: shared.PROMPT = ""
    seed: shared.SEED = 0
    realism: Annotated[float, Spec("Realism", "0 keeps your drawing, 1 only its average colour", 0, 1, 0.05)] = 0.8
    sketch_scale: Annotated[
        float, Spec("Lines", "how strictly; 0 leaves them out", 0, 3, 0.1, term="sketch guidance scale")
    ] = 1.0
    stroke_scale: Annotated[
        float, Spec("Colours", "how strictly; 0 leaves them out", 0, 3, 0.1, beside=True, term="stroke guidance scale")
    ] = 1.0
    count: shared.COUNT = 1
    sheet: Annotated[str, results("Sheet", "one seed at several settings", choices=SHEETS, beside=True)] = "none"
    negative: shared.NEGATIVE = ""
    steps: Annotated[int, advanced("Steps", "more: finer and slower; quick: at most 4", 1, 1000, 1)] = 24
    guidance: Annotated[float, replace(shared.GUIDANCE, group="advanced", beside=True)] = 3.0
    sampler: shared.SAMPLER = "ddim"
    combine: Annotated[
        str, advanced("Lines and colours lead", "the picture", choices=COMBINES, term="joint or three-row guidance")
    ] = "joint"
    refine: Annotated[str, advanced("Realism acts", "when it pulls to the drawing", choices=REFINES, term=REFINE)] = (
        "auto"
    )
    k: Annotated[int, advanced("Keep more", "of the drawing's detail", 0, 64, 1, term="the paper's k")] = 0
    free: Annotated[
        float, advanced("Free at the end", "share of the steps that leave the drawing", 0, 1, 0.05, beside=True)
    ] = 0.2
    around: Annotated[int, advanced("Around the drawing", "pixels of a photograph that may change", 0, 256, 1)] = 16
    feather: shared.FEATHER = 8
    match: shared.MATCH = True
    eta: Annotated[float, shared.CHANCE] = 0.0
    size: shared.SIZE = 0
    decoder: Annotated[
        str, hidden("decoder", "light where the network has one: rougher, at once", choices=DECODERS)
    ] = "full"
    model: shared.MODEL = "flora"

    method: ClassVar = "draw"
    preset: ClassVar = "standard"
    presets: ClassVar = {
        "live": {"steps": 2, "sampler": "live", "combine": "joint", "eta": 0.0, "guidance": 1.0},
        "draft": {"steps": 12, "sampler": "ddim", "combine": "joint", "eta": 0.0},
        "standard": {"steps": 24, "sampler": "ddim", "combine": "joint", "eta": 0.0},
        "paper": {"steps": 250, "sampler": "ddim", "combine": "sum", "eta": 1.0, "free": 0.0, "match": False},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sketch is None and self.strokes is None:
            got = " and ".join(n for n in ("photo", "mask") if getattr(self, n))
            raise EngineError(f"sketch or strokes must hold something drawn, got {got or 'nothing'}")
        if self.mask is not None and self.photo is None:
            raise EngineError("mask must come with a photo that is kept outside of it, got no photo")
        if self.sheet != "none":
            self._check_sheet()
        if self.sampler == "live" and self.eta:
            raise EngineError(f"`eta` must be 0 with the `sampler` `sampler=live`, got {self.eta:g}")

    def _check_sheet(self) -> None:
        if self.count > 1:
            raise EngineError(f"`count` must be 1 with a sheet, which has a seed of its own, got {self.count}")
        axes = {"realism"} if self.sheet == "ladder" else set(self.sheet.split("-"))
        lines, colours = ((layer or self.photo) is not None for layer in (self.sketch, self.strokes))
        lacking = {"realism": "" if colours and self.refine != "off" else "colours, and refine on"}
        lacking |= {"sketch": "" if lines else "lines", "stroke": "" if colours else "colours"}
        for axis, need in lacking.items():
            if axis in axes and need:
                what = f"`sheet` must vary what the drawing has, got `sheet={self.sheet}` where {axis} needs {need}"
                raise EngineError(what)

    def settings(self) -> dict[str, Any]:
        """Without the decoder where it is the usual one."""
        return {n: v for n, v in super().settings().items() if (n, v) != ("decoder", "full")}

    @property
    def wants(self) -> tuple[str, ...]:
        """What it asks for beside the network (`engine.checkpoints.resolve`)."""
        kinds = {
            "sketch": self.sketch or self.photo,
            "stroke": self.strokes or self.photo,
            "tile": self.strokes or self.photo,  # for networks that have no control for strokes
            "live": self.sampler == "live",
        }
        return tuple(k for k, wanted in kinds.items() if wanted)

    @property
    def drawn(self) -> Image:
        """The layer that gives the frame its proportions."""
        return next(layer for layer in (self.sketch, self.strokes) if layer is not None)

    def plan(self) -> list[dict[str, Any]]:
        """What each result has of its own: its seed (this one, the next …), and the scales a sheet gives it."""
        if self.sheet == "none":
            return [{"seed": (self.seed + i) % 2**32} for i in range(self.count)]
        if self.sheet == "ladder":
            return [{"seed": self.seed, "realism": r} for r in _LADDER]
        rows, columns = (_AXES[a] for a in self.sheet.split("-"))
        return [{"seed": self.seed, rows[0]: r, columns[0]: c} for r, c in product(rows[1], columns[1])]

    @property
    def total(self) -> int:
        return len(self.plan())

    @property
    def columns(self) -> int:
        """Pictures in a row of the sheet; 0 for a plain row of results."""
        return 3 if "-" in self.sheet else 0
