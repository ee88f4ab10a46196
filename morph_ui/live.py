"""Live drawing on the page: few steps while the hand moves, seen through the light decoder; through the whole one when
it is still; the full render when it rests (`morph_ui.hand`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL.Image import Image

from engine.checkpoints.resolve import missing, resolve
from engine.requests import DrawRequest, EngineError
from morph_ui.components.canvas import beside, phase_of
from morph_ui.form import Form
from morph_ui.hand import Hand
from morph_ui.panels import AT_ONCE, NO_FILE, QUIET, Updates, helped, show
from morph_ui.panels.gallery import Gallery
from morph_ui.panels.status import message
from morph_ui.session import Run, Session, inline
from morph_ui.tabs import Ask

ONE = {"count": 1, "sheet": "none"}
FEW = DrawRequest.presets["live"] | ONE
PHASES = {"live": FEW | {"decoder": "light"}, "still": FEW, "rest": ONE}


class Glimpse(Gallery):
    """A panel's widgets for pictures in few steps: they are shown at once, and taken when the hand has rested."""

    def __init__(self, panel: Gallery):
        self.__dict__ = panel.__dict__

    def busy(self, session: Session, line: str) -> Updates:
        return super().busy(session, message("following your hand"))

    def files(self, session: Session) -> Updates:
        on = gr.update(interactive=True)
        own = {self.png: NO_FILE, self.pngs: gr.update(value=None, visible=False), self.under: on, self.send: on}
        return own | self.larger.ready(True) | self.larger.clear()

    def ended(self, session: Session, text: str, kind: str = "note") -> Updates:
        on = kind == "note" and text.startswith("Stopped")  # the hand goes on, which is no news
        return super().ended(session, "" if on else text, kind)

    def source(self, session: Session) -> Callable[[Run, int, Image], str]:
        return lambda run, i, picture: inline(picture)

    def summary(self, run: Run) -> str:
        return f"live · {run.done.seconds:.2f} s{helped(run.done)}" if run.done else ""


def live(worker: Any, state: gr.State, pad: gr.HTML, form: Form, panel: Gallery, ask: Ask) -> None:
    """Wires the canvas ``pad``, which is an input of the form; ``state`` and ``ask``: as for *Make* (`tabs.wire`)."""

    def follow(given: dict[Component, Any]) -> Iterator[Updates]:
        session, (turn, phase) = given[state], phase_of(given[pad])
        hand, run, kept = hand_of(session), session.run, session.kept
        yield panel.still
        ticket = hand.take(turn, phase, making=session.enlarging or (run.kind == "make" and not run.over))
        if not ticket:
            return
        try:
            request, how = ask(session, form.values(given) | PHASES[phase])
        except Exception:  # nothing drawn yet, or a photograph still on its way: Make would say so
            return hand.end(ticket, finished=False)
        if lacking := ", ".join(absent(request)):
            yield {panel.status: message(f"Make fetches what is not here yet ({lacking}); then it follows")}
        elif hand.holds(ticket):
            look, kind = (panel, phase) if phase == "rest" else (Glimpse(panel), "live")
            yield from show(worker, session, request, look, **how | {"kind": kind, "keep": {0}})
        new = session.kept is not kept
        if new and phase == "rest":
            discard(session, hand.shown)
            hand.shown = session.kept.number
        hand.end(ticket, finished=new)

    def wake(session: Session, event: gr.EventData) -> None:
        if hand_of(session).wake(event.turn):
            session.run.stop()

    newest = {"trigger_mode": "always_last"} | QUIET
    pad.live(follow, {state, *form.components}, panel.components, **newest)
    pad.wake(wake, state, **{"trigger_mode": "multiple"} | AT_ONCE)
    gr.on([form.make.click, form.stop.click], lambda session: hand_of(session).drop(), state, **AT_ONCE)
    told = {form.make.click: "make", form.stop.click: "stop"}
    told |= {form.widgets[n].input: "move" for n, f in form.fields.items() if f.type is float and not f.spec.group}
    for event, what in told.items():
        event(None, js=beside(form.tab, what), **QUIET)


def discard(session: Session, run: int) -> None:
    """Deletes what was written of a picture that another one has followed: an hour of drawing has hundreds."""
    if session.folder:
        shutil.rmtree(session.folder / f"{run}", ignore_errors=True)
        for png in session.folder.glob(f"chrysalis-*-{run}-*.png"):
            png.unlink(missing_ok=True)


def hand_of(session: Session) -> Hand:
    session.live = session.live or Hand()
    return session.live


def absent(request: DrawRequest) -> list[str]:
    """What Make would fetch for a request, by name. A brush does not begin that; weights for few steps it does."""
    try:
        choice = resolve(request.model.split(" + ")[0], ())
        return [name for name, _ in missing(choice.needs([w for w in request.wants if w != "live"]))]
    except EngineError:  # of a network by its path only the job can tell
        return []
