"""The canvas: lines, colours, a mask and a photograph under them. Its value is JSON, which the browser alone writes."""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image, ImageOps

from engine.requests import EngineError
from engine.vision import images

HERE = Path(__file__).parent
SCRIPTS = ("document", "screen", "brush", "pictures", "controls")  # one closure, read in this order
LAYERS = ("sketch", "strokes", "mask")
SIDE = 512  # the document's longer side
LIVE = 256  # the same of what is sent while a stroke is drawn
SHORTEST, LONGEST = 16, 2048  # pixels a side
LARGEST = 16_000_000  # bytes of a layer's PNG
HEAD = "data:image/png;base64,"
_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Drawing:
    """What was drawn: layers of ``size`` as RGBA (None when nothing is painted), a photograph of its proportions."""

    size: tuple[int, int] = (SIDE, SIDE)
    photo: Image.Image | None = None
    sketch: Image.Image | None = None
    strokes: Image.Image | None = None
    mask: Image.Image | None = None
    live: bool = False


def canvas(tab: str, layers: tuple[str, ...], live: bool = False) -> gr.HTML:
    """The canvas of a tab. ``read`` makes a `Drawing` of its value.

    Its events: ``change`` after an operation; with the Live switch (``live``) also ``live`` during strokes, with small
    layers, and ``rest`` when the hand has rested. It is filled by a CustomEvent ``chrysalis-open`` on its element.
    """
    return gr.HTML(
        value=None,
        html_template=(HERE / "canvas.html").read_text(),
        css_template=(HERE / "canvas.css").read_text(),
        js_on_load="\n".join((HERE / f"{part}.js").read_text() for part in SCRIPTS),
        elem_id=f"{tab}-canvas",
        apply_default_css=False,
        server_functions=[from_photograph],
        layers=list(layers),
        live=live,
    )


def read(value: str | None) -> Drawing:
    """The canvas's value → a `Drawing`; an empty value is an empty drawing. Nothing in it is believed."""
    if not value:
        return Drawing()
    try:
        found = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EngineError(f"drawing must be what the canvas sends, got {str(value)[:40]!r}")
    size = _side(found, "width"), _side(found, "height")
    live = found.get("live") is True
    sent = found.get("layers") or {}
    if not isinstance(sent, dict) or not set(sent) <= set(LAYERS):
        raise EngineError(f"layers must be of {', '.join(LAYERS)}, got {str(sent)[:60]}")
    painted = {name: _layer(block, name, size, live) for name, block in sent.items() if block}
    sizes = {p.size for p in painted.values()}
    if len(sizes) > 1:
        raise EngineError(f"layers must be of one size, got {sorted(sizes)}")
    if live:
        size = sizes.pop() if sizes else _scaled(size, LIVE)
    kept = {name: p for name, p in painted.items() if p.getchannel("A").getbbox()}
    photo = found.get("photo")
    return Drawing(size, photo=_covered(_photo(photo), size, live) if photo else None, live=live, **kept)


def from_photograph(asked: Any) -> dict[str, str]:
    """A photograph drawn by the machine: lines and flat colours, as data URLs; or the error, as a sentence.

    Called by the script with {"path", "coarseness": 0 … 1, "width", "height"}.
    """
    from engine.vision.drawing import sketch_of, strokes_of

    try:
        if not isinstance(asked, dict):
            raise EngineError(f"question must be an object, got {str(asked)[:40]!r}")
        size = _side(asked, "width"), _side(asked, "height")
        c = asked.get("coarseness")
        if isinstance(c, bool) or not isinstance(c, int | float) or not 0 <= c <= 1:
            raise EngineError(f"coarseness must be a number from 0 to 1, got {repr(c)[:40]}")
        with _DRAWING:  # it is asked outside of Gradio's queue, and takes a core
            photo = np.asarray(_covered(_photo(asked), _scaled(size, SIDE), True))
            lines = Image.new("RGBA", photo.shape[1::-1])
            lines.putalpha(Image.fromarray(255 - sketch_of(photo, 0.8 + 3.2 * c)))
            flat = strokes_of(photo, round(9 + 32 * c) | 1, round(24 - 20 * c))
    except EngineError as e:
        return {"error": str(e)}
    return {"sketch": _url(lines), "strokes": _url(Image.fromarray(flat).convert("RGBA"))}


def _side(found: dict[str, Any], name: str) -> int:
    n = found.get(name)
    if not isinstance(n, int) or isinstance(n, bool) or not SHORTEST <= n <= LONGEST:
        raise EngineError(f"{name} must be a whole number from {SHORTEST} to {LONGEST}, got {repr(n)[:40]}")
    return n


def _scaled(size: tuple[int, int], longer: int) -> tuple[int, int]:
    scale = min(1, longer / max(size))
    return max(SHORTEST, round(size[0] * scale)), max(SHORTEST, round(size[1] * scale))


def _layer(block: Any, name: str, size: tuple[int, int], live: bool) -> Image.Image:
    """A layer's data URL → RGBA of the document's size; a live one may be smaller, in the same proportions."""
    if not isinstance(block, str) or not block.startswith(HEAD):
        raise EngineError(f"{name} must be a PNG as a data URL, got {str(block)[:40]!r}")
    if len(block) > LARGEST * 4 / 3 + len(HEAD):
        raise EngineError(f"{name} must be a PNG of at most {LARGEST / 1e6:g} MB, got {len(block) * 0.75e-6:.0f} MB")
    try:
        with Image.open(io.BytesIO(base64.b64decode(block[len(HEAD) :], validate=True)), formats=["PNG"]) as png:
            w, h = png.size
            small = live and min(w, h) >= SHORTEST and w <= size[0] and abs(w * size[1] - h * size[0]) <= max(size)
            if png.size != size and not small:
                raise EngineError(f"{name} must be {size[0]} × {size[1]} pixels, got {w} × {h}")
            return png.convert("RGBA")
    except EngineError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, binascii.Error, Image.DecompressionBombError) as e:
        raise EngineError(f"{name} must be a whole PNG, got a broken one ({str(e)[:60]})") from None


def _photo(photo: Any) -> Image.Image:
    """The photograph, of Gradio's upload folder only."""
    name = photo.get("path") if isinstance(photo, dict) else None
    if not isinstance(name, str):
        raise EngineError(f"photograph must be an upload, got {str(photo)[:40]!r}")
    if not name:
        raise EngineError("photograph must have arrived, got one still being sent; try again in a moment")
    path = Path(name.replace("\0", "")[:4000]).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise EngineError(f"photograph must be uploaded here, got {path.name[:60]}, which lies elsewhere")
    try:
        os.utime(path)  # Gradio deletes uploads by their age, and this one is in use
        return _read(str(path), path.stat().st_size)
    except OSError:
        raise EngineError("photograph must be dropped again, got an upload that is no longer kept") from None


@lru_cache(4)
def _read(path: str, _bytes: int) -> Image.Image:
    """Live drawing asks for the same photograph several times a second; an upload's folder is named by its content."""
    return images.read(path, "photograph")


def _covered(photo: Image.Image, size: tuple[int, int], exact: bool) -> Image.Image:
    """Covered and cropped at the centre to the document's proportions; larger than it where there is more to see."""
    scale = max(1.0, min(photo.width / size[0], photo.height / size[1]))
    target = size if exact else (round(size[0] * scale), round(size[1] * scale))
    return ImageOps.fit(photo, target, Image.Resampling.LANCZOS)


def _url(picture: Image.Image) -> str:
    block = io.BytesIO()
    picture.save(block, "PNG")
    return HEAD + base64.b64encode(block.getvalue()).decode()
