"""The laws of a worker, with methods that only wait for each other (no sleeping, no network).

The queue is tested on the local worker, which Ray's is; all else on Ray and ZeroGPU too.
A method may run in another process, so it takes its steps by leave of a `Board` in this one, over a socket.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, replace
from multiprocessing.connection import Client, Listener
from pathlib import Path

import pytest
from PIL import Image
from test_zero import zero  # noqa: F401, a fixture

from engine.jobs import worker as worker_module
from engine.jobs.ray import RayWorker
from engine.jobs.worker import Worker, prefer
from engine.requests import Cancelled, EngineError, Frame, Preview, Progress, Waiting

PATIENCE = 60  # seconds until a test that waits for something is given up
KEY = b"board"
ENDLESS = 10**6


class Board:
    """What scripts report and wait for. A run is (request, how many times it had been started before)."""

    def __init__(self):
        self.order, self.closed, self.pids = [], [], {}
        self.active = self.most = 0
        self.steps, self.permits, self.reached = Counter(), Counter(), Counter()
        self.changed = threading.Condition()
        self.listener = Listener(("127.0.0.1", 0), authkey=KEY)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                line = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self.serve, args=(line,), daemon=True).start()

    def serve(self, line):
        try:
            while True:
                name, *arguments = line.recv()
                with self.changed:
                    answer = getattr(self, name)(*arguments)
                    self.changed.notify_all()
                line.send(answer)
        except (EOFError, OSError):  # the run is over, or its process was killed
            line.close()

    def enter(self, request, pid):
        run = (request, self.order.count(request))
        self.order.append(request)
        self.pids[run] = pid
        self.active += 1
        self.most = max(self.most, self.active)
        return run

    def step(self, run):
        self.reached[run] += 1
        self.changed.notify_all()
        if not self.changed.wait_for(lambda: self.steps[run] < self.permits[run], PATIENCE):
            raise EOFError
        self.steps[run] += 1

    def leave(self, request):
        self.active -= 1
        self.closed.append(request)

    def allow(self, request, n=3, again=0):
        with self.changed:
            self.permits[request, again] += n
            self.changed.notify_all()

    def wait(self, request, n=1, again=0):
        """Until a run has come to its n-th step."""
        self.until(lambda: self.reached[request, again] >= n)

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)


@dataclass(frozen=True)
class Script:
    """A method under the board's control; what it does depends on the request's name."""

    address: tuple
    named: str = ""

    def __call__(self, request):
        with Client(self.address, authkey=KEY) as line:

            def tell(*message):
                line.send(message)
                return line.recv()

            run = tell("enter", request, os.getpid())
            try:
                for i in range(ENDLESS if request == "endless" else 3):
                    tell("step", run)
                    if request == "broken":
                        raise RuntimeError("a bug")
                    if "refused" in (request, self.named):
                        raise EngineError("steps must be fewer, got many")
                    if request == "deadly":
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield Frame(i, grey(i))
            finally:
                tell("leave", request)


def given(script):
    """What a Ray worker wants: a function that makes the method, in the actor."""
    return script


@functools.cache
def grey(i):
    return Image.new("RGB", (16, 16), (i, i, i))


@dataclass(frozen=True)
class Ask:
    name: str
    model: str


def chatty(request):
    for i in range(50):
        yield Preview(0, grey(0))
        yield Progress(i / 50, "on it")
        yield Frame(i, grey(0))


def whereabouts(request):
    yield Progress(1, str(os.getpid()))


@pytest.fixture
def board():
    board = Board()
    yield board
    board.listener.close()


@pytest.fixture
def script(board):
    return Script(board.listener.address)


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="ray is not installed (requirements-cluster.txt)")
    folder = tempfile.mkdtemp(prefix="ray-")  # pytest's own folders are too long for the names of its sockets
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    here = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", path)  # the actors' too: they import the scripts from here
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=2, object_store_memory=80 * 2**20, _temp_dir=folder, **quiet)
    yield ray
    ray.shutdown()
    patch.undo()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ray_worker(cluster):
    made = []

    def make(run, actors=1):
        made.append(RayWorker(functools.partial(given, run), actors))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def queued():
    """``queued(run)``: a worker with one device and a queue. Ray's queue is the same one."""
    assert RayWorker.submit is Worker.submit and RayWorker._take is Worker._take
    return Worker


@pytest.fixture(params=["local", "ray", "zero"])
def anywhere(request):
    """``anywhere(run)``: a worker of any kind."""
    if request.param == "zero":
        from engine.jobs.zerogpu import ZeroWorker

        request.getfixturevalue("zero")
        return ZeroWorker
    return Worker if request.param == "local" else request.getfixturevalue("ray_worker")


def solid(job):
    return [e for e in job if not isinstance(e, Waiting)]


def test_events_come_in_order_and_end(anywhere, script, board):
    board.allow("a")
    events = solid(anywhere(script).submit("a"))
    assert [e.index for e in events] == [0, 1, 2]
    assert [e.picture.getpixel((0, 0)) for e in events] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert board.closed == ["a"]


def test_never_two_at_once_and_first_come_first_served(queued, script, board):
    worker = queued(script)
    jobs = [worker.submit(n) for n in "abcd"]
    for n in "abcd":
        board.allow(n)
    for job in jobs:
        assert len(solid(job)) == 3
    assert board.most == 1 and board.order == list("abcd")


def test_a_waiting_job_knows_its_place(queued, script, board):
    worker = queued(script)
    first, second, third = (worker.submit(n) for n in "abc")
    board.wait("a")
    assert next(iter(second)) == Waiting(1)
    assert next(iter(third)) == Waiting(1)  # the second's reader went away: it no longer counts
    board.allow("a")
    assert len(solid(first)) == 3


def test_cancel_stops_at_the_next_step_and_the_next_job_runs(queued, script, board):
    worker = queued(script)
    first, second = worker.submit("a"), worker.submit("b")
    board.wait("a")
    first.cancel()
    assert "b" not in board.order  # the step under way is not disturbed, and nobody else starts
    with pytest.raises(Cancelled):
        solid(first)
    board.allow("a", 1)
    board.allow("b")
    assert len(solid(second)) == 3
    assert board.closed == ["a", "b"] and board.most == 1


def test_a_cancelled_job_ends_wherever_it_runs(anywhere, script, board):
    job = anywhere(script).submit("endless")
    board.wait("endless")
    job.cancel()
    board.allow("endless", ENDLESS)
    board.until(lambda: board.closed == ["endless"])
    assert board.steps["endless", 0] < ENDLESS
    with pytest.raises(Cancelled):
        solid(job)


def test_a_cancelled_waiting_job_never_starts(queued, script, board):
    worker = queued(script)
    first, second, third = (worker.submit(n) for n in "abc")
    second.cancel()
    for n in "abc":
        board.allow(n)
    assert len(solid(first)) == 3 and len(solid(third)) == 3
    assert board.order == ["a", "c"]


def test_a_vanished_reader_cancels(queued, script, board):
    worker = queued(script)
    job = worker.submit("a")
    reader = iter(job)
    board.allow("a", 1)
    while isinstance(next(reader), Waiting):
        pass
    reader.close()
    assert job.cancelled
    board.allow("a", 1)
    board.allow("b")
    assert len(solid(worker.submit("b"))) == 3
    assert board.order == ["a", "b"] and board.closed == ["a", "b"]


def test_a_vanished_reader_ends_the_job_wherever_it_runs(anywhere, script, board):
    reader = iter(anywhere(script).submit("endless"))
    board.allow("endless", ENDLESS)
    while isinstance(next(reader), Waiting):
        pass
    reader.close()
    board.until(lambda: board.closed == ["endless"])
    assert board.steps["endless", 0] < ENDLESS


@pytest.mark.parametrize(("request_", "error"), [("broken", RuntimeError), ("refused", EngineError)])
def test_an_error_reaches_the_reader_as_it_is_and_the_next_job_runs(anywhere, script, board, request_, error):
    worker = anywhere(script)
    first, second = worker.submit(request_), worker.submit("b")
    board.allow(request_, 1)
    board.allow("b")
    with pytest.raises(error) as caught:
        solid(first)
    assert type(caught.value) is error
    assert str(caught.value) == {"broken": "a bug", "refused": "steps must be fewer, got many"}[request_]
    assert len(solid(second)) == 3


def test_stale_previews_are_dropped_but_frames_never(queued):
    worker = queued(chatty)
    first, second = worker.submit("a"), worker.submit("b")
    solid(second)  # all of the first is there by now, and none of it was read
    events = solid(first)
    assert [e.index for e in events if isinstance(e, Frame)] == list(range(50))
    assert sum(isinstance(e, Preview) for e in events) == 1
    assert [e.fraction for e in events if isinstance(e, Progress)] == [49 / 50]


def test_frames_are_never_dropped_wherever_they_come_from(anywhere):
    events = solid(anywhere(chatty).submit("a"))
    assert [e.index for e in events if isinstance(e, Frame)] == list(range(50))


def test_a_closed_worker_cancels_what_waits(queued, script, board):
    worker = queued(script)
    first, second = worker.submit("a"), worker.submit("b")
    board.wait("a")
    worker.close()
    with pytest.raises(Cancelled):
        solid(second)
    first.cancel()
    board.allow("a", 1)
    assert board.order == ["a"]


@dataclass(frozen=True)
class Fetch:
    """Downloads under the board's control: what is to be brought is told by the request's name, as "fetch NAME"."""

    script: Script

    def __call__(self, request):
        if request == "nowhere":
            raise EngineError("model must be one of flora, got nowhere")
        if request.startswith("fetch "):
            yield Progress(0.0, "fetching")
            for i, frame in enumerate(self.script(request)):
                yield Progress(i / 3, f"fetching {frame.index}")


@pytest.fixture(params=["local", "zero"])
def fetching(request, script):
    """``fetching(run)``: a worker that brings what a job has to download first."""
    kind = Worker
    if request.param == "zero":
        from engine.jobs.zerogpu import ZeroWorker as kind

        request.getfixturevalue("zero")
    return lambda run=lambda r: script(r.removeprefix("fetch ")): kind(run, fetch=Fetch(script))


def test_a_slow_download_holds_nobody_up(fetching, board):
    worker = fetching()
    slow, quick = worker.submit("fetch a"), worker.submit("b")
    board.wait("fetch a")
    board.allow("b")
    assert len(solid(quick)) == 3
    assert board.order.count("a") == 0
    board.allow("fetch a"), board.allow("a")
    events = solid(slow)
    assert events[0].doing.startswith("fetching") and [type(e) for e in events[-3:]] == [Frame] * 3
    assert board.order[-1] == "a" and board.closed.count("fetch a") == 1


def test_a_cancelled_download_stops_at_once_and_never_gets_the_device(fetching, board):
    worker = fetching()
    job = worker.submit("fetch a")
    board.wait("fetch a")
    job.cancel()
    with pytest.raises(Cancelled):
        solid(job)
    board.allow("fetch a", 1)
    board.until(lambda: board.closed == ["fetch a"])
    board.allow("b")
    assert len(solid(worker.submit("b"))) == 3
    assert board.order == ["fetch a", "b"]


@pytest.mark.parametrize(("request_", "sentence"), [("nowhere", "got nowhere"), ("fetch refused", "got many")])
def test_a_download_that_fails_ends_its_job_only(script, board, request_, sentence):
    worker = Worker(script, fetch=Fetch(replace(script, named="refused")))
    job = worker.submit(request_)
    board.allow(request_, 1), board.allow("b")
    with pytest.raises(EngineError, match=sentence):
        solid(job)
    assert len(solid(worker.submit("b"))) == 3 and "refused" not in board.order


def test_who_has_downloaded_joins_the_end_of_the_queue(script, board):
    worker = Worker(lambda r: script(r.removeprefix("fetch ")), fetch=Fetch(script))
    running, slow, third = (worker.submit(r) for r in ("a", "fetch b", "c"))
    board.wait("a"), board.wait("fetch b")
    assert next(e for e in third if isinstance(e, Waiting)) == Waiting(1)  # not behind the download
    fourth, places = worker.submit("d"), iter(slow)
    board.allow("fetch b")
    assert next(e for e in places if isinstance(e, Waiting) and e.place) == Waiting(2)  # the third's reader has gone
    for name in "abd":
        board.allow(name)
    assert [len(solid(job)) for job in (running, fourth)] == [3, 3]
    assert len([e for e in places if isinstance(e, Frame)]) == 3
    assert [name for name in board.order if name != "fetch b"] == ["a", "d", "b"]


def test_without_a_download_there_is_no_thread(script, board):
    worker = Worker(script, fetch=Fetch(script))
    before = {t.name for t in threading.enumerate()}
    job = worker.submit("a")
    assert "fetch" not in {t.name for t in threading.enumerate()} - before
    board.allow("a")
    assert len(solid(job)) == 3


def test_a_closed_worker_ends_downloads(script, board):
    worker = Worker(script, fetch=Fetch(script))
    job = worker.submit("fetch a")
    board.wait("fetch a")
    worker.close()
    board.allow("fetch a", 1)
    with pytest.raises(Cancelled):
        solid(job)


def test_two_actors_run_two_jobs_and_a_third_waits(ray_worker, script, board):
    worker = ray_worker(script, 2)
    jobs = [worker.submit(n) for n in "abc"]
    board.wait("a")
    board.wait("b")
    assert board.pids["a", 0] != board.pids["b", 0] and os.getpid() not in board.pids.values()
    assert board.order.count("c") == 0
    for n in "abc":
        board.allow(n)
    assert [len(solid(job)) for job in jobs] == [3, 3, 3]
    assert board.most == 2


def test_a_job_whose_actor_dies_runs_again_and_the_other_is_not_disturbed(ray_worker, script, board):
    worker = ray_worker(script, 2)
    reader, other = iter(worker.submit("a")), worker.submit("b")
    board.allow("a", 1)
    while isinstance(next(reader), Waiting):
        pass
    board.wait("a", 2)
    board.wait("b")
    os.kill(board.pids["a", 0], signal.SIGKILL)
    board.wait("a", again=1)  # a new actor took it up
    board.allow("a", again=1)
    board.allow("b")
    assert [e.index for e in reader if not isinstance(e, Waiting)] == [0, 1, 2]
    assert [e.index for e in solid(other)] == [0, 1, 2]
    assert sorted(board.order) == ["a", "a", "b"]
    assert len({board.pids["a", 0], board.pids["a", 1], board.pids["b", 0]}) == 3


def test_a_job_that_kills_every_actor_ends_in_a_sentence_and_the_next_runs(ray_worker, script, board):
    worker = ray_worker(script)
    first, second = worker.submit("deadly"), worker.submit("b")
    for again in range(3):
        board.allow("deadly", 1, again)
    board.allow("b")
    with pytest.raises(EngineError, match="must live until its end, got lost 2 times"):
        solid(first)
    assert len(solid(second)) == 3
    assert board.order == ["deadly", "deadly", "b"]


def unmakeable():
    raise EngineError("device must be cuda or cpu, got a stone")


def test_what_goes_wrong_while_the_actor_makes_its_method_is_that_jobs_error(cluster):
    worker = RayWorker(unmakeable)
    try:
        with pytest.raises(EngineError, match="got a stone"):
            solid(worker.submit("a"))
    finally:
        worker.close()


def test_a_job_goes_where_its_network_is(ray_worker):
    worker = ray_worker(whereabouts, 2)

    def place(model):
        return solid(worker.submit(Ask("", model)))[0].doing

    homes = {m: place(m) for m in ("flora", "sd15")}  # the second takes the actor that has no network yet
    assert len(set(homes.values())) == 2
    for model in ("sd15", "sd15", "flora", "flora", "sd15", "flora"):
        assert place(model) == homes[model]


def test_which_device_is_preferred():
    assert prefer("x", {0: "y", 1: "x", 2: None}) == 1
    assert prefer("x", {0: "y", 1: None}) == 1
    assert prefer("x", {2: "y", 0: "z"}) == 2  # the one that has been free for longest
    assert prefer("x", {}) is None


def test_without_ray_a_sentence_says_what_to_install():
    code = (
        "import sys; sys.modules['ray'] = None\nfrom engine.jobs.ray import RayWorker\n"
        "try: RayWorker(print)\nexcept ValueError as e: print(type(e).__name__, e)"
    )
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert out.startswith("EngineError ray must be installed") and "requirements-cluster.txt" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"actors": 0}, "workers must be a whole number from 1"),
        ({"actors": 2, "gpus_each": 1}, "workers must be at most"),
    ],
)
def test_what_a_cluster_cannot_give_is_refused(cluster, arguments, sentence):
    if cluster.cluster_resources().get("GPU", 0) > 1:
        pytest.skip("this machine has the GPUs")
    with pytest.raises(EngineError, match=sentence):
        RayWorker(print, **arguments)


def test_whatever_goes_wrong_in_a_devices_thread_it_goes_on(monkeypatch):
    """Or all who wait would wait for ever."""

    def dies(*_):
        raise SystemExit

    monkeypatch.setattr(worker_module, "note", dies)
    worker = Worker(lambda request: iter([Progress(0.5, request)]))
    try:
        for name in ("a", "b"):
            assert Progress(0.5, name) in list(worker.submit(name))
        assert worker.load == (0, 0)
    finally:
        worker.close()
