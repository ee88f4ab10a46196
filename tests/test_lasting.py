"""Jobs that outlive their page: no browser, no network, and no waiting for a minute."""

import json
import threading
import time

import gradio as gr
import pytest
from test_stream import REQUEST, Scripted, done, frames, states

from engine.requests import Cancelled
from engine.requests.finish import Finish
from morph_ui.panels import lasting, show
from morph_ui.panels.film import Film
from morph_ui.panels.lasting import again, arrive, merged, taken
from morph_ui.session import Session


class Held(Scripted):
    """A job that waits after its first three frames until it is let go, or cancelled."""

    def __init__(self, *events):
        super().__init__(*events)
        self.go = threading.Event()

    def __iter__(self):
        for n, event in enumerate(super().__iter__()):
            while n == 3 and not self.go.wait(0.01):
                if self.cancelled:
                    raise Cancelled
                yield event
            yield event


@pytest.fixture
def session():
    session = Session(finish=Finish())
    yield session
    session.owners = 1
    session.forget()


@pytest.fixture(scope="module")
def panel():
    with gr.Blocks():
        panel = Film("t")
        panel.join(gr.Button(), gr.Button(), gr.Number())
    return panel


def until(happens):
    for _ in range(1000):
        if happens():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def left(worker, session, panel, **how):
    """A page that has gone after the first frames."""
    page = show(worker, session, REQUEST, panel, **how)
    for _ in range(3):
        next(page)
    page.close()


def test_a_job_goes_on_and_the_next_page_takes_it_up(session, panel):
    worker = Held(*frames(0, 4, 2, 1, 3), done())
    left(worker, session, panel)
    assert not worker.cancelled and not session.run.over
    page = again(panel)(session)
    first = next(page)
    assert first[panel.stop]["visible"] and not first[panel.make]["visible"] and "done" in states(first, panel)
    assert panel.written["seed"] not in first  # the browser knows it, and what was typed since
    worker.go.set()
    last = [*page]
    shown = {c: v for new in last for c, v in new.items()}
    assert states(shown, panel) == ["done"] * 5 and "5 frames" in shown[panel.status]
    assert shown[panel.make]["visible"] and not session.watchers


def test_what_has_ended_meanwhile_is_shown(session, panel):
    worker = Held(*frames(0, 4, 2, 1, 3), done())
    left(worker, session, panel)
    worker.go.set()
    until(lambda: session.going[0].over)
    [only] = again(panel)(session)
    assert states(only, panel) == ["done"] * 5 and only[panel.make]["visible"] and only[panel.film]["interactive"]
    assert json.loads(only[panel.screen])["made"]["id"] == session.run.id


def test_nobody_comes_back_and_the_device_is_free(session, panel, monkeypatch):
    monkeypatch.setattr(lasting, "GRACE", 0.1)
    worker = Held(*frames(0, 4, 2, 1, 3), done())
    left(worker, session, panel)
    until(lambda: worker.cancelled and session.going[0].over)
    [only] = again(panel)(session)
    assert "away for more than a minute. The 4 finished frames are kept" in only[panel.status]
    # As long as a page looks on, it goes on; when that one goes as well, it has its own time.
    worker = Held(*frames(0, 4, 2, 1, 3), done())
    left(worker, session, panel)
    page = again(panel)(session)
    next(page)
    for _ in range(3):  # each a look, together longer than is given
        next(page)
    assert not worker.cancelled
    page.close()
    until(lambda: worker.cancelled)


def test_few_steps_at_a_stroke_end_with_their_page(session, panel):
    worker = Held(*frames(0, 4, 2, 1, 3), done())
    left(worker, session, panel, kind="live")
    assert worker.cancelled


def test_a_token_opens_once_and_the_files_stay_until_both_pages_are_forgotten(session, panel):
    own, other = "a" * 32, "b" * 32
    *first, told = arrive(["draw", "edit"])({"token": own})
    assert json.loads(told) == {"again": []}
    first[1].begin(REQUEST).take(frames(0)[0], first[1].save)
    for wrong in ({"before": "c" * 32}, {"before": own[:9]}, {"before": [own]}, None, 3):
        assert not set(map(id, arrive(["draw", "edit"])(wrong)[:2])) & set(map(id, first))
    *second, told = arrive(["draw", "edit"])({"token": other, "before": own})
    assert second[1] is first[1] and json.loads(told) == {"again": ["edit"]}
    assert taken(own, "edit") is None and taken(other, "draw") is second[0]
    folder = first[1].folder
    first[1].forget()  # of the page that has gone, an hour later
    assert folder.is_dir()
    second[1].forget()
    assert not folder.exists() and taken(other, "edit") is None


def test_two_updates_of_one_component_are_one():
    on, off = {"interactive": True, "__type__": "update"}, {"visible": False, "__type__": "update"}
    assert merged(on, off) == {"interactive": True, "visible": False, "__type__": "update"}
    assert merged("text", off) == {"value": "text", "visible": False, "__type__": "update"}
    assert merged(on, "text") == "text" and merged(None, off) == off
