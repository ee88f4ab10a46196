"""Start the studio: ``python app.py`` and open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Iterator

from engine.schema import Event, LoadRequest
from engine.worker import Worker
from morph_ui import build, launch


def runner(device: str):
    """``run(request)`` over networks that are made on the device thread, at its first job."""

    @functools.cache
    def models():
        from engine.models import Models

        return Models(device)

    def run(request) -> Iterator[Event]:
        from engine.methods import run

        return run(models(), request)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="Chrysalis, a studio for turning pictures into one another")
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"), help="0.0.0.0 to be seen from elsewhere")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "7860")))
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    args = parser.parse_args()
    worker = Worker(runner(args.device))
    worker.submit(LoadRequest("flora"))  # it loads while the page opens
    print(f"Chrysalis is at http://{args.host}:{args.port}", flush=True)
    launch(build(worker), server_name=args.host, server_port=args.port)


if __name__ == "__main__":
    main()
