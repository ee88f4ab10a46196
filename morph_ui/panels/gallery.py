"""Pictures beside a canvas: one large with its before and after, the others below; PNGs to take; where they go on."""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL.Image import Image

from engine.requests import Done
from engine.vision import video
from morph_ui.components.feed import feed, feed_value
from morph_ui.components.viewer import viewer
from morph_ui.panels import AT_ONCE, NO_FILE, Panel, Updates, summary
from morph_ui.panels.enlarge import Enlarge
from morph_ui.panels.status import line, sentences
from morph_ui.session import Run, Session, data_url


class Gallery(Panel):
    """Built inside the caller's column. ``onward`` names the tab that a result may go to, ``describe`` says how near a
    result is to what it was made from."""

    lasting = True

    def __init__(self, tab: str, invitation: str, onward: str, describe: Callable[[Done], str]):
        self.tab, self.onward, self.describe = tab, onward, describe
        self.status, self.screen = line(tab), viewer(tab, invitation)
        with gr.Row(elem_classes="taking") as taking, gr.Row(elem_classes="take"):
            self.png = gr.DownloadButton("PNG", interactive=False, elem_id=f"{tab}-png", size="sm")
            self.pngs = gr.DownloadButton("All PNGs", visible=False, elem_id=f"{tab}-zip", size="sm")
            self.under = gr.Button("Use as photograph", interactive=False, elem_id=f"{tab}-under", size="sm")
            self.send = gr.Button(f"Go on in {onward}", interactive=False, elem_id=f"{tab}-onward", size="sm")
            files = [".png", ".zip"]
            self.load = gr.UploadButton("Load settings", file_types=files, size="sm", elem_id=f"{tab}-load")
        with taking:
            self.larger = Enlarge(tab)
        self.feed = feed(tab)

    def wire(self, state: gr.State) -> None:
        self.screen.choose(self.choose, state, self.png, **AT_ONCE)
        for button, tab in ((self.under, self.tab), (self.send, self.onward.lower())):
            button.click(lambda session, tab=tab: pass_on(session, tab), state, self.feed, **AT_ONCE)

    def picture(self, session: Session) -> Updates:
        return {self.screen: json.dumps(session.view() | {"rest": session.run.kind == "rest"})}

    def busy(self, session: Session, line: str) -> Updates:
        return super().busy(session, line) | self.larger.ready(False)

    def clear(self) -> Updates:
        off = {"interactive": False, "__type__": "update"}
        own = {self.png: NO_FILE, self.pngs: gr.update(value=None, visible=False), self.under: off, self.send: off}
        return own | self.larger.ready(False) | self.larger.clear()

    def chosen(self, session: Session) -> tuple[list[Image], dict[str, Any]]:
        """The one that is shown large."""
        run = session.run
        if not run.frames:
            return super().chosen(session)
        i = large(run)
        return [run.frames[i].picture], run.made.get(i, {})

    def summary(self, run: Run) -> str:
        parts = summary(run.done, "pictures", "A picture"), self.describe(run.done), *run.done.notes
        return sentences(*parts)

    def left(self, session: Session, run: Run) -> str:
        return "The last result is kept" if session.run.frames else ""

    def files(self, session: Session) -> Updates:
        if not session.run.frames:
            return self.clear()
        pngs, on = write_all(session), gr.update(interactive=True)
        png = gr.update(value=write(session), interactive=True)
        own = {self.png: png, self.pngs: gr.update(value=pngs, visible=bool(pngs)), self.under: on, self.send: on}
        return own | self.larger.ready(True) | self.larger.clear()

    def choose(self, session: Session, event: gr.EventData) -> Updates:
        """A result was clicked: its PNG is the one to take."""
        session.run.selected = int(event.index)
        try:
            return {self.png: gr.update(value=write(session), interactive=True) if session.run.frames else gr.skip()}
        except OSError:
            return {self.png: NO_FILE}


def large(run: Run) -> int:
    """The place of the result that is shown large."""
    i = run.first if run.selected is None else run.selected
    return i if i in run.frames else run.first if run.first in run.frames else min(run.frames)


def pass_on(session: Session, tab: str) -> Any:
    """The result that is shown large as the photograph of a tab's canvas."""
    run = session.run
    return feed_value(tab, {"photo": data_url(run.frames[large(run)].picture, "PNG")}) if run.frames else gr.skip()


def write(session: Session) -> str:
    """The PNG of the result that is shown large, with the settings that make it again."""
    run = session.run
    i = large(run)
    settings = run.made.get(i, {})
    png = session.path(f"chrysalis-{settings.get('seed', 0)}-{session.number}-{i}.png")
    video.save_png(run.frames[i].picture, png, settings)
    return str(png)


def write_all(session: Session) -> str | None:
    """The zip of all results, each with its own settings; None where there is but one."""
    run = session.run
    if len(run.frames) < 2:
        return None
    pngs = session.path(f"chrysalis-{session.number}.zip")
    video.save_pngs([(run.frames[i].picture, run.made.get(i, {})) for i in sorted(run.frames)], pngs)
    return str(pngs)
