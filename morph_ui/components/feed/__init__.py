"""The one way from Python to a canvas: what is fed is put there as an operation of the canvas's own, which can be
undone. So nothing ever writes to what it listens to."""

import json

import gradio as gr

from morph_ui.components import component

_FED = iter(range(1, 2**62))


def feed(tab: str) -> gr.HTML:
    return component(__file__, f"{tab}-feed", html_template="", visible="hidden")


def feed_value(tab: str, layers: dict[str, str]) -> str:
    """Layers, as data URLs by name, for the canvas of ``tab``; numbered, or the same twice would be no change."""
    return json.dumps({"n": next(_FED), "tab": tab, "layers": layers})
