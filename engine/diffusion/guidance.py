"""Under what a network denoises: conditionings, weighted against each other, all in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.diffusion.control import ControlInput

STRONG, RESCALE = 4.0, 0.7


@dataclass(frozen=True)
class Conditioning:
    """One row of guidance: its prompt (B or 1, L, D), and its weight (a number, or a map (B or 1, 1, h or 1, w or 1)).

    ``concat_latents`` (B or 1, kC, h, w) stand beside the noise (None: the null latent). ``lora_weights`` (B or 1, K):
    how much of each attached LoRA it carries (lora.py). ``attention_weights`` (B or 1, K): how much of each recorded
    picture its self-attention looks at (attention.py). ``control``: what its controls are shown (control.py).
    """

    prompt_embeds: Tensor
    weight: float | Tensor = 1.0
    concat_latents: Tensor | None = None
    lora_weights: Tensor | None = None
    attention_weights: Tensor | None = None
    control: Mapping[str, ControlInput] | None = None


class Pass(NamedTuple):
    """What hooks may ask while rows are in the UNet: the number of the first row, and what each row carries."""

    first: int
    sigma: float | None  # if it is the same for all
    lora_weights: Tensor | None
    attention_weights: Tensor | None


def classifier_free(cond: Tensor, uncond: Tensor, scale: float) -> list[Conditioning]:
    """Classifier-free guidance (Ho & Salimans 2022), u + scale·(c − u); one row when the scale is 1."""
    if scale == 1:
        return [Conditioning(cond)]
    return [Conditioning(cond, scale), Conditioning(uncond, 1 - scale)]


def combine(outputs: Tensor, conditionings: Sequence[Conditioning], rescaled: bool = False) -> Tensor:
    """Outputs (rows, B, C, h, w) → Σ weightᵢ · outputᵢ (B, C, h, w).

    ``rescaled``: classifier-free guidance above `STRONG` keeps the deviation of the positive row, or pictures of a
    network with zero terminal SNR would be overexposed (Lin et al. 2024, arXiv 2305.08891, eq. 14 to 16, with φ = .7).
    """
    weights = [c.weight.to(outputs) if isinstance(c.weight, Tensor) else c.weight for c in conditionings]
    out = torch.stack([w * o for w, o in zip(weights, outputs, strict=True)]).sum(0)
    if rescaled and len(weights) == 2 and bool(torch.as_tensor(weights[0] > STRONG).all()):
        own, guided = (t.std((1, 2, 3), keepdim=True) for t in (outputs[0], out))
        out = out * (RESCALE * own / guided.clamp(min=1e-6) + 1 - RESCALE)
    return out


def carried(conditionings: Sequence[Conditioning], name: str, n: int) -> Tensor | None:
    """What all rows carry by that name, (rows · n, K); zeros for those that carry none, None if no row does."""
    own = [getattr(c, name) for c in conditionings]
    width = next((w.shape[1] for w in own if w is not None), None)
    if width is None:
        return None
    return torch.cat([torch.zeros(n, width) if w is None else w.cpu().expand(n, -1) for w in own])
