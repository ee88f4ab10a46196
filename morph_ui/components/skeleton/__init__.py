"""Body skeletons over two pictures, side by side, whose joints the artist moves. Its value is JSON text both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from engine.requests import EngineError
from morph_ui.components import component
from morph_ui.session import data_url

JOINTS = 18  # of COCO as OpenPose orders them
MOST = 64  # people a side; skeleton.js knows it too
SIDE = 640  # pixels of the longer side of the copies that are shown
INVITATION = "Find the poses, or load keypoints from a file"

Person = Sequence[Sequence[float] | None]
Found = tuple[list[list[list[float] | None]], list[list[list[float] | None]]]


def skeletons(tab: str, facts: dict[str, Any], invitation: str = INVITATION) -> gr.HTML:
    """The skeletons of a tab, at ``#{tab}-skeletons``.

    ``facts``: {"joints": 18 names, "limbs": 17 pairs of joints, "colours": 18 of [r, g, b]}. `value_of` makes the value
    to set, None empties it. Only what the person does raises ``input`` (Gradio's ``change`` follows Python's setting as
    well); the value then holds "edited": true, the "turn" it was given, and no pictures. A side set without "src" keeps
    the picture it has.
    """
    own = json.dumps({"tab": tab, "facts": facts, "invitation": invitation})  # as props they are lost by visible=False
    return component(__file__, f"{tab}-skeletons", before=f"const OWN = {own};")


def value_of(
    pictures: Sequence[Image.Image | None], people: Sequence[Sequence[Person]], turn: int = 0, edited: bool = False
) -> str:
    """The value for two pictures and the people on each: 18 joints as (x, y) in fractions of the picture, or None.

    What lies outside of the picture is put on its edge; what is no number is left out.
    """
    sides = []
    for picture, them in zip(pictures, people, strict=True):
        w, h = picture.size if picture else (0, 0)
        shown = [[_joint(j) for j in person] for person in them]
        sides.append({"src": _url(picture) if picture else "", "width": w, "height": h, "people": shown})
    return json.dumps({"sides": sides, "edited": edited, "turn": turn})


def people_of(value: str | None) -> Found:
    """The people on both pictures, of a value that the browser sent; none for an empty one. It is not believed."""
    sides = _read(value).get("sides")
    if not value:
        return [], []
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(s, dict) for s in sides):
        raise EngineError(f"skeletons must be of two pictures, got {str(sides)[:40]!r}")
    return _people(sides[0].get("people")), _people(sides[1].get("people"))


def was_edited(value: str | None) -> bool:
    """Whether the person has changed what was found."""
    return _read(value).get("edited") is True


def _read(value: str | None) -> dict[str, Any]:
    try:
        found = json.loads(value) if value else {}
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EngineError(f"skeletons must be what the page sends, got {str(value)[:40]!r}")
    return found


def _people(sent: Any) -> list[list[list[float] | None]]:
    if not isinstance(sent, list) or len(sent) > MOST:
        got = len(sent) if isinstance(sent, list) else repr(sent)[:40]
        raise EngineError(f"people must be a list of at most {MOST}, got {got}")
    for person in sent:
        if not isinstance(person, list) or len(person) != JOINTS:
            got = f"{len(person)} of them" if isinstance(person, list) else repr(person)[:40]
            raise EngineError(f"joints must be {JOINTS} a person, got {got}")
        for joint in person:
            if joint is not None and not (isinstance(joint, list) and len(joint) == 2 and all(map(_fraction, joint))):
                raise EngineError(f"joint must be two numbers from 0 to 1, or null, got {repr(joint)[:40]}")
    return sent


def _fraction(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1  # a NaN is not between anything


def _joint(joint: Sequence[float] | None) -> list[float] | None:
    if joint is None or not all(math.isfinite(v) for v in joint[:2]):
        return None
    return [round(min(1.0, max(0.0, float(v))), 5) for v in joint[:2]]


def _url(picture: Image.Image) -> str:
    """A small copy as a data URL; what is transparent is white."""
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    ground.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return data_url(ground.convert("RGB"), "JPEG", quality=85)
