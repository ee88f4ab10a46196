"""The *Interpolate* tab: two pictures, and the way between them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from time import monotonic
from typing import Any

import gradio as gr

from engine import images, video
from engine.schema import (
    CATALOGUE_NAMES,
    FRAMES,
    MIXES,
    PICKERS,
    PRESETS,
    SAMPLERS,
    SCHEDULES,
    SCHEMES,
    Cancelled,
    Done,
    EngineError,
    Frame,
    InterpolateRequest,
    Progress,
)
from morph_ui.stream import Clock, Session, begin, events, human, message, sentence, strip, take
from morph_ui.widgets import default, drop_zone, new_seed, player, seed_box, slider, thumbnails

R = InterpolateRequest
SCHEME_LABELS = {
    "branch": "add noise, mix, denoise (the paper's own)",
    "did": "denoise, mix, denoise",
    "did-independent": "denoise, mix, denoise; noise not shared",
    "interpolate-denoise": "mix noisy, denoise",
    "interpolate": "mix only, no diffusion",
}
PICKER_LABELS = {"smoothest": "the smoothest way", "first": "none, the first", "clip": "CLIP, by words"}
SAMPLER_LABELS = {"ddim": "DDIM, all the steps", "live": "live: four steps or fewer, method “add noise” only"}


def controls() -> dict[str, gr.components.Component]:
    """The request's fields as widgets, in the page's order; keyed by field name."""
    c: dict[str, Any] = {}
    with gr.Row(equal_height=True, elem_id="pair"):
        c["a"] = drop_zone("From", "picture-a")
        swap = gr.Button("⇄", elem_id="swap", elem_classes="tool", size="sm", scale=0, min_width=44)
        c["b"] = drop_zone("To", "picture-b")
    swap.click(
        lambda a, b: (b, a), [c["a"], c["b"]], [c["a"], c["b"]], show_progress="hidden", api_visibility="private"
    )
    c["shelf"] = gr.Row(elem_id="shelf")
    c["prompt"] = gr.Textbox(
        "", label="In words", placeholder="what they show, e.g. a yellow tulip (may stay empty)", lines=1
    )
    with gr.Row(elem_id="act"):
        c["make"] = gr.Button("Make", variant="primary", elem_id="make", scale=3)
        c["stop"] = gr.Button("Stop", variant="stop", elem_id="stop", scale=3, visible=False)
        c["seed"], _ = seed_box()
    with gr.Group(elem_id="settings"):
        preset = gr.Radio(list(PRESETS), label="Preset", value="draft", elem_id="preset")
        with gr.Row():
            c["frames"] = gr.Dropdown(list(FRAMES), value=default(R, "frames"), label="Frames", min_width=110)
            c["steps"] = slider(R, "steps", "Steps", info="", min_width=150)
        with gr.Row():
            c["low"] = slider(R, "low", "Wander at least", info="below .25 is a cross-fade", min_width=150)
            c["high"] = slider(R, "high", "Wander at most", info="above .65 forgets the pictures", min_width=150)
        c["guidance"] = slider(R, "guidance", "Guidance", info="how strictly the words count; 1 is off")
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
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
        c["model"] = gr.Dropdown(list(CATALOGUE_NAMES), value=default(R, "model"), label="Network",
                                 info="flora is here; the others come from the hub on first use, or name a folder",
                                 allow_custom_value=True)  # fmt: skip
    names = sorted({name for values in PRESETS.values() for name in values})
    preset.input(
        lambda name: [PRESETS[name].get(n, default(R, n)) for n in names], preset, [c[n] for n in names],
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    with c["shelf"]:
        examples(c)
    return {f.name: c[f.name] for f in fields(R) if f.name in c} | {k: c[k] for k in ("make", "stop")}


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
        with gr.Column(scale=5, min_width=320, elem_id="side"):
            c = controls()
            make, stop = c.pop("make"), c.pop("stop")
        with gr.Column(scale=7, min_width=320, elem_id="main"):
            status = gr.HTML(message(""), elem_id="status", apply_default_css=False)
            screen = player()
            again = gr.Button("Make this frame again", size="sm", elem_id="again", visible=False)
            tried = gr.Gallery(label="Candidates: choose one for this frame", columns=8, height=130, visible=False,
                               elem_id="candidates", buttons=[], allow_preview=False)  # fmt: skip
            with gr.Row(elem_id="take"):
                film = gr.DownloadButton("MP4", interactive=False, elem_id="mp4", size="sm")
                pngs = gr.DownloadButton("PNGs", interactive=False, elem_id="zip", size="sm")
                back = gr.Checkbox(True, label="there and back", container=False, elem_id="back", min_width=120)
                load = gr.UploadButton("Load settings", file_types=[".png", ".mp4", ".zip"], size="sm", elem_id="load")
    out = [screen, status, c["seed"], make, stop, film, pngs, again, tried]
    names, widgets = list(c), list(c.values())
    quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
    make.click(fresh(worker, names), [session, back, *widgets], out, **quiet)
    again.click(remake(worker), [session, back], out, **quiet)
    tried.select(pick(worker), [session, back], out, **quiet)
    stop.click(Session.stop, session, queue=False, **quiet)  # the run itself then shows what is finished
    screen.choose(choose, session, [again, tried], queue=False, **quiet)
    back.input(refilm, [session, back], [film, pngs, status], **quiet)
    load.upload(loaded(names[2:]), [session, load], [*widgets[2:], status], **quiet)
    api(worker, c)
    return session


# ------------------------------------------------------------------------------------------------ handlers


def busy(session: Session, status: str, seed: Any = None) -> list[Any]:
    """One update for every output while a run goes on, in the order of ``out``."""
    off, seed = gr.update(visible=False), gr.skip() if seed is None else seed
    nothing = gr.update(value=None, interactive=False)
    return [json.dumps(strip(session)), status, seed, off, gr.update(visible=True), nothing, nothing, off, off]


def ended(session: Session, text: str, kind: str, back: bool) -> list[Any]:
    """The same when a run has ended, however it did: what is finished stays and can be taken away."""
    session.cells = {i: c for i, c in session.cells.items() if c["state"] == "done"}
    film, pngs, problem = files_of(session, back)
    if problem:
        text, kind = f"{text}. {problem}".lstrip(". "), "problem"
    on, off = gr.update(visible=True), gr.update(visible=False)
    return [json.dumps(strip(session)), message(text, kind), gr.skip(), on, off, film, pngs, off, off]


def stream(worker: Any, session: Session, request: R, keep: set[int], back: bool) -> Iterator[list[Any]]:
    """Runs a request and shows it. Every heartbeat is a chance to notice a closed tab."""
    before = (session.request, session.frames, session.cells, session.done) if keep else None
    number, clock, shown = begin(session, request, keep), Clock(), 0.0
    text, kind = "", "note"
    yield busy(session, clock.line, request.seed)
    try:
        for event in events(worker, request, session):
            if session.run != number:
                return  # this visit has begun another run, which shows itself
            clock.see(event)
            take(session, event)
            if isinstance(event, Progress):
                if monotonic() - shown > 0.15:
                    yield [gr.skip(), clock.line, *[gr.skip()] * 7]
                    shown = monotonic()
            elif not isinstance(event, Done):
                yield busy(session, clock.line)
        done = session.done
        assert done is not None
        size = done.frames[0].size
        took = human(done.seconds).removeprefix("about ")
        text = ". ".join([f"{len(done.frames)} frames of {size[0]} × {size[1]} in {took}", *done.notes])
    except Cancelled:
        kept = len(session.frames)
        text = f"Stopped. The {kept} finished frames are kept" if kept > 2 else "Stopped"
    except Exception as e:  # one sentence for the person, the details in the log
        text, kind = sentence(e), "problem"
    if session.run != number:
        return
    if session.done is None and before:  # making again was stopped: everything is as it was before
        session.request, session.frames, session.cells, session.done = before
        text = "Stopped. The frames are as they were" if kind == "note" else text
    yield ended(session, text, kind, back)


def fresh(worker: Any, names: list[str]) -> Callable[..., Iterator[list[Any]]]:
    """The handler of Make."""

    def run(session: Session, back: bool, *values: Any) -> Iterator[list[Any]]:
        try:
            request = as_loaded(request_of(dict(zip(names, values, strict=True))), session.loaded)
        except Exception as e:
            yield ended(session, sentence(e), "problem", back)
            return
        yield from stream(worker, session, request, set(), back)

    return run


def as_loaded(request: R, settings: dict[str, Any]) -> R:
    """The request with the picks and reseeds of loaded settings, if it is otherwise what they say."""
    chosen = {k: tuple(map(tuple, settings.get(k, ()))) for k in ("picks", "reseeds")}
    same = all(settings.get(k) == v for k, v in request.settings().items() if k not in chosen)
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


def files_of(session: Session, back: bool) -> tuple[Any, Any, str]:
    """Updates for the MP4 and the zip of what is finished, and a sentence if they could not be written."""
    order = sorted(session.frames)
    if len(order) < 2 or session.request is None:
        return gr.update(value=None, interactive=False), gr.update(value=None, interactive=False), ""
    try:
        film, pngs = write_files(session, order, back)
        return gr.update(value=film, interactive=True), gr.update(value=pngs, interactive=True), ""
    except Exception as e:
        return gr.update(value=None, interactive=False), gr.update(value=None, interactive=False), sentence(e)


def write_files(session: Session, order: list[int], back: bool) -> tuple[str, str]:
    frames = [session.frames[i].picture for i in order]
    settings = session.done.settings if session.done else session.request.settings()
    name = f"chrysalis-{session.request.seed}-{session.run}"
    film, pngs = session.path(f"{name}{'-back' if back else ''}.mp4"), session.path(f"{name}.zip")
    video.save_mp4(frames, film, settings, fps=8, there_and_back=back)
    video.save_zip(frames, pngs, settings)
    return str(film), str(pngs)


def refilm(session: Session, back: bool) -> list[Any]:
    film, pngs, problem = files_of(session, back)
    return [film, pngs, message(problem, "problem") if problem else gr.skip()]


def loaded(names: list[str]) -> Callable[[Session, str], list[Any]]:
    """Settings back from a file: every widget but the pictures."""

    def load(session: Session, path: str) -> list[Any]:
        keep = [gr.skip()] * len(names)
        try:
            settings = video.read_settings(path)
            if settings["method"] != "interpolate":
                raise EngineError(f"settings must be of interpolate, got {settings['method']}")
        except EngineError as e:
            return [*keep, message(sentence(e), "problem")]
        session.loaded = settings
        values = [settings.get(n, gr.skip()) for n in names]
        return [
            *values,
            message(f"Settings of {Path(path).name} are set. Drop the same two pictures to make it again."),
        ]

    return load


def api(worker: Any, c: dict[str, Any]) -> None:
    """`/interpolate` for gradio_client: the request's fields by name → (MP4, zip of PNGs, report)."""

    def call(*values: Any) -> Iterator[tuple[Any, Any, Any]]:
        """Morph picture ``a`` into picture ``b``. Streams progress in the report; ends with an MP4, a zip of PNGs and
        the settings that make it again. Fields as in ``python -m engine interpolate --help``."""
        session = Session()
        try:
            request = request_of(dict(zip(inputs, values, strict=True)))
            begin(session, request)
            for event in events(worker, request, session):
                if isinstance(event, Frame | Done):
                    take(session, event)
                if isinstance(event, Progress):
                    yield None, None, {"progress": round(event.fraction, 4), "doing": event.doing}
                elif not isinstance(event, Done):
                    yield gr.skip(), gr.skip(), gr.skip()
            done = session.done
            assert done is not None
            film, pngs = write_files(session, sorted(session.frames), False)
            yield film, pngs, done.settings | {"seconds": round(done.seconds, 2), "unet_evaluations": done.evaluations}
        except Exception as e:
            raise gr.Error(sentence(e), print_exception=False) from None
        finally:
            session.forget()  # Gradio has copied what it serves

    # Plain inputs of their own: the request's dataclass is the one judge, and its sentences name the field.
    inputs: dict[str, Any] = {"a": c["a"], "b": c["b"]}
    for f in fields(R):
        if f.name in c and f.name not in inputs:
            kind = gr.Textbox if isinstance(f.default, str) else gr.Number
            inputs[f.name] = kind(value=f.default, label=f.name, visible=False)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in inputs])  # the API's argument names
    outs = [gr.File(visible=False, label=n) for n in ("mp4", "zip")] + [gr.JSON(visible=False, label="report")]
    gr.Button(visible=False).click(
        call, list(inputs.values()), outs, api_name="interpolate", concurrency_limit=None, show_progress="hidden"
    )


def examples(c: dict[str, Any]) -> None:
    """Ready pairs to click, each with its words."""
    folder = Path(__file__).resolve().parents[1] / "assets" / "examples"
    pairs = json.loads((folder / "pairs.json").read_text())
    shelf = thumbnails([[folder / p["a"], folder / p["b"]] for p in pairs], "examples")

    def choose(event: gr.EventData) -> list[str]:
        p = pairs[int(event.index)]
        return [str(folder / p["a"]), str(folder / p["b"]), p["prompt"], p["prompt_b"]]

    fields_ = [c[k] for k in ("a", "b", "prompt", "prompt_b")]
    shelf.choose(choose, None, fields_, show_progress="hidden", api_visibility="private")
