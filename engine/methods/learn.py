"""What DiffMorpher needs of each picture by itself: its LoRA, its noise, its features. Made once, kept by content.

Zhang et al. 2023, arXiv 2312.07409; methods.md §2.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from engine.checkpoints import lora_files
from engine.context import Advance, Context, relay, walk
from engine.diffusion import attention, lora, sampling
from engine.diffusion.guidance import Conditioning
from engine.diffusion.lora import LoraStack
from engine.diffusion.sampling import ITERATIONS
from engine.diffusion.words import Words
from engine.methods.align import Alignment, Moves
from engine.requests import EngineError, MorphRequest
from engine.vision import images

TOGETHER = 4  # pictures fitted in one batch: every row also pays for the LoRAs of the others
Place = tuple[int, float]  # a way from one keyframe to the next, and how far along it, 0 … 1


@dataclass
class Job:
    """What one request works with. K different pictures; ``of`` says which of them each keyframe is."""

    context: Context
    request: MorphRequest
    of: list[int]
    names: list[str]  # content of each different picture and its words
    z: Tensor  # (K, C, h, w)
    words: Words  # (K rows)
    sigmas: list[float]  # falling, the last one 0
    loras: list[LoraStack] = field(default_factory=list)  # of each different picture
    notes: list[str] = field(default_factory=list)
    alignment: Alignment | None = None
    moves: Moves | None = None  # of the rows that are under way

    @property
    def legs(self) -> int:
        return len(self.of) if self.request.loop else len(self.of) - 1

    def leg(self, k: int) -> tuple[int, int]:
        """The two different pictures between which leg ``k`` runs."""
        return self.of[k], self.of[(k + 1) % len(self.of)]

    def weights(self, places: Sequence[Place]) -> Tensor:
        """(n, K): how much of each picture belongs to a place."""
        out = torch.zeros(len(places), len(self.names))
        for row, (k, w) in zip(out, places, strict=True):
            a, b = self.leg(k)
            row[a] += 1 - w
            row[b] += w
        return out

    @property
    def fixed(self) -> Tensor | None:
        """(1, K): the one mix of LoRAs for everything but the inversion, if it is fixed."""
        if self.request.lora != "fixed":
            return None
        at = self.request.fix * (len(self.of) - 1)
        k = min(int(at), len(self.of) - 2)
        w = torch.zeros(1, len(self.names))
        w[0, self.of[k]] += 1 - (at - k)
        w[0, self.of[k + 1]] += at - k
        return w

    @property
    def attending(self) -> int:
        """How many steps look at both pictures: the first λ of them, whatever their number."""
        return math.ceil(self.request.attention * self.request.steps - 1e-9)

    def conditionings(self, words: Words, loras: Tensor, attended: Tensor | None = None) -> list[Conditioning]:
        loras = loras if self.loras else None  # type: ignore[assignment]
        return [Conditioning(words, lora_weights=loras, attention_weights=attended)]

    def blend(self, kept: Tensor, weights: Tensor, first: int) -> Tensor | None:
        """What `attention.mix` looks at where parts move; None: where nothing does."""
        return self.moves.blend(kept, first, len(weights)) if self.moves else None

    # All that a LoRA, an inversion and the features of picture ``k`` depend on.

    def lora_key(self, k: int) -> Any:
        r = self.request
        return self.names[k], r.lora_steps, r.lora_rank, self.rate, r.lora_draws, r.lora_patience, r.seed

    def inversion_key(self, k: int) -> Any:
        return (self.lora_key(k) if self.loras else self.names[k]), bool(self.loras), self.request.steps

    def features_key(self, k: int, whose: list[Any], steps: int) -> Any:
        company = None if self.fixed is None else (self.fixed.tolist(), self.request.form, whose)
        return whose[k], steps, company

    @property
    def rate(self) -> float:
        return self.request.lora_rate or self.context.model.resident.lora_rate

    def about(self, k: int) -> str:
        words = self.request.words()[self.of.index(k)]
        return f"{self.context.model.name}, picture {self.names[k][2:10]}, {words[:60] or 'no words'}"


def start(context: Context, r: MorphRequest, keys: list[Image]) -> Job:
    """Encodes what is different among the pictures and words, once each."""
    words, model = r.words(), context.model
    given = [*r.loras, *[b""] * len(keys)]
    names = [repr((images.digest(p), w, images.digest_of(f))) for p, w, f in zip(keys, words, given, strict=False)]
    different = list(dict.fromkeys(names))
    first = [names.index(n) for n in different]
    z = context.encode([keys[i] for i in first])
    own, of = model.embed([words[i] for i in first]), [different.index(n) for n in names]
    return Job(context, r, of, different, z, own, model.schedule.sigmas(r.steps))


def fit(job: Job) -> Generator[Advance, None, None]:
    """A LoRA for every picture: brought along, remembered, or fitted now, those in one batch (eq. 3)."""
    r, context, model, stacks, missing = job.request, job.context, job.context.model, {}, []
    given = {job.of[k]: f for k, f in enumerate(r.loras) if f}
    for k in range(len(job.names)):
        if k in given:
            name = f"LoRA of picture {job.of.index(k) + 1}"
            factors, note = lora_files.read(model.unet, given[k], name, model.name)
            stacks[k] = LoraStack({n: (a.to(model.device), b.to(model.device)) for n, (a, b) in factors.items()})
            job.notes += [note] if note else []
        elif found := context.get("lora", job.lora_key(k)):
            stacks[k] = LoraStack.unflatten(found, model.device)
            yield Advance("your pictures are known already", fits=r.lora_steps * r.lora_draws)
        else:
            missing.append(k)
    doing = "learning your pictures, step {} of at most {} (error {:.3f})"
    for now in (missing[i : i + TOGETHER] for i in range(0, len(missing), TOGETHER)):
        how = r.lora_steps, r.lora_rank, job.rate, r.seed, r.lora_draws, r.lora_patience
        steps, rows = lora.fit(model, job.z[now], job.words[now], *how), r.lora_draws * len(now)
        stack = yield from relay(
            steps, lambda s, n=rows: Advance(doing.format(s.done, r.lora_steps, s.error), fits=n * s.gained)
        )
        for i, k in enumerate(now):
            stacks[k] = stack.only(i)
            context.put("lora", job.lora_key(k), stacks[k].flatten(), job.about(k))
    job.loras += [stacks[k] for k in range(len(job.names))]


def invert(job: Job) -> Generator[Advance, None, tuple[Tensor, list[Any]]]:
    """The noise of every picture (K, C, h, w), and what it depends on: DDIM backwards, each under its own LoRA and
    words, without guidance."""
    own, context = [job.inversion_key(k) for k in range(len(job.names))], job.context
    found = {k: t["noise"].to(job.z) for k, key in enumerate(own) if (t := context.get("inversion", key))}
    missing = [k for k in range(len(own)) if k not in found]
    doing = "finding each picture's noise"
    yield Advance(doing, steps=len(found) * ITERATIONS * job.request.steps)
    if missing:
        rows = job.conditionings(job.words[missing], torch.eye(len(own))[missing])
        x = job.z[missing]
        for state in sampling.invert(context.model.denoiser(rows), x, job.sigmas[::-1]):
            x = state.x
            yield Advance(doing, steps=len(x))
        if not x.isfinite().all():  # nothing of that is to be kept
            raise EngineError(f"noise of the pictures must be finite, got other numbers from {context.model.name}")
        for k, noise in zip(missing, x.split(1), strict=True):
            found[k] = noise
            context.put("inversion", own[k], {"noise": noise}, job.about(k))
    return torch.cat([found[k] for k in range(len(own))]), own


def redraw(job: Job, noise: Tensor, whose: list[Any]) -> Generator[Advance, None, tuple[Tensor, attention.Features]]:
    """The pictures drawn again (K, C, h, w), and what entered the decoder's self-attentions in the first λ of steps, or
    in as many as there is memory for."""
    context, model, n = job.context, job.context.model, len(whose)
    kept = attention.keeping(model, noise, job.attending)
    keep, job.notes = job.sigmas[: kept.steps], [*job.notes, *kept.notes]
    mix = torch.eye(n) if job.fixed is None else job.fixed.expand(n, -1)
    keys = [job.features_key(k, whose, kept.steps) for k in range(n)]
    found = {k: f for k, key in enumerate(keys) if (f := context.get("features", key)) is not None}
    missing, doing = [k for k in range(n) if k not in found], "drawing the pictures again"
    yield Advance(doing, steps=job.request.steps * len(found))
    layers = sorted(attention.self_attentions(model.unet))
    if missing:
        rows = job.conditionings(job.words[missing], mix[missing])
        with attention.record(model, frozenset(keep), kept.device) as features:
            z = yield from walk(model.denoiser(rows), noise[missing], job.sigmas, doing)
        for i, k in enumerate(missing):
            found[k] = {f"{layers.index(n)} {keep.index(s)}": t[i] for (n, s), t in features.items()} | {"z": z[i]}
            context.put("features", keys[k], found[k], job.about(k))
        features.clear()  # or all of it would be there twice
    z = torch.stack([found[k].pop("z").to(job.z) for k in range(n)])
    stacked = {}
    for name in list(found[0]):
        layer, step = map(int, name.split())
        stacked[layers[layer], keep[step]] = torch.stack([found[k].pop(name).to(kept.device) for k in range(n)])
    return z, stacked


def files(job: Job) -> dict[str, bytes]:
    """The LoRAs fitted here, one file a different picture."""
    r, model, out = job.request, job.context.model, {}
    for k, stack in enumerate(job.loras):
        i = job.of.index(k)
        if not (i < len(r.loras) and r.loras[i]):
            about = {"prompt": r.words()[i], "picture": job.names[k][2:26]}
            out[f"lora-{i + 1}.safetensors"] = lora_files.write(stack.factors, model.unet, model.name, **about)
    return out
