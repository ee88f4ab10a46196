"""The *Edit* tab: a painting made real, or a painted-over photograph made whole again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

import gradio as gr

from engine.requests import EDIT_PRESETS, NOISES, USEFUL, Done, EditRequest, EngineError
from morph_ui.board import api, board, layers_of, loaded, passed_on, settle
from morph_ui.components.canvas import Drawing, canvas, read
from morph_ui.easel import UPDATES, Easel, choose, refused, stream
from morph_ui.live import flat
from morph_ui.networks import after, network_box
from morph_ui.stage import QUIET
from morph_ui.stream import bar, sentence
from morph_ui.widgets import default, presets, seed_box, slider

R = EditRequest
TITLE = "Edit"
NOISE_LABELS = {"fresh": "fresh at every step", "frozen": "one for all steps (the published code)"}
FINEST = 0.02  # strengths closer than this look alike
WHERE = [("where it is painted, and around", "paint"), ("everywhere", "all")]


def controls(beside: Any = None) -> dict[str, Any]:
    """The request's fields as widgets, keyed by field name; those that are seldom touched go ``beside``."""
    c: dict[str, Any] = {}
    hint = "what it shows, e.g. red tulips (may stay empty)"
    c["prompt"] = gr.Textbox("", label="In words", placeholder=hint, lines=1, elem_id="edit-prompt")
    with gr.Row(elem_id="edit-act", elem_classes="act"):
        c["make"] = gr.Button("Make", variant="primary", elem_id="edit-make", scale=3)
        c["stop"] = gr.Button("Stop", variant="stop", elem_id="edit-stop", scale=3, visible=False)
        c["seed"], _ = seed_box("edit")
    with gr.Group(elem_classes="settings"):
        c["strength"] = slider(R, "strength", "Strength", info="0 gives your picture back, 1 forgets it")
        low, high = USEFUL
        useful = f"<i></i><span>most useful: {low:g} to {high:g}</span>"
        gr.HTML(f'<div class="useful" style="--low:{low};--high:{high}">{useful}</div>', apply_default_css=False)
    with gr.Row(elem_classes="settings halves"):
        c["faithful"] = gr.Button("More faithful", elem_id="edit-faithful", size="md")
        c["realistic"] = gr.Button("More realistic", elem_id="edit-realistic", size="md")
    with beside or nullcontext():
        with gr.Group(elem_id="edit-settings", elem_classes="settings"):
            c["where"] = gr.Radio(WHERE, value="paint", label="A photograph may change", elem_id="edit-where",
                                  info="unless a mask is painted, which says where")  # fmt: skip
            with gr.Row():
                c["count"] = slider(R, "count", "Results", info="with this seed, the next, and so on", min_width=150)
                c["repeats"] = slider(R, "repeats", "Rounds", info="the result goes round again (K)", min_width=150)
            c["preset"] = gr.Radio(list(EDIT_PRESETS), label="Preset", value="standard", elem_id="edit-preset")
        with gr.Accordion("Advanced", open=False, elem_id="edit-advanced", elem_classes="advanced"):
            c["negative"] = gr.Textbox("", label="Not wanted", lines=1)
            with gr.Row():
                c["steps"] = slider(R, "steps", "Steps", info="of the whole schedule", min_width=150)
                c["guidance"] = slider(R, "guidance", "Guidance", info="how strictly the words count; 1 is off",
                                       min_width=150)  # fmt: skip
            with gr.Row():
                c["around"] = slider(R, "around", "Around the paint", info="pixels that may change", min_width=150)
                c["feather"] = slider(R, "feather", "Soft edge", info="pixels, inside that part", min_width=150)
            with gr.Row():
                c["eta"] = slider(R, "eta", "Fresh noise (η)", info="0 deterministic, 1 ancestral", min_width=150)
                c["noise"] = gr.Dropdown([(NOISE_LABELS[n], n) for n in NOISES], value=default(R, "noise"),
                                         label="Noise of the kept part", min_width=150)  # fmt: skip
            c["size"] = slider(R, "size", "Longer side", info="pixels; 0 is the network's own")
        c["model"] = network_box("edit", R, c["guidance"])
    presets(c["preset"], R, EDIT_PRESETS, c)
    own = ("where", "make", "stop", "preset", "faithful", "realistic")
    return {f.name: c[f.name] for f in fields(R) if f.name in c} | {k: c[k] for k in own}


def build(worker: Any) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    session = gr.State(Easel(), delete_callback=Easel.forget)
    with gr.Row(elem_classes="studio"):
        with gr.Column(scale=6, min_width=320, elem_classes="left"):
            pad = canvas("edit", ("strokes", "mask"))
            beside = gr.Column(elem_classes="beside")
        with gr.Column(scale=6, min_width=320, elem_classes="right"):
            right = board("edit", "Paint a picture, or drop a photograph and paint over it. Press Make.", "Draw")
            c = controls(beside)
    make, stop, _, faithful, realistic = (c.pop(k) for k in ("make", "stop", "preset", "faithful", "realistic"))
    c["canvas"] = pad
    out = right.outputs(c["seed"], make, stop)
    names, widgets = list(c), list(c.values())
    after(make.click(fresh(worker, names), [session, *widgets], out, **QUIET), c["model"])
    stop.click(Easel.halt, session, queue=False, **QUIET)
    for button, up in ((faithful, False), (realistic, True)):
        button.click(bisected(worker, names, up), [session, *widgets], [c["strength"], *out], **QUIET)
    right.screen.choose(choose, session, right.png, queue=False, **QUIET)
    right.under.click(lambda s: passed_on(s, "edit"), session, right.feed, queue=False, **QUIET)
    right.onward.click(lambda s: passed_on(s, "draw"), session, right.feed, queue=False, **QUIET)
    plain = [n for n in names if n not in ("canvas", "where")]
    right.load.upload(loaded("edit", plain, R), right.load, [*(c[n] for n in plain), right.status], **QUIET)
    about = (
        "Make a ``guide`` real: a painting, an edited photograph, or paint with alpha over a ``photo``. White (or "
        "alpha) in ``mask`` is where it may change. Ends with PNG files and the settings. Fields as in "
        "``python -m engine edit --help``."
    )
    api(worker, "edit", about, R, called, ["guide", "photo", "mask"])
    return session


def request_of(drawing: Drawing, values: dict[str, Any]) -> R:
    """What is on the canvas and the values of the widgets → a request.

    A mask says where a picture may change; without one a painted-over photograph changes around its paint, or ("all",
    and where there is no photograph or no paint) the whole picture does.
    """
    values = settle(R, values)
    everywhere = values.pop("where") == "all"
    if drawing.photo is None and drawing.strokes is None:
        raise EngineError("canvas must hold a painting or a photograph, got " + ("only a mask" if drawing.mask else
                          "nothing") + "; paint, or drop a picture on it")  # fmt: skip
    if drawing.mask is not None:
        return R(guide=flat(drawing), photo=drawing.photo, mask=drawing.mask.getchannel("A"), **values)
    if drawing.photo and drawing.strokes and not everywhere:
        return R(guide=drawing.strokes, photo=drawing.photo, **values)
    return R(guide=flat(drawing), **values)


def called(values: dict[str, Any]) -> R:
    """The same from the API's files."""
    kinds = {"guide": "strokes", "mask": "mask", "photo": "photo"}
    return R(**layers_of(values, kinds), **settle(R, values))


def told(done: Done) -> list[str]:
    """How far the result is from the guide, in words."""
    w, h = done.frames[0].size
    return [f"{(done.quality['l2'] / (3 * w * h)) ** 0.5:.0%} away from what it was made from"]


def named(request: R, first: int = 0) -> dict[int, tuple[float, str]]:
    """What each result is called: its strength, which also orders the ladder, and its number if there are several."""
    several = request.count > 1
    return {first + i: (request.strength + 1e-6 * i, f"strength {request.strength:.3g}" + f" · {i + 1}" * several)
            for i in range(request.count)}  # fmt: skip


def basis(request: R) -> tuple[Any, ...]:
    """What a ladder belongs to: the pictures and all settings but the strength."""
    layers = [p and (p.mode, p.size, hash(p.tobytes())) for p in (request.guide, request.photo, request.mask)]
    return *layers, *sorted((k, v) for k, v in request.settings().items() if k not in ("strength", "count"))


def fresh(worker: Any, names: list[str]) -> Callable[..., Iterator[list[Any]]]:
    """The handler of Make: a ladder begins anew."""

    def run(session: Easel, *values: Any) -> Iterator[list[Any]]:
        yield [gr.skip(), bar(0, "reading the picture"), *[gr.skip()] * (UPDATES - 2)]
        try:
            given = dict(zip(names, values, strict=True))
            drawing = read(given.pop("canvas"))
            request = request_of(drawing, given)
        except Exception as e:
            yield refused(sentence(e))
            return
        yield from stream(worker, session, request, flat(drawing), named(request), None, told,
                          (basis(request), (0.0, 1.0)))  # fmt: skip

    return run


def halfway(bounds: tuple[float, float], strength: float, up: bool) -> tuple[tuple[float, float], float]:
    """One step of bisecting t0: the new bounds, and the strength between them (the paper's binary search, §4)."""
    low, high = (strength, bounds[1]) if up else (bounds[0], strength)
    if low >= high:  # a strength set by hand outside of the bounds
        low, high = (strength, 1.0) if up else (0.0, strength)
    return (low, high), round((low + high) / 2, 3)


def bisected(worker: Any, names: list[str], up: bool) -> Callable[..., Iterator[list[Any]]]:
    """The handler of *More realistic* and *More faithful*: halves what is left, and keeps what was tried."""

    def run(session: Easel, *values: Any) -> Iterator[list[Any]]:
        try:
            given = dict(zip(names, values, strict=True))
            drawing = read(given.pop("canvas"))
            request = replace(request_of(drawing, given), count=1)
        except Exception as e:
            yield [gr.skip(), *refused(sentence(e))]
            return
        own = basis(request)
        same = bool(session.frames) and session.basis == own
        bounds, strength = halfway(session.bounds if same else (0.0, 1.0), request.strength, up)
        if bounds[1] - bounds[0] < FINEST:
            text = f"strength must leave something to try, got {bounds[0]:.3g} to {bounds[1]:.3g}, which look alike"
            yield [gr.skip(), *refused(sentence(EngineError(text)))]
            return
        keep = set(session.frames) if same else set()
        request = replace(request, strength=strength)
        new = named(request, max(keep, default=-1) + 1)
        first, number = strength, 0  # once: what the person sets meanwhile is not to be undone
        for updates in stream(worker, session, request, flat(drawing), new, keep, told, (own, bounds)):
            number = number or session.run
            yield [first, *updates]
            first = gr.skip()
        if session.run == number and session.request is not request:  # stopped: the slider is where it was
            yield [values[names.index("strength")], *[gr.skip()] * UPDATES]

    return run
