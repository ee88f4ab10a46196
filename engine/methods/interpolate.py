"""Interpolating between Images with Diffusion Models (Wang & Golland 2023, arXiv 2307.12560; methods.md §1).

Frames are made coarse to fine in a binary tree: both parents get the same noise, their latents are mixed (by default
before that, see `between`), and the mixture is denoised under mixed words. Frames and candidates of a level go as one
batch. The other four rows of the paper's Table 1 are here for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from engine.context import Advance, Context, Output, Steps, relay
from engine.diffusion.geometry import MIX, noise_steps, slerp, tree
from engine.diffusion.sampling import gaussian, generator
from engine.diffusion.textual_inversion import invert_text
from engine.diffusion.words import Words
from engine.methods import align
from engine.methods.path import Frames, Path, choose
from engine.methods.pose import find_both
from engine.requests import Frame, InterpolateRequest, Progress
from engine.vision import images
from engine.vision.clip_score import Ranker
from engine.vision.perceptual import quality


def interpolate(context: Context, r: InterpolateRequest) -> Steps:
    """`Frame`s of the path through the pictures, way by way, each coarse to fine; the pictures are the (fitted)
    originals."""
    model, last = context.model, r.frames - 1
    # What is missing is said before the work.
    ranker = context.clip(r.picker) if r.picker.startswith("clip") else None
    weights = partial(model.resident.weights_for, "ddim" if r.scheme == "interpolate" else r.sampler)
    weights()
    size = images.frame_size(r.a, r.fit, r.size or model.size, model.multiple)
    ends = [images.fit_frame(p, size, r.fit) for p in r.pictures]
    frames = {k * last: picture for k, picture in enumerate(ends)}
    yield from (Frame(i, picture) for i, picture in frames.items())
    found, notes = {}, []
    for k, own in enumerate(r.ways()):
        steps = way(context, own, ends[k : k + 2], ranker, weights, k)
        path, said, more = yield from relay(steps, partial(numbered, by=k * last))
        frames |= {k * last + i: picture for i, picture in path.pictures.items()}
        found, notes = found | said, notes + [n for n in more if n not in notes]
    pictures = [frames[i] for i in range(r.total)]
    yield Advance("measuring the way")
    measured = quality(model, images.to_tensor(pictures), images.to_tensor(ends), range(0, r.total, last))
    return Output(pictures, found, measured, notes)


def way(
    context: Context, r: InterpolateRequest, ends: list[Image], ranker: Ranker | None, weights: Callable, before: int
) -> Generator[Advance | Frame | Progress, None, tuple[Path, dict[str, Any], list[str]]]:
    """The frames between two fitted pictures; ``before``: how many ways came before it. Returns its path, settings to
    be kept and notes."""
    model, last = context.model, r.frames - 1
    poses, found, notes = yield from find_both(context, r, ends[0].size)
    z = context.encode(ends)
    texts = [r.prompt, r.prompt_b or r.prompt, r.negative]
    words = yield from embed(context, r, ends, texts)
    parts = yield from align.find(context, r, (r.a, r.b), [(0, 1)], z, words[:2], before)
    path = Path(context, r, words, ranker, poses, {0: z[:1], last: z[1:]}, {0: ends[0], last: ends[1]}, parts)
    path.keys |= {0: content(context, r, ends, "a"), last: content(context, r, ends, "b")}
    with weights():
        yield from SCHEMES[r.scheme](path)
    return path, found, model.unread(texts) + notes + parts.notes


def numbered(event: Any, by: int) -> Any:
    """An event of a way, its frames numbered as those of the whole."""
    if isinstance(event, Frame):
        return replace(event, index=event.index + by)
    return replace(event, frames=[i + by for i in event.frames]) if isinstance(event, Advance) else event


def content(context: Context, r: InterpolateRequest, ends: Sequence[Image], end: str) -> Any:
    """All that the frames of the whole path depend on."""
    free = ("picks", "reseeds", "frames", "fit", "size")
    settings = {k: v for k, v in r.settings().items() if k not in free}
    return images.digest_of(repr(([images.digest(p) for p in ends], settings)).encode()), end


def embed(
    context: Context, r: InterpolateRequest, ends: Sequence[Image], texts: Sequence[str]
) -> Generator[Advance, None, Words]:
    """Three rows: picture A's words, picture B's, the negative; fitted to the pictures if that is asked for."""
    words = context.model.embed(texts[:2], texts[2:])
    if not r.invert_steps:
        return words
    key = [images.digest(p) for p in ends], texts, r.invert_steps, r.invert_rate, r.guidance, r.seed
    fitted = context.get("text", key)
    if fitted is None:
        x, rows = images.to_tensor(ends), 4 if r.guidance != 1 else 2
        steps = invert_text(context.model, x, words, r.invert_steps, r.invert_rate, r.guidance, r.seed)
        doing = "fitting the words to the pictures, step {} of {} (error {:.3f})"
        fitted = yield from relay(steps, lambda s: Advance(doing.format(s[0], r.invert_steps, s[1]), fits=rows))
        context.put("text", key, fitted)
    return fitted


# -------------------------------------------------------------------------------------------- the five schemes


def branch(path: Path) -> Frames:
    """Add noise – interpolate – denoise, the proposed method: shared noise for both parents, coarse to fine."""
    r, context, model = path.request, path.context, path.context.model
    sigmas, levels = model.schedule.sigmas(r.steps), list(tree(r.frames))
    depths = noise_steps(len(levels), r.steps, r.low, r.high, r.schedule)
    for n, ((distance, frames), k) in enumerate(zip(levels, depths, strict=True)):
        down = sigmas[r.steps - 1 - k :] if r.sampler == "ddim" else model.few_step_sigmas(sigmas[r.steps - 1 - k])
        doing, tries, fresh = "the middle" if n == 0 else f"finer frames, {n + 1} of {len(levels)}", tries_at(r, n), []
        for i in frames:
            parents = path.keys[i - distance], path.keys[i + distance]
            key = (*parents, i / path.last, path.seed(i), i, tries, down[0])
            path.keys[i] = images.digest_of(repr((key, dict(r.picks).get(i))).encode())
            known = context.get("frame", key)
            if known is None:
                fresh.append((i, key))
                continue
            yield Advance(doing, steps=tries * (len(down) - 1), decoded=tries)
            yield path.finish(i, *known, choose(path, i, distance, known[1]))
        share = max(1, model.rows // ((1 if r.guidance == 1 else 2) * tries))
        for group in (fresh[i : i + share] for i in range(0, len(fresh), share)):
            rows = [(i, c) for i, _ in group for c in range(tries)]
            x = between(path, rows, distance, down[0])
            x = yield from path.denoise(x, [i for i, _ in rows], down, doing, [c for _, c in rows])
            for (i, key), z in zip(group, x.split(tries), strict=True):
                tried = images.to_pictures(model.decode(z))
                yield Advance(doing, decoded=tries)
                context.put("frame", key, (z, tried))
                yield path.finish(i, z, tried, choose(path, i, distance, tried))


def between(path: Path, rows: Sequence[tuple[int, int]], distance: int, sigma: float) -> Tensor:
    """Candidates (frame, which) between their parents, both under the same noise of ``sigma``.

    What parents share grows when noisy latents are mixed by slerp, and what they do not share shrinks by lerp: either
    way there is more noise to a picture than ``sigma`` says, and what is left of it looks woven. "clean" mixes the
    clean latents by slerp, which keeps their variance, and lays the noise on top.
    """
    r = path.request
    noise = gaussian(path.z[0].shape[1:], [generator(path.seed(i), i, c) for i, c in rows])
    noise = sigma * noise.to(path.context.model.device)
    left, right = (torch.cat([path.moved(i + side, i) for i, _ in rows]) for side in (-distance, distance))
    w = torch.tensor([0.5 - r.bias * (i - distance == 0) + r.bias * (i + distance == path.last) for i, _ in rows])
    if r.mix == "clean":
        return slerp(left, right, w) + noise
    return MIX[r.mix](left + noise, right + noise, w)


def tries_at(r: InterpolateRequest, level: int) -> int:
    """Candidates a frame at a tree level: one fewer at every finer level, not under 3 (nor over what was asked)."""
    return max(r.candidates - level, min(r.candidates, 3))


def mix_only(path: Path) -> Frames:
    """Interpolate only: the clean latents are mixed and decoded; no diffusion."""
    yield from path.decode({i: mix(path, path.moved(0, i), path.moved(path.last, i), i) for i in range(1, path.last)})


def mix(path: Path, a: Tensor, b: Tensor, frame: int) -> Tensor:
    return MIX[path.request.mix](a, b, torch.tensor([frame / path.last]))


def stack(path: Path, end: int, sigmas: Sequence[float], stream: int) -> list[Tensor]:
    """One end picture at rising sigmas, each noisier by fresh noise on the last (methods.md §1.3)."""
    x, before, out = path.z[end], 0.0, []
    for n, s in enumerate(sigmas):
        eps = gaussian(x.shape[1:], [generator(path.request.seed, 1000 + n, stream)]).to(x)
        x = x + max(0.0, s**2 - before**2) ** 0.5 * eps
        before = s
        out.append(x)
    return out


def join(path: Path, joining: list[list[int]], stream: int, entry: Callable) -> Frames:
    """Walks a growing batch down: at each depth (falling) frames come in, made by ``entry(n, i, x, a, b)`` of the
    frames under way and of both ends' stacks. Both table rows that denoise a whole sequence are this loop."""
    r, model = path.request, path.context.model
    depths = [*noise_steps(len(joining), r.steps, r.low, r.high, r.schedule), -1]
    sigmas = model.schedule.sigmas(r.steps)
    rising = [sigmas[r.steps - 1 - k] for k in reversed(depths[:-1])]
    # From the coarsest level: the n-th from the end of a stack is what comes in at the n-th depth.
    a, b = stack(path, 0, rising, 0)[::-1], stack(path, path.last, rising, stream)[::-1]
    x: dict[int, Tensor] = {}
    share = max(1, model.rows // (1 if r.guidance == 1 else 2))
    for n, frames in enumerate(joining):
        x |= {i: entry(n, i, x, a[n], b[n]) for i in frames}
        ids, part = sorted(x), sigmas[r.steps - 1 - depths[n] : r.steps - depths[n + 1]]
        for group in (ids[i : i + share] for i in range(0, len(ids), share)):
            doing = f"mixing, {n + 1} of {len(joining)}"
            out = yield from path.denoise(torch.cat([x[i] for i in group]), group, part, doing)
            x |= dict(zip(group, out.split(1), strict=True))
    yield from path.decode(x)


def interpolate_denoise(path: Path) -> Frames:
    """Interpolate – denoise: frame i is mixed at noise level min(i, N−1−i) of two stacks that share their noise."""
    half = path.last // 2
    joining = [sorted({half - n, path.last - half + n}) for n in range(half)]
    yield from join(path, joining, 0, lambda n, i, x, a, b: mix(path, a, b, i))


def did(path: Path, stream: int = 0) -> Frames:
    """Denoise – interpolate – denoise: a tree over noise levels; midpoints come in between half-denoised neighbours.
    Both ends share their noise, or have a ``stream`` of their own."""
    r, levels = path.request, list(tree(path.request.frames))

    def entry(n: int, i: int, x: dict[int, Tensor], a: Tensor, b: Tensor) -> Tensor:
        d = levels[n][0]
        left, right = ({0: a, path.last: b} | x)[i - d], ({0: a, path.last: b} | x)[i + d]
        return MIX[r.mix](left, right, 0.5 - r.bias * (i - d == 0) + r.bias * (i + d == path.last))

    yield from join(path, [frames for _, frames in levels], stream, entry)


SCHEMES: dict[str, Callable[[Path], Frames]] = {
    "branch": branch,
    "did": did,
    "did-independent": lambda path: did(path, stream=1),
    "interpolate-denoise": interpolate_denoise,
    "interpolate": mix_only,
}
