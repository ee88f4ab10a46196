"""The *Draw* tab: lines and colours on the canvas become a picture, while the hand draws if wanted."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import gradio as gr
from PIL import Image

from engine.schema import (
    CATALOGUE_NAMES,
    COMBINES,
    DRAW_PRESETS,
    REFINES,
    SAMPLERS,
    SHEETS,
    Cancelled,
    Done,
    DrawRequest,
    Frame,
)
from morph_ui.canvas import Drawing, canvas, read
from morph_ui.easel import (
    UPDATES,
    Easel,
    api,
    board,
    choose,
    feed_value,
    finish,
    layers_of,
    loaded,
    passed_on,
    refused,
    settle,
    shown,
    stream,
)
from morph_ui.stage import QUIET
from morph_ui.stream import bar, begin, events, inline, message, sentence
from morph_ui.widgets import default, new_seed, presets, seed_box, slider, thumbnails

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
REFINE_LABELS = {"clean": "on the clean picture in mind", "noised": "on the noised picture (the paper's)",
                 "off": "off: realism does nothing"}  # fmt: skip
SAMPLER_LABELS = {"ddim": "DDIM, all the steps", "live": "live: four steps or fewer"}
FOLLOWING = re.compile(r'"turn":(\d{1,9}),"following":true}$')
AXES = {"sketch_scale": "lines", "stroke_scale": "colours", "realism": "realism"}


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
            c["model"] = gr.Dropdown(list(CATALOGUE_NAMES), value=default(R, "model"), label="Network",
                                     info="it must see drawings: flora does", allow_custom_value=True)  # fmt: skip
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
    make.click(fresh(worker, names), [session, *widgets], out, **QUIET)
    stop.click(None, js=told_canvas % "chrysalis-still", **QUIET)
    stop.click(Easel.stop, session, queue=False, **QUIET)
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
    right.load.upload(loaded("draw", plain), right.load, [*(c[n] for n in plain), right.status], **QUIET)
    about = (
        "A picture from lines (``sketch``: dark on white, or with alpha) and colours (``strokes``: what is transparent "
        "stays free), over a ``photo`` if there is one. Ends with PNG files and the settings. Fields as in "
        "``python -m engine draw --help``."
    )
    api(worker, "draw", about, R, called, ["sketch", "strokes", "photo", "mask"])
    return session


def request_of(drawing: Drawing, values: dict[str, Any]) -> R:
    """What is on the canvas and the values of the widgets → a request."""
    mask = drawing.mask.getchannel("A") if drawing.mask else None
    return R(sketch=drawing.sketch, strokes=drawing.strokes, photo=drawing.photo, mask=mask,
             **settle(R, values, new_seed))  # fmt: skip


def called(values: dict[str, Any]) -> R:
    """The same from the API's files."""
    kinds = {"sketch": "sketch", "strokes": "strokes", "mask": "mask", "photo": "photo"}
    return R(**layers_of(values, kinds), **settle(R, values, new_seed))


def flat(drawing: Drawing) -> Image.Image:
    """The drawing as one sees it: what results are compared with."""
    ground = drawing.photo.resize(drawing.size) if drawing.photo else Image.new("RGB", drawing.size, "white")
    ground = ground.convert("RGBA")
    for layer in (drawing.strokes, drawing.sketch):
        if layer:
            ground.alpha_composite(layer)
    return ground.convert("RGB")


def named(request: R) -> dict[int, tuple[float, str]]:
    """What each result is called: its place in the sheet, or its number."""
    plan = request.plan()
    texts = [" · ".join(f"{AXES[k]} {v:g}" for k, v in p.items() if k in AXES) for p in plan]
    return {i: (i, t or (f"seed {plan[i]['seed']}" if len(plan) > 1 else "")) for i, t in enumerate(texts)}


def told(done: Done) -> list[str]:
    """How closely the drawing was followed, in words."""
    q = done.quality
    parts = [f"lines {q['lines']:.0%}"] if "lines" in q else []
    parts += [f"colours {q['colours'] / 255:.0%}"] if "colours" in q else []
    return [(" and ".join(parts) + " away from the drawing").capitalize()] if parts else []


def fresh(worker: Any, names: list[str], rested: bool = False) -> Callable[..., Iterator[list[Any]]]:
    """The handler of Make; ``rested``: of the hand's rest after live drawing, the live picture staying till then."""

    def run(session: Easel, *values: Any) -> Iterator[list[Any]]:
        turn = following_turn(values[names.index("canvas")])
        if rested:
            quiet = [gr.skip()] * UPDATES
            yield quiet
            while (
                turn and session.doing == "live"
            ):  # the few steps first: on a slow machine they are still on their way
                yield quiet
                sleep(0.1)
            if not turn or session.doing == "make" or session.turn > turn:
                yield quiet
                return
        if not rested:
            yield [gr.skip(), bar(0, "reading the drawing"), *[gr.skip()] * (UPDATES - 2)]
        try:
            given = dict(zip(names, values, strict=True))
            drawing = read(given.pop("canvas"))
            if given["sheet"] != "none" or rested:
                given["count"] = 1
            request = request_of(drawing, given | ({"sheet": "none"} if rested else {}))
        except Exception as e:
            yield [gr.skip()] * UPDATES if rested else refused(sentence(e))
            return
        if rested:
            session.rested = hash(values)
        yield from stream(worker, session, request, flat(drawing), named(request), {0} if rested else None, told,
                          doing="rest" if rested else "make")  # fmt: skip

    return run


def following_turn(value: str | None) -> int:
    """The number of the hand's last change if the canvas is to be followed, 0 if not."""
    found = FOLLOWING.search(value or "", max(0, len(value or "") - 80))
    return int(found[1]) if found else 0


def following(worker: Any, names: list[str]) -> Callable[..., Iterator[list[Any]]]:
    """The handler of live drawing: a picture in few steps; a newer change ends an older one.

    What was drawn in full already, and anything while Make is at work, is left aside.
    """

    def run(session: Easel, *values: Any) -> Iterator[list[Any]]:
        quiet = [gr.skip()] * UPDATES
        given = dict(zip(names, values, strict=True))
        turn = following_turn(given["canvas"])
        if not turn or session.doing == "make" or session.rested == hash(values):
            yield quiet
            return
        session.turn = turn
        few = DRAW_PRESETS["live"] | {"count": 1, "sheet": "none"}
        try:
            drawing = read(given.pop("canvas"))
            request = request_of(drawing, given | few)
        except Exception:  # nothing drawn yet, or a photograph still on its way: Make would say so
            yield quiet
            return
        show, hide = gr.update(visible=True), gr.update(visible=False)
        number, began = begin(session, request, {0}), monotonic()
        session.labels, session.offset, session.selected, session.newest = {}, 0, None, 0
        session.doing = "live"
        try:
            yield [gr.skip(), message("following your hand"), gr.skip(), hide, show, *[gr.skip()] * 4]
            if session.run == number:
                for event in events(worker, request, session):
                    if session.run != number:
                        break
                    if isinstance(event, Frame):
                        session.ratio = event.picture.width / event.picture.height
                        session.frames[0] = event
                        session.cells[0] = {"state": "done", "src": inline(event.picture)}
                    elif isinstance(event, Done):
                        session.done = event
                    else:
                        yield quiet  # a chance to notice a closed tab
            text = message(f"live · {monotonic() - began:.2f} s")
        except Cancelled:
            text = message("Stopped")
        except Exception as e:
            text = message(sentence(e), "problem")
        if session.run != number:
            yield quiet
            return
        session.doing = ""
        if session.done is None:
            session.back()
            yield [shown(session), text, gr.skip(), show, hide, *[gr.skip()] * 4]
            return
        session.before = inline(flat(drawing), 320, 75)
        finish(session)
        off = gr.update(value=None, interactive=False)  # the file comes with the full render
        usable = gr.update(interactive=True)
        yield [shown(session), text, gr.skip(), show, hide, off, gr.update(value=None, visible=False), usable, usable]

    return run


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
