"""Files and folders of the person: their names as people type them, where results may go, what is nobody else's."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from urllib.request import url2pathname

from engine.requests.errors import EngineError

# Quotes as keyboards and programs put them: how one begins → how it may end.
QUOTES = {'"': '"”', "'": "'’", "“": '”“"', "„": '“”"', "”": "”", "‘": "’'", "‚": "‘’", "«": "»", "»": "«"}
FRAME = re.compile(r"\d{4,}\.png")


def typed(text: str) -> str:
    """A path as people type or paste it: in quotes, with ``~`` for their own folder, or as a ``file://`` address.

    What stands behind the quotes after a colon is a weight, and stays: ``"ink.safetensors":0.8``."""
    text = _unquoted(text)
    try:
        if address := re.match(r"(?i)file://(localhost(?=/))?", text):
            text = url2pathname(text[address.end() :])
        return os.path.expanduser(text)
    except (OSError, ValueError):  # what can be no path stays as it is: opening it says so
        return text


def split_network(text: str) -> list[str]:
    """A network and its LoRAs → a text each, as `typed` reads it, with its weight: ``["/a b", "/x/ink:0.8"]``.

    ``+`` between spaces joins them; quotes are around each or around all."""
    return [typed(part) for part in re.split(r"\s\+\s", _unquoted(text))]


def _unquoted(text: str) -> str:
    text = text.strip()
    ends = f"[{QUOTES.get(text[:1], '')}]"
    # ("a" + "b" is no quotation of what is between its first and its last mark)
    if text[:1] in QUOTES and (
        found := re.fullmatch(rf".(?!.*{ends}\s*(:\S*)?\s\+\s)(.*){ends}\s*(:.*)?", text, re.DOTALL)
    ):
        return found[2].strip() + (found[3] or "")
    return text


def named(network: str) -> str:
    """A network's name without the folders of its files: what may leave this machine.

    ``sd15 + /home/me/ink.safetensors:0.8`` is ``sd15 + ink.safetensors:0.8``.
    """
    return " + ".join(re.split(r"[\\/]", part.rstrip(" /\\"))[-1] for part in split_network(network))


def destination(name: str, path: str, *kinds: str) -> Path:
    """Where a result goes: a file whose name ends in one of ``kinds``, or a folder where none are given.

    EngineError, before any work, for a name of another format or a place that cannot be written. Devices may be named.
    """
    if "://" in typed(path):
        raise EngineError(f"{name} must be a place on this machine, got {path!r}")
    place = Path(typed(path))
    if kinds and place.exists() and not place.is_file() and not place.is_dir():
        return place
    if kinds and (place.suffix.lower() not in kinds or place.is_dir() or path.endswith(("/", os.sep))):
        raise EngineError(f"{name} must be a file name that ends in {' or '.join(kinds)}, got {path!r}")
    if not kinds and (not path.strip() or (place.exists() and not place.is_dir())):
        raise EngineError(f"{name} must be a folder, got {path!r}{', which is none' if path.strip() else ''}")
    here = next((p for p in (place, *place.parents) if os.path.lexists(p)), Path())
    if (here != place and not here.is_dir()) or not os.access(here, os.W_OK):
        raise EngineError(f"{name} must be where you may write, got {path!r}: {here} does not allow it")
    return place


def frames_folder(name: str, path: str, frames: int) -> Path:
    """A folder for 0000.png, 0001.png … EngineError where more frames lie than will be made: a film would have both."""
    place = destination(name, path)
    there = [p.name for p in place.glob("*.png") if FRAME.fullmatch(p.name)] if place.is_dir() else []
    if any(int(Path(n).stem) >= frames for n in there):
        raise EngineError(f"{name} must be a new folder, or hold at most {frames} frames, got {len(there)} in {path!r}")
    return place


@cache
def own_folder() -> Path:
    """The person's own folder for what passes, in the system's for that: made, and closed to everybody else.

    Where another has taken its name, one of this process, which is gone with it. EngineError where there can be none.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"chrysalis-{os.getuid() if hasattr(os, 'getuid') else 'files'}"
        if not _own(folder):
            folder = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
    except OSError as e:
        raise EngineError(f"TMPDIR must be a folder with room that can be written, got {e}") from None
    return folder


def uploads() -> Path:
    """Where Gradio is to put what is uploaded: by itself it takes a folder that belongs to the first of a machine's
    people. It reads the variable at its import, so this comes before."""
    place = os.environ["GRADIO_TEMP_DIR"] = os.environ.get("GRADIO_TEMP_DIR") or str(own_folder() / "gradio")
    return Path(place)


def _own(folder: Path) -> bool:
    """Makes the folder, if it is not there; whether it is a folder, and the person's."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
            return False
        folder.chmod(0o700)
        return os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError:
        return False
