"""Requests and events: plain frozen values that cross between the clients and the engine.

A request says everything that matters to its result: the same request gives the same pictures. What its fields may
hold is declared with them (`spec.Spec`); the rest is refused in a sentence: name, expectation, value.
"""

from typing import Any

from engine.requests.draw import COMBINES, REFINES, SHEETS, DrawRequest
from engine.requests.edit import NOISES, USEFUL, EditRequest
from engine.requests.errors import Cancelled, EngineError
from engine.requests.events import Cost, Done, Event, Frame, Preview, Progress, Waiting, result, within
from engine.requests.interpolate import KEEPS, PICKERS, POSES, SCHEMES, InterpolateRequest
from engine.requests.load import LoadRequest
from engine.requests.morph import FORMS, LORAS, MOST, MorphRequest
from engine.requests.pose import DETECTORS, PoseRequest
from engine.requests.spec import Field, Request, Spec, check, fields_of, new_seed, pictures_of, settle

METHODS: dict[str, Any] = {
    r.method: r for r in (InterpolateRequest, MorphRequest, DrawRequest, EditRequest, PoseRequest)
}

# ---- old names, which go when nobody uses them any more
PRESETS, MORPH_PRESETS = InterpolateRequest.presets, MorphRequest.presets
DRAW_PRESETS, EDIT_PRESETS = DrawRequest.presets, EditRequest.presets
FITS, MIXES, FRAMES, SCHEDULES, SAMPLERS = (
    tuple(fields_of(InterpolateRequest)[n].spec.choices) for n in ("fit", "mix", "frames", "schedule", "sampler")
)
CATALOGUE_NAMES = ("flora", "sd15", "sd15-smooth", "sd21-base", "sd21", "sd-turbo")


def preset(request: Any, name: str) -> Any:
    from dataclasses import replace

    return replace(request, **request.presets[name])


for _r in METHODS.values():
    _r.BOUNDS = {n: f.spec for n, f in fields_of(_r).items() if f.spec.step}
    _r.WHOLE = tuple(n for n in _r.BOUNDS if fields_of(_r)[n].type is int)
    _r.LAYERS = {n: f.spec.layer for n, f in pictures_of(_r).items()}
