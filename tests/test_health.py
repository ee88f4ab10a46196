"""``/health``: what it says, that it is answered while a job runs, before the password and under a path; log lines."""

import json
import logging
import re
import threading
import urllib.request
from contextlib import contextmanager
from urllib.error import HTTPError

import gradio as gr
import pytest
from conftest import ROOT

import app
from engine.jobs import worker as module
from engine.jobs.health import health, version
from engine.jobs.worker import Worker
from engine.requests import Cancelled, Progress


class Held:
    """A method that goes on until it is let go, with networks of the person's own."""

    networks = ("flora", "/home/me/secret/mine.safetensors + /home/me/ink.safetensors:0.8")

    def __init__(self):
        self.go, self.began = threading.Event(), threading.Event()

    def __call__(self, request):
        self.began.set()
        while not self.go.wait(0.01):
            yield Progress(0.0, "on it")


@pytest.fixture
def held():
    held = Held()
    yield held
    held.go.set()


@contextmanager
def served(worker, **options):
    with gr.Blocks(analytics_enabled=False) as page:
        gr.HTML("a page")
    try:
        own = {"prevent_thread_lock": True, "quiet": True, "_frontend": False}
        _, url, _ = page.launch(app_kwargs={"routes": [app.health(worker)]}, **own, **options)
        yield url.rstrip("/")
    finally:
        page.close()


def asked(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return json.loads(answer.read())


def test_it_says_how_the_studio_is_and_names_no_folders(held):
    worker = Worker(held)
    running, waiting = worker.submit("a"), worker.submit("b")
    held.began.wait()
    said = health(worker)
    assert (said["status"], said["queue"], said["running"]) == ("ok", 1, 1)
    assert said["networks"] == ["mine.safetensors + ink.safetensors:0.8", "flora"]
    assert said["memory_mb"] > 10 and f'version = "{said["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert "secret" not in json.dumps(said)
    waiting.cancel()
    assert health(worker)["queue"] == 0
    running.cancel()
    with pytest.raises(Cancelled):
        list(running)


def test_it_is_answered_while_a_job_runs_and_before_the_password(held):
    worker = Worker(held)
    worker.submit("a")
    held.began.wait()
    with served(worker, auth=("me", "word")) as url:
        assert asked(f"{url}/health")["running"] == 1
        with pytest.raises(HTTPError, match="401"):
            asked(f"{url}/gradio_api/info")  # so there is one


def test_it_is_answered_under_a_path_of_a_proxy(held):
    with served(Worker(held), root_path="/studio") as url:
        assert asked(f"{url}/health")["version"] == asked(f"{url}/studio/health")["version"] == version()


def test_the_container_asks_for_it():
    (line,) = re.findall(r"HEALTHCHECK[^\n]*\\\n *CMD (.*)", (ROOT / "Dockerfile").read_text())
    assert "+ '/health'" in line


def test_lines_of_jobs_go_to_stderr_and_nothing_else_does(held, capsys):
    own = logging.getLogger(module.__name__)
    before = own.handlers[:], own.level, own.propagate
    try:
        app.log()
        job = Worker(held).submit("my secret rose")
        held.began.wait(), held.go.set()
        assert not any(isinstance(e, Cancelled) for e in job)
        logging.getLogger("engine.checkpoints.load").info("loading %s", "/home/me/secret")
    finally:
        own.handlers, own.level, own.propagate = before
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r" job=[0-9a-f]{8} method=- size=- steps=- seconds=\d+\.\d\d by=- outcome=done$", line)
