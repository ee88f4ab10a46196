"""ZeroGPU, with a stand-in for `spaces` that does what it does: a process a call, pickled values, a flag to stop.

The worker's laws are in test_worker.py and run on it too.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextvars import ContextVar, copy_context
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from engine.jobs.zerogpu import LEAST, MOST, ZeroWorker, seconds, zero_gpu
from engine.requests import (
    Done,
    DrawRequest,
    EditRequest,
    EngineError,
    InterpolateRequest,
    LoadRequest,
    MorphRequest,
    Progress,
    Waiting,
)

ROOT = Path(__file__).resolve().parents[1]
visitor = ContextVar("visitor", default="nobody")
fork = multiprocessing.get_context("fork")  # as spaces does


class Toast(Exception):
    """As gradio's Error: a title and a text."""

    def __init__(self, title, message):
        super().__init__(message)
        self.title = title


def there(task, line, stop):
    """The call's process: arguments come in and results go out pickled; of an error only its class's name."""
    arguments = line.recv()
    events = task(*arguments)
    try:
        for value in events:
            if stop.is_set():
                events.close()
                break
            line.send(("ok", value))
        line.send(("end", None))
    except Exception as e:
        line.send(("error", type(e).__name__))


class Spaces(ModuleType):
    """The decorator, what it was asked, and how many seconds a visitor has left."""

    def __init__(self):
        super().__init__("spaces")
        self.asked, self.left = [], 10**6

    def GPU(self, *, duration):
        def decorate(task):
            assert inspect.isgeneratorfunction(task)

            def call(*arguments):
                wanted = duration(*arguments)
                self.asked.append((visitor.get(), wanted))
                if wanted > self.left:
                    raise Toast("ZeroGPU quota exceeded", f"{wanted}s requested vs. {self.left}s left")
                (here, line), stop = fork.Pipe(), fork.Event()
                process = fork.Process(target=there, args=(task, line, stop), daemon=True)
                process.start()
                line.close()
                here.send(arguments)
                kind = ""
                try:
                    while kind != "end":
                        try:
                            kind, value = here.recv()
                        except EOFError:
                            kind = "end"
                            raise Toast("ZeroGPU worker error", "GPU task aborted") from None
                        if kind == "error":
                            kind = "end"
                            raise Toast("ZeroGPU worker error", value)
                        if kind == "ok":
                            yield value
                except GeneratorExit:
                    stop.set()
                    while kind != "end":
                        kind, _ = here.recv()
                    raise
                finally:
                    process.join()

            return call

        return decorate


@pytest.fixture
def zero(monkeypatch):
    spaces = Spaces()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    return spaces


def solid(job):
    return [e for e in job if not isinstance(e, Waiting)]


def where(request):
    yield Progress(0, str(os.getpid()))
    yield Done((Image.new("RGB", (8, 8), "red"),), {"of": request}, 0.0, 0, files={"a": b"bytes"})


def test_every_call_is_a_process_and_values_cross_whole(zero):
    worker = ZeroWorker(where)
    first, done = solid(worker.submit("a"))
    assert int(first.doing) not in (os.getpid(), int(solid(worker.submit("b"))[0].doing))
    assert done.settings == {"of": "a"} and done.files == {"a": b"bytes"}
    assert done.frames[0].getpixel((0, 0)) == (255, 0, 0)


def test_jobs_run_side_by_side(zero):
    meeting = fork.Barrier(2)

    def meet(request):
        meeting.wait(60)  # one after the other, they would wait for ever
        yield Progress(1, request)

    worker = ZeroWorker(meet)
    jobs = [worker.submit(n) for n in "ab"]
    assert [solid(job)[0].doing for job in jobs] == ["a", "b"]


def test_a_call_asks_for_its_seconds_in_the_name_of_the_visitor(zero):
    worker = ZeroWorker(where, estimate=lambda request: 10 * request)

    def visit():
        visitor.set("somebody")
        solid(worker.submit(4))

    copy_context().run(visit)
    assert zero.asked == [("somebody", 40)]


def test_a_spent_quota_is_a_sentence_with_the_seconds(zero):
    zero.left = 59
    with pytest.raises(EngineError, match="must cover the 60 s of this job, got less"):
        solid(ZeroWorker(where, estimate=lambda r: 60).submit("a"))


def deadly(request):
    yield Progress(0, "on it")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_call_that_is_ended_from_outside_is_a_sentence(zero):
    with pytest.raises(EngineError, match="must end within the 10 s it asked for"):
        solid(ZeroWorker(deadly, estimate=lambda r: 10).submit("a"))


class Stubborn(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")
        self.lock = threading.Lock()


def stubborn(request):
    raise Stubborn("a", "bug")
    yield


def test_an_error_that_cannot_be_pickled_arrives_in_words_with_its_traceback(zero):
    with pytest.raises(RuntimeError, match="Stubborn: a bug") as caught:
        solid(ZeroWorker(stubborn).submit("a"))
    assert "in stubborn" in str(caught.value.__cause__)


def unsent(request):
    yield Progress(0.5, threading.Lock())


@pytest.mark.parametrize(("run", "request_"), [(unsent, "a"), (where, threading.Lock())])
def test_what_cannot_be_pickled_ends_the_job(zero, run, request_):
    """The stand-in would be no test if it let such values through."""
    with pytest.raises((Toast, TypeError, EngineError)):
        solid(ZeroWorker(run).submit(request_))


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_elsewhere_spaces_is_not_used(zero, monkeypatch, value):
    assert zero_gpu() is zero
    monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert zero_gpu() is None
    with pytest.raises(EngineError, match="SPACES_ZERO_GPU"):
        ZeroWorker(where)


def test_spaces_comes_before_torch():
    code = "import sys, engine.jobs.zerogpu; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


PICTURE = Image.new("RGB", (64, 48), "teal")
LAYER = Image.new("RGBA", (64, 48), "teal")
WAYS = InterpolateRequest(PICTURE, PICTURE)
MORPH = MorphRequest((PICTURE, PICTURE), size=512)
DRAWN = DrawRequest(LAYER, LAYER, count=4)
EDITED = EditRequest(PICTURE, count=4)


MORE = [
    (replace(WAYS, size=256), {"frames": 129}),
    (replace(WAYS, size=256), {"candidates": 16, "frames": 33}),
    (replace(MORPH, lora="none"), {"lora": "mix"}),
    (replace(MORPH, reschedule=False), {"reschedule": True}),
    (replace(MORPH, lora="none"), {"pictures": (PICTURE,) * 3}),
    (replace(MORPH, lora="none"), {"loop": True}),
    (replace(DRAWN, count=1), {"sheet": "sketch-realism"}),
    (replace(DRAWN, steps=100, sampler="live", count=16), {"sampler": "ddim"}),
]
MORE += [(WAYS, m) for m in ({"steps": 200, "frames": 33}, {"invert_steps": 100}, {"high": 0.9, "frames": 17})]
MORE += [(WAYS, {"size": 768, "frames": 17}), (DRAWN, {"count": 8}), (DRAWN, {"steps": 100})]
MORE += [(MORPH, m) for m in ({"lora_steps": 200}, {"lora_draws": 4}, {"steps": 60}, {"loras": (b"", b"")})]
MORE += [(EDITED, m) for m in ({"count": 8}, {"steps": 200}, {"repeats": 4}, {"strength": 1.0})]


@pytest.mark.parametrize(("request_", "more"), MORE)
def test_more_work_asks_for_more(request_, more):
    little, much = (seconds(r) for r in (request_, replace(request_, **more)))
    assert all(type(s) is int and LEAST <= s <= MOST for s in (little, much))
    assert little < much or (more == {"loras": (b"", b"")} and little == much)


def test_seconds_are_bounded_for_any_request():
    assert seconds(SimpleNamespace()) == seconds(LoadRequest()) < seconds(WAYS) < MOST
    paper = MorphRequest((PICTURE,) * 12, lora_steps=1000, lora_draws=16, steps=500, frames=65, size=1536)
    assert seconds(paper) == MOST
    assert seconds(replace(EDITED, size=8, count=1)) >= LEAST
