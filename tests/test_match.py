"""Arrows of what align moves: by the points without a network, by its features with one."""

import pytest
from conftest import done, picture

from engine.jobs.fetch import fetch
from engine.methods.match import given
from engine.requests import EngineError, MatchRequest
from engine.requests.settings import Settings

A, WIDE = picture(0, (64, 64)), picture(1, (128, 64))


def arrows(models, *pictures, **own):
    return done(models, MatchRequest(*pictures, **own))


def test_points_shift_every_arrow_and_nothing_is_loaded(models, monkeypatch):
    monkeypatch.setattr(models, "loading", lambda *_: pytest.fail("no network is needed"))
    got = arrows(models, A, A, points=((0.2, 0.2, 0.3, 0.25),), model="sd15")
    assert len(got.settings["arrows"]) > 40 and "moves the picture as a whole" in got.notes[0]
    for x0, y0, x1, y1, trust in got.settings["arrows"]:
        assert x1 - x0 == pytest.approx(0.1, abs=2e-4) and y1 - y0 == pytest.approx(0.05, abs=2e-4) and trust == 1
    assert list(fetch(MatchRequest(A, A, model="sd15"), Settings())) == []


def test_arrows_are_in_the_pictures_as_they_were_given(models):
    """A wide picture in the frame of a square one: its middle half is seen, and arrows say where that is."""
    still = arrows(models, A, WIDE).settings["arrows"]
    assert min(x1 for _, _, x1, _, _ in still) > 0.25 and max(x1 for _, _, x1, _, _ in still) < 0.75
    for x0, y0, x1, y1, _ in still:
        assert x1 == pytest.approx(0.25 + x0 / 2, abs=2e-4) and y1 == pytest.approx(y0, abs=2e-4)
    whole = arrows(models, A, WIDE, fit="pad").settings["arrows"]
    assert all(0 <= v <= 1 for row in whole for v in row) and len(whole) < len(still)


def test_the_network_is_asked_for_the_automatic_map(models, tiny):
    got = arrows(models, A, A, align="automatic", model=str(tiny), size=64)
    assert got.evaluations and got.notes and "network" in got.notes[0]
    assert all(abs(x1 - x0) < 0.1 and abs(y1 - y0) < 0.1 for x0, y0, x1, y1, _ in got.settings["arrows"])


def test_what_is_no_point_is_refused():
    with pytest.raises(EngineError, match="points must be for at most 1 ways"):
        MatchRequest(A, A, points=((), ()))
    with pytest.raises(EngineError, match="points must lie in the pictures"):
        MatchRequest(A, A, points=((0.1, 0.1, 2, 0.1),))


def test_given_is_the_way_back():
    import torch

    from engine.methods.align import shown

    p = torch.tensor([[0.3, 0.9], [0.5, 0.1]], dtype=torch.float64)
    for fit in ("fit", "pad"):
        assert torch.allclose(given(shown(p, (300, 200), (64, 96), fit), (300, 200), (64, 96), fit), p)
