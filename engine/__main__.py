"""The command line: ``python -m engine interpolate A.jpg B.jpg --out morph.mp4`` and ``python -m engine models``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path

from engine.schema import (
    FITS,
    MIXES,
    PICKERS,
    PRESETS,
    SAMPLERS,
    SCHEDULES,
    SCHEMES,
    Done,
    EngineError,
    Frame,
    InterpolateRequest,
    Progress,
)

CHOICES = {"scheme": SCHEMES, "schedule": SCHEDULES, "mix": MIXES, "fit": FITS, "picker": PICKERS, "sampler": SAMPLERS}
HELP = {
    "prompt": "what both pictures show (or picture A, if --prompt-b is given)",
    "prompt_b": "what picture B shows",
    "negative": "what the frames should not show",
    "frames": "a power of two plus one, the two ends included",
    "scheme": "the paper's method (branch) or one of the others of its Table 1",
    "schedule": "how noise grows from fine levels to the middle",
    "mix": "how latents are mixed",
    "picker": "which candidate becomes the frame",
    "rank_for": "what CLIP looks for in candidates (empty: the prompt)",
    "rank_against": "what it counts against them (empty: the negative)",
    "sampler": "ddim, or live: the few-step weights, at most four steps a frame",
    "fit": "fit: the proportions of A; crop: a square; pad: a square that shows both pictures whole",
    "model": "a name from 'python -m engine models', or a folder in the diffusers format",
    "seed": "the same seed gives the same pictures",
}


def frame_pair(text: str) -> tuple[int, int]:
    frame, number = text.split(":")
    return int(frame), int(number)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m engine", description="Pictures into one another, from the command line."
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    p = verbs.add_parser(
        "interpolate", help="morph two pictures into each other", description=InterpolateRequest.__doc__
    )
    p.add_argument("a", metavar="A", help="first picture")
    p.add_argument("b", metavar="B", help="last picture")
    p.add_argument("--preset", choices=list(PRESETS), help="single options override it")
    for f in fields(InterpolateRequest):
        if f.name in ("a", "b", "picks", "reseeds") or f.default is MISSING:
            continue
        bound = InterpolateRequest.BOUNDS.get(f.name)
        note = HELP.get(f.name) or (bound.help if bound else "")
        if bound:
            note += f" ({bound.low:g} to {bound.high:g})"
        kind = type(f.default)
        p.add_argument(
            f"--{f.name.replace('_', '-')}",
            type=kind,
            choices=CHOICES.get(f.name),
            help=f"{note}; default {f.default!r}",
        )
    pair = {"action": "append", "default": [], "metavar": "FRAME:N", "type": frame_pair}
    p.add_argument("--pick", dest="picks", help="take candidate N for a frame", **pair)
    p.add_argument("--reseed", dest="reseeds", help="make a frame again with seed N, and what descends from it", **pair)
    p.add_argument("--out", help="an MP4 file")
    p.add_argument("--frames-dir", help="a folder for 0000.png, 0001.png …")
    p.add_argument("--zip", help="a zip of the PNGs")
    p.add_argument("--fps", type=float, default=8, help="frames a second in the MP4; default 8")
    p.add_argument("--there-and-back", action="store_true", help="the MP4 returns to picture A")
    p.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    verbs.add_parser("models", help="the catalogue: name, what it is, where from, present or not")
    return top


def list_models() -> None:
    from engine.catalogue import present

    for entry, here in present():
        where = "embedded" if entry.folder else entry.repos[0]
        print(f"{entry.name:10} {'present' if here else 'not here':9} {where:45} {entry.about} ({entry.licence})")


def request_of(args: argparse.Namespace) -> InterpolateRequest:
    from engine.images import read

    given = {f.name: getattr(args, f.name, None) for f in fields(InterpolateRequest) if f.name not in ("a", "b")}
    given |= {"picks": tuple(args.picks), "reseeds": tuple(args.reseeds)}
    values = (PRESETS[args.preset] if args.preset else {}) | {k: v for k, v in given.items() if v is not None}
    return InterpolateRequest(read(args.a, "picture A"), read(args.b, "picture B"), **values)


def interpolate(args: argparse.Namespace) -> int:
    from engine import video

    request = request_of(args)  # refuse bad input before anything slow
    video.check_fps(args.fps)
    from engine.methods import run
    from engine.models import Models

    done = None
    for event in run(Models(args.device), request):
        if isinstance(event, Progress) and sys.stderr.isatty():
            print(f"\r{event.fraction:4.0%} {event.doing:60}", end="", file=sys.stderr)
        elif isinstance(event, Frame) and not sys.stderr.isatty():
            print(f"frame {event.index}", file=sys.stderr)
        done = event
    assert isinstance(done, Done)
    for note in done.notes:
        print(note, file=sys.stderr)
    frames, settings, failed = done.frames, done.settings, 0
    outputs = [
        (args.frames_dir, lambda path: video.save_frames(frames, path, settings)),
        (args.zip, lambda path: video.save_zip(frames, path, settings)),
        (args.out, lambda path: video.save_mp4(frames, path, settings, args.fps, args.there_and_back)),
    ]
    for path, save in outputs:  # each for itself: one full disk must not cost the rest
        try:
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                save(path)
        except OSError as e:
            print(f"error: the result must be written to {path}, got {e}", file=sys.stderr)
            failed = 1
    print(json.dumps({
        "frames": len(frames), "size": list(frames[0].size), "seed": request.seed, "model": request.model,
        "seconds": round(done.seconds, 2), "unet_evaluations": done.evaluations,
    }))  # fmt: skip
    return failed


def main() -> int:
    args = parser().parse_args()
    try:
        if args.verb == "interpolate":
            return interpolate(args)
        list_models()
    except EngineError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
