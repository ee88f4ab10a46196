"""What stops a job: a mistake that the person can mend, or the person."""

import re

MARK = re.compile(r"`(\w+)(?:=([^`]+))?`")


class EngineError(ValueError):
    """Something the person can mend. Its text is shown as it is: name, expectation, value.

    Fields and their values may be marked, as in "`low` must not be above `high`" and "got `sampler='live'`": the text
    has the bare name or value, a page what it calls them (`engine.requests.plainly`).
    """

    def __str__(self) -> str:
        return MARK.sub(lambda m: m[2] or m[1], super().__str__())


class Cancelled(Exception):
    """The job was stopped by the person; nothing is wrong."""
