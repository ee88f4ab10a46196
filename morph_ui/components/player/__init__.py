"""The picture, its scrubber and the strip of frames. Python sets its value; ``choose`` tells which cell was clicked,
``fill`` asks for the pictures between frames, where a film is to have them."""

import json

import gradio as gr

from morph_ui.components import component


def player(tab: str) -> gr.HTML:
    return component(__file__, f"{tab}-player", ("../strip", "player"), f"const OWN = {json.dumps({'tab': tab})};")


def taker(tab: str) -> gr.HTML:
    """Nothing to see: a file's address and name set as its value (JSON) are downloaded at once."""
    return component(__file__, f"{tab}-taken", ("take",), html_template="", visible="hidden")
