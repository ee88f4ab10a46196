"""What belongs to the whole page in a browser: a reload while a job runs, and what plain http leaves out."""

import gradio as gr

from morph_ui.components import component


def visit() -> gr.HTML:
    """Once on the page."""
    return component(__file__, "visit")
