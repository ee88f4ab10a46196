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
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.requests import EngineError

ABANDONED = 3600  # seconds after which an unfinished file belongs to nobody
LARGEST = 0.25  # share of the limit that one entry may take
KINDS = ("features", "inversion", "lora")  # what is quickest to make again leaves first


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
        self.folder = Path(folder or os.environ.get("CHRYSALIS_CACHE") or _home() / ".cache" / "chrysalis" / "engine")
        self.limit = _limit() if limit is None else limit
        self.trouble = ""  # why nothing could be kept, when that is so

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
        block = save({n: t.detach().cpu().contiguous() for n, t in tensors.items()},
                     {"key": repr(key), "about": about[:200]})  # fmt: skip
        path = self._path(kind, key)
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
                note, state = None, None
            size, age = (state.st_size, time() - state.st_mtime) if state else (0, 0.0)
            kind = path.name.partition("-")[0] if note is not None else "broken"
            out.append(Item(path, kind, (note or {}).get("about", ""), size, age))
        return sorted(out, key=lambda i: i.age)

    def clear(self) -> int:
        """Throws everything away; how many entries that were."""
        paths = [*self.folder.glob("*.safetensors"), *self.folder.glob("*.part")]
        for path in paths:
            self._remove(path)
        return len(paths)

    def _tidy(self) -> None:
        """Features out first, then noises, then LoRAs, each the least recently used, until the limit is kept.

        And what a dead process left unfinished.
        """
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
                kind = path.name.partition("-")[0]
                rank = KINDS.index(kind) if kind in KINDS else -1
                files.append((rank, state.st_mtime_ns, state.st_size, path))
        total = sum(size for *_, size, _ in files)
        for *_, size, path in sorted(files):
            if total <= self.limit:
                break
            self._remove(path)
            total -= size

    @staticmethod
    def _remove(path: Path) -> None:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # an account without a home
        return Path(tempfile.gettempdir())


def _limit() -> int:
    text = os.environ.get("CHRYSALIS_CACHE_GB", "4")
    try:
        return int(max(0.0, float(text)) * 1e9)
    except ValueError:
        raise EngineError(f"CHRYSALIS_CACHE_GB must be a number of gigabytes, got {text!r}") from None
