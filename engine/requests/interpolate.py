"""The request of *Interpolate*, and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from PIL.Image import Image

from engine.requests import points, shared
from engine.requests.errors import EngineError
from engine.requests.pose import DETECTORS
from engine.requests.spec import Request, Spec, advanced, hidden

SCHEMES = {
    "branch": "add noise, mix, denoise (the paper's own)",
    "did": "denoise, mix, denoise",
    "did-independent": "denoise, mix, denoise; noise not shared",
    "interpolate-denoise": "mix noisy, denoise",
    "interpolate": "mix only, no diffusion",
}
PICKERS = {
    "smoothest": "the smoothest way",
    "first": "none, the first",
    "clip": "CLIP, by words",
    "clip-small": "a smaller CLIP, by words",
}
POSES = {"off": "off", "given": "by the skeletons below"} | DETECTORS
KEEPS = {"largest": "the largest person", "all": "everybody, matched"}
posed = partial(Spec, group="poses")
MIXES = ("clean", "slerp", "lerp")
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class InterpolateRequest(Request):
    """Morph between two pictures (Wang & Golland 2023, arXiv 2307.12560; methods.md §1).

    ``a`` and ``b`` are PIL pictures as `engine.vision.images.read` gives them. ``picks`` holds (frame, candidate) pairs
    and ``reseeds`` (frame, seed) pairs: with them one frame is chosen by hand or made again; every frame that does not
    descend from it stays as it was. The picker "clip" ranks by ``rank_for`` (empty: the prompts)
    against ``rank_against`` (empty: the negative; without any words the paper's own); the sampler "live" walks with the
    few-step weights. ``pose`` steers the frames by body keypoints (§4.3): ``pose_a`` and ``pose_b`` (OpenPose's JSON,
    in the picture's own coordinates), or what its detector finds where these are empty; ``pose_rescue`` as in
    `PoseRequest`. ``align`` moves parts to where they belong on the way, for the schemes branch and interpolate, by
    ``points`` (`engine.requests.points`), those of one joint.
    """

    a: Annotated[Image, Spec("picture A", "first picture", layer="RGB")]
    b: Annotated[Image, Spec("picture B", "last picture", layer="RGB")]
    prompt: shared.PROMPT = ""
    prompt_b: Annotated[str, advanced("Words for the second picture", "if it shows something else")] = ""
    seed: shared.SEED = 0
    frames: Annotated[int, Spec("Frames", "with both pictures", choices=(3, 5, 9, 17, 33, 65, 129))] = 9
    steps: Annotated[int, Spec("Steps", "of the whole noise; a frame walks its share", 4, 500, 1, beside=True)] = 24
    low: Annotated[float, Spec("Wander at least", "below .25 is a cross-fade", 0, 1, 0.01)] = 0.25
    high: Annotated[float, Spec("Wander at most", "above .65 forgets the pictures", 0, 1, 0.01, beside=True)] = 0.5
    guidance: Annotated[float, shared.GUIDANCE] = 1.5
    negative: shared.NEGATIVE = ""
    fit: shared.FIT = "fit"
    size: shared.SIZE = 0
    align: points.ALIGN = "off"
    scheme: Annotated[str, advanced("Method", "of the paper's Table 1", choices=SCHEMES)] = "branch"
    schedule: Annotated[
        str, advanced("Noise over the levels", "how it grows to the middle", choices=("linear", "convex", "concave"))
    ] = "linear"
    mix: Annotated[
        str, advanced("Mixing", "clean: before the noise (branch); else with it", choices=MIXES, beside=True)
    ] = "clean"
    candidates: Annotated[int, advanced("Candidates", "for a frame; one fewer at finer levels", 1, 16, 1)] = 1
    picker: Annotated[str, advanced("Chosen by", "what becomes the frame", choices=PICKERS, beside=True)] = "smoothest"
    rank_for: Annotated[str, advanced("CLIP looks for", "empty: the words above")] = ""
    rank_against: Annotated[str, advanced("and against", "empty: what is not wanted", beside=True)] = ""
    sampler: shared.SAMPLER = "ddim"
    eta: Annotated[float, advanced("Fresh noise (η)", "at every step; 0 is DDIM", 0, 1, 0.05)] = 0.0
    bias: Annotated[float, advanced("Pull to the ends", "of frames beside them", -0.4, 0.4, 0.01, beside=True)] = 0.0
    invert_steps: Annotated[int, advanced("Fit the words", "steps of textual inversion; 0 is off", 0, 500, 1)] = 0
    invert_rate: Annotated[float, advanced("Its learning rate", "of inversion", 1e-6, 0.1, 1e-4, beside=True)] = 1e-3
    pose: Annotated[str, posed("Bodies steer the way", "on the Stable Diffusion networks", choices=POSES)] = "off"
    pose_people: Annotated[str, posed("Who", "of each picture", choices=KEEPS)] = "largest"
    pose_scale: Annotated[float, posed("How strongly", "in the middle; 1 at the ends", 0, 4, 0.1, beside=True)] = 1.5
    pose_rescue: Annotated[
        str, posed("If nobody is found, look in a photograph of it", "its words, e.g. photo of a dancer; empty: do not")
    ] = ""
    pose_a: Annotated[str, hidden("", "keypoints of picture A (OpenPose's JSON, see 'pose --json')")] = ""
    pose_b: Annotated[str, hidden("", "keypoints of picture B")] = ""
    model: shared.MODEL = "flora"
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
        super().__post_init__()
        object.__setattr__(self, "points", points.check(points.nested(self.points), 1, 2))
        if self.align != "off" and self.scheme not in ("branch", "interpolate"):
            raise EngineError(f"align must be off for the scheme {self.scheme}, got {self.align!r}")
        if self.sampler == "live" and self.scheme not in ("branch", "interpolate"):  # the latter has no sampler
            raise EngineError(f"sampler must be ddim for the scheme {self.scheme}, got 'live'")
        if self.pose == "given" and not (self.pose_a or self.pose_b):
            raise EngineError("pose_a or pose_b must hold keypoints for the pose given, got neither")
        if self.low > self.high:
            raise EngineError(f"low must not be above high, got low {self.low:g} and high {self.high:g}")
        for name in ("picks", "reseeds"):
            for pair in getattr(self, name):
                if len(pair) != 2 or not 0 < pair[0] < self.frames - 1 or pair[1] < 0:
                    raise EngineError(f"{name} must be pairs of an inner frame and a number, got {pair!r}")

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
        """Frames of the whole."""
        return self.frames
