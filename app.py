"""Start the studio: ``python app.py`` and open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from engine.jobs import worker as jobs
from engine.jobs.queue import Limits
from engine.jobs.worker import Worker
from engine.jobs.zerogpu import ZeroWorker, zero_gpu
from engine.requests import EngineError, Event, LoadRequest, fields_of
from engine.requests.files import uploads
from engine.requests.settings import Settings, options
from engine.requests.terminal import spell

OPTIONS = ("host", "port", "root_path", "device", "model", "models", "memory", "workers", "cluster", "executor")
OPTIONS = (*OPTIONS, "queue", "queue_per_visitor", "job_seconds", "auth")


class runner:
    """`engine.jobs.run.runner`, which imports torch: at the first job, in the thread or the process that has it."""

    def __init__(self, settings: Settings):
        self._settings, self._run = settings, None

    def __call__(self, request: Any) -> Iterator[Event]:
        if self._run is None:
            from engine.jobs.run import runner

            self._run = runner(self._settings)
        return self._run(request)

    @property
    def networks(self) -> list[str]:
        return self._run.networks if self._run else []


def workers(settings: Settings) -> Any:
    """Where the jobs run: here, on several GPUs or machines (Ray), or by calls of a ZeroGPU Space."""

    def fetch(request: Any) -> Iterator[Event]:
        from engine.jobs.fetch import fetch

        return fetch(request, settings)

    if zero_gpu():
        return ZeroWorker(runner(replace(settings, device="cuda")), fetch=fetch)
    limits = Limits(settings.queue, settings.queue_per_visitor, settings.job_seconds)
    if settings.workers > 1 or settings.cluster:
        from engine.jobs.ray import RayWorker

        make, gpus = functools.partial(runner, settings), 0 if settings.device == "cpu" else None
        return RayWorker(make, settings.workers, gpus_each=gpus, address=settings.cluster or None, limits=limits)
    return Worker(runner(settings), fetch=fetch, limits=limits)


def health(worker: Any) -> Any:
    """``/health``, for the probe of a container. It is answered while jobs run, and without a password."""
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from engine.jobs.health import health

    async def answer(_: Any) -> Any:
        return JSONResponse(health(worker), headers={"Cache-Control": "no-store"})

    return Route("/health", answer)


def log() -> None:
    """A line a job on stderr."""
    lines, own = logging.StreamHandler(), logging.getLogger(jobs.__name__)
    lines.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    own.addHandler(lines)
    own.setLevel(logging.INFO)
    own.propagate = False


def main() -> None:
    spell()
    if sys.getfilesystemencoding() == "ascii":  # (PYTHONUTF8=0 with LC_ALL=C) no upload could keep its name
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    parser = argparse.ArgumentParser(description="Chrysalis, a studio for turning pictures into one another")
    options(parser, (fields_of(Settings)[n] for n in OPTIONS))
    args = parser.parse_args()
    try:
        settings = Settings.read(args)
        uploads()
        log()
        worker = workers(settings)
        from engine.checkpoints.manager import preferred  # it imports torch, and ZeroGPU wants to come before that
        from engine.checkpoints.resolve import missing, resolve

        settings = replace(settings, model=settings.model or preferred(settings.device))
        ready = not missing(resolve(settings.model, settings.paths, settings.folders).needs())
    except EngineError as e:
        raise SystemExit(f"error: {e}") from None
    if not isinstance(worker, ZeroWorker):  # where it would spend a visitor's time
        for _ in range(settings.workers):
            worker.submit(LoadRequest(settings.model if ready else "flora"))  # it loads while the page opens
    from morph_ui import build, launch

    try:
        page = build(worker, settings)
        where = f"http://{settings.host}:{settings.port}{settings.root_path}"
        print(f"Chrysalis is at {where}", flush=True)
        own = {"server_name": settings.host, "server_port": settings.port, "root_path": settings.root_path or None}
        own |= {"auth": settings.login} if settings.login else {}
        launch(page, [health(worker)], **own)
    except EngineError as e:
        raise SystemExit(f"error: {e}") from None
    except OSError as e:
        if "empty port" in str(e):  # Gradio's word for a port that is taken or not allowed
            text = f"port must be free and allowed at {settings.host}, got {settings.port}; choose another with --port"
            raise SystemExit(f"error: {text}") from None
        raise SystemExit(f"error: the studio's folders must be free to use, got {e}") from None


if __name__ == "__main__":
    main()
