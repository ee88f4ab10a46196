"""The *Interpolate* tab: two pictures or more, and the way through them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from engine.requests import EngineError, InterpolateRequest, new_seed, pictures_of, settle
from engine.requests.interpolate import MOST_MORE
from engine.requests.settings import Settings
from engine.vision import images
from morph_ui.api import FILM, api, upload
from morph_ui.components.dropzone import dropzone
from morph_ui.components.pair import hands, paths, remember
from morph_ui.components.shelf import EXAMPLES, examples, shelf
from morph_ui.components.skeleton import poses_of, value_of
from morph_ui.components.timeline import keyframes, points, seeds, timed, timeline, timing
from morph_ui.form import Form
from morph_ui.panels import QUIET, Updates, show
from morph_ui.panels.film import Film
from morph_ui.panels.status import message
from morph_ui.session import Session
from morph_ui.tabs import Asked, columns, first, made, wire, wire_points
from morph_ui.tabs.arrows import arrows
from morph_ui.tabs.poses import Poses

R = InterpolateRequest
ABOUT = "Morph picture ``a`` into ``b``, and on to ``more``; ``prompts``: words for each, ``seeds``: one a way, a line "
ABOUT += "each; ``points``: JSON. Streams progress in the report; ends with an MP4, a zip of PNGs, the settings."
MORE = pictures_of(R)["more"]
Pairs = tuple[tuple[int, int], ...]


def build(worker: Any, settings: Settings) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    state = gr.State(Session(), delete_callback=Session.forget)
    left, right = columns(5, 7)
    with right:
        panel = Film("interpolate")
    with left:
        (a, b), pairs = pair(), examples("pairs")
        line = timeline("interpolate", MOST_MORE, after=True)
        with gr.Row(elem_id="interpolate-shelf", elem_classes="tryout"):
            ready = shelf("interpolate", [[p["a"], p["b"]] for p in pairs])
        form = Form(R, settings, seed=first.SEEDS["interpolate"])
        form.inputs |= {"a": a, "b": b, "more": line}
        first.place(form)
        with form.places["poses"]:
            poses = Poses(form, panel.status)

    def take(event: gr.EventData) -> Updates:
        p = pairs[int(event.index)]
        words = {form.widgets[n]: p[n] for n in ("prompt", "prompt_b")}
        return {a: str(EXAMPLES / p["a"]), b: str(EXAMPLES / p["b"])} | words

    ready.choose(take, None, [a, b, form.widgets["prompt"], form.widgets["prompt_b"]], **QUIET)
    wire(worker, state, form, panel, partial(ask, form), lambda settings: restore(settings, poses, line))
    first.wire(form, state, panel)
    ready.choose(made.show(panel), state, panel.components, **QUIET)  # what was made of it earlier, at once
    wire_points(form, line)
    panel.finish.time(line, state, panel)
    arrows(worker, form, line, sides)
    line.again(again(worker, panel, line), state, [*panel.components, line], **QUIET)
    panel.again.click(alter(worker, panel, remake), state, panel.components, **QUIET)
    panel.tried.choose(alter(worker, panel, pick), state, panel.components, **QUIET)
    poses.wire(worker)
    last: dict[str, Any] = {n: gr.Textbox("", visible=False, label=n) for n in ("prompts", "seeds", "points")}
    api(worker, R, ABOUT, FILM, lambda _, values: call(values), {"more": upload("more", MORE)} | last)
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
    each = QUIET | {"trigger_mode": "multiple"}  # one picture may come while the other is on its way
    held.put(lambda value: {zones[s]: path for s, path in paths(value).items()} or gr.skip(), held, [a, b], **each)
    gr.on([a.change, b.change], None, [a, b], None, js=remember("interpolate"), **QUIET)
    return a, b


def restore(settings: dict[str, Any], poses: Poses, line: gr.HTML) -> tuple[str, Updates]:
    """What is said of settings from a file. Their keypoints, words, points and seeds wait for their pictures."""
    texts = [settings.get(f"pose_{s}", "") for s in "ab"]
    own = {n: [*settings.get(n, ())] for n in ("prompts", "points", "seeds")}
    own["prompts"] += [""] * (MOST_MORE + 2 - len(own["prompts"]))
    ways = {"of": settings.get("seed"), "ways": own["seeds"]}
    value = json.dumps({"words": own["prompts"][2:], "points": own["points"], "seeds": ways} | timed(settings))
    said = f". Drop the same {settings.get('keyframes', 'two')} pictures to make it again."
    return said, {poses.shown: value_of([None, None], texts), line: value}


def ask(form: Form, session: Session, values: dict[str, Any]) -> Asked:
    """Values of the widgets → a request, with the picks and reseeds of loaded settings if it is what they say."""
    if values.pop("example", None) and not (values["a"] or values["b"]):
        values |= {side: str(EXAMPLES / made.pairs()[0][side]) for side in "ab"}
    for name, label in (("a", "picture A (From)"), ("b", "picture B (To)")):
        if values[name] is None:
            raise EngineError(f"{label} must be a picture, got nothing; drop one there")
        values[name] = images.read(values[name], label)
    line = values.pop("more", None)
    items = keyframes(line, 3)
    values["more"] = [images.read(k["path"], f"picture {i}") for i, k in enumerate(items, 3)]
    values["prompts"] = ["", "", *(k["words"] for k in items)] if any(k["words"] for k in items) else ()
    if values.get("seed") in (None, "", -1):
        values["seed"] = new_seed()
    session.finish = replace(session.finish, **timing(line))
    values |= {"points": points(line), "seeds": seeds(line, values["seed"])}
    values["pose_a"], values["pose_b"] = poses_of(values.pop("skeletons"))
    return choose(form.read(values), session.loaded), {}


def call(values: dict[str, Any]) -> R:
    """A request of the API: paths of pictures and loose values."""
    more = values["more"] or []
    if len(more) > MOST_MORE:
        raise EngineError(f"more must be 0 to {MOST_MORE}, got {len(more)}")
    named = [("a", "picture A", values["a"]), ("b", "picture B", values["b"])]
    opened: dict[str, Any] = {n: images.read(path, label) for n, label, path in named if path}
    opened["more"] = [images.read(path, f"picture {i}") for i, path in enumerate(more, 3)]
    return R(**settle(R, {"a": None, "b": None} | values | opened))


def sides(values: dict[str, Any], way: int) -> dict[str, Any]:
    """The two pictures of a way, with its points and words."""
    items, first = keyframes(values["more"], 3), values["prompt"]
    paths = [values["a"], values["b"], *(k["path"] for k in items)]
    words = [first, values["prompt_b"] or first, *(k["words"] or first for k in items)]
    a, b = (images.read(path) for path in paths[way : way + 2])
    own = {"a": a, "b": b, "prompt": words[way], "prompt_b": words[way + 1]}
    return own | {"points": points(values["more"])[way : way + 1]}


def choose(request: R, loaded: dict[str, Any]) -> R:
    """The request with the picks and reseeds of loaded settings, if it is otherwise what they say."""
    chosen = {k: tuple(map(tuple, loaded.get(k, ()))) for k in ("picks", "reseeds")}
    own = {k: v for k, v in request.settings().items() if k not in chosen} | {"keyframes": len(request.pictures)}
    # An older file lacks what came since.
    before = {n: f.default for n, f in R.__dataclass_fields__.items()} | {"keyframes": 2} | loaded
    same = all(plain(before.get(k)) == plain(v) for k, v in own.items())
    return replace(request, **chosen) if loaded and same else request


def plain(value: Any) -> Any:
    """A value as files give it back: lists for tuples."""
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


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
        if r is None or i is None or not i % (r.frames - 1):
            yield {panel.status: message("Choose a frame between the pictures first")}
            return
        before = i - i % (r.frames - 1)
        keep = set(range(r.total)) - {before + k for k in descend(i - before, r.frames)}
        yield from show(worker, session, change(r, i, event), panel, keep=keep, selected=i)

    return run


def again(worker: Any, panel: Film, line: gr.HTML) -> Callable[..., Iterator[Updates]]:
    """The handler that runs the last request again with another seed of one way; the others stay."""

    def run(session: Session, event: gr.EventData) -> Iterator[Updates]:
        k, r = int(event.way), session.run.request
        if r is None or not 0 <= k < len(r.pictures) - 1:
            yield {panel.status: message("Make the film first, then one of its ways again")}
            return
        own = [r.seed_of(i) for i in range(len(r.pictures) - 1)]
        own[k], span = new_seed(), range(k * (r.frames - 1) + 1, (k + 1) * (r.frames - 1))
        chosen = {n: tuple(p for p in getattr(r, n) if p[0] not in span) for n in ("picks", "reseeds")}
        yield {line: json.dumps({"seeds": {"of": r.seed, "ways": own}})}
        yield from show(
            worker, session, replace(r, seeds=tuple(own), **chosen), panel, keep={*range(r.total)} - {*span}
        )

    return run


def remake(r: R, i: int, event: gr.EventData) -> R:
    """*Make this frame again*."""
    return replace(r, reseeds=put(r.reseeds, i, new_seed()), picks=put(r.picks, i, None))


def pick(r: R, i: int, event: gr.EventData) -> R:
    """A click on one of the frame's candidates."""
    return replace(r, picks=put(r.picks, i, int(event.index)))
