"""Body skeletons over two pictures, side by side, whose joints the artist moves. Its value is JSON text both ways."""

import json
from collections.abc import Iterable
from typing import Any

import gradio as gr
from PIL import Image

from engine.requests import EngineError
from engine.vision.keypoints import pose, skeleton
from morph_ui.components import component
from morph_ui.session import inline

MOST = 64  # people a side; skeleton.js knows it too
SIDE = 640  # pixels of the longer side of the copies that are shown
INVITATION = "Find the people in both pictures, or open a pose from a file; then drag any joint to where it belongs."


def skeletons(tab: str) -> gr.HTML:
    """The skeletons of a tab, at ``#{tab}-skeletons``.

    `value_of` makes the value to set, None empties it. Only what the person does raises ``input`` (Gradio's ``change``
    follows Python's setting as well); the value then holds no pictures. A side set without "src" keeps the picture it
    has, one with an empty "src" is not shown.
    """
    # As props they are lost by visible=False.
    own = json.dumps({"tab": tab, "facts": skeleton.describe(), "invitation": INVITATION})
    return component(__file__, f"{tab}-skeletons", ("../keys", "skeleton"), before=f"const OWN = {own};")


def value_of(pictures: Iterable[Image.Image | None], poses: Iterable[str]) -> str:
    """The value for two pictures and the keypoints on each, OpenPose's JSON or ""."""
    return json.dumps({"sides": [side(*both) for both in zip(pictures, poses, strict=True)]})


def side(picture: Image.Image | None, text: str = "") -> dict[str, Any]:
    """One side of the value: people with 18 joints each, as (x, y) in fractions of the picture, or None. What lies
    outside of the picture is put on its edge."""
    people = pose.read(text) if text else ()
    joints = [[at and [round(min(1, max(0, v)), 5) for v in at] for at in p.joints] for p in people]
    w, h = picture.size if picture else (0, 0)
    return {"src": inline(picture, SIDE, 85) if picture else "", "width": w, "height": h, "people": joints}


def poses_of(value: str | None) -> list[str]:
    """OpenPose's JSON of both sides, "" where nobody is, of a value that the browser sent. It is not believed."""
    out = []
    try:
        for own in json.loads(value)["sides"] if value else ():
            people = [pose.Person(tuple(at and (float(at[0]), float(at[1])) for at in p)) for p in own["people"][:MOST]]
            size = (max(1, int(own["width"])), max(1, int(own["height"])))
            out.append(pose.write(tuple(people), size) if people else "")
    except EngineError:
        raise
    except (TypeError, ValueError, LookupError, RecursionError, OverflowError):
        raise EngineError(f"skeletons must be what the page sends, got {str(value)[:40]!r}") from None
    return [*out, "", ""][:2]
