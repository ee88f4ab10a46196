"""Files that are there whole or not at all, whoever is killed meanwhile and whatever is full."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time

from engine.requests.files import own_folder

LEFT = 86400  # seconds after which a folder of passing files is one that a dead process left


@contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """Where to write what comes to ``path`` once it is whole: beside it, under a name that the next writing of the same
    file takes again. OSError where it cannot come there."""
    path = Path(path).resolve()  # (what a link stands for)
    if path.exists() and not path.is_file():  # a device or a pipe is written to, and never replaced
        with passing() as folder:
            yield folder / "part"
            with path.open("wb") as there, (folder / "part").open("rb") as whole:
                shutil.copyfileobj(whole, there)
        return
    part = path.with_name(f".{hashlib.blake2b(path.name.encode(), digest_size=8).hexdigest()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def put(path: str | Path, block: bytes) -> None:
    """Writes a small file. OSError where it cannot come there."""
    with aside(path) as part:
        part.write_bytes(block)


@contextmanager
def passing() -> Iterator[Path]:
    """A folder for files that are gone with it, in the person's own. What killed processes left there is cleared away.
    EngineError where there is no room for it."""
    place = own_folder() / "passing"
    place.mkdir(mode=0o700, exist_ok=True)
    for old in place.iterdir():
        with suppress(OSError):  # another process was quicker
            if abs(time() - old.stat().st_mtime) > LEFT:
                shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)
