"""A shelf of examples to click, a row of one or more small pictures each; ``choose`` tells which one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from morph_ui.components import component
from morph_ui.session import data_url

EXAMPLES = Path(__file__).resolve().parents[3] / "assets" / "examples"


def examples(name: str) -> Any:
    """What a list of examples (``assets/examples/{name}.json``) holds."""
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf8"))


def shelf(tab: str, rows: Sequence[Sequence[str | Image.Image]]) -> gr.HTML:
    """Rows of pictures, or of their names in `EXAMPLES`."""
    buttons = "".join(
        f'<button type="button" data-index="{i}" aria-label="Example {i + 1}">'
        + "".join(f'<img alt="" src="{thumbnail(p, 112)}">' for p in row)
        + "</button>"
        for i, row in enumerate(rows)
    )
    html = f'<div class="shelf"><span>try</span>{buttons}</div>'
    return component(__file__, f"{tab}-examples", html_template=html, elem_classes="examples")


def thumbnail(picture: str | Image.Image, side: int, quality: int = 75) -> str:
    """A small square copy as a data URL; what is transparent is white."""
    with Image.open(EXAMPLES / picture) if isinstance(picture, str) else picture as opened:
        ground = Image.new("RGBA", opened.size, "white")
        ground.alpha_composite(opened.convert("RGBA"))
    return data_url(ImageOps.fit(ground.convert("RGB"), (side, side)), "WEBP", quality=quality)
