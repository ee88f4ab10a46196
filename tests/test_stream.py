"""Jobs as updates of the page, with a scripted worker: no network, no browser."""

import errno
import json
import zipfile
from dataclasses import replace

import av
import gradio as gr
import pytest
from conftest import picture

from engine.requests import Cancelled, Done, EngineError, Frame, InterpolateRequest, MorphRequest, Preview, Progress
from engine.vision import video
from morph_ui import interpolate as tab
from morph_ui import stage
from morph_ui import stream as streaming
from morph_ui.stream import Clock, Session, begin, take

REQUEST = InterpolateRequest(picture(0), picture(1), frames=5, seed=3)
MAKE, STOP = 3, 4  # places in the updates


class Scripted:
    """A worker whose jobs give the events (or raise the errors) they were told to."""

    def __init__(self, *events):
        self.events, self.cancelled, self.request = events, False, None

    def submit(self, request):
        self.request = request
        return self

    def cancel(self):
        self.cancelled = True

    def __iter__(self):
        for event in self.events:
            if isinstance(event, BaseException):
                raise event
            yield event


def frames(*which):
    return [Frame(i, picture(i, (32, 32))) for i in which]


def done(request=REQUEST):
    return Done(tuple(picture(i, (32, 32)) for i in range(5)), request.settings(), 2.0, 10)


@pytest.fixture
def session():
    session = Session()
    yield session
    session.forget()


def run(worker, session, request=REQUEST, keep=frozenset()):
    return list(stage.stream(worker, session, request, set(keep), False))


def states(update):
    return [c["state"] for c in json.loads(update[0])["cells"]]


def test_frames_arrive_and_files_are_ready_at_the_end(session, monkeypatch):
    monkeypatch.setattr(streaming, "monotonic", iter(range(10_000)).__next__)
    worker = Scripted(*frames(0, 4), Preview(2, picture(9, (16, 16))), *frames(2, 1, 3), done())
    updates = run(worker, session)
    assert updates[0][STOP]["visible"] and not updates[0][MAKE]["visible"]
    seen = [states(u) for u in updates if isinstance(u[0], str)]
    assert ["done", "waiting", "forming", "waiting", "done"] in seen and seen[-1] == ["done"] * 5
    last = updates[-1]
    assert "5 frames of 32 × 32" in last[1] and last[MAKE]["visible"] and not last[STOP]["visible"]
    assert video.read_settings(last[5]["value"])["seed"] == 3 and last[6]["interactive"]
    assert worker.cancelled  # the end of a job and a closed tab leave by the same door


def test_progress_alone_keeps_the_page_awake(session, monkeypatch):
    """Minutes of nothing but progress (textual inversion) must still notice a closed tab."""
    monkeypatch.setattr(streaming, "monotonic", iter(range(10_000)).__next__)
    updates = run(Scripted(*[Progress(i / 20, "fitting") for i in range(20)], done()), session)
    assert len(updates) >= 20


def test_leaving_cancels(session):
    worker = Scripted(*frames(0, 4, 2), done())
    updates = stage.stream(worker, session, REQUEST, set(), False)
    next(updates), next(updates)
    updates.close()
    assert worker.cancelled


def test_stop_keeps_what_is_finished(session):
    last = run(Scripted(*frames(0, 4, 2), Preview(1, picture(1, (16, 16))), Cancelled()), session)[-1]
    assert "Stopped. The 3 finished frames are kept" in last[1] and last[MAKE]["visible"]
    assert states(last) == ["done", "waiting", "done", "waiting", "done"] and last[5]["interactive"]


def test_a_bug_is_one_calm_line_and_a_refusal_its_sentence(session):
    assert "Something went wrong in the studio" in run(Scripted(RuntimeError("secret")), session)[-1][1]
    last = run(Scripted(EngineError("steps must be fewer, got many")), session)[-1]
    assert "Steps must be fewer, got many." in last[1] and "problem" in last[1] and "secret" not in last[1]


def test_a_full_disk_while_saving_leaves_a_usable_page(session, monkeypatch):
    def full(*args, **kw):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video, "save_mp4", full)
    last = run(Scripted(*frames(0, 4, 2, 1, 3), done()), session)[-1]
    assert last[MAKE]["visible"] and not last[STOP]["visible"] and not last[5]["interactive"]
    assert "could not be written: No space left on device" in last[1] and states(last) == ["done"] * 5


def test_making_again_keeps_the_rest_and_stopping_it_keeps_everything(session):
    run(Scripted(*frames(0, 4, 2, 1, 3), done()), session)
    before = {i: f.picture for i, f in session.frames.items()}
    session.selected = 1
    [*_, last] = tab.remake(Scripted(Cancelled()))(session, False)
    assert states(last) == ["done"] * 5 and "as they were" in last[1] and session.request is REQUEST
    assert {i: f.picture for i, f in session.frames.items()} == before
    worker = Scripted(Frame(1, picture(77, (32, 32))), done())
    first, *_, last = tab.remake(worker)(session, False)
    assert states(first) == ["done", "waiting", "done", "done", "done"]
    assert dict(worker.request.reseeds).keys() == {1} and session.frames[3].picture is before[3]
    assert session.frames[1].picture is not before[1]


def test_descendants():
    assert (
        tab.descendants(4, 9) == set(range(1, 8))
        and tab.descendants(2, 9) == {1, 2, 3}
        and tab.descendants(5, 9) == {5}
    )


def test_a_second_run_of_one_visit_ends_the_first(session):
    first_worker = Scripted(*frames(0, 4, 2, 1, 3), done())
    first = stage.stream(first_worker, session, REQUEST, set(), False)
    next(first), next(first)
    other = replace(REQUEST, seed=4)
    begin(session, other)
    assert first_worker.cancelled
    assert list(first) == [[gr.skip()] * 10] and session.request is other and session.frames == {}


def test_loaded_picks_come_back_only_with_their_own_settings():
    chosen = replace(REQUEST, reseeds=((1, 9),), picks=((2, 1),))
    settings = json.loads(json.dumps(chosen.settings()))
    assert tab.as_loaded(REQUEST, settings) == chosen
    assert tab.as_loaded(replace(REQUEST, seed=8), settings).reseeds == ()
    assert tab.as_loaded(REQUEST, {}) == REQUEST


def test_a_visit_leaves_nothing_behind():
    session = Session()
    begin(session, REQUEST)
    take(session, frames(0)[0])
    folder = session.folder
    assert folder.is_dir() and oct(folder.stat().st_mode)[-3:] == "700"
    session.forget()
    assert not folder.exists()


def test_the_clock_counts_from_the_first_real_progress(monkeypatch):
    now = iter([100.0, 100.0, 110.0])
    monkeypatch.setattr("morph_ui.stream.monotonic", lambda: next(now))
    clock = Clock()
    clock.see(Progress(0.0, "loading"))
    clock.see(Progress(0.2, "the middle"))
    clock.see(Progress(0.6, "level 2 of 3"))
    assert "about 10 s left" in clock.line and "60.0%" in clock.line


def test_loras_are_offered_and_a_loop_is_not_turned_back(session):
    request = MorphRequest(tuple(picture(i) for i in range(2)), frames=5, loop=True)
    made = Done(tuple(picture(i, (32, 32)) for i in range(8)), request.settings(), 2.0, 10,
                quality={"length": 4.0, "variance": 0.01, "ends": 0.25, "fade_length": 4.0, "fade_variance": 0.0},
                files={"lora-1.safetensors": b"x"})  # fmt: skip
    worker = Scripted(*(Frame(i, picture(i, (32, 32))) for i in range(8)), made)
    last = list(stage.stream(worker, session, request, set(), True))[-1]
    assert last[9]["visible"]
    with zipfile.ZipFile(last[9]["value"]) as z:
        assert z.namelist() == ["lora-1.safetensors"]
    with av.open(last[5]["value"]) as film:
        assert film.streams.video[0].frames == 8  # a loop closes itself
    assert (
        "1.00 times as long as a cross-fade" in last[1]
        and "steps ± 20%" in last[1]
        and "0.5 of its steps off" in last[1]
    )
    assert json.loads(last[0])["loop"] is True


def test_many_previews_are_few_updates(session):
    previews = [Preview(1 + i % 3, picture(i, (600, 300))) for i in range(60)]
    updates = run(Scripted(*frames(0, 4), *previews, *frames(1, 2, 3), done()), session)
    assert len(updates) < 20 and session.cells[1]["state"] == "done"
