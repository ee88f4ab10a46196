"""How much of a device's memory there is, and how to work within it: rows a time, tiles, parts that wait outside.

The well-known means for small cards (methods.md §6, interface.md §1d), chosen by figures instead of by flags. The
figures are estimates; when one is wrong, `Room` halves what it takes and goes on.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.requests import EngineError

GB = 1 << 30
RESERVE = 0.8 * GB  # the driver's own, and what fragments
ROW = 170  # a UNet row's intermediate values at their peak, in tensors of its first level's width
PICTURE = 24  # a decoded picture's, in tensors of 128 channels
TILED = 0.5 * GB  # decoding in tiles, whatever the size


SHORT = (torch.OutOfMemoryError, MemoryError, RuntimeError)  # what a lack of memory may come as


def short_of_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in said for words in ("out of memory", "not enough memory", "allocate memory", "alloc_failed")
    )


def release(device: torch.device) -> None:
    """Gives back what the device's allocator holds on to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@dataclass(frozen=True)
class Plan:
    """How a network works within its memory: UNet ``rows`` and decoded ``pictures`` a time; decoding in ``tiles``;
    ``offload``: only the part at work is on the device."""

    rows: int = 16
    pictures: int = 16
    tiles: bool = False
    offload: bool = False


def limit(device: torch.device, asked: float = 0.0) -> int:
    """Bytes that networks may use: ``asked`` in GB, or (0) what the device has.

    On a CPU and on Apple's chips the pictures, the browser and the system live in the same memory: half of it.
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, asked * GB / total) if asked else 1.0, index)
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return int(min(asked * GB, total) if asked else total)


def plan(limit: int, parts: dict[str, int], width: int, size: int, factor: int, itemsize: int, most: int) -> Plan:
    """The plan for a network whose ``parts`` are so many bytes, UNet ``width`` channels wide at its first level.

    ``size``: its native side in pixels, ``factor`` pixels a latent; ``itemsize`` bytes a number; ``most`` rows.
    """
    row = ROW * (size // factor) ** 2 * width * itemsize
    picture = PICTURE * size**2 * 128 * itemsize
    free = limit - RESERVE - sum(parts.values())
    offload = free < row + TILED
    if offload:
        free = limit - RESERVE - max(parts.values())
    tiles = free < 1.5 * picture
    return Plan(
        rows=int(min(most, max(1, free // row))),
        pictures=1 if tiles else int(min(most, max(1, free // picture))),
        tiles=tiles,
        offload=offload,
    )


class Room:
    """The memory of one job: how many UNet rows and pictures it takes at a time, fewer once they did not fit.

    ``relief()`` has another network leave the device (False: there is none). ``trouble`` says in words what a lack of
    memory has changed.
    """

    def __init__(self, device: torch.device, relief: Callable[[], bool] = lambda: False):
        self.device, self.relief, self.trouble = device, relief, ""
        self._fits: dict[str, int] = {}

    def chunk(self, fn: Callable[..., Tensor], tensors: tuple[Tensor, ...], most: int, what: str) -> Tensor:
        """Runs ``fn(first row, *rows)`` over rows of ``tensors`` (B, …), ``most`` at a time; ``what``: "rows" of the
        UNet or "pictures", which are remembered apart.

        When memory runs out, another network leaves; if there is none, the chunks are halved.
        """
        out, start, total = [], 0, tensors[0].shape[0]
        while start < total:
            size = min(most, self._fits.get(what, most))
            failed = None
            try:
                out.append(fn(start, *(t[start : start + size].to(self.device) for t in tensors)))
                start += size
            except SHORT as e:
                # What earlier chunks keep for the way back is not freed by smaller ones.
                if torch.is_grad_enabled() or not short_of_memory(e):
                    raise
                failed = e.with_traceback(None)  # which holds on to the tensors
            if failed is not None and not self.relief():
                self._fits[what] = self.halve(failed, min(size, total), tensors[0])
        return torch.cat(out)

    def halve(self, error: BaseException, rows: int, like: Tensor) -> int:
        """Half of ``rows``, after ``error`` came up with so many of them; raises what is no lack of memory.

        When one row is too much, the lack of memory becomes a sentence (EngineError).
        """
        if not short_of_memory(error):
            raise error
        if rows <= 1:
            raise EngineError(
                f"memory of {self.device} must hold one picture of {tuple(like.shape[2:])} rows and columns in the "
                "network, got too little; choose a smaller size"
            ) from None
        self.tell(f"it went on with {rows // 2} pictures a time")
        release(self.device)
        return rows // 2

    def tell(self, change: str) -> None:
        self.trouble = f"memory of {self.device} ran out; {change}"
        logging.getLogger(__name__).warning(self.trouble)
