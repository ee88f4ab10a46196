"""Who is next: visitors take turns, each one's jobs come in their order. How many may wait, how long one may run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any

from engine.requests import EngineError


@dataclass(frozen=True)
class Limits:
    """Jobs that may wait, ``queue`` in all and ``each`` of a visitor, and ``seconds`` that one may run; 0: no limit.

    Whoever takes many names has one address: from it (a visitor's ``address``, where he has one) half of the ``queue``
    may wait, so that there is always room for others."""

    queue: int = 0
    each: int = 0
    seconds: float = 0.0


class Overdue(EngineError):
    """A job had the device for longer than one may."""

    def __init__(self, most: float):
        super().__init__(
            f"a job must end within {most:g} s here, got one that goes on; choose fewer frames or steps, or a smaller "
            "size"
        )


class Queue:
    """Jobs (with a ``visitor``) on their way to a device. Not for several threads at once: the worker has a lock.

    Round robin by visitor: whoever comes goes to the end of the round, and so does whoever's job has ended. Those who
    have a device come after all who have none. So nobody waits for more than one job of each of the others, however
    many these have sent; and nobody who waits is overtaken by those who come later, but for jobs beyond his next one.
    """

    def __init__(self, limits: Limits | None = None):
        self.limits = limits or Limits()
        self._coming: dict[Any, None] = {}  # jobs that download, and are to be counted
        self._waiting: dict[Hashable, list[Any]] = {}
        self._since: dict[Hashable, int] = {}  # where a visitor is in the round
        self._running = Counter[Hashable]()
        self._turns = count()

    def __len__(self) -> int:
        """How many jobs wait, downloads among them."""
        return len(self._coming) + sum(map(len, self._waiting.values()))

    def __contains__(self, job: Any) -> bool:
        """Whether it waits for a device."""
        return job in self._waiting.get(job.visitor, ())

    def expect(self, job: Any) -> None:
        """A job is going to `join`. EngineError where too many wait."""
        most, each = self.limits.queue, self.limits.each
        own = len(self._waiting.get(job.visitor, ())) + sum(j.visitor == job.visitor for j in self._coming)
        if each and own >= each:
            raise EngineError(
                f"jobs that wait must be at most {each} a visitor, got {own + 1}; wait for one of yours, or stop it"
            )
        address = getattr(job.visitor, "address", "")
        near = sum(getattr(j.visitor, "address", "") == address for j in self.jobs()) if most and address else 0
        if near and near >= (half := max(1, most // 2)):
            raise EngineError(
                f"jobs that wait must be at most {half} from one address, got {near + 1}; come back in a while"
            )
        if most and len(self) >= most:
            raise EngineError(f"jobs that wait must be at most {most} here, got {len(self) + 1}; come back in a while")
        self._coming[job] = None

    def join(self, job: Any) -> None:
        """It waits for a device from now on; nothing happens if it has left meanwhile."""
        if job in self._coming:
            del self._coming[job]
            self._since.setdefault(job.visitor, next(self._turns))
            self._waiting.setdefault(job.visitor, []).append(job)

    def leave(self, job: Any) -> bool:
        """Nobody wants it any more; whether it was here. Its visitor, if he sends another at once, keeps his place."""
        if job in self._coming:
            del self._coming[job]
            return True
        if job not in self:
            return False
        self._remove(job)
        return True

    def first(self) -> Any:
        """The job whose turn it is, or None."""
        return self._waiting[min(self._waiting, key=self._order)][0] if self._waiting else None

    def take(self) -> Any:
        """The first one, which gets a device; `end` is to be called when it gives it back."""
        job = self.first()
        turn = self._since.pop(job.visitor)
        self._remove(job)
        self._running[job.visitor] += 1
        if job.visitor in self._waiting:
            self._since[job.visitor] = next(self._turns)
        # Whoever has left and would have had his turn by now has lost it.
        self._since = {v: n for v, n in self._since.items() if v in self._waiting or n > turn}
        return job

    def end(self, job: Any) -> None:
        self._running[job.visitor] -= 1
        if not self._running[job.visitor]:
            del self._running[job.visitor]
        if job.visitor in self._waiting:
            self._since[job.visitor] = next(self._turns)

    def before(self, job: Any) -> int:
        """How many of those that wait come before this one."""
        own = self._waiting[job.visitor]
        k, mine = own.index(job), self._order(job.visitor)
        others = (len(jobs[: k + (self._order(v) < mine)]) for v, jobs in self._waiting.items() if jobs is not own)
        return k + sum(others)

    def jobs(self) -> list[Any]:
        """All that wait or are to."""
        return [*self._coming, *(job for own in self._waiting.values() for job in own)]

    def _order(self, visitor: Hashable) -> tuple[bool, int]:
        return visitor in self._running, self._since[visitor]

    def _remove(self, job: Any) -> None:
        self._waiting[job.visitor].remove(job)
        if not self._waiting[job.visitor]:
            del self._waiting[job.visitor]
