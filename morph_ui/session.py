"""A visit on one tab: the run that is shown, what was finished before it, and a folder for its files.

Every run has a `Run` of its own. Only the newest is ever shown; it ends the one before, whatever that still does.
"""

from __future__ import annotations

import base64
import io
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from time import time
from typing import Any
from urllib.parse import quote

from PIL.Image import Image

from engine.requests import Cancelled, Done, Event, Frame, Preview
from engine.requests.files import own_folder
from engine.requests.finish import Finish
from engine.vision import video

Cell = dict[str, str]  # a picture of the strip: its "state" (waiting, forming, done) and "src"


def visits() -> Path:
    """One folder a visit lies there, its name a secret."""
    return own_folder() / "visits"


@dataclass
class Run:
    """A request on its way, and what there is to be seen of it: frames by their place, kept ones among them."""

    request: Any = None
    number: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(12))  # by which a browser knows that it has it
    kind: str = "make"  # or of live drawing, or "ready": made earlier
    keep: Collection[int] = ()  # places of frames that stay from the run before
    first: int = 0  # the place of the request's first frame
    frames: dict[int, Frame] = field(default_factory=dict)
    cells: dict[int, Cell] = field(default_factory=dict)
    labels: dict[int, tuple[float, str]] = field(default_factory=dict)  # the order in the strip, and a name
    made: dict[int, dict[str, Any]] = field(default_factory=dict)  # the settings that make that one again
    before: str = ""  # what the results were made from, as a URL
    example: bool = False  # made earlier and shown at the start: no work of the visitor's
    label: str = ""  # what is said of an example
    ladder: Any = None  # how far the search for a strength has come
    undo: dict[Any, Any] = field(default_factory=dict)  # widgets as they are to be if nothing comes of it
    ratio: float = 1.0  # width over height
    selected: int | None = None
    done: Done | None = None
    at: float = 0.0  # when it was, in seconds since 1970
    over: bool = False
    stopped: bool = False
    left: bool = False  # stopped because its page had gone
    job: Any = None

    def stop(self) -> None:
        """Ends it at the job's next step, or before it has asked for the device."""
        self.stopped = True
        if self.job:
            self.job.cancel()

    def events(self, worker: Any) -> Iterator[Event]:
        """The job's events; `Cancelled` after `stop`. However this ends (a closed tab, an error), so does the job."""
        if self.stopped:
            raise Cancelled
        self.job = worker.submit(self.request)
        try:
            for event in self.job:
                if self.stopped:
                    raise Cancelled
                yield event
        finally:
            self.job.cancel()

    def take(self, event: Event, source: Callable[[Run, int, Image], str]) -> None:
        """Notes an event; ``source`` puts a finished picture of a place where the browser finds it."""
        if isinstance(event, Preview | Frame):
            i, self.ratio = event.index + self.first, event.picture.width / event.picture.height
            if isinstance(event, Preview):
                self.cells[i] = {"state": "forming", "src": inline(event.picture, 288, 70)}
            else:
                self.frames[i] = event
                self.cells[i] = {"state": "done", "src": source(self, i, event.picture)}
        elif isinstance(event, Done):
            self.done, self.at = event, time()
            whole = {k: v for k, v in event.settings.items() if k != "plan"}
            for i, own in enumerate(event.settings.get("plan", ())):  # of a sheet, the settings of that one picture
                self.made[i + self.first] = whole | {k: v for k, v in ONE.items() if k in whole} | own


ONE = {"sheet": "none", "count": 1}


@dataclass
class Session:
    """What one visit has made on a tab."""

    run: Run = field(default_factory=lambda: Run(over=True))  # the newest
    kept: Run = field(default_factory=lambda: Run(over=True))  # the newest that has come to its end
    number: int = 0  # of runs
    halted: int = 0  # how often Stop was pressed
    finish: Finish = field(default_factory=lambda: Finish(there_and_back=True))  # how its films are to be
    between: dict[tuple[int, float], str] = field(default_factory=dict)  # (run, place) → a picture between frames
    loaded: dict[str, Any] = field(default_factory=dict)  # settings read from a file
    live: Any = None  # live drawing's own
    larger: Run | None = None  # the enlarging of what is shown, the newest
    folder: Path | None = None
    shown: dict[Any, Any] = field(default_factory=dict)  # what its page shows of its jobs, for one that comes after it
    going: list[Any] = field(default_factory=list)  # jobs on their way (`morph_ui.panels.lasting`)
    watchers: int = 0  # of them, pages that look on
    left: float = 0.0  # when the last one went
    owners: int = 1  # pages that have it, or had it until Gradio forgets them

    def begin(self, request: Any, keep: Collection[int] = (), **own: Any) -> Run:
        """A new run, which ends the one before: every cell waits, but ``keep`` of what was finished stays.

        ``own``: other values of `Run`; its ``labels`` are added to the kept ones.
        """
        self.stop()
        self.shown.clear()
        self.number, self.larger = self.number + 1, None
        old = {n: {i: v for i, v in getattr(self.kept, n).items() if i in keep} for n in KEPT}
        old["labels"] |= own.pop("labels", {})
        self.run = Run(request, self.number, keep=keep, ratio=self.kept.ratio, **old, **own)
        return self.run

    def end(self, run: Run, worth: bool = True) -> None:
        """A run has ended: what is finished stays. Without ``worth`` nothing came of it, and all is as before."""
        run.over = True
        run.cells = {i: c for i, c in run.cells.items() if c["state"] == "done"}
        if worth:
            self.kept = run
        self.run = self.kept

    def view(self) -> dict[str, Any]:
        """What the player and the viewer show: every cell of the newest run in its order, and which is meant."""
        run, n = self.run, self.run.request.total if self.run.request else 0
        order = sorted({*range(run.first, run.first + n), *run.cells}, key=lambda i: run.labels.get(i, (i, ""))[0])
        own = {i: {"index": i, "label": run.labels.get(i, (i, ""))[1], "state": "waiting", "src": ""} for i in order}
        values = {"run": self.number, "cells": [cell | run.cells.get(i, {}) for i, cell in own.items()]}
        values |= {"ratio": run.ratio, "before": run.before, "newest": run.first, "working": not run.over}
        values |= {"done": run.done is not None, "loop": bool(getattr(run.request, "loop", False))}
        values |= {"example": run.example, "label": run.label, "made": told(run, self.finish)}
        return values | {"columns": getattr(run.request, "columns", 0)}

    def halt(self) -> None:
        """Stop was pressed."""
        self.halted += 1
        self.stop()

    def stop(self) -> None:
        self.run.stop()
        if self.larger:
            self.larger.stop()

    def enlarge(self, request: Any) -> Run:
        """A run beside what is shown, which stays; it ends an earlier one of its kind."""
        if self.larger:
            self.larger.stop()
        self.larger = Run(request, self.larger.number + 1 if self.larger else 1)
        return self.larger

    @property
    def enlarging(self) -> bool:
        """Whether an enlargement goes on: neither a stroke nor another job ends it, but *Stop*, and another film."""
        return self.larger is not None and not self.larger.over

    def path(self, name: str) -> Path:
        if self.folder is None:
            self.folder = visits() / secrets.token_urlsafe(16)
            self.folder.mkdir(parents=True, mode=0o700)
        return self.folder / name

    def save(self, run: Run, i: int, picture: Image) -> str:
        """Writes a picture for the browser, under a name that says what it is; gives its address. Single pictures are
        written without loss, frames of a film as JPEG."""
        exact = hasattr(run.request, "plan")
        path = self.path(f"{run.number}") / f"{name_of(run, i)}.{'png' if exact else 'jpg'}"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        video.bare(picture).save(path, **({"compress_level": 4} if exact else {"quality": 92}))
        return address(path)

    def give_up(self) -> None:
        """Nobody has come back."""
        self.run.left = True
        self.stop()

    def forget(self) -> None:
        """Stops the visit's job and deletes its files, when the last page that had them is forgotten."""
        self.owners -= 1
        if self.owners > 0:
            return
        self.stop()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


KEPT = ("frames", "cells", "labels", "made")


def name_of(run: Run, i: int) -> str:
    """What a picture of a run is called in files: chrysalis-morph-seed7-frame4, counted from 1 as on the page."""
    request, several = run.request, run.request.total > 1 or run.first
    if not hasattr(request, "plan"):
        return f"chrysalis-{request.method}-seed{request.seed}-frame{i + 1}"
    own = request.plan()[i - run.first]
    return f"chrysalis-{request.method}-seed{own.get('seed', request.seed)}{f'-{i + 1}' * bool(several)}"


def told(run: Run, finish: Finish) -> dict[str, Any] | None:
    """What the browser keeps of a finished run: the settings that make it again, of single pictures each its own, and
    how long it took. None of few steps at a stroke, and of what was not made here."""
    if not (run.over and run.done) or run.kind in ("live", "ready") or run.example:
        return None
    each = {i: run.made[i] for i in sorted(run.made) if i >= run.first}
    settings = run.done.settings | ({} if each else {"film": finish.told})
    own = {"id": run.id, "method": run.request.method, "settings": settings, "each": each}
    return own | {"seconds": round(run.done.seconds, 2), "at": run.at}


def address(path: PurePath) -> str:
    """Where the browser finds a file that Gradio serves."""
    return f"gradio_api/file={quote(path.as_posix(), safe='/:')}"


def sweep(older: float = 86400) -> None:
    """Deletes what visits of an earlier start left behind."""
    for folder in visits().glob("*"):
        if time() - folder.stat().st_mtime > older:
            shutil.rmtree(folder, ignore_errors=True)


def data_url(picture: Image, kind: str, **how: Any) -> str:
    """A picture as a data URL: ``kind`` "PNG" or "JPEG"."""
    block = io.BytesIO()
    picture.save(block, kind, **how)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(block.getvalue()).decode()


def inline(picture: Image, longer: int = 768, quality: int = 88) -> str:
    """A picture as a JPEG data URL, at most ``longer`` pixels a side."""
    small = video.bare(picture.convert("RGB"))
    small.thumbnail((longer, longer))
    return data_url(small, "JPEG", quality=quality)
