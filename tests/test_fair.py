"""Visitors take turns: the queue by itself over random visits, and a worker whose jobs only wait to be let go."""

import logging
import random
import threading
from collections import Counter
from itertools import count

import gradio as gr
import pytest
from conftest import ROOT, picture, studio_over
from gradio_client import Client, handle_file

from benchmarks.crowd import png
from benchmarks.visits import Site, Visitor
from engine.jobs import worker as module
from engine.jobs.queue import Limits, Queue
from engine.jobs.worker import Job, Worker
from engine.requests import Cancelled, Done, EngineError, Frame, Progress, Waiting
from engine.requests.settings import PUBLIC, Settings
from morph_ui import visitors
from morph_ui.api import enlarging
from morph_ui.visitors import visitor

OTHERS = [f"visitor {i}" for i in range(19)]


class Gate:
    """A method whose jobs go on by leave, and the order in which they came to it."""

    def __init__(self):
        self.order, self.leave, self.began, self.closed = [], threading.Semaphore(0), threading.Semaphore(0), []

    def __call__(self, request):
        self.order.append(request)
        self.began.release()
        try:
            while request == "endless":
                yield Progress(0.0, "on it")
            self.leave.acquire()
            yield Frame(0, picture(0, (8, 8)))
        finally:
            self.closed.append(request)


@pytest.fixture
def gate(monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.001)
    gate = Gate()
    yield gate
    gate.leave.release(10**6)


def told(job):
    """The place that a job's reader is told, who stays."""
    events = iter(job)
    job.reader = events  # or it would be closed here
    return next(e for e in events if isinstance(e, Waiting)).place


def until(happens):
    for _ in range(3000):
        if happens():
            return
        threading.Event().wait(0.01)  # a server in this process is at work
    raise AssertionError("it did not happen")


def read(job):
    return [e for e in getattr(job, "reader", iter(job)) if not isinstance(e, Waiting)]


def test_one_with_thirty_jobs_does_not_starve_nineteen_others(gate):
    worker = Worker(gate)
    greedy = [worker.submit(f"greedy {i}", "greedy") for i in range(30)]
    gate.began.acquire()  # his first one has the device
    others = [worker.submit(name, name) for name in OTHERS]
    second = worker.submit("one more", OTHERS[0])
    assert [told(job) for job in others] == list(range(1, 20))  # the one that runs, and those who came before
    assert told(greedy[1]) == 20 and told(second) == 21 and told(greedy[2]) == 22
    gate.leave.release(31 + 19)
    for job in [*greedy, *others, second]:
        assert len(read(job)) == 1
    assert gate.order[:22] == ["greedy 0", *OTHERS, "greedy 1", "one more"]
    assert gate.order[22:] == [f"greedy {i}" for i in range(2, 30)]  # and each one's own in their order


@pytest.mark.parametrize("seed", range(20))
def test_places_are_true(seed):
    """Whatever waits, as long as nobody comes or goes: the places are the order."""
    rng, queue = random.Random(seed), Queue()
    jobs = [Job(i, rng.choice("abcde")) for i in range(30)]
    for job in jobs[:10]:
        queue.expect(job), queue.join(job)
    running = queue.take()
    for job in jobs[10:]:
        queue.expect(job), queue.join(job)
    before = {job: queue.before(job) for job in jobs if job is not running}
    order = []
    while queue.first():
        queue.end(running)
        running = queue.take()
        order.append(running)
    assert [before[job] for job in order] == list(range(29))


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_nobody_waits_for_two_jobs_of_another(seed, devices):
    """Over random visits: from when a job is the next of a visitor without a device, each other visitor comes first
    once at most."""
    rng, queue, running, waits = random.Random(seed), Queue(), [], {}

    for _ in range(600):
        what = rng.random()
        if what < 0.4:
            job = Job("", rng.choice("aaaaaabcdefgh"))
            queue.expect(job), queue.join(job)
        elif what < 0.5 and queue.jobs():
            assert queue.leave(rng.choice(queue.jobs()))
        elif what < 0.75 and running:
            queue.end(running.pop(rng.randrange(len(running))))
        elif len(running) < devices and queue.first():
            job = queue.take()
            running.append(job)
            waits.pop(job.visitor, None)
            for taken in waits.values():
                taken[job.visitor] += 1
                assert taken[job.visitor] == 1
        wanting = {*queue._waiting} - {job.visitor for job in running}
        waits = {v: waits.get(v, Counter()) for v in wanting}
        assert len(queue._since) <= len("abcdefgh") and len(queue) == len(queue.jobs())


def test_a_vanished_visitors_jobs_leave_the_queue_and_their_pictures_go(gate):
    worker = Worker(gate)
    first = worker.submit("first", "a")
    gate.began.acquire()
    gone, last = [worker.submit(f"gone {i}", "gone") for i in range(3)], worker.submit("last", "b")
    assert told(last) == 2 and worker.load == (4, 1)
    for job in gone:
        told(job)
        job.reader.close()  # as Gradio does when the page has gone
    assert worker.load == (1, 1) and next(iter(last.reader)) == Waiting(1)
    gate.leave.release(2)
    assert len(read(first)) == len(read(last)) == 1 and gate.order == ["first", "last"]


def test_whose_next_stroke_takes_the_place_of_the_last_keeps_his_turn():
    queue = Queue()
    old, other, new = Job("old", "hand"), Job("other", "other"), Job("new", "hand")
    for job in (old, other):
        queue.expect(job), queue.join(job)
    queue.leave(old)
    queue.expect(new), queue.join(new)
    assert queue.take() is new and queue.take() is other
    queue.expect(old), queue.join(old)
    queue.leave(old)  # and once his turn would have been, it is lost
    late = Job("late", "late")
    queue.expect(late), queue.join(late)
    assert queue.take() is late
    assert {*queue._since} <= {"hand"} and not queue.jobs()


def test_bounds_are_sentences_and_what_runs_is_not_counted(gate):
    worker = Worker(gate, limits=Limits(queue=3, each=2))
    running = worker.submit("running", "a")
    gate.began.acquire()
    own = [worker.submit("mine", "a") for _ in range(2)]
    with pytest.raises(EngineError, match=r"^jobs that wait must be at most 2 a visitor, got 3; wait for one of yours"):
        read(worker.submit("too many", "a"))
    other = worker.submit("other", "b")
    with pytest.raises(EngineError, match=r"^jobs that wait must be at most 3 here, got 4; come back in a while"):
        read(worker.submit("too many", "c"))
    own[0].cancel()
    third = worker.submit("third", "c")  # there is room at once
    gate.leave.release(4)
    for job in (running, own[1], other, third):
        assert len(read(job)) == 1
    assert "too many" not in gate.order and worker.load == (0, 0)


def test_whoever_takes_many_names_leaves_room_to_others(gate):
    def named(name, address):
        visitor = visitors.Visitor(name)
        visitor.address = address
        return visitor

    worker = Worker(gate, limits=Limits(queue=7, each=2))
    running = worker.submit("running", named("0", "1.2.3.4"))
    gate.began.acquire()
    many = [worker.submit("mine", named(str(n), "1.2.3.4")) for n in range(3)]
    with pytest.raises(EngineError, match=r"^jobs that wait must be at most 3 from one address, got 4; come back in"):
        read(worker.submit("too many", named("new", "1.2.3.4")))
    others = [worker.submit("other", named("new", "1.2.3.5")), worker.submit("no page", "a"), worker.submit("b", "b")]
    gate.leave.release(7)
    for job in (running, *many, *others):
        assert len(read(job)) == 1
    assert "too many" not in gate.order


def test_downloads_count_and_their_end_makes_room():
    go = threading.Event()

    def fetch(request):
        yield Progress(0.0, "fetching")
        go.wait()
        raise EngineError("network must be within reach, got nothing")

    worker = Worker(lambda request: iter(()), fetch=fetch, limits=Limits(each=1))
    slow = worker.submit("slow", "a")
    with pytest.raises(EngineError, match="at most 1 a visitor"):
        read(worker.submit("again", "a"))
    go.set()
    with pytest.raises(EngineError, match="within reach"):
        read(slow)
    assert worker.load == (0, 0)


def test_a_job_that_takes_too_long_is_ended_with_a_sentence_and_the_next_one_runs(gate, monkeypatch):
    clock = count()
    monkeypatch.setattr(module, "monotonic", lambda: next(clock) * 10.0)
    worker = Worker(gate, limits=Limits(seconds=60))
    endless, other = worker.submit("endless", "a"), worker.submit("other", "b")
    with pytest.raises(EngineError, match=r"^a job must end within 60 s here, got one that goes on; choose fewer"):
        read(endless)
    assert gate.closed == ["endless"]
    gate.leave.release()
    assert len(read(other)) == 1


def test_a_result_that_comes_late_is_no_less_a_result(monkeypatch):
    clock = count()
    monkeypatch.setattr(module, "monotonic", lambda: next(clock) * 100.0)
    done = Done((picture(0, (8, 8)),), {}, 0.1, 1)
    assert read(Worker(lambda request: iter([done]), limits=Limits(seconds=60)).submit("a")) == [done]


def test_bounds_of_a_page_of_ones_own_and_of_one_for_others_to_see():
    class Asked:
        host = None

    own, public = Settings.read(Asked(), {}), Settings.read(Asked(), {"HOST": "0.0.0.0"})
    assert (own.queue, own.queue_per_visitor, own.job_seconds) == (256, 128, 0)
    assert {n: getattr(public, n) for n in PUBLIC} == PUBLIC and public.job_seconds == 0
    told = Settings.read(Asked(), {"SPACE_ID": "x/y", "CHRYSALIS_QUEUE": "9", "CHRYSALIS_JOB_SECONDS": "90.5"})
    assert (told.queue, told.queue_per_visitor, told.job_seconds) == (9, 8, 90.5)
    with pytest.raises(EngineError, match="queue must be a whole number"):
        Settings(queue=-1)


def test_the_studio_knows_who_asks():
    """Each program by the name that Gradio gives it; outside of a handler there is nobody."""
    asked = []

    class Notes:
        def submit(self, request, visitor=""):
            asked.append(visitor)
            raise EngineError("scale must be another, got this one")

    with gr.Blocks(analytics_enabled=False) as page:
        enlarging(Notes())
    try:
        _, url, _ = page.queue().launch(prevent_thread_lock=True, quiet=True, _frontend=False)
        clients = [Client(url, verbose=False) for _ in range(2)]
        file = handle_file(ROOT / "assets/examples/drawings/own-daisy-sketch.png")
        for client in (*clients, clients[0]):
            with pytest.raises(Exception, match="another"):
                client.predict([file], scale=2, api_name="/enlarge")
    finally:
        page.close()
    assert asked == [clients[0].session_hash, clients[1].session_hash, clients[0].session_hash]
    assert all(asked) and {who.address for who in asked} == {"127.0.0.1"} and visitor() == ""


def test_jobs_that_wait_take_no_place_from_others(gate):
    """Through HTTP: of Gradio's own places there are more than jobs that may wait."""
    with studio_over(Worker(gate)) as worker:
        site = Site(worker.url)
        event = site.named["edit"]
        with Visitor(site) as greedy, Visitor(site) as other:
            data = site.given(event, guide=greedy.upload(png(picture(0, (32, 32)))), seed=7, size=64)
            for _ in range(42):
                greedy.join(event, data)
            other.join(event, data)
            until(lambda: worker.load == (42, 1))
            queue = Counter(job.visitor for job in worker._queue.jobs())
            assert queue == {greedy.hash: 41, other.hash: 1}
            assert worker._queue.first().visitor == other.hash
            gate.leave.release(43)
            until(lambda: worker.load == (0, 0))


def test_the_log_has_a_line_a_job_and_no_words_of_it(caplog, gate):
    class Secret:
        method, prompt, steps, size = "draw", "my secret rose", 2, 64

    class Bad(Secret):
        prompt = "my secret rose, for the tenth time"

    def run(request):
        if isinstance(request, Bad):
            raise EngineError(f"prompt must be shorter, got {request.prompt!r}")
        yield Frame(0, picture(0, (64, 48)))
        yield Done((picture(0, (64, 48)),), {}, 0.1, 4)

    caplog.set_level(logging.INFO, module.__name__)
    worker = Worker(run)
    assert len(read(worker.submit(Secret()))) == 2
    with pytest.raises(EngineError):
        read(worker.submit(Bad()))
    held = Worker(gate)
    held.submit("first")
    gate.began.acquire()
    waiting = held.submit(Secret())
    waiting.cancel()
    with pytest.raises(Cancelled):
        read(waiting)
    lines = [r.getMessage() for r in caplog.records]
    assert [line.split("outcome=")[1] for line in lines] == ["done", "refused", "cancelled"]
    assert lines[0].startswith("job=") and " method=draw size=64x48 steps=2 seconds=" in lines[0]
    assert "secret" not in caplog.text and len({line.split()[0] for line in lines}) == 3
