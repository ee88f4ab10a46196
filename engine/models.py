"""The networks resident on one device: `Models.load(name)` gives a `Network`, kept until room is wanted for another."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import torch

from engine.cache import Cache
from engine.catalogue import CATALOGUE, PARTS, locate
from engine.network import Network
from engine.schema import EngineError


def pick_device(name: str = "auto") -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the chip multiplies in it, float16 on Apple's, float32 elsewhere."""
    if device.type == "mps":
        return torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    try:
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    except (AttributeError, RuntimeError):
        return torch.float32


class Memo:
    """A store of results by content key, bounded in bytes, least recently used out first. One thread only."""

    def __init__(self, limit: int = 256 << 20):
        self.limit, self.size = limit, 0
        self._items = OrderedDict[Any, tuple[Any, int]]()

    def get(self, key: Any) -> Any:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: Any, value: Any, size: int) -> Any:
        """Keeps ``value`` of about ``size`` bytes, and returns it."""
        self.size += size - (self._items.pop(key)[1] if key in self._items else 0)
        self._items[key] = (value, size)
        while self.size > self.limit and len(self._items) > 1:
            self.size -= self._items.popitem(last=False)[1][1]
        return value


class Models:
    """The networks resident on one device, loaded once, the least recently used leaving when there are too many."""

    def __init__(self, device: str = "auto", dtype: torch.dtype | None = None, keep: int = 2):
        self.device = pick_device(device)
        self.dtype = dtype or pick_dtype(self.device)
        self.keep = keep
        self.memo = Memo()
        self.cache = Cache()
        self._resident: OrderedDict[str, Network] = OrderedDict()

    def load(self, name: str) -> Network:
        """The network of that name or folder, on the device. EngineError if unknown, incomplete or out of reach."""
        if name not in self._resident:
            folder = locate(name, download=True)
            assert folder is not None
            missing = [p for p in PARTS if not (folder / p).is_dir()]
            if missing:
                raise EngineError(
                    f"model {name} must have the folders {', '.join(PARTS)}, got none of {', '.join(missing)}"
                )
            while len(self._resident) >= self.keep:
                self._resident.popitem(last=False)
            try:
                self._resident[name] = Network(folder, self.device, self.dtype, name)
                if name in CATALOGUE:
                    self._resident[name].lora_rate = CATALOGUE[name].lora_rate
            except (OSError, KeyError, AttributeError, json.JSONDecodeError) as e:
                raise EngineError(f"model {name} must be whole in {folder}, got {type(e).__name__}: {e}") from None
        self._resident.move_to_end(name)
        net = self._resident[name]
        net.room = 2**16  # a lack of memory was the last job's
        return net
