"""The catalogue: which networks there are, what belongs to each, on what terms, where they lie (`catalogue.toml`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.hub import Source
from engine.checkpoints.shapes import FEW

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "models"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
KINDS = ("sketch", "stroke", "pose", "canny", "tile", "live", "preview", "vae")  # what else a family names is a LoRA


@dataclass(frozen=True)
class Extra:
    """What is fetched beside a network, when it is asked for: ``gb`` GB."""

    about: str
    source: Source
    gb: float
    licence: str


@dataclass(frozen=True)
class Entry:
    """One network: an embedded folder, or repositories of the hub in order of preference.

    ``size`` is its native side in pixels, ``gb`` what is fetched of it, ``memory`` the device memory in GB that it
    needs at least (`engine.diffusion.memory`). ``family`` names what belongs to it (`FAMILIES`). ``guidance`` is what
    the page sets when the network is chosen (flora's is the request's own), ``lora_rate`` the rate at which LoRAs are
    fitted where none is asked for.
    """

    name: str
    about: str
    licence: str
    terms: str
    family: str
    folder: Path | None = None
    source: Source | None = None
    size: int = 512
    gb: float = 0.0
    memory: float = 0.0
    loras: tuple[str, ...] = ()
    lora_rate: float = 1e-3
    guidance: float = 7.5

    @property
    def can(self) -> tuple[str, ...]:
        """What it sees: text, sketch, stroke, pose."""
        if self.folder:  # flora sees drawings beside the noise
            return ("text", "sketch", "stroke")
        return ("text", *(k for k in ("sketch", "stroke", "pose") if k in FAMILIES[self.family]))


TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf8"))


def _source(row: dict[str, Any], files: str) -> Source:
    """Takes what makes a source out of a row of the table."""
    files = row.pop("files", files)
    names = TABLE["files"][files] if isinstance(files, str) else files
    return Source(tuple(row.pop("repos")), tuple(names), pickled=row.pop("pickled", files == "pickled"))


def _extras(rows: dict[str, Any], but: tuple[str, ...] = ()) -> dict[str, Extra]:
    rows = {name: dict(rows[row] if isinstance(row, str) else row) for name, row in rows.items() if name not in but}
    return {name: Extra(source=_source(row, "module"), **row) for name, row in rows.items()}


def _entry(name: str, row: dict[str, Any]) -> Entry:
    row = row | {"name": name, "terms": TABLE["terms"][row["terms"]], "loras": tuple(row.get("loras", ()))}
    place = {"folder": ASSETS / row.pop("folder")} if "folder" in row else {"source": _source(row, "network")}
    return Entry(**row | place)


CATALOGUE = {name: _entry(name, row) for name, row in TABLE["networks"].items()}
FAMILIES = {
    name: _extras(TABLE["families"][row] if isinstance(row, str) else row, ("live",) * (name in FEW.values()))
    for name, row in TABLE["families"].items()
}
CLIPS, DETECTORS, ANNOTATORS = (_extras(TABLE[kind]) for kind in ("clips", "detectors", "annotators"))
LORAS = {name: extra for family in FAMILIES.values() for name, extra in family.items() if name not in KINDS}
