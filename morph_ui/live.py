"""What *Draw* does when it is asked: Make, live drawing while the hand moves, the full render when it rests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any

import gradio as gr
from PIL import Image

from engine.requests import DRAW_PRESETS, Cancelled, Done, DrawRequest, Frame
from morph_ui.board import settle
from morph_ui.components.canvas import Drawing, read
from morph_ui.easel import UPDATES, Easel, finish, refused, shown, stream
from morph_ui.stream import bar, begin, events, inline, message, missing_for, sentence

R = DrawRequest
FOLLOWING = re.compile(r'"turn":(\d{1,9}),"following":true}$')
AXES = {"sketch_scale": "lines", "stroke_scale": "colours", "realism": "realism"}


def request_of(drawing: Drawing, values: dict[str, Any]) -> R:
    """What is on the canvas and the values of the widgets → a request."""
    mask = drawing.mask.getchannel("A") if drawing.mask else None
    return R(sketch=drawing.sketch, strokes=drawing.strokes, photo=drawing.photo, mask=mask,
             **settle(R, values))  # fmt: skip


def flat(drawing: Drawing) -> Image.Image:
    """The drawing as one sees it: what results are compared with."""
    ground = drawing.photo.resize(drawing.size) if drawing.photo else Image.new("RGB", drawing.size, "white")
    ground = ground.convert("RGBA")
    for layer in (drawing.strokes, drawing.sketch):
        if layer:
            ground.alpha_composite(layer)
    return ground.convert("RGB")


def named(request: R) -> dict[int, tuple[float, str]]:
    """What each result is called: its place in the sheet, or its number."""
    plan = request.plan()
    texts = [" · ".join(f"{AXES[k]} {v:g}" for k, v in p.items() if k in AXES) for p in plan]
    return {i: (i, t or (f"seed {plan[i]['seed']}" if len(plan) > 1 else "")) for i, t in enumerate(texts)}


def told(done: Done) -> list[str]:
    """How closely the drawing was followed, in words."""
    q = done.quality
    parts = [f"lines {q['lines']:.0%}"] if "lines" in q else []
    parts += [f"colours {q['colours'] / 255:.0%}"] if "colours" in q else []
    return [(" and ".join(parts) + " away from the drawing").capitalize()] if parts else []


def fresh(worker: Any, names: list[str], rested: bool = False) -> Callable[..., Iterator[list[Any]]]:
    """The handler of Make; ``rested``: of the hand's rest after live drawing, the live picture staying till then."""

    def run(session: Easel, *values: Any) -> Iterator[list[Any]]:
        quiet, turn, halted = [gr.skip()] * UPDATES, following_turn(values[names.index("canvas")]), session.halted

        def late() -> bool:
            """Whether a rest is no longer wanted: Make or Stop was pressed, or the hand goes on."""
            return not turn or session.doing == "make" or session.turn > turn or session.halted > halted

        yield quiet if rested else [gr.skip(), bar(0, "reading the drawing"), *[gr.skip()] * (UPDATES - 2)]
        while rested and turn and session.doing == "live":  # the few steps first, which may still be on their way
            yield quiet
            sleep(0.1)
        if rested and late():
            yield quiet
            return
        session.doing = session.doing if rested else "make"
        try:
            given = dict(zip(names, values, strict=True))
            drawing = read(given.pop("canvas"))
            if given["sheet"] != "none" or rested:
                given["count"] = 1
            request = request_of(drawing, given | ({"sheet": "none"} if rested else {}))
            session.also = ("live",) if turn else ()  # Make fetches what following takes
            if rested and missing_for(request):
                yield quiet
                return
        except Exception as e:
            session.doing = session.doing if rested else ""
            yield quiet if rested else refused(sentence(e))
            return
        if rested:
            if late():
                yield quiet
                return
            session.rested = known(names, values)
        yield from stream(worker, session, request, flat(drawing), named(request), {0} if rested else None, told,
                          doing="rest" if rested else "make")  # fmt: skip

    return run


def known(names: list[str], values: tuple[Any, ...]) -> int:
    """What tells a drawing and its settings from others; the seed apart, which may be written back meanwhile."""
    return hash(tuple(v for n, v in zip(names, values, strict=True) if n != "seed"))


def following_turn(value: str | None) -> int:
    """The number of the hand's last change if the canvas is to be followed, 0 if not."""
    found = FOLLOWING.search(value or "", max(0, len(value or "") - 80))
    return int(found[1]) if found else 0


def following(worker: Any, names: list[str]) -> Callable[..., Iterator[list[Any]]]:
    """The handler of live drawing: a picture in few steps; a newer change ends an older one.

    What was drawn in full already, and anything while Make is at work, is left aside.
    """

    def run(session: Easel, *values: Any) -> Iterator[list[Any]]:
        quiet = [gr.skip()] * UPDATES
        given = dict(zip(names, values, strict=True))
        turn = following_turn(given["canvas"])
        if not turn or session.doing == "make" or session.rested == known(names, values):
            yield quiet
            return
        session.turn, halted = turn, session.halted
        few = DRAW_PRESETS["live"] | {"count": 1, "sheet": "none"}
        try:
            drawing = read(given.pop("canvas"))
            request = request_of(drawing, given | few)
            if missing := missing_for(request):  # every touch of the brush would start it anew
                lacking = ", ".join(name for name, _ in missing)
                yield [gr.skip(), message(f"Make fetches what is not here yet ({lacking}); then it follows"),
                       *quiet[2:]]  # fmt: skip
                return
        except Exception:  # nothing drawn yet, or a photograph still on its way: Make would say so
            yield quiet
            return
        if session.doing == "make" or session.halted > halted:  # while the drawing was read
            yield quiet
            return
        show, hide = gr.update(visible=True), gr.update(visible=False)
        number, began = begin(session, request, {0}), monotonic()
        session.rested = 0
        session.labels, session.offset, session.selected, session.newest = {}, 0, None, 0
        session.doing = "live"
        try:
            yield [gr.skip(), message("following your hand"), request.seed, hide, show, *[gr.skip()] * 4]
            if session.run == number:
                for event in events(worker, request, session):
                    if session.run != number:
                        break
                    if isinstance(event, Frame):
                        session.ratio = event.picture.width / event.picture.height
                        session.frames[0] = event
                        session.cells[0] = {"state": "done", "src": inline(event.picture)}
                    elif isinstance(event, Done):
                        session.done = event
                    else:
                        yield quiet  # a chance to notice a closed tab
            text = message(f"live · {monotonic() - began:.2f} s")
        except Cancelled:
            text = message("Stopped")
        except Exception as e:
            text = message(sentence(e), "problem")
        if session.run != number:
            yield quiet
            return
        session.doing = ""
        if session.done is None:
            session.back()
            yield [shown(session), text, gr.skip(), show, hide, *[gr.skip()] * 4]
            return
        session.before = inline(flat(drawing), 320, 75)
        finish(session)
        off = gr.update(value=None, interactive=False)  # the file comes with the full render
        usable = gr.update(interactive=True)
        yield [shown(session), text, gr.skip(), show, hide, off, gr.update(value=None, visible=False), usable, usable]

    return run
