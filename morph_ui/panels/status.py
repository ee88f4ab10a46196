"""The line above the results: how far a run is, what came of it, or what is wrong, in one calm sentence."""

import html
import logging
from time import monotonic

import gradio as gr

from engine.requests import EngineError, Event, Progress, Waiting
from engine.requests.plainly import plainly


def bar(fraction: float, text: str) -> str:
    width = f"{100 * fraction:.1f}%"
    return (
        f'<div class="status"><div class="bar" role="progressbar" aria-label="How far it is" aria-valuenow="'
        f'{100 * fraction:.0f}"><i style="width:{width}"></i></div><span>{html.escape(text)}</span></div>'
    )


def message(text: str, kind: str = "note") -> str:
    """``kind``: note or problem. (``components/help`` says it to screen readers: it is made anew at every step.)"""
    return f'<div class="status {kind}"><span>{html.escape(text)}</span></div>'


def sentences(*parts: str) -> str:
    """What is to be said, one after the other, each with a capital; what is empty is left out."""
    return ". ".join(p[0].upper() + p[1:] for p in parts if p)


def sentence(error: BaseException, names: bool = False) -> str:
    """The calm line for whatever went wrong; a bug is logged and not shown. Fields are called as the page labels them,
    or by their ``names``."""
    if isinstance(error, EngineError):
        return sentences(str(error)) + "." if names else plainly(error)
    if isinstance(error, OSError):
        return f"The result could not be written: {error.strerror or error}. Nothing else is lost."
    logging.getLogger(__name__).error("unexpected", exc_info=error)
    return "Something went wrong in the studio itself; your pictures and settings are kept. The log has the details."


def line(tab: str) -> gr.HTML:
    """The line of a tab, at ``#{tab}-status``."""
    return gr.HTML(message(""), elem_id=f"{tab}-status", elem_classes="status-line", apply_default_css=False)


def problem(error: BaseException) -> str:
    return message(sentence(error), "problem")


def human(seconds: float) -> str:
    if seconds < 1.5:
        return "about a second"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


class Clock:
    """Turns progress into a line: what is being done, how far, how long still, or the place in the queue."""

    def __init__(self) -> None:
        self.started: tuple[float, float] | None = None  # when the first real progress came, and how far it was
        self.line = bar(0, "starting")

    def see(self, event: Event) -> None:
        if isinstance(event, Waiting) and event.place:
            jobs = "one job" if event.place == 1 else f"{event.place} jobs"
            self.line = bar(0, f"waiting: {jobs} before yours")
        elif isinstance(event, Progress):
            text = event.doing
            if self.started and event.fraction < self.started[1]:
                self.started = None  # another part of the work has begun
            if event.fraction > 0 and not text.endswith(" left"):
                begun, first = self.started = self.started or (monotonic(), event.fraction)
                took, share = monotonic() - begun, event.fraction - first
                if took > 1 and share > 0.02:
                    text += f" · {human(took * (1 - event.fraction) / share)} left"
            self.line = bar(event.fraction, text)
