"""OpenVINO on a processor: graphs of the very same weights, made in the background while torch answers.

A graph is for one picture of one size: on a processor a batch costs as much as its rows one after the other, and a
fixed shape is what OpenVINO fuses best (a quarter faster than an open one). The file it is compiled from serves all.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import torch
from torch import Tensor

from engine.diffusion import mapped, openvino_model
from engine.diffusion.background import Background
from engine.diffusion.executor import Executor
from engine.diffusion.graph_files import GraphFiles
from engine.diffusion.memory import short_of_memory
from engine.diffusion.openvino_model import Graph, check, convert, installed, measures
from engine.diffusion.pages import Span, free, held, lean, leave, trim
from engine.diffusion.plain import Plain

OLDEST = (2025, 2)  # older ones were never tried
FORMAT = 1  # of what is kept: with another one, graphs are made anew
LIMIT = 440 << 20  # bytes of all graphs (flora: 400 more than torch alone, whose few-step weights are mapped)
PACKED = 1.2  # bytes that a graph takes, a byte of its weights: they are there once more, in another order
LIVE = 2  # of a graph's largest values, how many are there at once
PAUSE = 1.0  # seconds without a call before anything is begun: it takes more of two cores than idle priority says
ENDING = 15.0  # the same after calls of the main thread: of a command, which writes its files then, and has ended
LONGEST = 30.0  # seconds for which a studio without a pause is waited for: a crowd never makes one
RECENT = 60.0  # seconds in which what was used does not leave for others
EQUAL = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # the largest difference from torch, as a share of its largest value

Key = tuple[Any, ...]  # the network, a part of it, threads, shapes, weights


class Gone(Exception):
    """Nobody waits for it any more."""


@dataclass(frozen=True)
class Asked:
    """A call that torch has answered: its part and the weights that it had, and one row of what it was given."""

    key: Key
    part: Plain
    weights: list[Tensor]
    given: tuple[Tensor, ...]
    threads: int


class OpenVino(Executor):
    """``folder``: where graphs are kept (None: nowhere); ``limit``: bytes that they may take in memory."""

    name = "openvino"

    def __init__(self, dtype: torch.dtype, folder: Path | None, limit: int = LIMIT):
        super().__init__()
        self.dtype, self.limit, self.background = dtype, limit, Background(self._begin)
        self._lock = threading.Lock()
        self._graphs = OrderedDict[Key, Graph]()
        self._asked: dict[Key, Asked] = {}  # what waits for a pause
        self._again: dict[Key, float] = {}  # when what was asked for may be asked for again
        self._begun = self._off = self._awaited = self._used = False
        self._rested, self._longest = 0.0, inf  # when nothing will have been asked for long enough; how long to wait
        kind = str(dtype).removeprefix("torch.")
        self._files = GraphFiles(folder, f"{installed()}-{torch.__version__}-{kind}-{FORMAT}")

    def answer(self, owner: Any, part: Plain, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._off or torch.is_grad_enabled() or given[0].device.type != "cpu" or not part.untouched():
            return None
        main = threading.current_thread() is threading.main_thread()
        pause, self._longest = (ENDING, inf) if main else (PAUSE, LONGEST)
        threads, self._rested = torch.get_num_threads(), monotonic() + pause
        key = id(owner), part.name, threads, *(t.shape[1:] for t in given), part.weights()
        with self._lock:
            graph = self._graphs.get(key)
            known = graph or self._again.get(key, 0.0) > monotonic()
        try:
            if not known:
                self._ask(Asked(key, part, part.tensors(), tuple(t[:1].clone() for t in given), threads))
            if graph and not self._used:
                self._used = True
                self.background.add(self._pause)
            return graph(given) if graph else None
        except Exception as e:
            self._fail(key, part.name, e)
            return None

    def ready(self) -> None:
        self._awaited = True
        self.background.wait()
        self._awaited = False

    def forget(self, owner: Any) -> None:
        with self._lock:
            for keys in (self._graphs, self._asked, self._again):
                for key in [k for k in keys if k[0] == id(owner)]:
                    del keys[key]

    def keep(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """They lie in a file, on systems that let go of its pages: a graph has its own copy of them."""
        return make() if sys.platform != "linux" or self._off else mapped.kept(self._files, name, make)

    def _ask(self, asked: Asked) -> None:
        key, name = asked.key, asked.part.name
        with self._lock:
            self._again[key], self._asked[key] = inf, asked
        self.background.add(lambda: self._work(key, name))  # which holds no weights: the network may leave meanwhile

    def _work(self, key: Key, part: str) -> None:
        try:
            self._rest(key)
            with self._lock:
                asked = self._asked.pop(key, None)
            graph = self._make(asked) if asked else None
            with self._lock:
                if graph and key in self._again:  # or the network has left meanwhile
                    self._graphs[key] = graph
            self._tidy()
        except Gone:
            pass
        except BaseException as e:  # whatever it was, torch goes on
            self._fail(key, part, e)

    def _pause(self) -> None:
        with suppress(Gone):
            self._rest()
            self._tidy()

    def _fail(self, key: Key, part: str, error: BaseException) -> None:
        with self._lock:
            self._graphs.pop(key, None)
        if short_of_memory(error) or "bad_alloc" in str(error):
            self.tell(f"memory must hold the graph of {part}, got too little; torch goes on")
        elif not self._off:
            said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:160]
            self.tell(f"the graph of {part} must compile and be equal to torch, got {said}; torch goes on")

    def _still(self, key: Key | None) -> None:
        """Raises `Gone` when the network has left, or the process is at its end."""
        with self._lock:
            wanted = key is None or key in self._again
        if self._off or not wanted or not threading.main_thread().is_alive():
            raise Gone

    def _rest(self, key: Key | None = None) -> None:
        """Until there is a pause, it has been long, or somebody waits for the graphs."""
        self._still(key)
        began = monotonic()
        while not self._awaited and monotonic() < min(self._rested, began + self._longest):
            sleep(0.05)
            self._still(key)

    def _begin(self) -> None:
        """Imports OpenVINO, and has it start its threads while this one is of ordinary priority, which they inherit."""
        if self._begun or self._off:
            return
        try:
            self._rest()
            if tuple(map(int, installed().split(".")[:2])) < OLDEST:
                raise ImportError
            openvino_model.begin(torch.get_num_threads())
            self._begun = True
        except Gone:
            pass
        except BaseException as e:
            self._off = True
            least, own = ".".join(map(str, OLDEST)), installed()
            missing = isinstance(e, ImportError)
            got = f"{type(e).__name__}: {e}"[:160] if not missing else "none" if own == "0.0" else own
            self.tell(f"openvino must be installed, {least} or later, to draw faster, got {got}; torch goes on")

    def _make(self, asked: Asked) -> Graph:
        part, folder = self._twin(asked), self._files.folder
        model, own = self._model(asked, part)
        lent = held(folder, asked.weights)  # torch's own, which it reads again when it has to
        self._still(asked.key)
        model.reshape({i: list(t.shape) for i, t in zip(model.inputs, asked.given, strict=True)})
        constants, most = measures(model)
        size = int(PACKED * constants + LIVE * most)
        self._room(asked, size, 0)
        self._tidy()
        leave(lent)
        with lean(own):
            graph = Graph(openvino_model.compiled(model, asked.threads, self.dtype), size, asked.weights)
        self._still(asked.key)
        check(graph, part, asked.given, EQUAL[self.dtype])
        leave(own | lent)
        return graph

    def _tidy(self) -> None:
        """What graphs have between their layers, and what is free, goes back to the system."""
        self._used = False
        with self._lock:
            graphs = list(self._graphs.values())
        for graph in graphs:
            graph.rest()
        trim()

    def _twin(self, asked: Asked) -> Plain:
        """The part as it was asked for. If something has come into its modules since, it is to be asked for again."""
        with suppress(Exception):  # it changes while it is copied
            if (part := asked.part.twin(asked.weights)).untouched():
                return part
        with self._lock:
            self._again.pop(asked.key, None)
        raise Gone

    def _model(self, asked: Asked, part: Plain) -> tuple[Any, set[Span]]:
        """OpenVINO's model of it, and where in memory its file is."""
        name, most = f"{part.name}-{part.digest()}", sum(t.nbytes for t in asked.weights)
        place = self._files.get(name)
        if place is None:
            self._still(asked.key)
            self._room(asked, most, most)
            model = convert(part, asked.given)
            place = self._files.put(name, partial(openvino_model.save, model))
            if self._files.trouble:
                self.tell(self._files.trouble)
            if place is None:
                return model, set()
        return openvino_model.read(place)

    def _room(self, asked: Asked, size: int, more: int) -> None:
        """Makes room for a graph of ``size`` bytes, and for a moment ``more``: what was not used lately leaves."""
        if size > self.limit:
            most = f"must take at most {self.limit >> 20} MB, got {size >> 20}"
            self.tell(f"the graph of {asked.part.name} {most}; torch goes on")
            raise Gone
        with self._lock:
            for key in sorted(self._graphs, key=lambda k: self._graphs[k].used):
                if size + sum(g.size for g in self._graphs.values()) <= self.limit:
                    break
                if monotonic() - self._graphs[key].used > RECENT:
                    del self._graphs[key], self._again[key]
            else:
                if size + sum(g.size for g in self._graphs.values()) > self.limit:
                    self._again[asked.key] = monotonic() + RECENT
                    raise Gone
        if free() < size + more + (200 << 20):
            raise MemoryError
