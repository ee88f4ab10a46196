"""What was made in this browser, kept there and nowhere else; and how every picture of the page goes everywhere."""

from typing import Any

import gradio as gr

from engine.requests import fields_of
from morph_ui.components import component

SCRIPTS = ("anywhere", "zip", "store", "look", "drawer")
ALWAYS = ("seed", "steps", "frames", "model", "strength", "realism")  # others are told where they are not as at first
ROOM = 200_000_000  # bytes of pictures that are kept


def history(*requests: Any) -> gr.HTML:
    """Once on the page. ``requests``: the classes whose fields have names for people."""
    labels = {
        r.method: {n: [f.spec.label, None if n in ALWAYS else f.default] for n, f in fields_of(r).items()}
        for r in requests
    }
    return component(__file__, "history", SCRIPTS, labels=labels, room=ROOM)
