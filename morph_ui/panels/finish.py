"""How a film is to be, and the files of it, each made when it is asked for. The player goes by the same settings."""

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import gradio as gr
from PIL.Image import Image

from engine.requests import Cancelled, EngineError, Progress, fields_of
from engine.requests.finish import FORMATS, Finish, finish_of
from engine.vision import video
from engine.vision.film import Film, finish_for
from morph_ui.components.player import taker
from morph_ui.components.timeline import timing
from morph_ui.form import widget
from morph_ui.panels import AT_ONCE, OFF, OFTEN, ON, QUIET, Panel, Updates
from morph_ui.panels.status import Clock, bar, message, problem, sentence, sentences
from morph_ui.session import Run, Session, address

ROWS = (("duration", "fps"), ("hold", "trim"), ("smooth", "ease"))
DRAWN = "drawn"  # no film: the drawn frames as they are, in a zip
SOON = 0.4  # seconds before a file that is being written has a bar


class Finishing:
    """Built inside the caller's column. ``back``: its box *there and back*; ``buttons``: a format (or `DRAWN`) → the
    button that gives it."""

    def __init__(self, tab: str, back: gr.Checkbox, buttons: dict[str, gr.Button]):
        fields, self.buttons = fields_of(Finish), buttons
        self.boxes: dict[str, Any] = {"there_and_back": back}
        with gr.Accordion("The film", open=False, elem_id=f"{tab}-finish", elem_classes="closer"):
            for row in ROWS:
                with gr.Row():
                    for name in row:  # a number that says nothing is empty
                        self.boxes[name] = widget(fields[name], fields[name].default or None, f"{tab}-{name}")
            with gr.Row(elem_classes="take"):
                how: dict[str, Any] = {"show_label": False, "container": False, "scale": 0, "min_width": 210}
                how |= {"label": "Format of the film", "elem_id": f"{tab}-format"}
                self.boxes["format"] = gr.Dropdown(fields["format"].spec.labels, **how)
                self.save = gr.Button("Save the film", size="sm", interactive=False, elem_id=f"{tab}-save", scale=0)
        self.taken = taker(tab)

    def ready(self, there: bool) -> Updates:
        """Whether there is a film to take."""
        return {b: {"interactive": there, "__type__": "update"} for b in (*self.buttons.values(), self.save)}

    def wire(self, state: gr.State, panel: Panel) -> None:
        given, seen = [state, *self.boxes.values()], [panel.screen, panel.status]
        for box in self.boxes.values():
            chosen = isinstance(box, gr.Checkbox | gr.Dropdown)
            gr.on([box.input] if chosen else [box.submit, box.blur], self.settler(panel), given, seen, **AT_ONCE)
        panel.screen.fill(filler(panel), state, seen, **QUIET)
        out = [self.taken, panel.status, panel.make, panel.stop]
        for form, button in (*self.buttons.items(), ("", self.save)):
            button.click(self.writer(panel, form), given, out, **QUIET)

    def time(self, line: gr.HTML, state: gr.State, panel: Panel) -> None:
        """``line``: the timeline that says how long single pictures and ways take; the player follows it as well."""
        handler, seen = self.timer(panel), [panel.screen, panel.status]
        line.timed(handler, [state, line, *self.boxes.values()], seen, **AT_ONCE)

    def read(self, session: Session, values: Any, form: str = "") -> Finish:
        """What is in the boxes, as another format if one is given; of single pictures and ways as it was. EngineError
        for what cannot be."""
        given = dict(zip(self.boxes, values, strict=True))
        made = finish_of(given | ({"format": form} if form in FORMATS else {}))
        return replace(made, holds=session.finish.holds, durations=session.finish.durations)

    def restore(self, session: Session, settings: dict[str, Any]) -> Updates:
        """The boxes as the settings of a file say, if they say anything. EngineError for what cannot be."""
        film = settings.get("film")
        if not isinstance(film, dict):
            return {}
        session.finish = made = replace(finish_of(film), format=session.finish.format)
        names = (n for n in self.boxes if n != "format")
        return {self.boxes[n]: v if isinstance(v := getattr(made, n), bool) else v or None for n in names}

    def settler(self, panel: Panel) -> Callable[..., Updates]:
        """The handler of a change: the player follows. What cannot be is said, and all stays."""

        def settle(session: Session, *values: Any) -> Updates:
            try:
                return self.follow(panel, session, self.read(session, values))
            except Exception as e:
                return {panel.status: problem(e)}

        return settle

    def timer(self, panel: Panel) -> Callable[..., Updates]:
        """The handler of another hold or time on the timeline: the same, where it has as many pictures as the film."""

        def time(session: Session, line: Any, *values: Any) -> Updates:
            try:
                finish = replace(self.read(session, values), **timing(line))
                if session.run.over and len(session.run.frames) > 1 and not fits(session, finish):
                    return {panel.status: message("That counts once the film is made of these pictures")}
                return self.follow(panel, session, finish)
            except Exception as e:
                return {panel.status: problem(e)}

        return time

    def follow(self, panel: Panel, session: Session, finish: Finish) -> Updates:
        """The player shows another film. EngineError for one that cannot be: all stays."""
        if len(session.run.frames) > 1:
            film_of(session, finish)
        if finish == session.finish:
            return panel.still
        session.finish = finish
        return panel.picture(session) | ({panel.status: said(panel, session)} if session.run.over else {})

    def writer(self, panel: Panel, form: str) -> Callable[..., Iterator[Updates]]:
        """The handler that makes a file and hands it over, with a bar if that takes long."""

        def write(session: Session, *values: Any) -> Iterator[Updates]:
            run, halted, clock, begun = session.run, session.halted, Clock(), monotonic()
            idle = {panel.make: ON, panel.stop: OFF}
            try:
                if form == DRAWN:
                    frames, settings = pictures(session)
                    settings = settings | {"film": self.read(session, values).told}
                    video.save_zip(frames, path := place(session, "zip"), settings)
                    yield {self.taken: handed(path)}
                    return
                film = film_of(session, self.read(session, values, form))
                for part in film.writing(path := place(session, film.finish.format, film.finish.there_and_back)):
                    if session.halted > halted or session.run is not run:
                        raise Cancelled
                    clock.see(Progress(part, "writing the film"))
                    if monotonic() - begun > SOON:
                        yield {panel.status: clock.line, panel.make: OFF, panel.stop: ON}
                yield {self.taken: handed(path), panel.status: said(panel, session, film.notes)} | idle
            except Cancelled:
                yield (
                    {panel.status: message("Stopped before the film was written")} | idle if session.run is run else {}
                )
            except Exception as e:
                yield {panel.status: refused(e)} | idle

        return write


def refused(error: Exception) -> str:
    """What is refused, in the line above the player, and over the page: the buttons lie below that line.

    Gradio shows the latter for handlers that wait in its queue only."""
    gr.Warning(html.escape(text := sentence(error)))
    return message(text, "problem")


def filler(panel: Panel) -> Callable[[Session], Iterator[Updates]]:
    """The handler that makes the pictures between frames, which the player then shows."""

    def fill(session: Session) -> Iterator[Updates]:
        run, finish, looked = session.run, session.finish, monotonic()
        if not run.over or len(run.frames) < 2:
            yield panel.still
            return
        try:
            film = film_of(session, finish)
            for n, (at, _) in enumerate(film.line.shots):
                if at % 1 and (run.number, at) not in session.between:
                    picture = film.picture(at)
                    large = int(at) in film.large
                    session.between[run.number, at] = "" if large else kept(session, run, at, picture)
                if session.run is not run or session.finish != finish:
                    yield panel.still
                    return
                if monotonic() - looked > OFTEN:
                    looked = monotonic()
                    yield {panel.status: bar(n / len(film.line.shots), "making the film smoother")}
            yield panel.picture(session) | {panel.status: said(panel, session, film.notes)}
        except Exception as e:
            yield {panel.status: problem(e)}

    return fill


def shown(session: Session, view: dict[str, Any]) -> dict[str, Any]:
    """What the player plays: shots (cell, milliseconds, a picture between two cells or ""), all at once when a run is
    over; and whether there are pictures to be filled in."""
    run = session.run
    if not run.over or len(run.frames) < 2:
        return {}
    try:
        line = film_of(session, session.finish).line
    except EngineError:  # fewer frames than before, of which no such film can be
        return {}
    cells = {cell["index"]: k for k, cell in enumerate(view["cells"])}
    order, shots, lacking = sorted(run.frames), [], False
    for at, count in line.shots:
        near = cells[order[round(at) % len(order)]]
        between = session.between.get((run.number, at)) if at % 1 else ""
        lacking = lacking or between is None
        shots.append([near, round(float(1000 * count / line.rate), 3), between or ""])
    ways = {} if session.finish.trim else {"ways": line.ways}
    return {"film": shots, "fill": lacking, "key": f"{run.number} {session.finish}"} | ways


def pictures(session: Session) -> tuple[list[Image], dict[str, Any]]:
    """The frames that are finished, in their order, and the settings that make them again. EngineError for none."""
    found, settings = frames_of(session.run)
    if len(found) < 2:
        raise EngineError("frames must be there before a film is made, got none; press Make first")
    return found, settings


def frames_of(run: Run) -> tuple[list[Image], dict[str, Any]]:
    """The frames that are finished, in their order, and the settings that make them again."""
    settings = run.done.settings if run.done else run.request.settings() if run.request else {}
    return [run.frames[i].picture for i in sorted(run.frames)], settings


def film_of(session: Session, finish: Finish) -> Film:
    found, settings = pictures(session)
    return Film(found, finish_for(finish, settings, len(found), finish.format), settings)


def fits(session: Session, finish: Finish) -> bool:
    """Whether the film that is shown has as many pictures as it is said something of."""
    found, settings = frames_of(session.run)
    made = finish_for(finish, settings, len(found))
    return (made.holds, made.durations) == (finish.holds, finish.durations)


def kept(session: Session, run: Run, at: float, picture: Image) -> str:
    """Writes a picture between frames for the browser; gives its address."""
    path = session.path(f"{run.number}-{at:.4f}.jpg")
    picture.save(path, "JPEG", quality=92)
    return address(path)


def place(session: Session, kind: str, back: bool = False) -> Path:
    """Where the next file goes; the browser keeps what it once had under a name."""
    name = f"chrysalis-{getattr(session.run.request, 'seed', 0)}-{session.number}{'-back' * back}"
    n = 1
    while (path := session.path(f"{name}{f'-{n}' * (n > 1)}.{kind}")).exists():
        n += 1
    return path


def handed(path: Path) -> str:
    return json.dumps({"href": address(path), "name": path.name})


def said(panel: Panel, session: Session, notes: list[str] | None = None) -> str:
    """What is said of the run that is shown, and of its film."""
    own = [panel.summary(session.run)] if session.run.done else []
    return message(sentences(*own, *(notes or ())))
