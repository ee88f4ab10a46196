"""Several devices, on this machine or many: one Ray actor a device, with resident networks, behind the worker's seam.

Ray is optional (requirements-cluster.txt) and imported only here, on use.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.jobs.across import receive, send
from engine.jobs.queue import Limits
from engine.jobs.worker import Run, Worker
from engine.requests import Cancelled, EngineError, Event, Waiting

LOSSES = 2  # actors lost under one job before it is given up
STORE = 512 * 2**20  # bytes of shared memory for pictures on their way; touched only when used


class Device:
    """What lives in an actor: one device's method, its networks, and at most one job.

    It makes a step only when asked for the next event, so a cancelled job stops after the step under way, and what it
    had hooked is undone, without a second thread here.
    """

    def __init__(self, make: bytes, sharing: int):
        # Before torch is imported: actors of one machine share its cores. Ray would give each a single thread.
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // sharing))
        self._make, self._made, self._events = make, None, None

    def _run(self, request: Any) -> Iterator[Event]:
        # Unpickled here and not by Ray, so that what goes wrong is this job's error and not the actor's death.
        self._made = self._made or pickle.loads(self._make)()
        return self._made(request)

    def start(self, request: Any) -> None:
        self.close()
        self._events = send(self._run, request)

    def step(self) -> Any:
        """The next event, a `Failure`, or None at the end."""
        return next(self._events, None) if self._events else None

    def close(self) -> None:
        events, self._events = self._events, None
        if events:
            events.close()


class Seat:
    """Where one actor works: called with a request, gives its events; a lost actor is replaced, its job run again."""

    def __init__(self, hire: Callable[[], Any]):
        self._hire, self.actor, self.closed = hire, hire(), False
        self.networks: list[str] = []  # the one that it served last, which the actor has; others it may have too

    def __call__(self, request: Any) -> Iterator[Event]:
        """Events that came before a loss come again after it. Raises EngineError after `LOSSES` of them."""
        if model := getattr(request, "model", None):
            self.networks = [model]
        for _ in range(LOSSES):
            try:
                yield from receive(self._values(request))
                return
            except losses() as e:
                if self.closed:
                    raise Cancelled from None
                logging.getLogger(__name__).warning("an actor was lost: %s", e)
            self.dismiss()
            self.actor = self._hire()
            yield Waiting(0)  # a chance to notice that the job was cancelled
        raise EngineError(
            f"the process of the job must live until its end, got lost {LOSSES} times; choose a smaller size or "
            "fewer pictures"
        )

    def _values(self, request: Any) -> Iterator[Any]:
        import ray

        try:
            ray.get(self.actor.start.remote(request))
            while (value := ray.get(self.actor.step.remote())) is not None:
                yield value
        finally:
            with contextlib.suppress(*losses()):
                ray.get(self.actor.close.remote())

    def dismiss(self) -> None:
        import ray

        ray.kill(self.actor)


class RayWorker(Worker):
    """Runs jobs on ``actors`` Ray actors, visitors in turn, never two at once on one of them.

    ``make()`` gives ``run(request)``; it is pickled, and called once in each actor, where its networks stay between
    jobs. A job goes to the free actor that last served its network, if there is one. ``gpus_each`` is the share of a
    GPU that an actor gets (0: none; None: one where the cluster has any). ``address`` joins a running cluster ("auto",
    "host:port"), on whose machines this folder and what it needs must lie at the same path; without it, a cluster is
    started on this machine, or the one that the process is already in is used. A lost actor is replaced and its job
    run again, so frames may come twice.
    """

    def __init__(
        self,
        make: Callable[[], Run],
        actors: int = 1,
        gpus_each: float | None = None,
        address: str | None = None,
        limits: Limits | None = None,
    ):
        if not isinstance(actors, int) or actors < 1:
            raise EngineError(f"workers must be a whole number from 1, got {actors!r}")
        ray = join(address)
        has = ray.cluster_resources().get("GPU", 0)
        gpus_each = (1.0 if has else 0.0) if gpus_each is None else gpus_each
        if not address and actors * gpus_each > has:
            raise EngineError(f"workers must be at most {int(has / gpus_each)} with {has:g} GPUs, got {actors}")
        made = ray.cloudpickle.dumps(make)
        machines = sum(node["Alive"] for node in ray.nodes())
        # No CPUs are reserved: a share of a machine's cores that Ray finds nowhere would wait for ever.
        device = ray.remote(Device).options(num_cpus=0, num_gpus=gpus_each, scheduling_strategy="SPREAD")
        self._seats = [Seat(lambda: device.remote(made, -(-actors // machines))) for _ in range(actors)]
        super().__init__(*self._seats, limits=limits)

    def close(self) -> None:
        """Ends the actors, and with them their jobs."""
        super().close()
        for seat in self._seats:
            seat.closed = True
            seat.dismiss()


def join(address: str | None) -> Any:
    """The ``ray`` module, in a cluster: the one this process is in, the one at ``address``, or one started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
    try:
        import ray
    except ImportError:
        raise EngineError(
            "ray must be installed for several workers (pip install -r requirements-cluster.txt), got none"
        ) from None
    if not ray.is_initialized():
        own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": STORE}
        # Wherever the studio was started from, actors must find the engine.
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        own["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except ConnectionError as e:
            raise EngineError(f"address must be a running Ray cluster, got {address!r}") from e
    return ray


def losses() -> tuple[type[Exception], ...]:
    """What Ray raises when a process or machine is gone, or its memory ran out."""
    from ray import exceptions as e

    return e.RayActorError, e.OutOfMemoryError, e.NodeDiedError, e.ObjectLostError
