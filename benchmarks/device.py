"""What a device does with flora, and with a network of Stable Diffusion 1.5's exact shape whose weights are random.

Speeds and memory are true of the shape; its pictures are noise, so nothing here speaks of pictures but the difference
between two precisions. One JSON line a figure as soon as it is known, a table at the end, every figure of one run.

    python -m benchmarks device --only network,morph --json device.json
    python -m benchmarks device --only interpolate --share 0.25
    python -m benchmarks device --shape tiny --size 64 --steps 4 --share 0.02 --seconds 1   # what the test runs

On a bare machine without a network, in commands of less than ten minutes (3 GB in /tmp, made again on a fresh machine):

    PYTHONUNBUFFERED=1 python3 -m benchmarks device --folder /tmp/sd1 --only network,morph --json $OUT/a.json
    PYTHONUNBUFFERED=1 python3 -m benchmarks device --folder /tmp/sd1 --only interpolate,live --json $OUT/b.json
    PYTHONUNBUFFERED=1 python3 -m benchmarks device --folder /tmp/sd1 --only precision,memory --json $OUT/c.json

It imports no page; beside torch it wants diffusers, transformers, peft, open-clip-torch (the tokenizer) and what those
need. Where flora's weights were left behind (its UNet alone is 69 MB), or with ``--flora none``, its rows are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.figures import FIGURES, Bench
from benchmarks.machine import describe
from benchmarks.tiny import make_controls, make_network
from engine.checkpoints.catalogue import ASSETS
from engine.checkpoints.load import hush
from engine.checkpoints.manager import pick_device
from engine.checkpoints.shapes import skeleton
from engine.requests import EngineError


def random_network(folder: Path, shape: str) -> Path:
    """A diffusers folder with random weights: "tiny", or "sd1" in half-precision files, as a download would lie there.

    Beside it, as the engine looks for them: ``sketch`` (a ControlNet), ``stroke`` (a colour T2I-Adapter) and ``live``
    (a few-step LoRA). What an earlier call made there is taken. EngineError for a folder that holds something else.
    """
    mark = folder / "random.json"
    if mark.is_file() and json.loads(mark.read_text(encoding="utf8")) == shape:
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise EngineError(f"folder must be empty or hold a random network of the shape {shape}, got {folder}")
    hush()

    def save(module: Any, name: str) -> None:
        module.half().save_pretrained(folder / name, variant="fp16")

    if shape == "tiny":
        unet: Any = UNet2DConditionModel.from_pretrained(make_network(folder, attends=(0,)) / "unet")
    else:
        skeleton(folder, "sd1")
        torch.manual_seed(0)
        save(AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")), "vae")
        save(CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")), "text_encoder")
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        save(unet, "unet")
        unet.float()
    make_controls(unet, folder, save, 64 if shape == "sd1" else 4)
    mark.write_text(json.dumps(shape), encoding="utf8")
    return folder


class Report:
    """Lines as they come: printed, kept, and written to ``file`` as one list."""

    def __init__(self, file: Path | None):
        self.file, self.lines = file, []

    def tell(self, figure: str, line: dict[str, Any]) -> None:
        self.lines.append({"figure": figure} | line)
        print(json.dumps(self.lines[-1]), flush=True)
        if self.file:
            self.file.write_text(json.dumps(self.lines, indent=1), encoding="utf8")

    def table(self) -> None:
        print()
        for line in self.lines:
            rest = "  ".join(f"{k} {v}" for k, v in line.items() if k not in ("figure", "network"))
            print(f"{line['figure']:12} {line.get('network', ''):6} {rest}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks device", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=512, help="pixels a side; flora is held at 256")
    parser.add_argument("--steps", type=int, default=0, help="of all but the paper presets; 0: 50 (morphs), 24")
    parser.add_argument("--only", default=",".join(FIGURES), help="which figures: " + ", ".join(FIGURES))
    parser.add_argument("--share", type=float, default=1.0, help="of the paper presets' steps; 1 is all of them")
    parser.add_argument("--seconds", type=float, default=5.0, help="of drawing live")
    parser.add_argument("--shape", choices=("sd1", "tiny"), default="sd1")
    parser.add_argument("--folder", type=Path, help="where the random network is made, or lies; default: temporary")
    parser.add_argument("--flora", default="flora", help="flora's folder, or none")
    parser.add_argument("--json", type=Path, help="a file for all lines as one list, written as they come")
    args = parser.parse_args(argv)
    args.only = args.only.split(",")
    if unknown := [n for n in args.only if n not in FIGURES]:
        parser.error(f"only must be of {', '.join(FIGURES)}, got {unknown[0]}")
    return args


def networks(args: argparse.Namespace, temporary: Path, report: Report) -> dict[str, str]:
    """The random network, made now or earlier, and flora where its weights are."""
    begun = perf_counter()
    folder = random_network(args.folder or temporary / "sd", args.shape)
    size = sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 2**20
    report.tell("made", {"network": "sd", "seconds": round(perf_counter() - begun, 1), "disk_mb": round(size)})
    place = ASSETS / "flora" if args.flora == "flora" else Path(args.flora)
    if any(place.glob("unet/*.safetensors")):
        return {"flora": args.flora, "sd": str(folder)}
    report.tell("flora", {"skipped": f"its weights are not in {place}"})
    return {"sd": str(folder)}


def main(argv: list[str] | None = None) -> int:
    """Measures; 1 if a figure could not be had, 0 otherwise."""
    args, failed = parse(argv), False
    report = Report(args.json)
    report.tell("machine", describe(pick_device(args.device)) | {"shape": args.shape, "runs": 1})
    with tempfile.TemporaryDirectory() as temporary:
        known = networks(args, Path(temporary), report)
        bench = Bench(args.device, known, args.size, args.steps, args.share, args.seconds)
        for name in args.only:
            try:
                for line in FIGURES[name](bench):
                    report.tell(name, line)
            except Exception as e:  # the others are still worth their time
                failed = True
                traceback.print_exc()
                report.tell(name, {"failed": f"{type(e).__name__}: {e}"[:300]})
    report.table()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
