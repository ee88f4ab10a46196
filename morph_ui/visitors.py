"""Who visits, and what is kept of whoever has gone.

Of itself Gradio keeps ten thousand sessions, and copies of files that it has lost sight of: whoever comes here lets go
of what others have left.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import monotonic, time
from types import SimpleNamespace
from typing import Any, TypeVar

from gradio.context import LocalContext
from gradio.state_holder import SessionState

from engine.requests import EngineError
from engine.requests.files import UPLOADS, own_folder
from morph_ui.tries import network

MINUTE, DAY = 60.0, 86400.0
GONE = 600.0  # seconds without a word after which a program, which has no page to close, is not waited for
UNREAD = 16  # messages that wait for somebody who is slow
T = TypeVar("T")
_DONE = {"tidy": -DAY, "sweep": -DAY}  # when that was last done


class Unheard(EngineError):
    """Nobody listens."""

    def __init__(self) -> None:
        super().__init__(f"what is asked for must be listened to, got nobody for {MINUTE:.0f} s")


def visits() -> Path:
    """One folder a visit lies there, its name a secret."""
    return own_folder() / "visits"


class Visitor(str):
    """Whoever asks, by name, and the ``address`` from which he does."""

    address = ""


def visitor() -> Visitor:
    """Who asks, within a handler: a page or a program by the name that it has for Gradio, one without any by its
    address; "" elsewhere."""
    request = LocalContext.request.get(None)
    address = getattr(getattr(request, "client", None), "host", None) or ""
    found = Visitor(getattr(request, "session_hash", None) or address)
    found.address = network(address)
    return found


def heard(events: Iterator[T]) -> Iterator[T]:
    """The same, within a handler. `Unheard`, after they are closed, once nobody has read for a minute what is told:
    Gradio knows of a page or a program that goes away, but not of one that asks and never listens."""
    request, blocks = LocalContext.request.get(None), LocalContext.blocks.get(None)
    queue = blocks._queue.pending_messages_per_session if blocks else {}
    unread = queue.get(getattr(request, "session_hash", None))
    last, before = monotonic(), 0
    for event in events:
        size = unread.qsize() if unread else 0
        if size <= max(before, UNREAD):  # else every event made it longer
            last = monotonic()
        before = size
        if monotonic() - last > MINUTE:
            getattr(events, "close", lambda: None)()
            raise Unheard
        yield event


def come() -> None:
    """Within a handler: somebody has come. Once a minute, and once an hour, what others have left is let go."""
    if (blocks := LocalContext.blocks.get(None)) is None:
        return
    if monotonic() - _DONE["tidy"] > MINUTE:
        _DONE["tidy"] = monotonic()
        tidy(blocks)
    if monotonic() - _DONE["sweep"] > 60 * MINUTE:
        _DONE["sweep"] = monotonic()
        sweep()


def lean() -> None:
    """Has Gradio's sessions keep no copies of every widget's settings, of which it makes links that are not offered
    here: they take a megabyte a visit, a tenth of a second of it in which nobody else is answered, and are made anew at
    every update."""
    if getattr(SessionState.__init__, "lean", False):
        return
    begin = SessionState.__init__

    def begun(state: SessionState, blocks: Any) -> None:
        bare: Any = SimpleNamespace(default_config=blocks.default_config, blocks={})
        begin(state, bare)
        state.blocks_config.config_for_block = lambda *_: {}  # type: ignore[method-assign]

    begun.lean = True  # type: ignore[attr-defined]
    SessionState.__init__ = begun  # type: ignore[method-assign]


def linger() -> None:
    """Within a handler: the hour in which a page that was closed can come back begins anew. Gradio itself counts it
    from when the page was opened."""
    request, blocks = LocalContext.request.get(None), LocalContext.blocks.get(None)
    state = blocks.state_holder.session_data.get(getattr(request, "session_hash", None)) if blocks else None
    if state is not None:
        state._state_ttl |= {key: (kept, datetime.now()) for key, (kept, _) in state._state_ttl.items()}


def tidy(blocks: Any, ahead: float = 0.0) -> None:
    """Lets go of the sessions that are over: of closed pages once their hour to come back has passed (Gradio has then
    forgotten what was made), of programs that are silent, and of all that were silent for a day. ``ahead``: as it would
    be in so many seconds."""
    states = blocks.state_holder
    for name, state in list(states.session_data.items()):
        silent = (datetime.now() - states.time_last_used.get(name, datetime.min)).total_seconds() + ahead
        if silent < DAY and (state.state_data or not (state.is_closed or silent > GONE)):
            continue
        with states.lock:
            states.session_data.pop(name, None)
            states.time_last_used.pop(name, None)
        for component, value, _ in state.state_components:  # after that, for Gradio's own thread looks through them too
            component.delete_callback(value)


def sweep(older: float = DAY) -> None:
    """Deletes what is ``older``, in seconds, or of a time to come (a clock was set back): visits of an earlier start,
    uploads and copies of results, those too of studios that were killed."""
    for folder in visits().glob("*"):
        if abs(time() - folder.stat().st_mtime) > older:
            shutil.rmtree(folder, ignore_errors=True)
    # (GRADIO_TEMP_DIR may name a place where others have theirs.) What is in a folder comes before it.
    for path in sorted((own_folder() / UPLOADS).rglob("*"), reverse=True):
        with suppress(OSError):  # a folder that is not empty, a file that has just gone
            if abs(time() - path.stat().st_ctime) > older:
                path.rmdir() if path.is_dir() else path.unlink()
