"""The networks resident on one device: `Models.load(name)` gives a `Network`, kept until room is wanted for another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from engine.checkpoints import hub
from engine.checkpoints.load import merge, module, read
from engine.checkpoints.resolve import Choice, Extra, absent, chosen, fetching
from engine.diffusion.memory import GB, SHORT, emptied, limit, short_of_memory
from engine.diffusion.model import Network
from engine.jobs.cache import Cache
from engine.requests import EngineError, Progress, result

T = TypeVar("T")
EQUIPMENT = ("sketch", "stroke", "pose", "canny", "live")  # what a network itself takes


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
    return "sd15" if pick_device(device).type == "cuda" and not absent(chosen("sd15").needs()) else "flora"


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


class Models:
    """The networks resident on one device, loaded once; the least recently used leave when memory asks for it.

    ``memory``: how many GB of the device networks may use; 0 is what it has (`engine.diffusion.memory.limit`).
    """

    def __init__(self, device: str = "auto", dtype: torch.dtype | None = None, memory: float = 0.0):
        self.device = pick_device(device)
        self.dtype = dtype or pick_dtype(self.device)
        self.limit = limit(self.device, memory)
        self.memo = Memo()
        self.tools = Memo(4 << 30)  # CLIPs and detectors, each larger than all else that is remembered
        self.cache = Cache()
        self._resident: OrderedDict[str, Network] = OrderedDict()

    def load(self, name: str, wants: Sequence[str] = ()) -> Network:
        """The network of that name, folder or file, on the device, with what is wanted beside it (`loading`)."""
        return result(self.loading(name, wants))

    def loading(self, name: str, wants: Sequence[str] = ()) -> Generator[Progress, None, Network]:
        """The same with progress: what is not on this machine is fetched first.

        ``wants``: what a request asks for beside the network (catalogue.FAMILIES: "sketch", "stroke", "pose", "canny",
        "live"); what its family lacks is left to whoever uses it. EngineError if unknown, incomplete or out of reach.
        """
        choice = chosen(name)
        yield from fetching(absent(choice.needs(wants)))
        if name not in self._resident:
            yield Progress(0.0, f"loading {name}")
            self._resident[name] = self._room_for(choice.size(), name, lambda: self._network(choice))
        self._resident.move_to_end(name)
        net = self._resident[name]
        net.room = net.space = 2**16  # a lack of memory was the last job's
        net.trouble = ""
        if net.plan.offload:  # what this job does not look at would be moved about all the same
            net.controls = {k: m for k, m in net.controls.items() if k in wants}
        for kind in wants:
            if kind in EQUIPMENT and not net.has(kind) and (choice.beside(kind) or kind in choice.extras):
                yield Progress(0.0, f"loading what {name} needs for {kind}")
                found = choice.beside(kind) or located(choice.extras[kind])
                self._room_for(_size(found), name, lambda k=kind, f=found: self._equip(net, k, f))
        self._share(net)
        return net

    @property
    def trouble(self) -> str:
        """What a lack of memory has changed in this job, in words."""
        return next((n.trouble for n in reversed(self._resident.values())), "")

    def _share(self, net: Network) -> None:
        """Gives the network what others leave of the memory; rather than have its parts wait outside, others leave."""
        while True:
            net.limit = self.limit - self.tools.size - sum(n.bytes for n in self._resident.values() if n is not net)
            net.settle()
            if not net.plan.offload or not self._leave(net.name):
                return

    def _network(self, choice: Choice) -> Network:
        parts = read(choice.folder(), self.dtype, choice.name)
        for lora, strength in choice.loras:
            merge(parts, located(lora), strength, choice.name)
        net = Network(parts, self.device, self.dtype, choice.name, self.limit)
        net.family = choice.family
        if choice.entry:
            net.lora_rate = choice.entry.lora_rate
        net.relief = lambda: self._leave(choice.name)
        if self.device.type != "cpu" and (tiny := choice.extras.get("preview")) and hub.where(tiny.source):
            net.tiny = module(located(tiny), self.dtype).eval().requires_grad_(False)
        return net

    def _equip(self, net: Network, kind: str, found: Path) -> None:
        """Puts beside the network what a request wants of its family."""
        if kind == "live":
            net.few = found
        else:
            net.controls[kind] = module(found, self.dtype).eval().requires_grad_(False)

    def _room_for(self, size: int, name: str, load: Callable[[], T]) -> T:
        """What ``load`` gives, after those least recently used (but ``name``) have left for its ``size`` in bytes."""
        while self.tools.size + sum(n.bytes for n in self._resident.values()) + size > self.limit and self._leave(name):
            pass
        while True:
            try:
                return load()
            except SHORT as e:
                if not short_of_memory(e):
                    raise
            if not self._leave(name):  # outside the except clause: the error holds on to what was loaded
                raise EngineError(
                    f"memory of {self.device} must hold {name}, of {size / GB:.1f} GB more, got too little"
                )

    def _leave(self, name: str) -> bool:
        """Has the least recently used network but ``name`` leave; False if there is none."""
        old = next((n for n in self._resident if n != name), None)
        if old is None:
            return False
        del self._resident[old]
        emptied(self.device)
        return True


def _size(found: Path) -> int:
    """Bytes of a file, or of the weights in a folder (one of those of half and of full precision)."""
    files = [found] if found.is_file() else [f for end in ("safetensors", "bin") for f in found.glob(f"*.{end}")]
    return min((f.stat().st_size for f in files), default=0)


def located(found: Extra | Path) -> Path:
    """Where something lies: a file of the artist's, or what was fetched (the file itself if it is a single one)."""
    if isinstance(found, Path):
        return found
    folder = hub.where(found.source)
    assert folder is not None, f"{found.about} was fetched and is gone"
    only = found.source.files
    return folder / only[0] if len(only) == 1 and only[0].endswith(".safetensors") else folder
