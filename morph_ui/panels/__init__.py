"""Results on the page. `show` is the only way from a job to it: a run's events become updates of a `Panel`.

Updates are dictionaries, component → value; what is not in them stays as it is.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL.Image import Image

from engine.requests import Cancelled, Done, EngineError, Frame, Preview
from morph_ui.panels.lasting import Lasting
from morph_ui.panels.status import Clock, human, message, problem, sentence
from morph_ui.session import Run, Session

Updates = dict[Any, Any]  # component → value
# For every handler of ours: Gradio's own veil over what is being made would flicker.
QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
AT_ONCE: dict[str, Any] = QUIET | {"queue": False}
OFTEN = 0.15  # seconds between two looks at a run
ON, OFF = {"visible": True, "__type__": "update"}, {"visible": False, "__type__": "update"}
NO_FILE = {"value": None, "interactive": False, "__type__": "update"}


class Panel:
    """Where the results of a tab are seen and taken. A subclass makes its widgets and says what they show.

    The buttons that begin and end a run are a form's, and so are the widgets that show fields of its request as they
    are then (``written``): `join` brings them.
    """

    status: gr.HTML
    screen: gr.HTML
    larger: Any = None  # `morph_ui.panels.enlarge.Enlarge`, where results can be enlarged
    restored: Sequence[Component] = ()  # what `restore` updates
    lasting = False  # whether what was made before can be taken while a run goes on

    def join(self, make: gr.Button, stop: gr.Button, seed: gr.Number | None = None) -> None:
        self.make, self.stop, self.written = make, stop, {"seed": seed} if seed else {}

    @property
    def components(self) -> list[Component]:
        """All that `show` updates."""
        own = *vars(self).values(), *self.written.values(), *(self.larger.components if self.larger else ())
        return [c for c in own if isinstance(c, Component)]

    @property
    def still(self) -> Updates:
        """Nothing is changed: Gradio sends what came last once more when a handler ends."""
        return {self.status: gr.skip()}

    # ---- what a subclass says

    def picture(self, session: Session) -> Updates:
        """What is seen of the newest run."""
        return {self.screen: json.dumps(session.view())}

    def chosen(self, session: Session) -> tuple[list[Image], dict[str, Any]]:
        """What is enlarged, and the settings that make it again. EngineError where there is nothing."""
        raise EngineError("results must be there before they are enlarged, got none; press Make first")

    def restore(self, session: Session, settings: dict[str, Any]) -> Updates:
        """What settings of a file say of how results are taken. EngineError for what cannot be."""
        return {}

    def clear(self) -> Updates:
        """There is nothing to take."""
        return {}

    def summary(self, run: Run) -> str:
        """What came of a finished run, in words."""
        return ""

    def worth(self, run: Run) -> bool:
        """Whether what an unfinished run has made is better than what was there before it."""
        return False

    def left(self, session: Session, run: Run) -> str:
        """What there is after a run that was stopped, in words."""
        return ""

    def files(self, session: Session) -> Updates:
        """What can be taken away now."""
        return {}

    def source(self, session: Session) -> Callable[[Run, int, Image], str]:
        """What puts a finished picture of a place where the browser finds it."""
        return session.save

    # ---- what `show` asks

    def busy(self, session: Session, line: str) -> Updates:
        files = {} if self.lasting else self.clear()
        return self.picture(session) | files | {self.status: line, self.make: OFF, self.stop: ON}

    def refused(self, error: Exception) -> Updates:
        """A request was refused before it began: one sentence, and everything stays, a run that goes on among it."""
        return {self.status: problem(error)}

    def ended(self, session: Session, text: str, kind: str = "note") -> Updates:
        """A run has ended, however it did: what is finished stays and can be taken away."""
        try:
            files = self.files(session)
        except Exception as e:
            files, text, kind = self.clear(), f"{text}. {sentence(e)}".lstrip(". "), "problem"
        return self.picture(session) | files | {self.status: message(text, kind), self.make: ON, self.stop: OFF}


def show(worker: Any, session: Session, request: Any, panel: Panel, **how: Any) -> Iterator[Updates]:
    """Runs a request and shows it on the panel; ``how``: as `Session.begin` takes it.

    A newer run of the visit ends it without a word. Every heartbeat is a chance to notice that its page has gone; it
    goes on for a while then (`morph_ui.panels.lasting`), but for few steps at a stroke.
    """
    if session.enlarging:
        yield panel.refused(
            EngineError("the enlargement must be finished first, got one that goes on; wait, or stop it")
        )
        return
    updates = run_on(worker, session, session.begin(request, **how), panel)
    yield from updates if how.get("kind") == "live" else Lasting(session, updates)


def run_on(worker: Any, session: Session, run: Run, panel: Panel) -> Iterator[Updates]:
    """A run from its start to its end, as updates."""
    clock, text, kind = Clock(), "Stopped", "note"
    yield panel.busy(session, clock.line) | {w: getattr(run.request, name) for name, w in panel.written.items()}
    try:
        for new in follow(worker, session, run, panel, clock):
            yield panel.busy(session, clock.line) if new else {panel.status: clock.line}
        text = panel.summary(run)
    except Cancelled:
        text = "It was ended, for its page had been away for more than a minute" if run.left else text
    except Exception as e:  # one sentence for the person, the details in the log
        text, kind = sentence(e), "problem"
    if session.run is not run:
        yield panel.still
        return
    session.end(run, worth=run.done is not None or panel.worth(run))
    if run.done is None and kind == "note":
        text = ". ".join(t for t in (text, panel.left(session, run)) if t)
    yield panel.ended(session, text, kind) | ({} if run.done else run.undo)


def follow(worker: Any, session: Session, run: Run, panel: Panel, clock: Clock) -> Iterator[bool]:
    """Notes a run's events: True when there is something new to see, False when the line has changed."""
    source, shown = panel.source(session), 0.0
    late: dict[int, Preview] = {}  # previews that came too soon after the last look
    for event in run.events(worker):
        clock.see(event)
        if isinstance(event, Preview):
            if run.kind != "rest":  # what is seen of the hand's drawing is better than noise
                late[event.index] = event
        else:
            run.take(event, source)
        finished = isinstance(event, Frame)
        if finished:
            late.pop(event.index, None)
        if finished or monotonic() - shown > OFTEN:
            shown, new = monotonic(), finished or bool(late)
            for preview in late.values():
                run.take(preview, source)
            late.clear()
            yield new


def summary(done: Done, many: str, one: str = "") -> str:
    """How many pictures, how large, how long they took, and with whose help."""
    (w, h), n = done.frames[0].size, len(done.frames)
    took = human(done.seconds).removeprefix("about ")
    return f"{one if one and n == 1 else f'{n} {many}'} of {w} × {h} in {took}{helped(done)}"


def helped(done: Done) -> str:
    """Who answered beside torch, which goes without saying."""
    names = {"openvino": "OpenVINO", "cuda graphs": "CUDA graphs"}
    return "".join(f" with {name}" for key, name in names.items() if key in done.executor)
