"""What jobs have learnt, on disk: LoRAs, inversions and features by the content of all they depend on.

One safetensors file an entry, named by the hash of its key, so that nothing stale can be served. Written beside and
renamed, so that a reader never sees half a file, whoever writes at the same time or dies in the middle. Bounded: what
is quickest to make again leaves first, of that the least recently used. A folder that cannot be written costs speed and
nothing else.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.requests.files import own_folder

ABANDONED = 3600  # seconds after which an unfinished file belongs to nobody
LARGEST = 0.25  # share of the limit that one entry may take
LEAVING = {"features": 0, "inversion": 1, "lora": 2}  # what is quickest to make again leaves first


@dataclass(frozen=True)
class Item:
    """One entry: what it is, of what, bytes, and seconds since its last use."""

    path: Path
    kind: str
    about: str
    size: int
    age: float


class Cache:
    """``folder`` (None: the person's own) holds at most ``limit`` bytes."""

    def __init__(self, folder: Path | str | None = None, limit: int = 4 * 10**9):
        self.folder, self.limit = Path(folder or home()), limit
        self.trouble = ""  # why nothing could be kept, when that is so
        self._sweep()

    def _path(self, kind: str, key: Any) -> Path:
        return self.folder / f"{kind}-{hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()}.safetensors"

    def get(self, kind: str, key: Any) -> dict[str, Tensor] | None:
        """The tensors kept under ``key`` (anything with a faithful repr), or None. A broken file is thrown away."""
        path = self._path(kind, key)
        try:
            with safe_open(path, "pt") as f:
                if (f.metadata() or {}).get("key") != repr(key):
                    return None
                found = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118, it is no dict
            with suppress(OSError):  # a folder that can only be read serves all the same
                os.utime(path)
            return found
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (SafetensorError, OSError, ValueError):
            self._remove(path)
            return None

    def put(self, kind: str, key: Any, tensors: dict[str, Tensor], about: str) -> None:
        """Keeps tensors; a failure to write is noted in `trouble`, no more. What is far too large is not kept."""
        if sum(t.nbytes for t in tensors.values()) > self.limit * LARGEST:
            return
        plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        path = self._path(kind, key)
        part = path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(save(plain, {"key": repr(key), "about": about[:200]}))
            part.replace(path)
            self.trouble = ""
        except OSError as e:
            self._remove(part)
            self.trouble = (
                f"the cache folder must be writable, got {self.folder}: {e.strerror or e}; nothing is remembered"
            )
        self._tidy(path)

    @property
    def graphs(self) -> Path:
        """The folder of compiled graphs (`engine.diffusion.graph_files`), which are bounded by themselves."""
        return self.folder / "graphs"

    def items(self) -> list[Item]:
        """All entries, the last used first."""
        out = []
        for path, size, used in self._files("*.safetensors"):
            try:
                with safe_open(path, "pt") as f:
                    kind, about = _kind(path), (f.metadata() or {}).get("about", "")
            except (SafetensorError, OSError):
                kind, about = "broken", ""
            out.append(Item(path, kind, about, size, max(0.0, time() - used)))  # (a clock that was set back)
        return sorted(out, key=lambda i: i.age)

    def clear(self) -> int:
        """Throws everything away, graphs too; how many entries that were."""
        shutil.rmtree(self.graphs, ignore_errors=True)
        paths = [path for path, *_ in self._files("*.safetensors", "*.part")]
        for path in paths:
            self._remove(path)
        return len(paths)

    def _sweep(self) -> None:
        """Away with what a dead process left unfinished, also one whose clock was ahead of this one's."""
        for path, _, used in self._files("*.part"):
            if abs(time() - used) > ABANDONED:
                self._remove(path)

    def _tidy(self, new: Path) -> None:
        """Features out first, then noises, then LoRAs, each the least recently used, until the limit is kept; what is
        ``new`` last, which would seem old where the clock was set back."""
        self._sweep()
        files = list(self._files("*.safetensors"))
        over = sum(size for _, size, _ in files) - self.limit
        for path, size, _ in sorted(files, key=lambda f: (f[0] == new, LEAVING.get(_kind(f[0]), -1), f[2])):
            if over <= 0:
                break
            self._remove(path)
            over -= size

    def _files(self, *patterns: str) -> Iterator[tuple[Path, int, float]]:
        """Files with their bytes and the second of their last use."""
        for path in [p for pattern in patterns for p in self.folder.glob(pattern)]:
            with suppress(OSError):  # another process was quicker
                state = path.stat()
                yield path, state.st_size, state.st_mtime_ns / 1e9

    @staticmethod
    def _remove(path: Path) -> None:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _kind(path: Path) -> str:
    return path.name.partition("-")[0]


def home() -> Path:
    try:
        return Path.home() / ".cache" / "chrysalis" / "engine"
    except RuntimeError:  # an account without a home
        return own_folder() / "engine"
