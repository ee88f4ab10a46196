"""The methods, and `run`, which finds the one that a request asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from engine.checkpoints.manager import Models
from engine.diffusion.memory import SHORT, short_of_memory
from engine.diffusion.model import Row
from engine.methods.draw import draw
from engine.methods.edit import edit
from engine.methods.interpolate import interpolate
from engine.methods.morph import morph
from engine.methods.pose import find
from engine.requests import (
    DrawRequest,
    EditRequest,
    EngineError,
    Event,
    InterpolateRequest,
    LoadRequest,
    MorphRequest,
    PoseRequest,
    Progress,
)


def load(models: Models, request: LoadRequest) -> Iterator[Event]:
    net = yield from models.loading(request.model)
    yield Progress(0.5, f"warming {request.model} up")
    # The first step and the first decoding of a process take several times as long as the rest.
    z = torch.zeros(2, net.channels, net.size // net.factor, net.size // net.factor)
    net.decode(net.field([Row(net.embed([""]))])(z.to(net.device), 1.0))
    yield Progress(1.0, f"{request.model} is ready")


METHODS = {
    InterpolateRequest: interpolate,
    MorphRequest: morph,
    DrawRequest: draw,
    EditRequest: edit,
    LoadRequest: load,
    PoseRequest: find,
}


def run(models: Models, request: Any) -> Iterator[Event]:
    """Events of one request, last of them `Done`. Close it to stop: every hook is undone on the way out."""
    events = METHODS[type(request)](models, request)
    fraction, said = 0.0, ""
    try:
        while True:
            with torch.no_grad():  # grad mode is a thread's own; a generator must not leave it changed while it waits
                try:
                    event = next(events)
                except StopIteration:
                    return
                except SHORT as e:  # where no smaller chunk would help
                    if not short_of_memory(e):
                        raise
                    raise EngineError(
                        f"memory of {models.device} must hold the pictures of the job, got too little; choose a "
                        "smaller size or fewer pictures"
                    ) from None
            if isinstance(event, Progress):
                fraction = event.fraction
            yield event
            if models.trouble != said:  # a lack of memory is told while it is news
                said = models.trouble
                if said:
                    yield Progress(fraction, said)
    finally:
        events.close()
