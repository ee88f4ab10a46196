"""Context managers that reach into a network and leave it as it was, however they are left.

``net`` is a `Network`: its ``unet``, and what its rows carry at the moment (``now``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Features = dict[tuple[str, float], Tensor]  # (layer, σ) → (K, tokens, channels), half precision


@contextmanager
def weights(module: nn.Module, others: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the parameters named in ``others`` hold those values: nothing is computed and nothing copied."""
    params = {name: p for name, p in module.named_parameters() if name in others}
    own = {name: p.data for name, p in params.items()}
    try:
        for name, p in params.items():
            p.data = others[name]
        yield
    finally:
        for name, p in params.items():
            p.data = own[name]


def self_attentions(unet: nn.Module) -> dict[str, nn.Module]:
    """The self-attentions of the decoder blocks, where DiffMorpher mixes (§3.4): name → layer."""
    return {n: m for n, m in unet.named_modules() if n.startswith("up_blocks.") and n.endswith(".attn1")}


@contextmanager
def recorded(net: Any, levels: Collection[float]) -> Iterator[Features]:
    """Collects what enters the decoder's self-attentions at the sigmas ``levels``, in half precision.

    As in the published code it is the layer's normalised input that is kept, not keys and values: half the memory.
    """
    parts: dict[tuple[str, float], dict[int, Tensor]] = {}
    found: Features = {}

    def hook(name: str):
        def see(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            now = net.now
            if now is not None and now.level in levels:
                x = args[0] if args else kwargs["hidden_states"]
                parts.setdefault((name, now.level), {})[now.first] = x.detach().half()

        return see

    handles = [m.register_forward_pre_hook(hook(n), with_kwargs=True) for n, m in self_attentions(net.unet).items()]
    try:
        yield found
    finally:
        for h in handles:
            h.remove()
    for key, rows in parts.items():
        found[key] = torch.cat([rows[i] for i in sorted(rows)])


@contextmanager
def blended(net: Any, features: Features, own: float = 0.0) -> Iterator[None]:
    """Inside, rows that carry a ``blend`` (n, K) take keys and values from that mix of recorded features.

    h = own · (their own) + (1 − own) · Σ blendₖ · featureₖ (DiffMorpher eq. 7; β in its code), at the recorded sigmas
    only; all else is as it was.
    """

    def hook(name: str):
        def change(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            now = net.now
            if now is None or now.blend is None or now.level is None or (name, now.level) not in features:
                return None
            x = args[0] if args else kwargs["hidden_states"]
            kept = features[name, now.level].to(x.device, x.dtype)
            mixed = torch.einsum("nk,ktc->ntc", now.blend.to(x.device, x.dtype), kept)
            if own:
                mixed = own * x + (1 - own) * mixed
            # Attention takes keys and values from ``encoder_hidden_states`` where there are any.
            return args, kwargs | {"encoder_hidden_states": mixed}

        return change

    handles = [m.register_forward_pre_hook(hook(n), with_kwargs=True) for n, m in self_attentions(net.unet).items()]
    try:
        yield
    finally:
        for h in handles:
            h.remove()
