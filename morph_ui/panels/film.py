"""Frames on the way from picture to picture: the player, candidates of a frame, films, PNGs and LoRAs to take."""

import json
import math
import zipfile
from typing import Any

import gradio as gr
from PIL import ImageChops, ImageStat
from PIL.Image import Image

from engine.requests import Done
from engine.requests.finish import ENDINGS
from engine.vision import video
from morph_ui.components.player import player
from morph_ui.components.player.tries import told, tries
from morph_ui.panels import AT_ONCE, OFF, Panel, Updates, summary
from morph_ui.panels.enlarge import Enlarge
from morph_ui.panels.finish import DRAWN, Finishing, frames_of, shown
from morph_ui.panels.status import line, sentences
from morph_ui.session import Run, Session, name_of

FAR = 10  # times a cross-fade: no more is said of a way than that
PACES = ((0.15, "an even"), (0.4, "a fairly even"), (math.inf, "an uneven"))  # deviation of the steps from their mean


class Film(Panel):
    """Built inside the caller's column; ``tab`` begins the names of its elements."""

    def __init__(self, tab: str):
        self.status, self.screen = line(tab), player(tab)
        self.tried = tries(tab)
        with gr.Row(elem_classes="taking") as taking, gr.Row(elem_classes="take"):
            self.film = gr.Button("MP4", interactive=False, elem_id=f"{tab}-mp4", size="sm")
            self.pngs = gr.Button("PNGs", interactive=False, elem_id=f"{tab}-zip", size="sm")
            self.loras = gr.DownloadButton("LoRAs", visible=False, elem_id=f"{tab}-files", size="sm")
            plain = {"container": False, "min_width": 120, "elem_classes": "back"}
            self.back = gr.Checkbox(True, label="there and back", elem_id=f"{tab}-back", **plain)
            self.again = gr.Button("Make this frame again", size="sm", elem_id=f"{tab}-again", visible=False)
            files = [".png", ".zip", *ENDINGS]
            self.load = gr.UploadButton("Load settings", file_types=files, size="sm", elem_id=f"{tab}-load")
        with taking:
            self.larger = Enlarge(tab)
        self.finish = Finishing(tab, self.back, {"mp4": self.film, DRAWN: self.pngs})
        self.save = self.finish.save

    def wire(self, state: gr.State) -> None:
        self.finish.wire(state, self)
        self.screen.choose(self.choose, state, [self.again, self.tried], **AT_ONCE)

    def restore(self, session: Session, settings: dict[str, Any]) -> Updates:
        return own | self.picture(session) if (own := self.finish.restore(session, settings)) else {}

    @property
    def restored(self) -> list[Any]:
        return [self.screen, *self.finish.boxes.values()]

    def picture(self, session: Session) -> Updates:
        view = session.view()
        return {self.screen: json.dumps(view | shown(session, view))}

    def clear(self) -> Updates:
        own = {self.again: OFF, self.tried: OFF, self.loras: OFF}
        return own | self.finish.ready(False) | self.larger.ready(False) | self.larger.clear()

    def chosen(self, session: Session) -> tuple[list[Image], dict[str, Any]]:
        """All the frames, in their order."""
        return frames_of(session.run) if session.run.frames else super().chosen(session)

    def summary(self, run: Run) -> str:
        return sentences(summary(run.done, "frames"), *measures(run.done), *run.done.notes)

    def worth(self, run: Run) -> bool:
        return bool(run.frames) and not run.keep

    def left(self, session: Session, run: Run) -> str:
        if session.run is run:
            return f"The {len(run.frames)} finished frames are kept" if len(run.frames) > 2 else ""
        return "The frames are as they were" if session.run.frames else ""

    def files(self, session: Session) -> Updates:
        if len(session.run.frames) < 2:
            return self.clear()
        loras = write_loras(session)
        own = {self.loras: gr.update(value=loras, visible=bool(loras))}
        return self.clear() | self.larger.ready(True) | self.finish.ready(True) | own

    def choose(self, session: Session, event: gr.EventData) -> Updates:
        """A cell of the strip was clicked: offer to make it again, and its candidates."""
        run, i = session.run, int(event.index)
        run.selected, frame, r = i, run.frames.get(i), run.request
        inner = frame and run.over and i % (r.frames - 1) and getattr(r, "scheme", "") == "branch"
        several = list(frame.candidates) if inner else []
        own = gr.update(visible=True, value=told(several, frame.chosen, name_of(run, i))) if several else OFF
        return {self.again: gr.update(visible=bool(inner)), self.tried: own}


def measures(done: Done) -> list[str]:
    """What was measured, in words."""
    q, n = done.quality, len(done.frames)
    if not q or not q["length"] or not q["fade_length"]:
        return []
    steps = n if done.settings.get("loop") else n - 1
    uneven = q["variance"] ** 0.5 / (q["length"] / steps)
    times = q["length"] / q["fade_length"]
    pace = next(word for most, word in PACES if uneven < most)
    text = f"On its way it changes {times:.1f} times as much as a cross-fade, at {pace} pace (± {uneven:.0%})"
    if times >= FAR:
        return ["It changes far more than a cross-fade" + ", for the pictures are nearly the same" * alike(done)]
    if not q["ends"]:
        return [text]
    # In steps of an even cross-fade, which says how far that is.
    return [
        text,
        f"Your pictures, drawn again, are {q['ends'] / (q['fade_length'] / steps):.1f} of a frame's change off",
    ]


def alike(done: Done) -> bool:
    """Whether the two ends differ by next to nothing."""
    a, b = (done.frames[i].convert("RGB") for i in (0, -1))
    return sum(ImageStat.Stat(ImageChops.difference(a, b)).mean) / 3 < 4


def write(session: Session) -> list[str]:
    """The MP4 and the zip of the frames that are finished, as they are."""
    frames, settings = frames_of(session.run)
    name = f"chrysalis-{session.run.request.seed}-{session.number}"
    film, pngs = session.path(f"{name}.mp4"), session.path(f"{name}.zip")
    video.save_mp4(frames, film, settings)
    video.save_zip(frames, pngs, settings)
    return [str(film), str(pngs)]


def write_loras(session: Session) -> str | None:
    """What else was made, in a zip; None where there is nothing."""
    run = session.run
    if not run.done or not run.done.files:
        return None
    path = session.path(f"chrysalis-{run.request.seed}-{session.number}-loras.zip")
    with zipfile.ZipFile(path, "w") as z:
        for file in run.done.files.items():
            z.writestr(*file)
    return str(path)
