"""Who answers the plain calls of a network (`plain`): torch, or a graph compiled of the same weights.

Torch is the reference, and what everything else falls back to: an executor that cannot answer says None, and nobody
above it knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.plain import Plain

CHOICES = ("auto", "torch")


class Executor:
    """Torch alone. Of one device, for all networks on it; ``owner`` is the network that a part belongs to."""

    name = "torch"

    def __init__(self) -> None:
        self._told = set[str]()

    def answer(self, owner: Any, part: Plain, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """What ``part(*given)`` gives, or None: torch is to answer. Rows (the first dimension) are apart."""
        return None

    def keep(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``make`` gives, or what it gave when it was last asked for that name."""
        return make()

    def ready(self) -> None:
        """Waits until all that was asked for is made."""

    def forget(self, owner: Any) -> None:
        """Lets go of all that belongs to a network that leaves."""

    def tell(self, sentence: str) -> None:
        """A sentence in the log, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            logging.getLogger(__name__).warning(sentence)


def executor(choice: str, device: torch.device, dtype: torch.dtype, folder: Path | None = None) -> Executor:
    """``choice`` "auto": the fastest there is for the device; "torch". ``folder``: where graphs are kept (None:
    nowhere)."""
    if choice == "auto" and device.type == "cpu":
        from engine.diffusion.openvino_graphs import OpenVino

        return OpenVino(dtype, folder)
    if choice == "auto" and device.type == "cuda":
        from engine.diffusion.cuda_graphs import CudaGraphs

        return CudaGraphs()
    return Executor()
