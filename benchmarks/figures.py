"""The figures of `benchmarks.device`, each a generator of lines."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops

from benchmarks.interpolate import bare, job, request, watched
from benchmarks.machine import peak, settle
from benchmarks.tiny import done, events
from engine.checkpoints.manager import ModelManager, pick_device
from engine.diffusion import lora
from engine.requests import Done, DrawRequest, EngineError, InterpolateRequest, LoadRequest, MorphRequest

DRAWINGS = Path(__file__).resolve().parents[1] / "assets" / "examples" / "drawings"
BUDGETS = (4, 6, 8, 12, 24)  # GB
WARM = 3  # updates of the live canvas that are not counted
Line = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What is measured: networks by name, on which device, how large (pixels), in how many steps (0: their own)."""

    device: str
    networks: dict[str, str]  # what a line calls it → a catalogue name or a folder
    size: int = 512
    steps: int = 0
    share: float = 1.0  # of the steps of the paper presets
    seconds: float = 5.0  # of drawing live

    def side(self, network: str) -> int:
        """flora knows pictures of 256 pixels."""
        return self.size if network != "flora" else min(self.size, 256)

    def part(self, steps: int, least: int = 1) -> int:
        """The share of a paper preset's steps that is run."""
        return max(least, round(steps * self.share))

    def draft(self, network: str, **change: Any) -> InterpolateRequest:
        own = {"steps": self.steps} if self.steps else {}
        return replace(request(self.networks[network]), fit="crop", size=self.side(network), **own | change)

    def morph(self, network: str, **change: Any) -> MorphRequest:
        r = self.draft(network)
        fixed = {"frames": 16, "steps": self.steps or 50, "lora_patience": 0.0}  # or its cost were the pictures'
        words = (r.prompt, r.prompt_b)
        return MorphRequest((r.a, r.b), prompts=words, fit="crop", size=r.size, model=r.model, **fixed | change)

    @contextmanager
    def models(self, dtype: torch.dtype | None = None, memory: float = 0.0) -> Iterator[ModelManager]:
        """Networks with nothing resident and nothing remembered, of an earlier figure's neither."""
        gc.collect()
        settle(pick_device(self.device))
        models = ModelManager(self.device, dtype, memory)
        try:
            yield models
        finally:
            models._resident.clear()
            models.memo = type(models.memo)()


def measure(models: ModelManager, asked: Any) -> Line:
    """One run of a request from nothing remembered: seconds, evaluations (network rows), the most memory."""
    models.memo = type(models.memo)()
    settle(models.device)
    begun = perf_counter()
    result = done(models, asked)
    took = perf_counter() - begun
    line = {"frames": len(result.frames), "seconds": round(took, 3), "evaluations": result.evaluations}
    line["evaluations_per_s"] = round(result.evaluations / took, 2)
    return line | peak(models.device) | notes(result)


def notes(result: Done) -> Line:
    return {"notes": list(result.notes)} if result.notes else {}


@contextmanager
def fits(device: torch.device) -> Iterator[list[float]]:
    """Collects the seconds of every fit of LoRAs inside."""
    spans, own = [], lora.fit

    def fit(*args: Any, **more: Any) -> Any:
        if device.type == "cuda":
            torch.cuda.synchronize()  # what was asked of it before
        begun = perf_counter()
        bank = yield from own(*args, **more)  # it looks at every loss and every factor, so the device has finished
        spans.append(perf_counter() - begun)
        return bank

    lora.fit = fit
    try:
        yield spans
    finally:
        lora.fit = own


def warm(models: ModelManager, name: str) -> Any:
    """The network, loaded and warm as the studio makes it."""
    events(models, LoadRequest(name))
    return models.load(name)


def network(b: Bench) -> Iterator[Line]:
    """The draft of *Interpolate* over the bare calls that it makes."""
    for name, model in b.networks.items():
        with b.models() as models:
            r, net = b.draft(name), warm(models, model)
            with watched(net) as calls:
                job(models, r)
            whole, first, result = job(models, r)
            # Five calls of each shape, or the first one's wait would be the only figure where there is but one call.
            alone = sum(n * bare(net, Counter({call: 5})) / 5 for call, n in calls.items())
            del net  # or it would be there beside the next one
            line = {"network": name, "size": b.side(name), "frames": r.frames, "steps": r.steps}
            line |= {"evaluations": result.evaluations, "whole_s": round(whole, 3), "bare_s": round(alone, 3)}
            yield line | {"first_frame_s": round(first, 3), "engine_over_network": round(whole / alone, 3)}


def morph(b: Bench) -> Iterator[Line]:
    """DiffMorpher's 16 frames in 50 steps, LoRAs fitted in the standard preset's steps and in the paper's."""
    standard, steps = MorphRequest.presets["standard"], b.steps or 50
    standard = standard | {"steps": steps, "lora_steps": max(1, standard["lora_steps"] * steps // 50)}
    paper = MorphRequest.presets["paper"]
    paper = paper | {k: b.part(paper[k], least) for k, least in (("steps", 4), ("lora_steps", 1))}
    with b.models() as models, fits(models.device) as spans:
        warm(models, b.networks["sd"])
        for preset, change, share in (("standard", standard, 1.0), ("paper", paper, b.share)):
            r = b.morph("sd", **change)
            figures = measure(models, r)
            line = {"network": "sd", "preset": preset, "share": share, "size": r.size, "steps": r.steps}
            yield line | {"lora_steps": r.lora_steps, "lora_fit_s": round(spans.pop(), 3)} | figures


def interpolate(b: Bench) -> Iterator[Line]:
    """*Interpolate*: the draft of 9 frames, and the paper preset's 17 in that share of its steps.

    CLIP, which may be the preset's judge, is no part of the network: the smoothest way is taken.
    """
    paper = InterpolateRequest.presets["paper"]
    part = {"picker": "smoothest", "steps": b.part(paper["steps"], 4), "invert_steps": b.part(paper["invert_steps"])}
    whole = b.draft("sd", frames=17, **paper | part)
    with b.models() as models:
        warm(models, b.networks["sd"])
        for preset, r, share in (("draft", b.draft("sd"), 1.0), ("paper", whole, b.share)):
            line = {"network": "sd", "preset": preset, "share": share, "size": r.size, "steps": r.steps}
            line |= {"candidates": r.candidates, "picker": r.picker, "invert_steps": r.invert_steps}
            yield line | measure(models, r)


def live(b: Bench) -> Iterator[Line]:
    """Drawing live, the page left out: every update has its strokes moved by a pixel, as a hand would."""
    for name, model in b.networks.items():
        side, plain = b.side(name), DrawRequest.presets["live"] | {"model": model, "size": b.side(name)}
        layers = (Image.open(DRAWINGS / f"own-daisy-{n}.png").convert("RGBA") for n in ("sketch", "strokes"))
        sketch, strokes = (layer.resize((side, side)) for layer in layers)
        with b.models() as models:
            warm(models, model)
            settle(models.device)
            took, rows, since = [], 0, 0.0
            while len(took) < WARM + 3 or perf_counter() - since < b.seconds:
                begun = perf_counter()
                if len(took) == WARM:
                    since = begun
                moved = ImageChops.offset(strokes, len(took), 0)
                rows = done(models, DrawRequest(sketch, moved, **plain)).evaluations
                took.append(perf_counter() - begun)
            counted = took[WARM:]
            line = {"network": name, "size": side, "updates": len(counted), "evaluations_per_update": rows}
            line |= {"controls": sorted(models.load(model).resident.controls), "first_s": round(took[0], 3)}
            line |= {"median_s": round(median(counted), 4), "slowest_s": round(max(counted), 4)}
            yield line | {"updates_per_s": round(len(counted) / sum(counted), 2)} | peak(models.device)


def precision(b: Bench) -> Iterator[Line]:
    """The draft in float32 against half precision: how far the pictures are apart (of 255), and how much faster."""
    on_cuda = pick_device(b.device).type == "cuda"
    half = (torch.bfloat16, torch.float16) if on_cuda else (torch.bfloat16,)  # no CPU is given float16 by the engine
    for name, model in b.networks.items():
        plain, before = None, 0.0
        for dtype in (torch.float32, *half):
            with b.models(dtype) as models:
                warm(models, model)
                r = b.draft(name)
                job(models, r)
                settle(models.device)
                whole, _, result = job(models, r)
                line = {"network": name, "dtype": str(dtype).removeprefix("torch."), "size": r.size, "steps": r.steps}
                line |= {"whole_s": round(whole, 3)} | peak(models.device) | notes(result)
            own = np.stack([np.asarray(p, np.float32) for p in result.frames[1:-1]])
            if plain is None:
                plain, before = own, whole
                line["contrast"] = round(float(own.std()), 2)  # the pictures' own spread, beside which to read the gap
            else:
                gap = np.abs(own - plain)
                line |= {"difference": round(float(gap.mean()), 3), "speedup": round(before / whole, 2)}
                line["worst_frame"] = round(float(gap.mean((1, 2, 3)).max()), 3)
            yield line


def memory(b: Bench) -> Iterator[Line]:
    """A draft and a morph without LoRAs within budgets of memory, the allocator held to them."""
    if pick_device(b.device).type != "cuda":
        yield {"skipped": "budgets are for CUDA: elsewhere nothing holds a process to less than the machine has"}
        return
    # The morph's steps look at both pictures, which is what it keeps most of.
    jobs = {"interpolate": b.draft("sd"), "morph": b.morph("sd", lora="none")}
    total = torch.cuda.get_device_properties(pick_device(b.device)).total_memory
    for gb in BUDGETS:
        for what, r in jobs.items():
            line: Line = {"network": "sd", "budget_gb": gb, "job": what, "size": r.size, "finished": False}
            yield line | ({"skipped": "the device has less"} if gb << 30 > total else within(b, gb, r))


def within(b: Bench, gb: int, r: Any) -> Line:
    """How a request fares in so many GB."""
    torch.cuda.set_per_process_memory_fraction(1.0)  # the last budget's
    try:
        with b.models(memory=gb) as models:
            try:
                plan = {"plan": vars(models.load(r.model).resident.plan)}
                return plan | measure(models, r) | {"finished": True}
            except (EngineError, torch.OutOfMemoryError) as e:
                return {"said": str(e)[:300]} | peak(models.device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


FIGURES: dict[str, Callable[[Bench], Iterator[Line]]] = {
    f.__name__: f for f in (network, morph, interpolate, live, precision, memory)
}
