"""The request of *Morph*, and its presets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL.Image import Image

from engine.requests.spec import FITS, EngineError, Range, bounded, picture, plain

LORAS = ("mix", "fixed", "none")
FORMS = ("sum", "factors")
MOST = 12  # keyframes


@dataclass(frozen=True)
class MorphRequest:
    """Morph through two or more pictures with DiffMorpher (Zhang et al. 2023, arXiv 2312.07409; methods.md §2).

    ``pictures`` are PIL pictures as `engine.vision.images.read` gives them; ``frames`` counts a way from one to the next, both
    included. ``prompts`` holds words for single pictures; where there are none, ``prompt`` counts. ``loras`` holds
    safetensors files for single pictures, in their order; an empty one is fitted here. ``lora`` "fixed" keeps one mix
    (``fix``: 0 the first picture's, 1 the last's), "none" leaves LoRAs out; ``attention`` 0 leaves the attention mix
    out. ``form`` "sum" adds the LoRAs' deltas (the paper's eq. 4), "factors" mixes their factors (its code).
    """

    pictures: tuple[Image, ...]
    prompt: str = ""
    prompts: tuple[str, ...] = ()
    frames: int = 16
    loop: bool = False
    steps: int = 30
    lora: str = "mix"
    fix: float = 0.5
    form: str = "sum"
    lora_steps: int = 40
    lora_rank: int = 16
    lora_rate: float = 0.0
    lora_draws: int = 2
    lora_patience: float = 0.01
    attention: float = 0.6
    own: float = 0.0
    adain: bool = True
    reschedule: bool = True
    exact_ends: bool = False
    seed: int = 0
    fit: str = "fit"
    size: int = 0
    model: str = "flora"
    loras: tuple[bytes, ...] = ()

    BOUNDS: ClassVar = {
        "frames": Range(3, 65, 1, "from one picture to the next, both included"),
        "steps": Range(4, 500, 1, "steps of inversion and of denoising"),
        "fix": Range(0.0, 1.0, 0.05, "the one mix: 0 the first picture's LoRA, 1 the last's"),
        "lora_steps": Range(1, 1000, 1, "at most so many steps of fitting"),
        "lora_rank": Range(1, 64, 1, "rank of the LoRAs fitted here"),
        "lora_rate": Range(0.0, 0.1, 1e-4, "their learning rate; 0 is the network's own"),
        "lora_draws": Range(1, 16, 1, "noise levels a picture sees in one step"),
        "lora_patience": Range(0.0, 0.5, 0.005, "fitting stops when 20 steps gain less than this share; 0 is never"),
        "attention": Range(0.0, 1.0, 0.05, "share of the steps that look at both pictures (λ); above .6 blurs"),
        "own": Range(0.0, 1.0, 0.05, "how much of its own a frame keeps while it looks (β)"),
        "seed": Range(0, 2**32 - 1, 1),
        "size": Range(0, 1536, 8, "longer side in pixels; 0 is the network's own"),
    }
    WHOLE: ClassVar = ("frames", "steps", "lora_steps", "lora_rank", "lora_draws", "seed", "size")
    TEXTS: ClassVar = ("prompt", "model")
    CHOICES: ClassVar = {"lora": LORAS, "form": FORMS, "fit": FITS}

    def __post_init__(self) -> None:
        n = len(self.pictures)
        if not 2 <= n <= MOST:
            raise EngineError(f"pictures must be 2 to {MOST}, got {n or 'none'}")
        for i, p in enumerate(self.pictures, 1):
            picture(f"picture {i}", p)
        bounded(self)
        for name in ("loop", "adain", "reschedule", "exact_ends"):
            if not isinstance(getattr(self, name), bool):
                raise EngineError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if len(self.prompts) > n or not all(isinstance(p, str) for p in self.prompts):
            raise EngineError(f"prompts must be at most {n} texts, one a picture, got {len(self.prompts)}")
        if len(self.loras) > n or not all(isinstance(p, bytes) for p in self.loras):
            raise EngineError(f"loras must be at most {n} files, one a picture, got {len(self.loras)}")
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
        return plain(self, "morph", ("pictures", "loras")) | {"keyframes": len(self.pictures), "loras": known}


MORPH_PRESETS: dict[str, dict[str, Any]] = {
    "instant": {"steps": 12, "lora": "none", "attention": 0.2},  # without LoRAs more of it blurs
    "draft": {"steps": 16, "lora_steps": 20},
    "standard": {"steps": 30, "lora_steps": 40},
    "paper": {"steps": 50, "lora_steps": 200, "lora_rate": 2e-4, "lora_draws": 1, "lora_patience": 0.0,
              "form": "factors"},
}  # fmt: skip
