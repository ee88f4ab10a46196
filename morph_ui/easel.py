"""What *Draw* and *Edit* share: results beside the canvas, a run shown while it goes on, downloads, the API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from PIL.Image import Image

from engine.requests import Cancelled, Done
from engine.vision import video
from morph_ui.stream import Clock, Session, begin, follow, human, inline, message, sentence

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
    halted: int = 0  # how often Stop was pressed
    turn: int = 0  # the hand's newest change that live drawing has taken up
    last: dict[str, Any] = field(default_factory=dict)  # all of the above when a run was last finished

    def keep(self) -> None:
        """Notes that what there is now is finished."""
        self.last = {n: copy(getattr(self, n)) for n in KEPT}

    def back(self) -> None:
        """What was finished last is there again; nothing, if nothing was."""
        for n in KEPT:
            setattr(self, n, copy(self.last[n]) if self.last else getattr(Easel(), n))
        self.selected = None

    def halt(self) -> None:
        """Stop was pressed: the run ends, and what waits to begin does not."""
        self.halted += 1
        self.stop()


KEPT = ("request", "frames", "cells", "done", "labels", "made", "before", "newest", "bounds", "basis", "ratio")


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
        session.rested = 0
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
    return i if i in session.frames else session.newest if session.newest in session.frames else min(session.frames)


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
