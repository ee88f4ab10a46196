"""What stops a job: a mistake that the person can mend, or the person."""


class EngineError(ValueError):
    """Something the person can mend. Its text is shown as it is: name, expectation, value."""


class Cancelled(Exception):
    """The job was stopped by the person; nothing is wrong."""
