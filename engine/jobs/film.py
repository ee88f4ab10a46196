"""Films on the command line: their options, and the command ``film``, which finishes frames that are there (pictures, a
folder, a zip, a film) as another film."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.requests import EngineError, Progress, fields_of
from engine.requests import settings as declared
from engine.requests.files import destination, typed
from engine.requests.finish import ENDINGS, Finish, asked

OTHERWISE = ("hold", "holds", "durations", "loop", "format")  # whose options are not made of their declarations


def options(p: argparse.ArgumentParser) -> None:
    """What may be asked of a film. What is not given is None."""
    declared.options(p, (f for f in fields_of(Finish).values() if f.name not in OTHERWISE))
    one = 'seconds on each picture; or one number a picture: 0,1,0.5,2 (two: "0; 1"; 0,5 is a half); from 0 to 60'
    p.add_argument("--hold", metavar="SECONDS", help=f"Hold: {one}; default 0")
    way = 'seconds of every way from picture to picture, or of each: 2,4,1 ("2,,1": the second as long as it takes)'
    p.add_argument("--durations", metavar="SECONDS", help=way)


def command(p: argparse.ArgumentParser) -> None:
    """The options of ``film``."""
    p.add_argument("pictures", nargs="+", metavar="FRAMES", help="pictures, a folder, a zip or a film")
    p.add_argument("--out", required=True, help=f"a file that ends in {', '.join(ENDINGS)}")
    options(p)
    declared.options(p, [fields_of(Finish)["loop"]])


def wanted(args: argparse.Namespace, request: Any) -> Finish:
    """How the film of a request is to be, before the work. EngineError for one that cannot be."""
    from engine.vision.film import check

    settings = request.settings()
    finish = asked(vars(args) | {"loop": settings.get("loop", False)}, args.out or "")
    check(request.total, finish, settings, getattr(request, "size", 0))
    return finish


def write(film: Any, path: Path, show: Callable[[Progress], None]) -> None:
    """Writes it with its progress, and says what is to be said of it."""
    for part in film.writing(path):
        show(Progress(part, "writing the film"))
    for note in film.notes:
        print(note, file=sys.stderr)


def make(args: argparse.Namespace, show: Callable[[Progress], None]) -> int:
    """Runs ``film``; the last line printed is one JSON object."""
    from engine.vision.film import opened

    out, given = destination("out", args.out, *ENDINGS), [Path(typed(p)) for p in args.pictures]
    if out.resolve() in {p.resolve() for g in given for p in (g, *(g.iterdir() if g.is_dir() else ()))}:
        raise EngineError(f"out must be another file than what the film is made of, got {str(out)!r}")
    finish = asked(vars(args), str(out))
    film, notes = opened(given, finish, args.loop)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write(film, out, show)
    except OSError as e:
        raise EngineError(f"out must be written, got {e}") from None
    for note in notes:
        print(note, file=sys.stderr)
    print(json.dumps(film.report))
    return 0
