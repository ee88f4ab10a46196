"""The artist's own networks and LoRAs, a card each, with the picture that lies beside it. Python sets the value;
``choose`` tells which network was clicked, ``join`` which LoRA."""

import json
from collections.abc import Sequence
from functools import lru_cache

import gradio as gr

from engine.checkpoints.library import Own
from morph_ui.components import component
from morph_ui.components.shelf import thumbnail

SIDE = 144  # pixels of a card's picture


def mine(tab: str) -> gr.HTML:
    """Empty until it is opened: its pictures are sent then."""
    template = '<div class="mine" role="group" aria-label="Your own files"></div>'
    return component(__file__, f"{tab}-mine", ("own",), html_template=template)


def cards(found: Sequence[Own], chosen: Sequence[str], reasons: bool) -> str:
    """The value: what can be used, which of it is ``chosen``, and of the rest the ``reasons`` why not."""
    usable = [own for own in found if not own.why]
    own = [{"name": o.name, "lora": o.lora, "about": about(o), "src": look(o)} for o in usable]
    why = [f"{o.why[0].upper()}{o.why[1:]}." for o in found if o.why] if reasons else []
    return json.dumps({"own": own, "chosen": list(chosen), "why": why})


def about(own: Own) -> str:
    what = own.label.removeprefix(f"{own.name} · ")
    return f"LoRA · {what}" if own.lora else what


def look(own: Own) -> str:
    """Its picture, small; "" where there is none that can be read."""
    try:
        return _small(str(own.picture), own.picture.stat().st_mtime_ns) if own.picture else ""
    except OSError:
        return ""


@lru_cache(2048)
def _small(path: str, _: int) -> str:
    try:
        return thumbnail(path, SIDE)
    except Exception:  # whatever a broken picture does to Pillow: there is a card without it
        return ""
