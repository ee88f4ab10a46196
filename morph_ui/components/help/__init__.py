"""What helps on the whole page: its keys and the list of them (``?``), what methods call the fields, names for screen
readers, and one voice that says what the line above the results says."""

import json

import gradio as gr

from engine.requests import METHODS, fields_of
from engine.requests.finish import Finish
from morph_ui.components import component

FILMS = ("interpolate", "morph")  # the tabs that make films


def help_keys() -> gr.HTML:
    """Once on the page: a button at its top, and a window that it opens."""
    own = json.dumps({"terms": terms()})
    return component(__file__, "help", ("../keys", "help", "names"), f"const OWN = {own};")


def terms() -> dict[str, str]:
    """``elem_id`` of a field → its tooltip: what it does, where its widget does not say it, and its method's term."""
    fields = [(f"{tab}-{n.replace('_', '-')}", f) for tab, r in METHODS.items() for n, f in fields_of(r).items()]
    fields += [(f"{tab}-{n}", f) for tab in FILMS for n, f in fields_of(Finish).items()]
    said = {name: [f.spec.help] * (f.type is bool) + [f.spec.term] * bool(f.spec.term) for name, f in fields}
    return {name: " · ".join(parts) for name, parts in said.items() if parts}
