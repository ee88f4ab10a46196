"""Graphs on disk: a folder for each, named by what it was made of, written beside and renamed.

Whatever is wrong with the folder costs time, never a picture: what cannot be read is made again, what cannot be written
is not kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import time

LIMIT = 10**9  # bytes of all graphs
ABANDONED = 3600  # seconds after which what is unfinished belongs to a process that died
SUMS = "sums.json"


class GraphFiles:
    """``folder`` holds a folder for a ``version`` of everything that a graph depends on beside its weights; those of
    other versions are cleared away. ``trouble``: why nothing can be kept, when that is so."""

    def __init__(self, folder: Path | None, version: str, limit: int = LIMIT):
        self.top, self.limit, self.trouble = folder, limit, ""
        self.folder = folder / version if folder else None
        for other in folder.glob("*") if folder and folder.is_dir() else ():
            if other.name != version and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
        for part in self.folder.glob("part-*") if self.folder else ():
            with suppress(OSError):  # another process was quicker
                if abs(time() - part.stat().st_mtime) > ABANDONED:
                    shutil.rmtree(part, ignore_errors=True)

    def get(self, name: str) -> Path | None:
        """Where the whole graph of that name lies; what is not whole is thrown away."""
        if self.folder is None or not (place := self.folder / name).is_dir():
            return None
        try:
            sums = json.loads((place / SUMS).read_text(encoding="utf8"))
            if sums and all(_sum(place / file) == told for file, told in sums.items()):
                with suppress(OSError):  # a folder that can only be read serves all the same
                    os.utime(place)
                return place
        except (OSError, ValueError, AttributeError):
            pass
        shutil.rmtree(place, ignore_errors=True)
        return None

    def put(self, name: str, save: Callable[[Path], None]) -> Path | None:
        """Has ``save`` write a graph into an empty folder, and keeps it; None if that failed."""
        if self.folder is None:
            return None
        part = self.folder / f"part-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            part.mkdir(parents=True)
            save(part)
            sums = {file.name: _sum(file) for file in part.iterdir()}
            (part / SUMS).write_text(json.dumps(sums), encoding="utf8")
            part.rename(self.folder / name)
        except Exception as e:  # a library's own words for a full disk are not OSError
            shutil.rmtree(part, ignore_errors=True)
            if (found := self.get(name)) is None:  # or another process was quicker
                said = getattr(e, "strerror", None) or str(e).strip().splitlines()[-1][:120]
                self.trouble = f"the folder of graphs must be writable, got {self.folder}: {said}; none are kept"
            return found
        self._tidy(name)
        return self.folder / name

    def _tidy(self, new: str) -> None:
        """The least recently used leave until the limit is kept."""
        assert self.folder is not None
        found = []
        for place in self.folder.iterdir():
            with suppress(OSError):  # another process was quicker
                found.append((place.stat().st_mtime, sum(f.stat().st_size for f in place.iterdir()), place))
        over = sum(size for _, size, _ in found) - self.limit
        for _, size, place in sorted(found):
            if over > 0 and place.name != new:
                shutil.rmtree(place, ignore_errors=True)
                over -= size


def _sum(file: Path) -> list[object]:
    """Bytes and hash: a file that was cut off, or changed, is told."""
    found = hashlib.blake2b(digest_size=16)
    with file.open("rb") as f:
        while block := f.read(1 << 22):
            found.update(block)
    return [file.stat().st_size, found.hexdigest()]
