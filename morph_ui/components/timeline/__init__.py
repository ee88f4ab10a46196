"""Pictures in a row, each with its words: add, remove, reorder by drag. Nothing that the browser sends is believed."""

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.requests import EngineError
from morph_ui.components import component
from morph_ui.components.opened import opened, uploaded
from morph_ui.components.shelf import EXAMPLES, thumbnail


def timeline(tab: str) -> gr.HTML:
    """Its value is JSON, {"items": [{"path", "words"} …], "coming": how many are still being sent}. Set from Python it
    may hold "items" (examples) or "words" (for the pictures that are there, and the next ones)."""
    return component(__file__, f"{tab}-timeline", ("../incoming", "timeline"), server_functions=[opened])


def example(way: Sequence[tuple[str, str]]) -> str:
    """The value that puts example pictures, each with its words, in the timeline."""
    return json.dumps({"items": [{"path": str(EXAMPLES / n), "url": thumbnail(n, 236), "words": w} for n, w in way]})


def keyframes(value: Any) -> list[dict[str, str]]:
    """The timeline's pictures, each with ``path`` and ``words``. A path must be an upload of ours or an example."""
    try:
        found = json.loads(value) if value else {}
        coming = int(found.get("coming") or 0)
        items = [{n: str(k.get(n) or "") for n in ("path", "words")} for k in found.get("items", ())]
    except (TypeError, ValueError, AttributeError):
        raise EngineError(f"pictures must be a timeline, got {str(value)[:40]!r}") from None
    if coming:
        raise EngineError(
            f"pictures must all have arrived, got {coming} still being sent; press Make again in a moment"
        )
    return [k | {"path": str(uploaded(k["path"], f"picture {i}", EXAMPLES))} for i, k in enumerate(items, 1)]
