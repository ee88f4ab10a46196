"""DiffMorpher's morph of 16 frames against the plain way of `benchmarks.naive`: fit, frames, whole, second run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.naive import Naive
from benchmarks.tiny import done, make_network
from engine.checkpoints.manager import ModelManager
from engine.context import Context
from engine.diffusion import attention, lora
from engine.diffusion.guidance import Conditioning
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import gaussian, generator
from engine.diffusion.words import Words
from engine.jobs.cache import Cache
from engine.methods.morph import Job, between, redraw
from engine.requests import Done, MorphRequest, result
from engine.vision import images, perceptual

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
STEPS, FRAMES, FIT = 50, 16, 20


def request(model: str) -> MorphRequest:
    pair = json.loads((EXAMPLES / "pairs.json").read_text(encoding="utf8"))[0]
    pictures, prompts = tuple(images.read(EXAMPLES / pair[k]) for k in "ab"), (pair["prompt"], pair["prompt_b"])
    own = {"steps": STEPS, "frames": FRAMES, "lora_steps": FIT, "fit": "crop"}
    return MorphRequest(pictures, prompts=prompts, model=model, **own)


@torch.no_grad()
def errors(net: LatentDiffusion, z: Tensor, prompts: Words, stack: lora.LoraStack) -> list[float]:
    """How well each LoRA knows its picture: mean squared error of the network's own prediction at 64 fixed levels."""
    out, n, sigmas = [], 64, net.schedule.training
    t = ((torch.rand(n, generator=generator(1, 9)) + torch.arange(n)) / n * len(sigmas)).long()
    eps, s = gaussian(z.shape[1:], [generator(1, 8)] * n), sigmas[t]
    with lora.attach(net, stack):
        for k in range(len(z)):
            row = Conditioning(prompts[k : k + 1], lora_weights=torch.eye(len(z))[k : k + 1])
            out.append(float(net.errors(z[k].expand(n, -1, -1, -1), eps.to(z), s, [row]).mean()))
    return out


def fit_until(net: LatentDiffusion, z: Tensor, prompts: Words, wanted: list[float]) -> tuple[float, int, list[float]]:
    """Seconds, steps (10, 20, 40 or 80) and errors of the first fit in one batch that knows the pictures as well."""
    for steps in (10, 20, 40, 80):
        begun = perf_counter()
        stack = result(lora.fit(net, z, prompts, steps, 16, net.resident.lora_rate, 0, 2, 0.0))
        took = perf_counter() - begun
        got = errors(net, z, prompts, stack)
        if all(g <= w for g, w in zip(got, wanted, strict=True)):
            break
    return took, steps, got


def stack_of(apart: list[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> lora.LoraStack:
    """The plain way's LoRAs as the engine has them."""
    names = apart[0][0]
    return lora.LoraStack({n: tuple(torch.stack([one[side][n] for one in apart]) for side in (0, 1)) for n in names})


def time(models: ModelManager, r: MorphRequest, cache: Cache) -> tuple[float, Done]:
    begun = perf_counter()
    result = done(models, r, cache)
    return perf_counter() - begun, result


@torch.no_grad()
def frames_of(
    models: ModelManager, r: MorphRequest, noise: Tensor, prompts: Words, stack: lora.LoraStack
) -> tuple[float, Tensor]:
    """Seconds and pictures of the whole way at even places, from given LoRAs and noises: both ends, then all frames."""
    context = Context(models)
    net = result(context.load(r.model, ()))
    begun = perf_counter()
    job = Job(
        context, r, [0, 1], ["a", "b"], noise, prompts, net.schedule.sigmas(r.steps), [stack.only(0), stack.only(1)]
    )
    with lora.attach(net, stack):
        again, features = result(redraw(job, noise, ["a", "b"]))
        places = [(0, i / (r.frames - 1)) for i in range(1, r.frames - 1)]
        with attention.mix(net, features):
            z = result(between(job, noise, places, job.sigmas, ""))
    x = net.decode(torch.cat([again[:1], z, again[1:]]))
    return perf_counter() - begun, x


def measure(model: str, device: str, repeats: int) -> dict[str, Any]:
    """On the network asked for, and with "tiny" in front on a small one of Stable Diffusion's shape."""
    figures = one(model, device, repeats)
    print(figures, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        small = one(str(make_network(Path(folder), shape="small")), device, repeats)
        figures |= {f"tiny_{k}": v for k, v in small.items() if k != "model"}
    return figures


def one(model: str, device: str, repeats: int) -> dict[str, Any]:
    models, plain = ModelManager(device), ModelManager(device, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(models, plain, request(model), Cache(folder))
        rounds = [pair.measure() for _ in range(repeats)]
    last, net = rounds[-1], pair.net
    out = {"model": model, "device": str(net.device), "dtype": str(net.dtype).removeprefix("torch.")}
    out |= {"frames": FRAMES, "steps": STEPS}
    for name in ("fit_speedup", "frames_speedup", "naive_over_engine", "warm_speedup"):
        out[name] = round(median(r[name] for r in rounds), 2)
    for name in ("frames_difference", "probe_difference"):
        out[name] = round(max(r[name] for r in rounds), 3)
    return out | {k: v for k, v in last.items() if k not in out}


class Pair:
    """Two pictures, the engine with its ``net``, and the plain way with one of float32."""

    def __init__(self, models: ModelManager, plain: ModelManager, r: MorphRequest, cache: Cache):
        self.models, self.r, self.cache = models, r, cache
        self.net, slow = models.load(r.model), plain.load(r.model)
        self.x = images.to_tensor([images.fit_frame(p, (self.net.size, self.net.size), "fit") for p in r.pictures])
        with torch.no_grad():
            self.z, self.prompts = self.net.encode(self.x), self.net.embed(list(r.prompts))
            self.z32, self.prompts32 = slow.encode(self.x), slow.embed(list(r.prompts))
        self.slow, self.naive = slow, Naive(slow, STEPS)
        self.places = [i / (FRAMES - 1) for i in range(FRAMES)]
        result(lora.fit(self.net, self.z, self.prompts, 1, 16, self.net.resident.lora_rate))  # the first step is slow
        self.naive.fit(self.z32[:1], self.prompts32[:1], 1, 16, 2e-4)

    def measure(self) -> dict[str, Any]:
        """One round: fits, frames, the whole, the second run, the quick look."""
        begun = perf_counter()
        apart = [self.naive.fit(self.z32[i : i + 1], self.prompts32[i : i + 1], 200, 16, 2e-4) for i in (0, 1)]
        slow = perf_counter() - begun
        wanted = errors(self.slow, self.z32, self.prompts32, stack_of(apart))
        took, steps, got = fit_until(self.net, self.z, self.prompts, wanted)
        out = {"fit_speedup": slow / took, "fit_steps": steps}
        out |= {"fit_errors": [round(e, 4) for e in got], "fit_errors_naive": [round(e, 4) for e in wanted]}
        return out | self.frames(apart) | self.whole()

    @torch.no_grad()
    def frames(self, apart: list) -> dict[str, Any]:
        """Both ways from the same LoRAs and noises."""
        noise = []
        for i, (a, b) in enumerate(apart):
            self.naive.merge({n: b[n] @ a[n] for n in a})
            noise.append(self.naive.invert(self.z32[i : i + 1], self.prompts32[i : i + 1]))
        self.naive.merge({})
        begun = perf_counter()
        ends = [self.prompts32[:1], self.prompts32[1:]]
        single = self.naive.pictures(self.naive.way(noise, ends, apart, self.places))
        slow = perf_counter() - begun
        top = self.net.schedule.sigmas(STEPS)[0]
        scaled = torch.cat(noise) * (1 + top**2) ** 0.5  # x0 + σ·ε, as the engine has it
        quick, batched = frames_of(self.models, self.r, scaled, self.prompts, stack_of(apart))
        return {
            "frames_speedup": slow / quick,
            "frames_difference": float((single - batched).abs().mean()) * 127.5,
        }

    def whole(self) -> dict[str, Any]:
        begun = perf_counter()
        with torch.no_grad():
            self.naive.whole(self.slow.encode(self.x), self.slow.embed(list(self.r.prompts)), FRAMES)
        slow = perf_counter() - begun
        self.cache.clear()
        cold, made = time(self.models, self.r, self.cache)
        again, _ = time(self.models, self.r, self.cache)
        # The quick look's curve against that of all frames in all steps, at the places of the quick look.
        even = time(self.models, replace(self.r, reschedule=False), self.cache)[1]
        lengths = perceptual.steps(self.net, images.to_tensor(list(even.frames))).tolist()
        gap = self.gap(perceptual.arc(self.places, lengths))
        out = {"naive_over_engine": slow / cold, "naive_s": round(slow, 1), "engine_s": round(cold, 1)}
        out |= {"warm_speedup": cold / again, "warm_s": round(again, 1), "probe_difference": gap}
        return out | {"fit_bytes": sum(len(f) for f in made.files.values()), "quality": dict(made.quality)}

    def gap(self, shares: list[float]) -> float:
        """Largest difference of two arc-length curves, each 0 … 1: that of the quick look, and (places, shares)."""
        seen: list[tuple[list[float], list[float]]] = []
        own = perceptual.even

        def even(at: list[float], lengths: list[float], frames: int) -> list[float]:
            seen.append((list(at), list(lengths)))
            return own(at, lengths, frames)

        perceptual.even = even
        try:
            time(self.models, self.r, self.cache)
        finally:
            perceptual.even = own
        quick, grid = perceptual.arc(*seen[0]), torch.linspace(0, 1, 33).tolist()
        return max(abs(_at(g, seen[0][0], quick) - _at(g, self.places, shares)) for g in grid)


def _at(x: float, xs: list[float], ys: list[float]) -> float:
    k = max(1, min(sum(v < x for v in xs), len(xs) - 1))
    return ys[k - 1] + (x - xs[k - 1]) / (xs[k] - xs[k - 1]) * (ys[k] - ys[k - 1])
