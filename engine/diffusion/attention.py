"""Context managers that reach into a network and leave it as it was, however they are left.

``model`` is a `LatentDiffusion`: its ``unet``, and what its rows carry at the moment (``now``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Features = dict[tuple[str, float], Tensor]  # (layer, σ) → (K, tokens, channels), half precision


def self_attentions(unet: nn.Module) -> dict[str, nn.Module]:
    """The self-attentions of the decoder blocks, where DiffMorpher mixes (§3.4): name → layer."""
    return {n: m for n, m in unet.named_modules() if n.startswith("up_blocks.") and n.endswith(".attn1")}


@contextmanager
def _hooks(unet: nn.Module, hook: Callable[[str], Callable]) -> Iterator[None]:
    handles = [m.register_forward_pre_hook(hook(n), with_kwargs=True) for n, m in self_attentions(unet).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record(model: Any, sigmas: Collection[float]) -> Iterator[Features]:
    """Collects what enters the decoder's self-attentions at ``sigmas``, in half precision.

    As in the published code it is the layer's normalised input that is kept, not keys and values: half the memory.
    """
    parts: dict[tuple[str, float], dict[int, Tensor]] = {}
    found: Features = {}

    def hook(name: str):
        def see(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            now = model.now
            if now is not None and now.sigma in sigmas:
                x = args[0] if args else kwargs["hidden_states"]
                parts.setdefault((name, now.sigma), {})[now.first] = x.detach().half()

        return see

    with _hooks(model.unet, hook):
        yield found
    for key, rows in parts.items():
        found[key] = torch.cat([rows[i] for i in sorted(rows)])


@contextmanager
def mix(
    model: Any,
    features: Features,
    own: float = 0.0,
    blend: Callable[[Tensor, Tensor, int], Tensor | None] | None = None,
) -> Iterator[None]:
    """Inside, rows that carry ``attention_weights`` (n, K) take keys and values from that mix of recorded features.

    h = own · (their own) + (1 − own) · Σ weightₖ · featureₖ (DiffMorpher eq. 7; β in its code), at the recorded sigmas
    only; all else is as it was. ``blend``, of the features (K, tokens, c), the weights and the number of the first row,
    may give another mix, (n, tokens, c).
    """

    def hook(name: str):
        def change(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            now = model.now
            if now is None or now.attention_weights is None or (name, now.sigma) not in features:
                return None
            x = args[0] if args else kwargs["hidden_states"]
            kept = features[name, now.sigma].to(x.device, x.dtype)
            mixed = blend(kept, now.attention_weights, now.first) if blend else None
            if mixed is None:
                mixed = torch.einsum("nk,ktc->ntc", now.attention_weights.to(x.device, x.dtype), kept)
            if own:
                mixed = own * x + (1 - own) * mixed
            # Attention takes keys and values from ``encoder_hidden_states`` where there are any.
            return args, kwargs | {"encoder_hidden_states": mixed}

        return change

    with _hooks(model.unet, hook):
        yield


@contextmanager
def plain_products(unet: Any) -> Iterator[None]:
    """Inside, attention is plain products: 1.4 to 1.7 times as fast as the fused attention of CPUs, forwards and
    backwards, for latents up to 32 × 32 (training/README.md)."""
    from diffusers.models.attention_processor import AttnProcessor

    own = unet.attn_processors
    try:
        unet.set_attn_processor(AttnProcessor())
        yield
    finally:
        unet.set_attn_processor(own)
