"""A part of a network as OpenVINO has it: converted, compiled, run; and what that takes of memory."""

from __future__ import annotations

import ctypes
import sys
import warnings
from contextlib import suppress
from importlib import metadata
from math import inf, prod
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.plain import Plain


class Graph:
    """A compiled graph, a row at a time. ``size``: about how many bytes it takes. ``weights`` are those it was made of:
    while it lives no others can lie where they do, which is what it is found by."""

    def __init__(self, compiled: Any, size: int, weights: list[Tensor]):
        self._request, self.size, self.used = compiled.create_infer_request(), size, monotonic()
        self._weights = weights

    def __call__(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.used = monotonic()
        given = tuple(t.contiguous() for t in wide(given))
        out: list[Tensor] = []
        for row in range(len(given[0])):
            found = self._request.infer(
                [t[row : row + 1].numpy() for t in given], share_inputs=True, share_outputs=True
            )
            rows = [torch.from_numpy(found[i]) for i in range(len(found))]
            out = out or [t.new_empty(len(given[0]), *t.shape[1:]) for t in rows]
            for whole, one in zip(out, rows, strict=True):
                whole[row] = one[0]
        return tuple(out)


def compiled(model: Any, threads: int, dtype: torch.dtype) -> Any:
    """For one call at a time on so many threads, in the precision that torch would have."""
    import openvino as ov

    precision = "bf16" if dtype == torch.bfloat16 else "f32"
    how = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    # Pinned, the threads of two programs would wait for the same core.
    how |= {"ENABLE_CPU_PINNING": False, "PERFORMANCE_HINT": "LATENCY"}
    return ov.Core().compile_model(model, "CPU", how)


def begin(threads: int) -> None:
    """Imports OpenVINO, and has it start its threads, which inherit the priority that the caller has now.

    What it would report to its makers with is kept from being imported: nothing leaves this machine.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as Python has it: not to be had
    import openvino as ov
    from openvino import opset13

    x = opset13.parameter([1, 64, 64, 64], ov.Type.f32)
    first: Any = ov.Model([opset13.add(x, x)], [x])  # pyright: ignore[reportGeneralTypeIssues]
    compiled(first, threads, torch.float32).create_infer_request().infer([torch.zeros(1, 64, 64, 64).numpy()])


def save(model: Any, place: Path) -> None:
    import openvino as ov

    ov.save_model(model, place / "graph.xml", compress_to_fp16=False)


def read(place: Path) -> Any:
    """What `save` has put there, mapped from the file."""
    import openvino as ov

    return ov.Core().read_model(place / "graph.xml")


def installed() -> str:
    """OpenVINO's version; 0.0 where it is not."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("openvino")
    return "0.0"


def wide(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Numbers in full precision; tokens as they are."""
    return tuple(t.float() if t.is_floating_point() else t for t in given)


@torch.no_grad()
def convert(part: Plain, given: tuple[Tensor, ...]) -> Any:
    """OpenVINO's model of a part for any number of rows of any size, in float32. Its frontend is called itself: what
    wraps it reports to its makers."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # `OpenVino` looks whether they are right
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"torch\.jit|openvino")
    given = tuple(t.expand(2, *t.shape[1:]) for t in wide(given))
    traced = torch.jit.trace(part.float(), given, check_trace=False)
    decoder = TorchScriptPythonDecoder(traced, example_input=given)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def measures(model: Any) -> tuple[int, int]:
    """Bytes of a model's constants, and of the largest of its values."""
    weights = most = 0
    for op in model.get_ops():
        for out in op.outputs():
            if out.partial_shape.is_static:
                size = prod(out.shape) * out.element_type.size
                if op.get_type_name() == "Constant":
                    weights += size
                else:
                    most = max(most, size)
    return weights, most


def free() -> float:
    """Bytes of memory that a program may still take, where the system tells."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf8").splitlines()
        return int(next(s for s in lines if s.startswith("MemAvailable")).split()[1]) * 1024
    return inf


def let_go(place: Path | None) -> None:
    """Gives back what compiling has left: the heap's free pages, and those of the graph's file, of which what was
    compiled has its own copy (they can be read again)."""
    if sys.platform != "linux":
        return
    with suppress(OSError, ValueError, AttributeError):
        c = ctypes.CDLL(None)
        for line in Path("/proc/self/maps").read_text(encoding="utf8").splitlines() if place else ():
            if str(place) in line:
                start, end = (int(n, 16) for n in line.split()[0].split("-"))
                c.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 4)  # MADV_DONTNEED
        c.malloc_trim(0)
