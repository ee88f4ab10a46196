"""The pose part of the *Interpolate* tab: both skeletons, found, read from files, moved by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from engine.checkpoints.resolve import chosen
from engine.requests import DETECTORS, KEEPS, POSES, Cancelled, Done, EngineError, InterpolateRequest, PoseRequest
from engine.vision import images
from engine.vision.keypoints import pose
from engine.vision.keypoints.pose import Person
from morph_ui.skeleton import people_of, skeletons, value_of
from morph_ui.stage import QUIET
from morph_ui.stream import Clock, Session, begin, events, message, sentence
from morph_ui.widgets import default, slider

R = InterpolateRequest
LABELS = {"off": "off", "given": "by the skeletons below", "dwpose": "DWPose finds them",
          "openpose": "OpenPose finds them (non-commercial research only)"}  # fmt: skip
KEEP_LABELS = {"largest": "the largest person", "all": "everybody, matched"}
INVITATION = "Find the people in both pictures, or open keypoints; then drag any joint to where it belongs."
SIDES, NAMES = ("a", "b"), ("From", "To")


def controls(c: dict[str, Any]) -> dict[str, Any]:
    """The request's pose fields into ``c``; returns the other widgets of this part."""
    own: dict[str, Any] = {}
    with gr.Accordion("Poses", open=False, elem_id="interpolate-poses", elem_classes="advanced"):
        c["pose"] = gr.Dropdown([(LABELS[p], p) for p in POSES], value=default(R, "pose"), label="Bodies steer the way",
                                info="on networks with a control for poses: the Stable Diffusion ones",
                                elem_id="interpolate-pose")  # fmt: skip
        with gr.Row():
            c["pose_people"] = gr.Dropdown([(KEEP_LABELS[k], k) for k in KEEPS], value=default(R, "pose_people"),
                                           label="Who", min_width=140)  # fmt: skip
            c["pose_scale"] = slider(R, "pose_scale", "How strongly", info="in the middle; 1 at the ends")
        c["pose_rescue"] = gr.Textbox("", label="If nobody is found, look in a photograph of it", lines=1,
                                      placeholder="its words, e.g. photo of a dancer; empty: do not")  # fmt: skip
        own["shown"] = skeletons("interpolate", pose.skeleton(), INVITATION)
        with gr.Row(elem_classes="take"):
            own["find"] = gr.Button("Find people", size="sm", min_width=90, elem_id="interpolate-find")
            own["halt"] = gr.Button("Stop", size="sm", min_width=90, variant="stop", visible=False,
                                    elem_id="interpolate-find-stop")  # fmt: skip
            for side, name in zip(SIDES, NAMES, strict=True):
                own[f"file_{side}"] = gr.UploadButton(f"Keypoints of {name}", file_types=[".json"], size="sm",
                                                      min_width=90,
                                                      elem_id=f"interpolate-keypoints-{side}")  # fmt: skip
        for side in SIDES:
            c[f"pose_{side}"] = gr.Textbox("", visible=False, elem_id=f"interpolate-pose-{side}")
    return own


def wire(worker: Any, c: dict[str, Any], own: dict[str, Any], status: gr.HTML) -> gr.State:
    """What its buttons do. ``c`` holds the request's widgets. Returns the visit's session for this: looking for people
    has nothing to do with the frames that are shown."""
    session = gr.State(Session(), delete_callback=Session.forget)
    pictures, texts, shown = [c["a"], c["b"]], [c["pose_a"], c["pose_b"]], own["shown"]
    out = [shown, *texts, c["pose"], status]
    find, halt = own["find"], own["halt"]
    told = [session, *pictures, c["pose"], c["pose_rescue"], c["model"]]
    find.click(finding(worker), told, [*out, find, halt], **QUIET)
    halt.click(Session.stop, session, queue=False, **QUIET)
    shown.input(moved, [shown, c["model"]], [*texts, c["pose"], status], queue=False, **QUIET)
    for i, side in enumerate(SIDES):
        files = [own[f"file_{side}"], *pictures, *texts, c["pose"], c["model"]]
        own[f"file_{side}"].upload(opened(i), files, out, **QUIET)
        # Keypoints belong to their picture. Those of loaded settings wait for it: nothing is shown of them yet.
        pictures[i].change(gone(i), [shown, *texts, c["pose"]], [shown, *texts, c["pose"]], queue=False, **QUIET)
    return session


def finding(worker: Any) -> Callable[..., Iterator[list[Any]]]:
    """The handler of *Find people*."""

    def run(session: Session, a: str | None, b: str | None, which: str, rescue: str, model: str) -> Iterator[list[Any]]:
        quiet, on, off = [gr.skip()] * 4, gr.update(visible=True), gr.update(visible=False)
        try:
            if not a or not b:
                raise EngineError("pictures must be two, to look for people in them; drop them first")
            both = [images.read(p, f"picture {s.upper()}") for s, p in zip(SIDES, (a, b), strict=True)]
            detector = which if which in DETECTORS else session.loaded.get("detector", "dwpose")
            session.loaded["detector"] = detector  # what was chosen before skeletons were shown
            request = PoseRequest(tuple(both), detector, rescue, model if rescue else "flora")
            number, clock, done = begin(session, request), Clock(), None
            for event in events(worker, request, session):
                clock.see(event)
                yield [*quiet, clock.line, off, on]
                done = event
            if session.run != number or not isinstance(done, Done):
                yield [gr.skip()] * 7
                return
            texts = [done.settings[f"pose_{s}"] for s in SIDES]
            people = [pose.read(t) for t in texts]
            found = [f"{counted(len(p))} in {n}" for p, n in zip(people, NAMES, strict=True)]
            yield [value_of(both, [[p.joints for p in them] for them in people]), *texts, steering(which, model),
                   message(f"Found {', '.join(found)}. Drag joints to mend them."), on, off]  # fmt: skip
        except Cancelled:
            yield [*quiet, message("Stopped"), on, off]
        except Exception as e:
            yield [*quiet, message(sentence(e), "problem"), on, off]

    return run


def counted(people: int) -> str:
    return {0: "nobody", 1: "one person"}.get(people, f"{people} people")


def steering(which: str, model: str) -> Any:
    """What is shown is what counts, on a network that bodies can steer."""
    try:
        choice = chosen(model)
        able = bool(choice.beside("pose") or "pose" in choice.extras)
    except EngineError:  # Make will say so
        able = False
    return "given" if able and which != "given" else gr.skip()


def moved(value: str | None, model: str) -> list[Any]:
    """A joint was dragged: the keypoints as they are now."""
    try:
        people = people_of(value)
        sizes = [(max(1, int(s["width"])), max(1, int(s["height"]))) for s in json.loads(value or "{}")["sides"]]
        texts = [
            pose.write(tuple(Person(tuple(j and (j[0], j[1]) for j in p)) for p in them), size)
            for them, size in zip(people, sizes, strict=True)
        ]
        return [*texts, steering("", model), gr.skip()]
    except (EngineError, KeyError, TypeError, ValueError) as e:
        return [gr.skip(), gr.skip(), gr.skip(), message(sentence(e), "problem")]


def opened(side: int) -> Callable[..., list[Any]]:
    """The handler of a file of keypoints."""

    def read(file: str, a: str | None, b: str | None, pose_a: str, pose_b: str, which: str, model: str) -> list[Any]:
        try:
            texts, paths = [pose_a, pose_b], (a, b)
            if not paths[side]:
                raise EngineError(f"picture {SIDES[side].upper()} must be there before its keypoints, got nothing")
            both = [images.read(p, f"picture {s.upper()}") if p else None for s, p in zip(SIDES, paths, strict=True)]
            own = both[side]
            assert own is not None
            texts[side] = keypoints(file, own.size)
            people = [pose.read(t) if t else () for t in texts]
            value = value_of(both, [[p.joints for p in them] for them in people])
            said = message(f"Keypoints are set: {counted(len(people[side]))} in {NAMES[side]}.")
            return [value, *texts, steering(which, model), said]
        except Exception as e:
            return [gr.skip()] * 4 + [message(sentence(e), "problem")]

    return read


def keypoints(file: str, size: tuple[int, int]) -> str:
    """A file's people as the one JSON we hand on: in pixels of the picture."""
    if Path(file).stat().st_size > 1 << 20:
        raise EngineError(f"keypoints must be a file of at most 1 MB, got {Path(file).stat().st_size / 1e6:.1f} MB")
    return pose.write(pose.read(Path(file).read_bytes(), "keypoints", size), size)


def gone(side: int) -> Callable[..., list[Any]]:
    """Another picture: the keypoints of that side go, the other's stay."""

    def clear(shown: str | None, pose_a: str, pose_b: str, which: str) -> list[Any]:
        if not shown:
            return [gr.skip()] * 4
        texts = [pose_a, pose_b]
        texts[side] = ""
        value = json.loads(shown)
        value["sides"][side] = {"src": "", "width": 0, "height": 0, "people": []}
        value["edited"] = False
        if any(texts):
            return [json.dumps(value), *texts, gr.skip()]
        return [None, "", "", "off" if which == "given" else gr.skip()]

    return clear
