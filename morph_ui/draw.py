"""The *Draw* tab: lines and colours on the canvas become a picture, while the hand draws if wanted."""

from __future__ import annotations

import base64
import json
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from engine.requests import COMBINES, DRAW_PRESETS, REFINES, SAMPLERS, SHEETS, DrawRequest
from morph_ui.board import api, board, feed_value, layers_of, loaded, passed_on, settle
from morph_ui.components.canvas import canvas
from morph_ui.easel import Easel, choose
from morph_ui.live import following, fresh
from morph_ui.networks import after, network_box
from morph_ui.stage import QUIET
from morph_ui.widgets import default, presets, seed_box, slider, thumbnails

R = DrawRequest
TITLE = "Draw"
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
SHEET_LABELS = {
    "none": "none: just the results",
    "sketch-stroke": "lines × colours, 3 × 3",
    "sketch-realism": "lines × realism, 3 × 3",
    "stroke-realism": "colours × realism, 3 × 3",
    "ladder": "a ladder of realism",
}
COMBINE_LABELS = {"joint": "together: 1 and 1 is the network that sees both", "sum": "sum of three rows (the paper's)"}
REFINE_LABELS = {"auto": "as suits the network", "clean": "on the clean picture in mind",
                 "noised": "on the noised picture (the paper's)", "off": "off: realism does nothing"}  # fmt: skip
SAMPLER_LABELS = {"ddim": "DDIM, all the steps", "live": "live: four steps or fewer"}


def controls(beside: Any = None) -> dict[str, Any]:
    """The request's fields as widgets, keyed by field name; those that are seldom touched go ``beside``."""
    c: dict[str, Any] = {}
    hint = "what it shows, e.g. a red tulip (may stay empty)"
    c["prompt"] = gr.Textbox("", label="In words", placeholder=hint, lines=1, elem_id="draw-prompt")
    with gr.Row(elem_id="draw-act", elem_classes="act"):
        c["make"] = gr.Button("Make", variant="primary", elem_id="draw-make", scale=3)
        c["stop"] = gr.Button("Stop", variant="stop", elem_id="draw-stop", scale=3, visible=False)
        c["seed"], _ = seed_box("draw")
    with gr.Group(elem_id="draw-settings", elem_classes="settings"):
        c["realism"] = slider(R, "realism", "Realism", info="0 keeps the drawing, 1 only its colours")
        with gr.Row():
            c["sketch_scale"] = slider(R, "sketch_scale", "Lines", info="how strictly; 0 leaves them out",
                                       min_width=150)  # fmt: skip
            c["stroke_scale"] = slider(R, "stroke_scale", "Colours", info="how strictly; 0 leaves them out",
                                       min_width=150)  # fmt: skip
    with beside or nullcontext():
        with gr.Group(elem_classes="settings"):
            with gr.Row():
                c["count"] = slider(R, "count", "Results", info="with this seed, the next, and so on", min_width=150)
                sheets = [(SHEET_LABELS[s], s) for s in SHEETS]
                c["sheet"] = gr.Dropdown(sheets, value=default(R, "sheet"), label="Sheet", min_width=150)
            c["preset"] = gr.Radio(list(DRAW_PRESETS), label="Preset", value="standard", elem_id="draw-preset")
        with gr.Accordion("Advanced", open=False, elem_id="draw-advanced", elem_classes="advanced"):
            c["negative"] = gr.Textbox("", label="Not wanted", lines=1)
            with gr.Row():
                c["steps"] = slider(R, "steps", "Steps", info="", min_width=150)
                c["guidance"] = slider(R, "guidance", "Guidance", info="how strictly the words count; 1 is off",
                                       min_width=150)  # fmt: skip
            c["sampler"] = gr.Dropdown([(SAMPLER_LABELS[s], s) for s in SAMPLERS], value=default(R, "sampler"),
                                       label="Sampler")  # fmt: skip
            c["combine"] = gr.Dropdown([(COMBINE_LABELS[s], s) for s in COMBINES], value=default(R, "combine"),
                                       label="Lines and colours")  # fmt: skip
            c["refine"] = gr.Dropdown([(REFINE_LABELS[s], s) for s in REFINES], value=default(R, "refine"),
                                      label="Realism acts")  # fmt: skip
            with gr.Row():
                c["k"] = slider(R, "k", "Keep more", info="of the drawing's detail (k)", min_width=150)
                c["free"] = slider(R, "free", "Free at the end", info="share of the steps without it", min_width=150)
            with gr.Row():
                c["around"] = slider(R, "around", "Around the drawing", info="pixels of a photograph that may change",
                                     min_width=150)  # fmt: skip
                c["feather"] = slider(R, "feather", "Soft edge", info="pixels, inside that part", min_width=150)
            with gr.Row():
                c["eta"] = slider(R, "eta", "Fresh noise (η)", info="0 is DDIM, 1 the paper's", min_width=150)
                c["size"] = slider(R, "size", "Longer side", info="pixels; 0 is the network's own", min_width=150)
        c["model"] = network_box("draw", R, c["guidance"], ("sketch", "stroke"))
    presets(c["preset"], R, DRAW_PRESETS, c)
    return {f.name: c[f.name] for f in fields(R) if f.name in c} | {k: c[k] for k in ("make", "stop", "preset")}


def build(worker: Any) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    session = gr.State(Easel(), delete_callback=Easel.forget)
    with gr.Row(elem_classes="studio"):
        with gr.Column(scale=6, min_width=320, elem_classes="left"):
            pad = canvas("draw", ("sketch", "strokes", "mask"), live=True)
            shelf = gr.Row(elem_id="draw-shelf", elem_classes="tryout")
            beside = gr.Column(elem_classes="beside")
        with gr.Column(scale=6, min_width=320, elem_classes="right"):
            right = board(
                "draw", "Draw lines, lay colours under them, press Make. Or switch Live on and watch.", "Edit"
            )
            c = controls(beside)
    make, stop, _ = (c.pop(k) for k in ("make", "stop", "preset"))
    c["canvas"] = pad
    with shelf:
        examples(right.feed, c["prompt"])
    out = right.outputs(c["seed"], make, stop)
    names, widgets = list(c), list(c.values())
    told_canvas = "() => document.querySelector('#draw-canvas [data-ready]').dispatchEvent(new CustomEvent('%s'))"
    make.click(
        None, js=told_canvas % "chrysalis-rest", **QUIET
    )  # Make is the full render: no other when the hand rests
    after(make.click(fresh(worker, names), [session, *widgets], out, **QUIET), c["model"])
    stop.click(None, js=told_canvas % "chrysalis-still", **QUIET)
    stop.click(Easel.halt, session, queue=False, **QUIET)
    # Newest wins: while one is drawn, the last change waits and those before it are dropped.
    newest: dict[str, Any] = QUIET | {"trigger_mode": "always_last"}
    sliders = [c[n] for n in ("realism", "sketch_scale", "stroke_scale")]
    for moved, rested in ((pad.live, pad.rest), *((s.input, s.release) for s in sliders)):
        moved(following(worker, names), [session, *widgets], out, **newest)
        rested(fresh(worker, names, rested=True), [session, *widgets], out, **newest)
    right.screen.choose(choose, session, right.png, queue=False, **QUIET)
    right.under.click(lambda s: passed_on(s, "draw"), session, right.feed, queue=False, **QUIET)
    right.onward.click(lambda s: passed_on(s, "edit"), session, right.feed, queue=False, **QUIET)
    plain = [n for n in names if n != "canvas"]
    right.load.upload(loaded("draw", plain, R), right.load, [*(c[n] for n in plain), right.status], **QUIET)
    about = (
        "A picture from lines (``sketch``: dark on white, or with alpha) and colours (``strokes``: what is transparent "
        "stays free), over a ``photo`` if there is one. Ends with PNG files and the settings. Fields as in "
        "``python -m engine draw --help``."
    )
    api(worker, "draw", about, R, called, ["sketch", "strokes", "photo", "mask"])
    return session


def called(values: dict[str, Any]) -> R:
    """The same from the API's files."""
    kinds = {"sketch": "sketch", "strokes": "strokes", "mask": "mask", "photo": "photo"}
    return R(**layers_of(values, kinds), **settle(R, values))


def examples(feed: gr.HTML, prompt: gr.Textbox) -> None:
    """Ready drawings to click, each with its words."""
    found = json.loads((EXAMPLES / "drawings.json").read_text())
    looks = []
    for d in found:
        both = [Image.open(EXAMPLES / d[n]).convert("RGBA") for n in ("strokes", "sketch")]
        looks.append([Image.alpha_composite(*both)])
    shelf = thumbnails(looks, "draw-examples")

    def pick(event: gr.EventData) -> list[str]:
        d = found[int(event.index)]
        return [feed_value("draw", {n: _url(EXAMPLES / d[n]) for n in ("sketch", "strokes")}), d["prompt"]]

    shelf.choose(pick, None, [feed, prompt], show_progress="hidden", api_visibility="private")


def _url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
