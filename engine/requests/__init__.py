"""Requests and events: plain frozen values that cross between the clients and the engine.

A request says everything that matters to its result: the same request gives the same pictures. What its fields may
hold is declared with them (`spec.Spec`); the rest is refused in a sentence: name, expectation, value.
"""

from typing import Any

from engine.requests.draw import SHEETS, DrawRequest
from engine.requests.edit import USEFUL, EditRequest
from engine.requests.enlarge import SCALES, EnlargeRequest
from engine.requests.errors import Cancelled, EngineError
from engine.requests.events import Cost, Done, Event, Frame, Preview, Progress, Waiting, result, within
from engine.requests.interpolate import SCHEMES, InterpolateRequest
from engine.requests.load import LoadRequest
from engine.requests.match import MatchRequest
from engine.requests.morph import MOST, MorphRequest
from engine.requests.numbers import number
from engine.requests.pose import DETECTORS, PoseRequest
from engine.requests.spec import Field, Request, Spec, fields_of, make, new_seed, pictures_of, settle

METHODS: dict[str, Any] = {
    r.method: r for r in (InterpolateRequest, MorphRequest, DrawRequest, EditRequest, EnlargeRequest, PoseRequest)
}
