"""The request of *Interpolate*, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from PIL.Image import Image

from engine.requests.pose import DETECTORS
from engine.requests.spec import FITS, MIXES, EngineError, Range, bounded, choice, picture, plain

SCHEMES = ("branch", "did", "did-independent", "interpolate-denoise", "interpolate")
SCHEDULES = ("linear", "convex", "concave")
PICKERS = ("smoothest", "first", "clip", "clip-small")
SAMPLERS = ("ddim", "live")
POSES = ("off", "given", *DETECTORS)
KEEPS = ("largest", "all")
FRAMES = (3, 5, 9, 17, 33, 65, 129)


@dataclass(frozen=True)
class InterpolateRequest:
    """Morph between two pictures (Wang & Golland 2023, arXiv 2307.12560; methods.md §1).

    ``a`` and ``b`` are PIL pictures as `engine.vision.images.read` gives them. ``picks`` holds (frame, candidate) pairs and
    ``reseeds`` (frame, seed) pairs: with them one frame is chosen by hand or made again; every frame that does not
    descend from it stays as it was. The picker "clip" ranks by ``rank_for`` (empty: the prompts)
    against ``rank_against`` (empty: the negative; without any words the paper's own); the sampler "live" walks with the
    few-step weights. ``pose`` steers the frames by body keypoints (§4.3): ``pose_a`` and ``pose_b`` (OpenPose's JSON,
    in the picture's own coordinates), or what its detector finds where these are empty; ``pose_rescue`` as in
    `PoseRequest`.
    """

    a: Image
    b: Image
    prompt: str = ""
    prompt_b: str = ""
    negative: str = ""
    frames: int = 9
    low: float = 0.25
    high: float = 0.5
    steps: int = 24
    guidance: float = 1.5
    seed: int = 0
    scheme: str = "branch"
    schedule: str = "linear"
    mix: str = "slerp"
    eta: float = 0.0
    bias: float = 0.0
    candidates: int = 1
    picker: str = "smoothest"
    rank_for: str = ""
    rank_against: str = ""
    sampler: str = "ddim"
    invert_steps: int = 0
    invert_rate: float = 1e-3
    pose: str = "off"
    pose_a: str = ""
    pose_b: str = ""
    pose_scale: float = 1.5
    pose_people: str = "largest"
    pose_rescue: str = ""
    fit: str = "fit"
    size: int = 0
    model: str = "flora"
    picks: tuple[tuple[int, int], ...] = ()
    reseeds: tuple[tuple[int, int], ...] = ()

    BOUNDS: ClassVar = {
        "low": Range(0.0, 1.0, 0.01, "least noise, given to the frames closest to their parents"),
        "high": Range(0.0, 1.0, 0.01, "most noise, given to the middle frame; .25 to .65 is useful"),
        "steps": Range(4, 500, 1, "steps of the whole noise schedule; a frame walks its share of them"),
        "guidance": Range(0.0, 20.0, 0.1, "how strictly the words are followed; 1 is off"),
        "seed": Range(0, 2**32 - 1, 1),
        "eta": Range(0.0, 1.0, 0.05, "fresh noise at every step (DDIM's η)"),
        "bias": Range(-0.4, 0.4, 0.01, "draws the frames beside an end picture nearer to it"),
        "candidates": Range(1, 16, 1, "pictures tried for each frame; one fewer at every finer level"),
        "invert_steps": Range(0, 500, 1, "steps that fit the words to each picture (textual inversion)"),
        "invert_rate": Range(1e-6, 0.1, 1e-4, "learning rate of textual inversion"),
        "pose_scale": Range(0.0, 4.0, 0.1, "how strongly poses count in the middle; at the ends 1"),
        "size": Range(0, 1536, 8, "longer side in pixels; 0 is the network's own"),
    }
    WHOLE: ClassVar = ("steps", "seed", "candidates", "invert_steps", "size")
    TEXTS: ClassVar = ("prompt", "prompt_b", "negative", "rank_for", "rank_against", "pose_a", "pose_b", "pose_rescue",
                       "model")  # fmt: skip
    CHOICES: ClassVar = {"scheme": SCHEMES, "schedule": SCHEDULES, "mix": MIXES, "picker": PICKERS,
                         "sampler": SAMPLERS, "pose": POSES, "pose_people": KEEPS, "fit": FITS}  # fmt: skip

    def __post_init__(self) -> None:
        picture("picture A", self.a)
        picture("picture B", self.b)
        if not isinstance(self.frames, int) or self.frames not in FRAMES:
            raise EngineError(f"frames must be a power of two plus one, 3 to 129 (3, 5, 9, 17 …), got {self.frames!r}")
        bounded(self)
        if self.sampler == "live" and self.scheme != "branch":
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
        kinds = {"live": self.sampler == "live", self.picker: self.picker.startswith("clip")}
        kinds |= {"pose": self.pose != "off", self.pose: look, "canny": look and bool(self.pose_rescue)}
        return tuple(k for k, wanted in kinds.items() if wanted)

    @property
    def total(self) -> int:
        """Frames of the whole."""
        return self.frames

    def settings(self) -> dict[str, Any]:
        """All but the pictures, as plain values: what the files carry and the page reads back."""
        return plain(self, "interpolate", ("a", "b"))


PRESETS: dict[str, dict[str, Any]] = {
    "instant": {"steps": 24, "candidates": 1, "eta": 0.0, "low": 0.25, "high": 0.5, "scheme": "branch",
                "sampler": "live", "guidance": 1.0},
    "draft": {"steps": 24, "candidates": 1, "eta": 0.0, "low": 0.25, "high": 0.5, "scheme": "branch"},
    "standard": {"steps": 60, "candidates": 3, "eta": 0.0, "low": 0.25, "high": 0.6, "scheme": "branch"},
    "paper": {"steps": 200, "candidates": 8, "eta": 0.1, "low": 0.3, "high": 0.55, "scheme": "branch",
              "guidance": 7.5, "invert_steps": 100, "invert_rate": 1e-4, "picker": "clip"},
}  # fmt: skip


def preset(request: InterpolateRequest, name: str) -> InterpolateRequest:
    """The request with a preset's values in place of its own."""
    choice("preset", name, tuple(PRESETS))
    return replace(request, **PRESETS[name])
