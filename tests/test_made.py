"""The frames shown on a click of a ready pair: they are there, whole, and what the studio makes of that pair."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from conftest import done as finish

from engine.requests import Done, Frame
from engine.requests.settings import Settings
from engine.vision import images, video
from morph_ui.form import Form
from morph_ui.panels.film import Film
from morph_ui.session import Session
from morph_ui.tabs import interpolate as tab
from morph_ui.tabs import made
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


@pytest.fixture(scope="module")
def panel():
    with gr.Blocks():
        panel = Film("t")
        panel.join(gr.Button(), gr.Button())
    return panel


def click(session, panel, index):
    return made.show(panel)(session, SimpleNamespace(index=index))


@pytest.mark.parametrize("index", range(len(PAIRS)))
def test_every_pair_has_nine_whole_frames_between_its_own_pictures(index):
    found = entry(index)
    frames = made.frames_of(found)
    with made.Image.open(made.MADE / found["file"]) as sheet:
        assert sheet.size == (9 * 256, 256)
    assert [f.size for f in frames] == [(256, 256)] * 9 and {f.mode for f in frames} == {"RGB"}
    ends = [images.fit_frame(p, (256, 256), "fit") for p in made.pictures(PAIRS[index])]
    assert apart(frames[0], ends[0]) < LOSS and apart(frames[8], ends[1]) < LOSS
    # In order: the pictures' own sides, and no frame is another.
    near, far = ([apart(frames[i], end) for i in (1, 7)] for end in ends)
    assert near[0] < near[1] and far[0] > far[1]
    assert min(apart(x, y) for x, y in pairwise(frames)) > LOSS


def test_all_of_it_is_small():
    assert sum(f.stat().st_size for f in made.MADE.iterdir()) < 1.2e6
    assert len(list(made.MADE.glob("*.webp"))) == len(PAIRS)


@pytest.mark.parametrize("index", range(len(PAIRS)))
def test_make_pressed_after_a_click_asks_for_the_same(index):
    """The page's own widgets, filled as the click fills them, against the settings that were kept."""
    with gr.Blocks():
        form = Form(tab.R, Settings())
    pair, found = PAIRS[index], entry(index)
    values = {n: w.value for n, w in form.widgets.items()} | {k: str(made.FOLDER / pair[k]) for k in "ab"}
    asked, _ = tab.ask(form, Session(), {"skeletons": None} | values | {k: pair[k] for k in ("prompt", "prompt_b")})
    kept = made.request_of(found["settings"], pair)
    assert asked == kept
    whole = kept.settings() | {"width": 256, "height": 256}  # with what was added to requests since
    assert whole | found["settings"] | NONE == whole
    assert kept == examples.request_for(pair) and found["preset"] == "draft" and kept.seed == 7


def test_a_click_shows_them_at_once_with_files_that_say_how_they_were_made(session, panel):
    going = session.begin(examples.request_for(PAIRS[0]))
    out = click(session, panel, 2)
    run, value = session.run, json.loads(out[panel.screen])
    assert going.stopped and run.over and value["run"] == run.number == 2
    assert [c["state"] for c in value["cells"]] == ["done"] * 9 and value["done"] and value["ratio"] == 1
    for i, cell in enumerate(value["cells"]):
        file = images.read(cell["src"].removeprefix("gradio_api/file="))
        assert apart(file, run.frames[i].picture) < LOSS
    assert len({c["src"] for c in value["cells"]}) == 9
    assert run.request == made.request_of(entry(2)["settings"], PAIRS[2]) and len(run.done.frames) == 9
    assert out[panel.make]["visible"] and not out[panel.stop]["visible"]
    for words in ("Made earlier with flora, the preset draft and seed 7; press Make", "cross-fade, at"):
        assert words in out[panel.status]
    for form in ("mp4", "drawn"):  # made when they are asked for
        *_, out = panel.finish.writer(panel, form)(session, *[b.value for b in panel.finish.boxes.values()])
        settings = video.read_settings(json.loads(out[panel.finish.taken])["href"].removeprefix("gradio_api/file="))
        assert settings["prompt"] == PAIRS[2]["prompt"] and settings["seed"] == 7 and settings["steps"] == 24


def test_a_frame_of_them_can_be_made_again(session, panel):
    """The request is the true one: with a new seed for one frame, and all that does not descend from it kept."""
    click(session, panel, 0)
    before = dict(session.run.frames)
    panel.choose(session, SimpleNamespace(index=2))

    class Worker:
        def submit(self, request):
            self.request = request
            return self

        def cancel(self):
            pass

        def __iter__(self):
            yield from (Frame(i, before[8].picture) for i in (1, 2, 3))
            yield Done(tuple(before[i].picture for i in range(9)), self.request.settings(), 1.0, 1)

    worker = Worker()
    first, *_, last = tab.alter(worker, panel, tab.remake)(session, None)
    states = [c["state"] for c in json.loads(first[panel.screen])["cells"]]
    assert [i for i, s in enumerate(states) if s == "waiting"] == [1, 2, 3]
    assert replace(worker.request, reseeds=()) == examples.request_for(PAIRS[0])
    assert set(dict(worker.request.reseeds)) == {2}
    now = session.run.frames
    assert json.loads(last[panel.screen])["done"] and now[5] is before[5] and now[2] is not before[2]


def test_where_nothing_was_made_nothing_is_touched(session, panel, folder):
    kept = json.loads((folder / "settings.json").read_text())
    kept["made"][3]["settings"]["prompt_b"] = "words that the pair has no longer"
    (folder / "settings.json").write_text(json.dumps(kept))
    assert click(session, panel, 3) == click(session, panel, 99) == panel.still
    assert session.number == 0 and session.run.request is None
    assert panel.screen in click(session, panel, 4)
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
    done = finish(models, made.request_of(found["settings"], PAIRS[3]))
    gaps = [apart(x, y) for x, y in zip(done.frames, made.frames_of(found), strict=True)]
    assert max(gaps) < 1.5 * LOSS, gaps
    assert done.settings | found["settings"] | NONE == done.settings
