"""The canvas: lines, colours, a mask and a photograph under them. The browser alone writes its value, an object."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageOps

from engine.checkpoints.resolve import ANNOTATORS, hub
from engine.requests import EngineError
from engine.vision import images
from morph_ui.components import component
from morph_ui.components.opened import opened, uploaded
from morph_ui.session import data_url

# One closure, read in this order.
SCRIPTS = (
    "../keys",
    "../incoming",
    "document",
    "screen",
    "parts",
    "mask",
    "brush",
    "select",
    "pictures",
    "layers",
    "controls",
)
LAYERS = ("sketch", "strokes", "mask")
PHASES = ("change", "live", "still", "rest")
GLIMPSES = ("live", "still")  # whose layers may be small
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

    def flat(self) -> Image.Image:
        """The drawing as one sees it, RGB: what results are compared with."""
        ground = self.photo.resize(self.size) if self.photo else Image.new("RGB", self.size, "white")
        ground = ground.convert("RGBA")
        for layer in (self.strokes, self.sketch):
            if layer:
                ground.alpha_composite(layer)
        return ground.convert("RGB")


def canvas(tab: str, layers: tuple[str, ...], live: bool = False) -> gr.HTML:
    """The canvas of a tab. ``read`` makes a `Drawing` of its value, `phase_of` says what is wanted of it.

    Its events: ``change`` after an operation; with the Live switch (``live``) also ``live`` during strokes and when the
    hand is still, with small layers, and when it has rested, and ``wake`` (with the turn) when it moves on after that.
    It is filled by a CustomEvent ``chrysalis-open`` on its element, and hears of what is beside it by
    ``chrysalis-hand`` (`beside`).
    """
    functions = [opened, from_photograph]
    return component(__file__, f"{tab}-canvas", SCRIPTS, server_functions=functions, layers=layers, live=live)


def beside(tab: str, what: str) -> str:
    """JavaScript that tells the canvas of a tab what happened beside it: "move" (a slider), "make" or "stop"."""
    event = f"new CustomEvent('chrysalis-hand', {{ detail: '{what}' }})"
    return f"() => document.querySelector('#{tab}-canvas [data-ready]').dispatchEvent({event})"


def phase_of(value: Any) -> tuple[int, str]:
    """How often the hand has changed the drawing (0 … 2³¹), and what is wanted of it: "change" is nothing until Make is
    pressed, "live" a picture in few steps, "still" the same as good as it can be, "rest" one in full."""
    found: dict[str, Any] = value if isinstance(value, dict) else {}
    turn, phase = found.get("turn", -1), found.get("phase", "")
    sound = type(turn) is int and 0 <= turn < 2**31 and phase in PHASES
    return (turn, phase) if sound else (0, "change")


def read(value: Any) -> Drawing:
    """The canvas's value → a `Drawing`; an empty value is an empty drawing. Nothing in it is believed."""
    if not value:
        return Drawing()
    if not isinstance(value, dict):
        raise EngineError(f"drawing must be what the canvas sends, got {str(value)[:40]!r}")
    size, small = (_side(value, "width"), _side(value, "height")), phase_of(value)[1] in GLIMPSES
    sent = value.get("layers") or {}
    if not isinstance(sent, dict) or not set(sent) <= set(LAYERS):
        raise EngineError(f"layers must be of {', '.join(LAYERS)}, got {str(sent)[:60]}")
    painted = {name: _layer(block, name, size, small) for name, block in sent.items() if block}
    sizes = {p.size for p in painted.values()}
    if len(sizes) > 1:
        raise EngineError(f"layers must be of one size, got {sorted(sizes)}")
    if small:
        size = sizes.pop() if sizes else _scaled(size, LIVE)
    kept = {name: p for name, p in painted.items() if p.getchannel("A").getbbox()}
    photo = value.get("photo")
    return Drawing(size, photo=_covered(_photo(photo), size, small) if photo else None, **kept)


def from_photograph(asked: Any) -> dict[str, str]:
    """A photograph drawn by the machine: lines and flat colours, as data URLs; or the error, as a sentence.

    Called by the script with {"path", "coarseness": 0 … 1, "width", "height", "kind"}, one of
    `engine.vision.annotators.ANNOTATORS`; the coarseness is that of our own lines ("xdog") and of the colours.
    """
    from engine.vision.drawing import strokes_of

    try:
        if not isinstance(asked, dict):
            raise EngineError(f"question must be an object, got {str(asked)[:40]!r}")
        size, c = (_side(asked, "width"), _side(asked, "height")), asked.get("coarseness", -1)
        if type(c) not in (int, float) or not 0 <= c <= 1:
            raise EngineError(f"coarseness must be a number from 0 to 1, got {repr(c)[:40]}")
        with _DRAWING:  # it is asked outside of Gradio's queue, and takes a core
            photo = np.asarray(_covered(_photo(asked), _scaled(size, SIDE), True))
            sketch = Image.new("RGBA", photo.shape[1::-1])
            sketch.putalpha(Image.fromarray(255 - _lines(photo, asked.get("kind", "xdog"), 0.8 + 3.2 * c)))
            flat = Image.fromarray(strokes_of(photo, round(9 + 32 * c) | 1, round(24 - 20 * c))).convert("RGBA")
    except EngineError as e:
        return {"error": str(e)}
    return {"sketch": data_url(sketch, "PNG"), "strokes": data_url(flat, "PNG")}


def _lines(photo: np.ndarray, kind: Any, coarseness: float) -> np.ndarray:
    """Dark lines on white, (H, W) uint8. Weights that are not here are named, and not fetched by this."""
    from engine.vision.annotators import lines, sketch_of

    if kind == "xdog":
        return sketch_of(photo, coarseness)
    extra = ANNOTATORS.get(kind) if isinstance(kind, str) else None
    if extra is None:
        return lines(photo, kind)  # which says that there is none of that name
    if not (folder := hub.where(extra.source)):
        text = f"got none; python -m engine models --fetch {kind} brings them"
        raise EngineError(f"lines by {kind} must have their weights on this machine, {text}")
    return lines(photo, kind, [folder / name for name in extra.source.files])


def _side(found: dict[str, Any], name: str) -> int:
    n = found.get(name)
    if type(n) is not int or not SHORTEST <= n <= LONGEST:
        raise EngineError(f"{name} must be a whole number from {SHORTEST} to {LONGEST}, got {repr(n)[:40]}")
    return n


def _scaled(size: tuple[int, int], longer: int) -> tuple[int, int]:
    scale = min(1, longer / max(size))
    return max(SHORTEST, round(size[0] * scale)), max(SHORTEST, round(size[1] * scale))


def _layer(block: Any, name: str, size: tuple[int, int], small: bool) -> Image.Image:
    """A layer's data URL → RGBA of the document's size, or where ``small`` is allowed less in the same proportions."""
    if not isinstance(block, str) or not block.startswith(HEAD):
        raise EngineError(f"{name} must be a PNG as a data URL, got {str(block)[:40]!r}")
    if len(block) > LARGEST * 4 / 3 + len(HEAD):
        raise EngineError(f"{name} must be a PNG of at most {LARGEST / 1e6:g} MB, got {len(block) * 0.75e-6:.0f} MB")
    try:
        with Image.open(io.BytesIO(base64.b64decode(block[len(HEAD) :], validate=True)), formats=["PNG"]) as png:
            w, h = png.size
            alike = small and min(w, h) >= SHORTEST and w <= size[0] and abs(w * size[1] - h * size[0]) <= max(size)
            if png.size != size and not alike:
                raise EngineError(f"{name} must be {size[0]} × {size[1]} pixels, got {w} × {h}")
            return png.convert("RGBA")
    except EngineError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as e:
        raise EngineError(f"{name} must be a whole PNG, got a broken one ({str(e)[:60]})") from None


def _photo(photo: Any) -> Image.Image:
    """The photograph, of Gradio's upload folder only."""
    name = photo.get("path") if isinstance(photo, dict) else None
    if not isinstance(name, str):
        raise EngineError(f"photograph must be an upload, got {str(photo)[:40]!r}")
    if not name:
        raise EngineError("photograph must have arrived, got one still being sent; try again in a moment")
    path = uploaded(name, "photograph")
    try:
        return _read(str(path), path.stat().st_size)
    except OSError:  # it was deleted at this moment
        raise EngineError("photograph must be dropped again, got an upload that is no longer kept") from None


@lru_cache(4)
def _read(path: str, _bytes: int) -> Image.Image:
    """Live drawing asks for the same photograph several times a second; an upload's folder is named by its content."""
    return images.read(path, "photograph")


def _covered(photo: Image.Image, size: tuple[int, int], exact: bool) -> Image.Image:
    """Covered and cropped at the centre to the document's proportions; larger than it where there is more to see."""
    scale = max(1.0, min(photo.width / size[0], photo.height / size[1]))
    target = size if exact else (round(size[0] * scale), round(size[1] * scale))
    out = ImageOps.fit(photo, target, Image.Resampling.LANCZOS)
    if share := images.cropped(photo.size, size):
        out.info[images.NOTE] = f"of the photograph the middle {share} is shown"
    return out
