"""The frames shown on a click of a ready pair: they are there, whole, and what the studio makes of that pair."""

import json
import zipfile
from dataclasses import replace
from itertools import pairwise

import gradio as gr
import numpy as np
import pytest

from engine.jobs.run import run
from engine.requests import Done, Frame, InterpolateRequest
from engine.vision import images, video
from morph_ui import interpolate as tab
from morph_ui import made
from morph_ui.stream import Session, begin
from training import examples

PAIRS = made.pairs()
LOSS = 3.0  # of 255, mean, of what WebP takes from a frame
NONE = {"picks": (), "reseeds": ()}  # JSON has lists


@pytest.fixture
def session():
    session = Session()
    yield session
    session.forget()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of what was made, to be spoilt."""
    for file in made.MADE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(made, "MADE", tmp_path)
    return tmp_path


def entry(index):
    found = made.entry(index)
    assert found is not None, f"example {index} has no frames of its own; run python -m training.examples"
    return found


def apart(a, b):
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


class Job:
    cancelled = False

    def cancel(self):
        self.cancelled = True


class Click:
    def __init__(self, index):
        self.index = index


@pytest.mark.parametrize("index", range(len(PAIRS)))
def test_every_pair_has_nine_whole_frames_between_its_own_pictures(index):
    found = entry(index)
    frames = made.frames_of(found)
    with made.Image.open(made.MADE / found["file"]) as sheet:
        assert sheet.size == (9 * 256, 256)
    assert [f.size for f in frames] == [(256, 256)] * 9 and {f.mode for f in frames} == {"RGB"}
    ends = [images.fitted(p, (256, 256), "fit") for p in made.pictures(PAIRS[index])]
    assert apart(frames[0], ends[0]) < LOSS and apart(frames[8], ends[1]) < LOSS
    # In order: the pictures' own sides, and no frame is another.
    near, far = ([apart(frames[i], end) for i in (1, 7)] for end in ends)
    assert near[0] < near[1] and far[0] > far[1]
    assert min(apart(x, y) for x, y in pairwise(frames)) > LOSS


def test_all_of_it_is_small():
    assert sum(f.stat().st_size for f in made.MADE.iterdir()) < 1.2e6
    assert len(list(made.MADE.glob("*.webp"))) == len(PAIRS)


@pytest.mark.parametrize("index", range(len(PAIRS)))
def test_make_pressed_after_a_click_asks_for_the_same(index, monkeypatch):
    """The page's own widgets, filled as the click fills them, against the settings that were kept."""
    monkeypatch.delenv("CHRYSALIS_MODEL", raising=False)
    with gr.Blocks():
        c = tab.controls()
    pair, found = PAIRS[index], entry(index)
    values = {n: w.value for n, w in c.items() if n in InterpolateRequest.__dataclass_fields__}
    values |= {k: str(made.FOLDER / pair[k]) for k in "ab"} | {k: pair[k] for k in ("prompt", "prompt_b")}
    asked, kept = tab.request_of(values), made.request_of(found["settings"], pair)
    assert asked == kept
    whole = kept.settings() | {"width": 256, "height": 256}  # with what was added to requests since
    assert whole | found["settings"] | NONE == whole
    assert kept == examples.request_for(pair) and found["preset"] == "draft" and kept.seed == 7


def test_a_click_shows_them_at_once_and_stops_what_runs(session):
    begin(session, examples.request_for(PAIRS[0]))
    job, number = Job(), session.run
    session.job, session.selected = job, 5
    value = json.loads(made.shown(session, 2))
    assert job.cancelled and session.run == number + 1 and value["run"] == session.run and session.selected is None
    assert [c["state"] for c in value["cells"]] == ["done"] * 9 and value["done"] and value["ratio"] == 1
    for i, cell in enumerate(value["cells"]):
        file = images.read(cell["src"].removeprefix("gradio_api/file="))
        assert apart(file, session.frames[i].picture) < LOSS
    assert len({c["src"] for c in value["cells"]}) == 9
    assert session.request == made.request_of(entry(2)["settings"], PAIRS[2])
    assert session.done.evaluations == 0 and session.done.seconds == 0 and len(session.done.frames) == 9


def test_the_handler_gives_files_that_say_how_they_were_made(session):
    out = made.choose(session, True, Click(1))
    assert len(out) == 10 and out[3]["visible"] and not out[4]["visible"]
    assert "Made earlier with flora, the preset draft and seed 7; press Make" in out[1] and "cross-fade" in out[1]
    for place in (5, 6):
        settings = video.read_settings(out[place]["value"])
        assert settings["prompt"] == "a blue daisy" and settings["seed"] == 7 and settings["steps"] == 24
    with zipfile.ZipFile(out[6]["value"]) as z:
        assert len([n for n in z.namelist() if n.endswith(".png")]) == 9


def test_a_frame_of_them_can_be_made_again(session):
    """The request is the true one: with a new seed for one frame, and all that does not descend from it kept."""
    made.shown(session, 0)
    before = dict(session.frames)
    tab.choose(session, Click(2))

    class Worker:
        def submit(self, request):
            self.request = request
            return self

        cancel = Job.cancel

        def __iter__(self):
            yield from (Frame(i, session.frames[8].picture) for i in (1, 2, 3))
            yield Done(tuple(session.frames[i].picture for i in range(9)), self.request.settings(), 1.0, 1)

    worker = Worker()
    first, *_, last = tab.remake(worker)(session, False)
    states = [c["state"] for c in json.loads(first[0])["cells"]]
    assert [i for i, s in enumerate(states) if s == "waiting"] == [1, 2, 3]
    assert replace(worker.request, reseeds=()) == examples.request_for(PAIRS[0])
    assert set(dict(worker.request.reseeds)) == {2}
    assert json.loads(last[0])["done"] and session.frames[5] is before[5] and session.frames[2] is not before[2]


def test_where_nothing_was_made_nothing_is_touched(session, folder):
    kept = json.loads((folder / "settings.json").read_text())
    kept["made"][3]["settings"]["prompt_b"] = "words that the pair has no longer"
    (folder / "settings.json").write_text(json.dumps(kept))
    assert made.shown(session, 3) is None and made.shown(session, 99) is None
    assert session.run == 0 and session.request is None and made.choose(session, True, Click(3)) == [gr.skip()] * 10
    assert made.shown(session, 4) is not None
    (folder / "settings.json").unlink()
    assert made.entry(4) is None


@pytest.mark.slow
def test_they_are_as_old_as_the_weights():
    kept = json.loads((made.MADE / "settings.json").read_text())
    assert kept["weights"] == examples.weights(), (
        "flora's weights have changed since the frames of the ready pairs were made; run python -m training.examples, "
        "look at them and commit assets/examples/made"
    )


@pytest.mark.slow
def test_the_studio_makes_them(models):
    """One of them once more, on this machine: the same but for WebP and bfloat16."""
    found = entry(3)
    done = next(e for e in run(models, made.request_of(found["settings"], PAIRS[3])) if isinstance(e, Done))
    gaps = [apart(x, y) for x, y in zip(done.frames, made.frames_of(found), strict=True)]
    assert max(gaps) < 1.5 * LOSS, gaps
    assert done.settings | found["settings"] | NONE == done.settings
