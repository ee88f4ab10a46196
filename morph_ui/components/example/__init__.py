"""The example that stands on a tab until the visitor brings something: laid over the inputs, which stay empty.

Python sets its value (JSON: the "run" that is shown, and "pair", "row" or "flat"); the browser empties it when the
example goes. ``wanted`` asks for it when the tab is opened first and nothing is there already, ``placed`` tells that it
stands there, ``gone`` that it has gone (with the run), ``use`` that it is wanted on the canvas.
"""

import json

import gradio as gr

from morph_ui.components import component


def example(tab: str) -> gr.HTML:
    own = json.dumps({"tab": tab})
    return component(__file__, f"{tab}-example", before=f"const OWN = {own};", html_template="", visible="hidden")
