"""The skeleton: its joints, limbs and colours are OpenPose's, and it is drawn as controlnet-aux draws it."""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from engine.vision.keypoints.pose import Person

JOINTS = (
    *("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye"),
    *("right ear", "left ear"),
)
_ARMS, _LEGS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)), ((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13))
LIMBS = (*_ARMS, *_LEGS, (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))
# Eighteen even hues; a limb has the colour of its own number, darkened.
COLOURS = tuple(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / 18, 1, 1)) for i in range(18))
LIMB_COLOURS = tuple(tuple(int(0.6 * c) for c in colour) for colour in COLOURS[:17])
WIDTH = 4  # half a stick's width and a joint's radius in pixels, whatever the picture's size: what ControlNet was shown


def describe() -> dict[str, Any]:
    """What a page needs to draw and edit people: plain JSON values, colours as [red, green, blue]."""
    table = {"limbs": LIMBS, "colours": COLOURS, "limb_colours": LIMB_COLOURS}
    return {"joints": list(JOINTS)} | {name: [list(row) for row in rows] for name, rows in table.items()}


def draw(people: tuple[Person, ...], size: tuple[int, int]) -> Image.Image:
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
            if p and q:
                dx, dy = p[0] - q[0], p[1] - q[1]
                middle = int((p[0] + q[0]) / 2), int((p[1] + q[1]) / 2)
                half, turn = int((dx**2 + dy**2) ** 0.5 / 2), int(math.degrees(math.atan2(dy, dx)))
                cv2.fillConvexPoly(canvas, cv2.ellipse2Poly(middle, (half, WIDTH), turn, 0, 360, 1), colour)
        for p, colour in zip(at, COLOURS, strict=True):
            if p:
                cv2.circle(canvas, (int(p[0]), int(p[1])), WIDTH, colour, thickness=-1)
    return Image.fromarray(canvas)
