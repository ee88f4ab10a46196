"""Uploads as both sides see them: the page shows what was opened here, and every reader reads that same file."""

import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradio.utils import get_upload_folder
from PIL import Image

from engine.requests import EngineError
from engine.vision import reading

HARMLESS = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression"}
HARMLESS |= {"adobe", "adobe_transform", "background", "loop", "duration", "timestamp", "srgb"}
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
        return {"error": f"{str(e)[0].upper()}{str(e)[1:]}."}
    except OSError:
        return {"error": "That picture is no longer kept here; drop it again."}
    return {"path": str(path), "url": f"gradio_api/file={quote(str(path))}", "note": note}


def uploaded(name: Any) -> Path:
    """The file of that name, of Gradio's upload folder only. EngineError for any other."""
    if not isinstance(name, str) or not name:
        raise EngineError(f"picture must be an upload, got {str(name)[:40]!r}")
    path = Path(name.replace("\0", "")[:4000]).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise EngineError(f"picture must be uploaded here, got {path.name[:60]}, which lies elsewhere")
    if not path.is_file():
        raise EngineError(f"picture must be dropped again, got {path.name[:60]}, which is no longer kept")
    os.utime(path)  # Gradio deletes uploads by their age, and this one is in use
    return path


def settle(path: Path) -> tuple[Path, str]:
    """A plain file of the picture at ``path``, in its place unless browsers do not know such an ending; and what is to
    be said of it. A picture with alpha keeps it. EngineError if it is no picture."""
    picture = reading.opened(path, path.name)
    note = picture.info.get(reading.NOTE, "")
    with Image.open(path) as file:
        plain = path.suffix.lower() in SERVED and file.format in ("JPEG", "PNG", "WEBP") and file.mode == "RGB"
        plain = plain and not note and max(file.size) <= reading.LONGEST and not set(file.info) - HARMLESS
    if not plain:
        seen = (
            "RGBA"
            if picture.mode == "RGBA" and picture.getchannel("A").histogram()[255] < picture.width * picture.height
            else "RGB"
        )
        exact = seen == "RGBA" or picture.width * picture.height <= EXACT
        how: dict[str, Any] = {"compress_level": 1} if exact else {"quality": 95, "subsampling": 0}
        clean, part = Image.new(seen, picture.size), path.with_name(f"{path.name}.part")
        clean.paste(picture.convert(seen))
        clean.save(part, "PNG" if exact else "JPEG", **how)
        if path.suffix.lower() not in SERVED:
            path.unlink()
            path = path.with_suffix(".png" if exact else ".jpg")
        os.replace(part, path)
    return path, f"{note}." if note else ""
