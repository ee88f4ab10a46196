"""Live drawing without a browser: the state machine in numbers, and its wiring over jobs that are played back."""

import base64
import io
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import picture
from PIL import Image

from engine.requests import Done, EngineError, Frame, Preview, Progress
from engine.requests.settings import Settings
from morph_ui import live
from morph_ui.components.canvas import phase_of
from morph_ui.hand import Hand
from morph_ui.session import Session
from morph_ui.tabs import draw


def test_few_steps_while_the_hand_moves_and_in_full_when_it_rests():
    hand = Hand()
    assert not hand.take(1, "change") and hand.state == "idle"  # nobody follows
    first = hand.take(1, "live")
    assert first and hand.holds(first) and hand.state == "live"
    hand.end(first, finished=True)
    assert hand.state == "idle" and not hand.holds(first)
    whole = hand.take(1, "rest")
    hand.end(whole, finished=True)
    assert hand.full == 1 and not hand.take(1, "live") and not hand.take(1, "rest")  # it is there already
    assert hand.take(2, "live")


def test_when_it_is_still_the_whole_decoder_shows_and_a_stroke_ends_that():
    hand = Hand()
    hand.end(hand.take(1, "live"), finished=True)
    again = hand.take(1, "still")
    hand.end(again, finished=True)
    assert again and hand.full == -1 and hand.take(1, "rest")  # which is still to come
    hand.end(hand.take(2, "live"), finished=True)
    again = hand.take(2, "still")
    assert hand.wake(3) and not hand.holds(again) and not hand.take(2, "still") and hand.take(3, "live")


def test_what_comes_late_takes_no_better_ones_place():
    """Requests of a browser may overtake each other."""
    hand = Hand()
    still = hand.take(1, "still")
    assert not hand.take(1, "live") and hand.holds(still)
    hand.end(still, finished=True)
    assert hand.take(1, "still") and hand.take(1, "rest") and not hand.take(1, "still") and hand.take(2, "live")


def test_the_newest_wins():
    hand = Hand()
    old, new = hand.take(3, "live"), hand.take(4, "live")
    assert not hand.holds(old) and hand.holds(new)
    hand.end(old, finished=True)  # which changes nothing
    assert hand.holds(new) and not hand.take(3, "rest")  # overtaken on its way
    hand.end(new, finished=False)
    assert hand.full == -1 and hand.take(4, "rest")  # what was not finished is drawn again


def test_the_hand_goes_on_and_make_and_stop_end_what_is_wanted():
    hand = Hand()
    few = hand.take(1, "live")
    assert not hand.wake(2) and hand.holds(few)  # few steps are drawn to their end
    whole = hand.take(2, "rest")
    assert hand.wake(3) and not hand.holds(whole) and hand.full == -1
    assert not hand.take(2, "rest")  # a rest that was on its way while the hand went on
    few = hand.take(3, "live")
    hand.drop()
    assert not hand.holds(few) and not hand.take(4, "live", making=True) and hand.take(4, "live")


@pytest.mark.parametrize(
    "value, seen",
    [
        ({"turn": 3, "phase": "live"}, (3, "live")),
        ({"turn": 3, "phase": "still"}, (3, "still")),
        ({"turn": True, "phase": "live"}, (0, "change")),
        ({"turn": -1, "phase": "rest"}, (0, "change")),
        ({"turn": 2**31, "phase": "rest"}, (0, "change")),
        ({"turn": 3, "phase": ["live"]}, (0, "change")),
        ({"phase": "rest"}, (0, "change")),
        ("live", (0, "change")),
        (None, (0, "change")),
    ],
)
def test_what_is_wanted_is_not_believed(value, seen):
    assert phase_of(value) == seen


# ------------------------------------------------------------------------------ the wiring, over played back jobs


class Jobs:
    """Plays the same events for every job, and notes what was asked for and which jobs were cancelled."""

    def __init__(self, *events):
        self.events, self.asked, self.cancelled = events, [], 0

    def submit(self, request, visitor=""):
        self.asked.append(request)
        return self

    def cancel(self):
        self.cancelled += 1

    def __iter__(self):
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event


def finished(size=32):
    p = picture(0, (size, size))
    settings = {"method": "draw", "seed": 3, "plan": [{"seed": 3}]}
    return Progress(0.5, "drawing"), Frame(0, p), Done((p,), settings, 0.2, 4)


@pytest.fixture(scope="module")
def page():
    """The handlers of the Draw tab by name, over a worker that a test may change."""
    worker = SimpleNamespace(submit=lambda request, visitor: worker.jobs.submit(request), jobs=Jobs())
    with gr.Blocks(analytics_enabled=False) as blocks:
        state = draw.build(worker, Settings())
    found = {f.fn.__name__: f for f in blocks.fns.values() if f.fn and f.fn.__name__ in ("follow", "make", "wake")}
    (pad,) = (c for c in found["follow"].inputs if c.elem_id == "draw-canvas")
    plain = {c: c.value for c in found["follow"].inputs if c not in (state, pad)}

    def call(name, session, value, *events):
        worker.jobs = Jobs(*events)
        return found[name].fn({state: session, pad: value} | plain), worker.jobs

    yield SimpleNamespace(call=call, wake=found["wake"].fn)


def sent(turn=1, phase="live", drawn=True):
    block = io.BytesIO()
    Image.new("RGBA", (64, 64), (200, 20, 20, 255)).save(block, "PNG")
    url = "data:image/png;base64," + base64.b64encode(block.getvalue()).decode() if drawn else ""
    value = {"width": 64, "height": 64, "photo": None, "layers": {"strokes": url}}
    return value | {"turn": turn, "phase": phase}


def said(updates):
    """What the status line has said."""
    lines = (v for u in updates for c, v in u.items() if getattr(c, "elem_id", "") == "draw-status")
    return " ".join(line for line in lines if isinstance(line, str))


def test_live_then_rest_then_a_late_live_event(page):
    session = Session()
    steps, jobs = page.call("follow", session, sent(), *finished())
    assert "live · 0.20 s" in said(list(steps)) and jobs.asked[0].steps == 2 and jobs.asked[0].sampler == "live"
    assert session.kept.cells[0]["src"].startswith("data:image/jpeg") and session.folder is None  # no file yet
    light = jobs.asked[0]
    steps, jobs = page.call("follow", session, sent(phase="still"), *finished())
    assert "live · 0.20 s" in said(list(steps)) and session.folder is None
    assert light.decoder == "light" and replace(light, decoder="full") == jobs.asked[0]
    few = session.kept.cells[0]
    steps, jobs = page.call("follow", session, sent(phase="rest"), Preview(0, picture(9)), *finished(64))
    assert [next(steps) for _ in range(3)] and session.run.cells[0] is few  # and no noise meanwhile
    assert "A picture of 64 × 64" in said(list(steps)) and jobs.asked[0].sampler == "ddim"
    assert len(list(session.folder.glob("*.png"))) == 1 and session.run.over
    written = {p.name for p in session.folder.rglob("*.png")}
    steps, jobs = page.call("follow", session, sent(), *finished())  # it waited its turn, and is drawn in full already
    assert said(list(steps)) == "" and not jobs.asked
    for phase in ("live", "rest"):  # the hand went on: the files of this picture take the place of the others
        list(page.call("follow", session, sent(2, phase=phase), *finished(64))[0])
    later = {p.name for p in session.folder.rglob("*.png")}
    assert len(later) == len(written) and not later & {n for n in written if n.startswith("chrysalis-3-")}
    session.forget()


def test_live_is_quiet_unless_it_is_asked_for_and_something_is_drawn(page):
    """Every handler must yield: Gradio empties the outputs of one that does not."""
    session = Session()
    for value in (None, sent(drawn=False), sent(phase="change"), sent() | {"width": "much"}):
        steps, jobs = page.call("follow", session, value, *finished())
        steps = list(steps)
        assert len(steps) == 1 and said(steps) == "" and not jobs.asked
    make, jobs = page.call("make", session, sent(), *finished())
    for _ in range(3):  # it has begun, and must not be ended by a stroke
        next(make)
    steps, _ = page.call("follow", session, sent(2))
    assert len(list(steps)) == 1 and not jobs.cancelled
    assert "A picture" in said(list(make))
    session.forget()


def test_the_hand_goes_on_during_the_full_render_and_what_was_there_stays(page):
    session = Session()
    list(page.call("follow", session, sent(), *finished())[0])
    steps, jobs = page.call("follow", session, sent(phase="rest"), *finished(64))
    for _ in range(3):
        next(steps)
    page.wake(session, SimpleNamespace(turn=2))
    assert jobs.cancelled and "Stopped" in said(list(steps)) and session.run.frames[0].picture.size == (32, 32)
    steps, jobs = page.call("follow", session, sent(phase="rest"), *finished())  # of before
    assert said(list(steps)) == "" and not jobs.asked
    steps, jobs = page.call("follow", session, sent(2), EngineError("memory must be larger, got little"))
    assert "Memory must be larger, got little." in said(list(steps)) and session.run.frames
    assert "live · " in said(list(page.call("follow", session, sent(3), *finished())[0]))
    session.forget()


def test_the_hand_goes_on_while_it_was_still_and_nothing_is_said_of_it(page):
    session = Session()
    list(page.call("follow", session, sent(), *finished())[0])
    steps, jobs = page.call("follow", session, sent(phase="still"), *finished(64))
    for _ in range(3):
        next(steps)
    page.wake(session, SimpleNamespace(turn=2))
    assert jobs.cancelled and "Stopped" not in said(list(steps)) and session.run.frames[0].picture.size == (32, 32)
    assert "live · " in said(list(page.call("follow", session, sent(2), *finished())[0]))
    session.forget()


def test_a_brush_does_not_fetch_a_network(page, monkeypatch):
    monkeypatch.setattr(live, "absent", lambda request: ["sd15", "ControlNet"])
    steps, jobs = page.call("follow", Session(), sent(), *finished())
    assert "Make fetches what is not here yet (sd15, ControlNet)" in said(list(steps)) and not jobs.asked


def test_what_make_would_fetch(monkeypatch):
    layer = Image.new("RGBA", (64, 64), "red")
    for model, lacking in (("flora", []), ("sd15 + smooth", True), ("/nowhere", []), ("nonsense", [])):
        found = live.absent(draw.R(strokes=layer, sampler="live", model=model))
        assert bool(found) == bool(lacking) and not any("LCM" in name for name in found)
