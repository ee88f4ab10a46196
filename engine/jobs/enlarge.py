"""The command ``enlarge``: pictures, folders, zips and films in, larger ones out, each written once it is made."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.jobs.run import runner
from engine.requests import EngineError, EnlargeRequest, Frame, Preview, Progress
from engine.requests.files import destination, frames_folder, typed
from engine.requests.settings import Settings
from engine.vision import video


def make(args: argparse.Namespace, show: Callable[[Progress], None]) -> int:
    """Runs it; the last line printed is one JSON object. What was finished is kept when it is stopped or fails."""
    args.pictures = [typed(path) for path in args.pictures]
    pictures, rate = video.read_all(args.pictures)
    request = EnlargeRequest(tuple(pictures), **({} if args.scale is None else {"scale": args.scale}))
    out, fps = Path(args.out), args.fps or rate or 8
    video.check_fps(fps)
    kind = out.suffix.lower()
    if kind not in ("", ".png", ".mp4", ".zip") or (kind == ".png" and request.total > 1):
        several = f"a folder, a .zip or a .mp4 for {request.total} pictures" if request.total > 1 else "a .png"
        raise EngineError(f"out must be {several}, got {out.name}")
    out = destination("out", args.out, kind) if kind else frames_folder("out", args.out, request.total)
    args.preview = args.preview and destination("preview", args.preview, ".png")
    folder = Path(tempfile.mkdtemp(prefix="enlarged-")) if kind else out
    settings = kept(args.pictures, request)
    made, report = run(args, request, video.Stored(folder), settings, show)
    failed = kind and save(made, out, settings, fps)
    if failed:
        print(f"error: out must be written, got {failed}; the pictures are kept in {folder}", file=sys.stderr)
    elif kind:
        shutil.rmtree(folder)
    print(json.dumps(report))
    return 1 if failed else 0


def run(
    args: argparse.Namespace, request: EnlargeRequest, made: video.Stored, settings: dict[str, Any], show: Any
) -> tuple[video.Stored, dict[str, Any]]:
    seconds = 0.0
    try:
        for event in runner(Settings.read(args))(request):
            if isinstance(event, Preview) and args.preview:
                event.picture.save(args.preview)
            elif isinstance(event, Frame):
                made.put(event.index, event.picture, settings)
            elif isinstance(event, Progress):
                show(event)
            seconds = getattr(event, "seconds", 0.0)
    except BaseException as e:
        if made:
            print(f"{len(made)} finished pictures are kept in {made.folder}", file=sys.stderr)
        if isinstance(e, OSError):
            raise EngineError(f"out must be written, got {e}") from None
        raise
    return made, {"pictures": len(made), "size": list(made.size), "scale": request.scale, "seconds": round(seconds, 2)}


def save(made: video.Stored, out: Path, settings: dict[str, Any], fps: float) -> Exception | None:
    """Writes what was made as the name says; what went wrong, if something did."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix.lower() == ".mp4":
            video.save_mp4(made, out, settings, fps)
        elif out.suffix.lower() == ".zip":
            video.save_zip(made, out, settings)
        else:
            shutil.copyfile(made.paths[0], out)
    except Exception as e:
        return e


def kept(paths: list[str], request: EnlargeRequest) -> dict[str, Any]:
    """The settings inside the first file, which make the smaller ones again; of a file of others this request's."""
    first = next((p for p in sorted(Path(paths[0]).glob("*.png"))), None) if Path(paths[0]).is_dir() else paths[0]
    try:
        own = video.read_settings(first or paths[0])
    except EngineError:
        own = request.settings()
    return own | {"enlarged": request.scale}
