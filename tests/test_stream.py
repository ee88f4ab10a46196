"""Jobs as updates of the page, with a scripted worker: no network, no browser."""

import errno
import json
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import av
import gradio as gr
import pytest
from conftest import picture

from engine.requests import Cancelled, Done, EngineError, Frame, InterpolateRequest, MorphRequest, Preview, Progress
from engine.requests.finish import Finish
from engine.vision import video
from engine.vision.film import Film as Finished
from morph_ui import panels
from morph_ui.live import Glimpse
from morph_ui.panels import show, status
from morph_ui.panels.film import Film, measures
from morph_ui.panels.finish import filler
from morph_ui.panels.gallery import Gallery
from morph_ui.panels.status import Clock
from morph_ui.session import Session
from morph_ui.tabs import interpolate as tab

REQUEST = InterpolateRequest(picture(0), picture(1), frames=5, seed=3)


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
    session = Session(finish=Finish())
    yield session
    session.forget()


@pytest.fixture(scope="module")
def panel():
    with gr.Blocks():
        panel = Film("t")
        panel.join(gr.Button(), gr.Button(), gr.Number())
    return panel


def run(worker, session, panel, request=REQUEST):
    return list(show(worker, session, request, panel))


def boxes(panel, **values):
    """What is in the boxes of the film, these values among it."""
    return [values.get(n, b.value) for n, b in panel.finish.boxes.items()]


def taken(session, panel, form, **values):
    """The file that comes when a button of the film is pressed."""
    [*_, last] = panel.finish.writer(panel, form)(session, *boxes(panel, **values))
    return session.folder / json.loads(last[panel.finish.taken])["name"]


def states(update, panel):
    return [c["state"] for c in json.loads(update[panel.screen])["cells"]]


def test_frames_arrive_and_files_are_ready_at_the_end(session, panel, monkeypatch):
    monkeypatch.setattr(panels, "monotonic", iter(range(10_000)).__next__)
    worker = Scripted(*frames(0, 4), Preview(2, picture(9, (16, 16))), *frames(2, 1, 3), done())
    updates = run(worker, session, panel)
    assert updates[0][panel.stop]["visible"] and not updates[0][panel.make]["visible"]
    assert updates[0][panel.written["seed"]] == 3
    seen = [states(u, panel) for u in updates if panel.screen in u]
    assert ["done", "waiting", "forming", "waiting", "done"] in seen and seen[-1] == ["done"] * 5
    last = updates[-1]
    assert "5 frames of 32 × 32" in last[panel.status] and last[panel.make]["visible"]
    assert not last[panel.stop]["visible"]
    assert all(last[b]["interactive"] for b in (panel.pngs, panel.film, panel.save))
    assert not list(session.folder.glob("*.mp4")) and not list(
        session.folder.glob("*.zip")
    )  # not before they are wanted
    assert video.read_settings(taken(session, panel, "mp4"))["seed"] == 3
    assert len(zipfile.ZipFile(taken(session, panel, "drawn", there_and_back=True)).namelist()) == 6
    assert worker.cancelled  # the end of a job and a closed tab leave by the same door


def test_progress_alone_keeps_the_page_awake(session, panel, monkeypatch):
    """Minutes of nothing but progress (textual inversion) must still notice a closed tab."""
    monkeypatch.setattr(panels, "monotonic", iter(range(10_000)).__next__)
    updates = run(Scripted(*[Progress(i / 20, "fitting") for i in range(20)], done()), session, panel)
    assert len(updates) >= 20


def test_leaving_a_stroke_cancels(session, panel):
    """A job that was asked for by Make goes on for a while (test_lasting)."""
    worker = Scripted(*frames(0, 4, 2), done())
    updates = show(worker, session, REQUEST, panel, kind="live")
    next(updates), next(updates)
    updates.close()
    assert worker.cancelled


def test_stop_keeps_what_is_finished(session, panel):
    last = run(Scripted(*frames(0, 4, 2), Preview(1, picture(1, (16, 16))), Cancelled()), session, panel)[-1]
    assert "Stopped. The 3 finished frames are kept" in last[panel.status] and last[panel.make]["visible"]
    assert states(last, panel) == ["done", "waiting", "done", "waiting", "done"] and last[panel.film]["interactive"]
    # Stopped before it has asked for the device, it never asks.
    worker = Scripted(done())
    updates = show(worker, session, REQUEST, panel)
    next(updates)
    session.halt()
    assert "Stopped" in [*updates][-1][panel.status] and worker.request is None and len(session.run.frames) == 3


def test_a_bug_is_one_calm_line_and_a_refusal_its_sentence(session, panel):
    last = run(Scripted(RuntimeError("secret")), session, panel)[-1][panel.status]
    assert "Something went wrong in the studio" in last and "secret" not in last
    last = run(Scripted(EngineError("steps must be fewer, got many")), session, panel)[-1][panel.status]
    assert "Steps must be fewer, got many." in last and "problem" in last


def test_a_full_disk_while_saving_leaves_a_usable_page(session, panel, monkeypatch):
    def full(*args, **kw):
        raise OSError(errno.ENOSPC, "No space left on device")

    last = run(Scripted(*frames(0, 4, 2, 1, 3), done()), session, panel)[-1]
    assert states(last, panel) == ["done"] * 5
    monkeypatch.setattr(Finished, "writing", full)
    [last] = panel.finish.writer(panel, "mp4")(session, *boxes(panel))
    assert last[panel.make]["visible"] and not last[panel.stop]["visible"] and panel.finish.taken not in last
    assert "could not be written: No space left on device" in last[panel.status]


def test_the_player_shows_what_the_file_will_be(session, panel):
    """A box changes what is played at once; the file has the same shots."""
    last = run(Scripted(*frames(0, 4, 2, 1, 3), done()), session, panel)[-1]
    plain = json.loads(last[panel.screen])["film"]
    assert [shot[:2] for shot in plain] == [[i, 125] for i in range(5)]
    settle = panel.finish.settler(panel)
    how = {"there_and_back": True, "hold": 0.5, "duration": 3}
    view = json.loads(settle(session, *boxes(panel, **how))[panel.screen])
    assert [i for i, *_ in view["film"]] == [0, 1, 2, 3, 4, 3, 2, 1] and not view["fill"]
    assert sum(ms for _, ms, _ in view["film"]) == pytest.approx(3000, abs=1)
    with av.open(str(taken(session, panel, "mp4", **how))) as film:
        stream = film.streams.video[0]
        assert float(stream.frames / stream.average_rate) == pytest.approx(3, abs=0.001)
    assert settle(session, *boxes(panel, **how)) == panel.still
    wrong = settle(session, *boxes(panel, **how, trim="80,20"))
    assert "“Part” must be two percentages" in wrong[panel.status] and panel.screen not in wrong
    assert session.finish.duration == 3  # it stays as it was


def test_a_smoother_film_is_filled_in_for_the_player(session, panel):
    run(Scripted(*frames(0, 4, 2, 1, 3), done()), session, panel)
    session.run.frames = {i: Frame(i, session.run.frames[0].picture) for i in range(5)}  # nothing moves: small steps
    session.run.frames[4] = Frame(4, picture(9, (32, 32)))
    view = json.loads(
        panel.finish.settler(panel)(session, *boxes(panel, smooth=True, duration=1, fps=10, there_and_back=False))[
            panel.screen
        ]
    )
    assert view["fill"] and len(view["film"]) == 10
    [*_, last] = filler(panel)(session)
    view = json.loads(last[panel.screen])
    assert not view["fill"] and "too large to be filled and stays as drawn (frames 4 to 5)" in last[panel.status]
    between = [src for _, _, src in view["film"] if src]
    assert len(between) == len(set(between)) == 6 and all(src.startswith("gradio_api/file=") for src in between)
    session.begin(REQUEST)  # another run will have other pictures
    assert list(filler(panel)(session)) == [panel.still]


def test_making_again_keeps_the_rest_and_stopping_it_keeps_everything(session, panel):
    run(Scripted(*frames(0, 4, 2, 1, 3), done()), session, panel)
    before = {i: f.picture for i, f in session.run.frames.items()}
    assert panel.choose(session, SimpleNamespace(index=1))[panel.again]["visible"]
    [*_, last] = tab.alter(Scripted(Cancelled()), panel, tab.remake)(session, None)
    assert states(last, panel) == ["done"] * 5 and "as they were" in last[panel.status]
    assert session.run.request is REQUEST and {i: f.picture for i, f in session.run.frames.items()} == before
    worker = Scripted(Frame(1, picture(77, (32, 32))), done())
    first, *_, last = tab.alter(worker, panel, tab.remake)(session, None)
    assert states(first, panel) == ["done", "waiting", "done", "done", "done"]
    assert dict(worker.request.reseeds).keys() == {1} and session.run.frames[3].picture is before[3]
    assert session.run.frames[1].picture is not before[1]
    [only] = tab.alter(worker, panel, tab.remake)(Session(), None)
    assert "Choose a frame" in only[panel.status]


def test_what_changes_with_a_frame():
    assert tab.descend(4, 9) == set(range(1, 8)) and tab.descend(2, 9) == {1, 2, 3} and tab.descend(5, 9) == {5}


def test_a_second_run_of_one_visit_ends_the_first_without_a_word(session, panel):
    workers = Scripted(*frames(0, 4, 2, 1, 3), done()), Scripted(*frames(0), done())
    first = show(workers[0], session, REQUEST, panel)
    next(first), next(first)
    other = replace(REQUEST, seed=4)
    second = show(workers[1], session, other, panel)
    next(second)
    assert workers[0].cancelled and list(first) == [panel.still]
    assert session.run.request is other and session.run.frames == {}
    early = show(Scripted(AssertionError("it must not ask for the device")), session, REQUEST, panel)
    next(early)
    third = show(workers[1], session, other, panel)
    next(third)
    assert list(early) == [panel.still] == list(second) and "frames" in [*third][-1][panel.status]


LARGER = [Frame(i, picture(i, (64, 64))) for i in range(5)], Done((), {}, 1.0, 0)


def test_nothing_but_stop_ends_an_enlargement(session, panel):
    run(Scripted(*frames(0, 4, 2, 1, 3), done()), session, panel)
    making = panel.larger.maker(Scripted(*LARGER[0], LARGER[1]), panel, 2)(session)
    first, _ = next(making), next(making)
    assert session.enlarging and first[panel.stop]["visible"] and not first[panel.make]["visible"]
    [only] = run(Scripted(AssertionError("it must not begin")), session, panel)
    assert "The enlargement must be finished first" in only[panel.status] and panel.stop not in only
    *more, last = making
    assert not session.enlarging and last[panel.make]["visible"] and "5 pictures of 64 × 64" in last[panel.status]
    film, pngs = (next(u[b]["value"] for u in more if b in u) for b in (panel.larger.film, panel.larger.pngs))
    assert len(zipfile.ZipFile(pngs).namelist()) == 6 and video.read_settings(film)["enlarged"] == 2
    assert not list(session.folder.glob("larger-*"))  # all are in the zip


def test_stop_ends_the_writing_of_a_larger_film_too(session, panel):
    run(Scripted(*frames(0, 4, 2, 1, 3), done()), session, panel)
    making, taken = panel.larger.maker(Scripted(*LARGER[0], LARGER[1]), panel, 2)(session), {}
    for new in making:
        taken |= new
        if "writing the film" in new.get(panel.status, ""):
            session.halt()
    assert "Stopped before the film was written; 5 pictures of 64 × 64" in taken[panel.status]
    assert taken[panel.larger.pngs]["visible"] and not taken[panel.larger.film]["visible"]
    assert taken[panel.make]["visible"] and not session.enlarging and not list(session.folder.glob("*.mp4.*"))


def test_the_larger_one_of_before_is_put_away_when_there_is_another(session):
    with gr.Blocks():
        panel = Gallery("draw", "", "Edit", lambda done: "")
        panel.join(gr.Button(), gr.Button(), gr.Number())
    new, busy = Glimpse(panel).files(session), panel.busy(session, "")
    assert all(new[c]["value"] is None for c in (panel.larger.pngs, panel.larger.detail))
    assert all(new[b]["interactive"] and not busy[b]["interactive"] for b in panel.larger.buttons.values())


def test_loaded_picks_come_back_only_with_their_own_settings():
    chosen = replace(REQUEST, reseeds=((1, 9),), picks=((2, 1),))
    settings = json.loads(json.dumps(chosen.settings()))
    assert tab.choose(REQUEST, settings) == chosen
    assert tab.choose(replace(REQUEST, seed=8), settings).reseeds == ()
    assert tab.choose(REQUEST, {}) == REQUEST


def test_a_visit_leaves_nothing_behind():
    session = Session()
    session.begin(REQUEST).take(frames(0)[0], session.save)
    folder = session.folder
    assert folder.is_dir() and oct(folder.stat().st_mode)[-3:] == "700"
    session.forget()
    assert not folder.exists()


def test_the_clock_counts_from_the_first_real_progress(monkeypatch):
    now = iter([100.0, 100.0, 110.0])
    monkeypatch.setattr(status, "monotonic", lambda: next(now))
    clock = Clock()
    clock.see(Progress(0.0, "loading"))
    clock.see(Progress(0.2, "the middle"))
    clock.see(Progress(0.6, "level 2 of 3"))
    assert "about 10 s left" in clock.line and "60.0%" in clock.line


def test_loras_are_offered_and_a_loop_is_not_turned_back(session, panel):
    request = MorphRequest(tuple(picture(i) for i in range(2)), frames=5, loop=True)
    quality = {"length": 4.0, "variance": 0.01, "ends": 0.25, "fade_length": 4.0, "fade_variance": 0.0}
    pictures = tuple(picture(i, (32, 32)) for i in range(8))
    made = Done(pictures, request.settings(), 2.0, 10, quality=quality, files={"lora-1.safetensors": b"x"})
    session.finish = Finish(there_and_back=True)
    last = run(Scripted(*(Frame(i, p) for i, p in enumerate(pictures)), made), session, panel, request)[-1]
    assert last[panel.loras]["visible"]
    with zipfile.ZipFile(last[panel.loras]["value"]) as z:
        assert z.namelist() == ["lora-1.safetensors"]
    with av.open(str(taken(session, panel, "mp4", there_and_back=True))) as film:
        assert film.streams.video[0].frames == 8  # a loop closes itself
    for words in (
        "1.0 times as much as a cross-fade, at a fairly even pace (± 20%)",
        "0.5 of a frame&#x27;s change off",
    ):
        assert words in last[panel.status]
    assert json.loads(last[panel.screen])["loop"] is True


def test_nothing_odd_is_said_of_a_way_between_two_like_pictures():
    quality = {"length": 2.58, "variance": 0.01, "ends": 0.0, "fade_length": 0.01, "fade_variance": 0.0}
    for other, more in ((0, ", for the pictures are nearly the same"), (1, "")):
        made = Done((picture(0), picture(2), picture(other)), {}, 2.0, 10, quality=quality)
        assert measures(made) == [f"It changes far more than a cross-fade{more}"]


def test_many_previews_are_few_updates(session, panel):
    previews = [Preview(1 + i % 3, picture(i, (600, 300))) for i in range(60)]
    updates = run(Scripted(*frames(0, 4), *previews, *frames(1, 2, 3), done()), session, panel)
    assert len(updates) < 20 and session.run.cells[1]["state"] == "done"
