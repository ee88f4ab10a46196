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
from benchmarks.tiny import make_network
from engine.checkpoints.manager import Models
from engine.diffusion import lora
from engine.diffusion.model import Network, Row
from engine.diffusion.sampling import gaussian, generator
from engine.jobs.cache import Cache
from engine.jobs.run import run
from engine.requests import Done, MorphRequest, result
from engine.vision import images, perceptual

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
STEPS, FRAMES, FIT = 50, 16, 20


def request(model: str) -> MorphRequest:
    pair = json.loads((EXAMPLES / "pairs.json").read_text())[0]
    pictures = tuple(images.read(EXAMPLES / pair[k]) for k in "ab")
    return MorphRequest(pictures, prompts=(pair["prompt"], pair["prompt_b"]), model=model, steps=STEPS, frames=FRAMES,
                        lora_steps=FIT, fit="crop")  # fmt: skip


@torch.no_grad()
def errors(net: Network, z: Tensor, words: Tensor, bank: lora.Bank) -> list[float]:
    """How well each LoRA knows its picture: mean squared error of the noise at 64 fixed levels."""
    out, n = [], 64
    t = ((torch.rand(n, generator=generator(1, 9)) + torch.arange(n)) / n * len(net.sigmas)).long()
    eps, s = gaussian(z.shape[1:], [generator(1, 8)] * n), net.sigmas[t]
    with lora.attached(net, bank):
        for k in range(len(z)):
            mix = torch.eye(len(z))[k : k + 1]
            found = net.noise_in(z[k] + s.to(z).view(-1, 1, 1, 1) * eps.to(z), s, [Row(words[k : k + 1], mix=mix)])
            out.append(float((found.cpu() - eps).square().mean()))
    return out


def fit_until(
    net: Network, z: Tensor, words: Tensor, wanted: list[float], rate: float
) -> tuple[float, int, list[float]]:
    """Seconds, steps (10, 20, 40 or 80) and errors of the first fit in one batch that knows the pictures as well."""
    for steps in (10, 20, 40, 80):
        begun = perf_counter()
        bank = result(lora.fit(net, z, words, steps, 16, rate, 0, 2, 0.0))
        took = perf_counter() - begun
        got = errors(net, z, words, bank)
        if all(g <= w for g, w in zip(got, wanted, strict=True)):
            break
    return took, steps, got


def timed(models: Models, r: MorphRequest) -> tuple[float, Done]:
    begun, event = perf_counter(), None
    for e in run(models, r):
        event = e
    assert isinstance(event, Done)
    return perf_counter() - begun, event


@torch.no_grad()
def frames_of(models: Models, r: MorphRequest, noise: Tensor, words: Tensor, bank: lora.Bank) -> tuple[float, Tensor]:
    """Seconds and pictures of the whole way at even places, from given LoRAs and noises: both ends, then all frames."""
    import sys

    from engine.diffusion import attention as hooks

    method = sys.modules["engine.methods.morph"]
    net = models.load(r.model)
    begun = perf_counter()
    job = method.Run(net, models, r, [0, 1], ["a", "b"], noise, words, None, net.levels(r.steps), bank=bank)
    models.cache.clear()
    with lora.attached(net, bank):
        again, features = result(method.regenerated(job, noise, ["a", "b"]))
        places = [(0, i / (r.frames - 1)) for i in range(1, r.frames - 1)]
        with hooks.blended(net, features):
            z = result(method.drawn(job, noise, places, job.levels, ""))
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
    r = request(model)
    with tempfile.TemporaryDirectory() as folder:
        models, plain = Models(device), Models(device, torch.float32)
        models.cache = plain.cache = Cache(folder)
        net, slow = models.load(model), plain.load(model)
        pictures = [images.fitted(p, (net.size, net.size), "fit") for p in r.pictures]
        x = images.to_tensor(pictures)
        with torch.no_grad():
            z, words = net.encode(x), net.embed(list(r.prompts))
            z32, words32 = slow.encode(x), slow.embed(list(r.prompts))
        naive = Naive(slow, STEPS)
        rate = net.lora_rate
        result(lora.fit(net, z, words, 1, 16, rate))  # the first step of a process is slow
        naive.fit(z32[:1], words32[:1], 1, 16, 2e-4)
        fit, frame, whole, warm, gaps, curve = [], [], [], [], [], []
        for _ in range(repeats):
            begun = perf_counter()
            apart = [naive.fit(z32[i : i + 1], words32[i : i + 1], 200, 16, 2e-4) for i in (0, 1)]
            slow_fit = perf_counter() - begun
            known = lora.Bank({n: (torch.stack([f[0][n] for f in apart]), torch.stack([f[1][n] for f in apart]))
                               for n in apart[0][0]})  # fmt: skip
            wanted = errors(slow, z32, words32, known)
            took, steps, got = fit_until(net, z, words, wanted, rate)
            fit.append(slow_fit / took)

            with torch.no_grad():
                noise = []
                for i, (a, b) in enumerate(apart):
                    naive.merge({n: b[n] @ a[n] for n in a})
                    noise.append(naive.invert(z32[i : i + 1], words32[i : i + 1]))
                naive.merge({})
                begun = perf_counter()
                places = [i / (FRAMES - 1) for i in range(FRAMES)]
                single = naive.pictures(naive.way(noise, [words32[:1], words32[1:]], apart, places))
                slow_frames = perf_counter() - begun
            top = net.levels(STEPS)[0]
            scaled = torch.cat(noise) * (1 + top**2) ** 0.5  # x0 + σ·ε, as the engine has it
            quick, batched = frames_of(models, r, scaled, words, known)
            frame.append(slow_frames / quick)
            gaps.append(float((single - batched).abs().mean()) * 127.5)

            begun = perf_counter()
            with torch.no_grad():
                zz, ww = slow.encode(x), slow.embed(list(r.prompts))
                naive.whole(zz, ww, FRAMES)
            slow_whole = perf_counter() - begun
            models.cache.clear()
            cold, done = timed(models, r)
            again, _ = timed(models, r)
            whole.append(slow_whole / cold)
            warm.append(cold / again)

            # The quick look's curve against that of all frames in all steps, at the places of the quick look.
            even = timed(models, replace(r, reschedule=False))[1]
            full = images.to_tensor(list(even.frames))
            shares = perceptual.arc(places, perceptual.steps(net, full).tolist())
            curve.append(_apart(models, r, places, shares))
        return {
            "model": model, "device": str(net.device), "dtype": str(net.dtype).removeprefix("torch."),
            "frames": FRAMES, "steps": STEPS,
            "fit_speedup": round(median(fit), 2), "fit_steps": steps,
            "fit_errors": [round(e, 4) for e in got], "fit_errors_naive": [round(e, 4) for e in wanted],
            "frames_speedup": round(median(frame), 2), "frames_difference": round(max(gaps), 2),
            "naive_over_engine": round(median(whole), 2), "naive_s": round(slow_whole, 1), "engine_s": round(cold, 1),
            "warm_speedup": round(median(warm), 2), "warm_s": round(again, 1),
            "probe_difference": round(max(curve), 3),
            "fit_bytes": sum(len(f) for f in done.files.values()), "quality": done.quality,
        }  # fmt: skip


def _apart(models: Models, r: MorphRequest, places: list[float], shares: list[float]) -> float:
    """Largest difference of two arc-length curves, each 0 … 1: that of the quick look, and (places, shares)."""
    seen: list[tuple[list[float], list[float]]] = []
    even = perceptual.even

    def noted(at, lengths, frames):
        seen.append((list(at), list(lengths)))
        return even(at, lengths, frames)

    perceptual.even = noted
    try:
        timed(models, r)
    finally:
        perceptual.even = even
    probe = perceptual.arc(*seen[0])
    grid = torch.linspace(0, 1, 33).tolist()
    return max(abs(_at(g, seen[0][0], probe) - _at(g, places, shares)) for g in grid)


def _at(x: float, xs: list[float], ys: list[float]) -> float:
    k = max(1, min(sum(v < x for v in xs), len(xs) - 1))
    return ys[k - 1] + (x - xs[k - 1]) / (xs[k] - xs[k - 1]) * (ys[k] - ys[k - 1])
