"""How drawn frames become a film: how long, how fast, where it rests, and as what file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, ClassVar

from engine.requests.errors import EngineError
from engine.requests.spec import Spec, check, fields_of, hidden, number, settle

SLOWEST, FASTEST, USUAL = 1, 60, 8  # frames a second
LONGEST = 300  # seconds
MOST = 600  # drawn frames
WORK = 20_000  # megapixels of all the frames of a film
SHORTEST = 0.01  # seconds of a way
NOTHING = (None, "", "-", "null", "None")
FORMATS = {"mp4": "MP4", "webm": "WebM", "webp": "WebP, animated", "gif": "GIF", "zip": "PNGs, one a frame (zip)"}
ENDINGS = {".mp4": "mp4", ".m4v": "mp4"} | {f".{name}": name for name in FORMATS}
# Browsers show frames of a GIF that are shorter than 2/100 s for 10/100 s.
RATES = {"gif": 50}  # the most frames a second, where that is not FASTEST
SMOOTH = {"gif": 25}  # frames a second of a smoother film where nothing is asked for, where that is not FASTEST


@dataclass(frozen=True)
class Finish:
    """What is made of drawn frames; the default is all of them, eight a second.

    ``duration`` counts in what is held. A way eases, and is held, at each of the person's pictures, and at the ends of
    a part (``trim``: "20,80" is the way from 20 to 80 %). ``holds``: one a picture, None where ``hold`` counts; an end
    of a part is held as the picture that was cut off. ``durations``: the seconds that each way moves, or one number for
    all; ways that are None share what is left of ``duration``, or take as long as they would. ``loop``: the last frame
    goes on to the first, so the film closes without going back. ``smooth`` fills up what duration × fps asks
    (`engine.vision.flow`).
    """

    duration: Annotated[float, Spec("Seconds", "of the whole film; empty or 0: as many as it takes", 0, LONGEST)] = 0.0
    fps: Annotated[
        float, Spec("Frames a second", "empty or 0: 8, smoother 60", 0, FASTEST, beside=True, term="fps")
    ] = 0.0
    hold: Annotated[float, Spec("Hold", "seconds on each of your pictures", 0, 60)] = 0.0
    holds: Annotated[tuple[float | None, ...], hidden("hold of each picture", "in seconds: 0,1,0.5,2")] = ()
    durations: Annotated[
        tuple[float | None, ...], hidden("time of each way", "from picture to picture, in seconds: 2,4,1")
    ] = ()
    trim: Annotated[str, Spec("Part", "of the way, in percent: 20,80", beside=True, term="trim")] = ""
    smooth: Annotated[bool, Spec("smoother film", "more frames between those that were drawn", term="optical flow")] = (
        False
    )
    ease: Annotated[bool, Spec("ease in and out", "slower near each picture", beside=True)] = False
    there_and_back: Annotated[bool, Spec("there and back", "it returns to the first picture", beside=True)] = False
    loop: Annotated[bool, hidden("loop", "the last frame goes on to the first")] = False
    format: Annotated[str, Spec("Format", "of the file", choices=FORMATS)] = "mp4"

    method: ClassVar = "film"

    def __post_init__(self) -> None:
        check(self)
        check_each("hold", self.holds, 0, 60, "picture")
        check_each("durations", self.durations, SHORTEST, LONGEST, "way")
        if self.fps:
            check_fps(self.fps, self.format)
        if self.durations and None not in self.durations:
            for name, value in (("duration", self.duration), ("fps", not self.smooth and self.fps)):
                if value:
                    raise EngineError(
                        f"`{name}` must be left out where every way has its own duration, got {value:g} and "
                        f"{', '.join(f'{d:g}' for d in self.durations)}"
                    )
        if self.fps and self.duration and not self.smooth:
            raise EngineError(
                "`fps` must be left out where a duration is given, unless `smooth` is on, got "
                f"`fps` {self.fps:g} and `duration` {self.duration:g}"
            )
        _ = self.part

    @property
    def told(self) -> dict[str, Any]:
        """What is not as it is by default, as files carry it beside what made their frames."""
        own = {n: (getattr(self, n), f.default) for n, f in fields_of(Finish).items() if n not in ("loop", "format")}
        return {n: list(v) if isinstance(v, tuple) else v for n, (v, default) in own.items() if v != default}

    @property
    def fastest(self) -> int:
        """The most frames a second that the format shows."""
        return RATES.get(self.format, FASTEST)

    @property
    def part(self) -> tuple[float, float]:
        """What is shown of the way, 0 … 1. EngineError for a part that is none."""
        found = re.findall(r"[^\s,;:%–-]+", self.trim) if self.trim.strip() else ["0", "100"]
        values = [number(t) for t in found]
        ok = len(values) == 2 and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
        if not ok or not 0 <= values[0] < values[1] <= 100 or self.trim.lstrip().startswith("-"):
            raise EngineError(
                f"trim must be two percentages from 0 to 100, the smaller first (20,80), got {self.trim[:40]!r}"
            )
        return values[0] / 100, values[1] / 100


def check_fps(fps: Any, form: str = "mp4") -> None:
    """EngineError for what no film of this format can have."""
    most = RATES.get(form, FASTEST)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not SLOWEST <= fps <= most:
        where = f" in {FORMATS[form]}" if form in RATES else ""
        raise EngineError(f"fps must be from {SLOWEST} to {most}{where}, got {str(fps)[:40]}")


def check_each(name: str, values: tuple[Any, ...], low: float, high: float, what: str) -> None:
    """EngineError for what is no number from ``low`` to ``high``; None says nothing."""
    for value in values:
        ok = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if value is not None and not ok:
            raise EngineError(f"{name} must be numbers from {low:g} to {high:g}, one a {what}, got {str(value)[:40]}")


def several(value: Any) -> tuple[Any, ...]:
    """Numbers as people list them: "0,1,0.5", "0; 1; 0,5" or "0 1 0.5"; an empty place, or "-", is None. What is no
    number stays as it is."""
    if isinstance(value, str):
        text = value.strip().strip("[]()")
        # With semicolons or spaces between, a comma inside a number is a decimal one.
        value = re.split(r"\s*(?:;|(?<!\d),|,(?!\d))\s*|\s+" if re.search(r"[;\s]", text) else ",", text)
    each = value if isinstance(value, list | tuple) else (value,)
    plain = (number(v) if isinstance(v, str) else v for v in each)
    return tuple(None if v in NOTHING else v for v in plain)


def finish_of(values: dict[str, Any]) -> Finish:
    """Loose values of a page, a file or a caller → a `Finish`: what is None or empty is as it is by default, a trim may
    be two numbers, a hold one number (0,5 is a half) or one a picture. EngineError for the rest."""
    given = {n: v for n, v in values.items() if v is not None and v != ""}
    hold = given.get("hold")
    if isinstance(hold, list | tuple) or (isinstance(hold, str) and re.search(r",.*,|;|\S\s+\S", hold)):
        given["holds"] = given.pop("hold")
    given |= {n: several(given[n]) for n in ("holds", "durations") if n in given}
    trim = given.get("trim")
    if isinstance(trim, list | tuple):
        given["trim"] = ",".join(map(str, trim))
    if isinstance(given.get("format"), str):
        given["format"] = given["format"].lower().removeprefix(".")
    return Finish(**settle(Finish, given))


def asked(values: dict[str, Any], file: str) -> Finish:
    """Options of the command line → a `Finish` for a file of this name. EngineError for what cannot be."""
    given = {n: v for n, v in values.items() if n in fields_of(Finish)}
    form = ENDINGS.get(PurePath(file).suffix.lower(), "mp4")  # what other names are refused for is `destination`'s
    if given.get("fps") is not None:
        check_fps(given["fps"], form)  # 0 is what nobody asks for
    return finish_of(given | {"format": form})


class FilmRoom:
    """Counts drawn frames as they come. EngineError for the first that is too many, or of another size."""

    def __init__(self) -> None:
        self.count, self.size = 0, (0, 0)

    def take(self, size: tuple[int, int]) -> None:
        self.count += 1
        self.size = self.size if self.count > 1 else size
        check_size(self.size, size)
        if self.count > MOST:
            raise EngineError(f"frames must be 2 to {MOST}, got more; make a film of them in parts")


def check_size(first: tuple[int, int], size: tuple[int, int]) -> None:
    """EngineError where a frame of a film has another size than the first."""
    if size != first:
        (w, h), (w2, h2) = first, size
        raise EngineError(f"frames of a film must have one size, got {w} × {h} and {w2} × {h2}")
