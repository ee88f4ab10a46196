"""A refusal in the words of the page: fields by their labels, where the command line and the API have their names."""

import re
from functools import cache

from engine.requests import METHODS, EngineError, MatchRequest, fields_of
from engine.requests.errors import MARK
from engine.requests.finish import Finish
from engine.requests.spec import Spec

FIRST = re.compile(r"^(\w+)(?= must )")  # what is refused, where it is not marked


@cache
def _specs() -> dict[str, list[Spec]]:
    found: dict[str, list[Spec]] = {}
    for request in (*METHODS.values(), MatchRequest, Finish):
        for name, field in fields_of(request).items():
            found.setdefault(name, []).append(field.spec)
    return found


def plainly(error: EngineError) -> str:
    """Its sentence, with a full stop: “Wander at least” must not be above “Wander at most”, got 0.6 and 0.5."""
    text = FIRST.sub(r"`\1`", error.args[0]) if error.args else ""
    text = MARK.sub(lambda m: _called(m[1], m[2]), text)
    return re.sub(r"^“?\w", lambda m: m[0].upper(), text) + "."


def _called(name: str, value: str | None) -> str:
    """What the page calls a field, or a value of one; what it does not show has its name."""
    specs = _specs().get(name, [])
    if value is not None:
        bare = value.strip("'")
        labels = [str(label) for s in specs for label, choice in s.labels if str(choice) == bare]
        return f"“{_short(labels[0])}”" if labels else value
    label = next((_short(s.label) for s in specs if s.label), name)
    return name if label.lower() == name else f"“{label}”"


def _short(label: str) -> str:
    return re.split(r":| \(", label)[0]
