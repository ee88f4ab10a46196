"""The few builders that the tabs share. Bounds and defaults come from the request's own dataclass."""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).parent


def default(request: type, name: str) -> Any:
    return next(f.default for f in fields(request) if f.name == name)


def slider(request: type, name: str, label: str, low: float | None = None, high: float | None = None, **kw: Any):
    """A slider for a field; ``low`` and ``high`` narrow the page's range, never widen the engine's."""
    bound = request.BOUNDS[name]
    return gr.Slider(
        bound.low if low is None else low, bound.high if high is None else high, value=default(request, name),
        step=bound.step, label=label, info=kw.pop("info", bound.help) or None, buttons=[], **kw,
    )  # fmt: skip


def drop_zone(label: str, elem_id: str) -> gr.Image:
    """A picture by drag, paste, upload or webcam, handed on as a path: `engine.images.read` is the one reader.

    Gradio's own reading fails on broken files before we could say what is wrong with them.
    """
    zone = gr.Image(
        label=label, elem_id=elem_id, type="filepath", image_mode=None, height=210,
        sources=["upload", "clipboard", "webcam"], buttons=[],
    )  # fmt: skip
    original = zone.preprocess

    def path(payload: Any) -> str | None:
        if payload is None or not payload.path:
            return original(payload)
        return payload.path

    zone.preprocess = path
    return zone


def seed_box() -> tuple[gr.Number, gr.Button]:
    """A seed and its dice. An empty box means a new seed, which is then written back."""
    with gr.Row(elem_classes="seed"):
        seed = gr.Number(value=7, precision=0, label="Seed", min_width=110)
        dice = gr.Button("⚂", elem_id="dice", elem_classes="tool", size="sm", scale=0, min_width=44)
    dice.click(new_seed, outputs=seed, queue=False, show_progress="hidden", api_visibility="private")
    return seed, dice


def new_seed() -> int:
    return random.SystemRandom().randrange(2**32)


def player() -> gr.HTML:
    """The picture, its scrubber and the strip of frames. Python sets its value; it tells which cell was chosen."""
    return gr.HTML(
        value=None,
        html_template=(HERE / "player.html").read_text(),
        css_template=(HERE / "player.css").read_text(),
        js_on_load=(HERE / "player.js").read_text(),
        elem_id="player",
        apply_default_css=False,
    )
