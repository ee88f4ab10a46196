"""How the studio is, for whoever watches over it: no words, no pictures, no folders."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from engine.requests.files import named


@cache
def version() -> str:
    """That of pyproject.toml, where it says so alone."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf8")
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else ""


def health(worker: Any) -> dict[str, Any]:
    """Networks that are loaded, jobs that wait and that run, the process's memory in MB, the version."""
    waiting, running = worker.load
    memory = round(psutil.Process().memory_info().rss / 2**20)
    own = {"networks": [named(n) for n in worker.networks], "queue": waiting, "running": running}
    return {"status": "ok", "version": version()} | own | {"memory_mb": memory}
