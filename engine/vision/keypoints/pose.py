"""Body keypoints without any network: OpenPose's JSON, framing, matching two pictures' people.

The method is Wang & Golland's (arXiv 2307.12560; methods.md §1.5).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from engine.requests import EngineError
from engine.vision.keypoints.skeleton import JOINTS

BODY_25 = (*range(8), *range(9, 19))  # where the 18 are among OpenPose's newer 25
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


# ------------------------------------------------------------------------------------------------ files


def read(text: str | bytes, name: str = "pose", size: tuple[int, int] | None = None) -> tuple[Person, ...]:
    """OpenPose's JSON of one picture → its people; those without any joint are left out.

    Coordinates are pixels of the file's canvas or, where it names none, of ``size`` (the picture's width and height).
    They are fractions where all are at most 1 (without a canvas at most 2, since joints may lie outside).
    18 or 25 joints (BODY_25); confidence 0 means not seen. A list of one picture is taken as that picture.
    EngineError for everything else.
    """
    try:
        found = json.loads(text)
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


def _is_number(value: Any, low: float = -1e6) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < 1e6  # NaN is in no range


def _body(person: Any, name: str) -> list[tuple[float, float, float]]:
    """18 rows of x, y, confidence."""
    values = person.get("pose_keypoints_2d") if isinstance(person, dict) else None
    if not isinstance(values, list) or len(values) not in (54, 75):
        got = f"{len(values)} numbers" if isinstance(values, list) else "none"
        raise EngineError(f"{name} must have 54 or 75 numbers named pose_keypoints_2d for each person, got {got}")
    if wrong := [v for v in values if not _is_number(v)]:
        raise EngineError(f"{name} must have numbers under a million as keypoints, got {str(wrong[0])[:40]}")
    rows = [(float(x), float(y), float(c)) for x, y, c in zip(*(values[i::3] for i in range(3)), strict=True)]
    return [rows[i] for i in BODY_25] if len(rows) == 25 else rows


def _unit(found: dict, bodies: list, name: str, size: tuple[int, int] | None) -> tuple[float, float]:
    """What coordinates are divided by: the canvas, the picture's size, or 1 if they are fractions already."""
    canvas: Any = found.get("canvas_width"), found.get("canvas_height")
    largest = max((abs(v) for body in bodies for x, y, c in body if c > 0 for v in (x, y)), default=0.0)
    if largest <= (2 if canvas == (None, None) else 1):
        return 1.0, 1.0
    if canvas == (None, None):
        if size is None:
            raise EngineError(f"{name} must have canvas_width and canvas_height beside pixels, got neither")
        return size
    if not all(_is_number(v, 1) for v in canvas):
        got = " and ".join(str(v)[:40] for v in canvas)
        raise EngineError(f"{name} must have a canvas_width and canvas_height in pixels, got {got}")
    return canvas


def write(people: tuple[Person, ...], size: tuple[int, int]) -> str:
    """The people as OpenPose's JSON, in pixels of a canvas of ``size`` (width, height)."""
    w, h = size
    rows = [[(0, 0, 0) if at is None else (at[0] * w, at[1] * h, 1) for at in p.joints] for p in people]
    bodies = [{"pose_keypoints_2d": [v for row in body for v in row]} for body in rows]
    return json.dumps({"people": bodies, "canvas_width": w, "canvas_height": h})


# ------------------------------------------------------------------------------------------------ the way between


def frame(people: tuple[Person, ...], picture: tuple[int, int], size: tuple[int, int], fit: str) -> tuple[Person, ...]:
    """The people of a picture (width, height) where `engine.vision.images` puts them in a frame of ``size``."""
    if picture == size:
        return people
    (w, h), (fw, fh) = picture, size
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


def match(a: tuple[Person, ...], b: tuple[Person, ...], keep: str = "largest") -> list[tuple[Person, Person]]:
    """Who becomes whom. ``largest``: the person with the largest box of each side; ``all``: as many as both sides
    have, so that the ways between centres plus the changes of size are shortest together, in the order of ``a``."""
    a, b = (tuple(p for p in side if p.seen) for side in (a, b))
    if not a or not b:
        return []
    if keep == "largest":
        return [(_largest(a), _largest(b))]
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment([[distance(p, q) for q in b] for p in a])
    return [(a[i], b[j]) for i, j in zip(rows, columns, strict=True)]


def _largest(people: tuple[Person, ...]) -> Person:
    return max(people, key=lambda p: (p.box[2] - p.box[0]) * (p.box[3] - p.box[1]))


def distance(p: Person, q: Person) -> float:
    """Distance of the centroids plus the difference of the boxes' diagonals, in fractions of the picture."""
    centres = ([sum(v) / len(v) for v in zip(*x.seen, strict=True)] for x in (p, q))
    return math.dist(*centres) + abs(math.dist(p.box[:2], p.box[2:]) - math.dist(q.box[:2], q.box[2:]))


def person_at(a: Person, b: Person, t: float) -> Person:
    """The person at ``t`` of the straight way from ``a`` (0) to ``b`` (1); joints that one side lacks are left out."""
    pairs = zip(a.joints, b.joints, strict=True)
    return Person(tuple(p and q and ((1 - t) * p[0] + t * q[0], (1 - t) * p[1] + t * q[1]) for p, q in pairs))


def people_at(a: tuple[Person, ...], b: tuple[Person, ...], t: float, keep: str = "largest") -> tuple[Person, ...]:
    """The people at ``t``: pairs on their way; where one side has nobody, the other's stand still (see `scale_at`)."""
    a, b = (tuple(p for p in side if p.seen) for side in (a, b))
    if a and b:
        return tuple(p for p in (person_at(p, q, t) for p, q in match(a, b, keep)) if p.seen)
    alone = a or b
    return (_largest(alone),) if alone and keep == "largest" else alone


def scale_at(t: float, scale: float, found: tuple[bool, bool] = (True, True)) -> float:
    """How strongly the skeleton counts at ``t``: 1 at both ends and ``scale`` in the middle (methods.md §1.2).

    ``found``: whether picture A and picture B have people. With one side only it fades to 0 at the other; with
    neither it is 0.
    """
    nearness = {(True, True): 1.0, (True, False): 1 - t, (False, True): t, (False, False): 0.0}[found]
    return nearness * (scale - 2 * abs(t - 0.5) * (scale - 1))
