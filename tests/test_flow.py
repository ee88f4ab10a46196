"""Pictures between frames: what moves stands half way; what is too far apart is left alone."""

import numpy as np
import pytest
from conftest import picture

from engine.vision.flow import Step

GROUND = np.asarray(picture(3, (128, 96))) // 2 + 100


def square(x: int, y: int = 30) -> np.ndarray:
    """A grained square of 32 pixels over a quiet ground."""
    out = GROUND.copy()
    out[y : y + 32, x : x + 32] = np.random.default_rng(0).integers(0, 90, (32, 32, 3))
    return out


def edges(block: np.ndarray) -> tuple[int, int]:
    """The first and the last column of what is dark."""
    dark = np.flatnonzero((block.mean(-1) < 95).sum(0) > 12)
    return int(dark[0]), int(dark[-1])


@pytest.mark.parametrize(("far", "t"), [(4, 0.5), (8, 0.5), (8, 0.25), (8, 0.75)])
def test_a_square_that_moves_stands_between(far, t):
    step = Step(square(40), square(40 + far))
    made, meant = step.at(t), square(40 + round(far * t))
    assert step.small and made.dtype == np.uint8 and made.shape == meant.shape
    assert all(abs(a - b) <= 1 for a, b in zip(edges(made), edges(meant), strict=True))
    fade = ((1 - t) * square(40) + t * square(40 + far)).astype(int)
    assert np.abs(made.astype(int) - meant).mean() < np.abs(fade - meant).mean() / 4


def test_the_ends_are_the_frames_and_nothing_moves_in_one_picture():
    a, b = square(40), square(48)
    step = Step(a, b)
    assert step.at(0) is a and step.at(1) is b
    assert np.array_equal(Step(a, a.copy()).at(0.5), a) and Step(a, a.copy()).residual < 1e-3


def test_unlike_pictures_are_too_far_apart():
    rng = np.random.default_rng(5)
    a, b = (rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2))
    assert not Step(a, b).small
    assert not Step(*(np.asarray(picture(i, (128, 96))) for i in (1, 2))).small
