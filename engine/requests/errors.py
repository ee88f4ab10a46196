"""What stops a job: a mistake that the person can mend, or the person."""

import re
from collections.abc import Callable
from typing import Any

MARK = re.compile(r"`(\w+)(?:=([^`]+))?`")
MARKED = re.compile(r"`\w+` (must|or) ")  # how such a sentence begins; in others backticks are the person's own


class EngineError(ValueError):
    """Something the person can mend. Its text is shown as it is: name, expectation, value.

    Fields and their values may be marked, as in "`low` must not be above `high`" and "got `sampler='live'`": the text
    has the bare name or value, a page what it calls them (`engine.requests.plainly`). A sentence with marks begins with
    one, and holds nothing that a person may have written.
    """

    def __str__(self) -> str:
        return read(super().__str__(), lambda name, value: value or name)


def read(text: str, called: Callable[[str, str | None], str]) -> str:
    """A sentence with its marks, if it has any, as they are ``called`` (name, value)."""
    return MARK.sub(lambda m: called(m[1], m[2]), text) if MARKED.match(text) else text


def shown(value: Any, most: int = 60, how: Callable[[Any], str] = repr) -> str:
    """Any value, as the end of a sentence has it: one line that can be printed."""
    try:
        return text if (text := how(value)[:most]).isprintable() and text.strip() else repr(text)
    except Exception:  # a number of thousands of digits, lists within themselves
        return f"a {type(value).__name__} that cannot be written"


class Cancelled(Exception):
    """The job was stopped by the person; nothing is wrong."""
