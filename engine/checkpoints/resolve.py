"""A model's name, read: a network of the catalogue, a folder in the diffusers format, or a ``.safetensors`` file.

LoRAs may follow, each with its strength: ``sd15 + /loras/ink.safetensors:0.8 + smooth``.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from engine.checkpoints import hub, kinds, library
from engine.checkpoints.catalogue import ANNOTATORS, CATALOGUE, CLIPS, DETECTORS, FAMILIES, LORAS, PARTS, Entry, Extra
from engine.checkpoints.hub import Source
from engine.checkpoints.paths import inside, may_open, meant, pickled, shown
from engine.checkpoints.shapes import FEW, WIDTH_OF
from engine.checkpoints.signs import FILES, tell
from engine.checkpoints.whole import weights
from engine.requests import EngineError, Progress, number, within
from engine.requests.files import split_network

__all__ = ["ANNOTATORS", "CATALOGUE", "CLIPS", "DETECTORS", "FAMILIES"]  # which its callers want beside it
# What a name that is not there may be near to: networks, and what their repositories are called.
REPOS = {r.rpartition("/")[2]: e.name for e in reversed(CATALOGUE.values()) if e.source for r in e.source.repos}
NETWORKS = REPOS | {n: n for n in CATALOGUE}
OWN = {n: n for n in LORAS}
NEAR = 5  # of the artist's own LoRAs that a refusal names
# What is distilled to few steps, as it is called; "step00004000" is how trainers number what they save.
DISTILLED = r"turbo|lightning|hyper[-_ ]?(sd|xl)|dmd2"
DISTILLED_LORAS = r"xl[-_ ]?(turbo|lightning)|(lightning|dmd2|hyper[-_ ]?(sd|xl)).*?\d[-_ ]?steps?(?!\d)"
FOLDERS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")  # peft's and diffusers' files of LoRAs


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
        """What may join it: an entry's own, or by the kind of a folder or file; "" if of no known one. What is
        distilled to few steps, by itself or by a LoRA on it, is told by its name."""
        if isinstance(self.base, Entry):
            family, few = self.base.family, False
        else:
            family, few = kinds.family(self.base), bool(re.search(DISTILLED, self.base.stem.lower()))
        few |= any(re.search(DISTILLED_LORAS, _called(lora).lower()) for lora in self.loras)
        return FEW.get(family, family) if few else family

    @property
    def extras(self) -> Mapping[str, Extra]:
        return FAMILIES.get(self.family, {})

    @property
    def lora_rate(self) -> float:
        """An entry's own, or that of the entry named like the family: of a flora of any generation in its folder."""
        entry = self.entry or CATALOGUE.get(self.family)
        return entry.lora_rate if entry else Entry.lora_rate

    def check(self) -> None:
        """EngineError for files that are not whole, of another kind, or LoRAs of another network: of files here the
        configs and headers are read, no weights."""
        if isinstance(self.base, Path):
            kinds.check(self.base, PARTS)
        place = self.base if isinstance(self.base, Path) else self.base.folder or hub.where(self.base.source)
        family = self.family if self.loras else ""
        words = (place and self.loras and kinds.width(place)) or WIDTH_OF.get(family, 0)
        base = kinds.Base(self.name, words, family.startswith("sdxl") if family or words else None)
        for lora, _ in self.loras:
            if isinstance(lora, Path):
                kinds.check_lora(lora, f"LoRA {lora.name}", base)
            elif family and lora not in self.extras.values():
                got = f"{lora.about}, which is for other networks"
                raise EngineError(f"LoRA must be for {kinds.short(self.name)}, got {got}")

    def needs(self, wants: Sequence[str] = ()) -> list[tuple[str, Source]]:
        """What of it comes from the hub, with what is wanted beside it: (what it is called, its source).

        EngineError for what it has not got, and for files of another kind, or not whole (see `check`).
        """
        self.check()
        out = [(self.base.name, self.base.source)] if isinstance(self.base, Entry) and self.base.source else []
        known = {**self.extras, **CLIPS, **DETECTORS}
        lacking = [k for k in wants if k not in known and not self.beside(k)]
        if "pose" in lacking:
            raise EngineError(
                f"pose must be off for {self.name}, which has no control for poses; sd15 and its kin have"
            )
        if "live" in lacking and self.family not in FEW.values():
            raise EngineError(f"sampler must be ddim for {self.name}, which has no few-step LoRA, got 'live'")
        # What a network can do without comes along with it, and is not asked for later.
        more = (*wants, "preview", "vae") if missing(out) else wants
        out += [(known[k].about, known[k].source) for k in more if k in known and not self.beside(k)]
        return out + [(lora.about, lora.source) for lora, _ in self.loras if isinstance(lora, Extra)]

    def beside(self, kind: str) -> Path | None:
        """What lies in a folder of that name in the network's own (or in one named like its file): it comes first."""
        place = self.base.folder if isinstance(self.base, Entry) else _folder(self.base)
        found = place and place / kind.removesuffix("-small")
        marks = ("config.json", "adapter_config.json", "open_clip_config.json")
        return found if found and any((found / mark).is_file() for mark in marks) else None

    def here(self, kind: str) -> Path | None:
        """Where what its family has of a kind lies, if it was fetched."""
        extra = self.extras.get(kind)
        return hub.where(extra.source) if extra else None

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
        found = [weights(place / part) for part in kinds.MODULES]
        files = [place] if place.is_file() else [f for w in found if w for f in w.files]
        return sum(f.stat().st_size for f in files if f.is_file())


def _called(lora: tuple[Extra | Path, float]) -> str:
    """What a LoRA is called that is added, not taken away."""
    what, strength = lora
    return "" if strength <= 0 else what.stem if isinstance(what, Path) else what.about


def resolve(name: str, paths: Sequence[str] | None = None, folders: Sequence[str] = ()) -> Choice:
    """Reads a model's name. Files may be named within the folders ``paths`` only, or anywhere if it is None; what lies
    in the artist's own ``folders`` by its name alone (`library`).

    EngineError for what is neither in the catalogue nor on the disk. Files are looked into by `Choice.needs`.
    """
    # Labels of the page's menu are understood too.
    first, *more = parts = [part.partition(" · ")[0].rstrip() for part in split_network(name)]
    entry = CATALOGUE.get(first)
    own = None if entry else library.place(first, folders)
    if entry is None:
        _check(first := str(own or first), None if own else paths)
    loras = [(LORAS[n], 1.0) for n in entry.loras] if entry else []
    return Choice(" + ".join(parts), entry or Path(first), (*loras, *(_lora(text, paths, folders) for text in more)))


def _check(text: str, paths: Sequence[str] | None) -> None:
    """EngineError unless a network may be named there and is there, saying what is wrong and what may be meant."""
    path, at = Path(text), ""
    if text in LORAS:
        raise EngineError(f"model must be a network, got a LoRA: name it after one, as in 'sd15 + {text}'")
    if text and may_open(text, paths):
        if (path / "unet" / "config.json").is_file() or (path.is_file() and path.suffix.lower() == ".safetensors"):
            return
        if path.is_file():
            raise EngineError(f"model must be a .safetensors file or a folder, got {path.name}{pickled(text)}")
        if path.is_dir() and any((path / part).exists() for part in ("model_index.json", *PARTS)):
            kinds.check(path, PARTS)
        if path.is_dir():
            kinds.refuse(lines := kinds.of_folder(path), path.name)
            if kind := tell(lines, FILES):
                raise EngineError(f"model {path.name} must be a whole network, got {kind.said}")
            at = f", a folder without one{inside(path)}"
        else:
            at = f", which is not there{meant(path, NETWORKS, paths)}"
    wanted = f"model must be one of {', '.join(CATALOGUE)}, a diffusers folder or a .safetensors file"
    raise EngineError(f"{wanted}, got {shown(text)!r}{at}")


def _lora(text: str, paths: Sequence[str] | None, folders: Sequence[str]) -> tuple[Extra | Path, float]:
    """A LoRA and its strength. EngineError for what is none, or may not be named."""
    name, _, strength = (part.strip() for part in text.rpartition(":"))
    weight, endings = number(strength), (".safetensors", *LORAS)
    if not name or not (isinstance(weight, int | float) or name.lower().endswith(endings)):
        name, strength, weight = text, "1", 1.0  # a colon of the path's own, or none
    own = None if name in LORAS else library.place(name, folders)
    path, at = own or Path(name), ""
    if name not in LORAS and not (own and own.suffix.lower() == ".safetensors"):
        if not may_open(name, paths):
            at = pickled(name) or _meant(path, paths, folders)
        elif path.is_dir():
            path = next((f for n in FOLDERS if (f := path / n).is_file()), path)
            at = "" if path.is_file() else ", a folder without one"
        elif not path.is_file():
            at = f", which is {'a network' if name in CATALOGUE else 'not there'}{_meant(path, paths, folders)}"
        elif path.suffix.lower() != ".safetensors":
            at = pickled(name) or ", a file of another kind"
        if at or not may_open(name, paths):
            there = ", ".join(_loras(name, folders))
            raise EngineError(f"LoRA must be one of {there} or a .safetensors file, got {shown(name)!r}{at}")
    if not isinstance(weight, int | float) or not -4 <= weight <= 4:
        raise EngineError(f"strength of {path.name} must be a number from -4 to 4, got {strength or 'none'}")
    return LORAS.get(name, path), float(weight)


def _loras(near: str, folders: Sequence[str]) -> list[str]:
    """What LoRAs there are; of many of the artist's own those whose names are nearest."""
    own = [o.name for o in library.found(folders) if o.lora and not o.why]
    close = sorted(own, key=lambda name: -SequenceMatcher(None, near.lower(), name.lower()).ratio())[:NEAR]
    return [*LORAS, *close, *([f"… ({len(own)} of your own)"] if len(own) > NEAR else [])]


def _meant(path: Path, paths: Sequence[str] | None, folders: Sequence[str]) -> str:
    own = [o.name for o in library.found(folders) if o.lora]
    return meant(path, OWN | {n: name for name in own for n in (name, Path(name).stem)}, paths)


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
