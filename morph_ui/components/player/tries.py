"""The tries for a frame, each to be chosen or sent on. Python sets the value; ``choose`` tells which was clicked."""

import json
from collections.abc import Sequence

import gradio as gr
from PIL.Image import Image

from morph_ui.components import component
from morph_ui.session import data_url

HTML = """<p>Tries: choose one for this frame</p>
<div class="row" role="group" aria-label="Tries for this frame"></div>"""


def tries(tab: str) -> gr.HTML:
    return component(__file__, f"{tab}-candidates", ("tries",), html_template=HTML, visible=False)


def told(pictures: Sequence[Image], chosen: int, name: str) -> str:
    """The value: the tries, which of them is the frame, and what the frame is called in files."""
    own = [{"src": data_url(p.convert("RGB"), "JPEG", quality=92), "name": name} for p in pictures]
    return json.dumps({"tries": own, "chosen": chosen})
