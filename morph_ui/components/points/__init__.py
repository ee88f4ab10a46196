"""Pairs of points on two neighbouring pictures, "this becomes that", in a window that `timeline` opens."""

import json
from typing import Any

from engine.requests import EngineError
from engine.requests.points import check, nested
from engine.vision import images
from morph_ui.components.opened import uploaded
from morph_ui.components.shelf import EXAMPLES
from morph_ui.session import inline

SIDE = 1280  # pixels of the longer side of the copies that points are put on


def shown(asked: Any) -> dict[str, Any]:
    """A picture ({"path"}) as the engine sees it → {"url", "ratio"}, or {"error"}, a sentence. Called by scripts."""
    try:
        path = uploaded(asked.get("path") if isinstance(asked, dict) else None, "picture", EXAMPLES)
        picture = images.read(path)
    except EngineError as e:
        return {"error": sentence(e)}
    return {"url": inline(picture, SIDE), "ratio": picture.width / picture.height}


def checked(asked: Any) -> str:
    """What is wrong with the points ({"points"}) of one way, in a sentence, or "". Called by scripts."""
    try:
        check(nested([asked.get("points")] if isinstance(asked, dict) else None), 1, 2)
    except EngineError as e:
        return sentence(e).replace(" of the way from picture 1 to 2", "")
    return ""


def sentence(error: EngineError) -> str:
    return f"{str(error)[0].upper()}{str(error)[1:]}."


def told(arrows: Any, said: str = "") -> str:
    """The value that shows arrows (`engine.requests.match`), or says why there are none, in the window."""
    return json.dumps({"arrows": arrows, "said": said})
