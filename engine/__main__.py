"""The command line: ``python -m engine interpolate|morph A.jpg B.jpg --out film.mp4``, ``draw --sketch S.png --strokes
C.png --out picture.png``, ``edit GUIDE.png --strength 0.5 --out picture.png``, ``enlarge PICTURE_FOLDER_OR_FILM --out
larger``, ``film FRAMES_ZIP_OR_FILM --duration 4 --smooth --out film.gif``, ``pose``, ``models``, ``cache``,
``settings`` (docs/settings.md). Options are the requests' declarations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.jobs import film
from engine.jobs.asked import request_of
from engine.requests import METHODS, Done, EngineError, Frame, Progress, Request, fields_of, number, pictures_of
from engine.requests.files import PNG, ZIP, destination, frames_folder
from engine.requests.finish import ENDINGS, Finish
from engine.requests.settings import Settings, document, options
from engine.requests.terminal import plain, spell

KINDS = {"zip": ZIP, "lora_dir": ()}  # what else results go into
FILMS, PAIRS = ("interpolate", "morph"), {"picks": "--pick", "reseeds": "--reseed"}  # (the others make pictures)
OTHERWISE = (*PAIRS, "points")  # fields whose options are not made of their declarations


def frame_pair(text: str) -> tuple[int, ...]:
    pair = tuple(number(n) for n in text.split(":"))
    if len(pair) != 2 or not all(isinstance(n, int) for n in pair):
        raise argparse.ArgumentTypeError(f"must be two whole numbers, FRAME:N, got {text!r}")
    return pair


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m engine", description="Pictures into one another.")
    verbs = top.add_subparsers(dest="verb", required=True)
    for name, request in METHODS.items():
        p = verbs.add_parser(name, help=str(request.__doc__).partition("\n")[0], description=request.__doc__)
        _inputs(p, request)
        _outputs(p, name)
    film.command(verbs.add_parser("film", help="frames that are there to a film of another length, speed or format"))
    m = verbs.add_parser("models", help="the catalogue: name, what it is, where from, present or not")
    more = "sd15:sketch,stroke,pose,live,canny with what belongs to it; clip, dwpose, openpose, hed, lineart, scribble"
    m.add_argument("--fetch", nargs="+", metavar="NAME", default=[], help=f"bring networks to this machine; {more}")
    options(m, (fields_of(Settings)["models"],))
    c = verbs.add_parser("cache", help="what was learnt of pictures: LoRAs, inversions, features; newest first")
    c.add_argument("--clear", action="store_true", help="throw it away")
    verbs.add_parser("settings", help="every setting of every method, as Markdown")
    return top


def _inputs(p: argparse.ArgumentParser, request: type[Request]) -> None:
    for f in pictures_of(request).values():
        if f.type is tuple:
            p.add_argument(f.name, nargs="+" if f.default is MISSING else "*", metavar="PICTURE", help=f.spec.help)
        elif f.default is not MISSING:
            p.add_argument(f"--{f.name}", metavar="FILE", help=f.spec.help)
        else:
            p.add_argument(f.name, metavar=f.name.upper(), help=f.spec.help)
    if request.method == "draw":
        p.add_argument("--drawing", metavar="PNG", help="a drawing saved by the canvas, with all its layers")
    if request.presets:
        p.add_argument("--preset", choices=list(request.presets), help="single options override it")
    options(p, (f for f in fields_of(request).values() if f.name not in OTHERWISE))
    for name, option in PAIRS.items():
        if f := fields_of(request).get(name):
            p.add_argument(option, dest=name, action="append", metavar="FRAME:N", type=frame_pair, help=f.spec.help)
    if f := fields_of(request).get("points"):
        p.add_argument("--points", metavar="FILE", help=f.spec.help)
    options(p, (fields_of(Settings)[n] for n in ("device", "memory", "models", "executor")))


def _outputs(p: argparse.ArgumentParser, method: str) -> None:
    if method == "pose":
        p.add_argument("--json", nargs="+", default=[], metavar="FILE", help="where keypoints go, a file a picture")
        p.add_argument("--out", help="a PNG of the skeletons")
        return
    if method == "enlarge":
        p.add_argument("--out", required=True, help="a .png for one picture, a .mp4 for a film, a .zip, or a folder")
        p.add_argument("--fps", type=number, help="frames a second in the MP4; default the film's that is read, or 8")
        p.add_argument("--preview", help="a PNG of a detail, written first: plainly enlarged | as it becomes")
        return
    p.add_argument("--frames-dir", help="a folder for 0000.png, 0001.png …")
    p.add_argument("--zip", help="a zip of the PNGs")
    if method == "morph":
        p.add_argument("--lora-dir", help="a folder for the LoRAs that were fitted, one safetensors file a picture")
    if method in FILMS:
        p.add_argument("--out", help=f"a film; its name ends in {', '.join(ENDINGS)}")
        film.options(p)
    else:
        p.add_argument("--out", help="a PNG; of several results or a sheet, all side by side")


def work(args: argparse.Namespace, request: Any) -> Done:
    """Runs a request, its progress and notes on stderr."""
    from engine.jobs.run import runner

    done = None
    for event in runner(Settings.read(args))(request):
        if isinstance(event, Progress):
            _show(event)
        elif isinstance(event, Frame) and not sys.stderr.isatty():
            print(f"frame {event.index}", file=sys.stderr)
        done = event
    assert isinstance(done, Done)
    for note in done.notes:
        print(note, file=sys.stderr)
    return done


def _show(event: Progress) -> None:
    if sys.stderr.isatty():
        print(f"\r{event.fraction:4.0%} {event.doing:70}", end="", file=sys.stderr)


def make(args: argparse.Namespace) -> int:
    """Runs a method and writes what was asked for; the last line is one JSON object."""
    request = request_of(args)
    if args.verb in FILMS:
        args.finish = film.wanted(args, request)
    if args.verb == "pose" and args.json and len(args.json) != request.total:
        raise EngineError(f"json must be {request.total} files, one a picture, got {len(args.json)}")
    place(args, request)
    done = work(args, request)
    failed = 0
    for path, save in _writers(args, request, done):  # each for itself: one full disk must not cost the rest
        try:
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                save(path)
        except Exception as e:
            print(f"error: the result must be written to {path}, got {e}", file=sys.stderr)
            failed = 1
    print(plain(_report(args, request, done)))
    return failed


def place(args: argparse.Namespace, request: Any) -> None:
    """Puts places where results go in the options' stead. EngineError, before the work, for what cannot be written."""
    given = {n: v for n, v in vars(args).items() if n in KINDS and v is not None}
    for name, path in given.items():
        args.__dict__[name] = destination(name.replace("_", "-"), path, *KINDS[name])
    if args.out is not None:
        args.out = destination("out", args.out, *(ENDINGS if args.verb in FILMS else PNG))
    if getattr(args, "frames_dir", None) is not None:
        args.frames_dir = frames_folder("frames-dir", args.frames_dir, request.total)
    if args.verb == "pose":
        args.json = [destination("json", path, ".json") for path in args.json]


def _writers(args: argparse.Namespace, request: Any, done: Done) -> Iterator[tuple[Path | None, Callable[[Path], Any]]]:
    """What was asked for: where, and what writes it."""
    from engine.vision import video
    from engine.vision.aside import put
    from engine.vision.film import Film

    frames, settings = done.frames, done.settings
    if args.verb in FILMS:
        yield args.out, lambda path: film.write(Film(frames, args.finish, settings), path, _show)
    else:
        yield args.out, lambda path: video.save_png(video.side_by_side(frames, request.columns), path, settings)
    if args.verb == "pose":
        for path, side in zip(args.json, "ab", strict=False):
            yield path, lambda path, side=side: put(path, settings[f"pose_{side}"].encode())
        return
    yield args.frames_dir, lambda path: video.save_frames(frames, path, settings)
    yield args.zip, lambda path: video.save_zip(frames, path, settings)
    for name, block in done.files.items() if getattr(args, "lora_dir", None) else ():
        yield args.lora_dir / name, lambda path, block=block: put(path, block)


def _report(args: argparse.Namespace, request: Any, done: Done) -> dict[str, Any]:
    from engine.vision.keypoints import pose

    seconds, shown = round(done.seconds, 2), "ab"[: request.total]
    if args.verb == "pose":
        return {"people": [len(pose.read(done.settings[f"pose_{s}"])) for s in shown], "seconds": seconds}
    report = {"frames" if args.verb in FILMS else "pictures": len(done.frames), "size": list(done.frames[0].size)}
    report |= {"seed": request.seed, "model": request.model, "seconds": seconds}
    return report | {"executor": done.executor, "unet_evaluations": done.evaluations, "quality": done.quality}


def list_models(args: argparse.Namespace) -> int:
    from engine.checkpoints.library import found
    from engine.checkpoints.resolve import ANNOTATORS, CLIPS, DETECTORS, available, fetch, missing, resolve

    tools, settings = {**ANNOTATORS, **CLIPS, **DETECTORS}, Settings.read(args)
    for text in args.fetch:
        name, _, kinds = text.partition(":")
        if name in tools:
            needs = [(tools[name].about, tools[name].source)]
        else:
            choice, wants = resolve(name, settings.paths, settings.folders), [k for k in kinds.split(",") if k]
            known = {*choice.extras, *CLIPS, *DETECTORS}
            if odd := [k for k in wants if k not in known]:
                raise EngineError(f"fetch must name what {name} may have, {', '.join(sorted(known))}, got {odd[0]!r}")
            needs = choice.needs(wants)
        for event in fetch(missing(needs)):
            _show(event)
    for e, here in available():
        where = e.source.repos[0] if e.source else "embedded"
        size = "present" if here else f"{e.gb:.1f} GB"
        print(f"{e.name:12} {size:8} {where:45} {e.about}; sees {', '.join(e.can)}; {e.licence}: {e.terms}")
    for own in found(settings.folders):
        print(f"{own.label} · {'LoRA' if own.lora else 'network'}{f'; {own.why}' if own.why else ''}")
    return 0


def list_cache(args: argparse.Namespace) -> int:
    from engine.jobs.cache import Cache

    settings = Settings.read(args)
    cache = Cache(settings.cache, int(settings.cache_gb * 1e9))
    if args.clear:
        print(f"{cache.clear()} entries thrown away")
    for i in (items := cache.items()):
        print(f"{i.kind:10} {i.size / 1e6:8.2f} MB  {i.age / 3600:7.1f} h ago  {i.about}")
    print(
        f"{len(items)} entries, {sum(i.size for i in items) / 1e6:.1f} of {cache.limit / 1e6:.0f} MB, in {cache.folder}"
    )
    return 0


def main() -> int:
    spell()
    args = parser().parse_args()
    others = {
        "models": list_models,
        "cache": list_cache,
        "enlarge": lambda args: import_module("engine.jobs.enlarge").make(args, _show),
        "film": lambda args: film.make(args, _show),
        "settings": lambda _: print(document([*METHODS.values(), Finish, Settings])) or 0,
    }
    try:
        return others.get(args.verb, make)(args)
    except EngineError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except OSError as e:  # a disk that is full, a folder that was taken away meanwhile
        print(f"error: what is asked for must be read and written, got {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
