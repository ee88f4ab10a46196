"""What the studio made earlier of the ready pairs of *Interpolate*: shown at once, before anybody presses Make.

They are results of flora with the settings beside them (``assets/examples/made``, by ``python -m training.examples``).
"""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

from engine.requests import Done, Frame, InterpolateRequest, fields_of, settle
from engine.vision import images
from morph_ui.components.shelf import EXAMPLES as FOLDER
from morph_ui.components.shelf import examples
from morph_ui.panels import Updates
from morph_ui.panels.film import Film, measures
from morph_ui.panels.status import sentences
from morph_ui.session import Session

MADE = FOLDER / "made"


def pairs() -> list[dict[str, str]]:
    """The ready pairs: file names ``a`` and ``b`` inside `FOLDER`, ``prompt`` and ``prompt_b``."""
    return examples("pairs")


def pictures(pair: dict[str, str]) -> tuple[Image.Image, Image.Image]:
    """Both pictures of a pair, read as the page reads them."""
    return images.read(FOLDER / pair["a"], "picture A"), images.read(FOLDER / pair["b"], "picture B")


def entry(index: int) -> dict[str, Any] | None:
    """What is kept of example ``index``: its file, settings and quality. None if it was made of something else."""
    try:
        pair, kept = pairs()[index], json.loads((MADE / "settings.json").read_text(encoding="utf8"))
    except (OSError, IndexError):
        return None
    for found in kept["made"]:
        said = found["settings"] | {"a": found["a"], "b": found["b"]}
        if all(said[k] == v for k, v in pair.items()):
            return found | {"preset": kept["preset"]}
    return None


def request_of(settings: dict[str, Any], pair: dict[str, str]) -> InterpolateRequest:
    """The request that gave those settings, with the pair's pictures. EngineError if it would be refused today."""
    own = {n: v for n, v in settings.items() if n in fields_of(InterpolateRequest)}
    a, b = pictures(pair)
    return InterpolateRequest(a, b, **settle(InterpolateRequest, own))


def frames_of(found: dict[str, Any]) -> tuple[Image.Image, ...]:
    """The frames on the sheet of an entry, RGB, each of the width and height in its settings."""
    n, w, h = (found["settings"][k] for k in ("frames", "width", "height"))
    with Image.open(MADE / found["file"]) as sheet:
        whole = sheet.convert("RGB")
    return tuple(whole.crop((i * w, 0, (i + 1) * w, h)) for i in range(n))


def show(panel: Film) -> Callable[..., Updates]:
    """The handler of a click on the shelf: an example as if a run of it had just ended; one that goes on is stopped.

    Nothing is touched where nothing was made for that example.
    """

    def choose(session: Session, event: gr.EventData) -> Updates:
        found = entry(int(event.index))
        if found is None:
            return panel.still
        request, frames = request_of(found["settings"], found), frames_of(found)
        run, done = (
            session.begin(request, kind="ready"),
            Done(frames, found["settings"], 0.0, 0, quality=found["quality"]),
        )
        for made in (*(Frame(i, picture) for i, picture in enumerate(frames)), done):
            run.take(made, session.save)
        session.end(run)
        first = f"Made earlier with {request.model}, the preset {found['preset']} and seed {request.seed}"
        return panel.ended(session, sentences(f"{first}; press Make to make it here", *measures(done)))

    return choose
