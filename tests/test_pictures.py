"""The pictures are those recorded earlier, and every switch shows in them, or looking at them would prove nothing."""

from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pictures import CASES, PAIRS, REQUESTS, SAME, distance, result, stored, thumbnails

TOLERANCE = 2.0  # grey levels: the mean absolute difference of the frames that differ most, at 32 × 32
STORED = stored(Path(__file__).with_name("pictures.png"))


@cache
def made(name: str) -> np.ndarray:
    return thumbnails(result(name).frames)


def settings(name: str) -> dict:
    kind, own, *more = CASES[name]
    out = {f.name: f.default for f in fields(REQUESTS[kind])} | own
    for change in more:
        out |= change
    return out


@pytest.mark.parametrize("name", CASES)
def test_the_pictures_are_those_recorded(name):
    # When a fit has not gained enough is told by last bits: other processors stop it a step sooner or later.
    assert distance(made(name), STORED[name]) <= (3 if name == "morph patient" else 1) * TOLERANCE


def test_no_others_are_recorded():
    assert list(STORED) == list(CASES)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_switch_shows(a, b):
    one, other = settings(a), settings(b)
    assert len([name for name in one if one[name] != other[name]]) == 1
    assert distance(made(a), made(b)) > 3 * TOLERANCE


@pytest.mark.parametrize(("a", "b"), SAME)
def test_what_is_remembered_changes_nothing(a, b):
    assert np.array_equal(made(a), made(b))
