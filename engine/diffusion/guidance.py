"""Under what a network denoises: conditionings, weighted against each other, all in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.diffusion.control import ControlInput
from engine.diffusion.words import Words

STRONG, RESCALE = 4.0, 0.7


@dataclass(frozen=True)
class Conditioning:
    """One row of guidance: its words (B or 1 rows), and its weight (a number, or a map (B or 1, 1, h or 1, w or 1)).

    ``unguided``: the weight it would have with guidance 1 by the words (None: the same one).
    ``concat_latents`` (B or 1, kC, h, w) stand beside the noise (None: the null latent). ``lora_weights`` (B or 1, K):
    how much of each attached LoRA it carries (lora.py). ``attention_weights`` (B or 1, K): how much of each recorded
    picture its self-attention looks at (attention.py). ``control``: what its controls are shown (control.py).
    """

    words: Words
    weight: float | Tensor = 1.0
    unguided: float | Tensor | None = None
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


def classifier_free(cond: Words, uncond: Words, scale: float) -> list[Conditioning]:
    """Classifier-free guidance (Ho & Salimans 2022), u + scale·(c − u); one row when the scale is 1."""
    if scale == 1:
        return [Conditioning(cond)]
    return [Conditioning(cond, scale, 1.0), Conditioning(uncond, 1 - scale, 0.0)]


def combine(outputs: Tensor, conditionings: Sequence[Conditioning], rescaled: bool = False) -> Tensor:
    """Outputs (rows, B, C, h, w) → Σ weightᵢ · outputᵢ (B, C, h, w).

    ``rescaled``: pictures whose guidance by the words is above `STRONG` keep the deviation of those with guidance 1, or
    a network with zero terminal SNR would overexpose them (Lin et al. 2024, arXiv 2305.08891, eq. 14 to 16, φ = .7).
    """
    weights = [maps(c.weight, outputs) for c in conditionings]
    out = weighed(outputs, weights)
    if not rescaled:
        return out
    plain = [
        w if c.unguided is None else maps(c.unguided, outputs) for c, w in zip(conditionings, weights, strict=True)
    ]
    gained = [(w - p).to(outputs).expand(out.shape) for w, p in zip(weights, plain, strict=True)]
    strong = torch.stack(gained).amax((0, 2, 3, 4)) > STRONG - 1 + 0.01
    own, guided = (t.std((1, 2, 3), keepdim=True) for t in (weighed(outputs, plain), out))
    return torch.where(strong.view(-1, 1, 1, 1), out * (RESCALE * own / guided.clamp(min=1e-6) + 1 - RESCALE), out)


def maps(weight: float | Tensor, outputs: Tensor) -> Tensor:
    """A number stays one of full precision, also beside outputs of half."""
    return weight.to(outputs) if isinstance(weight, Tensor) else torch.tensor(weight)


def weighed(outputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * o for w, o in zip(weights, outputs, strict=True)]).sum(0)


def carried(conditionings: Sequence[Conditioning], name: str, n: int) -> Tensor | None:
    """What all rows carry by that name, (rows · n, K); zeros for those that carry none, None if no row does."""
    own = [getattr(c, name) for c in conditionings]
    width = next((w.shape[1] for w in own if w is not None), None)
    if width is None:
        return None
    return torch.cat([torch.zeros(n, width) if w is None else w.cpu().expand(n, -1) for w in own])
