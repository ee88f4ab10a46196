"""Settings inside a file: whoever wrote them, they are data, and hold what the fields of their request may hold."""

from __future__ import annotations

from typing import Any

from engine.requests import points
from engine.requests.errors import EngineError, shown
from engine.requests.finish import finish_of
from engine.requests.spec import Field, fields_of, judge

MOST = 700  # values of a list: frames, and some
EACH: dict[str, Any] = {"prompts": str, "loras": str, "seeds": int | None}
PAIRS = ("picks", "reseeds")


def check(request: type, settings: dict[str, Any]) -> None:
    """EngineError for the first value that is none of its field's; what is no field is left alone."""
    for name, field in fields_of(request).items():
        if name not in settings:
            continue
        value = settings[name]
        if field.type is not tuple:
            judge(field, value)
        elif not isinstance(value, list) or len(value) > MOST or not all(_fits(field, v) for v in value):
            raise EngineError(f"{name} must be a list as it was written here, got {shown(value)}")
    joints = points.nested(settings.get("points", []))
    points.check(joints, len(joints), len(joints) + 1)
    count = settings.get("keyframes", 2)
    if type(count) is not int or not 2 <= count <= MOST:
        raise EngineError(f"keyframes must be a whole number from 2 to {MOST}, got {shown(count)}")
    if not isinstance(film := settings.get("film", {}), dict):
        raise EngineError(f"film must be settings of a film, got {shown(film)}")
    finish_of(film)


def _fits(field: Field, value: Any) -> bool:
    if field.name in EACH:
        judge(Field(field.name, str, "", field.spec), value) if isinstance(value, str) else None
        return isinstance(value, EACH[field.name]) and not isinstance(value, bool)
    if field.name in PAIRS:
        return isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value)
    return isinstance(value, list)  # points, which have a judge of their own
