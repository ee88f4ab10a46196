"""How *Draw* has realism act: by the drawing's low-pass, or by how much of its colours is under noise at the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.context import free_from, noise_source
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import Denoise, StepRule, masked_step
from engine.requests import DrawRequest
from engine.vision.drawing import ilvr, lowpass, refine_size

if TYPE_CHECKING:
    from engine.methods.draw import Drawing

TOLD = 4  # cells a side of what the network says of strokes: by eye, fewer leave weave in flat skies
Plan = Sequence[dict[str, Any]]  # of every picture what it has of its own: its seed, and the scales a sheet gives it


def rule_of(model: LatentDiffusion, r: DrawRequest) -> str:
    """How realism acts: as asked for, or as suits what the network can be shown."""
    if r.refine != "auto":
        return r.refine
    if model.sees_drawings:
        return "clean" if model.schedule.zero_terminal_snr else "noised"
    return "clean" if model.resident.has("stroke") else "start"


def strengths(model: LatentDiffusion, r: DrawRequest, drawing: Drawing, plan: Plan) -> Tensor | None:
    """How much of the noise each place begins with, (B, 1, h, w) up to 1: all of it where nothing is painted,
    realism^scale in full paint, so that a scale of 0 leaves the colours out and one above 1 insists. At least one step
    is walked. None without colours."""
    if drawing.strokes is None:
        return None
    own = scales(model, r, plan, "realism") ** scales(model, r, plan, "stroke_scale")
    return 1 - drawing.where * (1 - own.clamp(min=1 / r.steps))


def walked(model: LatentDiffusion, r: DrawRequest, top: float) -> list[float]:
    """The falling sigmas from that of the strength ``top`` on."""
    if r.sampler != "live":
        return model.schedule.sigmas_from_strength(top, r.steps)
    return model.few_step_sigmas(None if top == 1 else model.schedule.sigma(top), min(4, r.steps))


def start(
    model: LatentDiffusion,
    drawing: Drawing,
    strength: Tensor,
    x: Tensor,
    step: StepRule,
    sigmas: Sequence[float],
    plan: Plan,
) -> tuple[Tensor, StepRule]:
    """Start and step of which every place is the colours under noise until the walk has come down to its strength.

    The noise is one: a row of a sheet, whose walk begins higher than its own would, comes to where that begins."""
    colours: Tensor = drawing.strokes  # type: ignore[assignment]  # strengths are those of colours
    free = free_from(model, strength, 1.0)
    noise = noise_source(colours.shape[1:], [(p["seed"], 0) for p in plan], model.device)()
    x = torch.where(strength < 1, colours + sigmas[0] * noise, x)
    return x, masked_step(step, colours, free, lambda: noise)


def refine(
    model: LatentDiffusion,
    r: DrawRequest,
    rule: str,
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
    strokes, tells = drawing.strokes, model.sees_drawings and model.schedule.zero_terminal_snr
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


def scales(model: LatentDiffusion, r: DrawRequest, plan: Plan, name: str) -> Tensor:
    """(B, 1, 1, 1): a scale of every picture."""
    own = [p.get(name, getattr(r, name)) for p in plan]
    return torch.tensor(own, dtype=torch.float32, device=model.device).view(-1, 1, 1, 1)
