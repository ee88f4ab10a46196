"""What align moves between two neighbouring pictures, as arrows in the window of their points."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from engine.requests import Cancelled, MatchRequest, Progress, Waiting, settle
from morph_ui.components.points import told
from morph_ui.form import Form
from morph_ui.panels import QUIET
from morph_ui.panels.status import sentence, sentences
from morph_ui.session import Session

Sides = Callable[[dict[str, Any], int], dict[str, Any]]
LIKE = ("align", "fit", "size", "model")  # fields as the form has them


def arrows(worker: Any, form: Form, line: gr.HTML, sides: Sides) -> None:
    """``sides``: the values of the form and its inputs and the number of a way → its two pictures ``a`` and ``b``, its
    ``points`` and words. A newer question ends the one before."""
    state, names = gr.State(Session(), delete_callback=Session.forget), [*form.widgets, *form.inputs]
    given = [*form.widgets.values(), *form.inputs.values()]

    def look(session: Session, asked: gr.EventData, *values: Any) -> Iterator[Any]:
        try:
            now = dict(zip(names, values, strict=True))
            own = {n: now[n] for n in LIKE} | sides(now, int(asked.way))
            own["align"] = "automatic" if own["align"] == "automatic" else "points"
            run = session.begin(MatchRequest(**settle(MatchRequest, own)))
            for event in run.events(worker):
                if isinstance(event, Progress):
                    yield told(None, f"{event.doing} …")
                elif isinstance(event, Waiting) and event.place:
                    yield told(None, "Waiting for other jobs …")
            yield told(event.settings["arrows"], sentences(*event.notes))
        except Cancelled:
            yield gr.skip()
        except Exception as e:
            yield told(None, sentence(e))

    line.arrows(look, [state, *given], line, **QUIET)
