"""``python -m benchmarks interpolate|morph|live|parts|draw|quality|correspondence [--json]`` prints a table, and with
--json one object.

``python -m benchmarks device --help`` has arguments of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

BENCHMARKS = ("interpolate", "morph", "live", "parts")


def main() -> None:
    if sys.argv[1:2] == ["device"]:  # where there may be no page to import
        sys.exit(import_module("benchmarks.device").main(sys.argv[2:]))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, "draw", "quality", "correspondence"])
    parser.add_argument("--model", default="flora", help="a catalogue name or a folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the medians are printed")
    parser.add_argument(
        "--pairs", type=Path, help="quality: a folder of pairs, or tests/points.json; default assets/examples"
    )
    parser.add_argument(
        "--pictures", type=int, default=48, help="draw: val photographs a point of the curves; 0: speed alone"
    )
    parser.add_argument("--steps", type=int, default=16, help="quality: steps of every morph")
    parser.add_argument("--rows", default="", help="quality: some of its rows, with commas between them")
    parser.add_argument("--frames", type=int, default=17, help="quality: of every way")
    parser.add_argument("--side", type=int, default=512, help="quality: pixels at which LPIPS looks")
    parser.add_argument("--most", type=int, help="quality: so many pairs only")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object on the last line")
    args = parser.parse_args()
    if args.name == "quality":
        from benchmarks import quality

        rows = [n.strip() for n in args.rows.split(",") if n.strip()]
        how = args.steps, rows, args.frames, args.side, args.most
        figures = quality.measure(args.model, args.device, args.pairs or quality.EXAMPLES, *how)
    elif args.name == "correspondence":
        from benchmarks import ghosting

        figures = ghosting.measure(args.model, args.device, args.pairs or ghosting.MARKED)
    elif args.name == "draw":
        from benchmarks import draw

        figures = draw.measure(args.model, args.device, args.pictures)
    else:
        figures = import_module(f"benchmarks.{args.name}").measure(args.model, args.device, args.repeats)
    for key, value in figures.items():
        print(f"{key:22} {value}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
