"""DiffMorpher (Zhang et al. 2023, arXiv 2312.07409; methods.md §2), through two or more pictures.

A LoRA is fitted to every picture; each picture is inverted with its own LoRA and denoised again, while what enters the
decoder's self-attentions is kept. A frame between two pictures then walks down from the slerp of their noises, with the
mix of their LoRAs, of their words and, for the first steps, of what was kept. A quick look at few frames in few steps
says where the frames have to stand so that the picture changes evenly.

What a picture needs by itself (its LoRA, its noise, its features) is made once and kept on disk by content.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from engine.checkpoints import lora_files as lorafile
from engine.checkpoints.manager import Models
from engine.diffusion import attention as hooks
from engine.diffusion import lora
from engine.diffusion.geometry import adain, lerp, slerp
from engine.diffusion.lora import Bank
from engine.diffusion.model import Network, Row
from engine.diffusion.sampling import sample
from engine.requests import Done, Event, Frame, MorphRequest, Preview, Progress, within
from engine.vision import images, perceptual

VERSION = 1  # of what is kept: with another one, nothing kept before is found
TOGETHER = 4  # pictures fitted in one batch: every row also pays for the LoRAs of the others
PROBE_FRAMES, PROBE_STEPS = 9, 8  # of the quick look
PREVIEW_EVERY = 0.2  # seconds
TRAINED = 3  # a row forwards and backwards counts as so many rows in the progress bar
DECODE = 3


@dataclass
class Run:
    """What one request works with. K different pictures; ``of`` says which of them each keyframe is."""

    net: Network
    models: Models
    request: MorphRequest
    of: list[int]
    names: list[str]  # content of each different picture and its words
    z: Tensor  # (K, C, h, w)
    words: Tensor  # (K, L, D)
    look: Any  # latents → small pictures
    levels: list[float]  # falling, the last one 0
    banks: list[Bank] = field(default_factory=list)  # of each different picture
    bank: Bank | None = None  # all of them
    notes: list[str] = field(default_factory=list)
    total: float = 1.0
    done: float = 0.0
    shown: float = 0.0

    def known(self, key: Any, kind: str) -> dict[str, Tensor] | None:
        return self.models.cache.get(kind, (VERSION, self.net.fingerprint, key))

    def keep(self, key: Any, kind: str, about: str, tensors: dict[str, Tensor]) -> None:
        self.models.cache.put(kind, (VERSION, self.net.fingerprint, key), tensors, about)

    def progress(self, rows: float, doing: str) -> Progress:
        self.done += rows
        return Progress(min(self.done / self.total, 0.999), doing)

    @property
    def rate(self) -> float:
        return self.request.lora_rate or self.net.lora_rate

    @property
    def depth(self) -> int:
        """How many steps look at both pictures: the first λ of them, whatever their number."""
        return math.ceil(self.request.attention * self.request.steps - 1e-9)

    def leg(self, k: int) -> tuple[int, int]:
        """The two different pictures between which leg ``k`` runs."""
        return self.of[k], self.of[(k + 1) % len(self.of)]

    @property
    def legs(self) -> int:
        return len(self.of) if self.request.loop else len(self.of) - 1

    def shares(self, places: Sequence[tuple[int, float]]) -> Tensor:
        """(n, K): how much of each picture belongs to a place, which is a leg and how far along it, 0 … 1."""
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

    def rows(self, words: Tensor, mix: Tensor, blend: Tensor | None = None) -> list[Row]:
        return [Row(words, mix=mix if self.bank else None, blend=blend)]

    def walk(self, x: Tensor, levels: list[float], rows: list[Row], doing: str, cells: Sequence[int] = ()):
        """Walks rows ``x`` along ``levels`` with progress, and previews for ``cells``; returns where they end."""
        for state in sample(self.net.field(rows), x, levels):
            x = state.x
            yield self.progress(len(x), doing)
            if len(cells) and perf_counter() - self.shown > PREVIEW_EVERY:
                for i, picture in zip(cells, images.to_pictures(self.look(state.x0)), strict=True):
                    yield Preview(i, picture)
                self.shown = perf_counter()
        return x


def morph(models: Models, request: MorphRequest) -> Iterator[Event]:
    """`Frame`s of the way through the pictures. The pictures themselves are drawn again too, unless ``exact_ends``."""
    r, started = request, perf_counter()
    yield Progress(0.0, f"loading {r.model}")
    net = yield from models.loading(r.model)
    before = net.evaluations
    models.cache.trouble = ""
    size = images.frame_size(r.pictures[0], r.fit, r.size or net.size, net.multiple)
    keys = [images.fitted(p, size, r.fit) for p in r.pictures]
    at = [k * (r.frames - 1) for k in range(len(keys))]
    for i, picture in zip(at, keys, strict=True):
        yield Preview(i, picture)
    run = _run(net, models, r, keys)
    if r.lora != "none":
        run.banks = yield from fitted(run)
        run.bank = Bank.joined(run.banks)
    with ExitStack() as stack:
        if run.bank:
            stack.enter_context(lora.attached(net, run.bank, r.form))
        noise, whose = yield from inverted(run)
        again, features = yield from regenerated(run, noise, whose)
        ends = keys if r.exact_ends else images.to_pictures(net.decode(again[run.of]))
        frames = dict(zip(at, ends, strict=True))
        yield from (Frame(i, frames[i]) for i in at)
        stack.enter_context(hooks.blended(net, features, r.own))
        places = [i / (r.frames - 1) for i in range(r.frames)]
        ways = [places] * run.legs
        if r.reschedule:
            ways = yield from probed(run, noise)
        inner = [(k, w) for k, way in enumerate(ways) for w in way[1:-1]]
        cells = [k * (r.frames - 1) + i for k in range(run.legs) for i in range(1, r.frames - 1)]
        for start in range(0, len(inner), net.batch):
            part, doing = slice(start, start + net.batch), "drawing the frames"
            if len(inner) > net.batch:
                doing += f", from number {cells[start] + 1}"
            x = yield from drawn(run, noise, inner[part], run.levels, doing, cells[part])
            for i, z in zip(cells[part], x.split(1), strict=True):
                frames[i] = images.to_pictures(net.decode(z))[0]
                run.done += DECODE
                yield Frame(i, frames[i])
    yield Progress(0.999, "measuring the way")
    pictures = tuple(frames[i] for i in range(r.total))
    quality = perceptual.quality(net, images.to_tensor(list(pictures)), images.to_tensor(keys), at, r.loop)
    yield Progress(1.0, "done")
    settings = r.settings() | {"width": size[0], "height": size[1]}
    run.notes += net.notes(*r.words())
    if models.cache.trouble:
        run.notes.append(models.cache.trouble)
    yield Done(pictures, settings, perf_counter() - started, net.evaluations - before, tuple(run.notes), quality,
               _files(run))  # fmt: skip


def _run(net: Network, models: Models, r: MorphRequest, keys: list[Image]) -> Run:
    """Encodes what is different among the pictures and words, once each."""
    words = r.words()
    given = [*r.loras, *[b""] * len(keys)]
    names = [repr((images.digest(p), w, images.digest_of(f))) for p, w, f in zip(keys, words, given, strict=False)]
    different = list(dict.fromkeys(names))
    first = [names.index(n) for n in different]
    x = images.to_tensor([keys[i] for i in first])
    z = net.encode(x)
    run = Run(net, models, r, [different.index(n) for n in names], different, z, net.embed([words[i] for i in first]),
              net.previewer(z, x), net.levels(r.steps))  # fmt: skip
    n, inner = len(different), run.legs * (r.frames - 2)
    fits = r.lora_steps * r.lora_draws * TRAINED * n if r.lora != "none" else 0
    probe = run.legs * PROBE_FRAMES * (min(PROBE_STEPS, r.steps) + DECODE) if r.reschedule else 0
    run.total = fits + n * (r.steps - 1) + n * r.steps + probe + inner * (r.steps + DECODE)
    return run


# ------------------------------------------------------------------------------------- what a picture needs by itself


def fitted(run: Run) -> Generator[Event, None, list[Bank]]:
    """A LoRA for every picture: brought along, remembered, or fitted now, those in one batch (eq. 3)."""
    r, banks, missing = run.request, dict[int, Bank](), []
    given = {run.of[k]: f for k, f in enumerate(r.loras) if f}
    budget = r.lora_steps * r.lora_draws * TRAINED
    for k in range(len(run.names)):
        if k in given:
            banks[k], note = lorafile.from_bytes(run.net, given[k], f"LoRA of picture {run.of.index(k) + 1}")
            run.notes += [note] if note else []
        elif found := run.known(_fit_key(run, k), "lora"):
            names = sorted({n.rpartition(" ")[0] for n in found})
            banks[k] = Bank(
                {n: (found[f"{n} A"].to(run.net.device), found[f"{n} B"].to(run.net.device)) for n in names}
            )
        else:
            missing.append(k)
            continue
        yield run.progress(budget, "LoRAs are known")
    for start in range(0, len(missing), TOGETHER):
        now = missing[start : start + TOGETHER]
        fit = lora.fit(run.net, run.z[now], run.words[now], r.lora_steps, r.lora_rank, run.rate, r.seed,
                       r.lora_draws, r.lora_patience)  # fmt: skip
        begun = run.done / run.total
        run.done += budget * len(now)
        bank = yield from within(fit, begun, run.done / run.total)
        for i, k in enumerate(now):
            banks[k] = bank.only(i)
            flat = {
                f"{n} {side}": t for n, pair in banks[k].factors.items() for side, t in zip("AB", pair, strict=True)
            }
            run.keep(_fit_key(run, k), "lora", _about(run, k), flat)
    return [banks[k] for k in range(len(run.names))]


def _fit_key(run: Run, k: int) -> Any:
    """All that a LoRA depends on."""
    r = run.request
    return run.names[k], r.lora_steps, r.lora_rank, run.rate, r.lora_draws, r.lora_patience, r.seed


def _about(run: Run, k: int) -> str:
    words = run.request.words()[run.of.index(k)]
    return f"{run.net.name}, picture {run.names[k][2:10]}, {words[:60] or 'no words'}"


def _own(run: Run, k: int) -> Any:
    """All that the inversion of a picture depends on."""
    return (_fit_key(run, k) if run.bank else run.names[k]), run.bank is not None, run.request.steps


def inverted(run: Run) -> Generator[Event, None, tuple[Tensor, list[Any]]]:
    """The noise of every picture (K, C, h, w): DDIM backwards, each under its own LoRA and words, without guidance."""
    own = [_own(run, k) for k in range(len(run.names))]
    found = {k: t["noise"].to(run.z) for k, key in enumerate(own) if (t := run.known(key, "inversion"))}
    missing = [k for k in range(len(own)) if k not in found]
    rising = run.levels[-2::-1]
    run.done += len(found) * (len(rising) - 1)
    if missing:
        rows = run.rows(run.words[missing], torch.eye(len(own))[missing])
        x = yield from run.walk(run.z[missing], rising, rows, "finding each picture's noise")
        for k, noise in zip(missing, x.split(1), strict=True):
            found[k] = noise
            run.keep(own[k], "inversion", _about(run, k), {"noise": noise})
    return torch.cat([found[k] for k in range(len(own))]), own


def regenerated(run: Run, noise: Tensor, own: list[Any]) -> Generator[Event, None, tuple[Tensor, hooks.Features]]:
    """The pictures drawn again (K, C, h, w), and what entered the decoder's self-attentions in the first λ of steps."""
    mix = torch.eye(len(own)) if run.fixed is None else run.fixed.expand(len(own), -1)
    keep = run.levels[: run.depth]
    company = (run.fixed.tolist(), run.request.form, own) if run.fixed is not None else None
    keys = [(o, run.depth, company) for o in own]
    found = [run.known(key, "features") for key in keys]
    run.done += run.request.steps * sum(f is not None for f in found)
    missing = [k for k, f in enumerate(found) if f is None]
    names = sorted(hooks.self_attentions(run.net.unet))
    if missing:
        rows = run.rows(run.words[missing], mix[missing])
        with hooks.recorded(run.net, frozenset(keep)) as features:
            z = yield from run.walk(noise[missing], run.levels, rows, "drawing the pictures again")
        for i, k in enumerate(missing):
            found[k] = {f"{names.index(n)} {keep.index(s)}": t[i] for (n, s), t in features.items()} | {"z": z[i]}
            run.keep(keys[k], "features", _about(run, k), found[k])
    kept = [f for f in found if f is not None]
    z = torch.stack([f["z"].to(run.z) for f in kept])
    places = [n for n in kept[0] if n != "z"]
    return z, {
        (names[int(n.split()[0])], keep[int(n.split()[1])]): torch.stack([f.pop(n).to(run.z.device) for f in kept])
        for n in places
    }


# ------------------------------------------------------------------------------------------------- what lies between


def drawn(run: Run, noise: Tensor, places: Sequence[tuple[int, float]], levels: list[float], doing: str,
          cells: Sequence[int] = ()) -> Generator[Event, None, Tensor]:  # fmt: skip
    """Frames at ``places`` (leg, how far along it), all in one batch (eq. 4 to 8)."""
    a, b = (torch.tensor([run.leg(k)[i] for k, _ in places]) for i in (0, 1))
    w = torch.tensor([w for _, w in places], dtype=torch.float64)
    x = slerp(noise[a], noise[b], w)
    if run.request.adain:
        std, mean = torch.std_mean(noise, dim=(2, 3), keepdim=True, correction=0)
        x = adain(x, lerp(mean[a], mean[b], w), lerp(std[a], std[b], w))
    shares = run.shares(places)
    mix = shares if run.fixed is None else run.fixed.expand(len(places), -1)
    rows = run.rows(lerp(run.words[a], run.words[b], w), mix, shares if run.depth else None)
    x = yield from run.walk(x, levels, rows, doing, cells)
    return x


def probe_levels(levels: list[float], steps: int) -> list[float]:
    """About ``steps`` of the levels, evenly chosen, the first and the last among them: what was kept still serves."""
    n = len(levels) - 1
    picked = sorted({round(i * n / min(steps, n)) for i in range(min(steps, n))})
    return [*(levels[i] for i in picked), 0.0]


def probed(run: Run, noise: Tensor) -> Generator[Event, None, list[list[float]]]:
    """Where the frames of every leg have to stand so that the picture changes evenly (§3.5; methods.md §2.2 D).

    Measured on few frames in few steps.
    """
    places, last = [i / (PROBE_FRAMES - 1) for i in range(PROBE_FRAMES)], run.request.frames - 1
    # The ends are drawn in as few steps as the rest: better ones would seem farther away than they are.
    every = [(k, w) for k in range(run.legs) for w in places]
    x = yield from drawn(run, noise, every, probe_levels(run.levels, PROBE_STEPS), "looking where the picture changes")
    seen = run.net.decode(x).cpu()
    run.done += DECODE * len(every)
    out = []
    for k, part in enumerate(seen.split(PROBE_FRAMES)):
        out.append(perceptual.even(places, perceptual.steps(run.net, part).tolist(), run.request.frames))
        # Each is shown where it will about be, until the frame itself comes.
        nearest = {round(w * last): p for w, p in zip(places, part, strict=True)}
        for i in sorted(set(nearest) - {0, last}):
            yield Preview(k * last + i, images.to_pictures(nearest[i][None])[0])
    return out


def _files(run: Run) -> dict[str, bytes]:
    """The LoRAs fitted here, one file a keyframe."""
    out = {}
    if not run.banks:
        return out
    for i, k in enumerate(run.of):
        if run.of.index(k) == i and not (i < len(run.request.loras) and run.request.loras[i]):
            about = {"model": run.net.name, "prompt": run.request.words()[i], "picture": run.names[k][2:26]}
            out[f"lora-{i + 1}.safetensors"] = lorafile.to_bytes(run.banks[k], about)
    return out
