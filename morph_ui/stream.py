"""The only file that knows both worlds: a `Job` of the engine becomes updates of the page.

An error becomes one calm sentence; leaving the generator (Stop, a closed tab) cancels the job at its next step.
"""

from __future__ import annotations

import base64
import html
import io
import logging
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any

from PIL.Image import Image

from engine.checkpoints.resolve import absent, chosen, fetching
from engine.requests import Cancelled, Done, EngineError, Event, Frame, Preview, Progress, Waiting

FILES = Path(tempfile.gettempdir()) / "chrysalis"  # one folder a visit, its name a secret


@dataclass
class Session:
    """What one visit has made: the last request, its frames so far, and a folder for its files."""

    request: Any = None
    frames: dict[int, Frame] = field(default_factory=dict)
    cells: dict[int, dict[str, str]] = field(default_factory=dict)
    done: Done | None = None
    ratio: float = 1.0  # width over height
    selected: int | None = None
    loaded: dict[str, Any] = field(default_factory=dict)  # settings read from a file
    folder: Path | None = None
    run: int = 0
    job: Any = None
    also: tuple[str, ...] = ()  # what the next run fetches besides, for those after it
    offset: int = 0  # what is added to the numbers of coming frames

    def path(self, name: str) -> Path:
        if self.folder is None:
            self.folder = FILES / secrets.token_urlsafe(16)
            self.folder.mkdir(parents=True, mode=0o700)
        return self.folder / name

    def stop(self) -> None:
        if self.job:
            self.job.cancel()

    def forget(self) -> None:
        """Stops the visit's job and deletes its files."""
        self.stop()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


def begin(session: Session, request: Any, keep: set[int] = frozenset()) -> int:
    """A new run, which ends the visit's last one: every cell waits, but those of ``keep`` stay. Returns its number."""
    session.stop()
    session.request, session.done, session.run = request, None, session.run + 1
    session.frames = {i: f for i, f in session.frames.items() if i in keep}
    session.cells = {i: c for i, c in session.cells.items() if i in keep}
    return session.run


def sweep(older: float = 86400) -> None:
    """Deletes what visits of an earlier start left behind."""
    for folder in FILES.glob("*"):
        if time() - folder.stat().st_mtime > older:
            shutil.rmtree(folder, ignore_errors=True)


def take(session: Session, event: Event) -> None:
    """Notes an event in the session."""
    if isinstance(event, Preview | Frame):
        session.ratio, i = event.picture.width / event.picture.height, event.index + session.offset
        if isinstance(event, Preview):
            session.cells[i] = {"state": "forming", "src": inline(event.picture, 288, 70)}
        else:
            path = session.path(f"{session.run}-{i:04d}.jpg")
            event.picture.save(path, "JPEG", quality=92)
            session.frames[i] = event
            session.cells[i] = {"state": "done", "src": f"gradio_api/file={path}"}
    elif isinstance(event, Done):
        session.done = event


def inline(picture: Image, longer: int = 768, quality: int = 88) -> str:
    """A picture as a JPEG data URL, at most ``longer`` pixels a side."""
    block, small = io.BytesIO(), picture.convert("RGB")
    small.thumbnail((longer, longer))
    small.save(block, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(block.getvalue()).decode()


def strip(session: Session) -> dict[str, Any]:
    """The player's value: every cell of the strip, in order, and which one is selected."""
    n = session.request.total if session.request else 9
    return {
        "run": session.run,
        "cells": [session.cells.get(i, {"state": "waiting", "src": ""}) for i in range(n)],
        "ratio": session.ratio,
        "loop": bool(getattr(session.request, "loop", False)),
        "done": session.done is not None,
    }


class Clock:
    """Turns progress into a line: what is being done, how far, how long still, or the place in the queue."""

    def __init__(self) -> None:
        self.started: tuple[float, float] | None = None  # when the first real progress came, and how far it was
        self.line = bar(0, "starting")

    def see(self, event: Event) -> None:
        if isinstance(event, Waiting) and event.place:
            jobs = "one job" if event.place == 1 else f"{event.place} jobs"
            self.line = bar(0, f"waiting: {jobs} before yours")
        elif isinstance(event, Progress):
            text = event.doing
            if self.started and event.fraction < self.started[1]:
                self.started = None  # another part of the work has begun
            if event.fraction > 0 and not text.endswith(" left"):
                begun, first = self.started = self.started or (monotonic(), event.fraction)
                took, share = monotonic() - begun, event.fraction - first
                if took > 1 and share > 0.02:
                    text += f" · {human(took * (1 - event.fraction) / share)} left"
            self.line = bar(event.fraction, text)


def meter(done: Done) -> list[str]:
    """What was measured, in words."""
    q, n = done.quality, len(done.frames)
    if not q or not q["length"] or not q["fade_length"]:
        return []
    steps = n if done.settings.get("loop") else n - 1
    uneven = q["variance"] ** 0.5 / (q["length"] / steps)
    text = f"The way is {q['length'] / q['fade_length']:.2f} times as long as a cross-fade's, its steps ± {uneven:.0%}"
    if not q["ends"]:
        return [text]
    # In steps of an even cross-fade, which says how far that is.
    return [text + f", and the pictures drawn again are {q['ends'] / (q['fade_length'] / steps):.1f} of its steps off"]


def human(seconds: float) -> str:
    if seconds < 1.5:
        return "about a second"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def bar(fraction: float, text: str) -> str:
    width = f"{100 * fraction:.1f}%"
    return (
        f'<div class="status" role="status"><div class="bar"><i style="width:{width}"></i></div>'
        f"<span>{html.escape(text)}</span></div>"
    )


def message(text: str, kind: str = "note") -> str:
    return f'<div class="status {kind}" role="status"><span>{html.escape(text)}</span></div>'


def sentence(error: BaseException) -> str:
    """The calm line for whatever went wrong; a bug is logged and not shown."""
    if isinstance(error, EngineError):
        text = str(error)
        return text[0].upper() + text[1:] + "."
    if isinstance(error, OSError):
        return f"The result could not be written: {error.strerror or error}. Nothing else is lost."
    logging.getLogger(__name__).error("unexpected", exc_info=error)
    return "Something went wrong in the studio itself; your pictures and settings are kept. The log has the details."


def follow(worker: Any, session: Session, request: Any, number: int, clock: Clock) -> Iterator[bool]:
    """Runs what `begin` gave ``number`` and notes what comes: True when cells have changed, False when the line has.

    Every heartbeat is one, a chance to notice a closed tab. Ends silently when the visit has begun another run.
    """
    shown, drawn = 0.0, 0.0
    late: dict[int, Preview] = {}  # previews that came too soon after the last ones
    if session.run != number:
        return
    for event in events(worker, request, session):
        if session.run != number:
            return
        clock.see(event)
        if isinstance(event, Preview):
            late[event.index] = event
        else:
            take(session, event)
        if isinstance(event, Frame):
            late.pop(event.index, None)
        if isinstance(event, Frame) or (late and monotonic() - drawn > 0.15):
            for preview in late.values():
                take(session, preview)
            late.clear()
            drawn = monotonic()
            yield True
        elif isinstance(event, Progress):
            if monotonic() - shown > 0.15:
                shown = monotonic()
                yield False
        elif not isinstance(event, Done | Preview):
            yield True


class Fetch:
    """A download as a visit's job: it may be cancelled."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def missing_for(request: Any, also: tuple[str, ...] = ()) -> list:
    """What a request needs from the hub (and what is wanted ``also``) that is not on this machine yet."""
    if not hasattr(request, "model"):
        return []
    return absent(chosen(request.model).needs((*getattr(request, "wants", ()), *also)))


def fetched(request: Any, session: Session) -> Iterator[Event]:
    """Brings what a request needs and is not on this machine; `Cancelled` after Stop. What came is kept."""
    missing = missing_for(request, session.also)
    if not missing:
        return
    job = session.job = Fetch()
    steps = fetching(missing)
    try:
        for step in steps:
            yield step
            if job.cancelled:
                raise Cancelled
    finally:
        job.cancelled = True  # nothing runs any more
        steps.close()


def events(worker: Any, request: Any, session: Session) -> Iterator[Event]:
    """Events of a submitted request. However this ends (Stop, a closed tab, an error), the job is cancelled.

    What it needs from the hub is fetched first, here: the device goes on with others' jobs meanwhile.
    """
    yield from fetched(request, session)
    job = session.job = worker.submit(request)
    try:
        yield from job
    finally:
        job.cancel()
