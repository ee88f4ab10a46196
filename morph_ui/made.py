"""What the studio made earlier of the ready pairs of *Interpolate*: shown at once, before anybody presses Make.

They are results of flora with the settings beside them (``assets/examples/made``, by ``python -m training.examples``).
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from engine.requests import Done, Frame, InterpolateRequest
from engine.vision import images
from morph_ui.stage import ended
from morph_ui.stream import Session, begin, meter, strip, take

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "examples"
MADE = FOLDER / "made"


def pairs() -> list[dict[str, str]]:
    """The ready pairs: file names ``a`` and ``b`` inside `FOLDER`, ``prompt`` and ``prompt_b``."""
    return json.loads((FOLDER / "pairs.json").read_text())


def pictures(pair: dict[str, str]) -> tuple[Image.Image, Image.Image]:
    """Both pictures of a pair, read as the page reads them."""
    return images.read(FOLDER / pair["a"], "picture A"), images.read(FOLDER / pair["b"], "picture B")


def entry(index: int) -> dict[str, Any] | None:
    """What is kept of example ``index``: its file, settings and quality. None if it was made of something else."""
    try:
        pair, kept = pairs()[index], json.loads((MADE / "settings.json").read_text())
    except (OSError, IndexError):
        return None
    for found in kept["made"]:
        said = found["settings"] | {"a": found["a"], "b": found["b"]}
        if all(said[k] == v for k, v in pair.items()):
            return found | {"preset": kept["preset"]}
    return None


def request_of(settings: dict[str, Any], pair: dict[str, str]) -> InterpolateRequest:
    """The request that gave those settings, with the pair's pictures. EngineError if it would be refused today."""
    own = {f.name: settings[f.name] for f in fields(InterpolateRequest) if f.name in settings}
    own |= {k: tuple(map(tuple, own.get(k, ()))) for k in ("picks", "reseeds")}  # JSON knows no tuples
    a, b = pictures(pair)
    return InterpolateRequest(a, b, **own)


def frames_of(found: dict[str, Any]) -> tuple[Image.Image, ...]:
    """The frames on the sheet of an entry, RGB, each of the width and height in its settings."""
    n, w, h = (found["settings"][k] for k in ("frames", "width", "height"))
    with Image.open(MADE / found["file"]) as sheet:
        whole = sheet.convert("RGB")
    return tuple(whole.crop((i * w, 0, (i + 1) * w, h)) for i in range(n))


def shown(session: Session, index: int) -> str | None:
    """Puts example ``index`` into the visit as if a run of it had just ended; a run that goes on is stopped.

    Returns the player's value. None, and nothing is touched, where nothing was made for that example.
    """
    found = entry(index)
    if found is None:
        return None
    request, frames = request_of(found["settings"], found), frames_of(found)
    begin(session, request)
    session.selected = None
    for i, picture in enumerate(frames):
        take(session, Frame(i, picture))
    take(session, Done(frames, found["settings"], 0.0, 0, quality=found["quality"]))
    return json.dumps(strip(session))


def told(session: Session, index: int) -> str:
    """The line above the player for what `shown` has put there."""
    found, r = entry(index), session.request
    assert found is not None and session.done is not None
    first = f"Made earlier with {r.model}, the preset {found['preset']} and seed {r.seed}; press Make to make it here"
    return ". ".join([first, *meter(session.done)])


def choose(session: Session, back: bool, event: gr.EventData) -> list[Any]:
    """The handler of a click on the shelf: updates for `Stage.outputs`, in their order, files as after a run."""
    index = int(event.index)
    if shown(session, index) is None:
        return [gr.skip()] * 10
    return ended(session, told(session, index), "note", back)
