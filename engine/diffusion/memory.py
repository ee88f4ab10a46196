"""How much of a device's memory there is, and how to work within it: rows a time, tiles, parts that wait outside.

The well-known means for small cards (methods.md §6, interface.md §1d), chosen by figures instead of by flags. The
figures are estimates; when one is wrong, `Room` halves what it takes and goes on.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from engine.requests import EngineError

GB = 1 << 30
CPU = torch.device("cpu")
RESERVE = 0.8 * GB  # the driver's own, and what fragments
# The next two are at least twice what networks of the real shapes hold at once (benchmarks/memory.py: 26 for SD, 16 for
# SDXL; 6), for there are workspaces of convolutions too, and gaps between blocks.
ROW = 64  # a UNet row's intermediate values at their peak, in tensors of its first level's width
PICTURE = 12  # a decoded picture's, in tensors of 128 channels
TILE = 512  # pixels a side of what is decoded at once, in tiles
TILED = 0.5 * GB  # decoding in tiles, whatever the size
KEPT = 0.25  # share of the free memory that is left to what a job keeps


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
    ``offload``: only the part at work is on the device; ``spare``: bytes there for what a job keeps meanwhile."""

    rows: int = 16
    pictures: int = 16
    tiles: bool = False
    offload: bool = False
    spare: int = 0


def limit(device: torch.device, asked: float = 0.0) -> int:
    """Bytes that networks may use: ``asked`` in GB, or (0) what the device has.

    On a CPU and on Apple's chips the pictures, the browser and the system live in the same memory: half of it.
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, asked * GB / total) if asked else 1.0, index)
    else:
        total = psutil.virtual_memory().total // 2
    return int(min(asked * GB, total) if asked else total)


class Keeping(NamedTuple):
    """How many steps of something large are kept, where, and what is to be said of that."""

    steps: int
    device: torch.device
    notes: tuple[str, ...] = ()


def outside(waiting: int) -> int:
    """Bytes of the machine's own memory for what a job keeps: half of it with the ``waiting`` bytes of networks that
    are there too, and at least an eighth."""
    half = limit(CPU)
    return max(half - waiting, half // 4)


def keep(device: torch.device, spare: int, waiting: int, step: int, steps: int) -> Keeping:
    """Where to keep ``steps`` of ``step`` bytes each: on the device if they fit into its ``spare`` bytes, else outside
    beside ``waiting`` bytes of networks; of what does not fit there either, the first steps."""
    if steps * step <= spare:
        return Keeping(steps, device)
    return Keeping(min(steps, outside(waiting) // step), CPU)


def plan(
    limit: int, parts: dict[str, int], width: int, size: int, factor: int, itemsize: int, most: int, decoded: int = 0
) -> Plan:
    """The plan for a network whose ``parts`` ("unet", "vae", "text") are so many bytes, UNet ``width`` channels wide at
    its first level.

    ``size``: its native side in pixels, ``factor`` pixels a latent; ``itemsize`` bytes a number, ``decoded`` bytes of
    the autoencoder's numbers (0: as many); ``most`` rows.
    """
    row = ROW * (size // factor) ** 2 * width * itemsize
    picture = PICTURE * size**2 * 128 * (decoded or itemsize)
    free = seen = limit - RESERVE - sum(parts.values())
    offload = free < row + TILED
    if offload:  # each part is alone at its work
        free, seen = limit - RESERVE - max(parts.values()), limit - RESERVE - parts["vae"]
    tiles = (1 - KEPT) * seen < picture
    rows = int(min(most, max(1, (1 - KEPT) * free // row)))
    pictures = 1 if tiles else int(min(most, (1 - KEPT) * seen // picture))
    spare = min(free - rows * row, seen - (TILED if tiles else pictures * picture))
    return Plan(rows, pictures, tiles, offload, max(0, int(spare)))


def tile(vae: Any, on: bool) -> None:
    """Has an autoencoder work in tiles of `TILE` pixels, or not. By themselves the tiles of many are of the size that
    they were trained at, 1024 pixels for SDXL's, which is no help there."""
    if not hasattr(vae, "enable_tiling"):
        return
    if on and hasattr(vae, "tile_latent_min_size") and vae.tile_sample_min_size > TILE:
        vae.tile_latent_min_size = vae.tile_latent_min_size * TILE // vae.tile_sample_min_size
        vae.tile_sample_min_size = TILE
    vae.enable_tiling() if on else vae.disable_tiling()


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
