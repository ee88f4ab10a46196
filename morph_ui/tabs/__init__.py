"""What all tabs do alike: *Make*, *Stop*, settings back from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from engine.requests import EngineError
from engine.vision import video
from morph_ui.form import Form
from morph_ui.panels import AT_ONCE, QUIET, Updates, show
from morph_ui.panels.status import bar, message, problem
from morph_ui.session import Session

Asked = tuple[Any, dict[str, Any]]  # a request, and how its run begins (`Session.begin`)


def columns(*scales: int) -> list[gr.Column]:
    """The left and the right side of a tab."""
    with gr.Row(elem_classes="studio"):
        sides = zip(scales, ("left", "right"), strict=True)
        return [gr.Column(scale=scale, min_width=320, elem_classes=side) for scale, side in sides]


def wire(
    worker: Any,
    state: gr.State,
    form: Form,
    panel: Any,
    ask: Callable[[Session, dict[str, Any]], Asked],
    note: Callable[[dict[str, Any]], str],
    load: Callable[[dict[str, Any]], Updates] = lambda settings: {},
) -> None:
    """*Make* runs what ``ask`` makes of the session and the values of the form and its inputs. ``note``: what is
    said when settings are set; ``load``: what else they set."""

    def make(given: dict[Any, Any]) -> Iterator[Updates]:
        session = given[state]
        yield {panel.status: bar(0, "reading the pictures")}
        try:
            request, how = ask(session, form.values(given))
        except Exception as e:
            yield panel.refused(e)
            return
        yield from show(worker, session, request, panel, **how)

    def back(session: Session, path: str) -> Updates:
        name = Path(path).name
        try:
            settings = read_for(form.tab, path)
            out, said = form.load(settings) | load(settings), note(settings)
        except EngineError as e:
            return {panel.status: problem(e)}
        except (TypeError, ValueError):
            return {
                panel.status: problem(EngineError(f"settings must be as they were written here, got {name}, changed"))
            }
        session.loaded = settings
        return out | {panel.status: message(f"Settings of {name} are set{said}")}

    panel.join(form.make, form.stop, form.widgets["seed"])
    panel.wire(state)
    run = form.make.click(make, {state, *form.components}, panel.components, **QUIET)
    form.network.after(run)
    form.stop.click(Session.halt, state, **AT_ONCE)  # the run itself then shows what is finished
    out = [panel.status, form.preset, *form.widgets.values(), *form.inputs.values()]
    panel.load.upload(back, [state, panel.load], out, **QUIET)


def read_for(method: str, path: str) -> dict[str, Any]:
    """The settings inside a file of ours. EngineError if there are none, or if they are of another method."""
    settings = video.read_settings(path)
    if settings["method"] != method:
        raise EngineError(f"settings must be of {method.title()}, got those of {str(settings['method']).title()}")
    return settings
