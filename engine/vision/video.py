"""Frames to files that keep their settings: PNG, a zip of PNGs, and films that every browser plays. And back."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine.requests import EngineError, Frame
from engine.requests.finish import FASTEST, SLOWEST, USUAL, check_fps, check_size
from engine.vision import containers
from engine.vision.aside import aside, passing

TAG = "chrysalis"
SETTINGS = 1_000_000  # letters of settings in a file, at most
OURS = ("PNG", "GIF", "WEBP")  # the pictures that carry them, as Pillow calls them
DESCRIPTION = 270  # the EXIF tag in which a WebP has its settings
# How a film's colours are stored: so that every player shows the same, a film says it.
BT709: dict[str, Any] = {"format": "yuv420p", "dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
SAID = {
    "colorspace": 1,
    "color_range": ColorRange.MPEG,
    "color_primaries": ColorPrimaries.BT709,
    "color_trc": ColorTrc.BT709,
}
# What a file that holds no settings may come as.
BROKEN = (OSError, KeyError, TypeError, ValueError, SyntaxError, av.error.FFmpegError, zipfile.BadZipFile)
BROKEN = (*BROKEN, Image.DecompressionBombError, EOFError, RuntimeError, zlib.error)  # (RuntimeError: a password)


def save_png(picture: Image.Image, path: str | Path | io.BytesIO, settings: dict[str, Any]) -> None:
    """Writes a PNG with the settings in a text chunk named ``chrysalis``."""
    info = PngInfo()
    info.add_itxt(TAG, json.dumps(settings))
    with nullcontext(path) if isinstance(path, io.BytesIO) else aside(path) as place:
        bare(picture).save(place, "PNG", pnginfo=info, compress_level=4)


def bare(picture: Image.Image) -> Image.Image:
    """The same pixels and nothing else: no place, no camera, no comment of the file that it came in."""
    if picture.info:
        picture = picture.copy()
        picture.info = {}
    return picture


def on_white(picture: Image.Image) -> Image.Image:
    """RGB or RGBA → RGB, as it is seen."""
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def side_by_side(pictures: Sequence[Image.Image], columns: int = 0, gap: int = 0) -> Image.Image:
    """Pictures of one size as one on white, ``columns`` in a row (0: all in one row), ``gap`` pixels between them."""
    columns = columns or len(pictures)
    w, h = (n + gap for n in pictures[0].size)
    sheet = Image.new("RGB", (w * columns - gap, h * -(-len(pictures) // columns) - gap), "white")
    for i, p in enumerate(pictures):
        sheet.paste(on_white(p), (i % columns * w, i // columns * h))
    return sheet


def save_zip(frames: Sequence[Image.Image], path: str | Path, settings: dict[str, Any]) -> None:
    """A zip of 0000.png, 0001.png … and settings.json. The files of `Stored` go in as they are."""
    with aside(path) as part, zipfile.ZipFile(part, "w") as z:
        for i in range(len(frames)):
            if isinstance(frames, Stored):
                z.write(frames.path(frames.places[i]), f"{i:04d}.png")
                continue
            save_png(frames[i], block := io.BytesIO(), settings | {"frame": i})
            z.writestr(f"{i:04d}.png", block.getvalue())
        z.writestr("settings.json", json.dumps(settings, indent=1))


def save_pngs(pictures: Sequence[tuple[Image.Image, dict[str, Any]]], path: str | Path) -> None:
    """A zip of 0000.png, 0001.png …, each with settings of its own, and the first one's as settings.json."""
    with aside(path) as part, zipfile.ZipFile(part, "w") as z:
        for i, (picture, settings) in enumerate(pictures):
            block = io.BytesIO()
            save_png(picture, block, settings)
            z.writestr(f"{i:04d}.png", block.getvalue())
        z.writestr("settings.json", json.dumps(pictures[0][1], indent=1))


def save_frames(frames: Sequence[Image.Image], folder: str | Path, settings: dict[str, Any]) -> None:
    """0000.png, 0001.png … in ``folder`` (made if missing), each with the settings inside."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        save_png(frame, folder / f"{i:04d}.png", settings | {"frame": i})


def path_of(n: int, there_and_back: bool) -> list[int]:
    """The order of frames in a film: 0 … n−1, and back without doubling the ends."""
    return [*range(n), *range(n - 2, 0, -1)] if there_and_back else list(range(n))


def steady(rate: float) -> float:
    """Frames a second of a film that was read (0: none was) → what a film may have."""
    return min(FASTEST, max(SLOWEST, rate or USUAL))


def save_mp4(frames: Sequence[Image.Image], path: str | Path, settings: dict[str, Any], *how: Any, **more: Any) -> None:
    """`writing_mp4` to its end."""
    for _ in writing_mp4(frames, path, settings, *how, **more):
        pass


def writing_mp4(
    frames: Sequence[Image.Image],
    path: str | Path,
    settings: dict[str, Any],
    fps: float = USUAL,
    there_and_back: bool = False,
    hold: int = 0,
) -> Iterator[float]:
    """H.264, yuv420p in BT.709 (and said to be), even size (odd edges are repeated once), index first; settings in the
    comment tag. Yields how much is written; nothing is at ``path`` before the end.

    ``fps`` 1 … 60; ``hold``: how many extra times the first and last frame are shown. EngineError for frames of
    different sizes, OSError if it cannot be written.
    """
    check_fps(fps)
    order = path_of(len(frames), there_and_back)
    shots = ((frames[i], 1 + hold * (n in (0, len(frames) - 1))) for n, i in enumerate(order))
    for n, _ in enumerate(encoding(shots, path, settings, Fraction(fps).limit_denominator(1000))):
        yield n / len(order)


# How films of a format are written: the encoder's name and options, the file's options.
CODECS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "mp4": ("libx264", {"crf": "17", "preset": "medium"}, {"movflags": "+faststart+use_metadata_tags"}),
    "webm": ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}, {}),
}


def encoding(
    shots: Iterable[tuple[Image.Image, int]],
    path: str | Path,
    settings: dict[str, Any],
    rate: Fraction,
    form: str = "mp4",
) -> Iterator[None]:
    """Writes (picture, how many frames show it) as a film; yields before each. Nothing is at ``path`` till the end."""
    with passing() as folder:  # FFmpeg takes a colon in a name for a protocol, a % for a number
        yield from _encode(shots, whole := folder / f"film.{form}", settings, rate, form)
        with aside(path) as part:
            shutil.copyfile(whole, part)


def _encode(
    shots: Iterable[tuple[Image.Image, int]], path: Path, settings: dict[str, Any], rate: Fraction, form: str
) -> Iterator[None]:
    (name, how, whole), size = CODECS[form], (0, 0)
    with av.open(f"file:{path}", "w", format=form, options=whole) as film:
        film.metadata["comment"] = json.dumps(settings)
        stream: Any = film.add_stream(name, rate=rate)
        stream.pix_fmt, stream.options = "yuv420p", how
        for name, value in SAID.items():
            setattr(stream.codec_context, name, value)
        for picture, count in shots:
            yield
            picture = on_white(picture)
            if not any(size):
                size = picture.size
                stream.width, stream.height = (n + n % 2 for n in size)
            check_size(size, picture.size)
            block = np.pad(np.asarray(picture), ((0, size[1] % 2), (0, size[0] % 2), (0, 0)), "edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(block), format="rgb24").reformat(**BT709)
            for _ in range(count):
                frame.pts = None
                film.mux(stream.encode(frame))
        film.mux(stream.encode())


class Stored(Sequence[Image.Image]):
    """Pictures that lie as PNGs in a folder (made if missing), 0000.png, 0001.png …, and are opened when they are asked
    for: a long film of large frames is never held."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.places: list[int] = []
        self.size = (0, 0)  # of the newest

    def put(self, i: int, picture: Image.Image, settings: dict[str, Any]) -> None:
        """Writes picture ``i``; they come in their order."""
        save_png(picture, self.path(i), settings | {"frame": i})
        self.places.append(i)
        self.size = picture.size

    def fill(self, events: Iterable[Any], settings: dict[str, Any]) -> Iterator[Any]:
        """Passes a job's events on, each `Frame` once it is written."""
        for event in events:
            if isinstance(event, Frame):
                self.put(event.index, event.picture, settings)
            yield event

    def path(self, i: int) -> Path:
        return self.folder / f"{i:04d}.png"

    @property
    def paths(self) -> list[str]:
        return [str(self.path(i)) for i in self.places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, n: Any) -> Any:
        with Image.open(self.path(self.places[n])) as picture:
            picture.load()
        return picture


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings inside a file of ours (PNG, a film or a zip). EngineError if there are none."""
    path = Path(path)
    text: Any = None
    try:
        if zipfile.is_zipfile(path):
            with containers.archive(path) as z:
                if z.getinfo("settings.json").file_size > SETTINGS:
                    raise ValueError
                text = z.read("settings.json").decode()
        elif path.suffix.lower() in (".mp4", ".m4v", ".mov", ".webm"):
            with containers.film(path) as film:
                text = film.metadata.get("comment") or film.metadata.get("COMMENT")
        else:
            with Image.open(path, formats=OURS) as image:
                if image.width * image.height > containers.LARGEST * 1e6:
                    raise ValueError
                image.load()
                text = image.info.get(TAG) or image.info.get("comment") or image.getexif().get(DESCRIPTION)
        settings = json.loads(text) if len(text) <= SETTINGS else None
    except BROKEN:
        settings = None
    if not isinstance(settings, dict) or "method" not in settings:
        name = path.name[:80]
        raise EngineError(f"settings must be inside a PNG, MP4 or zip made here, got {name}, which holds none")
    return settings
