"""The request of *Morph*, and its presets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from PIL.Image import Image

from engine.requests import points, shared
from engine.requests.errors import EngineError
from engine.requests.spec import Request, Spec, advanced, hidden

LORAS = {"mix": "mixed along the way", "fixed": "one mix for all frames", "none": "none (faster, looser)"}
FORMS = {"sum": "the sum of their changes", "factors": "their factors, as the published code does"}
TIERS = {
    "full": "DiffMorpher",
    "fast": "fast, without learning (not measured here for Stable Diffusion)",
}
MOST = 12  # keyframes


@dataclass(frozen=True)
class MorphRequest(Request):
    """Morph through two or more pictures with DiffMorpher (Zhang et al. 2023, arXiv 2312.07409; methods.md §2).

    ``pictures`` are PIL pictures as `engine.vision.images.read` gives them. ``frames`` counts a way from one to the
    next, both included. ``prompts`` holds words for single pictures; where there are none, ``prompt`` counts. ``loras``
    holds safetensors files for single pictures, in their order; an empty one is fitted here. ``lora`` "fixed" keeps one
    mix (``fix``: 0 the first picture's, 1 the last's), "none" leaves LoRAs out; ``attention`` 0 leaves the attention
    mix out. ``form`` "sum" adds the LoRAs' deltas (the paper's eq. 4), "factors" mixes their factors (its code).
    ``align`` moves parts to where they belong on the way, by ``points`` (`engine.requests.points`): a joint's for every
    way from one picture to the next, a loop's last one to the first picture included. ``tier`` "fast" is FreeMorph's
    schedule (Cao et al. 2025, arXiv 2507.01953), where only pictures, words, ``seed``, ``frames``, ``steps``, ``loop``,
    ``fit``, ``size`` and ``model`` count.
    """

    pictures: Annotated[tuple[Image, ...], Spec("Pictures", "two or more, in their order", 2, MOST, layer="RGB")]
    prompt: shared.PROMPT = ""
    prompts: Annotated[tuple[str, ...], hidden("", "what the pictures show, one text for each")] = ()
    seed: shared.SEED = 0
    tier: Annotated[str, Spec("Tier", "fast: no LoRAs, λ, even steps; your own pictures stay", choices=TIERS)] = "full"
    frames: Annotated[int, Spec("Frames", "from one picture to the next, both included", 3, 65, 1)] = 16
    steps: Annotated[int, Spec("Steps", "of inversion and of denoising", 4, 500, 1, beside=True)] = 30
    attention: Annotated[float, Spec("Look at both pictures", "share of steps (λ); above .6 blurs", 0, 1, 0.05)] = 0.6
    loop: Annotated[bool, Spec("close the loop", "go on from the last picture to the first")] = False
    reschedule: Annotated[bool, Spec("even steps", "place frames where the picture changes evenly", beside=True)] = True
    exact_ends: Annotated[bool, Spec("exact pictures", "show yours, not drawn again", beside=True)] = False
    lora: Annotated[str, advanced("LoRAs", "each picture is learnt by one", choices=LORAS)] = "mix"
    fix: Annotated[float, advanced("The one mix", "0 the first picture's, 1 the last's", 0, 1, 0.05, beside=True)] = 0.5
    form: Annotated[str, advanced("What is mixed", "of the LoRAs; the paper has sum", choices=FORMS)] = "sum"
    lora_steps: Annotated[int, advanced("Steps of learning", "at most", 1, 1000, 1)] = 40
    lora_rank: Annotated[int, advanced("Rank", "of the LoRAs learnt here", 1, 64, 1, beside=True)] = 16
    lora_draws: Annotated[int, advanced("Noise levels", "that a picture sees in a step of learning", 1, 16, 1)] = 2
    lora_patience: Annotated[float, advanced("Patience", "least gain in 20 steps", 0, 0.5, 0.005, beside=True)] = 0.01
    lora_rate: Annotated[float, advanced("Learning rate", "of the LoRAs; 0 is the network's own", 0, 0.1, 1e-4)] = 0.0
    loras: Annotated[
        tuple[bytes, ...], advanced("LoRAs of your own, in the order of the pictures", "- for one that is learnt here")
    ] = ()
    own: Annotated[float, advanced("Keep of its own", "while it looks at both (β)", 0, 1, 0.05)] = 0.0
    adain: Annotated[bool, advanced("mix the noise's statistics (AdaIN)", "mean and deviation", beside=True)] = True
    align: points.ALIGN = "off"
    fit: shared.FIT = "fit"
    size: shared.SIZE = 0
    model: shared.MODEL = "flora"
    points: points.POINTS = ()

    method: ClassVar = "morph"
    presets: ClassVar = {
        "instant": {"steps": 12, "lora": "none", "attention": 0.2},  # without LoRAs more of it blurs
        "draft": {"steps": 16, "lora_steps": 20},
        "standard": {"steps": 30, "lora_steps": 40},
        "paper": {"steps": 50, "lora_steps": 200, "lora_rate": 2e-4, "lora_draws": 1, "lora_patience": 0.0}
        | {"form": "factors"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.pictures)
        joints = n if self.loop else n - 1
        object.__setattr__(self, "points", points.check(points.nested(self.points), joints, n))
        for name, kind, what in (("prompts", str, "texts"), ("loras", bytes, "files")):
            value = getattr(self, name)
            if len(value) > n or not all(isinstance(v, kind) for v in value):
                raise EngineError(f"{name} must be at most {n} {what}, one a picture, got {len(value)}")
        if any(self.loras) and self.tier == "fast":
            raise EngineError("tier must be full when LoRAs are given, got fast")
        if self.align != "off" and self.tier == "fast":
            raise EngineError(f"tier must be full where parts are to be moved (align is {self.align}), got fast")
        if any(self.loras) and self.lora == "none":
            raise EngineError("lora must be mix or fixed when LoRAs are given, got none")
        if any(self.loras) and self.form == "factors":
            # Factors of unrelated LoRAs have nothing in common: their cross terms are noise (methods.md §6.1).
            raise EngineError("form must be sum when LoRAs are given, got factors, which suits LoRAs fitted together")

    def words(self) -> list[str]:
        """The prompt of every picture."""
        own = [*self.prompts, *[""] * len(self.pictures)]
        return [w or self.prompt for w in own[: len(self.pictures)]]

    @property
    def total(self) -> int:
        """Frames of the whole: joints are counted once, and a loop does not show its first picture again."""
        n = len(self.pictures)
        return n * (self.frames - 1) if self.loop else (n - 1) * (self.frames - 1) + 1

    def settings(self) -> dict[str, Any]:
        """All but the pictures, as plain values; of LoRAs brought along, what tells them apart."""
        known = [hashlib.blake2b(f, digest_size=8).hexdigest() if f else "" for f in self.loras]
        return super().settings() | {"keyframes": len(self.pictures), "loras": known}
