"""What a tab shows when it is opened: an example made earlier with flora, what it was made of laid over the empty
inputs, until the visitor brings something of his own.

The results lie in ``assets/examples/first`` (and *Interpolate*'s in ``made``), by ``python -m training.examples``. The
inputs are not put into the widgets: those stay empty, so that what is dropped or drawn comes into an empty place.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import gradio as gr
from PIL import Image

from engine.requests import Done, DrawRequest, EditRequest, EngineError, Frame, MorphRequest, fields_of, settle
from engine.vision import images
from morph_ui.components.canvas import Drawing
from morph_ui.components.example import example
from morph_ui.components.feed import feed_value
from morph_ui.components.shelf import EXAMPLES, examples, thumbnail
from morph_ui.form import Form
from morph_ui.panels import AT_ONCE, Updates
from morph_ui.panels.status import message
from morph_ui.session import Run, Session, data_url, inline
from morph_ui.tabs import made

Name = Callable[[Any], dict[int, tuple[float, str]]]
FOLDER = EXAMPLES / "first"
FLOWERS = (("daisy-1441939151.webp", "a blue daisy"), ("sunflower-20410697750.webp", "an orange sunflower"))
DRAWN = 0  # of the ready drawings
PAINTED = {"photo": "daisy-1441939151.webp", "paint": "drawings/edit-daisy-paint.png", "prompt": "a pink daisy"}
SEEDS = {"interpolate": 7, "morph": 7, "draw": 5, "edit": 2}  # whose results look well; the forms begin with them
SIDE = 256
# The stage says whether it shows an example, and is empty where there is nothing to show.
SEEN = """v => {
  const seen = v ? JSON.parse(v) : {}, stage = document.querySelector('#%s .stage');
  stage.classList.toggle('example', !!seen.example);
  if (!seen.cells || seen.cells.length) return;
  stage.classList.remove('has'); stage.querySelector('.big').removeAttribute('src');
}"""


@dataclass(frozen=True)
class First:
    """An example. ``ghost``: what lies over the empty inputs: "pair" or "row" of pictures, or "flat" on a canvas;
    ``layers``: the same for the canvas itself, if there is one; ``words``: what the form says meanwhile."""

    request: Any
    done: Done
    ghost: dict[str, Any]
    words: dict[str, str]
    layers: Callable[[], dict[str, str]] | None = None
    before: str = ""


def pictures() -> dict[str, Any]:
    """What *Morph*'s example is made of."""
    both = tuple(images.read(EXAMPLES / name, f"picture {i}") for i, (name, _) in enumerate(FLOWERS, 1))
    return {"pictures": both, "prompts": tuple(words for _, words in FLOWERS)}


def drawing(tab: str) -> Drawing:
    """What is on the canvas of *Draw* or *Edit* in its example."""
    if tab == "edit":
        paint, photo = (EXAMPLES / PAINTED[n] for n in ("paint", "photo"))
        return Drawing((SIDE, SIDE), photo=images.read(photo, "photograph"), strokes=layer(str(paint)))
    own = examples("drawings")[DRAWN]
    return Drawing((SIDE, SIDE), **{n: layer(own[n]) for n in ("sketch", "strokes")})


def bare(seen: Drawing) -> bool:
    return not (seen.photo or seen.sketch or seen.strokes or seen.mask)


def layer(name: str) -> Image.Image:
    with Image.open(EXAMPLES / name) as opened:
        return opened.convert("RGBA")


def request_for(tab: str) -> Any:
    """What pressing *Make* asks for in a fresh visit, with the example in its place."""
    own: dict[str, Any] = {"seed": SEEDS[tab], "model": "flora"}
    if tab == "morph":
        return MorphRequest(**pictures(), **own, **MorphRequest.presets[MorphRequest.preset])
    seen = drawing(tab)
    if tab == "edit":
        own |= {"guide": seen.strokes, "photo": seen.photo, "prompt": PAINTED["prompt"]}
        return EditRequest(**own, **EditRequest.presets[EditRequest.preset])
    own |= {"sketch": seen.sketch, "strokes": seen.strokes, "prompt": examples("drawings")[DRAWN]["prompt"]}
    return DrawRequest(**own, **DrawRequest.presets[DrawRequest.preset])


@cache
def first(tab: str) -> First | None:
    """The example of a tab; None if what is kept was made of something else, or is not whole."""
    try:
        return found_for(tab)
    except (OSError, KeyError, ValueError, EngineError):
        return None


def found_for(tab: str) -> First | None:
    if tab == "interpolate":
        found = made.entry(0)
        if found is None:
            return None
        request, frames = made.request_of(found["settings"], found), made.frames_of(found)
        words = {n: found["settings"][n] for n in ("prompt", "prompt_b")}
        ghost = {"pair": {s: thumbnail(found[s], 2 * SIDE, 80) for s in "ab"}}
        return First(request, Done(frames, found["settings"], 0.0, 0, quality=found["quality"]), ghost, words)
    found = json.loads((FOLDER / "settings.json").read_text(encoding="utf8"))[tab]
    request = request_for(tab)
    own = {n: v for n, v in found["settings"].items() if n in fields_of(type(request)) and n not in ("loras", "points")}
    if settle(type(request), own) != {n: getattr(request, n) for n in own}:
        return None
    done = Done(frames_of(tab, found), found["settings"], 0.0, 0, quality=found["quality"])
    if tab == "morph":
        row = [{"src": thumbnail(name, SIDE, 80), "words": words} for name, words in FLOWERS]
        return First(request, done, {"row": row}, {})
    flat = inline(drawing(tab).flat())
    return First(request, done, {"flat": flat}, {"prompt": request.prompt}, partial(layers, tab), flat)


def frames_of(tab: str, found: dict[str, Any]) -> tuple[Image.Image, ...]:
    """The pictures on the sheet of an example, RGB."""
    n, (w, h) = found["count"], found["size"]
    with Image.open(FOLDER / f"{tab}.webp") as sheet:
        whole = sheet.convert("RGB")
    return tuple(whole.crop((i * w, 0, (i + 1) * w, h)) for i in range(n))


def layers(tab: str) -> dict[str, str]:
    """The example as a canvas takes it."""
    seen = drawing(tab)
    own = {n: getattr(seen, n) for n in ("photo", "sketch", "strokes")}
    return {n: data_url(p, "PNG") for n, p in own.items() if p}


def place(form: Form) -> None:
    """*Make* is told by the form's input ``example`` whether the example is in its place."""
    form.inputs["example"] = example(form.tab)


def wire(form: Form, state: gr.State, panel: Any, name: Name | None = None) -> None:
    """Wires the example of the form's tab, inside the caller's Blocks. ``name``: what its results are called."""
    shown, found = form.inputs["example"], first(form.tab)
    words = {form.widgets[n]: text for n, text in (found.words if found else {}).items()}
    own = json.dumps([*words.values()])

    def wanted(session: Session) -> Updates:
        if found is None or not (session.run.request is None or session.run.example):
            return panel.still
        run = begin(session, found, name(found.request) if name else {})
        said = f"An example, made earlier with flora and seed {found.request.seed}. Bring your own, or press Make"
        ghost = json.dumps({"run": run.number} | found.ghost)
        return {shown: ghost} | panel.ended(session, said)

    def gone(session: Session, event: gr.EventData) -> Updates:
        """What the visitor has made or chosen meanwhile stays."""
        if not session.run.example or session.run.number != event.run:
            return panel.still
        session.number += 1
        session.run = session.kept = Run(over=True)
        return panel.picture(session) | panel.clear() | {panel.status: message("")}

    shown.wanted(wanted, state, [shown, *panel.components], **AT_ONCE)
    shown.gone(gone, state, panel.components, **AT_ONCE)
    panel.screen.change(None, panel.screen, None, js=SEEN % panel.screen.elem_id, **AT_ONCE)
    if words:  # in the browser, which knows what has been typed or brought back by now: the visitor's own stay
        come = f"(...given) => given.some(Boolean) ? given : {own}"
        go = f"(...given) => given.map((text, i) => text === {own}[i] ? '' : text)"
        shown.placed(None, [*words], [*words], js=come, **AT_ONCE)
        shown.gone(None, [*words], [*words], js=go, **AT_ONCE)
    if found and (onto := found.layers):
        shown.use(lambda: feed_value(form.tab, onto()), None, panel.feed, **AT_ONCE)


def begin(session: Session, found: First, labels: dict[int, tuple[float, str]]) -> Run:
    """The example as if a run of it had just ended."""
    label = f"made earlier with {found.request.model}"
    run = session.begin(found.request, example=True, label=label, before=found.before, labels=labels)
    for event in (*(Frame(i, picture) for i, picture in enumerate(found.done.frames)), found.done):
        run.take(event, session.save)
    session.end(run)
    return run
