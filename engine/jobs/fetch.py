"""What a job has to download, before it asks for a device. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from engine.checkpoints import resolve
from engine.requests import MatchRequest, PoseRequest, Progress
from engine.requests.phrases import spoken
from engine.requests.settings import Settings


def fetch(request: Any, settings: Settings) -> Generator[Progress, None, None]:
    """Brings what a request needs and this machine lacks: a stage of the job, beside others that have the device."""
    if not hasattr(request, "model") or (isinstance(request, MatchRequest) and not request.loads):
        return  # it works without a network of the catalogue
    request = spoken(request)
    needs = resolve.resolve(request.model, settings.paths, settings.folders).needs(request.wants)
    if isinstance(request, PoseRequest) and not request.rescue:  # no network is at work
        needs = [n for n in needs if n[0] == resolve.DETECTORS[request.detector].about]
    yield from resolve.fetch(resolve.missing(needs))
