"""The request that only makes a network ready."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LoadRequest:
    """Make a network resident, so that the first picture need not wait for it."""

    model: str = "flora"
