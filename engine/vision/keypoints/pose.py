"""Body keypoints without any network: OpenPose's JSON, framing, matching two pictures' people, the drawn skeleton.

The method is Wang & Golland's (arXiv 2307.12560; methods.md §1.5); the joints, limbs and colours are OpenPose's.
"""

from __future__ import annotations

import colorsys
import json
import math
from dataclasses import dataclass
from typing import Any

from PIL import Image

from engine.requests import EngineError

JOINTS = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye",
    "right ear", "left ear",
)  # fmt: skip
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
# Eighteen even hues; a limb has the colour of its own number, darkened.
COLOURS = tuple(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / 18, 1, 1)) for i in range(18))
LIMB_COLOURS = tuple(tuple(int(0.6 * c) for c in colour) for colour in COLOURS[:17])
BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)  # where the 18 are among OpenPose's newer 25
WIDTH = 4  # half a stick's width and a joint's radius in pixels, whatever the picture's size: what ControlNet was shown
KEEPS = ("largest", "all")
MOST = 64  # people in a file
FAR = 1000.0  # pictures away from the picture; beyond it pixels overflow

Joint = tuple[float, float] | None


@dataclass(frozen=True)
class Person:
    """18 joints in the order of `JOINTS`: (x, y) in fractions of width and height, or None if not seen.

    0 … 1 is inside the picture; joints may lie outside. EngineError for another number of joints and for no numbers.
    """

    joints: tuple[Joint, ...]

    def __post_init__(self) -> None:
        if len(self.joints) != len(JOINTS):
            raise EngineError(f"a person must have {len(JOINTS)} joints, got {len(self.joints)}")
        for name, at in zip(JOINTS, self.joints, strict=True):
            if at is not None and not (len(at) == 2 and all(abs(v) <= FAR for v in at)):  # NaN is not small either
                raise EngineError(f"the {name} must be two fractions of the picture, got {at}")

    @property
    def seen(self) -> list[tuple[float, float]]:
        return [at for at in self.joints if at is not None]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the seen joints; zeros if there are none."""
        xs, ys = zip(*(self.seen or [(0.0, 0.0)]), strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def skeleton() -> dict[str, Any]:
    """What a page needs to draw and edit people: plain JSON values, colours as [red, green, blue]."""
    return {
        "joints": list(JOINTS),
        "limbs": [list(pair) for pair in LIMBS],
        "colours": [list(c) for c in COLOURS],
        "limb_colours": [list(c) for c in LIMB_COLOURS],
    }


# ------------------------------------------------------------------------------------------------ files


def read(text: str | bytes, name: str = "pose", size: tuple[int, int] | None = None) -> tuple[Person, ...]:
    """OpenPose's JSON of one picture → its people; those without any joint are left out.

    Coordinates are pixels of the file's canvas or, where it names none, of ``size`` (the picture's width and height).
    They are fractions where all are at most 1 (without a canvas at most 2, since joints may lie outside).
    18 or 25 joints (BODY_25); confidence 0 means not seen. A list of one picture is taken as that picture.
    EngineError for everything else.
    """

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        found = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as e:
        raise EngineError(f"{name} must be OpenPose's JSON, got text that is none ({str(e)[:60]})") from None
    if isinstance(found, list):
        if len(found) != 1:
            raise EngineError(f"{name} must hold the people of one picture, got {len(found)} pictures")
        found = found[0]
    people = found.get("people") if isinstance(found, dict) else None
    if not isinstance(people, list) or len(people) > MOST:
        got = f"{len(people)} people" if isinstance(people, list) else "JSON without that list"
        raise EngineError(f"{name} must have a list named people, at most {MOST}, got {got}")
    bodies = [_body(person, name) for person in people]
    w, h = _unit(found, bodies, name, size)
    made = [Person(tuple((x / w, y / h) if c > 0 else None for x, y, c in body)) for body in bodies]
    return tuple(p for p in made if p.seen)


def _body(person: Any, name: str) -> list[list[float]]:
    """18 rows of x, y, confidence."""
    values = person.get("pose_keypoints_2d") if isinstance(person, dict) else None
    if not isinstance(values, list) or len(values) not in (54, 75):
        got = f"{len(values)} numbers" if isinstance(values, list) else "none"
        raise EngineError(f"{name} must have 54 or 75 numbers named pose_keypoints_2d for each person, got {got}")
    for v in values:
        if isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) < 1e6:
            raise EngineError(f"{name} must have numbers under a million as keypoints, got {str(v)[:40]}")
    rows = [[float(v) for v in values[i : i + 3]] for i in range(0, len(values), 3)]
    return [rows[i] for i in BODY_25] if len(rows) == 25 else rows


def _unit(found: dict, bodies: list, name: str, size: tuple[int, int] | None) -> tuple[float, float]:
    """What coordinates are divided by: the canvas, the picture's size, or 1 if they are fractions already."""
    canvas = found.get("canvas_width"), found.get("canvas_height")
    whole = canvas != (None, None)
    largest = max((abs(v) for body in bodies for x, y, c in body if c > 0 for v in (x, y)), default=0.0)
    if largest <= (1 if whole else 2):
        return 1.0, 1.0
    if whole:
        w, h = (v if isinstance(v, int | float) and not isinstance(v, bool) else 0 for v in canvas)
        if not (1 <= w < 1e6 and 1 <= h < 1e6):
            got = " and ".join(str(v)[:40] for v in canvas)
            raise EngineError(f"{name} must have a canvas_width and canvas_height in pixels, got {got}")
        return w, h
    if size is None:
        raise EngineError(f"{name} must have canvas_width and canvas_height beside pixels, got neither")
    return size


def write(people: tuple[Person, ...], size: tuple[int, int]) -> str:
    """The people as OpenPose's JSON, in pixels of a canvas of ``size`` (width, height)."""
    w, h = size
    rows = [[(0, 0, 0) if at is None else (at[0] * w, at[1] * h, 1) for at in p.joints] for p in people]
    bodies = [{"pose_keypoints_2d": [v for row in body for v in row]} for body in rows]
    return json.dumps({"people": bodies, "canvas_width": w, "canvas_height": h})


# ------------------------------------------------------------------------------------------------ the way between


def framed(
    people: tuple[Person, ...], picture: tuple[int, int], frame: tuple[int, int], fit: str
) -> tuple[Person, ...]:
    """The people of a picture of that size (width, height) where `engine.vision.images.fitted` puts them in the frame."""
    if picture == frame:
        return people
    (w, h), (fw, fh) = picture, frame
    if fit == "pad":  # the whole picture, its shorter way rounded to pixels, its place too
        sw, sh = (fw, round(h / w * fw)) if w / h > fw / fh else (round(w / h * fh), fh)
        left, top = (fw - sw) // 2, (fh - sh) // 2
    else:  # covered: equal scale, centred, cut at two sides
        scale = max(fw / w, fh / h)
        sw, sh = w * scale, h * scale
        left, top = (fw - sw) / 2, (fh - sh) / 2
    return tuple(
        Person(tuple(at and ((left + at[0] * sw) / fw, (top + at[1] * sh) / fh) for at in p.joints)) for p in people
    )


def matched(a: tuple[Person, ...], b: tuple[Person, ...], keep: str = "largest") -> list[tuple[Person, Person]]:
    """Who becomes whom. ``largest``: the person with the largest box of each side; ``all``: as many as both sides
    have, so that the ways between centres plus the changes of size are shortest together, in the order of ``a``."""
    a, b = (tuple(p for p in side if p.seen) for side in (a, b))
    if not a or not b:
        return []
    if keep == "largest":
        return [(_largest(a), _largest(b))]
    from scipy.optimize import linear_sum_assignment

    cost = [[_apart(p, q) for q in b] for p in a]
    return [(a[i], b[j]) for i, j in zip(*linear_sum_assignment(cost), strict=True)]


def _largest(people: tuple[Person, ...]) -> Person:
    def area(person: Person) -> float:
        left, top, right, bottom = person.box
        return (right - left) * (bottom - top)

    return max(people, key=area)


def _apart(p: Person, q: Person) -> float:
    """Distance of the centroids plus the difference of the boxes' diagonals, in fractions of the picture."""
    (px, py), (qx, qy) = ([sum(v) / len(v) for v in zip(*x.seen, strict=True)] for x in (p, q))
    sizes = [math.dist(x.box[:2], x.box[2:]) for x in (p, q)]
    return math.dist((px, py), (qx, qy)) + abs(sizes[0] - sizes[1])


def between(a: Person, b: Person, t: float) -> Person:
    """The person at ``t`` of the straight way from ``a`` (0) to ``b`` (1); joints that one side lacks are left out."""
    return Person(
        tuple(
            p and q and ((1 - t) * p[0] + t * q[0], (1 - t) * p[1] + t * q[1])
            for p, q in zip(a.joints, b.joints, strict=True)
        )
    )


def along(a: tuple[Person, ...], b: tuple[Person, ...], t: float, keep: str = "largest") -> tuple[Person, ...]:
    """The people at ``t``: pairs on their way; where one side has nobody, the other's stand still (see `scale_at`)."""
    a, b = (tuple(p for p in side if p.seen) for side in (a, b))
    if a and b:
        made = (between(p, q, t) for p, q in matched(a, b, keep))
        return tuple(p for p in made if p.seen)
    alone = a or b
    return (_largest(alone),) if alone and keep == "largest" else alone


def scale_at(t: float, scale: float, found: tuple[bool, bool] = (True, True)) -> float:
    """How strongly the skeleton counts at ``t``: 1 at both ends and ``scale`` in the middle (methods.md §1.2).

    ``found``: whether picture A and picture B have people. With one side only it fades to 0 at the other; with
    neither it is 0.
    """
    nearness = {(True, True): 1.0, (True, False): 1 - t, (False, True): t, (False, False): 0.0}[found]
    return nearness * (scale - 2 * abs(t - 0.5) * (scale - 1))


# ------------------------------------------------------------------------------------------------ the picture


def drawn(people: tuple[Person, ...], size: tuple[int, int]) -> Image.Image:
    """The skeletons on black at ``size`` (width, height), as RGB, to the pixel what controlnet-aux draws.

    A limb is an ellipse in its darkened colour, a joint a disc over the limbs; later people lie over earlier ones.
    """
    import cv2
    import numpy as np

    w, h = size
    canvas = np.zeros((h, w, 3), np.uint8)
    for person in people:
        at = [j and (j[0] * w, j[1] * h) for j in person.joints]
        for (i, k), colour in zip(LIMBS, LIMB_COLOURS, strict=True):
            p, q = at[i], at[k]
            if p is None or q is None:
                continue
            dx, dy = p[0] - q[0], p[1] - q[1]
            middle = int((p[0] + q[0]) / 2), int((p[1] + q[1]) / 2)
            half = int((dx**2 + dy**2) ** 0.5 / 2)
            turn = int(math.degrees(math.atan2(dy, dx)))
            cv2.fillConvexPoly(canvas, cv2.ellipse2Poly(middle, (half, WIDTH), turn, 0, 360, 1), colour)
        for p, colour in zip(at, COLOURS, strict=True):
            if p is not None:
                cv2.circle(canvas, (int(p[0]), int(p[1])), WIDTH, colour, thickness=-1)
    return Image.fromarray(canvas)
