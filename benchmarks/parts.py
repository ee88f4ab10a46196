"""Every part of a network at batch 1, 4 and 8: its work, torch, the executor, and how near that is to the peak.

The peak is the machine's own, of matrix products in the same precision, measured between the calls. Torch and the
executor take turns, so that whatever else the machine does hits both; the medians are printed.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe
from engine.checkpoints.manager import ModelManager
from engine.diffusion.executor import Executor
from engine.diffusion.model import LatentDiffusion, unpacked

BATCHES = (1, 4, 8)
SIDE = 1536  # of the matrices whose product is the peak


def calls(net: LatentDiffusion, rows: int) -> dict[str, tuple[Tensor, ...]]:
    """What each part is given, at the network's own size."""
    side, own = net.size // net.vae_scale_factor, net.resident
    x = torch.randn(rows, net.channels + net.concat_channels, side, side, device=net.device)
    words = net.embed(["a rose"]).expand(rows)
    told = unpacked(words.told([net.size] * 2, net.dtype))
    pictures = torch.rand(rows, 3, net.size, net.size, device=net.device) * 2 - 1
    like = {"dtype": own.vae_dtype, "memory_format": torch.channels_last}
    latents = torch.randn(rows, net.channels, side, side, device=net.device)
    found = {
        "unet": (
            x.to(net.dtype, memory_format=torch.channels_last),
            torch.full((rows,), 400.0, device=net.device),
            *told,
        ),
        "encode": (pictures.to(**like),),
        "decode": (latents.to(**like),),
        "text 0": (torch.randint(9, 90, (rows, net.max_tokens), device=net.device),),
    }
    return found | ({"look": (latents.to(net.dtype),)} if own.light is not None else {})


def timed(device: torch.device, fn: Callable[[], Any]) -> float:
    begun = perf_counter()
    fn()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - begun


@torch.no_grad()
def measure(model: str, device: str, repeats: int) -> dict[str, Any]:
    """A row a part and batch: GFLOP, ms with torch, ms with the executor, share of the peak."""
    models = ModelManager(device, executor="auto")
    net = models.load(model)
    own, silent = net.resident, Executor()
    quick = own.executor
    a = torch.randn(SIDE, SIDE, device=net.device, dtype=net.dtype)
    out: dict[str, Any] = describe(net.device) | {"model": model, "executor": quick.name}
    for rows in BATCHES:
        for part, given in calls(net, rows).items():
            ask = lambda: own.run(part, *given)  # noqa: B023, E731, called at once
            with FlopCounterMode(display=False) as counted:
                own._plain[part](*given)
            for _ in range(4):  # it is asked for, made and warm
                ask()
                quick.ready()
            took: dict[str, list[float]] = {"torch": [], "executor": [], "peak": []}
            who = ask()[1]
            for _ in range(max(3, repeats)):
                took["executor"].append(timed(net.device, ask))
                own.executor = silent
                took["torch"].append(timed(net.device, ask))
                own.executor = quick
                took["peak"].append(timed(net.device, lambda: a @ a))
            ms = {k: 1000 * median(v) for k, v in took.items()}
            gflop = counted.get_total_flops() / 1e9
            share = gflop / ms["executor"] / (2 * SIDE**3 / 1e9 / ms["peak"])
            row = {"GFLOP": round(gflop, 2), "torch_ms": round(ms["torch"], 1), "executor_ms": round(ms["executor"], 1)}
            row |= {"over_torch": round(ms["torch"] / ms["executor"], 2), "of_peak": round(share, 2), "by": who}
            out[f"{part}, batch {rows}"] = row
    return out
