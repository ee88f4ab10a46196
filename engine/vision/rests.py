"""What single pictures and single ways of a film have of their own: how long each rests, how long each takes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from engine.requests import EngineError
from engine.requests.finish import Finish

Leg = tuple[float, float]  # from a place where the way rests to the next


def check_counts(finish: Finish, keys: Sequence[int]) -> None:
    """EngineError for holds or durations of more, or fewer, pictures or ways than there are."""
    n = len(keys)
    for name, given, all_, what in (
        ("hold", finish.holds, n, "picture"),
        ("durations", finish.durations, n - (not finish.loop), "way"),
    ):
        if len(given) not in (0, 1, all_):
            them = f"each of the {all_} {what}s" if all_ > 1 else f"the one {what}"
            raise EngineError(f"{name} must be one number, or one for {them}, got {len(given)}")


def stops_of(frames: int, finish: Finish, keys: Sequence[int]) -> list[int]:
    """Where the ways from picture to picture begin and end; a loop's last, at ``frames``, is the first picture."""
    return [*keys, frames] if finish.loop else [*keys]


def each_hold(ways: list[Leg], closed: bool, frames: int, finish: Finish, keys: Sequence[int]) -> list[float]:
    """Seconds of every rest: at the beginning of each way, and at the end of the last unless that closes."""
    stops, low = stops_of(frames, finish, keys), min(min(w) for w in ways)
    own = [finish.hold if h is None else h for h in finish.holds or (finish.hold,)]

    def at(place: float) -> float:  # the end of a part: of the picture that was cut off
        return own[
            (bisect_right(stops, place) - 1 if place == low else bisect_left(stops, place)) % len(keys) % len(own)
        ]

    return [at(a) for a, _ in ways] + ([] if closed else [at(ways[-1][1])])


def each_duration(ways: list[Leg], frames: int, finish: Finish, keys: Sequence[int]) -> list[float | None]:
    """Seconds of every way that has its own; of a part of it as much of them."""
    stops, own = stops_of(frames, finish, keys), finish.durations or (None,)
    out: list[float | None] = []
    for a, b in ways:
        k = bisect_right(stops, min(a, b)) - 1
        whole = own[k % len(own)]
        out.append(whole and whole * abs(b - a) / (stops[k + 1] - stops[k]))
    return out
