"""Work outlives a reload: what a handler yields goes on without its page for `GRACE` seconds, and another takes it up.

A page keeps a token that nobody guesses, in the storage of its browser tab and only while it is away
(``components/visit``), so that a copy of the tab has none. With it the page that comes next asks for the same sessions.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any
from weakref import WeakValueDictionary

import gradio as gr
from gradio.components import Component

from engine.requests import EngineError
from morph_ui.session import Session
from morph_ui.visitors import Unheard, heard, linger

COUNTING = Lock()
GRACE = 60.0  # seconds for which a job goes on when the last page that saw it has gone
LOOK = 0.2  # seconds between two looks at work that was begun by another page
Updates = dict[Any, Any]

_AWAY: WeakValueDictionary[tuple[str, str], Session] = WeakValueDictionary()


def lend(token: str, tab: str, session: Session) -> None:
    """What the next page with this token gets of a tab."""
    _AWAY[token, tab] = session


def taken(token: str, tab: str) -> Session | None:
    """The session of a page that has gone; once, and None where there is none, or none any longer."""
    session = _AWAY.pop((token, tab), None)
    if session is None or not session.owners:
        return None
    session.owners += 1  # Gradio forgets the one of the page that has gone in its own time
    return session


def token(given: Any) -> str:
    """A token as a browser makes them; another one for anything else."""
    return given if isinstance(given, str) and re.fullmatch(r"[0-9a-f]{32,64}", given) else secrets.token_hex(24)


class Lasting:
    """Updates of a handler, which go on in a thread of their own when their page has gone."""

    def __init__(self, session: Session, updates: Iterator[Updates]):
        self.session, self.updates, self.fresh, self.over = session, updates, {}, False
        session.going = [g for g in session.going if not g.over] + [self]

    def __iter__(self) -> Iterator[Updates]:
        linger()
        with COUNTING:
            self.session.watchers += 1
        try:
            for new in heard(self.updates):
                self._note(new)
                yield new
            self.over = True
        except Unheard:
            self.over = True
            self.session.give_up()
        except GeneratorExit:
            Thread(target=self._carry, daemon=True, name="lasting").start()
            raise
        except BaseException:
            self.over = True
            raise
        finally:
            leave(self.session)

    def _carry(self) -> None:
        session = self.session
        try:
            for new in self.updates:
                self._note(new)
                if not session.watchers and monotonic() - session.left > GRACE:
                    session.give_up()
        except Exception:
            logging.getLogger(__name__).exception("work without a page")
        finally:
            self.over = True

    def _note(self, new: Updates) -> None:
        for seen in (self.session.shown, self.fresh):
            for c, value in new.items():
                seen[c] = merged(seen.get(c), value)

    def news(self) -> Updates:
        """What has changed since the last look."""
        new, self.fresh = self.fresh, {}
        return new


def leave(session: Session) -> None:
    session.left = monotonic()
    with COUNTING:
        session.watchers -= 1


def merged(old: Any, new: Any) -> Any:
    """What a component shows after two updates of it."""
    update = isinstance(new, dict) and new.get("__type__") == "update"
    if not update or old is None:
        return new
    whole = isinstance(old, dict) and old.get("__type__") == "update"
    return (old if whole else {"value": old}) | new


def again(panel: Any) -> Callable[[Session], Iterator[dict[Component, Any]]]:
    """The handler of a page that is opened again: all that was shown, and what still goes on."""

    def back(session: Session) -> Iterator[dict[Component, Any]]:
        going = [g for g in session.going if not g.over]
        for g in going:
            g.news()
        own = {*panel.components} - {*panel.written.values()}  # which the browser itself remembers
        first = {c: v for c, v in dict(session.shown).items() if c in own} | panel.picture(session)
        over = {panel.make: gr.update(visible=True), panel.stop: gr.update(visible=False)}  # whatever was noted last
        yield first if going else first | ready(panel, session) | over
        with COUNTING:
            session.watchers += 1
        try:
            while going:
                sleep(LOOK)
                going, ended = [g for g in going if not g.over], going
                new: Updates = {}
                for g in ended:
                    new |= g.news()
                yield new or panel.still
        finally:
            leave(session)

    return back


def ready(panel: Any, session: Session) -> Updates:
    """What can be taken of a run that is over."""
    try:
        return panel.files(session)
    except (EngineError, OSError):  # fewer frames than a film has, a full disk
        return panel.clear()


def arrive(tabs: Sequence[str]) -> Callable[[Any], list[Any]]:
    """The handler of a page that is opened, with what `components.visit.ARRIVE` gives: a session a tab, that of the
    page before where it is known; then what `components.visit.visit` takes: the tabs where there is something to see.
    """

    def come(told: Any) -> list[Any]:
        told = told if isinstance(told, dict) else {}
        now, before = token(told.get("token")), token(told.get("before"))
        sessions = [taken(before, tab) or Session() for tab in tabs]
        for tab, session in zip(tabs, sessions, strict=True):
            lend(now, tab, session)
        there = [tab for tab, session in zip(tabs, sessions, strict=True) if session.number and not session.run.example]
        return [*sessions, json.dumps({"again": there})]

    return come
