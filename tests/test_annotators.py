"""Lines of a photograph by controlnet-aux's own classes with random weights, and by ours."""

import warnings

import cv2
import numpy as np
import pytest
import torch

from engine.requests import EngineError
from engine.vision import annotators
from engine.vision.annotators import ANNOTATORS, lines
from engine.vision.drawing import sketch_of


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(annotators, "SIDE", 64)


@pytest.fixture(scope="module")
def photo():
    sheet = np.full((96, 128, 3), 220, np.uint8)
    cv2.circle(sheet, (64, 48), 30, (200, 30, 40), -1)
    return sheet


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlnet_aux.hed import ControlNetHED_Apache2
        from controlnet_aux.lineart import Generator
    folder = tmp_path_factory.mktemp("annotators")
    torch.manual_seed(0)
    torch.save(ControlNetHED_Apache2().state_dict(), folder / "ControlNetHED.pth")
    for name in ("sk_model.pth", "sk_model2.pth"):
        torch.save(Generator(3, 1, 3).state_dict(), folder / name)
    hed = [folder / "ControlNetHED.pth"]
    return {"hed": hed, "scribble": hed, "lineart": [folder / "sk_model.pth", folder / "sk_model2.pth"]}


def test_our_own_needs_no_weights(photo):
    assert (lines(photo) == sketch_of(photo)).all()


@pytest.mark.parametrize("kind", ["hed", "lineart"])
def test_lines_are_the_networks_answer_turned_dark_on_white(photo, weights, kind):
    from controlnet_aux import HEDdetector, LineartDetector

    found = lines(photo, kind, weights[kind])
    assert found.shape == photo.shape[:2] and found.dtype == np.uint8 and found.std() > 0
    own = (HEDdetector if kind == "hed" else LineartDetector).from_pretrained(str(weights[kind][0].parent))
    theirs = own(photo, detect_resolution=64, image_resolution=64, output_type="np")
    assert (found == cv2.resize(255 - theirs[..., 0], (128, 96), interpolation=cv2.INTER_LINEAR)).all()


def test_a_scribble_is_black_or_white(photo, weights):
    found = lines(photo, "scribble", weights["scribble"])
    assert found.shape == (96, 128) and np.isin(found, (0, 255)).mean() > 0.9


def test_what_is_missing_or_broken_is_said(photo, weights, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"no weights")
    for kind, files, why in (
        ("charcoal", (), f"one of {', '.join(ANNOTATORS)}, got 'charcoal'"),
        ("hed", (), "hed must have its weights on this machine"),
        ("lineart", [tmp_path / "gone"], "lineart must have its weights"),
        ("hed", [tmp_path / "x.pth"], r"x\.pth must be weights of hed, got"),
        ("hed", weights["lineart"][:1], r"sk_model\.pth must be weights of hed"),
    ):
        with pytest.raises(EngineError, match=why):
            lines(photo, kind, files)
