"""Pose guidance: skeletons on the way steer the frames, fade where nobody is, come from files or from a look."""

import json

import numpy as np
import pytest
import torch
from checkpoints import cached, controlnet
from conftest import done, make_network, picture
from pictures import block, distance

import engine.methods.pose as method
from engine.checkpoints.manager import ModelManager
from engine.checkpoints.resolve import DETECTORS
from engine.requests import EngineError, InterpolateRequest, PoseRequest, fields_of
from engine.vision.keypoints import pose, skeleton
from engine.vision.keypoints.pose import Person

SIZE = (64, 64)
A, B = picture(1, SIZE), picture(2, SIZE)
JOINTS = """0 .1  0 .2  -.1 .2  -.15 .35  -.15 .5  .1 .2  .15 .35  .15 .5  -.05 .5  -.05 .75  -.05 1  .05 .5  .05 .75
            .05 1  -.02 .08  .02 .08  -.04 .1  .04 .1"""


def standing(x=0.5, height=0.8):
    """A person upright at ``x``."""
    at = np.array(JOINTS.split(), float).reshape(18, 2) * height + (x, 0.1)
    return Person(tuple(map(tuple, at.tolist())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = make_network(tmp_path_factory.mktemp("posing") / "net", attends=(0,))
    controlnet(made, "pose", 3)
    controlnet(made, "canny", 4)
    return str(made)


@pytest.fixture
def ask(folder):
    small = {"frames": 5, "steps": 6, "size": 64, "model": folder}
    return lambda **own: InterpolateRequest(A, B, **small | own)


@pytest.fixture
def models(models, monkeypatch, tmp_path):
    """The networks of all tests, with nobody remembered; the detector's files are "here"."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "eyes").mkdir()
    for name in DETECTORS["dwpose"].source.files:
        (tmp_path / "eyes" / name).write_bytes(b"not looked into here")
    cached(tmp_path / "hub", DETECTORS["dwpose"].source, tmp_path / "eyes")
    own = ModelManager("cpu", torch.float32)
    own._resident = models._resident  # loading takes longest
    return own


def text(*people):
    return pose.write(people, SIZE)


def far(a, b):
    """How far apart the frames in the middle of two results are."""
    return distance(block(a.frames[2:3]), block(b.frames[2:3]))


class Eyes:
    """A detector that knows what it will see, picture by picture."""

    bytes = 1

    def __init__(self, *seen):
        self.seen, self.asked = list(seen), []

    def people(self, picture):
        self.asked.append(picture)
        return self.seen.pop(0)


@pytest.fixture
def look(models):
    """Has people found that are known beforehand."""
    return lambda *seen: models.tools.put(("detector", "dwpose"), Eyes(*seen), 1)


def test_what_steers_is_the_skeleton_of_each_place_at_its_strength():
    a, b = standing(0.3), standing(0.7)
    given = method.Poses((a,), (b,), "largest", 1.5, (96, 64)).control([0.0, 0.25, 0.5, 1.0])
    assert given.picture.shape == (4, 3, 64, 96) and given.scale.tolist() == pytest.approx([1.0, 1.25, 1.5, 1.0])
    middle = np.asarray(skeleton.draw((pose.person_at(a, b, 0.5),), (96, 64)), np.float32) / 255
    assert torch.allclose(given.picture[2], torch.from_numpy(middle).permute(2, 0, 1))
    fading = method.Poses((a,), (), "largest", 1.5, SIZE).control([0.0, 0.5, 1.0])
    assert fading.scale.tolist() == pytest.approx([1.0, 0.75, 0.0])
    one, other = Person((a.joints[0], *[None] * 17)), Person((None, *b.joints[:2], *[None] * 15))
    apart = method.Poses((one,), (other,), "largest", 1.5, SIZE).control([0.5])  # they share no joint
    assert apart.scale.tolist() == [0.0] and not apart.picture.any()


def test_given_keypoints_steer_the_frames_and_come_back_in_the_settings(models, ask):
    free, steered = done(models, ask()), ask(pose="given", pose_a=text(standing(0.3)), pose_b=text(standing(0.7)))
    found = done(models, steered)
    assert found.evaluations == free.evaluations and far(found, free) > 0.5
    again = ask(**{n: found.settings[n] for n in fields_of(InterpolateRequest) if n != "model"})  # (its name, no path)
    assert again.pose_a == found.settings["pose_a"] and far(done(models, again), found) == 0


def test_nobody_on_one_side_fades_and_is_told_and_on_both_is_the_free_way(models, ask):
    free, crowd = done(models, ask()), text(standing(0.2, 0.4), standing(0.7))
    for a, b, who in ((crowd, "", "the last"), ("", crowd, "the first picture")):
        found = done(models, ask(pose="given", pose_a=a, pose_b=b))
        assert any(f"nobody was found in {who}, so poses" in note for note in found.notes) and far(found, free) > 0.5
    nobody = json.dumps({"people": []})
    assert far(done(models, ask(pose="given", pose_a=nobody, pose_b=nobody)), free) == 0


def test_people_are_looked_for_once_and_only_where_none_are_given(models, ask, look):
    eyes, posed = look((standing(0.7),)), ask(pose="dwpose", pose_a=text(standing(0.3)))
    first = done(models, posed)
    assert [p.size for p in eyes.asked] == [SIZE]
    look()  # would fail if it were asked again
    assert far(done(models, posed), first) == 0
    given = {name: first.settings[name] for name in ("pose_a", "pose_b")}
    assert far(done(models, ask(pose="given", **given)), first) < 0.5


def test_a_drawing_is_looked_at_again_as_a_photograph(models, folder, look, monkeypatch):
    eyes, seen, photograph = look((), (standing(),)), [], method.photograph
    monkeypatch.setattr(method, "photograph", lambda model, *rest: seen.append(model) or photograph(model, *rest))
    found = done(models, PoseRequest((A,), rescue="photo of a person", model=folder))
    assert seen[0].resident.has("canny") and distance(block(eyes.asked[:1]), block(eyes.asked[1:])) > 1
    joints = pose.read(found.settings["pose_a"])[0].joints
    assert joints[0] == pytest.approx(standing().joints[0], abs=1e-6) and "pose_b" not in found.settings
    assert distance(block(found.frames), block([skeleton.draw((standing(),), SIZE)])) == 0


def test_people_of_a_frame_stand_where_they_are_in_the_whole_picture():
    picture, frame, people = (300, 200), (128, 128), (standing(0.5, 0.5),)
    (back,) = method.unframe(pose.frame(people, picture, frame, "fit"), picture, frame)
    assert np.allclose(back.joints, people[0].joints)


def test_what_is_missing_is_a_sentence(models, ask, tiny):
    with pytest.raises(EngineError, match=r"pose must be off for .*tiny, which has no control for poses; sd15"):
        done(models, ask(model=str(tiny), pose="given", pose_a=text(standing())))
    with pytest.raises(EngineError, match="pose_a must be OpenPose's JSON"):
        done(models, ask(pose="given", pose_a="no keypoints"))


def test_what_it_asks_for_beside_the_network(ask):
    both = {"pose_a": text(standing()), "pose_b": text(standing())}
    assert ask().wants == () and ask(pose="given", **both).wants == ("pose",)
    assert ask(pose="dwpose", **both, pose_rescue="photo").wants == ("pose",)
    assert ask(pose="openpose", pose_rescue="photo").wants == ("pose", "openpose", "canny")
    assert PoseRequest((A,), rescue="photo").wants == ("dwpose", "canny")
