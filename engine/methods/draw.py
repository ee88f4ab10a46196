"""Adaptively-Realistic Image Generation from Stroke and Sketch (Cheng et al. 2022, arXiv 2208.12675; methods.md §3).

A network that sees a sketch and strokes beside the noisy picture, guided along both at once, and pulled towards the
drawing's own coarse colours as long as less than full realism is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.context import Context, Output, Steps, free_from, noise_source, walk
from engine.diffusion.control import ControlInput, palette
from engine.diffusion.guidance import Conditioning
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import Denoise, StepRule, ancestral, euler, generator, lcm_step, masked_step
from engine.requests import DrawRequest, EngineError, Frame
from engine.vision import compositing, images
from engine.vision.drawing import ilvr, lowpass, refine_size

TOLD = 4  # cells a side of what the network says of strokes: by eye, fewer leave weave in flat skies
Plan = Sequence[dict[str, Any]]  # of every picture what it has of its own: its seed, and the scales a sheet gives it


def draw(context: Context, r: DrawRequest) -> Steps:
    """`Frame`s of the plan (seeds, or a sheet), all in one batch."""
    model, plan = context.model, r.plan()
    lacking = [k for k in r.wants if k != "live" and not model.resident.has(k)]
    if lacking and not model.sees_drawings:
        raise EngineError(
            f"model must see drawings by itself (flora) or have a control for {' and '.join(lacking)}, got "
            f"{r.model}, which has neither"
        )
    weights = model.resident.weights_for(r.sampler)
    layers = compositing.compose(r, images.frame_size(r.drawn, "fit", r.size or model.size, model.multiple))
    drawing = encode(context, layers)
    live, schedule = r.sampler == "live", model.schedule
    sigmas = model.few_step_sigmas(steps=min(4, r.steps)) if live else schedule.sigmas_from_strength(1.0, r.steps)
    with weights:
        denoise = model.denoiser(guidance(model, r, drawing, context.embed(r.prompt, r.negative), plan))
        x, step = begin(model, r, drawing, sigmas, plan)
        denoise, step = refine(model, r, drawing, denoise, step, sigmas, plan)
        x, step = keep(model, drawing, x, step, sigmas[0], plan)
        doing = "drawing" if len(plan) == 1 else f"drawing {len(plan)} pictures"
        z = yield from walk(denoise, x, sigmas, doing, range(len(plan)), step)
    pictures = images.to_pictures(model.decode(z))
    if layers.photo is not None and layers.mask is not None:
        pictures = compositing.paste(pictures, layers.photo, layers.mask, r.feather)
    for i, picture in enumerate(pictures):
        yield Frame(i, picture)
    quality = {} if live else layers.measure(pictures[0])  # while the hand draws nobody reads figures
    return Output(pictures, {"plan": plan}, quality, model.unread([r.prompt, r.negative]))


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


def encode(context: Context, layers: compositing.Layers) -> Drawing:
    model, names = context.model, ("lines", "colours", "photo")
    shown = {n: p for n in names if (p := getattr(layers, n)) is not None}
    z = dict(zip(shown, context.encode_each(list(shown.values())).split(1), strict=True))
    factor, control = model.vae_scale_factor, {}
    if not model.sees_drawings:  # ControlNet and adapter see white lines on black, and a palette of coarse colours
        if layers.lines is not None:
            control["sketch"] = ControlInput(_unit(255 - layers.lines))
        if layers.colours is not None:
            control["stroke"] = ControlInput(palette(_unit(layers.colours)))
    h, w = layers.alpha.shape
    where = compositing.latent_grid(layers.alpha, factor).to(model.device)
    change = None if layers.mask is None else compositing.latent_grid(layers.mask, factor, most=True)
    found = (z.get(n) for n in names)
    return Drawing((h // factor, w // factor), *found, where, change, control)


def guidance(
    model: LatentDiffusion, r: DrawRequest, drawing: Drawing, prompts: Tensor, plan: Plan
) -> list[Conditioning]:
    """The guidance in two dimensions, e(∅) + s₁(e(sketch) − e(∅)) + s₂(e(strokes) − e(∅)), as rows of one batch
    (DiSS, methods.md §3.3; s₂ only where there are strokes). "joint" adds s₁s₂(e(both) − e(sketch) − e(strokes)
    + e(∅)). Rows whose weight is 0 everywhere are left out."""
    s1 = scales(model, r, plan, "sketch_scale") * (drawing.sketch is not None)
    s2 = scales(model, r, plan, "stroke_scale") * (drawing.strokes is not None) * drawing.where
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
        return {"control": {n: drawing.control[n] for c, n in (("s", "sketch"), ("c", "stroke")) if c in what}}
    null = model.null_latent(drawing.grid)
    pairs = (("s", drawing.sketch), ("c", drawing.strokes))
    return {"concat_latents": torch.cat([z if c in what and z is not None else null for c, z in pairs], 1)}


def scales(model: LatentDiffusion, r: DrawRequest, plan: Plan, name: str) -> Tensor:
    """(B, 1, 1, 1): a scale of every picture."""
    own = [p.get(name, getattr(r, name)) for p in plan]
    return torch.tensor(own, dtype=torch.float32, device=model.device).view(-1, 1, 1, 1)


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


def refine(
    model: LatentDiffusion,
    r: DrawRequest,
    drawing: Drawing,
    denoise: Denoise,
    step: StepRule,
    sigmas: Sequence[float],
    plan: Plan,
) -> tuple[Denoise, StepRule]:
    """Realism: denoiser and step with the drawing's low-pass in place of the picture's, up to the last free steps.

    "noised" is the published rule: the low-pass of x at s_next gives way to that of the drawing noised to s_next, but
    for the last step. "clean" changes the clean picture in mind, so x never leaves what the network knows.
    """
    strokes, rule = drawing.strokes, r.refine
    tells = model.sees_drawings and model.schedule.zero_terminal_snr
    if rule == "auto":
        rule = "noised" if model.sees_drawings and not tells else "clean"
    if strokes is None or rule == "off":
        return denoise, step
    ref: Tensor = strokes
    side = max(drawing.grid) * model.vae_scale_factor
    cells = [refine_size(side, p.get("realism", r.realism), r.k) for p in plan]
    where, pulls = drawing.painted(scales(model, r, plan, "stroke_scale")), round((len(sigmas) - 1) * (1 - r.free))
    last = sigmas[pulls - 1] if pulls else float("inf")
    noise = noise_source(ref.shape[1:], [(p["seed"], 2) for p in plan], model.device)

    def clean(x: Tensor, s: float) -> Tensor:
        nonlocal ref
        x0 = denoise(x, s)
        if tells and s == sigmas[0]:
            # Of noise alone the network says what photographs of such strokes are on average. Latents hold some of
            # their texture in the mean: pulled to flat paint itself, the picture would be as flat.
            ref = ref + scales(model, r, plan, "realism") * lowpass(x0 - ref, TOLD)
        return x0 if s < last else ilvr(x0, ref, cells, where)

    def noised(x: Tensor, x0: Tensor, s: float, s_next: float) -> Tensor:
        x = step(x, x0, s, s_next)
        return x if s < last or not s_next else ilvr(x, ref + s_next * noise(), cells, where)

    return (clean, step) if rule == "clean" else (denoise, noised)


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
