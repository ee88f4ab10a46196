"""The pose part of the *Interpolate* tab: both skeletons, found, read from files, moved by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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
from engine.vision.keypoints.pose import Person
from morph_ui.components.skeleton import people_of, skeletons, value_of
from morph_ui.form import Form
from morph_ui.panels import AT_ONCE, QUIET, Panel, Updates, show
from morph_ui.panels.status import message, problem
from morph_ui.session import Run, Session

INVITATION = "Find the people in both pictures, or open keypoints; then drag any joint to where it belongs."
NAMES = {"a": "From", "b": "To"}


class Poses(Panel):
    """Both skeletons and what gives them, built inside the caller's accordion. Looking for people has nothing to do
    with the frames that are shown: its session is its own, its ``status`` is the tab's."""

    def __init__(self, form: Form, status: gr.HTML):
        self.form, self.status, self.which = form, status, form.widgets["pose"]
        self.shown = skeletons("interpolate", pose.skeleton(), INVITATION)
        small: dict[str, Any] = {"size": "sm", "min_width": 90}
        with gr.Row(elem_classes="take"):
            find = gr.Button("Find people", elem_id="interpolate-find", **small)
            halt = gr.Button("Stop", variant="stop", visible=False, elem_id="interpolate-find-stop", **small)
            small |= {"file_types": [".json"]}
            named = {s: (f"Keypoints of {n}", f"interpolate-keypoints-{s}") for s, n in NAMES.items()}
            self.opened = {s: gr.UploadButton(t, elem_id=name, **small) for s, (t, name) in named.items()}
        self.texts = {s: gr.Textbox("", visible=False, elem_id=f"interpolate-pose-{s}") for s in NAMES}
        form.widgets |= {f"pose_{s}": text for s, text in self.texts.items()}
        self.join(find, halt)

    @property
    def components(self) -> list[Component]:
        return [self.shown, *self.texts.values(), self.which, self.status, self.make, self.stop]

    def wire(self, worker: Any) -> None:
        state = gr.State(Session(), delete_callback=Session.forget)
        given, out = {*self.form.components, self.shown}, self.components
        self.make.click(partial(self.find, worker, state), {state, *given}, out, **QUIET)
        self.stop.click(Session.halt, state, **AT_ONCE)
        self.shown.input(self.move, given, out, **AT_ONCE)
        for side, button in self.opened.items():
            button.upload(partial(self.open, side), {button, *given}, out, **QUIET)
            # Keypoints belong to their picture. Those of loaded settings wait for it: nothing is shown of them yet.
            self.form.inputs[side].change(partial(self.drop, side), given, out, **AT_ONCE)

    # ---- finding

    def find(self, worker: Any, state: gr.State, given: dict[Component, Any]) -> Iterator[Updates]:
        session, values = given[state], self.form.values(given)
        try:
            both = self.read(values)
            if None in both:
                raise EngineError("pictures must be two, to look for people in them; drop them first")
            detector = values["pose"] if values["pose"] in DETECTORS else session.loaded.get("detector", "dwpose")
            session.loaded["detector"] = detector  # what was chosen before skeletons were shown
            model = values["model"] if values["pose_rescue"] else "flora"
            request = PoseRequest(tuple(both), detector, values["pose_rescue"], model)
        except Exception as e:
            yield self.refused(e)
            return
        for updates in show(worker, session, request, self):
            yield updates | (steer(values, self.which) if self.shown in updates else {})

    def source(self, session: Session) -> Callable[..., str]:
        return lambda *picture: ""

    def files(self, session: Session) -> Updates:
        run = session.run
        if run.done is None or run.number != session.number:  # nothing new was found
            return {}
        return self.show(run.request.pictures, [run.done.settings[f"pose_{s}"] for s in NAMES])

    def summary(self, run: Run) -> str:
        people = [len(pose.read(run.done.settings[f"pose_{s}"])) for s in NAMES]
        found = [f"{count(n)} in {name}" for n, name in zip(people, NAMES.values(), strict=True)]
        return f"Found {', '.join(found)}. Drag joints to mend them."

    # ---- what is shown

    def read(self, values: dict[str, Any]) -> list[Image | None]:
        return [images.read(values[s], f"picture {s.upper()}") if values[s] else None for s in NAMES]

    def show(self, pictures: Any, texts: list[str]) -> Updates:
        people = [[p.joints for p in pose.read(t)] if t else [] for t in texts]
        return {self.shown: value_of(pictures, people)} | dict(zip(self.texts.values(), texts, strict=True))

    def move(self, given: dict[Component, Any]) -> Updates:
        """A joint was dragged: the keypoints as they are now."""
        value = given[self.shown]
        try:
            sizes = [(max(1, int(s["width"])), max(1, int(s["height"]))) for s in json.loads(value or "{}")["sides"]]
            texts = [
                pose.write(tuple(Person(tuple(j and (j[0], j[1]) for j in p)) for p in people), size)
                for people, size in zip(people_of(value), sizes, strict=True)
            ]
        except (EngineError, KeyError, TypeError, ValueError) as e:
            return {self.status: problem(e)}
        return dict(zip(self.texts.values(), texts, strict=True)) | steer(self.form.values(given), self.which)

    def open(self, side: str, given: dict[Component, Any]) -> Updates:
        """A file of keypoints."""
        values = self.form.values(given)
        try:
            if not values[side]:
                raise EngineError(f"picture {side.upper()} must be there before its keypoints, got nothing")
            both = self.read(values)
            texts = {s: values[f"pose_{s}"] for s in NAMES}
            texts[side] = keypoints(given[self.opened[side]], both[[*NAMES].index(side)].size)
            out = self.show(both, [*texts.values()])
        except Exception as e:
            return {self.status: problem(e)}
        said = f"Keypoints are set: {count(len(pose.read(texts[side])))} in {NAMES[side]}."
        return out | steer(values, self.which) | {self.status: message(said)}

    def drop(self, side: str, given: dict[Component, Any]) -> Updates:
        """Another picture: the keypoints of that side go, the other's stay."""
        if not given[self.shown]:
            return self.still
        texts = {s: given[text] for s, text in self.texts.items()} | {side: ""}
        value = json.loads(given[self.shown]) | {"edited": False}
        value["sides"][[*NAMES].index(side)] = {"src": "", "width": 0, "height": 0, "people": []}
        out: Updates = {self.texts[side]: "", self.shown: json.dumps(value) if any(texts.values()) else None}
        return out | ({} if any(texts.values()) or given[self.which] != "given" else {self.which: "off"})


def steer(values: dict[str, Any], which: Component) -> Updates:
    """What is shown is what counts, on a network that bodies can steer."""
    try:
        choice = resolve(values["model"])
        able = choice.beside("pose") or "pose" in choice.extras
    except EngineError:  # Make will say so
        able = False
    return {which: "given"} if able else {}


def count(people: int) -> str:
    return {0: "nobody", 1: "one person"}.get(people, f"{people} people")


def keypoints(file: str, size: tuple[int, int]) -> str:
    """A file's people as the one JSON we hand on: in pixels of the picture."""
    if Path(file).stat().st_size > 1 << 20:
        raise EngineError(f"keypoints must be a file of at most 1 MB, got {Path(file).stat().st_size / 1e6:.1f} MB")
    return pose.write(pose.read(Path(file).read_bytes(), "keypoints", size), size)
