"""A part of a network as OpenVINO has it: converted, compiled, run; and what that takes of memory."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from importlib import metadata
from math import prod
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.pages import Span, spans
from engine.diffusion.plain import Plain


class Graph:
    """A compiled graph, a row at a time. ``size``: about how many bytes it takes. ``weights`` are those it was made of:
    while it lives no others can lie where they do, which is what it is found by."""

    def __init__(self, compiled: Any, size: int, weights: list[Tensor]):
        self._compiled, self._request = compiled, compiled.create_infer_request()
        self.size, self.used, self._weights = size, monotonic(), weights

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

    def rest(self) -> None:
        """Gives back what lies between its layers; the next call takes it again."""
        with suppress(AttributeError):  # of an OpenVINO that cannot
            self._compiled.release_memory()


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


def read(place: Path) -> tuple[Any, set[Span]]:
    """What `save` has put there, mapped from the file, and where: it lies there while the model lives."""
    import openvino as ov

    before = spans(place)
    model = ov.Core().read_model(place / "graph.xml")
    return model, spans(place) - before


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
    """OpenVINO's model of a part for any number of rows of any size, in float32.

    Its frontend is called itself: what wraps it reports to its makers. `torch.jit.trace` would keep what it records of
    every module for good (24 MB a UNet); the graph alone goes, has the weights as inputs, and is quicker made.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # `OpenVino` looks whether they are right
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"torch\.jit|openvino")
    part, given = part.float(), tuple(small(t).expand(2, *small(t).shape[1:]) for t in wide(given))
    graph, _ = torch.jit._get_trace_graph(part, given)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(SimpleNamespace(inlined_graph=graph), example_input=given)
    model = frontend.convert(frontend.load(decoder))
    fill(model, [value.debugName() for value in graph.inputs()][len(given) :], part)
    return model


def small(t: Tensor) -> Tensor:
    """One row, and of a picture a corner: tracing takes memory by the size, and what it finds is for any."""
    sides = []
    for side in t.shape[2:] if t.ndim == 4 else ():
        while side % 32 == 0:
            side //= 2
        sides.append(side)
    return t[:1, :, : sides[0], : sides[1]] if sides else t[:1]


def fill(model: Any, names: list[str], part: Plain) -> None:
    """Puts a part's weights where a model has inputs of those names."""
    from openvino import opset13

    inputs = {own.friendly_name: own for own in model.get_parameters()}
    state = {id(t): (key, t) for key, t in part.state_dict(keep_vars=True).items()}  # shared ones are one input
    for name, (key, t) in zip(names, state.values(), strict=True):
        if (old := inputs.get(name)) is not None:
            own = opset13.constant(t.data.contiguous().numpy(), shared_memory=True)
            own.friendly_name = key
            old.output(0).replace(own.output(0))
            model.remove_parameter(old)
    model.validate_nodes_and_infer_types()


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


@torch.no_grad()
def check(graph: Graph, part: Plain, given: tuple[Tensor, ...], most: float) -> None:
    """ValueError unless a graph's numbers are torch's own, at most so far apart, as a share of the largest."""
    given = wide(given)
    for own, found in zip(part.float()(*given), graph(given), strict=True):
        gap, large = (own - found).abs().max(), own.abs().max().clamp(min=1)
        if not gap <= most * large:
            raise ValueError(f"a difference of {gap:.2g} beside {large:.2g}")
