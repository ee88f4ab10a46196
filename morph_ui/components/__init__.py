"""Widgets of our own: a folder each, with its markup, its style and its script."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr


def component(file: str, elem_id: str, scripts: Sequence[str] = (), before: str = "", **props: Any) -> gr.HTML:
    """The widget of the folder in which ``file`` lies. Its ``scripts`` (one, named like it, where none is given) make
    one closure, in this order; ``before`` comes first. Whatever else is given is in the script's ``props``."""
    folder = Path(file).parent

    def text(name: str) -> str:
        path = folder / name
        return path.read_text() if path.exists() else ""

    return gr.HTML(
        html_template=props.pop("html", text(f"{folder.name}.html")),
        css_template=text(f"{folder.name}.css"),
        js_on_load="\n".join([before, *(text(f"{name}.js") for name in scripts or [folder.name])]),
        elem_id=elem_id,
        apply_default_css=False,
        **{"value": None} | props,
    )
