"""What graphs cost: ``python -m benchmarks.graphs [--repeats 3] [--model flora]`` prints two tables.

Memory: a process draws live, draws and interpolates, twice, with torch alone, with graphs that it makes, and with those
from disk: what is resident after each, and the most there was. A first job: seconds of a command from its start to its
end, each in a process of its own, in turn; with graphs nothing must be slower.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
DRAWING = [EXAMPLES / "drawings" / f"own-daisy-{layer}.png" for layer in ("sketch", "strokes")]
PAIR = sorted(EXAMPLES.glob("daisy-*.webp"))[:2]
COMMANDS = {
    "draw": ["draw", "--sketch", DRAWING[0], "--strokes", DRAWING[1], "--preset", "draft", "--out", "out.png"],
    "interpolate": ["interpolate", *PAIR, "--preset", "draft", "--out", "out.mp4"],
}
WAYS = {"torch": "torch", "made": "auto", "from disk": "auto"}  # and who is to answer


def resident() -> int:
    """MB of this process now (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf8").splitlines()
    return int(next(s for s in lines if s.startswith("VmRSS")).split()[1]) >> 10


def work(model: str, who: str, folder: Path) -> dict[str, int]:
    """MB after each kind of work, and at the peak."""
    from benchmarks.live import updates, values
    from benchmarks.machine import peak, settle
    from benchmarks.tiny import done
    from engine.checkpoints.manager import ModelManager
    from engine.requests import DrawRequest, InterpolateRequest

    models = ModelManager("cpu", executor=who, graphs=folder)
    layers, pair = [Image.open(p).convert("RGBA") for p in DRAWING], [Image.open(p).convert("RGB") for p in PAIR]
    draft = DrawRequest.presets["draft"]
    kinds = {
        "live": lambda: updates(models, values(False)[:8], model=model, decoder="light"),
        "draw": lambda: done(models, DrawRequest(*layers, model=model, **draft)),
        "interpolate": lambda: done(
            models, InterpolateRequest(*pair, model=model, **InterpolateRequest.presets["draft"])
        ),
    }
    out: dict[str, int] = {}
    settle(models.device)
    for _ in range(2):  # the second time graphs answer
        for kind, run in kinds.items():
            run()
            models.executor.ready()
            out[kind] = resident()
    return out | {"peak": int(peak(models.device)["resident_mb"])}


def memory(model: str, folder: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for way, who in WAYS.items():
        how = [sys.executable, "-m", "benchmarks.graphs", "--model", model, "--work", who, "--folder", str(folder)]
        said = subprocess.run(how, capture_output=True, text=True, check=True).stdout
        found[way] = json.loads(said.splitlines()[-1])
    return found | {
        f"{way} − torch": {k: n - found["torch"][k] for k, n in found[way].items()} for way in list(WAYS)[1:]
    }


def first(kind: str, model: str, full: Path, repeats: int) -> dict[str, float]:
    """Median seconds of a command. ``full``: a folder that holds its graphs."""
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, who in WAYS.items():
            with tempfile.TemporaryDirectory() as place:
                cache = Path(place) / "cache"
                cache.mkdir()
                if way == "from disk":
                    (cache / "graphs").symlink_to(full)
                command = [sys.executable, "-m", "engine", *map(str, COMMANDS[kind]), "--model", model]
                begun = perf_counter()
                own = os.environ | {"CHRYSALIS_CACHE": str(cache), "PYTHONPATH": str(EXAMPLES.parents[1])}
                subprocess.run([*command, "--executor", who], cwd=place, env=own, capture_output=True, check=True)
                took[way].append(perf_counter() - begun)
    s = {way: round(median(times), 2) for way, times in took.items()}
    return s | {f"{way} / torch": round(s[way] / s["torch"], 3) for way in list(WAYS)[1:]}


def table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    names = list(next(iter(rows.values())))
    print("\n| " + " | ".join([title, *names]) + " |\n" + "|---" * (len(names) + 1) + "|")
    for name, row in rows.items():
        print("| " + " | ".join([name, *(str(row.get(n, "")) for n in names)]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs", description=__doc__)
    parser.add_argument("--model", default="flora")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(args.model, args.work, args.folder)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve() / "graphs"
        table("MB resident", memory(args.model, folder))
        if args.repeats:
            table("seconds", {kind: first(kind, args.model, folder, args.repeats) for kind in COMMANDS})


if __name__ == "__main__":
    main()
