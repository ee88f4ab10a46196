"""Pose guidance: skeletons on the way steer the frames, fade where nobody is, come from files or from a look."""

import json

import numpy as np
import pytest
import torch
from checkpoints import cached, controlnet
from conftest import make_network, picture

from engine.checkpoints.manager import Models
from engine.checkpoints.resolve import DETECTORS
from engine.jobs.run import run
from engine.methods import posing
from engine.methods.posing import Poses
from engine.requests import Done, EngineError, InterpolateRequest, PoseRequest
from engine.vision.keypoints import pose
from engine.vision.keypoints.detectors import WEIGHTS
from engine.vision.keypoints.pose import Person

SIZE = (64, 64)


def standing(x=0.5, height=0.8):
    """A person upright at ``x``."""
    at = [(0, .1), (0, .2), (-.1, .2), (-.15, .35), (-.15, .5), (.1, .2), (.15, .35), (.15, .5), (-.05, .5),
          (-.05, .75), (-.05, 1), (.05, .5), (.05, .75), (.05, 1), (-.02, .08), (.02, .08), (-.04, .1),
          (.04, .1)]  # fmt: skip
    return Person(tuple((x + dx * height, 0.1 + dy * height) for dx, dy in at))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = make_network(tmp_path_factory.mktemp("posing") / "net", attends=(0,))
    controlnet(made, "pose", 3)
    controlnet(made, "canny", 4)
    return made


@pytest.fixture
def models(monkeypatch, tmp_path):
    """Networks of its own, since what they remember is looked at; the detector's files are "here"."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "eyes").mkdir()
    for name in WEIGHTS["dwpose"][1]:
        (tmp_path / "eyes" / name).write_bytes(b"not looked into here")
    cached(tmp_path / "hub", DETECTORS["dwpose"].source, tmp_path / "eyes")
    return Models("cpu", torch.float32)


def request(folder, **more):
    return InterpolateRequest(picture(1, SIZE), picture(2, SIZE), frames=5, steps=6, model=str(folder), **more)


def done(models, request):
    return list(run(models, request))[-1]


def far(a, b):
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


def text(*people):
    return pose.write(people, SIZE)


def test_the_hint_is_the_skeleton_of_each_place_at_its_strength():
    a, b = standing(0.3), standing(0.7)
    hint = Poses((a,), (b,), "largest", 1.5, (96, 64)).hint([0.0, 0.25, 0.5, 1.0])
    assert hint.picture.shape == (4, 3, 64, 96) and hint.scale.tolist() == pytest.approx([1.0, 1.25, 1.5, 1.0])
    middle = np.asarray(pose.drawn((pose.between(a, b, 0.5),), (96, 64)), np.float32) / 255
    assert torch.allclose(hint.picture[2], torch.from_numpy(middle).permute(2, 0, 1))
    fading = Poses((a,), (), "largest", 1.5, (96, 64)).hint([0.0, 0.5, 1.0])
    assert fading.scale.tolist() == pytest.approx([1.0, 0.75, 0.0])
    other = Person((None, *b.joints[:2], *[None] * 15))
    joints = Person((a.joints[0], *[None] * 17))
    apart = Poses((joints,), (other,), "largest", 1.5, SIZE).hint([0.5])  # they share no joint
    assert apart.scale.tolist() == [0.0] and not apart.picture.any()


def test_given_keypoints_steer_the_frames_and_come_back_in_the_settings(folder, models):
    free = done(models, request(folder))
    steered = request(folder, pose="given", pose_a=text(standing(0.3)), pose_b=text(standing(0.7)))
    found = done(models, steered)
    assert isinstance(found, Done) and found.evaluations == free.evaluations
    assert far(found.frames[2], free.frames[2]) > 0.5
    known = set(steered.settings()) - {"method", "picks", "reseeds"}
    again = InterpolateRequest(steered.a, steered.b, **{k: found.settings[k] for k in known})
    assert (
        again.pose_a == found.settings["pose_a"]
        and done(models, again).frames[2].tobytes() == found.frames[2].tobytes()
    )


def test_nobody_on_one_side_fades_and_is_told_and_on_both_is_the_free_way(folder, models):
    free, crowd = done(models, request(folder)), text(standing(0.2, 0.4), standing(0.7))
    for a, b, who in ((crowd, "", "the last"), ("", crowd, "the first picture")):
        found = done(models, request(folder, pose="given", pose_a=a, pose_b=b))
        assert any(f"nobody was found in {who}, so poses" in n for n in found.notes)
        assert far(found.frames[2], free.frames[2]) > 0.5
    nobody = json.dumps({"people": []})
    found = done(models, request(folder, pose="given", pose_a=nobody, pose_b=nobody))
    assert [f.tobytes() for f in found.frames] == [f.tobytes() for f in free.frames]


class Eyes:
    """A detector that knows what it will see, picture by picture."""

    bytes = 1

    def __init__(self, *seen):
        self.seen, self.asked = list(seen), []

    def people(self, picture):
        self.asked.append(picture)
        return self.seen.pop(0)


def test_people_are_looked_for_once_and_only_where_none_are_given(folder, models):
    eyes = Eyes((standing(0.7),))
    models.tools.put(("detector", "dwpose"), eyes, 1)
    posed = request(folder, pose="dwpose", pose_a=text(standing(0.3)))
    first = done(models, posed)
    assert [p.size for p in eyes.asked] == [SIZE]
    models.tools.put(("detector", "dwpose"), Eyes(), 1)  # would fail if it were asked again
    assert done(models, posed).frames[2].tobytes() == first.frames[2].tobytes()
    given = request(folder, pose="given", pose_a=first.settings["pose_a"], pose_b=first.settings["pose_b"])
    assert far(done(models, given).frames[2], first.frames[2]) < 0.5


def test_a_drawing_is_looked_at_again_as_a_photograph(folder, models, monkeypatch):
    eyes = Eyes((), (standing(),))
    models.tools.put(("detector", "dwpose"), eyes, 1)
    seen = []
    real = posing.photographed

    def watched(net, *args):
        seen.append("canny" in net.controls)
        return real(net, *args)

    monkeypatch.setattr(posing, "photographed", watched)
    found = done(models, PoseRequest((picture(1, SIZE),), rescue="photo of a person", model=str(folder)))
    assert seen == [True] and len(eyes.asked) == 2 and far(*eyes.asked) > 1
    assert pose.read(found.settings["pose_a"])[0].joints[0] == pytest.approx(standing().joints[0], abs=1e-6)
    assert found.frames[0].tobytes() == pose.drawn((standing(),), SIZE).tobytes()
    assert "pose_b" not in found.settings


def test_what_is_missing_is_a_sentence(folder, models, tiny):
    with pytest.raises(EngineError, match=r"pose must be off for .*tiny, which has no control for poses; sd15"):
        list(run(models, request(tiny, pose="given", pose_a=text(standing()))))
    with pytest.raises(EngineError, match="pose_a must be OpenPose's JSON"):
        list(run(models, request(folder, pose="given", pose_a="no keypoints")))
    with pytest.raises(EngineError, match="pose_a or pose_b must hold keypoints"):
        request(folder, pose="given")
    with pytest.raises(EngineError, match="pictures must be one or two, got 3"):
        PoseRequest((picture(),) * 3)
    with pytest.raises(EngineError, match="detector must be one of dwpose, openpose, got 'eyes'"):
        PoseRequest((picture(),), detector="eyes")


def test_what_it_asks_for_beside_the_network():
    both = {"pose_a": text(standing()), "pose_b": text(standing())}
    assert request("flora").wants == ()
    assert request("sd15", pose="given", **both).wants == ("pose",)
    assert request("sd15", pose="dwpose", **both, pose_rescue="photo").wants == ("pose",)
    assert request("sd15", pose="openpose", pose_rescue="photo").wants == ("pose", "openpose", "canny")
    assert PoseRequest((picture(),), rescue="photo").wants == ("dwpose", "canny")
