"""CUDA graphs on an NVIDIA card: a call that comes again and again is recorded, and then played by one command.

Written by the book (PyTorch's notes on CUDA graphs) and never seen on a card: the studio's makers had none to try. What
goes wrong with it is said in the log, and torch goes on.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.executor import Executor
from engine.diffusion.plain import Plain

CALLS = 3  # after which a call is one that comes again
MOST = 8  # graphs at a time: a network's parts at the sizes in use


class Recorded:
    """One call with all its kernels: what it is given is copied to where it was recorded, and out of there."""

    def __init__(self, part: Plain, given: tuple[Tensor, ...], pool: Any):
        self._given, self._weights = tuple(t.clone() for t in given), part.tensors()  # which must stay where they are
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what libraries choose and allocate at first must not be recorded
            for _ in range(2):
                part(*self._given)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._out = part(*self._given)

    def __call__(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        for own, new in zip(self._given, given, strict=True):
            own.copy_(new)
        self._graph.replay()
        return tuple(t.clone() for t in self._out)


class CudaGraphs(Executor):
    """All graphs share one pool of memory, since no two play at once."""

    name = "cuda graphs"

    def __init__(self) -> None:
        super().__init__()
        self._graphs = OrderedDict[tuple[Any, ...], Any]()
        self._calls = Counter[tuple[Any, ...]]()
        self._pool: Any = None
        self._off = False

    def answer(self, owner: Any, part: Plain, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._off or torch.is_grad_enabled() or not self.here(given) or not part.untouched():
            return None
        shapes = tuple((t.shape, t.dtype, t.stride()) for t in given)
        key = id(owner), part.name, shapes, part.weights()
        try:
            if key not in self._graphs:
                self._calls[key] += 1
                if self._calls[key] < CALLS:
                    return None
                self._graphs[key] = self._record(part, given)
            self._graphs.move_to_end(key)
            return self._graphs[key](given)
        except Exception as e:
            self._off = True
            self._drop(list(self._graphs))
            said = (str(e).strip().splitlines() or [type(e).__name__])[0][:160]
            self.tell(f"CUDA graphs must be recorded and played, got {said}; torch goes on")
            return None

    @staticmethod
    def here(given: tuple[Tensor, ...]) -> bool:
        return all(t.is_cuda for t in given)

    def _record(self, part: Plain, given: tuple[Tensor, ...]) -> Any:
        if len(self._graphs) >= MOST:
            self._drop([next(iter(self._graphs))])
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return Recorded(part, given, self._pool)

    def forget(self, owner: Any) -> None:
        self._drop([k for k in {*self._graphs, *self._calls} if k[0] == id(owner)])

    def _drop(self, keys: list[tuple[Any, ...]]) -> None:
        for key in keys:
            self._graphs.pop(key, None)
            self._calls.pop(key, None)
        if not self._graphs:
            self._pool = None
