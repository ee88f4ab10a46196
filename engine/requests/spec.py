"""One declaration a field: what it may hold, how it is offered, and the sentence that refuses the rest.

Of ``strength: Annotated[float, Spec("Strength", "0 gives …", 0, 1, 0.01)] = 0.5`` in a request are made the widget of
the page, the option of the command line, the API's parameter, the refusal and the table in docs/settings.md.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache, partial
from types import UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from PIL.Image import Image

from engine.requests.errors import EngineError
from engine.requests.files import named
from engine.requests.phrases import WORDS, told


@dataclass(frozen=True)
class Spec:
    """What one field may hold and how it is offered.

    ``low`` … ``high`` is the closed range of a number, or of how many pictures there may be; ``step`` the page's.
    ``choices``: value → label on the page, or values that speak for themselves. ``group`` is where the page has it: ""
    the settings, "words" and "make" above them (the latter beside the button), "results" how many and which,
    "advanced", "poses", "network", or "hidden": no widget of its own. Groups keep the order of the fields; ``beside``:
    in one row with the field before. ``layer``: the field is a picture of this mode ("RGB": a photograph of any size;
    layers share their proportions). ``label``, ``help`` and labels of choices are for artists; ``term`` is what the
    method or its field calls it, which the page has in a tooltip.
    """

    label: str = ""
    help: str = ""
    low: float = -math.inf
    high: float = math.inf
    step: float = 0.0
    choices: Mapping[Any, str] | tuple[Any, ...] = ()
    group: str = ""
    beside: bool = False
    layer: str = ""
    term: str = ""

    @property
    def about(self) -> str:
        """What it is, where no label stands before it: on the command line and in the documents."""
        said = f"{self.label}: {self.help}" if self.label else self.help
        return f"{said} [{self.term}]" if self.term else said

    @property
    def span(self) -> str:
        """The range of a number in words; "" where there is none."""
        if math.isinf(self.low):
            return ""
        return f"from {self.low:g} to {self.high:.10g}" if math.isfinite(self.high) else f"of at least {self.low:g}"

    @property
    def labels(self) -> list[tuple[str, Any]]:
        """The choices as (label, value)."""
        table = self.choices if isinstance(self.choices, Mapping) else {c: str(c) for c in self.choices}
        return [(label, value) for value, label in table.items()]


@dataclass(frozen=True)
class Field:
    """A declared field of a request. ``type``: int, float, str, bool, tuple, or Image; ``default`` MISSING: needed."""

    name: str
    type: type
    default: Any
    spec: Spec


class Request:
    """What all requests have in common. ``presets``: values by name, of which the page begins with ``preset``."""

    method: ClassVar[str] = ""
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    preset: ClassVar[str] = "draft"
    loads: ClassVar[bool] = True  # whether its network is made ready before it begins
    wants: Any = ()  # what it asks for beside the network (`engine.checkpoints.resolve`)
    columns: Any = 0  # pictures in a row of a sheet; 0 for a plain row of results

    def __post_init__(self) -> None:
        check(self)

    def settings(self) -> dict[str, Any]:
        """All but the pictures, as plain values: what the files carry and the page reads back. Of networks the names
        only: the folders of a machine are nobody else's business."""
        own = {n: getattr(self, n) for n in fields_of(type(self))}
        words = {n: told(own[n]) for n in WORDS if n in own}
        return {"method": self.method} | own | words | ({"model": named(own["model"])} if "model" in own else {})


@cache
def _declared(request: type) -> dict[str, Field]:
    hints, out = get_type_hints(request, include_extras=True), {}
    for f in fields(request):
        kind, spec = get_args(hints[f.name])
        kind = next(iter(get_args(kind))) if get_origin(kind) is UnionType else kind
        out[f.name] = Field(f.name, get_origin(kind) or kind, f.default, spec)
    return out


@cache
def fields_of(request: type) -> dict[str, Field]:
    """The plain fields of a request by name, in their order."""
    return {n: f for n, f in _declared(request).items() if not f.spec.layer}


@cache
def pictures_of(request: type) -> dict[str, Field]:
    """Its pictures: one (`Image`) or several (`tuple`) a field."""
    return {n: f for n, f in _declared(request).items() if f.spec.layer}


advanced = partial(Spec, group="advanced")
hidden = partial(Spec, group="hidden")
results = partial(Spec, group="results")


def new_seed() -> int:
    return random.SystemRandom().randrange(2**32)


def number(text: str, whole: bool = False) -> Any:
    """A number as people write it: 7, 0.7, 0,7 or 7e3; what is none, or may be two, stays text: 1,000 (and 1.000 where
    a ``whole`` one is asked for), 1_000, 1 000."""
    text = text.strip()
    plain = text.replace("−", "-").replace(",", ".")
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", plain, re.IGNORECASE):
        return text
    if (whole or "," in text) and re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", plain):
        return text
    try:
        return float(plain) if re.search("[.eE]", plain) else int(plain)
    except ValueError:  # a whole number of thousands of digits
        return text


def settle(request: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Loose values from a page, a file or a caller as the request wants them: a seed that is empty or -1 is a new one,
    3.0 is 3, a list a tuple, text one line for each or a number. EngineError for a name that it does not have."""
    declared, out = _declared(request), dict(values)
    if unknown := [n for n in values if n not in declared]:
        raise EngineError(f"settings must be fields of {request.method}, got {', '.join(unknown)[:80]}")
    for name, value in out.items():
        kind = declared[name].type
        if kind in (int, float) and isinstance(value, str):
            out[name] = value = number(value, whole=kind is int)
        if kind is int and isinstance(value, float) and value.is_integer():
            out[name] = int(value)
        elif kind is tuple:
            lines: Any = value.splitlines() if isinstance(value, str) else value or ()
            out[name] = tuple(tuple(v) if isinstance(v, list) else v for v in lines)
    if "seed" in declared and out.get("seed") in (None, "", -1):
        out["seed"] = new_seed()
    return out


def make(request: Any, preset: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """A request of a preset's values and of what was ``given``, which counts more: what of the preset does not go with
    it is as it is by default. EngineError for what was given."""
    values = dict(preset)
    while True:
        try:
            return request(**settle(request, {**values, **given}))
        except EngineError as e:
            name = str(e).partition(" ")[0]
            if name in given or name not in values:
                raise
            del values[name]


def check(request: Any) -> None:
    """Refuses what the declarations do not allow: name, expectation, value.

    A layer without any alpha is as good as none: it becomes None."""
    sizes: dict[str, tuple[int, int]] = {}
    for field in pictures_of(type(request)).values():
        value, spec = getattr(request, field.name), field.spec
        if field.type is tuple:
            if not spec.low <= len(value) <= spec.high:
                raise EngineError(f"{field.name} must be {spec.low:g} to {spec.high:g}, got {len(value) or 'none'}")
            for i, p in enumerate(value, 1):
                _picture(f"picture {i}", spec.layer, p)
        elif value is not None or field.default is MISSING:
            _picture(spec.label if spec.layer == "RGB" else field.name, spec.layer, value)
            _layer(request, field, value, sizes)
    for field in fields_of(type(request)).values():
        value = getattr(request, field.name)
        _plain(field.name, field.type, field.spec, value)
        for text in value if isinstance(value, tuple) else (value,):
            _readable(field.name, text)


def _picture(name: str, mode: str, value: Any) -> None:
    if not isinstance(value, Image):
        raise EngineError(f"{name} must be a picture, got {'nothing' if value is None else type(value).__name__}")
    if value.mode not in mode.split(" or "):
        raise EngineError(f"{name} must be a picture of mode {mode}, got {value.mode}")


def _layer(request: Any, field: Field, value: Image, sizes: dict[str, tuple[int, int]]) -> None:
    if value.mode == "RGBA" and not value.getchannel("A").getbbox():
        if field.default is MISSING:
            raise EngineError(f"{field.name} must hold something painted, got an empty layer")
        object.__setattr__(request, field.name, None)
        return
    if value.mode == "L" and not value.getbbox():
        raise EngineError(f"{field.name} must cover something, got nothing; paint where the picture may change")
    if field.spec.layer == "RGB":  # a photograph is fitted, whatever its size
        return
    sizes[field.name] = value.size
    first, (w0, h0) = next(iter(sizes.items()))
    w, h = value.size
    if abs(w * h0 - h * w0) > 0.02 * w * h0:
        raise EngineError(f"{field.name} must have the proportions of {first}, {w0} × {h0}, got {w} × {h}")


def _readable(name: str, text: Any) -> None:
    """Refuses half characters, which come of text in another encoding and can be written nowhere."""
    if isinstance(text, str) and re.search("[\0\ud800-\udfff]", text):
        raise EngineError(f"{name} must be text in UTF-8, got {text[:40]!r}")


def _plain(name: str, kind: type, spec: Spec, value: Any) -> None:
    if spec.choices:
        if not isinstance(value, kind) or value not in spec.choices:
            raise EngineError(f"{name} must be one of {', '.join(map(str, spec.choices))}, got {value!r}")
    elif kind in (int, float):
        ok = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        if not ok or not spec.low <= value <= spec.high:  # a NaN is not between anything
            what = "a whole number" if kind is int else "a number"
            raise EngineError(f"{name} must be {what} {spec.span}, got {str(value)[:40]}")
    elif kind in (str, bool) and not isinstance(value, kind):
        raise EngineError(f"{name} must be {'text' if kind is str else 'true or false'}, got {value!r}")
