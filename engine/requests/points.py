"""Pairs of points, "this becomes that": what they may be, and how they are read.

A joint is a way from one picture to the next. Its points are (x0, y0, x1, y1): the part at (x0, y0) of its first
picture becomes the one at (x1, y1) of its second, in fractions 0 … 1 of the pictures as they were given, upright.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Any

from engine.requests.errors import EngineError
from engine.requests.spec import advanced, hidden

Point = tuple[float, float, float, float]
Points = tuple[tuple[Point, ...], ...]  # a joint each
MOST_POINTS = 100  # of a joint
APART = 0.005  # of the side: nearer ones are at one place

ALIGNS = {"off": "no", "points": "by your points", "automatic": "as the network sees them, and by your points"}
WARP = "alignment: thin-plate warp by points, by DIFT features"
ALIGN = Annotated[str, advanced("Move parts", "where they would fade as ghosts", choices=ALIGNS, term=WARP)]
POINTS = Annotated[Points, hidden("", "pairs of points, a list a joint; a JSON file: what becomes what")]


def read(text: str, pictures: Sequence[str] = ()) -> Points:
    """A JSON file's ``{"points": [[[x0, y0, x1, y1], …], …]}``, a list a joint, or one list for a single joint.

    Its ``"pictures"``, if there are any, are digests of the pictures that the points were put on; ``pictures`` are
    those of today. EngineError for anything else, and for pictures that were exchanged.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise EngineError("points must be JSON, got a file that is none") from None
    own = found.get("pictures") if isinstance(found, dict) else None
    values = found.get("points") if isinstance(found, dict) else found
    if values is None:
        raise EngineError('points must be a file with "points", got one without')
    if own is not None and pictures and (not isinstance(own, list) or own != list(pictures)):
        wrong = [str(i) for i, p in enumerate(pictures, 1) if not isinstance(own, list) or own[i - 1 : i] != [p]]
        which = f"picture {wrong[0]} is another one" if wrong else f"they are {len(own)} pictures, not {len(pictures)}"
        raise EngineError(f"points must be on these pictures, got points on others: {which}")
    return nested(values)


def nested(value: Any) -> Points:
    """Lists or tuples, or lines of JSON, as `Points`; one flat list of points is a single joint's."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(isinstance(v, str) for v in value):
        value = "".join(value)  # as text in lines
    if isinstance(value, str):
        return read(value) if value.strip() else ()
    if not isinstance(value, list | tuple):
        raise EngineError(f"points must be a list a joint, got {type(value).__name__}")
    flat = value and all(
        isinstance(v, list | tuple) and len(v) == 4 and not isinstance(v[0], list | tuple) for v in value
    )
    joints = [value] if flat else value
    for joint in joints:
        if not isinstance(joint, list | tuple):
            raise EngineError(f"points must be a list a joint, got {str(joint)[:40]}")
    return tuple(tuple(tuple(p) if isinstance(p, list | tuple) else p for p in joint) for joint in joints)


def check(points: Points, joints: int, pictures: int) -> Points:
    """The points of ``joints`` ways through so many pictures, or EngineError: which point of which way is wrong."""
    if len(points) > joints:
        raise EngineError(f"points must be for at most {joints} ways from picture to picture, got {len(points)}")
    for k, joint in enumerate(points):
        where = f"of the way from picture {k + 1} to {(k + 1) % pictures + 1}"
        if len(joint) > MOST_POINTS:
            raise EngineError(f"points must be at most {MOST_POINTS} {where}, got {len(joint)}")
        for i, p in enumerate(joint, 1):
            numbers = isinstance(p, tuple) and all(type(v) in (int, float) for v in p)
            if not numbers or len(p) != 4:
                raise EngineError(f"points must be four numbers x0, y0, x1, y1, got {str(p)[:40]} {where}")
            if not all(0 <= v <= 1 for v in p):  # a NaN is not between anything
                shown = ", ".join(f"{v:g}" for v in p)
                raise EngineError(f"points must lie in the pictures, from 0 to 1, got {shown} as point {i} {where}")
        for (i, p), (j, q) in combinations(enumerate(joint, 1), 2):
            if fault := folds(p, q):
                raise EngineError(f"points {i} and {j} {where} must {fault}")
    return tuple(tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in joint) for joint in points)


def folds(p: Point, q: Point) -> str:
    """What is wrong with two points of a joint, in words; "" if the picture need not fold for them."""
    (ax, ay), (bx, by) = (q[0] - p[0], q[1] - p[1]), (q[2] - p[2], q[3] - p[3])
    if min(ax * ax + ay * ay, bx * bx + by * by) < APART**2:
        return f"lie apart in both pictures, got {'one place' if p == q else 'two at one place'}"
    # They change sides, and the ways they go cut each other.
    if ax * bx + ay * by < 0 and cut(p, q):
        return "not cross, got two that change places: the picture would fold"
    return ""


def cut(p: Point, q: Point) -> bool:
    """Whether the straight ways of two points have a place in common."""

    def side(ox: float, oy: float, x: float, y: float, u: float, v: float) -> float:
        return (x - ox) * (v - oy) - (y - oy) * (u - ox)

    a, b = side(*p, q[0], q[1]), side(*p, q[2], q[3])
    c, d = side(*q, p[0], p[1]), side(*q, p[2], p[3])
    if a == b == c == d == 0:  # on one line, where they meet if they change sides
        return True
    return a * b <= 0 and c * d <= 0
