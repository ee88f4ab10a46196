"""The request of *Interpolate*, and its presets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

from PIL.Image import Image

from engine.requests import points, shared
from engine.requests.errors import EngineError, shown
from engine.requests.numbers import number
from engine.requests.pose import DETECTORS
from engine.requests.spec import Request, Spec, advanced, hidden

SCHEMES = {
    "branch": "frame by frame, from the middle (the usual one)",
    "did": "half drawn, mixed, then finished",
    "did-independent": "the same, each end by its own chance",
    "interpolate-denoise": "all mixed at once, then drawn",
    "interpolate": "only mixed: nothing is invented",
}
PICKERS = {
    "smoothest": "smoothest on the way",
    "first": "the first",
    "clip": "nearest to the words",
    "clip-small": "nearest, judged faster",
}
POSES = {"off": "no", "given": "as the skeletons below say"} | DETECTORS
KEEPS = {"largest": "the largest person", "all": "everybody, matched"}
posed = partial(Spec, group="poses")
SCHEDULES = {"linear": "evenly", "convex": "near the middle", "concave": "near your pictures"}
MIXES = {"clean": "before the noise", "slerp": "in the noise, as strong", "lerp": "in the noise, plainly"}
WALK = "denoising steps over the whole noise; a frame walks its share"
TABLE = "schemes of the paper's Table 1; branch is its own: noised, mixed, denoised"
LEVELS, TRIES = "noise schedule over the levels", "candidates; one fewer at finer levels"
MIXED, RATE = "of clean latents, or of noisy ones by slerp or lerp", "learning rate of textual inversion"
LOW, HIGH = "noise of the finest frames, as a share", "noise of the middle frame, as a share"
Pairs = tuple[tuple[int, int], ...]
MOST_MORE, MOST_FRAMES = 10, 600  # pictures after the first two; frames of the whole


@dataclass(frozen=True)
class InterpolateRequest(Request):
    """Morph between two pictures, or on through more (Wang & Golland 2023, arXiv 2307.12560; methods.md §1).

    ``a``, ``b`` and ``more`` are PIL pictures as `engine.vision.images.read` gives them. ``frames`` counts a way from
    one to the next, both included. ``prompts`` holds words for single pictures and ``seeds`` seeds for single ways;
    where there are none, ``prompt`` (of the second ``prompt_b``) and ``seed`` count. ``picks`` holds (frame, candidate)
    pairs and ``reseeds`` (frame, seed) pairs: with them one frame is chosen by hand or made again; every frame that
    does not descend from it stays as it was. The picker "clip" ranks by ``rank_for`` (empty: the prompts)
    against ``rank_against`` (empty: the negative; without any words the paper's own); the sampler "live" walks with the
    few-step weights. ``pose`` steers the frames by body keypoints (§4.3): ``pose_a`` and ``pose_b`` (OpenPose's JSON,
    in the picture's own coordinates), or what its detector finds where these are empty; ``pose_rescue`` as in
    `PoseRequest`. ``align`` moves parts to where they belong on the way, for the schemes branch and interpolate, by
    ``points`` (`engine.requests.points`), a list a way.
    """

    a: Annotated[Image, Spec("picture A", "first picture", layer="RGB")]
    b: Annotated[Image, Spec("picture B", "last picture", layer="RGB")]
    prompt: shared.PROMPT = ""
    prompt_b: Annotated[
        str, advanced("Words for the second picture", "if it shows something else", term="prompt B")
    ] = ""
    seed: shared.SEED = 0
    frames: Annotated[int, Spec("Frames", "with both of your pictures", choices=(3, 5, 9, 17, 33, 65, 129))] = 9
    steps: Annotated[int, Spec("Steps", "more: finer and slower", 4, 500, 1, beside=True, term=WALK)] = 24
    low: Annotated[float, Spec("Wander at least", "below .25 it cross-fades", 0, 1, 0.01, term=LOW)] = 0.25
    high: Annotated[float, Spec("Wander at most", "above .65 it forgets them", 0, 1, 0.01, beside=True, term=HIGH)] = (
        0.5
    )
    guidance: Annotated[float, shared.GUIDANCE] = 1.5
    negative: shared.NEGATIVE = ""
    fit: shared.FIT = "fit"
    size: shared.SIZE = 0
    align: points.ALIGN = "off"
    scheme: Annotated[str, advanced("Way of mixing", "what is made of what", choices=SCHEMES, term=TABLE)] = "branch"
    schedule: Annotated[
        str, advanced("Wandering grows", "from your pictures to the middle", choices=SCHEDULES, term=LEVELS)
    ] = "linear"
    mix: Annotated[str, advanced("Mixed", "two neighbours, into a frame", choices=MIXES, beside=True, term=MIXED)] = (
        "clean"
    )
    candidates: Annotated[int, advanced("Tries for a frame", "the best of them is kept", 1, 16, 1, term=TRIES)] = 1
    picker: Annotated[
        str,
        advanced("Keep the try", "of each frame", choices=PICKERS, beside=True, term="smallest LPIPS path, or CLIP"),
    ] = "smoothest"
    rank_for: Annotated[str, advanced("Look in the tries for", "empty: the words above", term="CLIP prompt")] = ""
    rank_against: Annotated[
        str, advanced("and against", "empty: what is not wanted", beside=True, term="negative CLIP prompt")
    ] = ""
    sampler: shared.SAMPLER = "ddim"
    eta: Annotated[float, shared.CHANCE] = 0.0
    bias: Annotated[float, advanced("Pull to the ends", "of the frames beside them", -0.4, 0.4, 0.01, beside=True)] = (
        0.0
    )
    invert_steps: Annotated[
        int,
        advanced("Fit the words", "to your pictures, in so many steps", 0, 500, 1, term="textual inversion"),
    ] = 0
    invert_rate: Annotated[
        float, advanced("How fast it learns", "too fast goes astray", 1e-6, 0.1, 1e-4, beside=True, term=RATE)
    ] = 1e-3
    pose: Annotated[
        str,
        posed("Bodies steer the way", "on the Stable Diffusion networks", choices=POSES, term="ControlNet, OpenPose"),
    ] = "off"
    pose_people: Annotated[str, posed("Who", "of each picture", choices=KEEPS)] = "largest"
    pose_scale: Annotated[
        float, posed("How strongly", "in the middle; 1 at the ends", 0, 4, 0.1, beside=True, term="ControlNet scale")
    ] = 1.5
    pose_rescue: Annotated[
        str,
        posed("If nobody is found", "words for a photograph of it, to look there: photo of a dancer; empty: do not"),
    ] = ""
    pose_a: Annotated[str, hidden("skeleton of the first picture", "OpenPose's JSON, see 'pose --json'")] = ""
    pose_b: Annotated[str, hidden("skeleton of the second", "the same")] = ""
    model: shared.MODEL = "flora"
    more: Annotated[
        tuple[Image, ...], Spec("And on to", "more pictures, in their order", 0, MOST_MORE, layer="RGB")
    ] = ()
    prompts: Annotated[tuple[str, ...], hidden("", "what the pictures show, one text for each")] = ()
    seeds: Annotated[tuple[int, ...], hidden("", "a seed for each way from picture to picture")] = ()
    points: points.POINTS = ()
    picks: Annotated[Pairs, hidden("", "take candidate N for a frame")] = ()
    reseeds: Annotated[Pairs, hidden("", "make a frame again with seed N, and what descends from it")] = ()

    method: ClassVar = "interpolate"
    presets: ClassVar = {  # what one leaves out is as it is by default
        "instant": {"sampler": "live", "guidance": 1.0},
        "draft": {"steps": 24, "scheme": "branch"},
        "standard": {"steps": 60, "candidates": 3, "high": 0.6},
        "paper": {"steps": 200, "candidates": 8, "eta": 0.1, "low": 0.3, "high": 0.55, "guidance": 7.5}
        | {"invert_steps": 100, "invert_rate": 1e-4, "picker": "clip", "mix": "slerp"},
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", points.nested(self.points))
        super().__post_init__()
        ways = len(self.pictures) - 1
        points.check(self.points, ways, ways + 1)
        object.__setattr__(self, "seeds", seeds(self.seeds, ways))
        if len(self.prompts) > ways + 1 or not all(isinstance(w, str) for w in self.prompts):
            raise EngineError(f"prompts must be at most {ways + 1} texts, one a picture, got {len(self.prompts)}")
        if self.total > MOST_FRAMES:
            raise EngineError(f"frames must be at most {MOST_FRAMES} in all, got {self.total} of {ways} ways")
        if self.more and self.pose != "off":
            raise EngineError(f"`pose` must be `pose=off` for more than two pictures, got `pose={self.pose!r}`")
        scheme = f"`scheme={self.scheme}`"
        if self.align != "off" and self.scheme not in ("branch", "interpolate"):
            raise EngineError(f"`align` must be `align=off` for the `scheme` {scheme}, got `align={self.align!r}`")
        if self.sampler == "live" and self.scheme not in ("branch", "interpolate"):  # the latter has no sampler
            raise EngineError(f"`sampler` must be `sampler=ddim` for the `scheme` {scheme}, got `sampler='live'`")
        if self.pose == "given" and not (self.pose_a or self.pose_b):
            raise EngineError("`pose_a` or `pose_b` must hold keypoints for the `pose` `pose=given`, got neither")
        if self.low > self.high:
            raise EngineError(f"`low` must not be above `high`, got `low` {self.low:g} and `high` {self.high:g}")
        for name in ("picks", "reseeds"):
            for pair in getattr(self, name):
                whole = isinstance(pair, tuple) and len(pair) == 2 and all(type(n) is int for n in pair)
                if not whole or not 0 < pair[0] < self.total - 1 or not pair[0] % (self.frames - 1) or pair[1] < 0:
                    raise EngineError(f"{name} must be pairs of an inner frame and a number, got {shown(pair)}")

    @property
    def pictures(self) -> tuple[Image, ...]:
        return (self.a, self.b, *self.more)

    def words(self) -> list[str]:
        """The prompt of every picture."""
        own = [*self.prompts, *[""] * len(self.pictures)][: len(self.pictures)]
        others = [self.prompt, self.prompt_b or self.prompt, *[self.prompt] * len(self.more)]
        return [mine or other for mine, other in zip(own, others, strict=True)]

    def ways(self) -> list[InterpolateRequest]:
        """A request for each way from a picture to the next: what it is asked for by itself, with its own numbers."""
        words, out, last = self.words(), [], self.frames - 1
        for k in range(len(self.pictures) - 1):
            own: dict[str, Any] = {"a": self.pictures[k], "b": self.pictures[k + 1], "more": ()}
            own |= {"prompt": words[k], "prompt_b": words[k + 1] if words[k + 1] != words[k] else "", "prompts": ()}
            own |= {"seed": self.seed_of(k), "seeds": (), "points": self.points[k : k + 1]}
            for name in ("picks", "reseeds"):
                pairs = getattr(self, name)
                own[name] = tuple((i - k * last, n) for i, n in pairs if k * last < i < (k + 1) * last)
            out.append(replace(self, **own))
        return out

    def seed_of(self, way: int) -> int:
        return self.seeds[way] if way < len(self.seeds) else self.seed

    def settings(self) -> dict[str, Any]:
        """All but the pictures, as plain values; of more than two, how many they are."""
        return super().settings() | ({"keyframes": len(self.pictures)} if self.more else {})

    @property
    def wants(self) -> tuple[str, ...]:
        """What it asks for beside the network (`engine.checkpoints.resolve`)."""
        look = self.pose in DETECTORS and not (self.pose_a and self.pose_b)
        live = self.sampler == "live" and self.scheme == "branch"
        kinds = {"live": live, self.picker: self.picker.startswith("clip")}
        kinds |= {"pose": self.pose != "off", self.pose: look, "canny": look and bool(self.pose_rescue)}
        return tuple(k for k, wanted in kinds.items() if wanted)

    @property
    def total(self) -> int:
        """Frames of the whole: a picture between two ways is counted once."""
        return (len(self.pictures) - 1) * (self.frames - 1) + 1


def seeds(values: Iterable[Any], ways: int) -> tuple[int, ...]:
    """Seeds of so many ways at most, from text or numbers. EngineError for what is none."""
    found = tuple(number(v, whole=True) if isinstance(v, str) else v for v in values)
    if len(found) > ways:
        raise EngineError(f"seeds must be at most {ways}, one a way from picture to picture, got {len(found)}")
    for s in found:
        if isinstance(s, bool) or not isinstance(s, int | float) or s % 1 or not 0 <= s < 2**32:
            raise EngineError(f"seeds must be whole numbers from 0 to {2**32 - 1}, got {shown(s, 40, str)}")
    return tuple(int(s) for s in found)
