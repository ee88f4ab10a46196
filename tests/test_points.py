"""What the page makes of points, and of Interpolate through more than two pictures: the browser is not believed."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import ROOT, picture
from test_live import Jobs

from engine.requests import Done, EngineError, Frame, InterpolateRequest, settle
from morph_ui.components.points import checked, shown, told
from morph_ui.components.shelf import EXAMPLES
from morph_ui.components.timeline import keyframes, points, seeds
from morph_ui.panels.film import Film
from morph_ui.session import Session
from morph_ui.tabs import interpolate as tab

NAMES = ["rose-22325299158.webp", "daisy-2520369272.webp", "daisy-107592979.webp", "rose-20409866779.webp"]
ROSE, DAISY, WHITE, RED = (ROOT / "assets/examples" / n for n in NAMES)
POINT = [0.1, 0.2, 0.3, 0.4]


def line(*paths, **more):
    return json.dumps({"items": [{"path": str(p), "words": f"w{i}"} for i, p in enumerate(paths)]} | more)


def ask(*paths, loaded=None, **own):
    form = SimpleNamespace(read=lambda values: tab.R(**settle(tab.R, values)))
    values = {"a": str(ROSE), "b": str(DAISY), "skeletons": None, "seed": 7, "more": line(*paths, **own)}
    session = Session()
    session.loaded = loaded or {}
    return tab.ask(form, session, values)[0]


def test_the_page_asks_for_more_pictures_with_words_points_and_seeds():
    r = ask(WHITE, RED, points=[[], [POINT], []], seeds={"of": 7, "ways": [None, 9, None]})
    assert r.total == 25 and r.words() == ["", "", "w0", "w1"]
    assert r.points == ((), (tuple(POINT),)) and r.seeds == (7, 9)
    assert ask(WHITE, seeds={"of": 8, "ways": [None, 9]}).seeds == ()  # they belong to another seed of the whole
    assert ask().pictures[1].size and ask().prompts == ask().points == ()
    with pytest.raises(EngineError, match="picture 3 must be uploaded here"):
        ask("/etc/passwd")
    with pytest.raises(EngineError, match="points must lie in the pictures"):
        ask(points=[[[0, 0, 2, 0]]])


@pytest.mark.parametrize("own", [{"points": 5}, {"points": [5]}, {"points": [[[1]]]}, {"points": [["x"]]}])
def test_points_that_are_none(own):
    with pytest.raises(EngineError, match=r"must be a timeline|points must be"):
        ask(WHITE, **own)


@pytest.mark.parametrize("own", [{"seeds": 5}, {"seeds": {"ways": 5}}, {"seeds": {"of": 7, "ways": ["x", 1]}}])
def test_seeds_that_are_none(own):
    with pytest.raises(EngineError, match=r"must be a timeline|seeds must be"):
        ask(WHITE, **own)


def test_what_is_no_value():
    assert keyframes(None) == points("") == seeds("{}", 7) == []
    for read in (keyframes, points, lambda v: seeds(v, 1)):
        with pytest.raises(EngineError, match="pictures must be a timeline"):
            read("[1]")


def test_picks_of_loaded_settings_come_back_with_as_many_pictures_only():
    r = ask(WHITE, points=[[POINT]])
    loaded = json.loads(json.dumps(r.settings() | {"reseeds": [[5, 3]]}))
    assert ask(WHITE, points=[[POINT]], loaded=loaded).reseeds == ((5, 3),)
    assert ask(WHITE, loaded=loaded).reseeds == ask(points=[[POINT]], loaded=loaded).reseeds == ()


def test_a_way_is_made_again_with_another_seed_and_the_rest_stays():
    session, r = Session(), ask(WHITE, RED)
    session.end(session.begin(r))
    frames = [Frame(i, picture(i, (32, 32))) for i in range(25)]
    jobs = Jobs(*frames, Done(tuple(f.picture for f in frames), r.settings(), 1.0, 4))
    for f in frames:
        session.run.take(f, session.save)
    with gr.Blocks(analytics_enabled=False):
        panel, box = Film("interpolate"), gr.HTML()
        panel.join(gr.Button(), gr.Button(), gr.Number())
    updates = list(tab.again(jobs, panel, box)(session, SimpleNamespace(way=1)))
    (new,) = jobs.asked
    assert new.seeds[0] == new.seeds[2] == 7 != new.seeds[1] and session.run.keep == {*range(25)} - {*range(9, 16)}
    assert json.loads(updates[0][box])["seeds"] == {"of": 7, "ways": list(new.seeds)}
    assert "Make the film first" in next(tab.again(jobs, panel, box)(Session(), SimpleNamespace(way=0)))[panel.status]
    alter = tab.alter(jobs, panel, tab.remake)
    session.run.selected = 8  # a picture, not a frame
    assert "between the pictures" in next(alter(session, SimpleNamespace()))[panel.status]
    session.run.selected = 10
    list(alter(session, SimpleNamespace()))
    assert jobs.asked[-1].reseeds[0][0] == 10 and session.run.keep == {*range(25)} - {9, 10, 11}


def test_what_the_window_asks_of_the_studio():
    got = shown({"path": str(EXAMPLES / NAMES[0])})
    assert got["url"].startswith("data:image/jpeg") and got["ratio"] > 0
    assert "must be uploaded here" in shown({"path": "/etc/passwd"})["error"] and "error" in shown(None)
    assert checked({"points": [POINT]}) == ""
    assert checked({"points": [[0.2, 0.5, 0.8, 0.5], [0.8, 0.5, 0.2, 0.5]]}).startswith("Points 1 and 2 must not cross")
    assert checked({"points": "x"}) and checked(None)
    assert json.loads(told(None, "x")) == {"arrows": None, "said": "x"}


def test_settings_of_a_file_are_put_on_the_timeline():
    poses, box = SimpleNamespace(shown="shown"), "line"
    r = ask(WHITE, points=[[], [POINT]], seeds={"of": 7, "ways": [3]})
    said, updates = tab.restore(json.loads(json.dumps(r.settings())), poses, box)
    value = json.loads(updates[box])
    assert "same 3 pictures" in said and value["words"][0] == "w0" and value["points"] == [[], [POINT]]
    assert value["seeds"] == {"of": 7, "ways": [3]} and isinstance(r, InterpolateRequest)
    assert "same two pictures" in tab.restore({}, poses, box)[0]
