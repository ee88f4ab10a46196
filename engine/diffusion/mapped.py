"""Weights that lie in a file and are mapped from there: they take memory while they are used, and no longer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine.diffusion.graph_files import GraphFiles

BLOCK, INDEX = "weights.bin", "weights.json"


def write(tensors: dict[str, Tensor], folder: Path) -> None:
    """Puts tensors of one precision there, each as it lies in memory."""
    index, at = {}, 0
    with (folder / BLOCK).open("wb") as f:
        for name, t in tensors.items():
            flat = t.detach().as_strided((t.numel(),), (1,))  # dense, whatever its order of dimensions
            f.write(flat.view(torch.uint8).numpy().data)
            index[name] = [at, list(t.shape), list(t.stride()), str(t.dtype).removeprefix("torch.")]
            at += t.numel()
    (folder / INDEX).write_text(json.dumps(index), encoding="utf8")


def read(folder: Path) -> dict[str, Tensor]:
    """The same tensors over the file. What is written to them stays in memory."""
    index = json.loads((folder / INDEX).read_text(encoding="utf8"))
    kind = getattr(torch, next(iter(index.values()))[3])
    size = (folder / BLOCK).stat().st_size // kind.itemsize
    block = torch.from_file(str(folder / BLOCK), shared=False, size=size, dtype=kind)
    return {name: block.as_strided(shape, stride, at) for name, (at, shape, stride, _) in index.items()}


def dense(tensors: dict[str, Tensor]) -> bool:
    """Whether they can be put there: of one precision, each without gaps."""

    def whole(t: Tensor) -> bool:
        return t.is_contiguous() or (t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last))

    return len({t.dtype for t in tensors.values()}) == 1 and all(map(whole, tensors.values()))


def kept(files: GraphFiles, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``make`` gives, over a file of that name among ``files`` if it can be put there."""
    place, made = files.get(name), {}
    if place is None:
        made = make()
        place = files.put(name, lambda folder: write(made, folder)) if dense(made) else None
    return made if place is None else read(place)
