"""What belongs to the whole page in a browser: what a reload finds again, and what plain http leaves out."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.context import Context

from morph_ui.components import component

# The page's first question: {"token", "before"}, its own and that of the page before it in this browser tab.
ARRIVE = (Path(__file__).parent / "arrive.js").read_text(encoding="utf8")
FORM = (Path(__file__).parent / "form.js").read_text(encoding="utf8")
QUIET = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def visit(tabs: Sequence[str]) -> gr.HTML:
    """Once on the page. Its value is what `morph_ui.panels.lasting.arrive` answers; for every tab that is to be shown
    again there is an event of that tab's name."""
    return component(__file__, "visit", before=f"const TABS = {json.dumps(tabs)};")


def here() -> gr.HTML | None:
    """That of the page that is being built."""
    blocks = Context.root_block.blocks.values() if Context.root_block else ()
    return next((b for b in blocks if isinstance(b, gr.HTML) and b.elem_id == "visit"), None)


def remember(tab: str, widgets: Iterable[Component]) -> None:
    """What is in a tab's widgets is kept in the browser tab, and there again after a reload."""
    root, kept = Context.root_block, [w for w in widgets if not isinstance(w, gr.File | gr.Image | gr.HTML)]
    if not root:
        return
    keys = [w.elem_id or str(w.label) for w in kept]
    root.load(None, None, kept, js=f"() => ({FORM})({tab!r}, {keys}).back()", **QUIET)
    gr.on([w.change for w in kept], None, kept, None, js=f"(...v) => ({FORM})({tab!r}, {keys}).keep(v)", **QUIET)
