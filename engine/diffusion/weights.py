"""Weights: others in their place for a while, what a LoRA makes of them, what tells them from others."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def swap(module: nn.Module, others: dict[str, Tensor]) -> Iterator[None]:
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


def changes(unet: nn.Module, twin: nn.Module) -> dict[str, Tensor]:
    """The parameters of ``twin`` that differ; what a LoRA does not touch stays shared with the network."""
    own = dict(unet.named_parameters())
    return {n: p.data for n, p in twin.named_parameters() if not torch.equal(p, own[n])}


def merged(unet: nn.Module, folder: Path) -> dict[str, Tensor]:
    """What a LoRA in peft's format makes of the UNet's parameters."""
    from peft import PeftModel

    twin = PeftModel.from_pretrained(copy.deepcopy(unet), str(folder))
    return changes(unet, twin.merge_and_unload(progressbar=False, safe_merge=True))


def fingerprint(modules: Sequence[nn.Module], said: Any) -> str:
    """A hash over a few numbers of every tensor, and what is ``said`` of them (anything with a faithful repr)."""
    found = hashlib.blake2b(repr(said).encode(), digest_size=8)
    for part in modules:
        for name, p in part.named_parameters():
            few = p.data.flatten()[:: max(1, p.numel() // 8)].float().cpu()
            found.update(f"{name} {tuple(p.shape)}".encode() + few.numpy().tobytes())
    return found.hexdigest()
