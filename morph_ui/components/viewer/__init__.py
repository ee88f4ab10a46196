"""Results: one large, with a before/after slider, the others in a strip or a sheet below. Python sets its value;
``choose`` tells which one was clicked."""

import json

import gradio as gr

from morph_ui.components import component


def viewer(tab: str, invitation: str) -> gr.HTML:
    own = f"const OWN = {json.dumps({'tab': tab})};"
    return component(__file__, f"{tab}-viewer", ("../strip", "viewer"), own, invitation=invitation)
