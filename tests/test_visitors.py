"""What is kept of whoever has gone: sessions of Gradio's real holder, folders and uploads."""

from datetime import datetime, timedelta
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.state_holder import SessionState, StateHolder

from engine.requests import EngineError
from morph_ui import visitors
from morph_ui.panels.lasting import Lasting
from morph_ui.session import Session
from morph_ui.visitors import DAY, GONE, MINUTE, UNREAD, heard, lean, sweep, tidy


@pytest.fixture
def page():
    with gr.Blocks(analytics_enabled=False) as page:
        page.kept = gr.State(Session(), delete_callback=Session.forget)
        gr.Textbox("words")
    StateHolder().set_blocks(page)
    return page


def come(page, name, silent=0.0, session=None, closed=False):
    """Somebody who has a session of ours where ``session`` is one, and was last heard of so many seconds ago."""
    state = page.state_holder[name]
    if session:
        state[page.kept._id] = session
    state.is_closed = closed
    page.state_holder.time_last_used[name] = datetime.now() - timedelta(seconds=silent)
    return session


def test_sessions_go_when_they_are_over_and_not_before(page, tmp_path):
    here, gone, folder = Session(), Session(), tmp_path / "visit"
    folder.mkdir()
    gone.folder = folder
    come(page, "open", DAY / 2, here)
    come(page, "closed, may come back", 60, Session(), closed=True)
    come(page, "closed, forgotten", 60, closed=True)
    come(page, "program", GONE / 2)
    come(page, "silent program", GONE * 2)
    come(page, "silent for a day", DAY * 2, gone)
    tidy(page)
    left = page.state_holder.session_data
    assert {*left} == {"open", "closed, may come back", "program"} == {*page.state_holder.time_last_used}
    assert left["open"].state_data[page.kept._id] is here
    assert not folder.exists() and gone.owners == 0
    tidy(page, ahead=2 * DAY)
    assert not page.state_holder.session_data


def test_a_session_has_no_copies_of_widgets_and_all_else(page, monkeypatch):
    """Gradio makes them when it comes and at every change, for links that are not offered here."""
    monkeypatch.setattr(SessionState, "__init__", SessionState.__init__)
    made = []
    monkeypatch.setattr(gr.Textbox, "get_config", lambda self, *_: made.append(self) or {})
    lean(), lean()
    state = page.state_holder["new"]
    words = next(b for b in page.blocks.values() if isinstance(b, gr.Textbox))
    assert state[words._id] is words and {*state.blocks_config.blocks} == {*page.blocks}
    state[words._id] = gr.Textbox("others", render=False)
    state._update_config(words._id)
    state._update_value_in_config(words._id, "more")
    assert state[words._id].value == "others" and words.value == "words" and not made
    page.get_config_file()
    assert made  # but the page itself has them


def test_a_page_may_come_back_for_an_hour_after_its_last_job(page):
    """However long it was open."""
    session = come(page, "open", 0, Session())
    state = page.state_holder["open"]
    state._state_ttl[page.kept._id] = None, datetime.now() - timedelta(hours=3)
    state.is_closed = True
    gone = [expired for _, _, expired in state.state_components]
    request = visitors.LocalContext.request.set(SimpleNamespace(session_hash="open"))
    token = visitors.LocalContext.blocks.set(page)
    assert [*Lasting(session, iter([{}]))] == [{}]
    visitors.LocalContext.blocks.reset(token)
    visitors.LocalContext.request.reset(request)
    assert (gone, [expired for _, _, expired in state.state_components]) == ([True], [False])


def test_it_is_done_once_a_minute_by_whoever_comes(page, monkeypatch):
    asked = []
    monkeypatch.setattr(visitors, "tidy", asked.append)
    monkeypatch.setattr(visitors, "sweep", lambda: asked.append("files"))
    monkeypatch.setattr(visitors, "_DONE", {"tidy": -DAY, "sweep": -DAY})
    Session()  # outside of a handler there is nobody
    assert asked == []
    token = visitors.LocalContext.blocks.set(page)
    Session(), Session()
    visitors.LocalContext.blocks.reset(token)
    assert asked == [page, "files"]


def test_files_are_swept_by_age_and_only_our_own(tmp_path, monkeypatch):
    own = tmp_path / "own"
    monkeypatch.setattr(visitors, "own_folder", lambda: own)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "others"))
    for name in ("visits/secret/1", "gradio/1-aa/digest", "gradio/2-bb"):  # two studios'
        (own / name).mkdir(parents=True, exist_ok=True)
        (own / name / "a.png").write_bytes(b"a")
    sweep()
    assert len([*own.rglob("*.png")]) == 3
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "theirs.png").write_bytes(b"b")
    sweep(-1.0)
    assert [p.name for p in tmp_path.rglob("*.png")] == ["theirs.png"]
    assert not [*(own / "visits").iterdir()] and not [*(own / "gradio").iterdir()]


class Asked:
    """Whoever asks for what takes long, as a handler sees him, and the messages that wait for him."""

    def __init__(self, monkeypatch):
        self.now, self.unread, self.closed = [0.0], SimpleNamespace(qsize=lambda: self.size), False
        self.size = 0
        monkeypatch.setattr(visitors, "monotonic", lambda: self.now[0])
        queue = SimpleNamespace(pending_messages_per_session={"me": self.unread})
        self.blocks = visitors.LocalContext.blocks.set(SimpleNamespace(_queue=queue, state_holder=StateHolder()))
        self.request = visitors.LocalContext.request.set(SimpleNamespace(session_hash="me"))

    def events(self):
        try:
            for n in range(200):
                self.now[0] += 1.0
                yield n
        finally:
            self.closed = True

    def leave(self):
        visitors.LocalContext.request.reset(self.request)
        visitors.LocalContext.blocks.reset(self.blocks)


@pytest.fixture
def asked(monkeypatch):
    asked = Asked(monkeypatch)
    yield asked
    asked.leave()


def test_what_nobody_listens_to_is_stopped_after_a_minute(asked):
    seen = []
    with pytest.raises(EngineError, match="must be listened to, got nobody for 60 s"):
        for n in heard(asked.events()):
            asked.size += 1  # told, and not read
            seen.append(n)
    assert asked.closed and UNREAD < len(seen) <= UNREAD + MINUTE + 2


@pytest.mark.parametrize("read", [lambda n: n, lambda n: n * 3 // 4, lambda n: n - n % 30, lambda n: n - UNREAD])
def test_whoever_is_slow_is_waited_for(asked, read):
    """At once, not fast enough, in heaps, behind."""
    for n in heard(asked.events()):
        asked.size = n - max(0, read(n))
    assert asked.closed and n == 199


def test_a_page_that_never_listens_keeps_no_device(asked):
    session = Session()
    work = Lasting(session, ({} for _ in asked.events()))
    for _ in work:
        asked.size += 1
    assert work.over and asked.closed and session.run.left and not session.watchers
