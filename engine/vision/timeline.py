"""Which frame a film shows when: computed once, and what the player and every file go by.

A place is where a picture lies among the drawn frames: 3 is the fourth, 3.5 half way to the fifth; of frames that close
(the last goes on to the first) the places between n − 1 and n lie before the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

from engine.requests import EngineError
from engine.requests.finish import FASTEST, LONGEST, SLOWEST, SMOOTH, USUAL, WORK, Finish
from engine.vision.rests import Leg, check_counts, each_duration, each_hold


@dataclass(frozen=True)
class Timeline:
    """``shots``: (place, how many frames of the film show it), in their order; ``rate``: the film's frames a second;
    ``ways``: the seconds that each way moves, from rest to rest."""

    shots: tuple[tuple[float, int], ...]
    rate: Fraction
    ways: tuple[float, ...] = ()

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


@dataclass(frozen=True)
class Times:
    """Seconds: ``moving`` in all, in ``shares`` (of any unit) of the ways; ``holds``, one a rest."""

    moving: float
    shares: list[float]
    holds: list[float]

    def paces(self, ways: list[Leg], closed: bool, base: float, fastest: int) -> list[float]:
        """How long a drawn frame of each way is shown, in 1/``base`` s. EngineError for a way that is too quick."""
        unit, out = self.moving / sum(self.shares), []
        for i, (share, (a, b)) in enumerate(zip(self.shares, ways, strict=True)):
            seconds = share * unit
            drawn = abs(b - a) + (0 if closed else 0.5 * ((i == 0) + (i == len(ways) - 1)))
            if drawn > fastest * seconds * (1 + 1e-6):
                raise EngineError(
                    f"durations must be at least {drawn / fastest:.3g} s for a way of {drawn:g} frames ({fastest} a "
                    f"second), got {seconds:.3g}"
                )
            out.append(seconds * base / drawn)
        return [1.0] * len(out) if all(abs(p - 1) < 1e-6 for p in out) else out


def keys_of(settings: dict[str, Any], frames: int) -> list[int]:
    """Which of the drawn frames are the person's own pictures, by the settings that made them; else the ends."""
    n, each = settings.get("keyframes"), settings.get("frames")
    if isinstance(n, int) and isinstance(each, int) and 1 < n <= frames and each > 1:
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
    keys = sorted(keys) or [0, frames - 1]
    check_counts(finish, keys)
    ways, closed = legs(frames, finish, keys)
    holds, own = each_hold(ways, closed, frames, finish, keys), each_duration(ways, frames, finish, keys)
    lengths = [abs(b - a) for a, b in ways]
    drawn = [float(n) for n in lengths]  # as many frames, were each drawn one shown once
    if not closed:
        drawn[0] += 0.5
        drawn[-1] += 0.5
    held, fixed, free = sum(holds), sum(d for d in own if d), sum(n for n, d in zip(drawn, own, strict=True) if not d)
    rate = (not finish.smooth and finish.fps) or usual
    moving = finish.duration - held if finish.duration else fixed + free / rate
    if not moving - fixed >= (len(holds) / finish.fastest if free else 0):
        asked = f"{len(holds)} × {finish.hold:g} s" if not finish.holds and not fixed else f"{held + fixed:g} s"
        what = "hold and durations" if fixed else "hold"
        asked += " there and back" if finish.there_and_back else ""
        raise EngineError(f"{what} must leave time to move, got {asked} in a film of {finish.duration:g} s")
    if moving + held > LONGEST:
        raise EngineError(f"film must last at most {LONGEST} s, got {moving + held:.0f} s")
    # Where no way has its own time, each has as much as it is long.
    shares: list[float] = list(lengths if finish.smooth else drawn)
    if fixed:
        part = sum(n for n, d in zip(shares, own, strict=True) if not d)
        shares = [d or (moving - fixed) * n / part for n, d in zip(shares, own, strict=True)]
    made = (_smooth if finish.smooth else _drawn)(ways, closed, Times(moving, shares, holds), finish)
    shots = tuple((0 if p == frames else p, count) for p, count in made.shots)  # (of a loop's end)
    return Timeline(shots, made.rate, tuple(moving * share / sum(shares) for share in shares))


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


def _smooth(ways: list[Leg], closed: bool, times: Times, finish: Finish) -> Timeline:
    """A picture for every frame of the film, at places that go on evenly (or eased) from rest to rest."""
    rate = Fraction(finish.fps or SMOOTH.get(finish.format, FASTEST)).limit_denominator(1000)
    holds = [round(h * rate) for h in times.holds]
    total = round(finish.duration * rate) - sum(holds) if finish.duration else round(times.moving * rate)
    total -= not closed
    ends = [round(total * s / sum(times.shares)) for s in accumulate(times.shares, initial=0.0)]
    shots: list[tuple[float, int]] = []
    for (a, b), hold, start, end in zip(ways, holds, ends, ends[1:], strict=False):
        n = max(1, end - start)
        eased = (ease(j / n) if finish.ease else j / n for j in range(n))
        shots += [(settled(a + (b - a) * x), 1 + hold * (j == 0)) for j, x in enumerate(eased)]
    return Timeline((*shots, *(() if closed else [(settled(ways[-1][1]), 1 + holds[-1])])), rate)


def _drawn(ways: list[Leg], closed: bool, times: Times, finish: Finish) -> Timeline:
    """Every drawn frame for its time: the same for each, or longer near a rest, or as its way is slow or quick."""
    moving, fastest = times.moving, finish.fastest
    drawn = sum(int(abs(b - a)) for a, b in ways) + (not closed)
    base = Fraction(drawn / moving).limit_denominator(1000)
    if base > fastest:
        least = drawn / fastest + finish.duration - moving
        raise EngineError(
            f"duration must be at least {least:.3g} s for {drawn} frames ({fastest} a second), got {finish.duration:g}"
        )
    paces = times.paces(ways, closed, float(base), fastest)
    fine = finish.ease or any((h * base) % 1 > 1e-6 for h in times.holds)
    ticks = Fraction(max(1, int(fastest / base)) if fine else max(1, math.ceil(SLOWEST / base)))  # of a frame
    ticks = ticks if {*paces} == {1} else fastest / base
    places, rests, ends = _borders(ways, closed, paces, back_eased if finish.ease else float)
    counts = [b - a for a, b in pairwise([0, *(round(x * ticks) for x in ends)])]
    for i, hold in zip(rests, times.holds, strict=True):
        counts[i] += round(hold * base * ticks)
    shots = tuple((p, c) for p, c in zip(places, counts, strict=True) if c)
    exact = Fraction(sum(counts)) / Fraction(finish.duration).limit_denominator(1000) if finish.duration else 0
    return Timeline(shots, exact or base * ticks)


def _borders(
    ways: list[Leg], closed: bool, paces: list[float], turn: Callable[[float], float]
) -> tuple[list[int], list[int], list[float]]:
    """The drawn frames in their order, which of them begin or end a way, and when each gives way to the next."""
    places, rests, borders, start = [], [], [], 0.0 if closed else 0.5 * paces[0]
    for (a, b), pace in zip(ways, paces, strict=True):
        n, way = int(abs(b - a)), 1 if b > a else -1
        rests.append(len(places))
        places += [int(a) + way * j for j in range(n)]
        borders += [start + n * pace * turn((j + 0.5) / n) for j in range(n)]
        start += n * pace
    if closed:  # the first rest has all its time before, not half of it at the end
        late = start - borders[-1]
        return places, rests, [late + x for x in borders]
    rests.append(len(places))
    places.append(int(ways[-1][1]))
    return places, rests, [*borders, start + 0.5 * paces[-1]]


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
