"""What all tests share: a tiny network of the real classes, pictures, the studio as it is started, a browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import sdxl
from PIL import Image

from benchmarks.tiny import done, events, make_network  # noqa: F401, the tests' too
from engine.checkpoints.manager import ModelManager
from engine.jobs import cache

ROOT = Path(__file__).resolve().parents[1]
# Chromium as root, without a GPU, asking nobody outside.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP studio.test 127.0.0.1"]


def pytest_configure():
    # Tiny networks are fastest on one thread, and `make test` runs two processes of tests.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    own = tempfile.mkdtemp(prefix="chrysalis-cache-")  # not the person's
    os.environ["CHRYSALIS_CACHE"], cache.home = own, lambda: Path(own)
    os.environ["HF_HUB_CACHE"] = tempfile.mkdtemp(prefix="chrysalis-hub-")
    # Uploads lie under the digest of what they hold, and a studio that closes deletes its own: not the other process's.
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="chrysalis-uploads-")
    for name in ("CHRYSALIS_MODEL", "CHRYSALIS_MODELS"):
        os.environ.pop(name, None)
    os.environ["CHRYSALIS_EXECUTOR"] = "torch"  # graphs have tests of their own; others are not to wait for them
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody answers there


def pytest_collection_modifyitems(items):
    """Fast files first: the laws in closed form before the tiny networks, the page last."""
    signs = (("browser",), ("studio",), ("slow",), ("tiny", "models"))  # names of fixtures and marks
    cost = Counter()
    for item in items:
        names = {*item.fixturenames, *(mark.name for mark in item.iter_markers())}
        found = [len(signs) - n for n, sign in enumerate(signs) if names & set(sign)]
        cost[item.path] = max([cost[item.path], *found])
    items.sort(key=lambda item: cost[item.path])


def picture(seed: int = 0, size: tuple[int, int] = (80, 64)) -> Image.Image:
    """A smooth coloured picture."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return make_network(tmp_path_factory.mktemp("networks") / "tiny")


@pytest.fixture(scope="module")
def xl(tmp_path_factory) -> Path:
    return sdxl(tmp_path_factory.mktemp("xl") / "xl")


@pytest.fixture(scope="session")
def models():
    return ModelManager("cpu", torch.float32)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def started(*arguments: str, **env: str) -> Iterator[str]:
    """The README's own command on a free port; the address, when it answers."""
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | env)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < until, "the studio did not come up"
            threading.Event().wait(0.3)  # another process is opening its port; nothing of ours is timed
    try:
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def studio():
    with started() as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    """One Chromium; its tests come last, since Playwright leaves an event loop running."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        own, calm = browser.new_page, {"reduced_motion": "reduce"}  # a film that plays takes a core of its own here
        browser.new_page = lambda **how: own(**calm | how)
        yield browser
        browser.close()


@contextmanager
def studio_over(worker, **options):
    """The studio over a stand-in for the worker, in this process, at the ``url`` that this gives it."""
    from engine.requests.settings import Settings
    from morph_ui import build, launch

    page = build(worker, Settings())
    _, worker.url, _ = launch(page, prevent_thread_lock=True, server_name="127.0.0.1", **options)
    yield worker
    page.close()


@pytest.fixture(scope="module")
def painter():
    """The studio over a worker that paints one colour (`test_easel.Painter`)."""
    from test_easel import Painter

    with studio_over(Painter()) as painter:
        yield painter
