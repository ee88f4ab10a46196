"""Context managers that reach into a network and leave it as it was, however they are left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


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
