"""*Enlarge*: what is finished, twice or four times as large, to take away. The original stays as it is."""

import html
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from gradio.components import Component

from engine.requests import SCALES, Cancelled, EngineError, EnlargeRequest, Frame, Preview
from engine.vision import video
from morph_ui.panels import OFF, ON, QUIET, Panel, Updates
from morph_ui.panels.status import Clock, human, message, problem, sentence
from morph_ui.session import Run, Session, data_url

TAKES = "about a second a picture"  # of 256 px, on two processor cores
AWAY = {"value": None, "visible": False, "__type__": "update"}


class Enlarge:
    """Buttons below what there is to take, a detail (before | after) first, then the files."""

    def __init__(self, tab: str):
        small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 90}
        with gr.Row(elem_classes="take larger"):
            gr.HTML(f"Enlarge <small>· {TAKES}</small>", elem_classes="said", apply_default_css=False)
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
                run = session.enlarge(request)
                made = video.Stored(session.path(f"larger-{session.number}-{run.number}"))
            except Exception as e:
                yield {panel.status: problem(e)}
                return
            yield from self.follow(worker, panel, session, run, made, settings | {"enlarged": scale})

        return make

    def follow(
        self, worker: Any, panel: Panel, session: Session, run: Run, made: video.Stored, settings: dict[str, Any]
    ) -> Iterator[Updates]:
        """Shows a run; what was finished when it ends, however it does, can be taken."""
        clock, text, kind = Clock(), "", "note"
        yield self.clear() | self.ready(False) | {panel.status: clock.line, panel.make: OFF, panel.stop: ON}
        try:
            for event in run.events(worker):
                clock.see(event)
                new: Updates = {panel.status: clock.line}
                if isinstance(event, Preview):
                    new[self.detail] = gr.update(value=figure(event), visible=True)
                elif isinstance(event, Frame):
                    made.put(event.index, event.picture, settings)
                yield new
                text = said(made, getattr(event, "seconds", 0.0))
        except Cancelled:
            text = "Stopped" + (f"; {said(made)}" if made else "")
        except Exception as e:
            text, kind = sentence(e), "problem"
        if session.larger is not run:  # something newer has begun
            yield panel.still
            return
        try:
            files = self.files(session, run, made, settings)
        except Exception as e:
            files, text, kind = {}, sentence(e), "problem"
        yield self.ready(True) | files | {panel.status: message(text, kind), panel.make: ON, panel.stop: OFF}

    def files(self, session: Session, run: Run, made: video.Stored, settings: dict[str, Any]) -> Updates:
        """The PNG of one picture; of several the MP4 and a zip."""
        n = settings["enlarged"]
        name, size = f"chrysalis-{settings.get('seed', 0)}-{session.number}-{run.number}-x{n}", SCALES[n]
        if not made:
            return {}
        if run.request.total == 1:
            png = made.path(0).rename(session.path(f"{name}.png"))
            return {self.pngs: gr.update(value=str(png), label=f"PNG {size}", visible=True)}
        mp4, pngs = session.path(f"{name}.mp4"), session.path(f"{name}.zip")
        video.save_mp4(made, mp4, settings, there_and_back=session.back and not settings.get("loop"))
        video.save_zip(made, pngs, settings)
        film = gr.update(value=str(mp4), label=f"MP4 {size}", visible=True)
        return {self.film: film, self.pngs: gr.update(value=str(pngs), label=f"PNGs {size}", visible=True)}


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
