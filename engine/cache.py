"""What jobs have learnt, on disk: LoRAs, inversions and features by the content of all they depend on.

One safetensors file an entry, named by the hash of its key, so that nothing stale can be served. Written beside and
renamed, so that a reader never sees half a file, whoever writes at the same time or dies in the middle. Bounded: the
least recently used leave. A folder that cannot be written costs speed and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

ABANDONED = 3600  # seconds after which an unfinished file belongs to nobody
LARGEST = 0.25  # share of the limit that one entry may take


@dataclass(frozen=True)
class Item:
    """One entry: what it is, of what, bytes, and seconds since its last use."""

    path: Path
    kind: str
    about: str
    size: int
    age: float


class Cache:
    """``folder`` (or ``CHRYSALIS_CACHE``) holds at most ``limit`` bytes (or ``CHRYSALIS_CACHE_GB``; 4 GB)."""

    def __init__(self, folder: Path | str | None = None, limit: int | None = None):
        home = os.environ.get("CHRYSALIS_CACHE") or Path.home() / ".cache" / "chrysalis" / "engine"
        self.folder = Path(folder or home)
        self.limit = limit if limit is not None else int(float(os.environ.get("CHRYSALIS_CACHE_GB", "4")) * 1e9)
        self.trouble = ""  # why nothing could be kept, when that is so

    def _path(self, key: Any) -> Path:
        return self.folder / f"{hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()}.safetensors"

    def get(self, key: Any) -> dict[str, Tensor] | None:
        """The tensors kept under ``key`` (anything with a faithful repr), or None. A broken file is thrown away."""
        path = self._path(key)
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

    def put(self, key: Any, tensors: dict[str, Tensor], kind: str, about: str) -> None:
        """Keeps tensors; a failure to write is noted in `trouble`, no more."""
        block = save({n: t.detach().cpu().contiguous() for n, t in tensors.items()},
                     {"key": repr(key), "kind": kind, "about": about[:200]})  # fmt: skip
        if len(block) > self.limit * LARGEST:
            return
        path = self._path(key)
        part = path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(block)
            part.replace(path)
            self.trouble = ""
        except OSError as e:
            self._remove(part)
            self.trouble = (
                f"the cache folder must be writable, got {self.folder}: {e.strerror or e}; nothing is remembered"
            )
        self._tidy()

    def items(self) -> list[Item]:
        """All entries, the last used first."""
        out = []
        for path in self.folder.glob("*.safetensors"):
            try:
                state = path.stat()
                with safe_open(path, "pt") as f:
                    note = f.metadata() or {}
            except (SafetensorError, OSError):
                note, state = {"kind": "broken"}, None
            size, age = (state.st_size, time() - state.st_mtime) if state else (0, 0.0)
            out.append(Item(path, note.get("kind", "?"), note.get("about", ""), size, age))
        return sorted(out, key=lambda i: i.age)

    def clear(self) -> int:
        """Throws everything away; how many entries that were."""
        paths = [*self.folder.glob("*.safetensors"), *self.folder.glob("*.part")]
        for path in paths:
            self._remove(path)
        return len(paths)

    def _tidy(self) -> None:
        """Least recently used out until the limit is kept; and what a dead process left unfinished."""
        files = []
        for path in [*self.folder.glob("*.safetensors"), *self.folder.glob("*.part")]:
            try:
                state = path.stat()
            except OSError:  # another process was quicker
                continue
            if path.suffix == ".part":
                if time() - state.st_mtime > ABANDONED:
                    self._remove(path)
            else:
                files.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                break
            self._remove(path)
            total -= size

    @staticmethod
    def _remove(path: Path) -> None:
        with suppress(OSError):
            path.unlink(missing_ok=True)
