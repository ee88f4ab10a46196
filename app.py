"""Start the studio: ``python app.py`` and open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from engine.jobs.worker import Worker
from engine.jobs.zerogpu import ZeroWorker, zero_gpu
from engine.requests import EngineError, Event, LoadRequest, fields_of
from engine.requests.settings import Settings, options

OPTIONS = ("host", "port", "device", "model", "memory", "workers", "cluster")


def runner(settings: Settings) -> Callable[[Any], Iterator[Event]]:
    """``run(request)`` over networks that are made on the device thread, at its first job."""

    @functools.cache
    def models() -> Any:
        from engine.checkpoints.manager import Models

        return Models(settings.device, memory=settings.memory)

    def run(request: Any) -> Iterator[Event]:
        from engine.jobs.run import run

        return run(models(), request)

    return run


def workers(settings: Settings) -> Any:
    """Where the jobs run: here, on several GPUs or machines (Ray), or by calls of a ZeroGPU Space."""
    if settings.workers > 1 or settings.cluster:
        from engine.jobs.ray import RayWorker

        gpus = 0 if settings.device == "cpu" else None
        return RayWorker(
            functools.partial(runner, settings), settings.workers, gpus_each=gpus, address=settings.cluster or None
        )
    return Worker(runner(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description="Chrysalis, a studio for turning pictures into one another")
    options(parser, (fields_of(Settings)[n] for n in OPTIONS))
    args = parser.parse_args()
    try:
        settings = Settings.read(args)
        # No network is loaded ahead on ZeroGPU: that would spend a visitor's time.
        worker = ZeroWorker(runner(replace(settings, device="cuda"))) if zero_gpu() else workers(settings)
        from engine.checkpoints.manager import preferred  # it imports torch, and ZeroGPU wants to come before that
        from engine.checkpoints.resolve import absent, chosen

        settings = replace(settings, model=settings.model or preferred(settings.device))
        if settings.paths is not None:
            os.environ["CHRYSALIS_PATHS"] = os.pathsep.join(settings.paths)
        os.environ["CHRYSALIS_MODEL"] = settings.model
        ready = not absent(chosen(settings.model).needs())
    except EngineError as e:
        raise SystemExit(f"error: {e}") from None
    if not isinstance(worker, ZeroWorker):
        for _ in range(settings.workers):
            worker.submit(LoadRequest(settings.model if ready else "flora"))  # it loads while the page opens
    from morph_ui import build, launch

    print(f"Chrysalis is at http://{settings.host}:{settings.port}", flush=True)
    launch(build(worker), server_name=settings.host, server_port=settings.port)


if __name__ == "__main__":
    main()
