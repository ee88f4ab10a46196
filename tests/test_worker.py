"""The laws of the worker, with methods that do nothing but wait for each other (no sleeping, no network)."""

import threading

import pytest
from conftest import picture

from engine.schema import Cancelled, EngineError, Frame, Preview, Progress, Waiting
from engine.worker import Worker


class Script:
    """A method under the test's control: every step waits for a permit, and the run notes who is active."""

    def __init__(self):
        self.permits, self.stepped = threading.Semaphore(0), threading.Semaphore(0)
        self.active, self.most, self.closed, self.order = 0, 0, [], []

    def __call__(self, request):
        self.active += 1
        self.most = max(self.most, self.active)
        self.order.append(request)
        try:
            for i in range(3):
                self.stepped.release()
                assert self.permits.acquire(timeout=30)
                if request == "broken":
                    raise RuntimeError("a bug")
                if request == "refused":
                    raise EngineError("steps must be fewer, got many")
                yield Frame(i, picture(i, (16, 16)))
        finally:
            self.active -= 1
            self.closed.append(request)

    def allow(self, n=3):
        for _ in range(n):
            self.permits.release()


@pytest.fixture
def script():
    return Script()


def solid(job):
    return [e for e in job if not isinstance(e, Waiting)]


def test_events_come_in_order_and_end(script):
    script.allow()
    assert [e.index for e in solid(Worker(script).submit("a"))] == [0, 1, 2]
    assert script.closed == ["a"]


def test_never_two_at_once_and_first_come_first_served(script):
    worker = Worker(script)
    jobs = [worker.submit(n) for n in "abcd"]
    script.allow(12)
    for job in jobs:
        assert len(solid(job)) == 3
    assert script.most == 1 and script.order == list("abcd")


def test_a_waiting_job_knows_its_place(script):
    worker = Worker(script)
    first, second, third = (worker.submit(n) for n in "abc")
    assert script.stepped.acquire(timeout=30)
    assert next(iter(second)) == Waiting(1)
    assert next(iter(third)) == Waiting(1)  # the second's reader went away: it no longer counts
    script.allow()
    assert len(solid(first)) == 3


def test_cancel_stops_at_the_next_step_and_the_next_job_runs(script):
    worker = Worker(script)
    first, second = worker.submit("a"), worker.submit("b")
    assert script.stepped.acquire(timeout=30)
    first.cancel()
    assert "b" not in script.order  # the step under way is not disturbed, and nobody else starts
    with pytest.raises(Cancelled):
        solid(first)
    script.allow(4)
    assert len(solid(second)) == 3
    assert script.closed == ["a", "b"] and script.most == 1


def test_a_cancelled_waiting_job_never_starts(script):
    worker = Worker(script)
    first, second, third = (worker.submit(n) for n in "abc")
    second.cancel()
    script.allow(6)
    assert len(solid(first)) == 3 and len(solid(third)) == 3
    assert script.order == ["a", "c"]


def test_a_vanished_reader_cancels(script):
    worker = Worker(script)
    job = worker.submit("a")
    reader = iter(job)
    script.allow(1)
    while isinstance(next(reader), Waiting):
        pass
    reader.close()
    assert job.cancelled
    script.allow(4)
    assert len(solid(worker.submit("b"))) == 3
    assert script.order == ["a", "b"] and script.closed[0] == "a"


@pytest.mark.parametrize(("request_", "error"), [("broken", RuntimeError), ("refused", EngineError)])
def test_an_error_reaches_the_reader_and_the_next_job_runs(script, request_, error):
    worker = Worker(script)
    first, second = worker.submit(request_), worker.submit("b")
    script.allow(4)
    with pytest.raises(error):
        solid(first)
    assert len(solid(second)) == 3


def test_stale_previews_are_dropped_but_frames_never():
    done = threading.Event()

    def chatty(request):
        for i in range(50):
            yield Preview(0, picture(0, (16, 16)))
            yield Progress(i / 50, "on it")
            yield Frame(i, picture(0, (16, 16)))
        done.set()

    job = Worker(chatty).submit("a")
    assert done.wait(30)
    events = solid(job)
    assert [e.index for e in events if isinstance(e, Frame)] == list(range(50))
    assert sum(isinstance(e, Preview) for e in events) == 1
    assert [e.fraction for e in events if isinstance(e, Progress)] == [49 / 50]
