"""Lines of a photograph: our own (XDoG), or by controlnet-aux's networks, whose weights are named and never fetched."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.requests import EngineError
from engine.vision.drawing import sketch_of

# HED: Xie & Tu 2015 (arXiv 1504.06375), scribble its thinned edges; LineArt: Chan et al. 2022 (arXiv 2203.12691).
ANNOTATORS = ("xdog", "hed", "lineart", "scribble")
SIDE = 512  # of a photograph's shorter side, in pixels, as the networks look at it


def lines(photo: np.ndarray, kind: str = "xdog", files: Sequence[Path] = (), device: str = "cpu") -> np.ndarray:
    """``photo`` (H, W, 3) uint8 → (H, W) uint8, dark lines on white.

    ``kind`` is one of `ANNOTATORS`; all but xdog want the ``files`` of their weights
    (`engine.checkpoints.resolve.ANNOTATORS`). EngineError if they are missing or none.
    """
    if kind not in ANNOTATORS:
        raise EngineError(f"lines must be one of {', '.join(ANNOTATORS)}, got {kind!r}")
    if kind == "xdog":
        return sketch_of(photo)
    detector = _load(kind, files, device)
    more = {"scribble": True} if kind == "scribble" else {}
    found = detector(photo, detect_resolution=SIDE, image_resolution=SIDE, output_type="np", **more)
    # The networks give light lines on black, of a size of their own.
    grey, (h, w) = 255 - found[..., 0], photo.shape[:2]
    return cv2.resize(grey, (w, h), interpolation=cv2.INTER_AREA if w < found.shape[1] else cv2.INTER_LINEAR)


def _load(kind: str, files: Sequence[Path], device: str) -> Any:
    if not files or not all(file.is_file() for file in files):
        raise EngineError(f"{kind} must have its weights on this machine, got none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other detectors of the package miss what they need
        from controlnet_aux.hed import HEDdetector
        from controlnet_aux.lineart import LineartDetector
    own = LineartDetector if kind == "lineart" else HEDdetector
    try:
        return own.from_pretrained(str(files[0].parent), *(file.name for file in files)).to(device)
    except Exception as e:  # a pickle can fail in any way
        raise EngineError(f"{files[0].name} must be weights of {kind}, got {type(e).__name__}") from None
