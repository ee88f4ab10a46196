"""The command line: ``python -m engine interpolate|morph A.jpg B.jpg --out film.mp4``, ``draw --sketch S.png --strokes
C.png --out picture.png``, ``edit GUIDE.png --strength 0.5 --out picture.png``, ``models`` and ``cache``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from engine.requests import (
    DETECTORS,
    DRAW_PRESETS,
    EDIT_PRESETS,
    MORPH_PRESETS,
    PRESETS,
    Done,
    DrawRequest,
    EditRequest,
    EngineError,
    Frame,
    InterpolateRequest,
    MorphRequest,
    PoseRequest,
    Progress,
)

METHODS: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    "interpolate": (InterpolateRequest, PRESETS),
    "morph": (MorphRequest, MORPH_PRESETS),
    "draw": (DrawRequest, DRAW_PRESETS),
    "edit": (EditRequest, EDIT_PRESETS),
}
FILMS = ("interpolate", "morph")  # the others make pictures
HELP = {
    "prompt": "what the pictures show",
    "prompt_b": "what picture B shows, if it is something else",
    "prompts": "what the pictures show, one text for each",
    "negative": "what the frames should not show",
    "frames": "of the whole, a power of two plus one; morph: of the way from one picture to the next",
    "scheme": "the paper's method (branch) or one of the others of its Table 1",
    "schedule": "how noise grows from fine levels to the middle",
    "mix": "how latents are mixed",
    "picker": "which candidate becomes the frame",
    "rank_for": "what CLIP looks for in candidates (empty: the prompt)",
    "rank_against": "what it counts against them (empty: the negative)",
    "sampler": "ddim, or live: the few-step weights, at most four steps a frame",
    "fit": "fit: the proportions of the first; crop: a square; pad: a square that shows the pictures whole",
    "model": "a name from 'python -m engine models', a diffusers folder or a .safetensors file; LoRAs after a plus: "
    "'sd15 + ink.safetensors:0.8'",
    "seed": "the same seed gives the same pictures",
    "combine": "joint: scales of 1 are the network that sees both drawings; sum: the paper's three rows",
    "refine": "how realism pulls to the drawing: on the clean picture in mind, on the noised one (the paper), or not",
    "sheet": "the same seed over a 3 × 3 of two scales, or up a ladder of realism",
    "noise": "of the kept part: fresh at every step, or one for all (the published code)",
    "pose": "bodies steer the frames: by the keypoints given, or what DWPose or OpenPose finds where there are none",
    "pose_a": "a file of keypoints of picture A (OpenPose's JSON, see 'pose --json')",
    "pose_b": "the same of picture B",
    "pose_people": "the largest person of each picture, or everybody, matched",
    "pose_rescue": "words for a photograph made of a picture in which nobody is found, to look again there",
    "loop": "go on from the last picture to the first",
    "lora": "mix: a LoRA fitted to each picture, mixed along the way; fixed: one mix for all frames; none",
    "form": "sum: the LoRAs' deltas are added (the paper's equation 4); factors: as its code does",
    "adain": "give the mixed noise the mixed mean and deviation of the pictures' noises",
    "reschedule": "place the frames so that the picture changes evenly",
    "exact_ends": "show the pictures themselves at their places, not drawn again",
    "loras": "safetensors files of LoRAs for the pictures, in their order; - for one fitted here",
}


def frame_pair(text: str) -> tuple[int, int]:
    frame, number = text.split(":")
    return int(frame), int(number)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m engine", description="Pictures into one another, from the command line."
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    i = verbs.add_parser("interpolate", help="one picture into another", description=InterpolateRequest.__doc__)
    i.add_argument("a", metavar="A", help="first picture")
    i.add_argument("b", metavar="B", help="last picture")
    pair = {"action": "append", "default": [], "metavar": "FRAME:N", "type": frame_pair}
    i.add_argument("--pick", dest="picks", help="take candidate N for a frame", **pair)
    i.add_argument("--reseed", dest="reseeds", help="make a frame again with seed N, and what descends from it", **pair)
    m = verbs.add_parser("morph", help="DiffMorpher, two or more pictures", description=MorphRequest.__doc__)
    m.add_argument("pictures", nargs="+", metavar="PICTURE", help="two or more, in their order")
    m.add_argument("--lora-dir", help="a folder for the LoRAs that were fitted, one safetensors file a picture")
    d = verbs.add_parser("draw", help="lines and strokes into a picture", description=DrawRequest.__doc__)
    d.add_argument("--sketch", metavar="PNG", help="lines: dark ones on white, or with alpha")
    d.add_argument("--strokes", metavar="PNG", help="colours; what is transparent stays free")
    d.add_argument("--drawing", metavar="PNG", help="a drawing saved by the canvas, with all its layers")
    e = verbs.add_parser("edit", help="a guide made real", description=EditRequest.__doc__)
    e.add_argument("guide", metavar="GUIDE", help="a painting, an edited photograph, or paint with alpha over --photo")
    for p in (d, e):
        p.add_argument("--photo", help="the photograph that is edited; what may not change is kept exactly")
        p.add_argument("--mask", help="white (or alpha) where it may change, grey for less of the strength")
    for name, p in (("interpolate", i), ("morph", m), ("draw", d), ("edit", e)):
        _fields(p, *METHODS[name])
        p.add_argument("--frames-dir", help="a folder for 0000.png, 0001.png …")
        p.add_argument("--zip", help="a zip of the PNGs")
        _device(p)
        if name not in FILMS:
            p.add_argument("--out", help="a PNG; of several results or a sheet, all side by side")
            continue
        p.add_argument("--out", help="an MP4 file")
        p.add_argument("--fps", type=float, default=8, help="frames a second in the MP4; default 8")
        p.add_argument("--there-and-back", action="store_true", help="the MP4 returns to the first picture")
    n = verbs.add_parser("models", help="the catalogue: name, what it is, where from, present or not")
    n.add_argument("--fetch", nargs="+", metavar="NAME", help="bring networks to this machine; sd15:sketch,stroke,pose "
                   "with what belongs to it (also live, canny, clip, clip-small, dwpose, openpose)")  # fmt: skip
    s = verbs.add_parser("pose", help="people found in pictures, as OpenPose's JSON", description=PoseRequest.__doc__)
    s.add_argument("pictures", nargs="+", metavar="PICTURE", help="one or two")
    s.add_argument("--detector", choices=DETECTORS, default="dwpose", help="openpose: non-commercial research only")
    s.add_argument("--rescue", default="", help="words for a photograph made of a drawing, to look again there")
    s.add_argument("--model", default="flora", help="which makes that photograph; one with a control for edges")
    s.add_argument("--json", nargs="+", default=[], metavar="FILE", help="where the keypoints go, a file a picture")
    s.add_argument("--out", help="a PNG of the skeletons")
    _device(s)
    c = verbs.add_parser("cache", help="what was learnt of pictures: LoRAs, inversions, features; newest first")
    c.add_argument("--clear", action="store_true", help="throw it away")
    return top


def _device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    p.add_argument("--memory", type=float, default=0.0, help="GB of the device that networks may use; 0: all of it")


def _fields(p: argparse.ArgumentParser, request: Any, presets: dict[str, Any]) -> None:
    """An option for every plain field of a request."""
    p.add_argument("--preset", choices=list(presets), help="single options override it")
    for f in fields(request):
        note, option = HELP.get(f.name, ""), f"--{f.name.replace('_', '-')}"
        if f.name in ("prompts", "loras"):
            p.add_argument(option, nargs="+", help=note)
        elif isinstance(f.default, bool):
            p.add_argument(option, action=argparse.BooleanOptionalAction, default=None,
                           help=f"{note}; default {'yes' if f.default else 'no'}")  # fmt: skip
        elif f.default is not MISSING and isinstance(f.default, str | int | float):
            if bound := request.BOUNDS.get(f.name):
                note = f"{note or bound.help} ({bound.low:g} to {bound.high:g})"
            p.add_argument(option, type=type(f.default), choices=request.CHOICES.get(f.name),
                           help=f"{note}; default {f.default!r}")  # fmt: skip


def list_models(wanted: list[str]) -> None:
    from engine.checkpoints.resolve import absent, chosen, fetching, present

    for text in wanted:
        name, _, kinds = text.partition(":")
        for event in fetching(absent(chosen(name).needs([k for k in kinds.split(",") if k]))):
            if sys.stderr.isatty():
                print(f"\r{event.fraction:4.0%} {event.doing:70}", end="", file=sys.stderr)
    for entry, here in present():
        where = entry.source.repos[0] if entry.source else "embedded"
        size = "present" if here else f"{entry.gb:.1f} GB"
        print(f"{entry.name:12} {size:8} {where:45} {entry.about}; sees {', '.join(entry.can)}; {entry.licence}: "
              f"{entry.terms}")  # fmt: skip


def list_cache(clear: bool) -> None:
    from engine.jobs.cache import Cache

    cache = Cache()
    if clear:
        print(f"{cache.clear()} entries thrown away")
    items = cache.items()
    for i in items:
        print(f"{i.kind:10} {i.size / 1e6:8.2f} MB  {i.age / 3600:7.1f} h ago  {i.about}")
    print(
        f"{len(items)} entries, {sum(i.size for i in items) / 1e6:.1f} of {cache.limit / 1e6:.0f} MB, in {cache.folder}"
    )


def request_of(args: argparse.Namespace) -> Any:
    """Reads the pictures and refuses bad input, before anything slow."""
    from engine.vision.images import drawing, layer, read

    request, presets = METHODS[args.verb]
    given = {f.name: getattr(args, f.name, None) for f in fields(request)}
    if args.verb in ("draw", "edit"):
        for name in ("sketch", "strokes", "mask", "guide"):
            if given.get(name):
                given[name] = layer(given[name], name, {"guide": "strokes"}.get(name, name))
        if given["photo"]:
            given["photo"] = read(given["photo"], "photo")
        if args.verb == "draw" and args.drawing:
            given |= {k: v for k, v in drawing(args.drawing).items() if given[k] is None}
    elif args.verb == "interpolate":
        given |= {"picks": tuple(args.picks), "reseeds": tuple(args.reseeds)}
        for name in ("pose_a", "pose_b"):
            given[name] = given[name] and _file(given[name], name).decode("utf8", "replace")
        given |= {"a": read(args.a, "picture A"), "b": read(args.b, "picture B")}
    else:
        given["pictures"] = tuple(read(p, f"picture {i}") for i, p in enumerate(args.pictures, 1))
        given["prompts"] = tuple(args.prompts or ())
        given["loras"] = tuple(_file(p) for p in args.loras or ())
    values = (presets[args.preset] if args.preset else {}) | {k: v for k, v in given.items() if v is not None}
    return request(**values)


def _file(path: str, name: str = "loras") -> bytes:
    if path == "-":
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise EngineError(f"{name} must be a file, got {path}: {e.strerror}") from None


def _save_files(files: dict[str, bytes], folder: str) -> None:
    for name, block in files.items():
        (Path(folder) / name).write_bytes(block)


def make(args: argparse.Namespace) -> int:
    """Runs a method and writes what was asked for; the last line is one JSON object."""
    from engine.vision import video

    request = request_of(args)
    film = args.verb in FILMS
    if film:
        video.check_fps(args.fps)
    from engine.checkpoints.manager import Models
    from engine.jobs.run import run

    done = None
    for event in run(Models(args.device, memory=args.memory), request):
        if isinstance(event, Progress) and sys.stderr.isatty():
            print(f"\r{event.fraction:4.0%} {event.doing:60}", end="", file=sys.stderr)
        elif isinstance(event, Frame) and not sys.stderr.isatty():
            print(f"frame {event.index}", file=sys.stderr)
        done = event
    assert isinstance(done, Done)
    for note in done.notes:
        print(note, file=sys.stderr)
    frames, settings, failed = done.frames, done.settings, 0

    def save_out(path: str) -> None:
        if film:
            video.save_mp4(frames, path, settings, args.fps, args.there_and_back)
        else:
            video.save_png(video.side_by_side(frames, request.columns), path, settings)

    outputs = [
        (args.frames_dir, lambda path: video.save_frames(frames, path, settings)),
        (args.zip, lambda path: video.save_zip(frames, path, settings)),
        (args.out, save_out),
        (getattr(args, "lora_dir", None), lambda path: _save_files(done.files, path)),
    ]
    for path, save in outputs:  # each for itself: one full disk must not cost the rest
        try:
            if path:
                folder = Path(path) if path in (args.frames_dir, getattr(args, "lora_dir", None)) else Path(path).parent
                folder.mkdir(parents=True, exist_ok=True)
                save(path)
        except OSError as e:
            print(f"error: the result must be written to {path}, got {e}", file=sys.stderr)
            failed = 1
    print(json.dumps({
        "frames" if film else "pictures": len(frames), "size": list(frames[0].size), "seed": request.seed,
        "model": request.model,
        "seconds": round(done.seconds, 2), "unet_evaluations": done.evaluations, "quality": done.quality,
    }))  # fmt: skip
    return failed


def find(args: argparse.Namespace) -> int:
    """Looks for people; writes keypoints and skeletons; the last line is one JSON object."""
    from engine.vision import video
    from engine.vision.images import read
    from engine.vision.keypoints import pose

    pictures = tuple(read(p, f"picture {i}") for i, p in enumerate(args.pictures, 1))
    if args.json and len(args.json) != len(pictures):
        raise EngineError(f"json must be {len(pictures)} files, one a picture, got {len(args.json)}")
    request = PoseRequest(pictures, args.detector, args.rescue, args.model)
    from engine.checkpoints.manager import Models
    from engine.jobs.run import run

    done = list(run(Models(args.device, memory=args.memory), request))[-1]
    assert isinstance(done, Done)
    texts = [done.settings[f"pose_{side}"] for side in "ab"[: len(pictures)]]
    try:
        for path, text in zip(args.json, texts, strict=False):
            Path(path).write_text(text)
        if args.out:
            video.save_png(video.side_by_side(done.frames, 0), args.out, request.settings())
    except OSError as e:
        raise EngineError(f"the result must be written, got {e}") from None
    print(json.dumps({"people": [len(pose.read(t)) for t in texts], "seconds": round(done.seconds, 2)}))
    return 0


def main() -> int:
    args = parser().parse_args()
    try:
        if args.verb in METHODS:
            return make(args)
        if args.verb == "pose":
            return find(args)
        list_cache(args.clear) if args.verb == "cache" else list_models(args.fetch or [])
    except EngineError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
