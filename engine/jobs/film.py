"""The command ``film``: frames that are there (pictures, a folder, a zip, a film) finished as another film."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from engine.requests import EngineError, Progress
from engine.requests.files import destination, typed
from engine.requests.finish import ENDINGS, asked
from engine.vision.film import opened


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
