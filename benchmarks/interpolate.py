"""The draft morph against what its network alone would cost, and the batched tree against one frame at a time."""

from __future__ import annotations

import json
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from engine.checkpoints.manager import ModelManager
from engine.context import Context
from engine.diffusion.model import LatentDiffusion
from engine.jobs.run import run
from engine.requests import Done, Frame, InterpolateRequest
from engine.vision import images

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"


def request(model: str) -> InterpolateRequest:
    pair = json.loads((EXAMPLES / "pairs.json").read_text(encoding="utf8"))[0]
    a, b = (images.read(EXAMPLES / pair[k]) for k in "ab")
    words = {"prompt": pair["prompt"], "prompt_b": pair["prompt_b"]}
    return InterpolateRequest(a, b, **words, model=model, **InterpolateRequest.presets["draft"])


def job(models: ModelManager, r: InterpolateRequest) -> tuple[float, float, Done]:
    """Seconds of the whole job, seconds until its first in-between frame, and its result; nothing remembered."""
    models.memo = type(models.memo)()
    begun, first, event = perf_counter(), 0.0, None
    for event in run(Context(models), r):
        if not first and isinstance(event, Frame) and 0 < event.index < r.frames - 1:
            first = perf_counter() - begun
    assert isinstance(event, Done)
    return perf_counter() - begun, first, event


@contextmanager
def watched(net: LatentDiffusion) -> Iterator[Counter]:
    """Counts the calls of a network's parts by their input's shape."""
    seen: Counter = Counter()
    parts = {"unet": net.unet, "encode": net.vae.encoder, "decode": net.vae.decoder}

    def note(name: str):
        return lambda module, args: seen.update([(name, tuple(args[0].shape))])

    handles = [part.register_forward_pre_hook(note(name)) for name, part in parts.items()]
    try:
        yield seen
    finally:
        for h in handles:
            h.remove()


@torch.no_grad()
def bare(net: LatentDiffusion, calls: Counter) -> float:
    """Seconds that the same calls take with nothing around them: each distinct shape timed, times its count."""
    text = net.embed(["a rose"])
    total = 0.0
    for (name, shape), count in calls.items():
        x = torch.randn(shape).to(net.device, net.dtype, memory_format=torch.channels_last)
        size = [side * net.vae_scale_factor for side in shape[2:]]
        told, t = text.expand(shape[0]).told(size, net.dtype), torch.full((shape[0],), 400, device=net.device)
        call: dict[str, Any] = {
            "unet": lambda x=x, t=t, told=told: net.unet(x, t, **told).sample,
            "encode": lambda x=x: net.vae.encode(x),
            "decode": lambda x=x: net.vae.decode(x),
        }
        call[name]()
        times = []
        for _ in range(min(count, 5)):
            begun = perf_counter()
            call[name]()
            if net.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(perf_counter() - begun)
        total += count * median(times)
    return total


def measure(model: str, device: str, repeats: int) -> dict[str, Any]:
    """Ratios in one run; every round measures engine, bare network and the single way one after another."""
    models, r = ModelManager(device), request(model)
    net, quick = models.load(model), ModelManager(device, executor="auto")
    with watched(net) as calls:
        job(models, r)  # warm-up, and what it asks of the network
    for _ in range(2):
        job(quick, r)
        quick.executor.ready()
    over, speedup, firsts, wholes, gap, faster = [], [], [], [], 0.0, []
    for _ in range(repeats):
        whole, first, batched = job(models, r)
        faster.append(whole / job(quick, r)[0])
        over.append(whole / bare(net, calls))
        plan = net.resident.plan
        net.resident.plan = replace(plan, rows=1 if r.guidance == 1 else 2)
        try:
            single, _, alone = job(models, r)
        finally:
            net.resident.plan = plan
        speedup.append(single / whole)
        firsts.append(first)
        wholes.append(whole)
        pairs = zip(batched.frames, alone.frames, strict=True)
        gap = max(float(np.abs(np.asarray(p, float) - np.asarray(q, float)).mean()) for p, q in pairs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if net.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {
        "model": model,
        "device": str(net.device),
        "dtype": str(net.dtype).removeprefix("torch."),
        "frames": r.frames,
        "unet_evaluations": batched.evaluations,
        "executor": quick.executor.name,
        "over_torch": round(median(faster), 3),
        "engine_over_network": round(median(over), 3),
        "batched_speedup": round(median(speedup), 3),
        "batched_difference": round(gap, 3),
        "first_frame_s": round(median(firsts), 2),
        "whole_s": round(median(wholes), 2),
        "peak_mb": round(peak),
    }
