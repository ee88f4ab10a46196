"""The pose part of the *Interpolate* tab: both skeletons, found, read from files, moved by hand."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL.Image import Image

from engine.checkpoints.resolve import resolve
from engine.requests import DETECTORS, EngineError, PoseRequest
from engine.vision import images
from engine.vision.keypoints import pose
from morph_ui.components.skeleton import poses_of, side, skeletons, value_of
from morph_ui.form import Form
from morph_ui.panels import AT_ONCE, QUIET, Panel, Updates
from morph_ui.panels.status import message, problem
from morph_ui.session import Run, Session
from morph_ui.tabs import Asked, maker

SIDES = {"a": "From", "b": "To"}


class Poses(Panel):
    """Both skeletons and what gives them, built inside the caller's accordion. Looking for people has nothing to do
    with the frames that are shown: its session is its own, its ``status`` is the tab's."""

    def __init__(self, form: Form, status: gr.HTML):
        self.form, self.status, self.which = form, status, form.widgets["pose"]
        self.shown = form.inputs["skeletons"] = skeletons(form.tab)
        small: dict[str, Any] = {"size": "sm", "min_width": 90}
        with gr.Row(elem_classes="take"):
            find = gr.Button("Find people", elem_id="interpolate-find", **small)
            halt = gr.Button("Stop", variant="stop", visible=False, elem_id="interpolate-find-stop", **small)
            small |= {"file_types": [".json"]}
            named = {s: (f"Pose of {n} from a file", f"interpolate-keypoints-{s}") for s, n in SIDES.items()}
            self.opened = {s: gr.UploadButton(t, elem_id=name, **small) for s, (t, name) in named.items()}
        self.join(find, halt)

    def wire(self, worker: Any) -> None:
        state = gr.State(Session(), delete_callback=Session.forget)
        given, out = self.form.components, self.components
        found = self.make.click(maker(worker, state, self.form, self, self.ask), {state, *given}, out, **QUIET)
        found.then(self.steer, given, out, **AT_ONCE)
        self.stop.click(Session.halt, state, **AT_ONCE)
        self.shown.input(self.steer, given, out, **AT_ONCE)
        for name, button in self.opened.items():
            opened = button.upload(partial(self.open, name), {button, *given}, out, **QUIET)
            opened.then(self.steer, given, out, **AT_ONCE)
            self.form.inputs[name].change(partial(self.change, name), given, out, **AT_ONCE)

    def ask(self, session: Session, values: dict[str, Any]) -> Asked:
        """What *Find people* asks for."""
        both = [read(values, name) for name in SIDES]
        if None in both:
            raise EngineError("pictures must be two, to look for people in them; drop them first")
        detector = values["pose"] if values["pose"] in DETECTORS else session.loaded.get("detector", "dwpose")
        session.loaded["detector"] = detector  # what was chosen before skeletons were shown
        model = values["model"] if values["pose_rescue"] else "flora"
        return PoseRequest(tuple(both), detector, values["pose_rescue"], model), {}

    def picture(self, session: Session) -> Updates:
        return {}

    def source(self, session: Session) -> Callable[..., str]:
        return lambda *picture: ""

    def files(self, session: Session) -> Updates:
        run = session.run
        if run.done is None or run.number != session.number:  # nothing new was found
            return {}
        return {self.shown: value_of(run.request.pictures, [run.done.settings[f"pose_{s}"] for s in SIDES])}

    def summary(self, run: Run) -> str:
        found = [f"{count(run.done.settings[f'pose_{s}'])} in {name}" for s, name in SIDES.items()]
        return f"Found {', '.join(found)}. Drag joints to mend them."

    def open(self, name: str, given: dict[Component, Any]) -> Updates:
        """A file of keypoints: it replaces what a side has."""
        try:
            picture = read(self.form.values(given), name)
            if picture is None:
                raise EngineError(f"picture {name.upper()} must be there before its keypoints, got nothing")
            text = keypoints(given[self.opened[name]], picture.size)
            out = {self.shown: exchange(given[self.shown], name, side(picture, text))}
        except Exception as e:
            return {self.status: problem(e)}
        return out | {self.status: message(f"Keypoints are set: {count(text)} in {SIDES[name]}.")}

    def change(self, name: str, given: dict[Component, Any]) -> Updates:
        """Another picture: the keypoints of that side go, the other's stay. Those of loaded settings wait for it."""
        value = given[self.shown]
        if not value:
            return self.still
        old = json.loads(value)["sides"][[*SIDES].index(name)]
        try:
            picture = read(self.form.values(given), name)
        except EngineError:  # Make will say so
            picture = None
        waits = old.get("src") == "" and old["people"]
        new = exchange(value, name, side(picture) | {"people": old["people"]} if waits else side(None))
        gone = not any(poses_of(new)) and given[self.which] == "given"
        return {self.shown: new} | ({self.which: "off"} if gone else {})

    def steer(self, given: dict[Component, Any]) -> Updates:
        """What is shown is what counts, on a network that bodies can steer."""
        try:
            settings = self.form.settings
            choice = resolve(given[self.form.widgets["model"]], settings.paths, settings.folders)
            able = choice.beside("pose") or "pose" in choice.extras
            return {self.which: "given"} if able and any(poses_of(given[self.shown])) else self.still
        except EngineError:  # Make will say so
            return self.still


def exchange(value: str | None, name: str, new: dict[str, Any]) -> str:
    """The skeletons' value with one side exchanged."""
    sides = json.loads(value or value_of([None, None], ["", ""]))["sides"]
    sides[[*SIDES].index(name)] = new
    return json.dumps({"sides": sides})


def read(values: dict[str, Any], name: str) -> Image | None:
    return images.read(values[name], f"picture {name.upper()}") if values[name] else None


def count(text: str) -> str:
    people = len(pose.read(text)) if text else 0
    return {0: "nobody", 1: "one person"}.get(people, f"{people} people")


def keypoints(file: str, size: tuple[int, int]) -> str:
    """A file's people as the one JSON we hand on: in pixels of the picture."""
    if Path(file).stat().st_size > 1 << 20:
        raise EngineError(f"keypoints must be a file of at most 1 MB, got {Path(file).stat().st_size / 1e6:.1f} MB")
    return pose.write(pose.read(Path(file).read_bytes(), "keypoints", size), size)
