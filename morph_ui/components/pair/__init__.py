"""What the hand does with two dropzones: files, pastes, one zone's picture on the other, and both after a reload."""

import json
from typing import Any

import gradio as gr

from engine.requests import EngineError
from morph_ui.components import component
from morph_ui.components.opened import opened, uploaded

TELL = "window.dispatchEvent(new Event('chrysalis-pair'));"


def hands(tab: str) -> gr.HTML:
    """Beside the dropzones ``#{tab}-a`` and ``#{tab}-b``. Its value is JSON, {"a": path, "b": path} of uploads that
    were opened; ``put`` tells that they are to be shown."""
    own = json.dumps({"tab": tab})
    scripts = ("../incoming", "pair")
    return component(__file__, f"{tab}-hands", scripts, f"const OWN = {own};", server_functions=[opened])


def remember(tab: str) -> str:
    """JavaScript that keeps both pictures for this browser tab, whenever one has changed, and tells of them."""
    kept = "JSON.stringify({ a: a && a.path, b: b && b.path })"
    keep = f"try {{ sessionStorage.setItem('chrysalis-{tab}', {kept}); }} catch {{}}"
    return f"(a, b) => {{ {keep} (window.chrysalisPair ??= {{}}).{tab} = {{ a, b }}; {TELL} }}"


def paths(value: Any) -> dict[str, str]:
    """The uploads in the value that the browser sent, by side. It is not believed: what is no upload is left out."""
    try:
        sent = json.loads(value) if value else {}
        return {side: str(uploaded(sent[side])) for side in "ab" if sent.get(side)}
    except (EngineError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
