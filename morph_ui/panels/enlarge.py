"""*Enlarge*: what is finished, twice or four times as large, to take away. The original stays as it is."""

import html
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from gradio.components import Component

from engine.requests import SCALES, Cancelled, EngineError, EnlargeRequest, Preview
from engine.vision import video
from engine.vision.film import Film, finish_for
from morph_ui.panels import OFF, ON, QUIET, Panel, Updates
from morph_ui.panels.lasting import Lasting
from morph_ui.panels.status import Clock, bar, human, message, problem, sentence
from morph_ui.session import Run, Session, data_url

AWAY = {"value": None, "visible": False, "__type__": "update"}


class Enlarge:
    """Buttons below what there is to take, a detail (before | after) first, then the files."""

    def __init__(self, tab: str):
        small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 90}
        with gr.Row(elem_classes="take larger"):
            gr.HTML("Enlarge", elem_classes="said", apply_default_css=False)
            self.buttons = {
                n: gr.Button(label, size="sm", interactive=False, elem_id=f"{tab}-enlarge-{n}", scale=0, min_width=56)
                for n, label in SCALES.items()
            }
            self.film = gr.DownloadButton(visible=False, elem_id=f"{tab}-larger-mp4", **small)
            self.pngs = gr.DownloadButton(visible=False, elem_id=f"{tab}-larger-png", **small)
        self.detail = gr.HTML(visible=False, elem_id=f"{tab}-detail", elem_classes="closer", apply_default_css=False)

    @property
    def components(self) -> list[Component]:
        return [*self.buttons.values(), self.film, self.pngs, self.detail]

    def ready(self, there: bool) -> Updates:
        """Whether there is something to enlarge."""
        return {b: {"interactive": there, "__type__": "update"} for b in self.buttons.values()}

    def clear(self) -> Updates:
        """There is something else to enlarge now: the files of before are put away."""
        return {self.film: AWAY, self.pngs: AWAY, self.detail: AWAY}

    def wire(self, worker: Any, state: gr.State, panel: Panel) -> None:
        for scale, button in self.buttons.items():
            out = [panel.status, panel.make, panel.stop, *self.components]
            button.click(self.maker(worker, panel, scale), state, out, **QUIET)

    def maker(self, worker: Any, panel: Panel, scale: int) -> Callable[[Session], Iterator[Updates]]:
        """The handler of ×2 or ×4."""

        def make(session: Session) -> Iterator[Updates]:
            try:
                if not session.run.over:
                    raise EngineError("what is enlarged must be finished, got a run that goes on; wait, or press Stop")
                pictures, settings = panel.chosen(session)
                request = EnlargeRequest(tuple(pictures), scale)
            except Exception as e:
                yield {panel.status: problem(e)}
                return
            run = session.enlarge(request)
            own = self.to_end(worker, panel, session, run, settings | {"enlarged": scale})
            yield from Lasting(session, own)

        return make

    def to_end(self, worker: Any, panel: Panel, session: Session, run: Run, settings: dict[str, Any]) -> Iterator[Any]:
        try:
            yield from self.follow(worker, panel, session, run, settings)
        finally:
            run.over = True

    def follow(
        self, worker: Any, panel: Panel, session: Session, run: Run, settings: dict[str, Any]
    ) -> Iterator[Updates]:
        """Shows a run; what was finished when it ends, however it does, can be taken."""
        clock, text, kind, made = Clock(), "", "note", None
        yield self.clear() | self.ready(False) | {panel.status: clock.line, panel.make: OFF, panel.stop: ON}
        try:
            made = video.Stored(session.path(f"larger-{session.number}-{run.number}"))
            for event in made.fill(run.events(worker), settings):
                clock.see(event)
                new: Updates = {panel.status: clock.line}
                if isinstance(event, Preview):
                    new[self.detail] = gr.update(value=figure(event), visible=True)
                yield new
                text = said(made, getattr(event, "seconds", 0.0))
        except Cancelled:
            text = "Stopped" + (f"; {said(made)}" if made else "")
        except Exception as e:
            text, kind = sentence(e), "problem"
        try:
            for new in self.files(panel, session, run, made, settings) if made else ():
                yield new
        except Cancelled:
            text = f"Stopped before the film was written; {said(made)}"
        except Exception as e:
            text, kind = sentence(e), "problem"
        if made:
            shutil.rmtree(made.folder, ignore_errors=True)
        if session.larger is run:  # nothing newer has begun
            yield self.ready(True) | {panel.status: message(text, kind), panel.make: ON, panel.stop: OFF}
        else:
            yield panel.still

    def files(
        self, panel: Panel, session: Session, run: Run, made: video.Stored, settings: dict[str, Any]
    ) -> Iterator[Updates]:
        """The PNG of one picture; of several a zip, then the MP4. `Cancelled` when Stop is pressed meanwhile."""
        n, halted = settings["enlarged"], session.halted
        name, size = f"chrysalis-{settings.get('seed', 0)}-{session.number}-{run.number}-x{n}", SCALES[n]
        if session.larger is not run:
            return
        if run.request.total == 1:
            png = made.path(0).rename(session.path(f"{name}.png"))
            yield {self.pngs: gr.update(value=str(png), label=f"PNG {size}", visible=True)}
            return
        mp4, pngs = session.path(f"{name}.mp4"), session.path(f"{name}.zip")
        video.save_zip(made, pngs, settings)
        yield {self.pngs: gr.update(value=str(pngs), label=f"PNGs {size}", visible=True)}
        for part in Film(made, finish_for(session.finish, settings, len(made)), settings).writing(mp4):
            yield {panel.status: bar(part, "writing the film")}
            if session.halted > halted or session.larger is not run:
                raise Cancelled
        yield {self.film: gr.update(value=str(mp4), label=f"MP4 {size}", visible=True)}


def said(made: video.Stored, seconds: float = 0.0) -> str:
    """What has been made, in words."""
    if not made:
        return ""
    w, h = made.size
    many = "A picture" if len(made) == 1 else f"{len(made)} pictures"
    took = f" in {human(seconds).removeprefix('about ')}" if seconds else ""
    return f"{many} of {w} × {h}{took}. The original stays as it was"


def figure(event: Preview) -> str:
    """A detail, pixel by pixel, with what its halves are."""
    source = html.escape(data_url(event.picture, "PNG"))
    names = "<figcaption><span>plainly enlarged</span><span>as it becomes</span></figcaption>"
    return f'<figure class="detail"><img src="{source}" alt="a detail, before and after">{names}</figure>'
