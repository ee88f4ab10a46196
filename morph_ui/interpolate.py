"""The *Interpolate* tab: two pictures, and the way between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

from engine.requests import (
    FRAMES,
    MIXES,
    PICKERS,
    PRESETS,
    SAMPLERS,
    SCHEDULES,
    SCHEMES,
    EngineError,
    InterpolateRequest,
)
from engine.vision import images
from morph_ui import made, posing
from morph_ui.networks import after, network_box
from morph_ui.stage import QUIET, api, ended, loaded, refilm, refused, stage, stream
from morph_ui.stream import Session, sentence
from morph_ui.widgets import default, drop_zone, new_seed, presets, seed_box, slider, thumbnails

R = InterpolateRequest
TITLE = "Interpolate"
SCHEME_LABELS = {
    "branch": "add noise, mix, denoise (the paper's own)",
    "did": "denoise, mix, denoise",
    "did-independent": "denoise, mix, denoise; noise not shared",
    "interpolate-denoise": "mix noisy, denoise",
    "interpolate": "mix only, no diffusion",
}
PICKER_LABELS = {"smoothest": "the smoothest way", "first": "none, the first", "clip": "CLIP, by words",
                 "clip-small": "a smaller CLIP, by words"}  # fmt: skip
SAMPLER_LABELS = {"ddim": "DDIM, all the steps", "live": "live: four steps or fewer, method “add noise” only"}


def controls() -> dict[str, gr.components.Component]:
    """The request's fields as widgets, in the page's order; keyed by field name."""
    c: dict[str, Any] = {}
    with gr.Row(equal_height=True, elem_id="interpolate-pair", elem_classes="pair"):
        c["a"] = drop_zone("From", "interpolate-a")
        swap = gr.Button("⇄", elem_id="interpolate-swap", elem_classes="tool swap", size="sm", scale=0, min_width=44)
        c["b"] = drop_zone("To", "interpolate-b")
    swap.click(
        lambda a, b: (b, a), [c["a"], c["b"]], [c["a"], c["b"]], show_progress="hidden", api_visibility="private"
    )
    c["shelf"] = gr.Row(elem_id="interpolate-shelf", elem_classes="tryout")
    c["prompt"] = gr.Textbox(
        "", label="In words", placeholder="what they show, e.g. a yellow tulip (may stay empty)", lines=1
    )
    with gr.Row(elem_id="interpolate-act", elem_classes="act"):
        c["make"] = gr.Button("Make", variant="primary", elem_id="interpolate-make", scale=3)
        c["stop"] = gr.Button("Stop", variant="stop", elem_id="interpolate-stop", scale=3, visible=False)
        c["seed"], _ = seed_box("interpolate")
    with gr.Group(elem_id="interpolate-settings", elem_classes="settings"):
        preset = gr.Radio(list(PRESETS), label="Preset", value="draft", elem_id="interpolate-preset")
        with gr.Row():
            c["frames"] = gr.Dropdown(list(FRAMES), value=default(R, "frames"), label="Frames", min_width=110)
            c["steps"] = slider(R, "steps", "Steps", info="", min_width=150)
        with gr.Row():
            c["low"] = slider(R, "low", "Wander at least", info="below .25 is a cross-fade", min_width=150)
            c["high"] = slider(R, "high", "Wander at most", info="above .65 forgets the pictures", min_width=150)
        c["guidance"] = slider(R, "guidance", "Guidance", info="how strictly the words count; 1 is off")
    with gr.Accordion("Advanced", open=False, elem_id="interpolate-advanced", elem_classes="advanced"):
        c["prompt_b"] = gr.Textbox(
            "", label="Words for the second picture", placeholder="if it shows something else", lines=1
        )
        c["negative"] = gr.Textbox("", label="Not wanted", lines=1)
        with gr.Row():
            shapes = [("proportions of the first", "fit"), ("square, cropped", "crop"), ("square, whole", "pad")]
            c["fit"] = gr.Radio(shapes,
                                value=default(R, "fit"), label="Frame")  # fmt: skip
            c["size"] = slider(R, "size", "Longer side", info="pixels; 0 is the network's own")
        c["scheme"] = gr.Dropdown([(SCHEME_LABELS[s], s) for s in SCHEMES], value=default(R, "scheme"), label="Method")
        with gr.Row():
            c["schedule"] = gr.Dropdown(
                list(SCHEDULES), value=default(R, "schedule"), label="Noise over the levels", min_width=140
            )
            c["mix"] = gr.Dropdown(list(MIXES), value=default(R, "mix"), label="Mixing", min_width=140)
        with gr.Row():
            c["candidates"] = slider(R, "candidates", "Candidates", info="tried for each frame; pick one by hand below")
            c["picker"] = gr.Dropdown(
                [(PICKER_LABELS[p], p) for p in PICKERS], value=default(R, "picker"), label="Chosen by", min_width=140
            )
        with gr.Row():
            c["rank_for"] = gr.Textbox(
                "", label="CLIP looks for", placeholder="empty: the words above", lines=1, min_width=140
            )
            c["rank_against"] = gr.Textbox(
                "", label="and against", placeholder="empty: what is not wanted", lines=1, min_width=140
            )
        c["sampler"] = gr.Dropdown(
            [(SAMPLER_LABELS[s], s) for s in SAMPLERS], value=default(R, "sampler"), label="Sampler"
        )
        with gr.Row():
            c["eta"] = slider(R, "eta", "Fresh noise (η)", info="0 is DDIM")
            c["bias"] = slider(R, "bias", "Pull to the ends", info="nearer to the end pictures")
        with gr.Row():
            c["invert_steps"] = slider(R, "invert_steps", "Fit the words", info="steps of textual inversion; 0 is off")
            c["invert_rate"] = gr.Number(value=default(R, "invert_rate"), label="Its learning rate", min_width=140)
    c["model"] = network_box("interpolate", R, c["guidance"])
    c["poses"] = posing.controls(c)
    presets(preset, R, PRESETS, c)
    with c["shelf"]:
        c["examples"] = examples(c)
    return {f.name: c[f.name] for f in fields(R) if f.name in c} | {
        k: c[k] for k in ("make", "stop", "poses", "examples")
    }


def request_of(values: dict[str, Any]) -> InterpolateRequest:
    """Values of the widgets → a request. An empty seed becomes a new one; an empty number is refused by name."""
    values = dict(values)
    if values["seed"] is None:
        values["seed"] = new_seed()
    pictures = {}
    for name, label in (("a", "picture A (From)"), ("b", "picture B (To)")):
        path = values.pop(name)
        if path is None:
            raise EngineError(f"{label} must be a picture, got nothing; drop one there")
        pictures[name] = images.read(path, label)
    for name in ("frames", *R.WHOLE):
        if isinstance(values[name], float) and values[name].is_integer():
            values[name] = int(values[name])
    return R(**pictures, **values)


def build(worker: Any) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    session = gr.State(Session(), delete_callback=Session.forget)
    with gr.Row(elem_classes="studio"):
        with gr.Column(scale=5, min_width=320, elem_classes="left"):
            c = controls()
            make, stop, poses, ready = (c.pop(k) for k in ("make", "stop", "poses", "examples"))
        with gr.Column(scale=7, min_width=320, elem_classes="right"):
            right = stage("interpolate")
    out = right.outputs(c["seed"], make, stop)
    names, widgets, back = list(c), list(c.values()), right.back
    after(make.click(fresh(worker, names), [session, back, *widgets], out, **QUIET), c["model"])
    ready.choose(made.choose, [session, back], out, **QUIET)  # what was made of it earlier, at once
    right.again.click(remake(worker), [session, back], out, **QUIET)
    right.tried.select(pick(worker), [session, back], out, **QUIET)
    stop.click(Session.stop, session, queue=False, **QUIET)  # the run itself then shows what is finished
    right.screen.choose(choose, session, [right.again, right.tried], queue=False, **QUIET)
    back.input(refilm, [session, back], [right.film, right.pngs, right.status], **QUIET)
    right.load.upload(loaded("interpolate", names[2:], R), [session, right.load], [*widgets[2:], right.status], **QUIET)
    posing.wire(worker, c, poses, right.status)
    right.load.upload(
        lambda: None, None, poses["shown"], queue=False, **QUIET
    )  # loaded keypoints wait for their pictures
    about = (
        "Morph picture ``a`` into picture ``b``. Streams progress in the report; ends with an MP4, a zip of PNGs and "
        "the settings that make it again. Fields as in ``python -m engine interpolate --help``."
    )
    api(worker, "interpolate", about, R, request_of, {"a": c["a"], "b": c["b"]})
    return session


# ------------------------------------------------------------------------------------------------ handlers


def fresh(worker: Any, names: list[str]) -> Callable[..., Iterator[list[Any]]]:
    """The handler of Make."""

    def run(session: Session, back: bool, *values: Any) -> Iterator[list[Any]]:
        try:
            request = as_loaded(request_of(dict(zip(names, values, strict=True))), session.loaded)
        except Exception as e:
            yield refused(sentence(e))
            return
        yield from stream(worker, session, request, set(), back)

    return run


def as_loaded(request: R, settings: dict[str, Any]) -> R:
    """The request with the picks and reseeds of loaded settings, if it is otherwise what they say."""
    chosen = {k: tuple(map(tuple, settings.get(k, ()))) for k in ("picks", "reseeds")}
    before = {f.name: f.default for f in fields(R)} | settings  # an older file lacks what was added since
    same = all(before.get(k) == v for k, v in request.settings().items() if k not in chosen)
    return replace(request, **chosen) if settings and same else request


def descendants(frame: int, frames: int) -> set[int]:
    """The frame and all that are made from it: what changes when it is made again."""
    step = frame & -frame
    return {i for i in range(frame - step + 1, frame + step) if 0 < i < frames - 1}


def altered(worker: Any, session: Session, back: bool, alter: Callable[[R, int], R]) -> Iterator[list[Any]]:
    """Runs the last request again with its selected frame altered; all but its descendants stay."""
    i, r = session.selected, session.request
    if r is None or i is None or not 0 < i < r.frames - 1:
        yield ended(session, "Choose a frame between the ends first", "note", back)
        return
    keep = set(range(r.frames)) - descendants(i, r.frames)
    yield from stream(worker, session, alter(r, i), keep, back)


def with_pair(pairs: tuple[tuple[int, int], ...], frame: int, value: int | None) -> tuple[tuple[int, int], ...]:
    """(frame, number) pairs with the frame's set to ``value``, or taken out if that is None."""
    table = dict(pairs) | {frame: value}
    return tuple((k, v) for k, v in sorted(table.items()) if v is not None)


def remake(worker: Any) -> Callable[..., Iterator[list[Any]]]:
    def run(session: Session, back: bool) -> Iterator[list[Any]]:
        def alter(r: R, i: int) -> R:
            return replace(r, reseeds=with_pair(r.reseeds, i, new_seed()), picks=with_pair(r.picks, i, None))

        yield from altered(worker, session, back, alter)

    return run


def pick(worker: Any) -> Callable[..., Iterator[list[Any]]]:
    def run(session: Session, back: bool, event: gr.SelectData) -> Iterator[list[Any]]:
        chosen = int(event.index)
        yield from altered(worker, session, back, lambda r, i: replace(r, picks=with_pair(r.picks, i, chosen)))

    return run


def choose(session: Session, event: gr.EventData) -> list[Any]:
    """A cell of the strip was clicked: offer to make it again, and its candidates."""
    i = session.selected = int(event.index)
    frame, r = session.frames.get(i), session.request
    running = session.job is not None and not session.job.cancelled
    inner = frame is not None and r is not None and 0 < i < r.frames - 1 and r.scheme == "branch" and not running
    several = list(frame.candidates) if frame and inner else []
    gallery = gr.update(visible=bool(several), value=several or None, selected_index=frame.chosen if several else None)
    return [gr.update(visible=inner), gallery]


def examples(c: dict[str, Any]) -> gr.HTML:
    """Ready pairs to click, each with its words. Returns the shelf."""
    folder = Path(__file__).resolve().parents[1] / "assets" / "examples"
    pairs = json.loads((folder / "pairs.json").read_text())
    shelf = thumbnails([[folder / p["a"], folder / p["b"]] for p in pairs], "interpolate-examples")

    def choose(event: gr.EventData) -> list[str]:
        p = pairs[int(event.index)]
        return [str(folder / p["a"]), str(folder / p["b"]), p["prompt"], p["prompt_b"]]

    fields_ = [c[k] for k in ("a", "b", "prompt", "prompt_b")]
    shelf.choose(choose, None, fields_, show_progress="hidden", api_visibility="private")
    return shelf
