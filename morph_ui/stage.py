"""What tabs of frames share: the player and its downloads, a run shown while it goes on, settings back, the API."""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from engine.requests import Cancelled, Done, EngineError, Frame, Progress
from engine.vision import video
from morph_ui.stream import Clock, Session, begin, events, follow, human, message, meter, sentence, strip, take
from morph_ui.widgets import player

QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}


@dataclass(frozen=True)
class Stage:
    """The right-hand side: status, player, strip, candidates of a frame, downloads."""

    status: gr.HTML
    screen: gr.HTML
    again: gr.Button
    tried: gr.Gallery
    film: gr.DownloadButton
    pngs: gr.DownloadButton
    back: gr.Checkbox
    load: gr.UploadButton
    files: gr.DownloadButton

    def outputs(self, seed: gr.Number, make: gr.Button, stop: gr.Button) -> list[Any]:
        """What `busy` and `ended` update, in their order."""
        return [self.screen, self.status, seed, make, stop, self.film, self.pngs, self.again, self.tried,
                self.files]  # fmt: skip


def stage(tab: str) -> Stage:
    """Builds it, inside the caller's column; ``tab`` begins the names of its elements."""
    status = gr.HTML(message(""), elem_id=f"{tab}-status", elem_classes="status-line", apply_default_css=False)
    screen = player(tab)
    again = gr.Button("Make this frame again", size="sm", elem_id=f"{tab}-again", visible=False)
    tried = gr.Gallery(label="Candidates: choose one for this frame", columns=8, height=130, visible=False,
                       elem_id=f"{tab}-candidates", buttons=[], allow_preview=False)  # fmt: skip
    with gr.Row(elem_classes="take"):
        film = gr.DownloadButton("MP4", interactive=False, elem_id=f"{tab}-mp4", size="sm")
        pngs = gr.DownloadButton("PNGs", interactive=False, elem_id=f"{tab}-zip", size="sm")
        files = gr.DownloadButton("LoRAs", visible=False, elem_id=f"{tab}-files", size="sm")
        back = gr.Checkbox(True, label="there and back", container=False, elem_id=f"{tab}-back", min_width=120,
                           elem_classes="back")  # fmt: skip
        load = gr.UploadButton("Load settings", file_types=[".png", ".mp4", ".zip"], size="sm", elem_id=f"{tab}-load")
    return Stage(status, screen, again, tried, film, pngs, back, load, files)


def busy(session: Session, status: str, seed: Any = None) -> list[Any]:
    """One update for every output while a run goes on, in the order of ``out``."""
    off, seed = gr.update(visible=False), gr.skip() if seed is None else seed
    nothing = gr.update(value=None, interactive=False)
    return [json.dumps(strip(session)), status, seed, off, gr.update(visible=True), nothing, nothing, off, off, off]


def refused(text: str) -> list[Any]:
    """The same when a request was refused before it began: one sentence, and everything stays."""
    on, off = gr.update(visible=True), gr.update(visible=False)
    return [gr.skip(), message(text, "problem"), gr.skip(), on, off, *[gr.skip()] * 5]


def ended(session: Session, text: str, kind: str, back: bool) -> list[Any]:
    """The same when a run has ended, however it did: what is finished stays and can be taken away."""
    session.cells = {i: c for i, c in session.cells.items() if c["state"] == "done"}
    film, pngs, problem = files_of(session, back)
    if problem:
        text, kind = f"{text}. {problem}".lstrip(". "), "problem"
    on, off = gr.update(visible=True), gr.update(visible=False)
    return [
        json.dumps(strip(session)),
        message(text, kind),
        gr.skip(),
        on,
        off,
        film,
        pngs,
        off,
        off,
        extra_of(session),
    ]


def stream(worker: Any, session: Session, request: Any, keep: set[int], back: bool) -> Iterator[list[Any]]:
    """Runs a request and shows it. Every heartbeat is a chance to notice a closed tab."""
    before = (session.request, session.frames, session.cells, session.done)
    number, clock = begin(session, request, keep), Clock()
    text, kind = "", "note"
    yield busy(session, clock.line, request.seed)
    try:
        for changed in follow(worker, session, request, number, clock):
            yield busy(session, clock.line) if changed else [gr.skip(), clock.line, *[gr.skip()] * 8]
        if session.run != number:  # this visit has begun another run, which shows itself
            yield [gr.skip()] * 10  # Gradio sends what came last once more when a handler ends
            return
        done = session.done
        assert done is not None
        size = done.frames[0].size
        took = human(done.seconds).removeprefix("about ")
        text = f"{len(done.frames)} frames of {size[0]} × {size[1]} in {took}"
        text = ". ".join([text, *meter(done), *done.notes])
    except Cancelled:
        kept = len(session.frames)
        text = f"Stopped. The {kept} finished frames are kept" if kept > 2 else "Stopped"
    except Exception as e:  # one sentence for the person, the details in the log
        text, kind = sentence(e), "problem"
    if session.run != number:
        yield [gr.skip()] * 10
        return
    if session.done is None and (keep or not session.frames):  # nothing came of it: everything is as it was before
        session.request, session.frames, session.cells, session.done = before
        text = "Stopped. The frames are as they were" if kind == "note" and session.frames else text
    yield ended(session, text, kind, back)


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


def extra_of(session: Session) -> Any:
    """The download of what else was made: LoRAs, in a zip."""
    files = session.done.files if session.done else {}
    if not files:
        return gr.update(visible=False, value=None)
    try:
        return gr.update(visible=True, value=write_extra(session))
    except OSError:  # the film's own sentence has said that the disk is full
        return gr.update(visible=False, value=None)


def write_extra(session: Session) -> str:
    assert session.done is not None
    path = session.path(f"chrysalis-{session.request.seed}-{session.run}-loras.zip")
    with zipfile.ZipFile(path, "w") as z:
        for name, block in session.done.files.items():
            z.writestr(name, block)
    return str(path)


def write_files(session: Session, order: list[int], back: bool) -> tuple[str, str]:
    frames = [session.frames[i].picture for i in order]
    settings = session.done.settings if session.done else session.request.settings()
    name = f"chrysalis-{session.request.seed}-{session.run}"
    film, pngs = session.path(f"{name}{'-back' if back else ''}.mp4"), session.path(f"{name}.zip")
    video.save_mp4(
        frames, film, settings, fps=8, there_and_back=back and not settings.get("loop")
    )  # a loop closes itself
    video.save_zip(frames, pngs, settings)
    return str(film), str(pngs)


def refilm(session: Session, back: bool) -> list[Any]:
    film, pngs, problem = files_of(session, back)
    return [film, pngs, message(problem, "problem") if problem else gr.skip()]


def defaults(request: type) -> dict[str, Any]:
    """The plain fields of a request as they are where nobody sets them."""
    return {f.name: f.default for f in fields(request) if isinstance(f.default, str | int | float)}


def read_for(method: str, path: str) -> dict[str, Any]:
    """The settings inside a file of ours. EngineError if there are none, or if they are of another method."""
    settings = video.read_settings(path)
    if settings["method"] != method:
        raise EngineError(f"settings must be of {method.title()}, got those of {str(settings['method']).title()}")
    return settings


def loaded(method: str, names: list[str], request: type) -> Callable[[Session, str], list[Any]]:
    """Settings back from a file: every widget but the pictures. What an older file lacks is as it was then."""
    known = defaults(request)

    def load(session: Session, path: str) -> list[Any]:
        keep = [gr.skip()] * len(names)
        try:
            settings = read_for(method, path)
        except EngineError as e:
            return [*keep, message(sentence(e), "problem")]
        session.loaded = settings
        values = [settings.get(n, known.get(n, gr.skip())) for n in names]
        return [
            *values,
            message(f"Settings of {Path(path).name} are set. Drop the same two pictures to make it again."),
        ]

    return load


def api(worker: Any, name: str, about: str, R: type, request_of: Callable, pictures: dict[str, Any]) -> None:
    """`/name` for gradio_client: the request's fields by name → (MP4, zip of PNGs, report), for *Morph* LoRAs too."""
    more = name == "morph"

    def call(*values: Any) -> Iterator[tuple[Any, ...]]:
        session = Session()
        try:
            request = request_of(dict(zip(inputs, values, strict=True)))
            begin(session, request)
            for event in events(worker, request, session):
                if isinstance(event, Frame | Done):
                    take(session, event)
                if isinstance(event, Progress):
                    yield None, None, {"progress": round(event.fraction, 4), "doing": event.doing}, *[None] * more
                elif not isinstance(event, Done):
                    yield (gr.skip(),) * (3 + more)
            done = session.done
            assert done is not None
            film, pngs = write_files(session, sorted(session.frames), False)
            report = done.settings | {"seconds": round(done.seconds, 2), "unet_evaluations": done.evaluations,
                                      "quality": done.quality, "notes": list(done.notes)}  # fmt: skip
            yield film, pngs, report, *[write_extra(session) if done.files else None] * more
        except Exception as e:
            raise gr.Error(sentence(e), print_exception=False) from None
        finally:
            session.forget()  # Gradio has copied what it serves

    # Plain inputs of their own: the request's dataclass is the one judge, and its sentences name the field.
    inputs = dict(pictures)
    kinds = {str: gr.Textbox, bool: gr.Checkbox}
    for f in fields(R):
        if f.name not in inputs and isinstance(f.default, str | int | float):
            inputs[f.name] = kinds.get(type(f.default), gr.Number)(value=f.default, label=f.name, visible=False)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__doc__ = about
    # The API's argument names. None lets a file be left out; other defaults are the components' own.
    needed = {"a", "b", "pictures"}
    call.__signature__ = inspect.Signature(
        [inspect.Parameter(n, kind, default=inspect.Parameter.empty if n in needed else None) for n in inputs]
    )
    outs = [gr.File(visible=False, label=n) for n in ("mp4", "zip")] + [gr.JSON(visible=False, label="report")]
    outs += [gr.File(visible=False, label="loras")] * more
    gr.Button(visible=False).click(
        call, list(inputs.values()), outs, api_name=name, concurrency_limit=None, show_progress="hidden"
    )
