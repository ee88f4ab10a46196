"""The *Draw* tab: lines and colours on the canvas become a picture, while the hand draws if wanted."""

from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from engine.requests import Done, DrawRequest
from engine.requests.settings import Settings
from morph_ui.api import PICTURES, api, open_pictures
from morph_ui.components.canvas import canvas, read
from morph_ui.components.feed import feed_value
from morph_ui.components.shelf import EXAMPLES, examples, shelf
from morph_ui.form import Form
from morph_ui.live import live
from morph_ui.panels import QUIET, Updates
from morph_ui.panels.gallery import Gallery
from morph_ui.session import Session, data_url, inline
from morph_ui.tabs import Asked, columns, first, wire

R = DrawRequest
ABOUT = (
    "A picture of lines (``sketch``) and colours (``strokes``), over a ``photo`` if there is one: PNGs and a report."
)
AXES = {"sketch_scale": "lines", "stroke_scale": "colours", "realism": "realism"}
INVITATION = "Draw lines, lay colours under them, press Make. Or switch Live on and watch."


def build(worker: Any, settings: Settings) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    state = gr.State(Session(), delete_callback=Session.forget)
    left, right = columns(6, 6)
    with right:
        main = gr.Column(elem_classes="mains")
        panel, more = Gallery("draw", INVITATION, "Edit", describe), gr.Column(elem_classes="mores")
    with left:
        pad, drawings = canvas("draw", ("sketch", "strokes", "mask"), live=True), examples("drawings")
        with gr.Row(elem_id="draw-shelf", elem_classes="tryout"):
            tryout = shelf("draw", [[look(d)] for d in drawings])
        form = Form(R, settings, main, more, ("sketch", "stroke", "tile"), first.SEEDS["draw"])
        form.inputs["canvas"] = pad
        first.place(form)

    def take(event: gr.EventData) -> Updates:
        d = drawings[int(event.index)]
        layers = {n: data_url(Image.open(EXAMPLES / d[n]), "PNG") for n in ("sketch", "strokes")}
        return {panel.feed: feed_value("draw", layers), form.widgets["prompt"]: d["prompt"]}

    tryout.choose(take, None, [panel.feed, form.widgets["prompt"]], **QUIET)
    note = "; open the same drawing on the canvas to make it again."
    wire(worker, state, form, panel, partial(ask, form), lambda _: (note, {}))
    first.wire(form, state, panel, name)
    live(worker, state, pad, form, panel, partial(ask, form))
    api(worker, R, ABOUT, PICTURES, open_pictures)
    return state


def look(drawing: dict[str, str]) -> Image.Image:
    """A ready drawing as one sees it."""
    strokes, sketch = (Image.open(EXAMPLES / drawing[n]).convert("RGBA") for n in ("strokes", "sketch"))
    return Image.alpha_composite(strokes, sketch)


def ask(form: Form, session: Session, values: dict[str, Any]) -> Asked:
    """What is on the canvas and the values of the widgets → a request, and how it is shown."""
    drawing, placed = read(values.pop("canvas")), values.pop("example", None)
    if placed and first.bare(drawing):
        drawing = first.drawing("draw")
    if values["sheet"] != "none":
        values["count"] = 1
    layers = {n: getattr(drawing, n) for n in ("sketch", "strokes", "photo")}
    mask = drawing.mask.getchannel("A") if drawing.mask else None
    request = form.read(values | layers | {"mask": mask})
    return request, {"before": inline(drawing.flat()), "labels": name(request)}


def name(request: R) -> dict[int, tuple[float, str]]:
    """What each result is called: its place in the sheet, or its seed if there are several."""
    plan = request.plan()
    texts = [" · ".join(f"{AXES[k]} {v:g}" for k, v in p.items() if k in AXES) for p in plan]
    return {i: (i, t or (f"seed {plan[i]['seed']}" if len(plan) > 1 else "")) for i, t in enumerate(texts)}


def describe(done: Done) -> str:
    """How closely the drawing was followed, in words."""
    q = done.quality
    parts = [f"lines {q['lines']:.0%}"] if "lines" in q else []
    parts += [f"colours {q['colours'] / 255:.0%}"] if "colours" in q else []
    return (" and ".join(parts) + " away from the drawing").capitalize() if parts else ""
