"""The training of flora: one step, or all of them from nothing to an exported folder (see training/README.md)."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import time
from pathlib import Path
from typing import Any

# Step: its share of the minutes of ``all``, its room, its checkpoint.
STEPS = {
    "joint": (0.2, "autoencoder", "ae-joint"),
    "decoder": (0.15, "autoencoder", "ae-decoder"),
    "network": (0.45, "network", "unet"),
    "few-steps": (0.1, "few_steps", "few-steps"),
    "light": (0.05, "light", "light"),
    "clip": (0.05, "clip", "clip"),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("what", choices=[*STEPS, "export", "report", "all"], help="report --help: its own options")
    parser.add_argument("--minutes", type=float, default=10, help="time budget of this call; it resumes")
    parser.add_argument("--to", type=Path, help="the exported folder (CHRYSALIS_FLORA, or assets/models/flora)")
    parser.add_argument("--start", type=Path, help="an exported folder to go on from where there is no checkpoint")
    parser.add_argument("--batch", type=int, help="samples a step")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--total", type=float, help="minutes over which the rate falls, all calls of a step together")
    parser.add_argument("--decay", action="store_true", help="network: the rate falls to nothing within these minutes")
    parser.add_argument("--unmirrored", dest="mirrored", action="store_false", help="network: half as many latents")
    parser.add_argument("--average", type=int, default=20_000, choices=[20_000, 150_000], help="export: in samples")
    return parser.parse_args()


def step(what: str, options: dict[str, Any]) -> None:
    """The step's `train`, with those of the options that it takes."""
    train = importlib.import_module(f"training.{STEPS[what][1]}").train
    given = {k: v for k, v in options.items() if v is not None and k in inspect.signature(train).parameters}
    train(**given)


def every(minutes: float, options: dict[str, Any]) -> None:
    """All steps, each for its share of the minutes less what it has behind it: called again it goes on."""
    from training.export import export
    from training.loop import FLORA, STOP, WORK, get

    for what, (share, _, checkpoint) in STEPS.items():
        left = share * minutes - (get(checkpoint) or {}).get("sec", 0.0) / 60
        made = FLORA / "unet" / "config.json"
        if what == "few-steps" and not (made.exists() and made.stat().st_mtime > (WORK / "unet.pt").stat().st_mtime):
            export()
        if left > 0.01 and not (what == "joint" and (WORK / "z-photo.npy").exists()):
            step(what, options | {"stage": what, "minutes": left, "decay": True})
        if STOP.is_set():
            print("stopped and saved; the same command goes on")
            return


def main() -> None:
    if sys.argv[1:2] == ["report"]:
        return importlib.import_module("training.report").main(sys.argv[2:])
    options = vars(arguments())
    what, minutes = options["what"], options["minutes"]
    if options["to"]:
        os.environ["CHRYSALIS_FLORA"] = str(options["to"])
    import torch
    from tqdm import tqdm

    from engine.requests import EngineError
    from training.loop import Run

    torch.manual_seed(int(time.time()))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    shape = "{desc} {percentage:3.0f}% |{bar}| {n:.1f} of {total:.1f} min {postfix}"
    try:
        if what == "export":
            importlib.import_module("training.export").export(options["average"])
        else:
            with tqdm(total=minutes, bar_format=shape, disable=None) as Run.bar:
                every(minutes, options) if what == "all" else step(what, options | {"stage": what})
    except (EngineError, OSError) as e:  # OSError: a folder that does not hold a network
        raise SystemExit(str(e)) from None


if __name__ == "__main__":
    main()
