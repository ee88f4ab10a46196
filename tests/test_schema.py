import math
import pickle
from dataclasses import fields

import pytest
from conftest import picture

from engine import requests as schema
from engine.requests import EngineError, InterpolateRequest, preset

A, B = picture(0), picture(1)

REFUSED = [
    ({"frames": 0}, "frames"),
    ({"frames": 1}, "frames"),
    ({"frames": 4}, "frames"),
    ({"frames": 9.5}, "frames"),
    ({"frames": 9.0}, "frames"),
    ({"seed": 10**400}, "seed"),
    ({"low": 0.7, "high": 0.3}, "low"),
    ({"low": math.nan}, "low"),
    ({"high": math.inf}, "high"),
    ({"high": 2}, "high"),
    ({"steps": 3}, "steps"),
    ({"steps": 10.5}, "steps"),
    ({"guidance": "much"}, "guidance"),
    ({"seed": -1}, "seed"),
    ({"seed": None}, "seed"),
    ({"eta": -0.1}, "eta"),
    ({"candidates": 0}, "candidates"),
    ({"scheme": "magic"}, "scheme"),
    ({"schedule": "steep"}, "schedule"),
    ({"mix": "add"}, "mix"),
    ({"fit": "squash"}, "fit"),
    ({"prompt": None}, "prompt"),
    ({"picks": ((0, 1),)}, "picks"),
    ({"reseeds": ((9, 1),)}, "reseeds"),
    ({"size": -8}, "size"),
    ({"bias": True}, "bias"),
]


@pytest.mark.parametrize(("wrong", "name"), REFUSED, ids=[str(w) for w, _ in REFUSED])
def test_refusals_name_the_field_what_was_expected_and_what_came(wrong, name):
    with pytest.raises(EngineError) as error:
        InterpolateRequest(A, B, **wrong)
    text = str(error.value)
    assert text.startswith(name) and "must" in text and "got" in text


def test_a_missing_picture_is_refused():
    with pytest.raises(EngineError, match="picture B must be a picture, got nothing"):
        InterpolateRequest(A, None)


def test_requests_travel():
    request = InterpolateRequest(A, B, prompt="a rose", picks=((4, 1),))
    again = pickle.loads(pickle.dumps(request))
    assert again.settings() == request.settings() and again.a.tobytes() == A.tobytes()


def test_presets_are_whole_requests():
    for name in schema.PRESETS:
        assert preset(InterpolateRequest(A, B), name).frames == 9
    with pytest.raises(EngineError, match="preset must be one of"):
        preset(InterpolateRequest(A, B), "final")


def test_every_default_is_inside_its_bounds():
    for f in fields(InterpolateRequest):
        if f.name in InterpolateRequest.BOUNDS:
            bound = InterpolateRequest.BOUNDS[f.name]
            assert bound.low <= f.default <= bound.high


def test_the_live_sampler_belongs_to_the_paper_s_own_scheme():
    with pytest.raises(EngineError, match="sampler must be ddim for the scheme did, got 'live'"):
        InterpolateRequest(A, B, scheme="did", sampler="live")
    assert preset(InterpolateRequest(A, B), "instant").sampler == "live"
