"""The *Interpolate* tab: two pictures, and the way between them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from engine.requests import EngineError, InterpolateRequest, new_seed
from engine.requests.settings import Settings
from engine.vision import images
from morph_ui.api import FILM, api, open_pictures
from morph_ui.components.dropzone import dropzone
from morph_ui.components.pair import hands, paths, remember
from morph_ui.components.shelf import EXAMPLES, examples, shelf
from morph_ui.components.skeleton import poses_of, value_of
from morph_ui.form import Form
from morph_ui.panels import QUIET, Updates, show
from morph_ui.panels.film import Film
from morph_ui.panels.status import message
from morph_ui.session import Session
from morph_ui.tabs import Asked, columns, made, wire
from morph_ui.tabs.poses import Poses

R = InterpolateRequest
ABOUT = "Morph picture ``a`` into ``b``. Streams progress in the report; ends with an MP4, a zip of PNGs, the settings."
Pairs = tuple[tuple[int, int], ...]


def build(worker: Any, settings: Settings) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    state = gr.State(Session(), delete_callback=Session.forget)
    left, right = columns(5, 7)
    with right:
        panel = Film("interpolate")
    with left:
        (a, b), pairs = pair(), examples("pairs")
        with gr.Row(elem_id="interpolate-shelf", elem_classes="tryout"):
            ready = shelf("interpolate", [[p["a"], p["b"]] for p in pairs])
        form = Form(R, settings)
        form.inputs |= {"a": a, "b": b}
        with form.places["poses"]:
            poses = Poses(form, panel.status)

    def take(event: gr.EventData) -> Updates:
        p = pairs[int(event.index)]
        words = {form.widgets[n]: p[n] for n in ("prompt", "prompt_b")}
        return {a: str(EXAMPLES / p["a"]), b: str(EXAMPLES / p["b"])} | words

    ready.choose(take, None, [a, b, form.widgets["prompt"], form.widgets["prompt_b"]], **QUIET)
    wire(worker, state, form, panel, partial(ask, form), lambda settings: restore(settings, poses))
    ready.choose(made.show(panel), state, panel.components, **QUIET)  # what was made of it earlier, at once
    panel.again.click(alter(worker, panel, remake), state, panel.components, **QUIET)
    panel.tried.select(alter(worker, panel, pick), state, panel.components, **QUIET)
    poses.wire(worker)
    api(worker, R, ABOUT, FILM, open_pictures)
    return state


def pair() -> tuple[gr.Image, gr.Image]:
    with gr.Row(equal_height=True, elem_id="interpolate-pair", elem_classes="pair"):
        a = dropzone("From", "interpolate-a")
        small = {"elem_classes": "tool swap", "size": "sm", "scale": 0, "min_width": 44}
        swap = gr.Button("⇄", elem_id="interpolate-swap", **small)
        b = dropzone("To", "interpolate-b")
    zones = {"a": a, "b": b}
    swap.click(lambda a, b: (b, a), [a, b], [a, b], **QUIET)
    held = hands("interpolate")
    held.put(lambda value: {zones[s]: path for s, path in paths(value).items()} or gr.skip(), held, [a, b], **QUIET)
    gr.on([a.change, b.change], None, [a, b], None, js=remember("interpolate"), **QUIET)
    return a, b


def restore(settings: dict[str, Any], poses: Poses) -> tuple[str, Updates]:
    """What is said of settings from a file. Their keypoints wait for their pictures."""
    texts = [settings.get(f"pose_{s}", "") for s in "ab"]
    return ". Drop the same two pictures to make it again.", {poses.shown: value_of([None, None], texts)}


def ask(form: Form, session: Session, values: dict[str, Any]) -> Asked:
    """Values of the widgets → a request, with the picks and reseeds of loaded settings if it is what they say."""
    for name, label in (("a", "picture A (From)"), ("b", "picture B (To)")):
        if values[name] is None:
            raise EngineError(f"{label} must be a picture, got nothing; drop one there")
        values[name] = images.read(values[name], label)
    values["pose_a"], values["pose_b"] = poses_of(values.pop("skeletons"))
    return choose(form.read(values), session.loaded), {}


def choose(request: R, loaded: dict[str, Any]) -> R:
    """The request with the picks and reseeds of loaded settings, if it is otherwise what they say."""
    chosen = {k: tuple(map(tuple, loaded.get(k, ()))) for k in ("picks", "reseeds")}
    own = {k: v for k, v in request.settings().items() if k not in chosen}
    before = {n: f.default for n, f in R.__dataclass_fields__.items()} | loaded  # an older file lacks what came since
    return replace(request, **chosen) if loaded and all(before.get(k) == v for k, v in own.items()) else request


def descend(frame: int, frames: int) -> set[int]:
    """The frame and all that are made from it: what changes when it is made again."""
    step = frame & -frame
    return {i for i in range(frame - step + 1, frame + step) if 0 < i < frames - 1}


def put(pairs: Pairs, frame: int, value: int | None) -> Pairs:
    """(frame, number) pairs with the frame's set to ``value``, or taken out if that is None."""
    table = dict(pairs) | {frame: value}
    return tuple((k, v) for k, v in sorted(table.items()) if v is not None)


def alter(worker: Any, panel: Film, change: Callable[[R, int, gr.EventData], R]) -> Callable[..., Iterator[Updates]]:
    """The handler that runs the last request again with its selected frame changed; all but its descendants stay."""

    def run(session: Session, event: gr.EventData) -> Iterator[Updates]:
        i, r = session.run.selected, session.run.request
        if r is None or i is None or not 0 < i < r.frames - 1:
            yield {panel.status: message("Choose a frame between the ends first")}
            return
        keep = set(range(r.frames)) - descend(i, r.frames)
        yield from show(worker, session, change(r, i, event), panel, keep=keep, selected=i)

    return run


def remake(r: R, i: int, event: gr.EventData) -> R:
    """*Make this frame again*."""
    return replace(r, reseeds=put(r.reseeds, i, new_seed()), picks=put(r.picks, i, None))


def pick(r: R, i: int, event: gr.EventData) -> R:
    """A click on one of the frame's candidates."""
    return replace(r, picks=put(r.picks, i, int(event.index)))
