"""The request of *Morph*, and its presets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from PIL.Image import Image

from engine.requests import points, shared
from engine.requests.errors import EngineError
from engine.requests.spec import Request, Spec, advanced, hidden

LORAS = {"mix": "blends along the way", "fixed": "is one blend in all frames", "none": "is left out: faster, looser"}
FORMS = {"sum": "what each has changed", "factors": "their parts (the published code)"}
TIERS = {
    "full": "thorough: learns each picture first",
    "fast": "fast: learns nothing (tried with flora only)",
}
TIER = "DiffMorpher; or FreeMorph's schedule, without LoRAs, λ and even steps"
STEPS, FORM = "of DDIM inversion and of denoising", "LoRA deltas added (eq. 4), or their factors mixed"
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
    tier: Annotated[str, Spec("Thorough or fast", "fast takes seconds", choices=TIERS, term=TIER)] = "full"
    frames: Annotated[int, Spec("Frames", "from one picture to the next, both included", 3, 65, 1)] = 16
    steps: Annotated[int, Spec("Steps", "more: finer and slower", 4, 500, 1, beside=True, term=STEPS)] = 30
    attention: Annotated[
        float,
        Spec("Look at both pictures", "share of the steps; above .6 it blurs", 0, 1, 0.05, term="λ: shared attention"),
    ] = 0.6
    loop: Annotated[bool, Spec("close the loop", "go on from the last picture to the first")] = False
    reschedule: Annotated[
        bool,
        Spec("even steps", "frames lie where the picture changes evenly", beside=True, term="rescheduling by LPIPS"),
    ] = True
    exact_ends: Annotated[bool, Spec("exact pictures", "show yours, not drawn again", beside=True)] = False
    lora: Annotated[str, advanced("What is learnt", "of each picture", choices=LORAS, term="a LoRA a picture")] = "mix"
    fix: Annotated[
        float, advanced("The one blend", "0: the first picture's, 1: the last's", 0, 1, 0.05, beside=True)
    ] = 0.5
    form: Annotated[str, advanced("A blend adds up", "of what was learnt", choices=FORMS, term=FORM)] = "sum"
    lora_steps: Annotated[
        int, advanced("Steps of learning", "at most; more keep more detail", 1, 1000, 1, term="LoRA training steps")
    ] = 40
    lora_rank: Annotated[
        int,
        advanced("Room for what is learnt", "more holds finer detail", 1, 64, 1, beside=True, term="rank of the LoRAs"),
    ] = 16
    lora_draws: Annotated[
        int, advanced("Looks a step", "that learning takes at a picture", 1, 16, 1, term="noise levels drawn a step")
    ] = 2
    lora_patience: Annotated[
        float,
        advanced("Enough is learnt", "when 20 steps gain less than this share; 0: never", 0, 0.5, 0.005, beside=True),
    ] = 0.01
    lora_rate: Annotated[
        float,
        advanced("How fast it learns", "0: what suits the network", 0, 0.1, 1e-4, term="learning rate of the LoRAs"),
    ] = 0.0
    loras: Annotated[
        tuple[bytes, ...],
        advanced("Learnt before (LoRAs), in the order of the pictures", "- for one that is learnt here", term="LoRAs"),
    ] = ()
    own: Annotated[
        float,
        advanced("Keep to itself", "0: frames look only at your pictures", 0, 1, 0.05, term="β of the attention mix"),
    ] = 0.0
    adain: Annotated[
        bool, advanced("blend light and contrast too", "of the noise along the way", beside=True, term="AdaIN")
    ] = True
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
        object.__setattr__(self, "points", points.nested(self.points))
        super().__post_init__()
        n = len(self.pictures)
        joints = n if self.loop else n - 1
        points.check(self.points, joints, n)
        for name, kind, what in (("prompts", str, "texts"), ("loras", bytes, "files")):
            value = getattr(self, name)
            if len(value) > n or not all(isinstance(v, kind) for v in value):
                raise EngineError(f"{name} must be at most {n} {what}, one a picture, got {len(value)}")
        if any(self.loras) and self.tier == "fast":
            raise EngineError("`tier` must be `tier=full` when LoRAs are given, got `tier=fast`")
        if self.align != "off" and self.tier == "fast":
            raise EngineError(
                f"`tier` must be `tier=full` where parts are to be moved (`align` is `align={self.align}`), got "
                "`tier=fast`"
            )
        if any(self.loras) and self.lora == "none":
            raise EngineError("`lora` must be `lora=mix` or `lora=fixed` when LoRAs are given, got `lora=none`")
        if any(self.loras) and self.form == "factors":
            # Factors of unrelated LoRAs have nothing in common: their cross terms are noise (methods.md §6.1).
            raise EngineError(
                "`form` must be `form=sum` when LoRAs are given, got `form=factors`, which suits LoRAs fitted together"
            )

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
