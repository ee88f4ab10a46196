"""What a request costs, from its own numbers: the progress bar and the seconds asked of ZeroGPU are read from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

from engine.diffusion.correspondence import DRAWS
from engine.diffusion.geometry import noise_steps, tree
from engine.diffusion.sampling import ITERATIONS
from engine.methods.fast import evaluations, table
from engine.methods.interpolate import tries_at
from engine.methods.morph import PROBE_FRAMES, PROBE_STEPS
from engine.methods.pose import STEPS, T0
from engine.requests import (
    DETECTORS,
    Cost,
    DrawRequest,
    EditRequest,
    EnlargeRequest,
    InterpolateRequest,
    MatchRequest,
    MorphRequest,
    PoseRequest,
)

LIVE = 4  # steps of the live sampler at most
PHOTOGRAPH = math.ceil(T0 * STEPS - 1e-9)  # steps of the photograph in which people are looked for once more
FIT, DECODE = 3, 3  # a fitted row and a decoded picture count as so many rows


def total(cost: Cost) -> float:
    """All of it, in rows of the network."""
    return cost.steps * cost.rows + FIT * cost.fits + DECODE * cost.pictures


def plan(request: Any) -> Cost:
    """What will be walked, fitted and decoded when nothing is remembered.

    Exact but for what the pictures decide, where it is the most that can be: the live sampler of *Interpolate*, LoRAs
    that have learnt enough before their time, drawings that cover the whole frame, photographs made to find people.
    """
    return PLANS.get(type(request), lambda r: Cost())(request)


def people(r: PoseRequest) -> Cost:
    """A photograph of every picture, at most: where there is nobody in it."""
    return Cost(PHOTOGRAPH * r.total) if r.rescue else Cost()


def interpolate(r: InterpolateRequest) -> Cost:
    rows, ways = 1 if r.guidance == 1 else 2, len(r.pictures) - 1
    steps, pictures = SCHEMES[r.scheme](r)
    if r.pose_rescue and r.pose in DETECTORS:
        steps += PHOTOGRAPH * ((not r.pose_a) + (not r.pose_b))
    steps += seen(r, 2) / rows
    # Both pictures are fitted at once, each under its words and under the negative.
    return Cost(ways * steps, rows, ways * 2 * rows * r.invert_steps, ways * pictures, r.pose != "off")


def seen(r: InterpolateRequest | MorphRequest | MatchRequest, pictures: int) -> int:
    """Rows in which pictures are looked at for their parts."""
    return DRAWS * pictures * (r.align == "automatic")


def branch(r: InterpolateRequest) -> tuple[int, int]:
    """Coarse to fine, several candidates a frame; a frame at depth k walks k + 1 steps."""
    levels = list(tree(r.frames))
    depths = noise_steps(len(levels), r.steps, r.low, r.high, r.schedule)
    tries = [len(frames) * tries_at(r, n) for n, (_, frames) in enumerate(levels)]
    down = [LIVE if r.sampler == "live" else k + 1 for k in depths]
    return sum(n * k for n, k in zip(tries, down, strict=True)), sum(tries)


def did(r: InterpolateRequest) -> tuple[int, int]:
    return together(r, [len(frames) for _, frames in tree(r.frames)])


def denoised(r: InterpolateRequest) -> tuple[int, int]:
    return together(r, [1] + [2] * (r.frames // 2 - 1))


def together(r: InterpolateRequest, joining: list[int]) -> tuple[int, int]:
    """A batch that walks down and in which, at every depth, some frames come in."""
    depths = [*noise_steps(len(joining), r.steps, r.low, r.high, r.schedule), -1]
    steps = sum(sum(joining[: n + 1]) * (depths[n] - depths[n + 1]) for n in range(len(joining)))
    return steps, sum(joining)


SCHEMES: dict[str, Callable[[InterpolateRequest], tuple[int, int]]] = {
    "branch": branch,
    "did": did,
    "did-independent": did,
    "interpolate-denoise": denoised,
    "interpolate": lambda r: (0, r.frames - 2),
}


def morph(r: MorphRequest) -> Cost:
    """LoRAs, up for every picture and down again, a quick look at every way, the frames between."""
    keyframes = len(r.pictures)
    if r.tier == "fast":
        ways, named = keyframes if r.loop else keyframes - 1, r.model.partition("+")[0].strip()
        return Cost(ways * r.frames * evaluations(table(named), r.steps), 1, 0, ways * (r.frames - 2))
    given = [*r.loras, *[b""] * keyframes]
    files = {hash((p.size, p.tobytes(), w, f)): bool(f) for p, w, f in zip(r.pictures, r.words(), given, strict=False)}
    different, ways = len(files), keyframes if r.loop else keyframes - 1
    learnt = 0 if r.lora == "none" else different - sum(files.values())
    look, inner = ways * PROBE_FRAMES * r.reschedule, ways * (r.frames - 2)
    steps = different * (1 + ITERATIONS) * r.steps + look * min(PROBE_STEPS, r.steps) + inner * r.steps
    steps += seen(r, different)
    return Cost(steps, 1, learnt * r.lora_steps * r.lora_draws, look + inner + keyframes * (not r.exact_ends))


def draw(r: DrawRequest) -> Cost:
    steps = min(LIVE, r.steps) if r.sampler == "live" else r.steps
    return Cost(r.total * steps, drawn_rows(r), 0, r.total, r.model.partition("+")[0].strip() != "flora")


def drawn_rows(r: DrawRequest) -> int:
    """Rows of guidance along lines, colours and words (`engine.methods.draw`) that any result of the plan needs."""
    lines, colours = (bool(layer or r.photo) for layer in (r.sketch, r.strokes))
    needed = set()
    # Colours are painted in places only, but for a photograph, which has some everywhere.
    for own, where in product(r.plan(), (1,) if r.photo else (0, 1)):
        s1 = own.get("sketch_scale", r.sketch_scale) * lines
        s2 = own.get("stroke_scale", r.stroke_scale) * colours
        seen = "s" * (s1 > 0) + "c" * (s2 > 0)
        s2 *= where
        both = s1 * s2 if r.combine == "joint" else 0
        weights = {"": 1 - s1 - s2 + both, "s": s1 - both, "c": s2 - both, "sc": both}
        if r.guidance != 1 and r.prompt != r.negative:
            weights[seen] += r.guidance - 1
            weights["not " + seen] = 1 - r.guidance
        needed |= {row for row, weight in weights.items() if abs(weight) > 1e-6}
    return len(needed)


def edit(r: EditRequest) -> Cost:
    """Nothing at strength 0: the guide comes back."""
    rounds = r.count * r.repeats
    rows = 1 if r.guidance == 1 or r.prompt == r.negative else 2
    steps = max(1, math.ceil(r.strength * r.steps - 1e-9))
    return Cost(rounds * steps, rows, 0, r.count) if r.strength else Cost()


PLANS: dict[type, Callable[[Any], Cost]] = {
    InterpolateRequest: interpolate,
    MorphRequest: morph,
    DrawRequest: draw,
    EditRequest: edit,
    EnlargeRequest: lambda r: Cost(pictures=sum(p.width * p.height for p in r.pictures) * r.scale**2 / 512**2),
    PoseRequest: people,
    MatchRequest: lambda r: Cost(seen(r, 2)),
}
