"""A path between two pictures while it is made: what its frames are made from, and which candidate becomes one.

Wang & Golland 2023 (arXiv 2307.12560); methods.md §1.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from engine.context import Advance, Context, walk
from engine.diffusion.guidance import Conditioning, classifier_free
from engine.diffusion.sampling import ancestral, euler, generator, lcm_step
from engine.diffusion.words import Words
from engine.methods.align import Alignment
from engine.methods.pose import Poses
from engine.requests import Frame, InterpolateRequest
from engine.vision import images
from engine.vision.clip_score import Ranker

Frames = Generator[Advance | Frame, None, None]
RANK_FOR, RANK_AGAINST = "high quality, detailed, 2D", "blurry, distorted, 3D render"  # the paper's (§4.4)


@dataclass
class Path:
    """What the schemes share, and the frames that are finished: latents (1, C, h, w), pictures and keys by number."""

    context: Context
    request: InterpolateRequest
    words: Words  # picture A's, picture B's, the negative
    ranker: Ranker | None  # if candidates are ranked by CLIP
    poses: Poses | None  # if body keypoints steer
    z: dict[int, Tensor]
    pictures: dict[int, Image]
    alignment: Alignment | None = None  # what moves, if anything does
    keys: dict[int, Any] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return self.request.frames - 1

    def seed(self, frame: int) -> int:
        return dict(self.request.reseeds).get(frame, self.request.seed)

    def moved(self, parent: int, frame: int) -> Tensor:
        """A finished frame's latent, its parts where they are in another frame."""
        if self.alignment is None:
            return self.z[parent]
        return self.alignment.bring(self.z[parent], 0, parent / self.last, frame / self.last)

    def conditionings(self, frames: Sequence[int]) -> list[Conditioning]:
        """The words mixed at each frame's place on the path, as one vector each."""
        places, n = [i / self.last for i in frames], len(frames)
        a, b, negative = self.words.split(1)
        w = torch.tensor(places, dtype=torch.float64)
        control = {"pose": self.poses.control(places)} if self.poses else None
        rows = classifier_free(a.expand(n).slerp(b.expand(n), w), negative, self.request.guidance)
        return [replace(row, control=control) for row in rows]

    def denoise(self, x: Tensor, frames: list[int], sigmas: list[float], doing: str, tries: list[int] | None = None):
        """Walks rows ``x`` down ``sigmas``; ``tries``: which candidate of its frame a row is. Returns the latents."""
        r, model = self.request, self.context.model
        tries = tries or [0] * len(frames)
        keys = zip(frames, tries, strict=True)
        own = [generator(self.seed(i), i, c, 2, round(1e6 * sigmas[0])) for i, c in keys]
        step = ancestral(r.eta, own) if r.eta else euler
        if r.sampler == "live" and model.resident.lcm:
            step = lcm_step(own)
        return (yield from walk(model.denoiser(self.conditionings(frames)), x, sigmas, doing, frames, step))

    def finish(self, frame: int, z: Tensor, tried: list[Image], chosen: int = 0) -> Frame:
        self.z[frame], self.pictures[frame] = z[chosen : chosen + 1], tried[chosen]
        return Frame(frame, tried[chosen], tuple(tried) if len(tried) > 1 else (), chosen)

    def decode(self, x: dict[int, Tensor]) -> Frames:
        for i in sorted(x):
            yield Advance("drawing the frames", decoded=1)
            yield self.finish(i, x[i], images.to_pictures(self.context.model.decode(x[i])))


def choose(path: Path, frame: int, distance: int, tried: list[Image]) -> int:
    """Which candidate becomes the frame: the one picked by hand, or the picker's."""
    r, by_hand = path.request, dict(path.request.picks).get(frame)
    if by_hand is not None:
        return min(by_hand, len(tried) - 1)
    if r.picker == "smoothest":
        return smoothest(tried, path.pictures[frame - distance], path.pictures[frame + distance])
    return best(path, tried, frame) if path.ranker else 0


def smoothest(tried: list[Image], left: Image, right: Image) -> int:
    """The candidate nearest to both parents at once (squared distance at 32 × 32), so that the strip flows."""
    small = images.to_tensor([p.resize((32, 32)) for p in (*tried, left, right)])
    way = (small[:-2, None] - small[None, -2:]).square().mean((2, 3, 4)).sum(1)
    return int(way.argmin())


def best(path: Path, tried: list[Image], frame: int) -> int:
    """The candidate that CLIP scores highest: cos(image, positive) − cos(image, negative) (methods.md §1.6).

    Without words of its own for that, those of both pictures count by the frame's place on the way; without any, the
    paper's own.
    """
    r, w = path.request, frame / path.last
    assert path.ranker is not None
    words = {r.prompt: 1 - w, r.prompt_b: w} if r.prompt_b and r.prompt_b != r.prompt else r.prompt
    looks_for, against = r.rank_for or words, r.rank_against or r.negative
    if not looks_for:
        looks_for, against = RANK_FOR, against or RANK_AGAINST
    return int(path.ranker.score(tried, looks_for, against).argmax())
