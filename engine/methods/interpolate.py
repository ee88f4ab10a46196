"""Interpolating between Images with Diffusion Models (Wang & Golland 2023, arXiv 2307.12560; methods.md §1).

Frames are made coarse to fine in a binary tree: both parents get the same noise, their latents are mixed, and the
mixture is denoised under mixed words. Frames and candidates of a level go as one batch. The other four rows of the
paper's Table 1 are here for comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from PIL.Image import Image
from torch import Tensor

from engine.checkpoints.manager import Models
from engine.diffusion.geometry import MIX, noise_steps, slerp, tree
from engine.diffusion.model import Network, guided
from engine.diffusion.sampling import ancestral, euler, sample, gaussian, generator, lcm_step
from engine.diffusion.textual_inversion import invert_text
from engine.methods.posing import People, Poses, detected
from engine.requests import Done, Event, Frame, InterpolateRequest, Preview, Progress, within
from engine.vision import images
from engine.vision.clip_score import Ranker, ranker
from engine.vision.keypoints import pose
from engine.vision.perceptual import quality

DECODE = 3  # a decoded picture counts as so many network rows in the progress bar
PREVIEW_EVERY = 0.2  # seconds
RANK_FOR, RANK_AGAINST = "high quality, detailed, 2D", "blurry, distorted, 3D render"  # the paper's (§4.4)
INVERSION = 0.5  # the share of the progress bar that textual inversion gets


@dataclass
class Run:
    """What one request works with, and how far it is."""

    net: Network
    models: Models
    request: InterpolateRequest
    z: dict[int, Tensor]  # finished latents (1, C, h, w) by frame
    words: Tensor  # (3, L, D): picture A's, picture B's, the negative
    look: object  # latents → small pictures
    ranker: Ranker | None  # if candidates are ranked by CLIP
    poses: Poses | None  # if body keypoints steer
    key: str  # content of pictures and settings
    total: int = 1
    done: int = 0
    begun: float = 0.0  # the share of the whole that came before the frames
    shown: float = 0.0
    pictures: dict[int, Image] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return self.request.frames - 1

    def text(self, frames: list[int]):
        """Guidance rows for frames: the embeddings mixed at each frame's place on the path, as one vector each."""
        places = torch.tensor([i / self.last for i in frames], dtype=torch.float64)
        n = len(frames)
        cond = slerp(self.words[0:1].expand(n, -1, -1), self.words[1:2].expand(n, -1, -1), places.to(self.words.device))
        hints = {"pose": self.poses.hint([i / self.last for i in frames])} if self.poses else None
        return [replace(row, hints=hints) for row in guided(cond, self.words[2:], self.request.guidance)]

    def seed_of(self, frame: int) -> int:
        return dict(self.request.reseeds).get(frame, self.request.seed)

    def walk(self, x: Tensor, frames: list[int], levels: list[float], tries: list[int], doing: str):
        """Denoises rows ``x`` along ``levels`` with progress and previews; returns the clean latents."""
        pairs = zip(frames, tries, strict=True)
        own = [generator(self.seed_of(i), i, c, 2, round(1e6 * levels[0])) for i, c in pairs]
        step = ancestral(self.request.eta, own) if self.request.eta else euler
        if self.request.sampler == "live" and self.net.few:
            step = lcm_step(own)
        rows = self.text(frames)
        for state in sample(self.net.field(rows), x, levels, step):
            x = state.x
            self.done += len(frames) * len(rows)
            yield Progress(min(self.begun + (1 - self.begun) * self.done / self.total, 0.999), doing)
            if perf_counter() - self.shown > PREVIEW_EVERY:
                first = [n for n, c in enumerate(tries) if c == 0]
                for n, picture in zip(
                    first, images.to_pictures(self.look(state.x0[first])) if first else (), strict=True
                ):
                    yield Preview(frames[n], picture)
                self.shown = perf_counter()
        return x

    def finish(self, frame: int, z: Tensor, tried: list[Image], chosen: int) -> Frame:
        self.z[frame], self.pictures[frame] = z[chosen : chosen + 1], tried[chosen]
        return Frame(frame, tried[chosen], tuple(tried) if len(tried) > 1 else (), chosen)


def interpolate(models: Models, request: InterpolateRequest) -> Iterator[Event]:
    """`Frame`s of the path from picture A to picture B, coarse to fine; the ends are the (fitted) originals."""
    started = perf_counter()
    yield Progress(0.0, f"loading {request.model}")
    net = yield from models.loading(request.model, request.wants)
    # What is missing is said before the work.
    clip = ranker(models, net, request.picker) if request.picker.startswith("clip") else None
    sampling = net.sampler(request.sampler)
    before = net.evaluations
    size = images.frame_size(request.a, request.fit, request.size or net.size, net.multiple)
    ends = [images.fitted(p, size, request.fit) for p in (request.a, request.b)]
    last = request.frames - 1
    yield Frame(0, ends[0])
    yield Frame(last, ends[1])
    found = yield from _people(models, request)
    poses = None
    if request.pose != "off":
        a, b = (pose.framed(p, o.size, size, request.fit) for p, o in zip(found, (request.a, request.b), strict=True))
        poses = Poses(a, b, request.pose_people, request.pose_scale, size) if a or b else None
    x = images.to_tensor(ends)
    z = net.encode(x)
    prompts = [request.prompt, request.prompt_b or request.prompt, request.negative]
    words = net.embed(prompts)
    settings = request.settings()
    free = ("picks", "reseeds", "frames", "fit", "size")
    content = net.fingerprint, [images.digest(p) for p in ends], {k: v for k, v in settings.items() if k not in free}
    key = hashlib.blake2b(repr(content).encode(), digest_size=12).hexdigest()
    if request.invert_steps:
        words = yield from _inverted(models, net, request, x, words, content[1])
    run = Run(net, models, request, {0: z[:1], last: z[1:]}, words, net.previewer(z, x), clip, poses, key)
    run.pictures |= {0: ends[0], last: ends[1]}
    run.begun = INVERSION if request.invert_steps else 0.0
    run.keys |= {0: f"{key}-a", last: f"{key}-b"}
    with sampling:
        yield from SCHEMES[request.scheme](run)
    notes = net.notes(*prompts)
    if request.pose != "off":
        # With them the same pictures come without the detector.
        settings |= {"pose_a": pose.write(found[0], request.a.size), "pose_b": pose.write(found[1], request.b.size)}
        nobody = [n for n, p in zip(("the first picture", "the last"), found, strict=True) if not p]
        notes += [f"nobody was found in {' or '.join(nobody)}, so poses do not steer there"] if nobody else []
    frames = tuple(run.pictures[i] for i in range(request.frames))
    yield Progress(0.999, "measuring the way")
    measured = quality(net, images.to_tensor(list(frames)), x, (0, last))
    yield Progress(1.0, "done")
    settings |= {"width": size[0], "height": size[1]}
    yield Done(frames, settings, perf_counter() - started, net.evaluations - before, tuple(notes), measured)


def _people(models: Models, r: InterpolateRequest) -> Generator[Event, None, list[People]]:
    """The people of both pictures: given, or looked for."""
    out: list[People] = []
    for text, picture, name in ((r.pose_a, r.a, "pose_a"), (r.pose_b, r.b, "pose_b")):
        if r.pose == "off" or (r.pose == "given" and not text):
            out.append(())
        elif text:
            out.append(pose.read(text, name, picture.size))
        else:
            look = detected(models, picture, r.pose, r.pose_rescue, r.model)
            out.append((yield from within(look, 0.0, 0.0)))
    return out


def _inverted(models, net, request, x, words, digests):
    """The words fitted to the two pictures, remembered by content. Returns (3, L, D)."""
    key = ("text", net.fingerprint, *digests, request.prompt, request.prompt_b, request.negative, request.invert_steps,
           request.invert_rate, request.guidance, request.seed)  # fmt: skip
    found = models.memo.get(key)
    if found is None:
        steps = invert_text(
            net, x, words[:2], words[2:], request.invert_steps, request.invert_rate, request.guidance, request.seed
        )
        found = yield from within(steps, 0.0, INVERSION)
        models.memo.put(key, found, found.numel() * 4)
    return found


# -------------------------------------------------------------------------------------------- the five schemes


def _tries(candidates: int, level: int) -> int:
    """Candidates a frame at a tree level: one fewer at every finer level, not under 3 (nor over what was asked)."""
    return max(candidates - level, min(candidates, 3))


def branch(run: Run) -> Iterator[Event]:
    """Add noise – interpolate – denoise, the proposed method: shared noise for both parents, coarse to fine."""
    r, net = run.request, run.net
    levels = net.levels(r.steps)
    plan = list(tree(r.frames))
    depths = noise_steps(len(plan), r.steps, r.low, r.high, r.schedule)
    rows = 1 if r.guidance == 1 else 2
    todo = []
    for n, ((distance, frames), k) in enumerate(zip(plan, depths, strict=True)):
        tries = _tries(r.candidates, n)
        down = levels[r.steps - 1 - k :] if r.sampler == "ddim" else net.jumps(levels[r.steps - 1 - k])
        todo.append((n, distance, frames, down, tries))
        run.total += len(frames) * tries * ((len(down) - 1) * rows + DECODE)
    for n, distance, frames, down, tries in todo:
        doing = "the middle" if n == 0 else f"level {n + 1} of {len(plan)}"
        fresh = []
        for i in frames:
            own = (run.keys[i - distance], run.keys[i + distance], i / run.last, run.seed_of(i), i, tries, down[0])
            run.keys[i] = hashlib.blake2b(repr((own, dict(r.picks).get(i))).encode(), digest_size=12).hexdigest()
            known = run.models.memo.get(("frame", own))
            if known is None:
                fresh.append((i, own))
            else:
                run.done += tries * ((len(down) - 1) * rows + DECODE)
                yield run.finish(i, *known, _chosen(run, i, distance, known[1]))
        share = max(1, net.batch // (rows * tries))
        for start in range(0, len(fresh), share):
            group = fresh[start : start + share]
            ids = [i for i, _ in group for _ in range(tries)]
            nth = [c for _ in group for c in range(tries)]
            eps = gaussian(run.z[0].shape[1:], [generator(run.seed_of(i), i, c) for i, c in zip(ids, nth, strict=True)])
            noise = down[0] * eps.to(net.device)
            left, right = (torch.cat([run.z[i + side] for i in ids]) + noise for side in (-distance, distance))
            w = [0.5 - r.bias * (i - distance == 0) + r.bias * (i + distance == run.last) for i in ids]
            x = yield from run.walk(MIX[r.mix](left, right, torch.tensor(w)), ids, down, nth, doing)
            for (i, own), z in zip(group, x.split(tries), strict=True):
                tried = images.to_pictures(net.decode(z))
                run.models.memo.put(("frame", own), (z, tried), tries * (tried[0].width * tried[0].height * 3 + 4096))
                run.done += tries * DECODE
                yield run.finish(i, z, tried, _chosen(run, i, distance, tried))


def _chosen(run: Run, frame: int, distance: int, tried: list[Image]) -> int:
    """Which candidate becomes the frame: the one picked by hand, or the picker's."""
    by_hand = dict(run.request.picks).get(frame)
    if by_hand is not None:
        return min(by_hand, len(tried) - 1)
    return PICKERS[run.request.picker](run, tried, frame, distance)


def smoothest(tried: list[Image], left: Image, right: Image) -> int:
    """The candidate nearest to both parents at once (squared distance at 32 × 32), so that the strip samples."""
    small = images.to_tensor([p.resize((32, 32)) for p in (*tried, left, right)])
    way = (small[:-2, None] - small[None, -2:]).square().mean((2, 3, 4)).sum(1)
    return int(way.argmin())


def best(run: Run, tried: list[Image], frame: int) -> int:
    """The candidate that CLIP scores highest: cos(image, positive) − cos(image, negative) (methods.md §1.6).

    Without words of its own for that, those of both pictures count by the frame's place on the way; without any, the
    paper's own.
    """
    r, w = run.request, frame / run.last
    assert run.ranker is not None
    words = {r.prompt: 1 - w, r.prompt_b: w} if r.prompt_b and r.prompt_b != r.prompt else r.prompt
    looks_for, against = r.rank_for or words, r.rank_against or r.negative
    if not looks_for:
        looks_for, against = RANK_FOR, against or RANK_AGAINST
    return int(run.ranker.score(tried, looks_for, against).argmax())


PICKERS = {
    "smoothest": lambda run, tried, i, d: smoothest(tried, run.pictures[i - d], run.pictures[i + d]),
    "first": lambda run, tried, i, d: 0,
    "clip": lambda run, tried, i, d: best(run, tried, i),
    "clip-small": lambda run, tried, i, d: best(run, tried, i),
}


def plain(run: Run) -> Iterator[Event]:
    """Interpolate only: the clean latents are mixed and decoded; no diffusion."""
    inner = list(range(1, run.last))
    run.total += DECODE * len(inner)
    yield from _decoded(run, inner, _mixed(run, run.z[0], run.z[run.last], inner))


def _mixed(run: Run, a: Tensor, b: Tensor, frames: list[int]) -> Tensor:
    n, places = len(frames), torch.tensor([i / run.last for i in frames])
    return MIX[run.request.mix](a.expand(n, -1, -1, -1), b.expand(n, -1, -1, -1), places)


def _decoded(run: Run, frames: list[int], x: Tensor) -> Iterator[Event]:
    for i, z in zip(frames, x.split(1), strict=True):
        run.done += DECODE
        yield run.finish(i, z, images.to_pictures(run.net.decode(z)), 0)


def _stack(run: Run, end: int, sigmas: list[float], stream: int) -> list[Tensor]:
    """One end picture at rising sigmas, each noisier by fresh noise on the last (methods.md §1.3)."""
    x, before, out = run.z[end], 0.0, []
    for n, s in enumerate(sigmas):
        eps = gaussian(x.shape[1:], [generator(run.request.seed, 1000 + n, stream)]).to(x)
        x = x + max(0.0, s**2 - before**2) ** 0.5 * eps
        before = s
        out.append(x)
    return out


def _joined(run: Run, joins: list[tuple[int, list[int]]], mixed) -> Iterator[Event]:
    """Walks a growing batch down: at depth k (falling) the frames of ``joins`` come in, made by ``mixed(n, i, x)``.

    ``x`` holds the frames that are under way, by number. Both table rows that denoise a whole sequence are this loop.
    """
    levels, steps = run.net.levels(run.request.steps), run.request.steps
    rows, under_way = 1 if run.request.guidance == 1 else 2, 0
    depths = [k for k, _ in joins] + [-1]
    for n, (k, frames) in enumerate(joins):
        under_way += len(frames)
        run.total += under_way * rows * (k - depths[n + 1]) + DECODE * len(frames)
    x: dict[int, Tensor] = {}
    for n, (k, frames) in enumerate(joins):
        x |= {i: mixed(n, i, x) for i in frames}
        ids = sorted(x)
        part = levels[steps - 1 - k : steps - depths[n + 1]]
        share = max(1, run.net.batch // rows)
        for start in range(0, len(ids), share):
            group = ids[start : start + share]
            batch = torch.cat([x[i] for i in group])
            doing = f"noise level {n + 1} of {len(joins)}"
            out = yield from run.walk(batch, group, part, [0] * len(group), doing)
            x |= dict(zip(group, out.split(1), strict=True))
    yield from _decoded(run, sorted(x), torch.cat([x[i] for i in sorted(x)]))


def denoised(run: Run) -> Iterator[Event]:
    """Interpolate – denoise: frame i is mixed at noise level min(i, N−1−i) of two stacks that share their noise."""
    half = run.last // 2
    depths = noise_steps(half, run.request.steps, run.request.low, run.request.high, run.request.schedule)
    sigmas = [run.net.levels(run.request.steps)[run.request.steps - 1 - k] for k in reversed(depths)]
    a, b = _stack(run, 0, sigmas, 0), _stack(run, run.last, sigmas, 0)
    joins = [(k, sorted({half - n, run.last - half + n})) for n, k in enumerate(depths)]

    def mixed(n: int, i: int, x: dict) -> Tensor:
        return _mixed(run, a[half - 1 - n], b[half - 1 - n], [i])

    yield from _joined(run, joins, mixed)


def did(run: Run, shared: bool = True) -> Iterator[Event]:
    """Denoise – interpolate – denoise: a tree over noise levels; midpoints come in between half-denoised neighbours."""
    r = run.request
    plan = list(tree(r.frames))
    depths = noise_steps(len(plan), r.steps, r.low, r.high, r.schedule)
    sigmas = [run.net.levels(r.steps)[r.steps - 1 - k] for k in reversed(depths)]
    ends = {0: _stack(run, 0, sigmas, 0), run.last: _stack(run, run.last, sigmas, 0 if shared else 1)}

    def mixed(n: int, i: int, x: dict) -> Tensor:
        d = plan[n][0]
        left, right = (ends[j][len(plan) - 1 - n] if j in ends else x[j] for j in (i - d, i + d))
        w = 0.5 - r.bias * (i - d == 0) + r.bias * (i + d == run.last)
        return MIX[r.mix](left, right, w)

    yield from _joined(run, [(k, frames) for k, (_, frames) in zip(depths, plan, strict=True)], mixed)


SCHEMES = {
    "branch": branch,
    "did": did,
    "did-independent": lambda run: did(run, shared=False),
    "interpolate-denoise": denoised,
    "interpolate": plain,
}
