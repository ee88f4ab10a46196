"""The training of flora: one step, or all of them from nothing to an exported folder (see training/README.md)."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

# Of the minutes of ``all``.
SHARES = {"joint": 0.2, "decoder": 0.15, "network": 0.5, "few-steps": 0.1, "clip": 0.05}
CHECKPOINTS = {
    "joint": "ae-joint",
    "decoder": "ae-decoder",
    "network": "unet",
    "few-steps": "few-steps",
    "clip": "clip",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("what", choices=[*SHARES, "export", "report", "all"])
    parser.add_argument("--minutes", type=float, default=10, help="time budget of this call; it resumes")
    parser.add_argument("--to", type=Path, help="the exported folder (CHRYSALIS_FLORA, or assets/models/flora)")
    parser.add_argument("--start", type=Path, help="an exported folder to go on from where there is no checkpoint")
    parser.add_argument("--batch", type=int, default=0, help="samples a step (0: the step's own)")
    parser.add_argument("--lr", type=float, default=0, help="peak learning rate (0: the step's own)")
    parser.add_argument(
        "--total",
        type=float,
        default=0,
        help="joint, decoder, clip: minutes over which the rate falls, all calls together",
    )
    parser.add_argument("--halves", type=float, default=0.3, help="network: share of the steps at half of the size")
    parser.add_argument("--decay", action="store_true", help="network: the rate falls to nothing within these minutes")
    parser.add_argument("--unmirrored", action="store_true", help="network: half as many latents to make")
    parser.add_argument("--average", type=int, default=20_000, choices=[20_000, 150_000], help="export: in samples")
    parser.add_argument("--json", action="store_true", help="report: one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="report: on a fifth of the pictures")
    return parser.parse_args()


def step(what: str, minutes: float, args: argparse.Namespace, **more: Any) -> None:
    """One step of the training, its own room imported only now."""
    own = {k: v for k, v in (("batch", args.batch), ("lr", args.lr)) if v}
    if what in ("joint", "decoder"):
        from training.autoencoder import train

        train(what, minutes, total=args.total, start=args.start, **own)
    elif what == "network":
        from training.network import train

        how = {"halves": args.halves, "decay": args.decay, "mirrored": not args.unmirrored, "start": args.start}
        train(minutes, **own, **(how | more))
    elif what == "few-steps":
        from training.few_steps import train

        train(minutes, **own)
    elif what == "clip":
        from training.clip import train

        train(minutes, total=args.total, **own)
    elif what == "export":
        from training.export import export

        export(args.average)


def done(what: str) -> float:
    """Minutes that a step has behind it."""
    from training.loop import get

    state = get(CHECKPOINTS[what]) or {}
    return state.get("sec", state.get("seconds", 0.0)) / 60


def every(minutes: float, args: argparse.Namespace) -> None:
    """All steps, each for its share of the minutes, less what it has behind it: called again it goes on."""
    from training.loop import FLORA, STOP, WORK, progress

    left = {what: max(0.0, share * minutes - done(what)) for what, share in SHARES.items()}
    if (WORK / "z-photo.npy").exists():
        left["joint"] = 0.0  # the encoder's latents are in use
    with progress(sum(left.values())):
        for what, own in left.items():
            if what == "few-steps" and newer(WORK / "unet.pt", FLORA / "unet" / "config.json"):
                step("export", 0, args)
            if own > 0.01:
                step(what, own, args, decay=True, whole=True)
            if STOP.is_set():
                print("stopped and saved; the same command goes on")
                return


def newer(a: Path, b: Path) -> bool:
    return not b.exists() or a.stat().st_mtime > b.stat().st_mtime


def main() -> None:
    args = arguments()
    if args.to:
        os.environ["CHRYSALIS_FLORA"] = str(args.to)
    import torch

    from engine.requests import EngineError
    from training.loop import CUDA, progress

    torch.manual_seed(int(time.time()))
    if CUDA:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        if args.what == "all":
            every(args.minutes, args)
        elif args.what == "report":
            from training.report import report

            report(args.quick, args.json)
        else:
            with progress(args.minutes):
                step(args.what, args.minutes, args)
    except EngineError as e:
        raise SystemExit(str(e)) from None


if __name__ == "__main__":
    main()
