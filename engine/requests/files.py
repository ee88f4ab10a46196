"""Files and folders of the person: their names as people type them, where results may go, what is nobody else's."""

from __future__ import annotations

import atexit
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from urllib.request import url2pathname

from engine.requests.errors import EngineError

# Quotes as keyboards and programs put them: how one begins → how it may end.
QUOTES = {'"': '"”', "'": "'’", "“": '”“"', "„": '“”"', "”": "”", "‘": "’'", "‚": "‘’", "«": "»", "»": "«"}
# The endings of what is made, and of what is read to be enlarged.
PNG, ZIP, FILM = (".png",), (".zip",), (".mp4", ".m4v")
FILMS = (*FILM, ".mov", ".webm", ".mkv", ".avi", ".gif")
PICTURES = (*PNG, ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif")
PICTURES = (*PICTURES, ".apng", ".jp2", ".tga")
WINDOWS = os.name == "nt"
ODD = re.compile(r'(?i)[<>:"|?*\0-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)')  # names that Windows has not
LONGEST = 4096  # letters of a path, or of a network with its LoRAs
FRAME = re.compile(r"\d{4,}\.png")
UPLOADS = "gradio"  # in one's own folder, a folder each process
_INSTEAD: dict[Path, Path] = {}  # of own folders whose name another had, what this process took


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
    if len(text) > LONGEST:
        return text
    ends = f"[{QUOTES.get(text[:1], '')}]"
    # ("a" + "b" is no quotation of what is between its first and its last mark)
    if text[:1] in QUOTES and (
        found := re.fullmatch(rf".(?!.*{ends}\s*(:\S{{0,20}})?\s\+\s)(.*){ends}\s*(:.*)?", text, re.DOTALL)
    ):
        return found[2].strip() + (found[3] or "")
    return text


def named(network: str) -> str:
    """A network's name without the folders of its files: what may leave this machine.

    ``sd15 + /home/me/ink.safetensors:0.8`` is ``sd15 + ink.safetensors:0.8``.
    """
    return " + ".join(re.split(r"[\\/]", part.rstrip(" /\\"))[-1] for part in split_network(network))


def lies(path: str | Path) -> tuple[str, str]:
    """What lies there, "file", "folder", "device" (or a pipe, or a socket) or "" for nothing; and why it cannot be
    read, to be said after "which", or "". Nothing is raised, whatever the path is, nor opened: a pipe would wait."""
    try:
        if max(_length(part) for part in (*Path(path).parts, "")) > 255:  # (behind a missing folder too)
            return "", "has a longer name than files can have"
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "", "is a link to what is not there" if os.path.islink(path) else "is not there"
    except PermissionError:
        return "", "may not be looked into"
    except OSError as e:
        return "", "is a link to itself" if e.errno == errno.ELOOP else f"cannot be read ({e.strerror})"
    except ValueError:
        return "", "has letters that no file name has"
    if stat.S_ISDIR(mode):
        return "folder", "" if os.access(path, os.R_OK | os.X_OK) else "may not be looked into"
    if not stat.S_ISREG(mode):
        return "device", ""
    return "file", "" if os.access(path, os.R_OK) else "may not be read"


def _length(part: str) -> int:
    """Of a name, as file systems count: UTF-16 on Windows, bytes elsewhere."""
    return len(part.encode("utf-16-le", "surrogatepass")) // 2 if WINDOWS else len(os.fsencode(part))


def unreadable(path: str | Path) -> str:
    """Why no file can be read there, to be said after "which": "is a folder"; "" where one can."""
    kind, why = lies(path)
    return why or ("" if kind == "file" else f"is a {kind}")


def destination(name: str, path: str, *kinds: str) -> Path:
    """Where a result goes: a file whose name ends in one of ``kinds``, or a folder where none are given.

    EngineError, before any work, for a name of another format or a place that cannot be written. Devices may be named.
    """
    if "://" in typed(path):
        raise EngineError(f"{name} must be a place on this machine, got {path!r}")
    place = Path(typed(path))
    kind, why = lies(place)
    if kinds and kind == "device":
        return place
    if kinds and (place.suffix.lower() not in kinds or kind == "folder" or path.endswith(("/", os.sep))):
        raise EngineError(f"{name} must be a file name that ends in {' or '.join(kinds)}, got {path!r}")
    if not kinds and (not path.strip() or kind in ("file", "device")):
        raise EngineError(f"{name} must be a folder, got {path!r}{', which is none' if path.strip() else ''}")
    if why.startswith(("has", "is a link")):
        raise EngineError(f"{name} must be where you may write, got {path!r}, which {why}")
    if WINDOWS and (odd := next((p for p in place.parts[bool(place.anchor) :] if ODD.search(p)), "")):
        raise EngineError(f"{name} must be a name that Windows has, got {path!r} with {odd!r}")
    here = next((p for p in (place, *place.parents) if lies(p)[0]), None)
    if here is None:
        raise EngineError(f"{name} must be where you may write, got {path!r}: {place.anchor or place} is not there")
    if (here != place and not here.is_dir()) or not os.access(here, os.W_OK | (os.X_OK if here.is_dir() else 0)):
        raise EngineError(f"{name} must be where you may write, got {path!r}: {here} does not allow it")
    return place


def frames_folder(name: str, path: str, frames: int) -> Path:
    """A folder for 0000.png, 0001.png … EngineError where more frames lie than will be made: a film would have both."""
    place = destination(name, path)
    kind, why = lies(place)
    if kind and why:
        raise EngineError(f"{name} must be a folder whose frames can be seen, got {path!r}, which {why}")
    there = [n for n in os.listdir(place) if FRAME.fullmatch(n)] if kind else []
    if any(int(Path(n).stem) >= frames for n in there):
        raise EngineError(f"{name} must be a new folder, or hold at most {frames} frames, got {len(there)} in {path!r}")
    return place


def own_folder() -> Path:
    """The person's own folder for what passes, in the system's for that: made, where it is not there, and closed to
    everybody else.

    Where another has taken its name, one of this process, which is gone with it. EngineError where there can be none.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"chrysalis-{os.getuid() if hasattr(os, 'getuid') else 'files'}"
        if folder not in _INSTEAD and _own(folder):
            return folder
        if not _own(_INSTEAD.get(folder)):
            _INSTEAD[folder] = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
            atexit.register(shutil.rmtree, _INSTEAD[folder], ignore_errors=True)
        return _INSTEAD[folder]
    except OSError as e:
        raise EngineError(f"TMPDIR must be a folder with room that can be written, got {e}") from None


def uploads() -> Path:
    """Where Gradio is to put what is uploaded: by itself it takes a folder that belongs to the first of a machine's
    people. It reads the variable at its import, so this comes before.

    A folder of this process, which is gone with it: files lie there by what they hold, and a studio that closes deletes
    those that it was given, be they another's too."""
    if not os.environ.get("GRADIO_TEMP_DIR"):
        place = own_folder() / UPLOADS / f"{os.getpid()}-{secrets.token_hex(4)}"
        os.environ["GRADIO_TEMP_DIR"] = str(place)
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(os.environ["GRADIO_TEMP_DIR"])


def _own(folder: Path | None) -> bool:
    """Makes the folder, if it is not there; whether it is a folder, and the person's."""
    if folder is None:
        return False
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
            return False
        folder.chmod(0o700)
        return os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError:
        return False
