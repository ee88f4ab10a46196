"""Start the studio: ``python app.py`` and open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from engine.jobs.worker import Worker
from engine.jobs.zerogpu import ZeroWorker, zero_gpu
from engine.requests import EngineError, Event, LoadRequest, fields_of
from engine.requests.files import uploads
from engine.requests.settings import Settings, options
from engine.requests.terminal import spell

OPTIONS = ("host", "port", "root_path", "device", "model", "models", "memory", "workers", "cluster", "executor")


def runner(settings: Settings) -> Callable[[Any], Iterator[Event]]:
    """`engine.jobs.run.runner`, which imports torch: at the first job, in the thread or the process that has it."""

    @functools.cache
    def run() -> Callable[[Any], Iterator[Event]]:
        from engine.jobs.run import runner

        return runner(settings)

    return lambda request: run()(request)


def workers(settings: Settings) -> Any:
    """Where the jobs run: here, on several GPUs or machines (Ray), or by calls of a ZeroGPU Space."""

    def fetch(request: Any) -> Iterator[Event]:
        from engine.jobs.fetch import fetch

        return fetch(request, settings)

    if zero_gpu():
        return ZeroWorker(runner(replace(settings, device="cuda")), fetch=fetch)
    if settings.workers > 1 or settings.cluster:
        from engine.jobs.ray import RayWorker

        make, gpus = functools.partial(runner, settings), 0 if settings.device == "cpu" else None
        return RayWorker(make, settings.workers, gpus_each=gpus, address=settings.cluster or None)
    return Worker(runner(settings), fetch=fetch)


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
        launch(page, server_name=settings.host, server_port=settings.port, root_path=settings.root_path or None)
    except EngineError as e:
        raise SystemExit(f"error: {e}") from None
    except OSError as e:
        if "empty port" in str(e):  # Gradio's word for a port that is taken or not allowed
            text = f"port must be free and allowed at {settings.host}, got {settings.port}; choose another with --port"
            raise SystemExit(f"error: {text}") from None
        raise SystemExit(f"error: the studio's folders must be free to use, got {e}") from None


if __name__ == "__main__":
    main()
