"""The command ``film``: frames that are there (pictures, a folder, a zip, a film) finished as another film."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.requests import EngineError, Progress
from engine.requests.files import destination, typed
from engine.requests.finish import ENDINGS, FilmRoom, Finish, asked
from engine.vision import sources, video
from engine.vision.film import Film, check_format
from engine.vision.timeline import closes


def make(args: argparse.Namespace, show: Callable[[Progress], None]) -> int:
    """Runs it; the last line printed is one JSON object."""
    out, given = destination("out", args.out, *ENDINGS), [Path(typed(p)) for p in args.pictures]
    if out.resolve() in {p.resolve() for g in given for p in (g, *(g.iterdir() if g.is_dir() else ()))}:
        raise EngineError(f"out must be another file than what the film is made of, got {str(out)!r}")
    finish = asked(vars(args), str(out))
    film, notes = opened(given, finish, args.loop)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for part in film.writing(out):
            show(Progress(part, "writing the film"))
    except OSError as e:
        raise EngineError(f"out must be written, got {e}") from None
    for note in (*notes, *film.notes):
        print(note, file=sys.stderr)
    print(json.dumps(film.report))
    return 0


def opened(paths: list[Path], finish: Finish, loop: bool | None = None) -> tuple[Film, list[str]]:
    """Frames from files, and what is to be said of them. ``loop`` None: as their settings say; where nothing else is
    asked for a film keeps its speed. EngineError for what cannot be read, or made."""
    check_format(finish.format)
    found = sources.read_all(paths, room=FilmRoom())
    settings: dict[str, Any] = found.settings or {"method": finish.method}
    finish = replace(finish, loop=closes(settings, len(found.pictures)) if loop is None else loop)
    return Film(found.pictures, finish, settings, video.steady(found.rate)), found.notes
