"""Requests and events: plain frozen values that cross between the clients and the engine.

A request says everything that matters to its result: the same request gives the same pictures. Its
``__post_init__`` refuses what cannot be, in a sentence with the field's name, what was expected and what came.
"""

from engine.schema.base import CATALOGUE_NAMES, FITS, MIXES, Cancelled, EngineError, Range
from engine.schema.events import Done, Event, Frame, Preview, Progress, Waiting, result, within
from engine.schema.interpolate import (
    FRAMES,
    PICKERS,
    PRESETS,
    SAMPLERS,
    SCHEDULES,
    SCHEMES,
    InterpolateRequest,
    preset,
)
from engine.schema.load import LoadRequest
from engine.schema.morph import FORMS, LORAS, MORPH_PRESETS, MOST, MorphRequest

__all__ = [
    "CATALOGUE_NAMES", "FITS", "FORMS", "FRAMES", "LORAS", "MIXES", "MORPH_PRESETS", "MOST", "PICKERS", "PRESETS",
    "SAMPLERS", "SCHEDULES", "SCHEMES", "Cancelled", "Done", "EngineError", "Event", "Frame", "InterpolateRequest",
    "LoadRequest", "MorphRequest", "Preview", "Progress", "Range", "Waiting", "preset", "result", "within",
]  # fmt: skip
