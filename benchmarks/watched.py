"""The studio as app.py starts it, watched from inside: ``python -m benchmarks.watched [options of app.py]``.

It counts who is inside a UNet, at torch's forward and at the executor's answer, and notes when every job began and
ended, by its seed. ``/watched`` says so, as JSON; ``/watched?forget=1`` first has Gradio do what it otherwise does an
hour and a day after the visitors have gone.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import engine.jobs.run as jobs
from engine.jobs import worker

BACKGROUND = "graphs"  # the thread that compiles copies of a network: it works for no job


class Watch:
    """What there was to be seen."""

    def __init__(self) -> None:
        self.inside: dict[int, int] = {}  # thread → how deep it is in a network
        self.forwards = self.overlapped = 0
        self.slowest = 0.0  # seconds of the longest call: about a step
        self.jobs: list[dict[str, Any]] = []
        self.told_to_stop: dict[Any, float] = {}  # a job's seed → when
        self.blocks: Any = None
        self.sessions = 0
        self.objects = Counter[str]()  # of Python, by their types
        self._lock = threading.Lock()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, counted."""

        def counted(*given: Any, **named: Any) -> Any:
            me, began = threading.get_ident(), monotonic()
            if threading.current_thread().name == BACKGROUND:
                return call(*given, **named)
            with self._lock:
                self.forwards += 1
                self.overlapped += bool(self.inside.keys() - {me})
                self.inside[me] = self.inside.get(me, 0) + 1
            try:
                return call(*given, **named)
            finally:
                with self._lock:
                    self.inside[me] -= 1
                    if not self.inside[me]:
                        del self.inside[me]
                    self.slowest = max(self.slowest, monotonic() - began)

        return counted

    def noted(self, run: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def noting(context: Any, request: Any) -> Iterator[Any]:
            own = {"seed": getattr(request, "seed", None), "began": monotonic(), "ended": None, "last": None}
            self.jobs.append(own)
            try:
                for event in run(context, request):
                    own["last"] = monotonic()  # when the device was last asked whether to go on
                    yield event
            finally:
                own["ended"] = monotonic()

        return noting

    def heard(self, cancel: Callable[[Any], None]) -> Callable[[Any], None]:
        """The same, noting when a job was first told to stop, which is also what its end does."""

        def noting(job: Any) -> None:
            self.told_to_stop.setdefault(getattr(job.request, "seed", None), monotonic())
            cancel(job)

        return noting

    def forget(self) -> None:
        """An hour and a day later."""
        states = self.blocks.app.state_holder
        for session in list(states.session_data.values()):
            session.STATE_TTL_WHEN_CLOSED = 0
        states.delete_all_expired_state()
        from gradio.route_utils import delete_files_created_by_app

        from engine.diffusion.pages import trim
        from morph_ui.visitors import DAY, sweep, tidy

        delete_files_created_by_app(self.blocks, None)
        tidy(self.blocks, 2 * DAY)
        sweep(0.0)
        self.sessions = len(states.session_data)
        gc.collect()
        self.objects = Counter(type(o).__qualname__ for o in gc.get_objects())
        trim()  # what was given back to the C library and not to the system

    def told(self) -> dict[str, Any]:
        threads = sorted(t.name for t in threading.enumerate())
        with self._lock:
            own = {"forwards": self.forwards, "overlapped": self.overlapped, "slowest": self.slowest}
            own |= {"sessions": self.sessions, "objects": dict(self.objects)}
            jobs = [dict(job) | {"told": self.told_to_stop.get(job["seed"])} for job in self.jobs]
            return own | {"threads": threads, "jobs": jobs, "now": monotonic()}


def watch() -> Watch:
    """Begins to watch this process."""
    from diffusers import UNet2DConditionModel

    from engine.diffusion.openvino_graphs import OpenVino

    seen = Watch()
    UNet2DConditionModel.forward = seen.around(UNet2DConditionModel.forward)
    OpenVino.answer = seen.around(OpenVino.answer)
    jobs.run = seen.noted(jobs.run)
    worker.Job.cancel = seen.heard(worker.Job.cancel)
    import morph_ui

    launch = morph_ui.launch

    def launched(page: Any, routes: Any = (), **options: Any) -> Any:
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def answer(request: Any) -> Any:  # in the loop, where Gradio itself deletes states
            if request.query_params.get("forget"):
                seen.forget()
            return JSONResponse(seen.told())

        seen.blocks = page
        return launch(page, [*routes, Route("/watched", answer)], **options)

    morph_ui.launch = launched
    return seen


if __name__ == "__main__":
    watch()
    import app

    sys.argv[0] = "app.py"
    app.main()
