"""Adaptively-Realistic Image Generation from Stroke and Sketch (Cheng et al. 2022, arXiv 2208.12675; methods.md §3).

A network that sees a sketch and strokes beside the noisy picture, guided along both at once, and pulled towards the
drawing's own coarse colours as long as less than full realism is asked for. Where it can be shown no colours they are
what the walk begins with (SDEdit, arXiv 2108.01073, at a strength for every place): Draw's own, not DiSS's.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.context import Advance, Context, Output, Steps, free_from, noise_source, walk
from engine.diffusion.control import ControlInput, palette
from engine.diffusion.guidance import Conditioning
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import StepRule, ancestral, euler, generator, lcm_step, masked_step
from engine.diffusion.words import Words
from engine.methods.realism import Plan, refine, rule_of, scales, start, strengths, walked
from engine.requests import DrawRequest, EngineError, Frame
from engine.vision import compositing, images

LETTER = {"sketch": "s", "stroke": "c", "tile": "c"}  # what a control is shown: lines or colours


def draw(context: Context, r: DrawRequest) -> Steps:
    """`Frame`s of the plan (seeds, or a sheet), all in one batch."""
    model, plan = context.model, r.plan()
    if r.sketch is not None and not (model.sees_drawings or model.resident.has("sketch")):
        raise EngineError(
            f"model must see drawings by itself (flora) or have a control for lines, got {r.model}, which has neither"
        )
    weights, live = model.resident.weights_for(r.sampler), r.sampler == "live"
    layers = compositing.compose(r, images.frame_size(r.drawn, "fit", r.size or model.size, model.multiple))
    key = latents_of(r)
    z = context.get("drawn", key) if live else None  # the hand rests: the same once more, by the other decoder
    if z is None:
        z = yield from walk_down(context, r, plan, encode(context, layers, live), weights)
        context.put("drawn", key, z) if live else None
    pictures = images.to_pictures(model.look(z) if r.decoder == "light" else model.decode(z))
    if layers.photo is not None and layers.mask is not None:
        pictures = compositing.paste(
            pictures, layers.photo, layers.mask, r.feather, layers.painted if r.match else None
        )
    for i, picture in enumerate(pictures):
        yield Frame(i, picture)
    quality = {} if live else layers.measure(pictures[0])  # while the hand draws nobody reads figures
    return Output(pictures, {"plan": plan}, quality, model.unread([r.prompt, r.negative]))


def latents_of(r: DrawRequest) -> Any:
    """What tells the latents of a request from others: all but how they are decoded."""
    given = [p and images.digest(p) for p in (r.sketch, r.strokes, r.photo, r.mask)]
    return given, replace(r, decoder="full").settings()


def walk_down(
    context: Context, r: DrawRequest, plan: Plan, drawing: Drawing, weights: Any
) -> Generator[Advance, None, Tensor]:
    """The latents (B, C, h, w) of the plan, walked with the sampler's ``weights``."""
    model, rule = context.model, rule_of(context.model, r)
    strength = strengths(model, r, drawing, plan) if rule == "start" else None
    sigmas = walked(model, r, 1.0 if strength is None else float(strength.max()))
    with weights:
        denoise = model.denoiser(guidance(model, r, drawing, context.embed(r.prompt, r.negative), plan))
        x, step = begin(model, r, drawing, sigmas, plan)
        if strength is None:
            denoise, step = refine(model, r, rule, drawing, denoise, step, sigmas, plan)
        else:
            x, step = start(model, drawing, strength, x, step, sigmas, plan)
        x, step = keep(model, drawing, x, step, sigmas[0], plan)
        doing = "drawing" if len(plan) == 1 else f"drawing {len(plan)} pictures"
        return (yield from walk(denoise, x, sigmas, doing, range(len(plan)), step))


@dataclass(frozen=True)
class Drawing:
    """The layers as the network takes them: latents (1, C, h, w), where colours count and what may change (1, 1, h, w)
    0 … 1, and what its controls are shown."""

    grid: tuple[int, int]
    sketch: Tensor | None
    strokes: Tensor | None
    photo: Tensor | None
    where: Tensor
    may_change: Tensor | None
    control: dict[str, ControlInput]

    def painted(self, scales: Tensor) -> Tensor:
        """Where colours count, (B, 1, h, w) 0 … 1: nowhere if their scale is 0."""
        return self.where * scales.clamp(max=1)


def encode(context: Context, layers: compositing.Layers, together: bool = False) -> Drawing:
    """``together``: what is new of it in one batch, as there is no time to lose while the hand draws."""
    model, names = context.model, ("lines", "colours", "photo")
    shown = {n: p for n in names if (p := getattr(layers, n)) is not None}
    z = dict(zip(shown, context.encode_each(list(shown.values()), together).split(1), strict=True))
    factor, control = model.vae_scale_factor, {}
    if not model.sees_drawings:  # controls see white lines on black, a palette of coarse colours or a soft picture
        if layers.lines is not None:
            control["sketch"] = ControlInput(_unit(255 - layers.lines))
        if layers.colours is not None:
            colours, adapts = _unit(layers.colours), model.resident.has("stroke")
            control |= {"stroke": ControlInput(palette(colours))} if adapts else {"tile": ControlInput(colours)}
        control = {kind: given for kind, given in control.items() if model.resident.has(kind)}
    h, w = layers.alpha.shape
    where = compositing.latent_grid(layers.alpha, factor).to(model.device)
    change = None if layers.mask is None else compositing.latent_grid(layers.mask, factor, most=True)
    found = (z.get(n) for n in names)
    return Drawing((h // factor, w // factor), *found, where, change, control)


def guidance(
    model: LatentDiffusion, r: DrawRequest, drawing: Drawing, prompts: Words, plan: Plan
) -> list[Conditioning]:
    """The guidance in two dimensions, e(∅) + s₁(e(sketch) − e(∅)) + s₂(e(strokes) − e(∅)), as rows of one batch
    (DiSS, methods.md §3.3; s₂ only where there are strokes). "joint" adds s₁s₂(e(both) − e(sketch) − e(strokes)
    + e(∅)). Rows whose weight is 0 everywhere are left out."""
    seen = {LETTER[kind] for kind in drawing.control}
    if model.sees_drawings:
        seen = {c for c, z in (("s", drawing.sketch), ("c", drawing.strokes)) if z is not None}
    if tile := drawing.control.get("tile"):
        tile.scale = 1 - scales(model, r, plan, "realism").flatten()
    s1 = scales(model, r, plan, "sketch_scale") * ("s" in seen)
    s2 = scales(model, r, plan, "stroke_scale") * ("c" in seen) * drawing.where
    any1, any2 = s1 > 0, s2.amax((2, 3), keepdim=True) > 0
    both = s1 * s2 if r.combine == "joint" else torch.zeros_like(s2)
    weights = {(0, ""): 1 - s1 - s2 + both, (0, "s"): s1 - both, (0, "c"): s2 - both, (0, "sc"): both}
    plain = dict(weights)
    if r.guidance != 1 and r.prompt != r.negative:  # the words' own guidance, where most of the drawing is seen
        for what, here in {"": ~any1 & ~any2, "s": any1 & ~any2, "c": ~any1 & any2, "sc": any1 & any2}.items():
            weights[0, what] = weights[0, what] + (r.guidance - 1) * here
            weights[1, what] = (1 - r.guidance) * here
    return [
        Conditioning(prompts[text : text + 1], weight, plain.get((text, what), 0.0), **show(model, drawing, what))
        for (text, what), weight in weights.items()
        if bool((weight.abs() > 1e-6).any())
    ]


def show(model: LatentDiffusion, drawing: Drawing, what: str) -> dict[str, Any]:
    """What a row sees, of "s" the lines and of "c" the colours: latents beside the noise, or what controls are shown.
    Φ is mid-grey there, and nothing here."""
    if not model.sees_drawings:
        return {"control": {kind: given for kind, given in drawing.control.items() if LETTER[kind] in what}}
    null = model.null_latent(drawing.grid)
    pairs = (("s", drawing.sketch), ("c", drawing.strokes))
    return {"concat_latents": torch.cat([z if c in what and z is not None else null for c, z in pairs], 1)}


def begin(
    model: LatentDiffusion, r: DrawRequest, drawing: Drawing, sigmas: Sequence[float], plan: Plan
) -> tuple[Tensor, StepRule]:
    """Where the walk starts, with the strokes under the largest noise where that does not quite hide them; and its
    step."""
    noise = noise_source((model.channels, *drawing.grid), [(p["seed"], 0) for p in plan], model.device)()
    painted = drawing.painted(scales(model, r, plan, "stroke_scale"))
    shows = not model.schedule.zero_terminal_snr
    if model.sees_drawings and shows:
        x = compositing.without_coarse(noise, sigmas[0], painted)
    else:  # of Stable Diffusion's noise the coarse part stays: it knows what to do with it
        x = noise * (1 + sigmas[0] ** 2) ** 0.5
    if drawing.strokes is not None and shows:
        x = x + painted * drawing.strokes
    own = [generator(p["seed"], 1) for p in plan]
    lcm = r.sampler == "live" and model.resident.lcm
    return x, ancestral(r.eta, own) if r.eta else lcm_step(own) if lcm else euler


def keep(
    model: LatentDiffusion, drawing: Drawing, x: Tensor, step: StepRule, sigma: float, plan: Plan
) -> tuple[Tensor, StepRule]:
    """Start and step that keep a photograph where it may not change (SDEdit, algorithm 5)."""
    if drawing.photo is None or drawing.may_change is None:
        return x, step
    free = free_from(model, drawing.may_change, 1.0)
    noise = noise_source(x.shape[1:], [(p["seed"], 0) for p in plan], model.device)
    noise()  # the walk began with it
    return torch.where(free >= sigma, x, drawing.photo + sigma * noise()), masked_step(step, drawing.photo, free, noise)


def _unit(block: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 → (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(block)).permute(2, 0, 1)[None].float() / 255
