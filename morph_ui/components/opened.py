"""Uploads as both sides see them: the page shows what was opened here, and every reader reads that same file."""

import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from PIL import Image

from engine.requests import EngineError
from engine.requests.files import unreadable
from engine.vision import reading
from morph_ui.session import address

SERVED = (".jpg", ".jpeg", ".png", ".gif", ".webp")  # as pictures, by Gradio
EXACT = 4e6  # pixels that are written without loss
_OPENING = threading.Lock()


def opened(asked: Any) -> dict[str, str]:
    """An upload ({"path"}) → {"path", "url", "note"}, or {"error"}, a sentence with the file's name.

    Called by scripts. The file is written anew unless it is plain already: upright, sRGB, one picture, without
    metadata. So no browser's own way with turns, profiles and formats matters, and a saved drawing tells no place.
    """
    try:
        path = uploaded(asked.get("path") if isinstance(asked, dict) else None)
        with _OPENING:  # it is asked outside of Gradio's queue, and takes a core
            path, note = settle(path)
    except EngineError as e:
        named = str(e).startswith(Path(str(asked.get("path"))).name) if isinstance(asked, dict) else False
        return {"error": f"{e}." if named else f"{str(e)[0].upper()}{str(e)[1:]}."}
    return {"path": str(path), "url": address(path), "note": note}


def uploaded(name: Any, what: str = "picture", *more: Path) -> Path:
    """The file of that name, of Gradio's upload folder (or one of ``more``) only. EngineError for any other.

    ``what`` is how the sentences begin."""
    if not isinstance(name, str) or not name or re.match(r"[\\/]{2}", name):  # (Windows asks another machine there)
        raise EngineError(f"{what} must be an upload, got {str(name)[:40]!r}")
    shown = re.split(r"[\\/]", name)[-1][:60].encode("utf8", "replace").decode()
    try:
        path = Path(os.path.realpath(name))
    except (OSError, ValueError):  # what can be no path
        path = Path(name)
    ours = path.is_relative_to(os.path.realpath(get_upload_folder()))
    if not ours and not any(path.is_relative_to(os.path.realpath(folder)) for folder in more):
        raise EngineError(f"{what} must be uploaded here, got {shown}, which lies elsewhere")
    if why := unreadable(path).replace("is not there", "is no longer kept"):
        raise EngineError(f"{what} must be dropped again, got {shown}, which {why}")
    if ours:
        with suppress(OSError):  # Gradio deletes uploads by their age, and this one is in use
            os.utime(path)
    return path


def settle(path: Path) -> tuple[Path, str]:
    """A plain file of the picture at ``path``, in its place unless browsers do not know such an ending; and what is to
    be said of it. A picture with alpha keeps it. EngineError if it is no picture."""
    picture = reading.opened(path, path.name)
    note = picture.info.get(reading.NOTE, "")
    if note or path.suffix.lower() not in SERVED or not plain(path):
        seen = (
            "RGBA"
            if picture.mode == "RGBA" and picture.getchannel("A").histogram()[255] < picture.width * picture.height
            else "RGB"
        )
        exact = seen == "RGBA" or picture.width * picture.height <= EXACT
        how: dict[str, Any] = {"compress_level": 1} if exact else {"quality": 95, "subsampling": 0}
        clean, part = Image.new(seen, picture.size), path.with_name(f"{path.name}.part")
        clean.paste(picture.convert(seen))
        given, path = path, path if path.suffix.lower() in SERVED else path.with_suffix(".png" if exact else ".jpg")
        try:
            clean.save(part, "PNG" if exact else "JPEG", **how)
            os.replace(part, path)
        except OSError as e:  # a full disk, most likely
            part.unlink(missing_ok=True)
            raise EngineError(f"picture must be kept while it is used, got {given.name}: {e.strerror or e}") from None
    return path, f"{note}." if note else ""


def plain(path: Path) -> bool:
    """Whether a file is a JPEG of pixels and nothing else, so that it can stay. (PNG and WebP lose nothing by being
    written anew.)"""
    with Image.open(path) as file, path.open("rb") as end:
        if file.format != "JPEG" or file.mode != "RGB" or max(file.size) > reading.LONGEST:
            return False
        end.seek(-2, os.SEEK_END)
        told = {kind for kind, _ in getattr(file, "applist", ())}
        return told <= {"APP0", "APP14"} and end.read() == b"\xff\xd9"
