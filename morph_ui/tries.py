"""How often a password may be tried: whoever guesses is slowed down, and nobody else is."""

from __future__ import annotations

import math
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from threading import Lock
from time import monotonic

AT_ONCE, EVERY = 10, 6.0  # wrong ones in a row, and seconds until one more of them is forgiven
ADDRESSES = 10_000  # of whom that is known
NOTE = f"After {AT_ONCE} wrong passwords, wait {EVERY:.0f} seconds before each further one."


class Tries:
    """Wrong passwords of every address (of IPv6 its network, for one person has billions), forgiven as time goes by."""

    def __init__(self, clock: Callable[[], float] = monotonic):
        self._clock, self._lock = clock, Lock()
        self._until: dict[str, float] = {}  # when all of an address will be forgiven

    def begin(self, address: str) -> int:
        """Seconds to wait; 0: it may be tried now, and counts as wrong until `right`."""
        with self._lock:
            now, name = self._clock(), network(address)
            until = max(now, self._until.pop(name, now)) + EVERY
            if (wait := until - now - AT_ONCE * EVERY) > 1e-6:
                self._until[name] = until - EVERY
                return math.ceil(wait)
            self._until[name] = until  # the last of all: those before it are the first to be forgotten
            while len(self._until) > ADDRESSES:
                self._until.pop(next(iter(self._until)))
            return 0

    def right(self, address: str) -> None:
        """It was none that is wrong."""
        with self._lock:
            name = network(address)
            if name in self._until:
                self._until[name] -= EVERY


def network(address: str) -> str:
    """What one person has of addresses: one of IPv4, of IPv6 the half that is his network's."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, IPv6Address) and not found.ipv4_mapped:
        return str(int(found) >> 64)
    return str(getattr(found, "ipv4_mapped", None) or found)
