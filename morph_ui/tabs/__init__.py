"""What all tabs do alike: *Make*, *Stop*, settings back from a file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from engine.requests import METHODS, EngineError, told
from engine.requests.files import named
from engine.vision import video
from morph_ui.components.visit import here, remember
from morph_ui.form import Form
from morph_ui.panels import AT_ONCE, QUIET, Panel, Updates, show
from morph_ui.panels.lasting import again
from morph_ui.panels.status import bar, message, problem
from morph_ui.session import Session

Asked = tuple[Any, dict[str, Any]]  # a request, and how its run begins (`Session.begin`)
Ask = Callable[[Session, dict[str, Any]], Asked]
Note = Callable[[dict[str, Any]], tuple[str, Updates]]


def columns(*scales: int) -> list[gr.Column]:
    """The left and the right side of a tab."""
    with gr.Row(elem_classes="studio"):
        sides = zip(scales, ("left", "right"), strict=True)
        return [gr.Column(scale=scale, min_width=320, elem_classes=side) for scale, side in sides]


def maker(worker: Any, state: gr.State, form: Form, panel: Panel, ask: Ask) -> Callable[..., Iterator[Updates]]:
    """The handler that runs what ``ask`` makes of the session and the values of the form and its inputs."""

    def make(given: dict[Any, Any]) -> Iterator[Updates]:
        session = given[state]
        yield {panel.status: bar(0, "reading the pictures")}
        try:
            request, how = ask(session, form.values(given))
        except Exception as e:
            yield panel.refused(e)
            return
        yield from show(worker, session, request, panel, **how)

    return make


def wire(worker: Any, state: gr.State, form: Form, panel: Any, ask: Ask, note: Note, *own: str) -> None:
    """``note``: what is said of settings that were read from a file, and what they set beside the form; ``own``: fields
    that a run writes back, as it does the seed."""

    def load(session: Session, path: str, network: str) -> Updates:
        try:
            settings = read_settings(form.tab, path)
            said, more = note(settings)
            more = more | panel.restore(session, settings)
        except EngineError as e:
            return {panel.status: problem(e)}
        session.loaded = settings | {"model": named(str(settings.get("model", "")))}
        text = message(f"Settings of {Path(path).name} are set{said}")
        if session.loaded["model"] == named(network or ""):  # files name no folders: this machine knows where it is
            settings = settings | {"model": network}
        return form.load(settings) | more | {panel.status: text}

    panel.join(form.make, form.stop, form.widgets["seed"])
    panel.written |= {name: form.widgets[name] for name in own}
    panel.wire(state)
    panel.larger.wire(worker, state, panel)
    handler, given = maker(worker, state, form, panel, ask), {state, *form.components}
    form.network.after(form.make.click(handler, given, panel.components, **QUIET))
    form.stop.click(Session.halt, state, **AT_ONCE)  # the run itself then shows what is finished
    out = [panel.status, form.preset, *form.widgets.values(), *form.inputs.values(), *panel.restored]
    panel.load.upload(load, [state, panel.load, form.network.box], out, **QUIET)
    remember(form.tab, [form.preset, *form.widgets.values(), *form.inputs.values(), *panel.restored])
    if page := here():
        getattr(page, form.tab)(again(panel), state, panel.components, **QUIET)


def read_settings(method: str, path: str) -> dict[str, Any]:
    """The settings inside a file of ours. EngineError if there are none, or if they are of another method."""
    settings = video.read_settings(path)
    if settings["method"] != method:
        got = str(settings["method"])[:40].title()
        raise EngineError(f"settings must be of {method.title()}, got those of {got}")
    told.check(METHODS[method], settings)
    return settings


def wire_points(form: Form, line: gr.HTML) -> None:
    """The first points on the timeline are there to move something: the form says so, unless it does already. Their
    window is told what the frames leave out."""
    moved, fit = form.widgets["align"], form.widgets["fit"]
    fit.change(None, fit, None, js=f"fit => {{ (window.chrysalisFit ??= {{}}).{form.tab} = fit; }}", **QUIET)
    line.points(None, moved, moved, js="align => align === 'off' ? 'points' : align", **QUIET)
