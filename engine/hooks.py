"""Context managers that reach into a network and leave it as it was, however they are left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

TOKENS = 1024  # up to so many on a side, plain products beat PyTorch's fused attention on CPUs


class SmallAttention:
    """For CPUs: attention by plain products for few tokens, by the fused kernel where they would fill the memory.

    The fused kernel's backward is several times slower on a CPU (training/README.md); benchmarks/ has the ratio.
    """

    def __init__(self) -> None:
        self.plain, self.fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        chosen = self.plain if hidden_states.shape[1] <= TOKENS else self.fused
        return chosen(attn, hidden_states, *args, **kwargs)


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
