"""Start the studio: ``python app.py`` and open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Iterator
from typing import Any

from engine.jobs.worker import Worker
from engine.jobs.zerogpu import ZeroWorker, zero_gpu
from engine.requests import EngineError, Event, LoadRequest


def runner(device: str, memory: float = 0.0):
    """``run(request)`` over networks that are made on the device thread, at its first job."""

    @functools.cache
    def models():
        from engine.checkpoints.manager import Models

        return Models(device, memory=memory)

    def run(request) -> Iterator[Event]:
        from engine.jobs.run import run

        return run(models(), request)

    return run


def workers(args: argparse.Namespace) -> Any:
    """Where the jobs run: here, on several GPUs or machines (Ray), or by calls of a ZeroGPU Space."""
    if zero_gpu():
        return ZeroWorker(runner("cuda"))  # no network is loaded ahead: that would spend a visitor's time
    if args.workers > 1 or args.cluster:
        from engine.jobs.ray import RayWorker

        make = functools.partial(runner, args.device, args.memory)
        return RayWorker(make, args.workers, gpus_each=0 if args.device == "cpu" else None, address=args.cluster)
    return Worker(runner(args.device, args.memory))


def main() -> None:
    env = os.environ.get
    parser = argparse.ArgumentParser(description="Chrysalis, a studio for turning pictures into one another")
    host = env("HOST") or env("GRADIO_SERVER_NAME") or ("0.0.0.0" if env("SPACE_ID") else "127.0.0.1")
    parser.add_argument("--host", default=host, help="0.0.0.0 to be seen from elsewhere")
    parser.add_argument("--port", type=int, default=int(env("PORT") or env("GRADIO_SERVER_PORT") or 7860))
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    parser.add_argument("--model", help="what the page begins with; on a GPU sd15 once it is here, else flora")
    parser.add_argument(
        "--memory", type=float, default=0.0, help="GB of the device that networks may use; 0: all of it"
    )
    parser.add_argument("--workers", type=int, default=1, help="devices to work on side by side (needs ray)")
    parser.add_argument("--cluster", help="address of a running Ray cluster, or auto")
    args = parser.parse_args()
    if args.host not in ("127.0.0.1", "localhost", "::1"):
        os.environ.setdefault(
            "CHRYSALIS_PATHS", ""
        )  # visitors name no files of this machine but in folders listed there
    try:
        if args.workers < 1:
            raise EngineError(f"workers must be at least 1, got {args.workers}")
        worker = workers(args)
        from engine.checkpoints.manager import preferred  # it imports torch, and ZeroGPU wants to come before that
        from engine.checkpoints.resolve import absent, chosen

        model = args.model or env("CHRYSALIS_MODEL") or preferred(args.device)
        ready = not absent(chosen(model).needs())
    except EngineError as e:
        raise SystemExit(f"error: {e}") from None
    if not isinstance(worker, ZeroWorker):
        for _ in range(args.workers):
            worker.submit(LoadRequest(model if ready else "flora"))  # it loads while the page opens
    os.environ["CHRYSALIS_MODEL"] = model
    from morph_ui import build, launch

    print(f"Chrysalis is at http://{args.host}:{args.port}", flush=True)
    launch(build(worker), server_name=args.host, server_port=args.port)


if __name__ == "__main__":
    main()
