"""What *Draw* and *Edit* share: results beside the canvas, a run shown while it goes on, downloads, the API."""

from __future__ import annotations

import base64
import inspect
import io
import json
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import gradio as gr
from PIL.Image import Image

from engine import images, video
from engine.schema import Cancelled, Done, EngineError, Frame, Progress
from morph_ui.stage import read_for
from morph_ui.stream import Clock, Session, begin, events, follow, human, inline, message, sentence, take
from morph_ui.widgets import feed, viewer

UPDATES = 9  # how many outputs a run updates


@dataclass
class Easel(Session):
    """A visit's pictures: what each is called and made with, what they were made from, how far a ladder has come."""

    labels: dict[int, tuple[float, str]] = field(default_factory=dict)  # by index: its place in the strip, its name
    made: dict[int, dict[str, Any]] = field(default_factory=dict)  # by index: the settings that make it again
    before: str = ""  # what the results were made from, as a URL
    doing: str = ""  # "make", "live" or "rest" while such a run goes on
    newest: int = 0
    bounds: tuple[float, float] = (0.0, 1.0)  # between which the strength is sought
    basis: Any = None  # the picture and settings that the ladder belongs to
    rested: int = 0  # which drawing and settings were last drawn in full while live
    turn: int = 0  # the hand's newest change that live drawing has taken up
    last: dict[str, Any] = field(default_factory=dict)  # all of the above when a run was last finished

    def keep(self) -> None:
        """Notes that what there is now is finished."""
        self.last = {n: copy(getattr(self, n)) for n in KEPT}

    def back(self) -> None:
        """What was finished last is there again."""
        for n, value in self.last.items():
            setattr(self, n, copy(value))


KEPT = ("request", "frames", "cells", "done", "labels", "made", "before", "newest", "bounds", "basis", "ratio")


@dataclass(frozen=True)
class Board:
    """The right-hand side: status, viewer, downloads, where results go on."""

    status: gr.HTML
    screen: gr.HTML
    png: gr.DownloadButton
    pngs: gr.DownloadButton
    load: gr.UploadButton
    under: gr.Button
    onward: gr.Button
    feed: gr.HTML

    def outputs(self, seed: gr.Number, make: gr.Button, stop: gr.Button) -> list[Any]:
        """What `busy` and `ended` update, in their order."""
        return [self.screen, self.status, seed, make, stop, self.png, self.pngs, self.under, self.onward]


def board(tab: str, invitation: str, onward: str) -> Board:
    """Builds it, inside the caller's column. ``onward`` names the tab that a result may go to."""
    status = gr.HTML(message(""), elem_id=f"{tab}-status", elem_classes="status-line", apply_default_css=False)
    screen = viewer(tab, invitation)
    with gr.Row(elem_classes="take"):
        png = gr.DownloadButton("PNG", interactive=False, elem_id=f"{tab}-png", size="sm")
        pngs = gr.DownloadButton("All PNGs", visible=False, elem_id=f"{tab}-zip", size="sm")
        under = gr.Button("Use as photograph", interactive=False, elem_id=f"{tab}-under", size="sm")
        send = gr.Button(f"Go on in {onward}", interactive=False, elem_id=f"{tab}-onward", size="sm")
        load = gr.UploadButton("Load settings", file_types=[".png", ".zip"], size="sm", elem_id=f"{tab}-load")
    return Board(status, screen, png, pngs, load, under, send, feed(tab))


def shown(session: Easel) -> str:
    """The viewer's value."""
    n = session.request.total if session.request else 0
    order = sorted({*range(n), *session.cells}, key=lambda i: session.labels.get(i, (i, ""))[0])
    waiting = {"state": "waiting", "src": ""}
    cells = [{"index": i, "label": session.labels.get(i, (i, ""))[1]} | session.cells.get(i, waiting) for i in order]
    return json.dumps({"run": session.run, "cells": cells, "ratio": session.ratio, "before": session.before,
                       "columns": getattr(session.request, "columns", 0), "working": bool(session.doing),
                       "newest": session.newest})  # fmt: skip


def busy(session: Easel, status: str, seed: Any = None) -> list[Any]:
    """One update for every output while a run goes on. What was there can still be taken."""
    hide, show = gr.update(visible=False), gr.update(visible=True)
    return [shown(session), status, gr.skip() if seed is None else seed, hide, show, *[gr.skip()] * 4]


def refused(text: str) -> list[Any]:
    """The same when a request was refused before it began: one sentence, and everything stays."""
    show, hide = gr.update(visible=True), gr.update(visible=False)
    return [gr.skip(), message(text, "problem"), gr.skip(), show, hide, *[gr.skip()] * 4]


def ended(session: Easel, text: str, kind: str = "note") -> list[Any]:
    """The same when a run has ended, however it did."""
    session.cells = {i: c for i, c in session.cells.items() if c["state"] == "done"}
    png, pngs, problem = files_of(session)
    if problem:
        text, kind = f"{text}. {problem}".lstrip(". "), "problem"
    usable = gr.update(interactive=bool(session.frames))
    return [shown(session), message(text, kind), gr.skip(), gr.update(visible=True), gr.update(visible=False),
            png, pngs, usable, usable]  # fmt: skip


def stream(
    worker: Any,
    session: Easel,
    request: Any,
    before: Image | None,
    labels: dict[int, tuple[float, str]],
    keep: set[int] | None,
    told: Callable[[Done], list[str]],
    ladder: tuple[Any, tuple[float, float]] = (None, (0.0, 1.0)),
    doing: str = "make",
) -> Iterator[list[Any]]:
    """Runs a request and shows it; frames of ``keep`` stay, and the new ones come after them.

    ``ladder``: basis and bounds, which count once the run is finished.
    """
    keep = keep or set()
    number, clock = begin(session, request, keep), Clock()
    session.labels = {i: v for i, v in session.labels.items() if i in keep} | labels
    session.before, session.newest = inline(before) if before else "", min(labels, default=0)
    session.offset, session.selected, session.doing = session.newest, None, doing
    text, kind = "", "note"
    yield busy(session, clock.line, request.seed)
    try:
        for changed in follow(worker, session, request, number, clock):
            yield busy(session, clock.line) if changed else [gr.skip(), clock.line, *[gr.skip()] * (UPDATES - 2)]
        done = session.done
        if session.run == number:
            assert done is not None
            size, n = done.frames[0].size, len(done.frames)
            took = human(done.seconds).removeprefix("about ")
            text = f"{'A picture' if n == 1 else f'{n} pictures'} of {size[0]} × {size[1]} in {took}"
            text = ". ".join([text, *told(done), *done.notes])
    except Cancelled:
        text = "Stopped"
    except Exception as e:
        text, kind = sentence(e), "problem"
    if session.run != number:  # this visit has begun another run, which shows itself
        yield [gr.skip()] * UPDATES  # Gradio sends what came last once more when a handler ends
        return
    session.doing = ""
    if session.done is None:
        session.back()
        text += ". The last result is kept" if kind == "note" and session.frames else ""
    else:
        finish(session, ladder)
    yield ended(session, text, kind)


def finish(session: Easel, ladder: tuple[Any, tuple[float, float]] = (None, (0.0, 1.0))) -> None:
    """Notes what a finished run has made, and with which settings."""
    assert session.done is not None
    plan = session.done.settings.get("plan") or [{}] * len(session.done.frames)
    session.made = {i: v for i, v in session.made.items() if i in session.frames}
    for i, own in enumerate(plan):  # of a sheet, the settings of that one picture
        one = {"sheet": "none", "count": 1} if "sheet" in session.done.settings else {"count": 1}
        whole = {k: v for k, v in session.done.settings.items() if k != "plan"}
        session.made[i + session.offset] = whole | one | own
    session.basis, session.bounds = ladder
    session.keep()


def files_of(session: Easel) -> tuple[Any, Any, str]:
    """Updates for the PNG of the chosen result and the zip of all, and a sentence if they could not be written."""
    off = gr.update(value=None, interactive=False), gr.update(value=None, visible=False)
    if not session.frames or session.request is None:
        return *off, ""
    try:
        png, pngs = write_files(session)
        return gr.update(value=png, interactive=True), gr.update(value=pngs, visible=bool(pngs)), ""
    except OSError as e:
        return *off, sentence(e)


def chosen(session: Easel) -> int:
    """The result that is shown large."""
    i = session.newest if session.selected is None else session.selected
    return i if i in session.frames else min(session.frames)


def write_png(session: Easel) -> str:
    """The chosen result, with the settings that make it again."""
    i = chosen(session)
    png = session.path(f"chrysalis-{session.made.get(i, {}).get('seed', 0)}-{session.run}-{i}.png")
    video.save_png(session.frames[i].picture, png, session.made.get(i, {}))
    return str(png)


def write_files(session: Easel) -> tuple[str, str | None]:
    if len(session.frames) < 2:
        return write_png(session), None
    pngs = session.path(f"chrysalis-{session.run}.zip")
    order = sorted(session.frames)
    video.save_pngs([(session.frames[k].picture, session.made.get(k, {})) for k in order], pngs)
    return write_png(session), str(pngs)


def choose(session: Easel, event: gr.EventData) -> Any:
    """A result was clicked: its PNG is the one to take."""
    session.selected = int(event.index)
    try:
        return gr.update(value=write_png(session), interactive=True) if session.frames else gr.skip()
    except OSError:
        return gr.update(value=None, interactive=False)


def passed_on(session: Easel, tab: str) -> Any:
    """The chosen result as the photograph of a tab's canvas."""
    if not session.frames:
        return gr.skip()
    block = io.BytesIO()
    session.frames[chosen(session)].picture.save(block, "PNG")
    return feed_value(tab, {"photo": inline_png(block.getvalue())})


def inline_png(block: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(block).decode()


_FED = iter(range(1, 2**62))


def feed_value(tab: str, layers: dict[str, str]) -> str:
    """What a `feed` puts on a canvas; numbered, or the same drawing twice would be no change."""
    return json.dumps({"n": next(_FED), "tab": tab, "layers": layers})


def settle(request: type, values: dict[str, Any], new_seed: Callable[[], int]) -> dict[str, Any]:
    """Values of widgets as the request wants them: an empty seed is a new one, 3.0 is 3."""
    values = dict(values)
    if values.get("seed") is None:
        values["seed"] = new_seed()
    for name in request.WHOLE:  # type: ignore[attr-defined]
        if isinstance(values.get(name), float) and values[name].is_integer():
            values[name] = int(values[name])
    return values


def loaded(method: str, names: list[str]) -> Callable[[str], list[Any]]:
    """Settings back from a file: every widget; the drawing has a file of its own."""

    def load(path: str) -> list[Any]:
        try:
            settings = read_for(method, path)
        except EngineError as e:
            return [*[gr.skip()] * len(names), message(sentence(e), "problem")]
        note = f"Settings of {Path(path).name} are set; open the same drawing on the canvas to make it again."
        return [*[settings.get(n, gr.skip()) for n in names], message(note)]

    return load


def api(worker: Any, name: str, about: str, R: type, request_of: Callable, pictures: list[str]) -> None:
    """`/name` for gradio_client: picture files and the request's fields by name → (PNG files, report)."""

    def call(*values: Any) -> Iterator[tuple[Any, Any]]:
        session = Easel()
        try:
            request = request_of(dict(zip(inputs, values, strict=True)))
            begin(session, request)
            for event in events(worker, request, session):
                if isinstance(event, Frame | Done):
                    take(session, event)
                if isinstance(event, Progress):
                    yield None, {"progress": round(event.fraction, 4), "doing": event.doing}
                elif not isinstance(event, Done):
                    yield gr.skip(), gr.skip()
            done = session.done
            assert done is not None
            paths = []
            for i, picture in enumerate(done.frames):
                paths.append(str(session.path(f"{name}-{i:02d}.png")))
                video.save_png(picture, paths[-1], done.settings | {"frame": i})
            yield paths, done.settings | {"seconds": round(done.seconds, 2), "unet_evaluations": done.evaluations,
                                          "quality": done.quality, "notes": list(done.notes)}  # fmt: skip
        except Exception as e:
            raise gr.Error(sentence(e), print_exception=False) from None
        finally:
            session.forget()  # Gradio has copied what it serves

    kinds = {str: gr.Textbox, bool: gr.Checkbox}
    inputs: dict[str, Any] = {n: gr.File(visible=False, label=n) for n in pictures}
    for f in fields(R):
        if f.name not in inputs and isinstance(f.default, str | int | float):
            inputs[f.name] = kinds.get(type(f.default), gr.Number)(value=f.default, label=f.name, visible=False)
    call.__doc__ = about
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature(
        [inspect.Parameter(n, kind, default=inspect.Parameter.empty if n == "guide" else None) for n in inputs]
    )
    outs = [gr.File(file_count="multiple", visible=False, label="pictures"), gr.JSON(visible=False, label="report")]
    gr.Button(visible=False).click(
        call, list(inputs.values()), outs, api_name=name, concurrency_limit=None, show_progress="hidden"
    )


def layers_of(values: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    """The API's files as layers: ``kinds`` says what each is (`engine.images.layer`; "photo" is read as one)."""
    out = {}
    for name, kind in kinds.items():
        path = values.pop(name, None)
        if path is not None:
            out[name] = images.read(path, name) if kind == "photo" else images.layer(path, name, kind)
    return out
