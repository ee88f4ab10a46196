"""The request that only makes a network ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from engine.requests import shared
from engine.requests.spec import Request


@dataclass(frozen=True)
class LoadRequest(Request):
    """Make a network resident, so that the first picture need not wait for it."""

    model: shared.MODEL = "flora"

    method: ClassVar = "load"
