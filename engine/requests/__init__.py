"""Requests and events: plain frozen values that cross between the clients and the engine.

A request says everything that matters to its result: the same request gives the same pictures. Its
``__post_init__`` refuses what cannot be, in a sentence with the field's name, what was expected and what came.
"""

from engine.requests.draw import COMBINES, DRAW_PRESETS, REFINES, SHEETS, DrawRequest
from engine.requests.edit import EDIT_PRESETS, NOISES, USEFUL, EditRequest
from engine.requests.events import Done, Event, Frame, Preview, Progress, Waiting, result, within
from engine.requests.interpolate import (
    FRAMES,
    KEEPS,
    PICKERS,
    POSES,
    PRESETS,
    SAMPLERS,
    SCHEDULES,
    SCHEMES,
    InterpolateRequest,
    preset,
)
from engine.requests.load import LoadRequest
from engine.requests.morph import FORMS, LORAS, MORPH_PRESETS, MOST, MorphRequest
from engine.requests.pose import DETECTORS, PoseRequest
from engine.requests.spec import CATALOGUE_NAMES, FITS, MIXES, Cancelled, EngineError, Range

__all__ = [
    "CATALOGUE_NAMES", "COMBINES", "DETECTORS", "DRAW_PRESETS", "EDIT_PRESETS", "FITS", "FORMS", "FRAMES",
    "KEEPS", "LORAS", "MIXES", "MORPH_PRESETS", "MOST", "NOISES", "PICKERS", "POSES", "PRESETS", "REFINES",
    "SAMPLERS", "SCHEDULES", "SCHEMES", "SHEETS", "USEFUL", "Cancelled", "Done", "DrawRequest", "EditRequest",
    "EngineError", "Event", "Frame", "InterpolateRequest", "LoadRequest", "MorphRequest", "PoseRequest",
    "Preview", "Progress", "Range", "Waiting", "preset", "result", "within",
]  # fmt: skip
