"""The command ``enlarge``: pictures, folders, zips and films in, larger ones out, each written once it is made."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.jobs.run import runner
from engine.requests import EngineError, EnlargeRequest, Preview, Progress, fields_of
from engine.requests.files import FILM, FRAME, PNG, ZIP, destination, frames_folder, lies, typed
from engine.requests.settings import Settings
from engine.requests.terminal import plain
from engine.vision import sources, video
from engine.vision.aside import aside

Show = Callable[[Progress], None]
ENDING = re.compile(r"\.(?!v\d)(?=.*[a-z])[a-z0-9]{2,5}")  # of a file, known here or not; "take.v2" is a folder


def make(args: argparse.Namespace, show: Show) -> int:
    """Runs it; the last line printed is one JSON object. What was finished is kept when it is stopped or fails."""
    if not all(typed(p) for p in args.pictures):  # a variable of the shell that is not set; Path makes it this folder
        raise EngineError("pictures must be files or folders that can be read, got '', which is not there")
    given = [Path(typed(p)) for p in args.pictures]
    scale = fields_of(EnlargeRequest)["scale"].default if args.scale is None else args.scale
    kind = kind_of(args.out)
    out = destination("out", args.out, *([kind] if kind else []))
    args.preview = args.preview and destination("preview", args.preview, *PNG)
    for name, place in (("out", out), ("preview", args.preview)):
        if place:
            apart(name, place, given)
    if kind in FILM and args.fps is not None:
        video.check_fps(args.fps)
    found = sources.read_all(given, scale)
    request = EnlargeRequest(tuple(found.pictures), scale)
    if kind in PNG and request.total > 1:
        raise EngineError(f"out must be a folder, a .zip or a .mp4 for {request.total} pictures, got {out.name}")
    if kind in FILM and request.total > 1 and not found.alike:
        raise EngineError(f"out must be a folder or a .zip for pictures of different sizes, got {out.name}")
    folder = Path(tempfile.mkdtemp(prefix="enlarged-")) if kind else frames_folder("out", args.out, request.total)
    settings, made = found.kept(request), video.Stored(folder)
    for note in found.notes:
        print(note, file=sys.stderr)
    report = run(args, request, made, settings, show)
    fps = video.steady(found.rate) if args.fps is None else args.fps
    failed = kind and save(made, out, settings, fps, show)
    if failed:
        print(f"error: out must be written, got {failed}; the pictures are kept in {folder}", file=sys.stderr)
    elif kind:
        shutil.rmtree(folder)
    print(plain(report))
    return 1 if failed else 0


def kind_of(out: str) -> str:
    """.png, .mp4, .m4v or .zip, or "" for a folder: a name without an ending is one. EngineError for other formats."""
    kind = Path(typed(out)).suffix.lower()
    if lies(typed(out))[0] == "folder" or out.endswith(("/", os.sep)) or not ENDING.fullmatch(kind):
        return ""
    if kind not in (*PNG, *FILM, *ZIP):
        raise EngineError(f"out must be a .png, a .mp4, a .zip or a folder, got {out!r}; end a folder's name with /")
    return kind


def apart(name: str, place: Path, given: list[Path]) -> None:
    """EngineError where a result would be written over what it is made of."""
    there = [s for s in given if not lies(s)[1]]  # (of the others the reading tells)
    there += [p for s in there if s.is_dir() for p in s.iterdir() if not lies(p)[1]]
    whole = {p.resolve() for p in there}
    over = any(p.parent == place.resolve() and FRAME.fullmatch(p.name) for p in whole)
    if place.resolve() in whole or over:
        raise EngineError(f"{name} must be another place than what is enlarged, got {str(place)!r}")


def run(args: argparse.Namespace, request: EnlargeRequest, made: video.Stored, settings: Any, show: Show) -> Any:
    """Fills ``made``; gives the report."""
    seconds = 0.0
    try:
        for event in made.fill(runner(Settings.read(args))(request), settings):
            if isinstance(event, Preview) and args.preview:
                write_preview(event, args.preview)
            elif isinstance(event, Progress):
                show(event)
            seconds = getattr(event, "seconds", 0.0)
    except BaseException as e:
        if made:
            print(f"{len(made)} finished pictures are kept in {made.folder}", file=sys.stderr)
        if isinstance(e, OSError):
            raise EngineError(f"out must be written, got {e}") from None
        raise
    return {"pictures": len(made), "size": list(made.size), "scale": request.scale, "seconds": round(seconds, 2)}


def write_preview(event: Preview, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path) as part:
            event.picture.save(part, "PNG")
    except OSError as e:
        raise EngineError(f"preview must be written, got {e}") from None


def save(made: video.Stored, out: Path, settings: dict[str, Any], fps: float, show: Show) -> Exception | None:
    """Writes what was made as the name says; what went wrong, if something did."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix.lower() in FILM:
            for part in video.writing_mp4(made, out, settings, fps):
                show(Progress(part, "writing the film"))
        elif out.suffix.lower() in ZIP:
            video.save_zip(made, out, settings)
        else:
            with aside(out) as part:
                shutil.copyfile(made.paths[0], part)
    except Exception as e:
        return e
