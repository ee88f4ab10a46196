"""A picture by drag, paste, upload or webcam."""

from typing import Any

import gradio as gr


def dropzone(label: str, elem_id: str) -> gr.Image:
    """It hands a path on: `engine.vision.images.read` is the one reader. Gradio's own reading fails on broken files
    before we could say what is wrong with them."""
    sources = ["upload", "clipboard", "webcam"]
    own: dict[str, Any] = {"type": "filepath", "image_mode": None, "height": 190, "buttons": []}
    zone = gr.Image(label=label, elem_id=elem_id, sources=sources, **own)
    original = zone.preprocess
    zone.preprocess = lambda payload: original(payload) if payload is None or not payload.path else payload.path
    return zone
