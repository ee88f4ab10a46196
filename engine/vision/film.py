"""Drawn frames to a finished film: MP4, WebM, animated WebP, GIF, or PNGs, each as the `Timeline` says."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from engine.requests import EngineError
from engine.requests.finish import FORMATS, USUAL, FilmRoom, Finish, check_size
from engine.vision import sources, video
from engine.vision.aside import aside, passing
from engine.vision.rests import check_counts
from engine.vision.timeline import check_work, closes, keys_of, timeline

Shots = Iterator[tuple[Image.Image, int]]
ENCODERS = {"mp4": "libx264", "webm": "libvpx-vp9", "webp": "libwebp_anim"}  # Pillow and zipfile write the others


def check_format(form: str) -> None:
    """EngineError where this machine cannot write it."""
    try:
        if form in ENCODERS:
            av.Codec(ENCODERS[form], "w")
    except (av.error.FFmpegError, ValueError):
        lack = f"{FORMATS[form]}, for which FFmpeg lacks {ENCODERS[form]}"
        raise EngineError(f"format must be one that this machine can write, got {lack}") from None


def check(frames: int, finish: Finish, settings: dict[str, Any], side: int = 0) -> None:
    """EngineError, before frames are drawn, for a film that cannot be made of them; ``side``: the longer one, if it is
    known."""
    check_format(finish.format)
    check_work(timeline(frames, finish, keys_of(settings, frames)), (side, side))


class Film:
    """``frames`` (PIL pictures of one size) and how they are shown. EngineError, before any work, for what cannot be.

    ``large``: steps (i: from frame i to the next) that were too large to be filled, as far as they have been seen.
    """

    def __init__(self, frames: Sequence[Image.Image], finish: Finish, settings: dict[str, Any], usual: float = USUAL):
        """``settings`` say which frames are pictures, and go into the file, with what was asked of the film itself;
        ``usual``: as `timeline` has it."""
        self.frames, self.finish, self.settings = frames, finish, settings | {"film": finish.told}
        check_format(finish.format)
        self.line = timeline(len(frames), finish, keys_of(settings, len(frames)), usual)
        self.size = frames[0].size
        check_work(self.line, self.size)
        self.large: set[int] = set()
        self._steps: dict[int, Any] = {}

    def picture(self, place: float) -> Image.Image:
        """What is at a place of the timeline; the nearer frame where the step is too large to be filled."""
        i, t = int(place), place % 1
        if not t:
            return self._frame(i)
        step = self._step(i)
        if not step.small:
            self.large.add(i)
            return self._frame(i if t < 0.5 else (i + 1) % len(self.frames))
        return Image.fromarray(step.at(t))

    def _frame(self, i: int) -> Image.Image:
        picture = self.frames[i]
        check_size(self.size, picture.size)
        return picture

    def _step(self, i: int) -> Any:
        from engine.vision.flow import Step  # OpenCV takes its time

        if i not in self._steps:
            ends = (video.on_white(self._frame(k % len(self.frames))) for k in (i, i + 1))
            self._steps = {i: Step(*map(np.asarray, ends))}  # one at a time: a long film is never held
        return self._steps[i]

    @property
    def notes(self) -> list[str]:
        """What is to be said of it once it is made."""
        if not self.large:
            return []
        n = len(self.large)
        which = ", ".join(f"{i + 1} to {(i + 1) % len(self.frames) + 1}" for i in sorted(self.large)[:8])
        steps = "step is too large to be filled and stays" if n == 1 else "steps are too large to be filled and stay"
        return [f"{n} {steps} as drawn (frames {which}{', …' if n > 8 else ''})"]

    def writing(self, path: str | Path) -> Iterator[float]:
        """Writes it; yields how much is done. Nothing is at ``path`` before the end."""
        shots, rate, n = self._shots(), self.line.rate, len(self.line.shots)
        form = self.finish.format
        if form in video.CODECS:
            steps: Iterable[None] = video.encoding(shots, path, self.settings, rate, form)
        else:
            steps = _aside(path, WRITERS[form], self)
        for done, _ in enumerate(steps):
            yield done / n

    def _shots(self) -> Shots:
        return ((self.picture(place), count) for place, count in self.line.shots)

    def lasting(self, unit: int) -> Shots:
        """(picture, duration in 1/``unit`` s)."""
        return ((self.picture(place), n) for place, n in self.line.lasting(unit))

    @property
    def report(self) -> dict[str, Any]:
        """What it is, in numbers."""
        line = self.line
        return {"frames": line.frames, "seconds": round(line.seconds, 3), "fps": round(float(line.rate), 3)} | {
            "size": list(self.size),
            "drawn": len(self.frames),
            "format": self.finish.format,
        }


def finish_for(finish: Finish, settings: dict[str, Any], frames: int, form: str = "mp4") -> Finish:
    """The same for ``frames`` that were made by these settings, as a file of a format: whether they close is theirs,
    and what was said of single pictures and ways counts only where there are as many."""
    finish = replace(finish, loop=closes(settings, frames), format=form)
    try:
        check_counts(finish, keys_of(settings, frames))
    except EngineError:
        finish = replace(finish, holds=(), durations=())
    return finish


def opened(paths: Sequence[str | Path], finish: Finish, loop: bool | None = None) -> tuple[Film, list[str]]:
    """Frames from files, and what is to be said of them. ``loop`` None: as their settings say; where nothing else is
    asked for a film keeps its speed. EngineError for what cannot be read, or made."""
    check_format(finish.format)
    found = sources.read_all(paths, room=FilmRoom())
    settings: dict[str, Any] = found.settings or {"method": finish.method}
    finish = replace(finish, loop=closes(settings, len(found.pictures)) if loop is None else loop)
    return Film(found.pictures, finish, settings, video.steady(found.rate)), found.notes


def save(film: Film, path: str | Path) -> None:
    """`Film.writing` to its end."""
    for _ in film.writing(path):
        pass


def _aside(path: str | Path, write: Callable[[Film, Path], Iterator[None]], film: Film) -> Iterator[None]:
    """Has a file written elsewhere, and brings it to its place when it is whole."""
    with passing() as folder:
        yield from write(film, whole := folder / "film")
        with aside(path) as part:
            shutil.copyfile(whole, part)


def _gif(film: Film, path: Path) -> Iterator[None]:
    from engine.vision import gif

    palette = gif.palette_of(film.frames)
    yield from gif.writing(film.lasting(100), path, palette, json.dumps(film.settings))


def _zip(film: Film, path: Path) -> Iterator[None]:
    """PNGs, one a frame of the film: what is shown longer comes several times."""
    place = 0
    with zipfile.ZipFile(path, "w") as z:
        for picture, count in film._shots():
            yield
            for _ in range(count):
                video.save_png(picture, block := io.BytesIO(), film.settings | {"frame": place})
                z.writestr(f"{place:04d}.png", block.getvalue())
                place += 1
        z.writestr("settings.json", json.dumps(film.settings, indent=1))


def _webp(film: Film, path: Path) -> Iterator[None]:
    """Lossy, with alpha where frames have it; plays again and again."""
    with av.open(f"file:{path}", "w", format="webp", options={"loop": "0"}) as file:
        stream: Any = file.add_stream(ENCODERS["webp"], rate=1000)
        stream.width, stream.height = film.size
        stream.pix_fmt, stream.options = "bgra", {"quality": "85"}
        stream.codec_context.time_base = Fraction(1, 1000)
        at = 0
        for picture, ms in film.lasting(1000):
            yield
            rgba = np.asarray(picture.convert("RGBA"))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgba[..., [2, 1, 0, 3]]), format="bgra")
            frame.pts, frame.time_base, frame.duration = at, Fraction(1, 1000), ms
            at += ms
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    exif = Image.Exif()
    exif[video.DESCRIPTION] = json.dumps(film.settings)
    path.write_bytes(finished_webp(path.read_bytes(), at, exif.tobytes()))


def finished_webp(block: bytes, milliseconds: int, exif: bytes) -> bytes:
    """An animated WebP with EXIF, and its last frame as long as it should be: the encoder takes the mean for it.

    (RIFF: chunks of a name, a length and as many bytes, padded to even; VP8X holds flags, 0x08 is EXIF; ANMF begins
    with 12 bytes of place and size, then the duration in 3.)
    """
    chunks, at = [], 12
    while at < len(block):
        name, n = block[at : at + 4], int.from_bytes(block[at + 4 : at + 8], "little")
        chunks.append((name, bytearray(block[at + 8 : at + 8 + n])))
        at += 8 + n + n % 2
    shown = [data for name, data in chunks if name == b"ANMF"]
    before = sum(int.from_bytes(data[12:15], "little") for data in shown[:-1])
    if shown:
        shown[-1][12:15] = max(1, milliseconds - before).to_bytes(3, "little")
    for name, data in chunks:
        if name == b"VP8X":
            data[0] |= 0x08
    chunks.append((b"EXIF", bytearray(exif.removeprefix(b"Exif\0\0"))))
    body = b"".join(n + len(d).to_bytes(4, "little") + bytes(d) + b"\0" * (len(d) % 2) for n, d in chunks)
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


WRITERS = {"gif": _gif, "webp": _webp, "zip": _zip}
