"""The poses beside the form: found by a job, read from a file, gone with their picture; no browser, no detector."""

import json

import gradio as gr
import pytest
from conftest import picture
from test_stream import Scripted

from engine.requests import Done, EngineError, InterpolateRequest
from engine.requests.settings import Settings
from engine.vision.keypoints import pose
from morph_ui.components.dropzone import dropzone
from morph_ui.components.skeleton import poses_of, value_of
from morph_ui.form import Form
from morph_ui.panels.status import line
from morph_ui.session import Session
from morph_ui.tabs import maker
from morph_ui.tabs.poses import Poses

ONE = pose.write((pose.Person(tuple((0.3 + 0.02 * i, 0.2 + 0.03 * i) for i in range(18))),), (80, 64))


@pytest.fixture
def tab(tmp_path):
    """The widgets, and what a handler is given: both pictures dropped, a network that bodies can steer."""
    with gr.Blocks():
        form = Form(InterpolateRequest, Settings())
        form.inputs |= {s: dropzone(s, s) for s in "ab"}
        poses, state = Poses(form, line("t")), gr.State()
    given = {w: w.value for w in form.components} | {state: Session(), form.widgets["model"]: "sd15"}
    for i, s in enumerate("ab"):
        picture(i).save(tmp_path / f"{s}.png")
        given[form.inputs[s]] = str(tmp_path / f"{s}.png")
    return form, poses, state, given


def test_who_is_found_is_shown_and_steers(tab):
    form, poses, state, given = tab
    worker = Scripted(Done((), {"pose_a": ONE, "pose_b": ""}, 1.0, 0))
    *_, last = maker(worker, state, form, poses, poses.ask)(given)
    assert worker.request.detector == "dwpose" and len(worker.request.pictures) == 2
    assert "Found one person in From, nobody in To" in last[poses.status] and last[poses.make]["visible"]
    given[poses.shown] = last[poses.shown]
    assert [len(pose.read(t)) if t else 0 for t in poses_of(last[poses.shown])] == [1, 0]
    assert poses.steer(given) == {poses.which: "given"}
    assert poses.steer(given | {form.widgets["model"]: "flora"}) == poses.still
    # What is wrong is said, and the skeletons stay.
    *_, last = maker(Scripted(EngineError("memory must be larger")), state, form, poses, poses.ask)(given)
    assert "Memory must be larger" in last[poses.status] and poses.shown not in last
    *_, last = maker(worker, state, form, poses, poses.ask)(given | {form.inputs["a"]: None})
    assert "Pictures must be two" in last[poses.status]


def test_keypoints_come_from_a_file_and_go_with_their_picture(tab, tmp_path):
    _, poses, _, given = tab
    file = tmp_path / "people.json"
    file.write_text(ONE)
    out = poses.open("b", given | {poses.opened["b"]: str(file)})
    assert "one person in To" in out[poses.status]
    given |= {poses.shown: out[poses.shown], poses.which: "given"}
    assert poses.change("a", given) == {poses.shown: out[poses.shown]}  # the other picture's stay
    assert poses.change("b", given)[poses.which] == "off"
    file.write_text("no json")
    assert "must be" in poses.open("a", given | {poses.opened["a"]: str(file)})[poses.status]
    # Those of loaded settings wait for their picture.
    waiting = poses.change("a", given | {poses.shown: value_of([None, None], [ONE, ""])})[poses.shown]
    assert json.loads(waiting)["sides"][0]["src"].startswith("data:") and poses_of(waiting)[0]
