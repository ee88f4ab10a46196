"""What a method is given, says on the way, and returns.

A `Method` says what its paper says. Time, progress, previews, settings, cancelling and a lack of memory belong to
`engine.jobs.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from engine.checkpoints import hub
from engine.checkpoints.manager import ModelManager
from engine.checkpoints.resolve import CLIPS, DETECTORS, fetch
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.preview import linear_look
from engine.diffusion.sampling import Denoise, Noise, StepRule, euler, gaussian, generator, sample
from engine.diffusion.words import Words
from engine.requests import EngineError, Frame, Progress
from engine.vision import images
from engine.vision.clip_score import Ranker
from engine.vision.keypoints.detectors import Detector

T = TypeVar("T")
VERSION = 2  # of what the cache keeps: with another one, nothing kept before is found
ON_DISK = ("lora", "inversion", "features")


@dataclass(frozen=True)
class Advance:
    """How far it is since the last one, in units of `Cost`, and what is being done.

    ``latents`` (n, C, h, w): the clean pictures in mind, of the ``frames`` with those numbers (of several of one, the
    first is shown); or ``pictures``, which are there already.
    """

    doing: str
    steps: float = 0
    fits: float = 0
    decoded: float = 0
    frames: Sequence[int] = ()
    latents: Tensor | None = None
    pictures: Sequence[Image] = ()


@dataclass(frozen=True)
class Output:
    """What a method made. ``settings``: what it adds to the request's; ``quality``, ``notes``, ``files``: as `Done`."""

    frames: Sequence[Image]
    settings: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


Steps = Generator[Advance | Frame | Progress, None, Output]  # (Progress: of a download or of loading)
Method = Callable[["Context", Any], Steps]


class Context:
    """What one job works with: its ``model`` (once `load` has run), and what earlier jobs have learnt.

    ``cache`` keeps LoRAs, inversions and features on disk (anything with ``get``, ``put`` and ``trouble``; None: no
    disk); the rest is remembered in memory. One job, one context.
    """

    def __init__(self, models: ModelManager, cache: Any = None):
        self.models, self.cache = models, cache
        if cache is not None:
            cache.trouble = ""  # which was the last job's
        self._model: LatentDiffusion | None = None
        self._own: tuple[Tensor, Tensor] | None = None  # the job's own latents and pictures
        self._look: Callable[[Tensor], Tensor] | None = None

    @property
    def model(self) -> LatentDiffusion:
        assert self._model is not None, "a method asked for its model before `load`"
        return self._model

    @property
    def loaded(self) -> bool:
        return self._model is not None

    @property
    def lights(self) -> bool:
        """Whether the network has a light decoder."""
        return self.loaded and self.model.resident.light is not None

    @property
    def trouble(self) -> str:
        """What a lack of memory has changed, in words."""
        return self._model.room.trouble if self._model else ""

    @property
    def evaluations(self) -> int:
        return self._model.evaluations if self._model else 0

    @property
    def executor(self) -> str:
        """Who answered for the network."""
        return self._model.executor if self._model else ""

    def load(self, name: str, wants: Sequence[str]) -> Generator[Progress, None, LatentDiffusion]:
        """Makes the network of that name this job's, with what is wanted beside it."""
        self._model = yield from self.models.loading(name, wants)
        return self._model

    # ------------------------------------------------------------------------------------------- remembering

    def get(self, kind: str, key: Any) -> Any:
        """What `put` kept under that kind and key (anything with a faithful repr), for these weights; or None."""
        if kind in ON_DISK:
            return self.cache.get(kind, (VERSION, self.model.fingerprint, key)) if self.cache else None
        return self.models.memo.get(self._key(kind, key))

    def put(self, kind: str, key: Any, value: T, about: str = "") -> T:
        if kind not in ON_DISK:
            return self.models.memo.put(self._key(kind, key), value, _bytes(value))
        if self.cache:
            self.cache.put(kind, (VERSION, self.model.fingerprint, key), value, about)
        return value

    def remember(self, kind: str, key: Any, make: Callable[[], T]) -> T:
        """What is kept under the key, or what ``make`` gives now."""
        found = self.get(kind, key)
        return self.put(kind, key, make()) if found is None else found

    def _key(self, kind: str, key: Any) -> Any:
        weights = None if kind == "people" else self.model.fingerprint  # people are found without the network
        return kind, weights, repr(key)

    # ------------------------------------------------------------------------------------ pictures and prompts

    def encode(self, pictures: Sequence[np.ndarray | Image]) -> Tensor:
        """Pictures of one size → (B, C, h, w), in one batch; they are what previews are made after."""
        x = images.to_tensor(pictures)
        return self._remember_own(self.model.encode(x), x)

    def encode_each(self, pictures: Sequence[np.ndarray], together: bool = False) -> Tensor:
        """The same, remembered by content. Each is encoded alone, so that what is remembered already does not change
        the last bits of the rest; or what is new ``together``, remembered apart."""
        keys = [(p.shape, images.digest_of(p.tobytes()), together) for p in pictures]
        known, x = {key: self.get("latent", key) for key in keys}, images.to_tensor(pictures)
        if new := [key for key, z in known.items() if z is None]:
            parts = x[[keys.index(key) for key in new]].split(len(new) if together else 1)
            encoded = torch.cat([self.model.encode(part) for part in parts]).split(1)
            known |= {key: self.put("latent", key, z.clone()) for key, z in zip(new, encoded, strict=True)}
        return self._remember_own(torch.cat([known[key] for key in keys]), x)

    def _remember_own(self, z: Tensor, x: Tensor) -> Tensor:
        self._own, self._look = (z, x), None
        return z

    @torch.no_grad()  # it is called between a method's steps
    def look(self, latents: Tensor, light: bool = False) -> list[Image]:
        """Rough pictures of latents, small or by the light decoder (`lights`); none where there is no memory for it."""
        if self._own and not light:
            self._look = self._look or linear_look(*self._own)
        look = self.model.look if light else self._look
        try:
            return images.to_pictures(look(latents)) if look else []
        except EngineError:
            return []

    def embed(self, prompt: str, negative: str) -> Words:
        """Two rows, remembered: live drawing asks for the same several times a second."""
        return self.remember("prompts", (prompt, negative), lambda: self.model.embed([prompt], [negative]))

    # ------------------------------------------------------------------------------------------------- tools

    def clip(self, which: str) -> Ranker:
        """The CLIP in the folder ``clip`` beside the network, or else ViT-L/14 (``clip``) or ViT-B/32 (``clip-small``).

        EngineError if it is not on this machine (`load` fetches it when it is wanted).
        """
        resident = self.model.resident
        folder = resident.folder / "clip"
        if not (folder / "open_clip_config.json").is_file():
            found = hub.where(CLIPS[which].source)
            if found is None:
                raise EngineError(
                    f"picker must be smoothest or first where there is no {CLIPS[which].about} on this machine, "
                    f"got {which}"
                )
            folder = found
        device = torch.device("cpu") if resident.plan.offload else self.model.device
        return self.models.tool(("clip", str(folder)), lambda: Ranker(folder, device))

    def detector(self, which: str) -> Generator[Progress, None, Detector]:
        """What finds people, fetched if it is not here."""
        if known := self.models.tools.get(("detector", which)):
            return known
        extra = DETECTORS[which]
        folder, *_ = yield from fetch([(extra.about, extra.source)])
        files, device = [folder / name for name in extra.source.files], self.models.device.type
        return self.models.tool(("detector", which), lambda: Detector(which, files, device))


def walk(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], doing: str, frames: Sequence[int] = (), step: StepRule = euler
) -> Generator[Advance, None, Tensor]:
    """Walks rows ``x`` along ``sigmas``, shown as ``frames``; returns where they end."""
    for state in sample(denoise, x, sigmas, step):
        x = state.x
        yield Advance(doing, steps=len(x), frames=frames, latents=state.x0 if frames else None)
    return x


def relay(steps: Generator[Any, None, T], say: Callable[[Any], Advance]) -> Generator[Advance, None, T]:
    """The steps of a fit as `Advance`s; returns what was fitted."""
    try:
        while True:
            yield say(next(steps))
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


def noise_source(shape: Sequence[int], keys: Sequence[tuple[int, ...]], device: torch.device) -> Noise:
    """Standard noise (len(keys), *shape) at every call, each row from a generator of its own."""
    own = [generator(*k) for k in keys]
    return lambda: gaussian(shape, own).to(device)


def free_from(model: LatentDiffusion, strength: Tensor, top: float) -> Tensor:
    """The sigma from which each cell of ``strength`` (1, 1, h, w), 0 … 1, is free, when 1 is t0 = ``top``."""
    known = {v: model.schedule.sigma(min(1.0, v * top)) for v in set(strength.flatten().tolist())}
    return torch.tensor([known[v] for v in strength.flatten().tolist()]).reshape(strength.shape).to(model.device)


def _bytes(value: Any) -> int:
    """About how many bytes a value of ours takes."""
    if isinstance(value, Words):
        return _bytes(value.tensors)
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Image):
        return value.width * value.height * 3 + 4096
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return 4096
