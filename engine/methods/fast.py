"""Morph without LoRAs: only what the frames look at is changed, by a table (FreeMorph, Cao et al. 2025, arXiv
2507.01953; re-implemented from its equations).

All frames of a way from one picture to the next begin as a slerp of the two, walk up the noise together and down again;
step by step a table says whether a frame looks at itself, at the mean of all, or at both pictures. Nothing is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.context import Advance, Context, Output, Steps
from engine.diffusion import attention, sampling
from engine.diffusion.geometry import slerp
from engine.diffusion.guidance import Conditioning, classifier_free
from engine.diffusion.residency import TURBO
from engine.diffusion.sampling import gaussian, generator
from engine.methods.learn import Job, start
from engine.requests import EngineError, Frame, MorphRequest
from engine.vision import images, perceptual

Shares = tuple[tuple[float, str], ...]  # (up to this share of the steps, rule of `attention.follow`)


@dataclass(frozen=True)
class Table:
    """Every number of the method."""

    up: Shares  # while the noise is found
    down: Shares  # while the frames are drawn
    depth: float = 0.8  # share of the schedule that is walked up and down
    iterations: int = 1  # of every step up: evaluations by which it is solved
    guidance: float = 1.0
    keep: float = 1.0  # half the side of the box of low frequencies that stay, of half the latent's side
    keep_beside: float = 1.0  # the same, of the frames next to the ends
    beta: int = 1  # a frame looks at the second picture by the quantile of Beta(beta, beta) at its place; 1: evenly
    rowwise: bool = True  # slerp of every row of the latent by itself


# As published, for Stable Diffusion 2.1 at 768 px: 40 of 50 steps, boxes of 42 and 44 of 48 cells. One step of
# the forty, the thirty-first, is plain between two rules. Not measured here.
PUBLISHED = Table(
    up=((0.4, "plain"), (0.75, "mean"), (0.775, "plain"), (1, "half")),
    down=((0.2, "ends"), (0.6, "joined"), (1, "plain")),
    beta=20,
    iterations=5,
    guidance=7.5,
    keep=42 / 48,
    keep_beside=44 / 48,
)
# Chosen on pairs of assets/examples: with a mean or foreign noise on the way up, or with Beta's weights, the first
# frame leaps away from its picture.
FLORA = Table(up=((1, "plain"),), down=PUBLISHED.down)


def table(family: str) -> Table:
    """The numbers for networks of a family."""
    if family in TURBO:  # weights of few steps burn under guidance
        return replace(PUBLISHED, guidance=1.0)
    return FLORA if family == "flora" else PUBLISHED


def rule(shares: Shares, step: int, steps: int) -> str:
    """What counts in a step, 0 … steps − 1."""
    return next(name for share, name in shares if step < share * steps - 1e-9 or share == 1)


def walked(t: Table, steps: int) -> int:
    """How many of a schedule's steps are walked."""
    return max(1, math.ceil(t.depth * steps - 1e-9))


def evaluations(t: Table, steps: int) -> int:
    """Rows of the network for one frame."""
    return walked(t, steps) * (t.iterations + (1 if t.guidance == 1 else 2))


def fast(context: Context, r: MorphRequest) -> Steps:
    """`Frame`s of the way through the pictures, which are shown as they are."""
    model, t = context.model, table(context.model.resident.family)
    size = images.frame_size(r.pictures[0], r.fit, r.size or model.size, model.multiple)
    keys = [images.fit_frame(p, size, r.fit) for p in r.pictures]
    last = r.frames - 1
    at = [k * last for k in range(len(keys))]
    yield Advance("looking at the pictures", frames=at, pictures=keys)
    job = start(context, r, keys)
    frames = dict(zip(at, keys, strict=True))
    yield from (Frame(i, frames[i]) for i in at)
    for k in range(job.legs):
        cells = range(k * last + 1, k * last + last)
        x = yield from way(job, k, [i / last for i in range(r.frames)], t, cells)
        for i, z in zip(cells, x.split(1), strict=True):
            frames[i] = images.to_pictures(model.decode(z))[0]
            yield Advance("drawing the frames", decoded=1)
            yield Frame(i, frames[i])
    yield Advance("measuring the way")
    pictures = [frames[i] for i in range(r.total)]
    quality = perceptual.quality(model, images.to_tensor(pictures), images.to_tensor(keys), at, r.loop)
    return Output(pictures, {}, quality, job.notes + model.unread(r.words()))


def way(job: Job, k: int, places: Sequence[float], t: Table, cells: Sequence[int]) -> Generator[Advance, None, Tensor]:
    """The frames between the ends of way ``k`` (F − 2, C, h, w), of all its ``places`` (F), 0 and 1 among them."""
    model, (a, b), n = job.context.model, job.leg(k), len(places)
    steps = walked(t, len(job.sigmas) - 1)
    sigmas, w = job.sigmas[-steps - 1 :], torch.tensor(places, dtype=torch.float64)
    x = between(job.z[a], job.z[b], w, t.rowwise)
    words = job.words[[a] * n].lerp(job.words[[b] * n], w)
    share = torch.tensor([beta_quantile(p, t.beta) for p in places])
    row = Conditioning(words, attention_weights=torch.stack([1 - share, share], 1))
    rows, doing = [row], f"finding way {k + 1}" if job.legs > 1 else "finding the way"
    up = {s: rule(t.up, i, steps) for i, s in enumerate(sigmas[-2::-1])}
    with attention.steer(model, up):
        for state in sampling.invert(model.denoiser(rows), x, sigmas[::-1], t.iterations):
            x = state.x
            yield Advance(doing, steps=n)
    if not x.isfinite().all():
        raise EngineError(f"noise of the pictures must be finite, got other numbers from {model.name}")
    if min(t.keep, t.keep_beside) < 1:
        noise = gaussian(x.shape[1:], [generator(job.request.seed, 19)]).to(x) * (1 + sigmas[0] ** 2) ** 0.5
        x = ring(x, noise, [1, *(t.keep_beside if i in (1, n - 2) else t.keep for i in range(1, n - 1)), 1])
    if t.guidance != 1:
        rows = classifier_free(words, model.embed((), [""]), t.guidance)
        rows[0] = replace(rows[0], attention_weights=row.attention_weights)
    with attention.steer(model, {s: rule(t.down, i, steps) for i, s in enumerate(sigmas[:-1])}):
        for state in sampling.sample(model.denoiser(rows), x, sigmas):
            x = state.x
            yield Advance("drawing the frames", steps=n * len(rows), frames=cells, latents=state.x0[1:-1])
    return x[1:-1]


def between(a: Tensor, b: Tensor, w: Tensor, rowwise: bool) -> Tensor:
    """Slerp from ``a`` to ``b`` (C, h, w) at places ``w`` (F,): (F, C, h, w); ``rowwise``: of every row by itself."""
    p, q = (z.expand(len(w), *z.shape) for z in (a, b))
    if not rowwise:
        return slerp(p, q, w)
    own = w.repeat_interleave(a[..., 0].numel())
    return slerp(p.reshape(-1, a.shape[-1]), q.reshape(-1, a.shape[-1]), own).reshape(p.shape)


def ring(x: Tensor, noise: Tensor, keep: Sequence[float]) -> Tensor:
    """``x`` (F, C, h, w) with the frequencies outside a box from ``noise`` (1, C, h, w): in the middle of the shifted
    spectrum stay those less than ``keep`` of half the side away, of every frame."""
    own, other = (torch.fft.fft2(t.float().cpu()) for t in (x, noise))
    away = [torch.fft.fftfreq(n).abs() * 2 for n in x.shape[2:]]
    far = torch.maximum(away[0][:, None], away[1])
    box = far <= torch.tensor(keep).view(-1, 1, 1, 1) + 1e-6
    return torch.fft.ifft2(torch.where(box, own, other)).real.to(x)


def beta_quantile(p: float, n: int) -> float:
    """The place below which Beta(n, n) has the share ``p``: by halving, its integral being a sum of binomials."""
    if p > 0.5:  # where the sum is too near 1 to tell
        return 1 - beta_quantile(1 - p, n)
    low, high = 0.0, 0.5
    for _ in range(50):
        x, m = (low + high) / 2, 2 * n - 1
        below = sum(math.comb(m, j) * x**j * (1 - x) ** (m - j) for j in range(n, 2 * n))
        low, high = (x, high) if below < p else (low, x)
    return (low + high) / 2
