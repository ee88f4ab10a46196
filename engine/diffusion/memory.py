"""How much of a device's memory there is, and how to work within it: rows a time, tiles, parts that wait outside.

The well-known means for small cards (methods.md §6, interface.md §1d), chosen by figures instead of by flags. The
figures are estimates; when one is wrong, `Network.chunked` halves what it takes and goes on.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

import torch

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


def emptied(device: torch.device) -> None:
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
    """Bytes that networks may use: ``asked`` in GB, or CHRYSALIS_MEMORY_GB, or what the device has.

    On a CPU and on Apple's chips the pictures, the browser and the system live in the same memory: half of it.
    """
    asked = asked or float(os.environ.get("CHRYSALIS_MEMORY_GB") or 0)
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
