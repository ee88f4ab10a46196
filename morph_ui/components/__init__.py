"""Widgets of our own: a folder each, with its markup, its style and its script."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr


def component(file: str, elem_id: str, scripts: Sequence[str] = (), before: str = "", **props: Any) -> gr.HTML:
    """The widget of the folder in which ``file`` lies. Its ``scripts`` (one, named like it, where none is given) make
    one closure, in this order; ``before`` comes first. Whatever else is given is in the script's ``props``."""
    folder = Path(file).parent
    scripts = scripts or [folder.name]

    def text(kind: str, *names: str) -> str:
        paths = [folder / f"{name}.{kind}" for name in dict.fromkeys(names)]
        return "\n".join(path.read_text(encoding="utf8") for path in paths if path.exists())

    own = {"html_template": text("html", folder.name), "value": None, "apply_default_css": False} | props
    js = f"{before}\n{text('js', *scripts)}"
    return gr.HTML(css_template=text("css", *scripts, folder.name), js_on_load=js, elem_id=elem_id, **own)
