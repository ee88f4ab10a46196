"""A shelf of examples to click, a row of one or more small pictures each; ``choose`` tells which one. What is dragged
from it is the whole picture."""

import base64
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

    def whole(asked: Any) -> list[dict[str, str]]:
        """The pictures of row {"index"}, as they are, with names for files. Called by the script."""
        i = asked.get("index") if isinstance(asked, dict) else None
        if type(i) is not int or not 0 <= i < len(rows):
            return []
        return [named(p, f"chrysalis-example-{tab}-{i + 1}") for p in rows[i]]

    html = f'<div class="shelf"><span>try</span>{buttons}</div>'
    own: dict[str, Any] = {"html_template": html, "elem_classes": "examples", "server_functions": [whole]}
    return component(__file__, f"{tab}-examples", **own)


def named(picture: str | Image.Image, name: str) -> dict[str, str]:
    """{"src": a data URL, "name"} of a whole picture: that of a file is its bytes."""
    if isinstance(picture, str):
        block = base64.b64encode((EXAMPLES / picture).read_bytes()).decode()
        return {"src": f"data:image/{Path(picture).suffix[1:]};base64,{block}", "name": Path(picture).name}
    return {"src": data_url(grounded(picture), "PNG"), "name": f"{name}.png"}


def thumbnail(picture: str | Image.Image, side: int, quality: int = 75) -> str:
    """A small square copy as a data URL; what is transparent is white."""
    with Image.open(EXAMPLES / picture) if isinstance(picture, str) else picture as opened:
        small = ImageOps.fit(grounded(opened), (side, side))
    return data_url(small, "WEBP", quality=quality)


def grounded(picture: Image.Image) -> Image.Image:
    """On white, RGB."""
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")
