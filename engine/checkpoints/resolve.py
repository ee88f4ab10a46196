"""The catalogue: which networks there are, what belongs to each, on what terms, where they lie, which are here.

A network is named by an entry, by a folder in the diffusers format, or by a single ``.safetensors`` file; LoRAs may
follow, each with its strength: ``sd15 + /loras/ink.safetensors:0.8 + smooth``.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints import hub, kinds
from engine.checkpoints.hub import Source
from engine.requests import EngineError, Progress, within
from engine.requests.files import typed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "models"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
KINDS = ("sketch", "stroke", "pose", "canny", "live", "preview")  # what else a family names is a LoRA


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

    ``size`` is its native side in pixels, ``gb`` what is fetched, ``memory`` the device memory in GB that it needs
    at least (`engine.diffusion.memory`). ``family`` names what belongs to it (`FAMILIES`). ``guidance`` is what the
    page sets when the network is chosen (flora's is the request's own), ``lora_rate`` the rate at which LoRAs are
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


def _extras(rows: dict[str, Any]) -> dict[str, Extra]:
    rows = {name: dict(rows[row] if isinstance(row, str) else row) for name, row in rows.items()}
    return {name: Extra(source=_source(row, "module"), **row) for name, row in rows.items()}


def _entry(name: str, row: dict[str, Any]) -> Entry:
    row = row | {"name": name, "terms": TABLE["terms"][row["terms"]], "loras": tuple(row.get("loras", ()))}
    place = {"folder": ASSETS / row.pop("folder")} if "folder" in row else {"source": _source(row, "network")}
    return Entry(**row | place)


CATALOGUE = {name: _entry(name, row) for name, row in TABLE["networks"].items()}
FAMILIES = {
    name: _extras(TABLE["families"][row] if isinstance(row, str) else row) for name, row in TABLE["families"].items()
}
CLIPS, DETECTORS, ANNOTATORS = (_extras(TABLE[kind]) for kind in ("clips", "detectors", "annotators"))
LORAS = {name: extra for family in FAMILIES.values() for name, extra in family.items() if name not in KINDS}


@dataclass(frozen=True)
class Choice:
    """What a model's name asks for: a base, and LoRAs with their strengths."""

    name: str
    base: Entry | Path
    loras: tuple[tuple[Extra | Path, float], ...] = ()

    @property
    def entry(self) -> Entry | None:
        return self.base if isinstance(self.base, Entry) else None

    @property
    def family(self) -> str:
        """What may join it: an entry's own, or by the kind of a folder or file; "" if of no known one."""
        if isinstance(self.base, Entry):
            return self.base.family
        family = kinds.family(self.base)
        return "turbo" if family == "sd2" and "turbo" in self.base.stem.lower() else family

    @property
    def extras(self) -> Mapping[str, Extra]:
        return FAMILIES.get(self.family, {})

    @property
    def lora_rate(self) -> float:
        """An entry's own, or that of the entry named like the family: of a flora of any generation in its folder."""
        entry = self.entry or CATALOGUE.get(self.family)
        return entry.lora_rate if entry else Entry.lora_rate

    def needs(self, wants: Sequence[str] = ()) -> list[tuple[str, Source]]:
        """What of it comes from the hub, with what is wanted beside it: (what it is called, its source)."""
        out = [(self.base.name, self.base.source)] if isinstance(self.base, Entry) and self.base.source else []
        known = {**self.extras, **CLIPS, **DETECTORS}
        lacking = [k for k in wants if k not in known and not self.beside(k)]
        if "pose" in lacking:
            raise EngineError(
                f"pose must be off for {self.name}, which has no control for poses; sd15 and its kin have"
            )
        if "live" in lacking and self.family != "turbo":
            raise EngineError(f"sampler must be ddim for {self.name}, which has no few-step LoRA, got 'live'")
        # What a network can do without comes along with it, and is not asked for later.
        more = (*wants, "preview") if missing(out) else wants
        out += [(known[k].about, known[k].source) for k in more if k in known and not self.beside(k)]
        return out + [(lora.about, lora.source) for lora, _ in self.loras if isinstance(lora, Extra)]

    def beside(self, kind: str) -> Path | None:
        """What lies in a folder of that name in the network's own (or in one named like its file): it comes first."""
        place = self.base.folder if isinstance(self.base, Entry) else _folder(self.base)
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


def resolve(name: str, paths: Sequence[str] | None = None) -> Choice:
    """Reads a model's name. Files may be named within the folders ``paths`` only, or anywhere if it is None.

    EngineError for what is neither in the catalogue nor on the disk.
    """
    # Labels of the page's menu are understood too.
    first, *more = parts = [_plain(part.partition(" · ")[0]) for part in _plain(name).split(" + ")]
    entry = CATALOGUE.get(first)
    if entry is None:
        _there(first, name.partition(" + ")[0].strip(), paths)
    own = [(LORAS[n], 1.0) for n in entry.loras] if entry else []
    return Choice(" + ".join(parts), entry or Path(first), (*own, *(_lora(text, paths) for text in more)))


def _plain(text: str) -> str:
    """A name as it was meant: without quotes that were copied along, ``~`` for the person's folder."""
    text = text.strip()
    for mark in ('""', "''", "“”", "„“", "‘’", "«»"):
        if len(text) > 1 and text[0] == mark[0] and text[1:].count(mark[1]) == 1:
            inside, _, after = text[1:].rpartition(mark[1])
            text = inside.strip() + after  # (a LoRA's strength)
    return typed(text)


def _there(first: str, given: str, paths: Sequence[str] | None) -> None:
    """EngineError unless a network may be named there and is there, saying what is wrong and what may be meant.

    ``given``: the name as it was written; the person's own folder is not told.
    """
    path = Path(first)
    if not _open(first, paths):
        at = ""
    elif path.is_dir():
        if (path / "unet" / "config.json").is_file():
            return
        kinds.refuse(kinds.of_folder(path), path.name)
        at = ", a folder without one"
    elif path.is_file():
        if path.suffix.lower() == ".safetensors":
            return
        if path.suffix.lower() in hub.PICKLES:
            got = f"{path.name}, which may run code when it is read; convert it to .safetensors"
            raise EngineError(f"model must be a .safetensors file or a folder, got {got}")
        at = ", a file of another kind"
    else:
        at = ", which is not there" + _meant(first, CATALOGUE, paths)
    raise EngineError(
        f"model must be one of {', '.join(CATALOGUE)}, a diffusers folder or a .safetensors file, got {given!r}{at}"
    )


def _meant(text: str, names: Iterable[str], paths: Sequence[str] | None) -> str:
    """What may have been meant by a name that is not there: one of ``names``, or what lies where it should."""
    known, path = {n.lower(): n for n in names}, Path(text)
    if path.parent != Path() and _open(str(path.parent), paths) and path.parent.is_dir():
        known |= {p.name.lower(): p.name for p in path.parent.iterdir() if p.suffix == ".safetensors" or p.is_dir()}
    own = path.name.lower()
    found = [n for n in known if sorted(n) == sorted(own)] or difflib.get_close_matches(own, known, 1)
    return f"; did you mean {known[found[0]]}?" if found else ""


def _lora(text: str, paths: Sequence[str] | None) -> tuple[Extra | Path, float]:
    name, _, strength = typed(text).rpartition(":")
    try:
        weight = float(strength) if name else 1.0
    except ValueError:  # a colon of the path's own
        name, weight = text, 1.0
    name = _plain(name or text)
    own = name.lower().endswith(".safetensors")
    if name not in LORAS and not (own and _open(name, paths) and Path(name).is_file()):
        at = ""
        if _open(name, paths) and not Path(name).exists():
            at = ", which is not there" + _meant(name, LORAS, paths)
        elif name.lower().endswith(hub.PICKLES):
            at = ", which may run code when it is read; convert it to .safetensors"
        raise EngineError(f"LoRA must be one of {', '.join(LORAS)} or a .safetensors file, got {name!r}{at}")
    if not -4 <= weight <= 4:
        raise EngineError(f"strength of {name} must be a number from -4 to 4, got {strength}")
    return LORAS.get(name, Path(name)), weight


def _open(path: Path, paths: Sequence[str] | None) -> bool:
    """Whether files may be named there."""
    try:
        place = Path(path).resolve()
        place.exists()
    except (OSError, ValueError):  # what can be no path: too long, or with characters that no path has
        return False
    return paths is None or any(f and place.is_relative_to(Path(typed(f)).resolve()) for f in paths)


def _folder(path: Path) -> Path:
    """A network's folder, or the one beside a single file that is named like it."""
    return path if path.is_dir() else path.with_suffix("")


def fetch(needs: Sequence[tuple[str, Source]]) -> Generator[Progress, None, list[Path]]:
    """Brings what is not on this machine, one after the other, with progress; returns the folders.

    May be closed at any time; what came is kept and the next time goes on from there. EngineError if it cannot be had.
    """
    out = []
    for i, (name, source) in enumerate(needs):
        out.append((yield from within(hub.fetch(source, name), i / len(needs), (i + 1) / len(needs))))
    return out


def missing(needs: Sequence[tuple[str, Source]]) -> list[tuple[str, Source]]:
    """What of it is not on this machine; asks nobody outside."""
    return [(name, source) for name, source in needs if hub.where(source) is None]


def available() -> list[tuple[Entry, bool]]:
    """The catalogue, each with whether it is on this machine."""
    return [(e, not missing(resolve(e.name).needs())) for e in CATALOGUE.values()]
