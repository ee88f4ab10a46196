"""What people give to be enlarged, files, folders, zips and films → pictures in their order, counted as they come."""

from __future__ import annotations

import lzma
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace
from PIL import Image

from engine.requests import EngineError, EnlargeRequest
from engine.requests.enlarge import Room
from engine.requests.files import FILMS, PICTURES, lies
from engine.vision import containers, reading, video

HEAVY = 400  # megabytes of one file in a zip: 40 megapixels of 16 bits
UNSAID = 2  # a film's colour space


@dataclass
class Found:
    """``rate``: frames a second of the first film, 0 without one; ``settings``: inside the first file, {} of others;
    ``notes``: what was left out, in sentences."""

    pictures: list[Image.Image] = field(default_factory=list)
    rate: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def kept(self, request: EnlargeRequest) -> dict[str, Any]:
        """What the larger ones carry: the settings that make the smaller ones again; of other files the request's."""
        return (self.settings or request.settings()) | {"enlarged": request.scale}

    def leave_out(self, names: list[str], path: Path) -> None:
        if names:
            what = names[0] if len(names) == 1 else f"{len(names)} files that are no pictures, {names[0]} the first,"
            self.notes.append(f"{what} of {path.name} {'is' if len(names) == 1 else 'are'} left out")

    @property
    def alike(self) -> bool:
        """Whether the pictures can be a film: several, of one size."""
        return len(self.pictures) > 1 and len({p.size for p in self.pictures}) == 1


def read_all(paths: Sequence[str | Path], scale: int = 2, room: Any = None) -> Found:
    """The pictures (RGB, or RGBA where one has alpha) of files, folders, zips and films. EngineError for what cannot be
    read, and for the first picture that is too much to be enlarged (`Room`), or for the ``room`` given: nothing after
    it is opened."""
    found, room = Found(), room or Room(scale)
    for path in map(Path, paths):
        for picture in _each(path, found):
            room.take(picture.size)
            found.pictures.append(picture)
    if paths:
        found.settings = _settings(Path(paths[0]))
    return found


def _each(path: Path, found: Found) -> Iterator[Image.Image]:
    kind, why = lies(path)
    if why or kind == "device":
        got = f"{path.name!r}, which {why or 'is a device'}"
        raise EngineError(f"pictures must be files or folders that can be read, got {got}")
    if kind == "folder":
        names = _ordered(p.name for p in path.iterdir() if not p.is_dir())
        found.leave_out(_others(p.name for p in path.iterdir() if not p.is_dir()), path)
        if not names:
            raise EngineError(f"folder must hold pictures, got none in {path.name!r}")
        yield from (_picture(path / n, n, found) for n in names)
    elif path.suffix.lower() in FILMS:
        yield from _film(path, found)
    elif zipfile.is_zipfile(path):
        yield from _zip(path, found)
    else:
        yield _picture(path, f"picture {len(found.pictures) + 1}", found)


def _ordered(names: Iterable[str]) -> list[str]:
    """The pictures among files by name, 2 before 10; not what systems hide beside them (``._1.png``, ``__MACOSX``)."""

    def key(name: str) -> list[Any]:
        return [int(t) if i % 2 else t.casefold() for i, t in enumerate(re.split(r"(\d+)", name))]

    return sorted((str(p) for p in _visible(names) if p.suffix.lower() in PICTURES), key=lambda n: (key(n), n))


def _visible(names: Iterable[str]) -> list[PurePosixPath]:
    paths = map(PurePosixPath, names)
    return [p for p in paths if not any(part.startswith((".", "__MACOSX")) and part != ".." for part in p.parts)]


def _others(names: Iterable[str]) -> list[str]:
    """What is no picture, but for the settings that we put beside them."""
    return [p.name for p in _visible(names) if p.suffix.lower() not in PICTURES and p.name != "settings.json"]


def _picture(source: str | Path | bytes, name: str, found: Found) -> Image.Image:
    picture = reading.opened(source, name, longest=math.inf)  # never smaller than it came: `Room` has the limit
    found.notes += [picture.info[reading.NOTE]] if reading.NOTE in picture.info else []
    seen = picture.mode == "RGB" or np.asarray(picture)[..., 3].min() == 255
    return picture.convert("RGB") if seen else picture


def _zip(path: Path, found: Found) -> Iterator[Image.Image]:
    try:
        with containers.archive(path) as z:
            inside = {str(PurePosixPath(i.filename)): i for i in z.infolist() if not i.is_dir()}
            names = _ordered(inside)
            found.leave_out(_others(inside), path)
            if not names:
                raise EngineError(f"zip must hold pictures, got none in {path.name!r}")
            for n in names:
                if inside[n].file_size > HEAVY * 1e6:
                    raise EngineError(f"{n} must have at most {HEAVY} MB, got {inside[n].file_size / 1e6:.0f}")
                yield _picture(z.read(inside[n]), PurePosixPath(n).name, found)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as e:
        raise EngineError(f"zip must be whole and have no password, got {path.name!r} ({e})") from None


def _film(path: Path, found: Found) -> Iterator[Image.Image]:
    try:
        with containers.film(path) as film:
            stream = film.streams.video[0]
            found.rate = found.rate or float(stream.average_rate or 0)
            if film.streams.audio:
                found.notes.append(f"the sound of {path.name} is left out")
            ours, none = "comment" in film.metadata, True
            for frame in film.decode(stream):
                none = False
                yield _shown(frame, ours)
            if none:
                raise IndexError
    except (*video.BROKEN, IndexError) as e:
        raise EngineError(f"film must be a whole video file, got {path.name!r} ({type(e).__name__})") from None


def _shown(frame: av.VideoFrame, ours: bool) -> Image.Image:
    """A frame as players show it: upright, and where it does not say how its colours are stored, BT.709 if it is large
    (our own films of before said nothing and were BT.601)."""
    silent = frame.colorspace == UNSAID and frame.height >= 720 and not ours
    rgb = frame.to_image(**({"src_colorspace": Colorspace.ITU709} if silent else {})).convert("RGB")
    return rgb.rotate(frame.rotation, expand=True) if frame.rotation else rgb


def _settings(path: Path) -> dict[str, Any]:
    try:
        inside = _ordered(os.listdir(path)) if path.is_dir() else ()
        return video.read_settings(path / inside[0] if inside else path)
    except EngineError:
        return {}
