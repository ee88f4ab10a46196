"""The picture, its scrubber and the strip of frames. Python sets its value; ``choose`` tells which cell was clicked."""

import gradio as gr

from morph_ui.components import component


def player(tab: str) -> gr.HTML:
    return component(__file__, f"{tab}-player", ("../strip", "player"))
