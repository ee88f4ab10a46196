"""Adaptively-Realistic Image Generation from Stroke and Sketch (Cheng et al. 2022, arXiv 2208.12675; methods.md §3).

A network that sees a sketch and strokes beside the noisy picture, guided along both at once, and pulled towards the
drawing's own coarse colours as long as less than full realism is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.checkpoints.manager import Models
from engine.diffusion.control import Hint, palette
from engine.diffusion.model import Network, Row
from engine.diffusion.sampling import Denoise, StepRule, ancestral, euler, generator, masked_step, lcm_step
from engine.requests import Done, DrawRequest, EngineError, Event, Frame, Progress
from engine.vision import compositing as rendering
from engine.vision import images
from engine.vision.compositing import Paint, cells, colourless, fresh, latents, pasted, region
from engine.vision.drawing import followed, grown, pulled, refine_size, sketch_of, spread, strokes_of

DECODE = 0.06  # of the progress bar


def draw(models: Models, request: DrawRequest) -> Iterator[Event]:
    """`Frame`s of the plan (seeds, or a sheet), all in one batch."""
    started = perf_counter()
    yield Progress(0.0, f"loading {request.model}")
    net = yield from models.loading(request.model, request.wants)
    if not net.sees_drawings and (lacking := [k for k in request.wants if k != "live" and not net.has(k)]):
        raise EngineError(
            f"model must see drawings by itself (flora) or have a control for {' and '.join(lacking)}, got "
            f"{request.model}, which has neither"
        )
    sampling, before = net.sampler(request.sampler), net.evaluations
    size = images.frame_size(request.drawn, "fit", request.size or net.size, net.multiple)
    sketch, strokes = (rendering.paint(p, size) if p else None for p in (request.sketch, request.strokes))
    drawing = Drawing(models, net, request, size, sketch, strokes)
    plan = request.plan()
    with sampling:
        z = yield from drawing.walk(plan)
    pictures = drawing.finish(images.to_pictures(net.decode(z)))
    for i, picture in enumerate(pictures):
        yield Frame(i, picture)
    yield Progress(1.0, "done")
    settings = request.settings() | {"width": size[0], "height": size[1], "plan": plan}
    # While the hand draws nobody reads figures.
    took, quality = perf_counter() - started, drawing.measure(pictures) if request.sampler == "ddim" else {}
    yield Done(tuple(pictures), settings, took, net.evaluations - before, tuple(net.notes(request.prompt)), quality)


class Drawing:
    """The layers of a request at the size of the frame, as latents, and what follows from them."""

    def __init__(self, models: Models, net: Network, request: DrawRequest, size: tuple[int, int], sketch: Paint | None,
                 strokes: Paint | None):  # fmt: skip
        self.net, self.request, self.size, self.sketch, self.strokes = net, request, size, sketch, strokes
        self.words = rendering.words(models, net, request.prompt, request.negative)
        white, w, h = np.full((size[1], size[0], 3), 255, np.uint8), *size
        lines = sketch.over(white) if sketch else None
        colours = spread(strokes.colour, strokes.alpha) if strokes else None
        alpha = strokes.alpha if strokes else np.zeros((h, w), np.float32)
        self.photo = self.mask = None
        if request.photo:
            self.photo = np.asarray(images.fitted(request.photo, size, "fit"))
            drawn = [p.alpha for p in (sketch, strokes) if p]
            self.mask = region(request.mask, drawn, request.around, size)
            # The photograph's own lines go on where nothing was drawn, and its colours where nothing was painted, so
            # that the edit grows out of what is there.
            own = np.repeat(sketch_of(self.photo)[..., None], 3, 2)
            over = np.maximum.reduce([grown(p.alpha, r) for p, r in ((sketch, request.around), (strokes, 0)) if p])
            own = np.where(over[..., None] > 0, white, own)
            lines = own if lines is None else np.minimum(own, lines)
            colours = strokes.over(strokes_of(self.photo)) if strokes else strokes_of(self.photo)
            alpha = np.ones((h, w), np.float32)
        if lines is not None:  # the network has seen grey lines only
            lines = np.repeat(np.asarray(Image.fromarray(lines.astype(np.uint8)).convert("L"))[..., None], 3, 2)
        self.lines, self.colours = lines, colours
        shown = [p for p in (lines, colours, self.photo) if p is not None]
        z = list(latents(models, net, shown).split(1))
        self.look = net.previewer(torch.cat(z), images.to_tensor([Image.fromarray(p) for p in shown]))
        self.z_photo = z.pop() if self.photo is not None else None
        self.z_strokes = z.pop() if colours is not None else None
        self.z_sketch = z.pop() if lines is not None else None
        self.where = cells(alpha, net)
        self.hints = {} if net.sees_drawings else self.controlled()
        self.grid = (h // net.factor, w // net.factor)

    def rows(self, part: list[dict]) -> list[Row]:
        """The guidance in two dimensions, e(∅) + s₁(e(sketch) − e(∅)) + s₂(e(strokes) − e(∅)), as rows of one batch
        (DiSS, methods.md §3.3; s₂ only where there are strokes). "joint" adds s₁s₂(e(both) − e(sketch) − e(strokes)
        + e(∅)). Rows whose weight is 0 everywhere are left out."""
        r = self.request
        s1 = self._scales(part, "sketch_scale") * (self.z_sketch is not None)
        s2 = self._scales(part, "stroke_scale") * (self.z_strokes is not None) * self.where
        any1, any2 = s1 > 0, s2.amax((2, 3), keepdim=True) > 0
        both = s1 * s2 if r.combine == "joint" else torch.zeros_like(s2)
        weights = {("prompt", ""): 1 - s1 - s2 + both, ("prompt", "s"): s1 - both, ("prompt", "c"): s2 - both,
                   ("prompt", "sc"): both}  # fmt: skip
        if r.guidance != 1 and r.prompt != r.negative:  # the words' own guidance, where most of the drawing is seen
            for what, here in {"": ~any1 & ~any2, "s": any1 & ~any2, "c": ~any1 & any2, "sc": any1 & any2}.items():
                weights["prompt", what] = weights["prompt", what] + (r.guidance - 1) * here
                weights["negative", what] = (1 - r.guidance) * here
        words = dict(zip(("prompt", "negative"), self.words.split(1), strict=True))
        return [Row(words[text], weight, **self.shown(what))
                for (text, what), weight in weights.items() if bool((weight.abs() > 1e-6).any())]  # fmt: skip

    def controlled(self) -> dict[str, Hint]:
        """What ControlNet and adapter are shown: white lines on black, and a palette of coarse colours."""
        out = {}
        if self.lines is not None:
            out["sketch"] = Hint(_picture(255 - self.lines))
        if self.colours is not None:
            out["stroke"] = Hint(palette(_picture(self.colours)))
        return out

    def shown(self, what: str) -> dict[str, Any]:
        """What a row sees, of "s" the lines and of "c" the colours: latents beside the noise, or what controls are
        shown. Φ is mid-grey there, and nothing here."""
        if not self.net.sees_drawings:
            return {"hints": {name: self.hints[name] for c, name in (("s", "sketch"), ("c", "stroke")) if c in what}}
        null = self.net.null(self.grid)
        lines, colours = (z if c in what and z is not None else null
                          for c, z in (("s", self.z_sketch), ("c", self.z_strokes)))  # fmt: skip
        return {"conditions": torch.cat([lines, colours], 1)}

    def _scales(self, part: list[dict], name: str) -> Tensor:
        own = [p.get(name, getattr(self.request, name)) for p in part]
        return torch.tensor(own, dtype=torch.float32, device=self.net.device).view(-1, 1, 1, 1)

    def painted(self, part: list[dict]) -> Tensor:
        """Where colours count, (B, 1, h, w) 0 … 1: nowhere if their scale is 0."""
        return self.where * self._scales(part, "stroke_scale").clamp(max=1)

    def walk(self, part: list[dict]) -> Iterator[Event]:
        """Noise becomes one picture for every entry of ``part``; returns the clean latents."""
        net, r = self.net, self.request
        levels = net.below(1.0, r.steps) if r.sampler == "ddim" else net.jumps(steps=min(4, r.steps))
        noise = fresh(net, (net.channels, *self.grid), [(p["seed"], 0) for p in part])
        # Begun with the strokes under the largest noise, which does not quite hide them.
        painted = self.painted(part)
        # Of Stable Diffusion's noise the coarse part stays: it knows what to do with it.
        first = noise()
        x = colourless(first, levels[0], painted) if net.sees_drawings else first * (1 + levels[0] ** 2) ** 0.5
        if self.z_strokes is not None:
            x = x + painted * self.z_strokes
        own = [generator(p["seed"], 1) for p in part]
        step = ancestral(r.eta, own) if r.eta else lcm_step(own) if r.sampler == "live" and net.few else euler
        field = net.field(self.rows(part))
        field, step = self.refined(field, step, part, levels)
        if self.z_photo is not None and self.mask is not None:
            free = rendering.level_of(net, cells(self.mask, net, most=True), 1.0)
            x = torch.where(free >= levels[0], x, self.z_photo + levels[0] * noise())
            step = masked_step(step, self.z_photo, free, noise)
        doing = "drawing" if len(part) == 1 else f"drawing {len(part)} pictures"
        return (yield from rendering.walk(net, field, x, levels, step, self.look, doing, 0, 1 - DECODE))

    def refined(
        self, field: Denoise, step: StepRule, part: list[dict], levels: list[float]
    ) -> tuple[Denoise, StepRule]:
        """Realism: field and step with the drawing's low-pass in place of the picture's, up to the last free steps.

        "noised" is the published rule: the low-pass of x at s_next gives way to that of the drawing noised to s_next,
        but for the last step.
        "clean" changes the clean picture in mind, so x never leaves what the network knows.
        """
        net, r, ref = self.net, self.request, self.z_strokes
        refine = r.refine if r.refine != "auto" else "noised" if net.sees_drawings else "clean"
        if ref is None or refine == "off":
            return field, step
        side = max(self.size)
        sizes = [refine_size(side, p.get("realism", r.realism), r.k) for p in part]
        where, pulls = self.painted(part), round((len(levels) - 1) * (1 - r.free))
        last = levels[pulls - 1] if pulls else float("inf")

        def clean(x: Tensor, s: float) -> Tensor:
            x0 = field(x, s)
            return x0 if s < last else pulled(x0, ref, sizes, where)

        noise = fresh(net, (net.channels, *self.grid), [(p["seed"], 2) for p in part])

        def noised(x: Tensor, x0: Tensor, s: float, s_next: float) -> Tensor:
            x = step(x, x0, s, s_next)
            return x if s < last or not s_next else pulled(x, ref + s_next * noise(), sizes, where)

        return (clean, step) if refine == "clean" else (field, noised)

    def finish(self, pictures: list[Image.Image]) -> list[Image.Image]:
        if self.photo is None or self.mask is None:
            return pictures
        return pasted(pictures, self.photo, self.mask, self.request.feather)

    def measure(self, pictures: list[Image.Image]) -> dict[str, float]:
        """How far the first picture is from the drawing (`engine.vision.drawing.followed`)."""
        lines = self.lines[..., 0] if self.lines is not None and self.sketch else None
        paint, alpha = (self.colours, self.strokes.alpha) if self.strokes else (None, None)
        return followed(np.asarray(pictures[0]), lines, paint, alpha)


def _picture(block: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 → (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(block)).permute(2, 0, 1)[None].float() / 255
