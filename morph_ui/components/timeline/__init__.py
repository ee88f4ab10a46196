"""Pictures in a row, each with its words: add, remove, reorder by drag; points between neighbours. Nothing that the
browser sends is believed."""

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.requests import EngineError
from engine.requests.finish import several
from engine.requests.points import MOST_POINTS
from morph_ui.components import component
from morph_ui.components.opened import opened, uploaded
from morph_ui.components.points import checked, shown
from morph_ui.components.shelf import EXAMPLES, thumbnail

SCRIPTS = ("../incoming", "../keys", "../points/points", "state", "joints", "timing", "timeline")
INVITATION, ON = "Drop, paste or choose pictures, two or more", "and on to …"


def timeline(tab: str, most: int, after: bool = False) -> gr.HTML:
    """At most ``most`` pictures; ``after`` the two of the dropzones ``#{tab}-a`` and ``#{tab}-b``, or by themselves.

    Its value is JSON, {"items": [{"path", "words"} …], "coming": how many are still being sent, "points": a list a way
    from one to the next, "seeds": {"of": the seed that they belong to, "ways": one a way, or null}, "holds": seconds a
    picture, "times": seconds a way, both as they were typed}. Set from Python it may hold "items" (examples), what a
    file says: "words", "points", "seeds", "holds" and "times" (for the pictures that are there, and the next ones),
    "seeds" alone, or "arrows". ``points`` tells of the first points, ``again`` which way is to be made again,
    ``arrows`` of which way they are asked for, ``timed`` of another hold or time.
    """
    name = "more" if after else "timeline"
    own = {"tab": tab, "name": name, "most": most, "pair": after, "points": MOST_POINTS}
    own = json.dumps(own | {"invitation": ON if after else INVITATION})
    functions = [opened, shown, checked]
    how = {"server_functions": functions, "elem_classes": ["after"] * after}
    return component(__file__, f"{tab}-{name}", SCRIPTS, f"const OWN = {own};", **how)


def example(way: Sequence[tuple[str, str]]) -> str:
    """The value that puts example pictures, each with its words, in the timeline."""
    return json.dumps({"items": [{"path": str(EXAMPLES / n), "url": thumbnail(n, 236), "words": w} for n, w in way]})


def keyframes(value: Any, first: int = 1) -> list[dict[str, str]]:
    """The timeline's pictures, each with ``path`` and ``words``, in sentences from number ``first``. A path must be an
    upload of ours or an example."""
    found = _read(value)
    try:
        coming = int(found.get("coming") or 0)
        items = [{n: str(k.get(n) or "") for n in ("path", "words")} for k in found.get("items", ())]
    except (TypeError, ValueError, AttributeError):
        raise _none(value) from None
    if coming:
        raise EngineError(
            f"pictures must all have arrived, got {coming} still being sent; press Make again in a moment"
        )
    return [k | {"path": str(uploaded(k["path"], f"picture {i}", EXAMPLES))} for i, k in enumerate(items, first)]


def points(value: Any) -> list[Any]:
    """The points of every way as the browser sent them; the request judges them. None at the end that says nothing."""
    found = _read(value).get("points") or []
    if not isinstance(found, list):
        raise _none(value)
    return found[: max((k for k, way in enumerate(found, 1) if way), default=0)]


def seeds(value: Any, seed: Any) -> list[Any]:
    """Seeds of ways, as far as some are their own and belong to the ``seed`` of the whole."""
    found = _read(value).get("seeds") or {}
    if not isinstance(found, dict) or not isinstance(own := found.get("ways") or [], list):
        raise _none(value)
    if found.get("of") != seed:
        return []
    last = max((k for k, s in enumerate(own, 1) if s is not None), default=0)
    return [seed if s is None else s for s in own[:last]]


def timing(value: Any) -> dict[str, tuple[Any, ...]]:
    """What a `Finish` has of single pictures and ways; it judges them."""
    found, out = _read(value), {}
    for name, sent in (("holds", "holds"), ("durations", "times")):
        if not isinstance(own := found.get(sent) or [], list):
            raise _none(value)
        each = several(own)
        out[name] = each if any(v is not None for v in each) else ()
    return out


def timed(settings: dict[str, Any]) -> dict[str, Any]:
    """What settings of a file say of single pictures and ways, as the timeline takes it."""
    film = settings.get("film") or {}
    return {sent: film.get(name) or [] for name, sent in (("holds", "holds"), ("durations", "times"))}


def _read(value: Any) -> dict[str, Any]:
    try:
        found = json.loads(value) if value else {}
    except (TypeError, ValueError, RecursionError):
        raise _none(value) from None
    if not isinstance(found, dict):
        raise _none(value)
    return found


def _none(value: Any) -> EngineError:
    return EngineError(f"pictures must be a timeline, got {str(value)[:40]!r}")
