"""The *Edit* tab: a painting made real, or a painted-over photograph made whole again."""

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from engine.requests import USEFUL, Done, EditRequest, EngineError
from engine.requests.settings import Settings
from morph_ui.api import PICTURES, api, open_pictures
from morph_ui.components.canvas import canvas, read
from morph_ui.form import Form
from morph_ui.panels import QUIET
from morph_ui.panels.gallery import Gallery
from morph_ui.session import Session, inline
from morph_ui.tabs import Asked, columns, first, maker, wire

R = EditRequest
ABOUT = "Make a ``guide`` real, or paint over a ``photo``; white in ``mask`` is where it may change: PNGs and a report."
FINEST = 0.02  # strengths closer than this look alike
WHERE = [("where it is painted, and around", "paint"), ("everywhere", "all")]
INVITATION = "Paint a picture, or drop a photograph and paint over it. Press Make."


def build(worker: Any, settings: Settings) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    state = gr.State(Session(), delete_callback=Session.forget)
    left, right = columns(6, 6)
    with right:
        main = gr.Column(elem_classes="mains")
        panel, more = Gallery("edit", INVITATION, "Draw", describe), gr.Column(elem_classes="mores")
    with left:
        pad = canvas("edit", ("strokes", "mask"))
        form = Form(R, settings, main, more, seed=first.SEEDS["edit"])
        first.place(form)
    with main, gr.Row(elem_classes="halves"):
        faithful = gr.Button("More faithful", elem_id="edit-faithful", size="sm")
        realistic = gr.Button("More realistic", elem_id="edit-realistic", size="sm")
    low, high = USEFUL
    with form.places[""]:
        useful = f"<i></i><span>most useful: {low:g} to {high:g}</span>"
        gr.HTML(f'<div class="useful" style="--low:{low};--high:{high}">{useful}</div>', apply_default_css=False)
    with form.places["results"]:
        info = "unless a mask is painted, which says where"
        label = "A photograph may change"
        where = gr.Radio(WHERE, value="paint", label=label, elem_id="edit-where", info=info)
    form.inputs |= {"canvas": pad, "where": where}
    note = "; open the same drawing on the canvas to make it again."
    wire(worker, state, form, panel, partial(ask, form), lambda _: (note, {}), "strength")
    first.wire(form, state, panel, name)
    for button, up in ((faithful, False), (realistic, True)):
        handler = maker(worker, state, form, panel, partial(bisect, form, up))
        button.click(handler, {state, *form.components}, panel.components, **QUIET)
    api(worker, R, ABOUT, PICTURES, open_pictures)
    return state


def ask(form: Form, session: Session, values: dict[str, Any]) -> Asked:
    """What is on the canvas and the values of the widgets → a request, and how it is shown.

    A mask says where a picture may change; without one a painted-over photograph changes around its paint, or ("all",
    and where there is no photograph or no paint) the whole picture does.
    """
    drawing, everywhere = read(values.pop("canvas")), values.pop("where") == "all"
    if values.pop("example", None) and first.bare(drawing):
        drawing = first.drawing("edit")
    if drawing.photo is None and drawing.strokes is None:
        got = "only a mask" if drawing.mask else "nothing"
        raise EngineError(f"canvas must hold a painting or a photograph, got {got}; paint, or drop a picture on it")
    flat = drawing.flat()
    if drawing.mask is not None:
        layers = {"guide": flat, "photo": drawing.photo, "mask": drawing.mask.getchannel("A")}
    elif drawing.photo and drawing.strokes and not everywhere:
        layers = {"guide": drawing.strokes, "photo": drawing.photo}
    else:
        layers = {"guide": flat}
    request = form.read(values | layers)
    basis = replace(request, strength=0.0, count=1)  # what a ladder belongs to: the pictures and all other settings
    return request, {"before": inline(flat), "labels": name(request), "ladder": (basis, (0.0, 1.0))}


def describe(done: Done) -> str:
    """How far the result is from the guide, in words."""
    w, h = done.frames[0].size
    return f"{(done.quality['l2'] / (3 * w * h)) ** 0.5:.0%} away from what it was made from"


def name(request: R, first: int = 0) -> dict[int, tuple[float, str]]:
    """What each result is called: its strength, which also orders the ladder, and its number if there are several."""
    text, several = f"strength {request.strength:.3g}", request.count > 1
    return {first + i: (request.strength + 1e-6 * i, text + f" · {i + 1}" * several) for i in range(request.count)}


def halve(bounds: tuple[float, float], strength: float, up: bool) -> tuple[tuple[float, float], float]:
    """One step of bisecting t0: the new bounds, and the strength between them (the paper's binary search, §4)."""
    low, high = (strength, bounds[1]) if up else (bounds[0], strength)
    if low >= high:  # a strength set by hand outside of the bounds
        low, high = (strength, 1.0) if up else (0.0, strength)
    return (low, high), round((low + high) / 2, 3)


def bisect(form: Form, up: bool, session: Session, values: dict[str, Any]) -> Asked:
    """What *More realistic* and *More faithful* ask for: it halves what is left, and keeps what was tried."""
    request, how = ask(form, session, values | {"count": 1})
    own, bounds = how["ladder"]
    kept = session.kept if session.kept.ladder and session.kept.ladder[0] == own else None
    bounds, strength = halve(kept.ladder[1] if kept else bounds, request.strength, up)
    if bounds[1] - bounds[0] < FINEST:
        got = f"got {bounds[0]:.3g} to {bounds[1]:.3g}, which look alike"
        raise EngineError(f"strength must leave something to try, {got}")
    request, keep = replace(request, strength=strength), set(kept.frames) if kept else set()
    first, undo = max(keep, default=-1) + 1, {form.widgets["strength"]: values["strength"]}
    how |= {"keep": keep, "first": first, "labels": name(request, first), "ladder": (own, bounds)}
    return request, how | {"undo": undo}
