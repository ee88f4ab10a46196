"""Frames on the way from picture to picture: the player, candidates of a frame, MP4, PNGs and LoRAs to take."""

import zipfile
from typing import Any

import gradio as gr
from PIL import ImageChops, ImageStat
from PIL.Image import Image

from engine.requests import Done
from engine.vision import video
from morph_ui.components.player import player
from morph_ui.panels import AT_ONCE, NO_FILE, OFF, QUIET, Panel, Updates, summary
from morph_ui.panels.enlarge import Enlarge
from morph_ui.panels.status import line, problem
from morph_ui.session import Run, Session

FAR = 10  # times a cross-fade: no more is said of a way than that


class Film(Panel):
    """Built inside the caller's column; ``tab`` begins the names of its elements."""

    def __init__(self, tab: str):
        self.status, self.screen = line(tab), player(tab)
        self.again = gr.Button("Make this frame again", size="sm", elem_id=f"{tab}-again", visible=False)
        label, low = "Candidates: choose one for this frame", {"columns": 8, "height": 130, "allow_preview": False}
        self.tried = gr.Gallery(label=label, visible=False, elem_id=f"{tab}-candidates", buttons=[], **low)
        with gr.Row(elem_classes="take"):
            self.film = gr.DownloadButton("MP4", interactive=False, elem_id=f"{tab}-mp4", size="sm")
            self.pngs = gr.DownloadButton("PNGs", interactive=False, elem_id=f"{tab}-zip", size="sm")
            self.loras = gr.DownloadButton("LoRAs", visible=False, elem_id=f"{tab}-files", size="sm")
            plain = {"container": False, "min_width": 120, "elem_classes": "back"}
            self.back = gr.Checkbox(True, label="there and back", elem_id=f"{tab}-back", **plain)
            files = [".png", ".mp4", ".zip"]
            self.load = gr.UploadButton("Load settings", file_types=files, size="sm", elem_id=f"{tab}-load")

        self.larger = Enlarge(tab)

    def wire(self, state: gr.State) -> None:
        self.back.input(self.turn, [state, self.back], [self.film, self.status], **QUIET)
        self.screen.choose(self.choose, state, [self.again, self.tried], **AT_ONCE)

    def clear(self) -> Updates:
        own = {self.film: NO_FILE, self.pngs: NO_FILE, self.again: OFF, self.tried: OFF, self.loras: OFF}
        return own | self.larger.ready(False) | self.larger.clear()

    def chosen(self, session: Session) -> tuple[list[Image], dict[str, Any]]:
        """All the frames, in their order."""
        return frames_of(session.run) if session.run.frames else super().chosen(session)

    def summary(self, run: Run) -> str:
        return ". ".join([summary(run.done, "frames"), *measures(run.done), *run.done.notes])

    def worth(self, run: Run) -> bool:
        return bool(run.frames) and not run.keep

    def left(self, session: Session, run: Run) -> str:
        if session.run is run:
            return f"The {len(run.frames)} finished frames are kept" if len(run.frames) > 2 else ""
        return "The frames are as they were" if session.run.frames else ""

    def files(self, session: Session) -> Updates:
        if len(session.run.frames) < 2:
            return self.clear()
        film, pngs = (gr.update(value=path, interactive=True) for path in write(session))
        loras = write_loras(session)
        return (
            self.clear()
            | self.larger.ready(True)
            | {
                self.film: film,
                self.pngs: pngs,
                self.loras: gr.update(value=loras, visible=bool(loras)),
            }
        )

    def turn(self, session: Session, back: bool) -> Updates:
        """*There and back* was switched."""
        session.back = back
        try:
            return {self.film: self.files(session)[self.film]}
        except Exception as e:
            return {self.film: NO_FILE, self.status: problem(e)}

    def choose(self, session: Session, event: gr.EventData) -> Updates:
        """A cell of the strip was clicked: offer to make it again, and its candidates."""
        run, i = session.run, int(event.index)
        run.selected, frame, r = i, run.frames.get(i), run.request
        inner = frame and run.over and 0 < i < r.total - 1 and getattr(r, "scheme", "") == "branch"
        several = list(frame.candidates) if inner else []
        chosen = frame.chosen if several else None
        gallery = gr.update(visible=bool(several), value=several or None, selected_index=chosen)
        return {self.again: gr.update(visible=bool(inner)), self.tried: gallery}


def measures(done: Done) -> list[str]:
    """What was measured, in words."""
    q, n = done.quality, len(done.frames)
    if not q or not q["length"] or not q["fade_length"]:
        return []
    steps = n if done.settings.get("loop") else n - 1
    uneven = q["variance"] ** 0.5 / (q["length"] / steps)
    times = q["length"] / q["fade_length"]
    text = f"The way is {times:.2f} times as long as a cross-fade's, its steps ± {uneven:.0%}"
    if times >= FAR:
        return ["The way is far longer than a cross-fade's" + ", for the pictures are nearly the same" * alike(done)]
    if not q["ends"]:
        return [text]
    # In steps of an even cross-fade, which says how far that is.
    return [text + f", and the pictures drawn again are {q['ends'] / (q['fade_length'] / steps):.1f} of its steps off"]


def alike(done: Done) -> bool:
    """Whether the two ends differ by next to nothing."""
    a, b = (done.frames[i].convert("RGB") for i in (0, -1))
    return sum(ImageStat.Stat(ImageChops.difference(a, b)).mean) / 3 < 4


def frames_of(run: Run) -> tuple[list[Image], dict[str, Any]]:
    """The frames that are finished, in their order, and the settings that make them again."""
    return [
        run.frames[i].picture for i in sorted(run.frames)
    ], run.done.settings if run.done else run.request.settings()


def write(session: Session) -> list[str]:
    """The MP4 and the zip of the frames that are finished."""
    run, back = session.run, session.back
    frames, settings = frames_of(run)
    name = f"chrysalis-{run.request.seed}-{session.number}"
    film, pngs = session.path(f"{name}{'-back' * back}.mp4"), session.path(f"{name}.zip")
    video.save_mp4(frames, film, settings, there_and_back=back and not settings.get("loop"))  # a loop closes itself
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
