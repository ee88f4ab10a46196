"""People found in pictures: DWPose (Yang et al. 2023, arXiv 2307.15880) or, asked for by name, OpenPose.

DWPose runs as its authors' ONNX files: YOLOX finds people, RTMPose their joints. OpenPose is controlnet-aux's, for
non-commercial research only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from engine.requests import EngineError
from engine.vision.keypoints.pose import MOST, Person

SURE = 0.3  # boxes and joints below are not believed
OVERLAP = 0.45  # of two boxes that share more of their union, the surer one stays
LEAST = 4  # joints; fewer are no person (OpenPose's own rule)
MARGIN = 1.25  # of a box, so that the crop holds the whole person
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of red, green, blue: RTMPose's training
NECK = 17  # COCO has no neck: it is added behind its 17 joints
FROM_COCO = (0, NECK, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)

Rows = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) → (P, 18, x y confidence) in pixels


class Detector:
    """``Detector(which, files, device).people(picture)``; ``bytes`` is what its weights take.

    ``files``: of "dwpose" YOLOX and RTMPose as ONNX, of "openpose" its body model. EngineError if one of them, or a
    package, is missing.
    """

    def __init__(self, which: str, files: Sequence[Path], device: str = "cpu"):
        if which not in STARTS:
            raise EngineError(f"detector must be one of {', '.join(STARTS)}, got {which!r}")
        if missing := [f.name for f in files if not f.is_file()]:
            place = files[0].parent
            raise EngineError(f"{which} must have its weights in {place}, got none named {', '.join(missing)}")
        self.which, self.bytes = which, sum(f.stat().st_size for f in files)
        self._rows = STARTS[which](files, str(device))

    def people(self, picture: Image) -> tuple[Person, ...]:
        """The people in an RGB picture, in fractions of its size, the surest first; () if there is nobody."""
        w, h = picture.size
        rows = self._rows(np.asarray(picture.convert("RGB")))
        made = (Person(tuple((float(x / w), float(y / h)) if sure > SURE else None for x, y, sure in r)) for r in rows)
        return tuple(p for p in made if len(p.seen) >= LEAST)[:MOST]


def body18(rows: np.ndarray) -> np.ndarray:
    """Joints in COCO's order (P, 17 or more, x y confidence) → the 18 of `skeleton.JOINTS` (P, 18, 3).

    The neck lies between the shoulders, and is seen if both are.
    """
    shoulders = rows[:, 5:7]
    neck = shoulders.mean(1)
    neck[:, 2] = (shoulders[..., 2] > SURE).all(1)
    return np.concatenate([rows[:, :NECK], neck[:, None]], 1)[:, FROM_COCO]


# ------------------------------------------------------------------------------------------------ DWPose as ONNX


def _dwpose(files: Sequence[Path], device: str) -> Rows:
    finder, poser = (_session(f, device) for f in files)

    def rows(rgb: np.ndarray) -> np.ndarray:
        h, w = rgb.shape[:2]
        found = boxes(finder, rgb)
        if not len(found):  # perhaps someone whom YOLOX does not know: a drawing, a close view
            found = np.array([[0, 0, w, h]], float)
        return body18(np.stack([keypoints(poser, rgb, box) for box in found]))

    return rows


def _session(file: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise EngineError("dwpose must have the package onnxruntime, got none; pip install onnxruntime") from None
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")[0 if device.startswith("cuda") else 1 :]
    there = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(str(file), providers=[p for p in wanted if p in there])
    except Exception as e:  # its own classes share no other base
        raise EngineError(f"{file.name} must be a whole ONNX file, got one that is broken ({str(e)[:80]})") from None


def boxes(session: Any, rgb: np.ndarray) -> np.ndarray:
    """YOLOX: the people in (H, W, 3) → (P, 4) left, top, right, bottom in pixels, the surest first.

    The picture lies at the top left of a grey square, blue first, 0 … 255. Out come rows of (x, y, log w, log h,
    object, classes …) in cells of 8, 16 and 32 pixels; class 0 is a person.
    """
    import cv2

    (h, w), (fh, fw) = rgb.shape[:2], _input_size(session, 640, 640)
    scale = min(fh / h, fw / w)
    small = cv2.resize(rgb, (max(1, int(w * scale)), max(1, int(h * scale))), interpolation=cv2.INTER_LINEAR)
    square = np.full((fh, fw, 3), 114, np.uint8)
    square[: small.shape[0], : small.shape[1]] = small
    out = _run(session, square[..., ::-1])[0][0].astype(np.float64)
    # rows come stride by stride, line by line
    grid = np.array([(x, y, n) for n in (8, 16, 32) for y in range(fh // n) for x in range(fw // n)], float)
    sure = out[:, 4] * out[:, 5]
    keep = sure > SURE
    out, grid, sure = out[keep], grid[keep], sure[keep]
    size = np.exp(out[:, 2:4]) * grid[:, 2:]
    left = (out[:, :2] + grid[:, :2]) * grid[:, 2:] - size / 2
    order = cv2.dnn.NMSBoxes(np.concatenate([left, size], 1).tolist(), sure.tolist(), SURE, OVERLAP)
    order = np.array(order, int).reshape(-1)[:MOST]
    return np.concatenate([left, left + size], 1)[order] / scale


def keypoints(session: Any, rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """RTMPose: the joints of the person in ``box`` of (H, W, 3) → (K, 3) x, y in the picture's pixels, confidence.

    The box, a quarter wider and of the network's proportions, is its whole input. Out come two rows per joint, over
    half pixels of x and of y; their places are the maxima and the confidence is the smaller maximum (SimCC).
    """
    import cv2

    h, w = _input_size(session, 384, 288)
    wide, tall = (box[2:] - box[:2]) * MARGIN
    scale = min(w / max(wide, 1), h / max(tall, 1))
    left, top = (box[:2] + box[2:]) / 2 - np.array([w, h]) / 2 / scale
    crop = cv2.warpAffine(rgb, np.array([[scale, 0, -left * scale], [0, scale, -top * scale]]), (w, h))
    xs, ys = (o[0] for o in _run(session, (crop - MEAN) / STD)[:2])
    at = np.stack([xs.argmax(-1), ys.argmax(-1)], -1) / 2 / scale + (left, top)
    return np.concatenate([at, np.minimum(xs.max(-1), ys.max(-1))[:, None]], 1)


def _input_size(session: Any, *otherwise: int) -> tuple[int, int]:
    """Height and width of a network's input; those of the published file where they are left open."""
    given = session.get_inputs()[0].shape[2:]
    h, w = (g if isinstance(g, int) else o for g, o in zip(given, otherwise, strict=True))
    return h, w


def _run(session: Any, picture: np.ndarray) -> list[np.ndarray]:
    row = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], dtype=np.float32)
    return session.run(None, {session.get_inputs()[0].name: row})


def _openpose(files: Sequence[Path], device: str) -> Rows:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other detectors of the package miss what they need
        from controlnet_aux.open_pose import OpenposeDetector
        from controlnet_aux.open_pose.body import Body
        from controlnet_aux.util import resize_image
    try:
        body = Body(str(files[0])).to(device)
    except Exception as e:  # a pickle can fail in any way
        raise EngineError(f"{files[0].name} must be OpenPose's weights, got {type(e).__name__}") from None
    network = OpenposeDetector(body)

    def rows(rgb: np.ndarray) -> np.ndarray:
        h, w = rgb.shape[:2]
        found = network.detect_poses(resize_image(rgb, 512))
        at = [[(k.x * w, k.y * h, 1.0) if k else (0.0, 0.0, 0.0) for k in p.body.keypoints] for p in found]
        return np.array(at, float).reshape(-1, 18, 3)

    return rows


STARTS = {"dwpose": _dwpose, "openpose": _openpose}
