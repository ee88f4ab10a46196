"""A picture by drag, paste, upload or webcam."""

from typing import Any

import gradio as gr

from engine.requests import EngineError
from engine.vision import images
from engine.vision.reading import as_browsers_show


def dropzone(label: str, elem_id: str) -> gr.Image:
    """It hands a path on: `engine.vision.images.read` is the one reader. Gradio's own reading fails on broken files
    before we could say what is wrong with them."""
    sources = ["upload", "clipboard", "webcam"]
    own: dict[str, Any] = {"type": "filepath", "image_mode": None, "height": 210, "buttons": [], "format": "png"}
    zone = gr.Image(label=label, elem_id=elem_id, sources=sources, **own)
    original = zone.preprocess
    zone.preprocess = lambda payload: original(payload) if payload is None or not payload.path else payload.path
    zone.upload(seen, zone, zone, show_progress="hidden", api_visibility="private", queue=False)
    return zone


def seen(path: str | None) -> Any:
    """What a zone shows of an upload: the file, or its pixels as we read them where a browser would show others."""
    if path is None or as_browsers_show(path):
        return gr.skip()
    try:
        return images.read(path)
    except EngineError as e:
        gr.Warning(f"{str(e)[0].upper()}{str(e)[1:]}.")
        return gr.skip()
