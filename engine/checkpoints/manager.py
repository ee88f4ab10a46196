"""The networks resident on one device: `ModelManager.load(name)` gives a `LatentDiffusion` over modules that stay until
room is wanted for others."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from engine.checkpoints import controls, hub, load
from engine.checkpoints.catalogue import Extra
from engine.checkpoints.resolve import Choice, fetch, missing, resolve
from engine.checkpoints.whole import weights
from engine.diffusion.executor import executor as choose
from engine.diffusion.memory import GB, SHORT, Room, limit, release, short_of_memory
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.residency import Resident
from engine.requests import EngineError, Progress, result

T = TypeVar("T")
EQUIPMENT = ("sketch", "stroke", "pose", "canny", "tile", "live")  # what a network itself takes


def pick_device(name: str = "auto") -> torch.device:
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as e:  # AssertionError: torch was built without it
            said = str(e).splitlines()[0][:100]
            raise EngineError(f"device must be auto, cpu, cuda or mps, and be here, got {name!r} ({said})") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def preferred(device: str = "auto") -> str:
    """The network to begin with: Stable Diffusion 1.5 on a GPU, once it is on this machine; else flora."""
    return "sd15" if pick_device(device).type == "cuda" and not missing(resolve("sd15").needs()) else "flora"


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the chip multiplies in it, float16 on Apple's, float32 elsewhere."""
    if device.type == "mps":
        return torch.float16
    if device.type == "cuda":
        # Older cards only pretend to: theirs is float16.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
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


class ModelManager:
    """The networks resident on one device, loaded once; the least recently used leave when memory asks for it.

    ``memory``: how many GB of the device networks may use; 0 is what it has (`engine.diffusion.memory.limit`).
    ``paths``: the folders in which files of this machine may be named as networks or LoRAs; None: anywhere.
    ``folders``: the artist's own, in which names are enough (`library`). ``executor``: who answers plain calls
    (`engine.diffusion.executor`), whose graphs are kept in the folder ``graphs``.
    """

    def __init__(
        self,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        memory: float = 0.0,
        paths: Sequence[str] | None = None,
        folders: Sequence[str] = (),
        executor: str = "torch",
        graphs: Path | None = None,
    ):
        self.device = pick_device(device)
        self.dtype = dtype or pick_dtype(self.device)
        self.executor = choose(executor, self.device, self.dtype, graphs)
        self.limit, self.paths, self.folders = limit(self.device, memory), paths, tuple(folders)
        self.memo = Memo()
        self.tools = Memo(4 << 30)  # CLIPs and detectors, each larger than all else that is remembered
        self._resident: OrderedDict[str, Resident] = OrderedDict()

    def load(self, name: str, wants: Sequence[str] = ()) -> LatentDiffusion:
        """The network of that name, folder or file, on the device, with what is wanted beside it."""
        return result(self.loading(name, wants))

    def loading(self, name: str, wants: Sequence[str] = ()) -> Generator[Progress, None, LatentDiffusion]:
        """The same with progress: what is not on this machine is fetched first.

        ``wants``: what a request asks for beside the network (`EQUIPMENT`); what its family lacks is left to whoever
        uses it. EngineError if unknown, incomplete or out of reach.
        """
        choice = resolve(name, self.paths, self.folders)
        yield from fetch(missing(choice.needs(wants)))
        if name not in self._resident:
            yield Progress(0.0, f"loading {name}")
            self._resident[name] = self._room_for(choice.size(), name, lambda: self._read(choice))
        self._resident.move_to_end(name)
        own = self._resident[name]
        own.drop_controls(but=tuple(wants))
        for kind in wants:
            if kind in EQUIPMENT and not own.has(kind) and (choice.beside(kind) or kind in choice.extras):
                yield Progress(0.0, f"loading what {name} needs for {kind}")
                found = choice.beside(kind) or place(choice.extras[kind])
                self._room_for(_size(found), name, lambda k=kind, f=found: self._equip(own, k, f))
        self._share(own)
        return LatentDiffusion(own, Room(self.device, lambda: self._evict(but=name)))

    def tool(self, key: Any, make: Callable[[], Any]) -> Any:
        """A CLIP or a detector (anything with ``bytes``), made once and kept while there is room."""
        found = self.tools.get(key)
        return self.tools.put(key, found := make(), found.bytes) if found is None else found

    def _share(self, own: Resident) -> None:
        """Gives the network what others leave of the memory; rather than have its parts wait outside, others leave."""
        while True:
            others = sum(r.bytes for r in self._resident.values() if r is not own)
            own.settle(self.limit - self.tools.size - others)
            if not own.plan.offload or not self._evict(but=own.name):
                return

    def _read(self, choice: Choice) -> Resident:
        half = choice.here("vae")
        # An artist's own file may hold a VAE of its own.
        parts = load.read(choice.folder(), self.dtype, choice.name, half if choice.entry else None)
        for lora, strength in choice.loras:
            load.merge(parts, place(lora), strength, choice.name)
        how = {"lora_rate": choice.lora_rate, "light": self._light(choice, parts.vae), "executor": self.executor}
        own = Resident(parts, self.device, self.dtype, choice.name, choice.family, **how)
        own.settle(self.limit)
        return own

    def _light(self, choice: Choice, vae: Any) -> Any:
        """The light decoder beside the network, or off the CPU its family's; None where there is none that can be used.

        (Stable Diffusion's takes longer on a CPU than a look is worth.)
        """
        found = choice.beside("light") or (choice.here("preview") if self.device.type != "cpu" else None)
        try:
            return load.light(found, self.dtype, vae, choice.name) if found else None
        except EngineError as e:
            logging.getLogger(__name__).warning("%s; the whole decoder shows everything", e)
            return None

    def _equip(self, own: Resident, kind: str, found: Path) -> None:
        """Puts beside the network what a request wants of its family."""
        if kind == "live":
            own.equip(kind, lambda: load.tensors(own, found))
        else:
            own.equip(kind, controls.control(found, self.dtype, own.unet, kind, own.name))

    def _room_for(self, size: int, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, after those least recently used (but ``name``) have left for its ``size`` in bytes."""
        while self.tools.size + sum(r.bytes for r in self._resident.values()) + size > self.limit and self._evict(name):
            pass
        while True:
            try:
                return make()
            except SHORT as e:
                if not short_of_memory(e):
                    raise
            if not self._evict(but=name):  # outside the except clause: the error holds on to what was loaded
                raise EngineError(
                    f"memory of {self.device} must hold {name}, of {size / GB:.1f} GB more, got too little"
                )

    def _evict(self, but: str) -> bool:
        """Has the least recently used network but that one leave; False if there is none."""
        old = next((n for n in self._resident if n != but), None)
        if old is None:
            return False
        self._resident.pop(old).leave()
        release(self.device)
        return True


def _size(found: Path) -> int:
    """Bytes of a file, or of the weights in a folder."""
    own = weights(found) if found.is_dir() else None
    files = own.files if own else (found,) if found.is_file() else ()
    return sum(f.stat().st_size for f in files if f.is_file())


def place(found: Extra | Path) -> Path:
    """Where something lies: a file of the artist's, or what was fetched (the file itself if it is a single one)."""
    if isinstance(found, Path):
        return found
    folder = hub.where(found.source)
    assert folder is not None, f"{found.about} was fetched and is gone"
    only = found.source.files
    return folder / only[0] if len(only) == 1 and only[0].endswith(".safetensors") else folder
