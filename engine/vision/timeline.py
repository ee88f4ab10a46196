"""Which frame a film shows when: computed once, and what the player and every file go by.

A place is where a picture lies among the drawn frames: 3 is the fourth, 3.5 half way to the fifth; of frames that close
(the last goes on to the first) the places between n − 1 and n lie before the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

from engine.requests import EngineError
from engine.requests.finish import FASTEST, LONGEST, SLOWEST, SMOOTH, USUAL, WORK, Finish

Leg = tuple[float, float]  # from a place where the way rests to the next


@dataclass(frozen=True)
class Timeline:
    """``shots``: (place, how many frames of the film show it), in their order; ``rate``: the film's frames a second."""

    shots: tuple[tuple[float, int], ...]
    rate: Fraction

    @property
    def frames(self) -> int:
        return sum(count for _, count in self.shots)

    @property
    def seconds(self) -> float:
        return float(self.frames / self.rate)

    def lasting(self, unit: int) -> list[tuple[float, int]]:
        """(place, duration in 1/``unit`` s) of every shot: rounded so that the whole is as long as it should be."""
        ends = [round(float(n * unit / self.rate)) for n in accumulate((c for _, c in self.shots), initial=0)]
        return [(place, b - a) for (place, _), (a, b) in zip(self.shots, pairwise(ends), strict=True) if b > a]


def keys_of(settings: dict[str, Any], frames: int) -> list[int]:
    """Which of the drawn frames are the person's own pictures, by the settings that made them; else the ends."""
    n, each = settings.get("keyframes"), settings.get("frames")
    if isinstance(n, int) and isinstance(each, int) and n > 1 and each > 1:
        keys = [i * (each - 1) for i in range(n)]
        if frames == keys[-1] + (each - 1 if settings.get("loop") else 1):
            return keys
    return [0, frames - 1]


def closes(settings: dict[str, Any], frames: int) -> bool:
    """Whether all these frames are there and the last goes on to the first, by the settings that made them."""
    return bool(settings.get("loop")) and keys_of(settings, frames)[-1] != frames - 1


def timeline(frames: int, finish: Finish, keys: Sequence[int] = (), usual: float = USUAL) -> Timeline:
    """Of ``frames`` drawn ones, ``keys`` of them the person's pictures (none: the ends); ``usual`` of them a second
    where nothing else is asked for. EngineError for a film that cannot be, before any work."""
    if frames < 2:
        raise EngineError(f"frames of a film must be at least 2, got {frames}")
    ways, closed = legs(frames, finish, keys or [0, frames - 1])
    drawn = sum(abs(b - a) for a, b in ways) + (not closed)  # as many frames, were each drawn one shown once
    visits = len(ways) + (not closed)
    held = finish.hold * visits
    moving = finish.duration - held if finish.duration else drawn / ((not finish.smooth and finish.fps) or usual)
    if not moving >= visits / finish.fastest:
        raise EngineError(
            f"hold must leave time to move, got {visits} × {finish.hold:g} s in a film of {finish.duration:g} s"
        )
    if moving + held > LONGEST:
        raise EngineError(f"film must last at most {LONGEST} s, got {moving + held:.0f} s")
    made = (_smooth if finish.smooth else _drawn)(ways, closed, moving, finish)
    return Timeline(tuple((0 if p == frames else p, count) for p, count in made.shots), made.rate)  # (of a loop's end)


def legs(frames: int, finish: Finish, keys: Sequence[int]) -> tuple[list[Leg], bool]:
    """The ways from rest to rest, and whether the last leads to where the first began."""
    whole, (low, high) = frames - (not finish.loop), finish.part
    a, b = whole * low, whole * high
    if not finish.smooth:
        a, b = round(a), round(b)
    if a >= b:
        raise EngineError(f"trim must leave at least two frames of {frames}, got {finish.trim!r}")
    ways: list[Leg] = list(pairwise([a, *(k for k in sorted(keys) if a < k < b), b]))
    if finish.loop and (low, high) == (0, 1):
        return ways, True
    if finish.there_and_back:
        ways += [(b, a) for a, b in reversed(ways)]
    return ways, finish.there_and_back


def _smooth(ways: list[Leg], closed: bool, moving: float, finish: Finish) -> Timeline:
    """A picture for every frame of the film, at places that go on evenly (or eased) from rest to rest."""
    rate = Fraction(finish.fps or SMOOTH.get(finish.format, FASTEST)).limit_denominator(1000)
    hold = round(finish.hold * rate)
    total = (
        round(finish.duration * rate) - hold * (len(ways) + (not closed)) if finish.duration else round(moving * rate)
    )
    total -= not closed
    lengths = [abs(b - a) for a, b in ways]
    ends = [round(total * s / sum(lengths)) for s in accumulate(lengths, initial=0.0)]
    shots: list[tuple[float, int]] = []
    for (a, b), start, end in zip(ways, ends, ends[1:], strict=False):
        n = max(1, end - start)
        eased = (ease(j / n) if finish.ease else j / n for j in range(n))
        shots += [(settled(a + (b - a) * x), 1 + hold * (j == 0)) for j, x in enumerate(eased)]
    return Timeline((*shots, *(() if closed else [(settled(ways[-1][1]), 1 + hold)])), rate)


def _drawn(ways: list[Leg], closed: bool, moving: float, finish: Finish) -> Timeline:
    """Every drawn frame for its time: the same for each, or longer near a rest."""
    drawn = sum(abs(b - a) for a, b in ways) + (not closed)
    base = Fraction(drawn / moving).limit_denominator(1000)
    if base > finish.fastest:
        raise EngineError(
            f"duration must be at least {drawn / finish.fastest + finish.duration - moving:.3g} s for {drawn:.0f} "
            f"frames ({finish.fastest} a second), got {finish.duration:g}"
        )
    fine = finish.ease or (finish.hold * base) % 1 > 1e-6
    ticks = max(1, int(finish.fastest / base)) if fine else max(1, math.ceil(SLOWEST / base))  # of a frame
    hold = round(finish.hold * base * ticks)
    turn = back_eased if finish.ease else float
    places, rests, borders, start = [], [], [], 0.0 if closed else 0.5
    for a, b in ways:
        n, way = int(abs(b - a)), 1 if b > a else -1
        rests.append(len(places))
        places += [a + way * j for j in range(n)]
        borders += [start + n * turn((j + 0.5) / n) for j in range(n)]
        start += n
    if closed:  # the first rest has all its time before, not half of it at the end
        late = start - borders[-1]
        ends = [late + x for x in borders]
    else:
        rests.append(len(places))
        places.append(ways[-1][1])
        ends = [*borders, start + 0.5]
    counts = [b - a for a, b in pairwise([0, *(round(x * ticks) for x in ends)])]
    for i in rests:
        counts[i] += hold
    shots = tuple((int(p), c) for p, c in zip(places, counts, strict=True) if c)
    exact = Fraction(sum(counts)) / Fraction(finish.duration).limit_denominator(1000) if finish.duration else 0
    return Timeline(shots, exact or base * ticks)


def ease(x: float) -> float:
    """0 … 1 → 0 … 1, slow at both ends."""
    return (1 - math.cos(math.pi * x)) / 2


def back_eased(x: float) -> float:
    """The inverse of `ease`."""
    return math.acos(1 - 2 * x) / math.pi


def settled(place: float) -> float:
    """A place to six digits, so that it is the same there and back, and a drawn frame's is a whole number."""
    return round(place) if abs(place - round(place)) < 1e-6 else round(place, 6)


def check_work(line: Timeline, size: tuple[int, int]) -> None:
    """EngineError, before the work, for more pixels than a film may have."""
    w, h = size
    if line.frames * w * h > WORK * 1e6:
        raise EngineError(
            f"film must have at most {WORK:,} megapixels in all its frames, got {line.frames * w * h / 1e6:,.0f} "
            f"({line.frames:,} of {w} × {h}); make it shorter, or ask for fewer frames a second"
        )
