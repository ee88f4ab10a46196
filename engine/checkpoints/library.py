"""The artist's own folders: which networks and LoRAs lie there, read like A1111's and ComfyUI's trees.

Names and sizes are asked of the disk every time, so that a file appears as soon as it is there; headers are read once.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.checkpoints import kinds
from engine.checkpoints.catalogue import CATALOGUE, LORAS, PARTS
from engine.checkpoints.shapes import FIRST
from engine.checkpoints.signs import FILES, KEY, KINDS, WIDTHS, tell
from engine.checkpoints.whole import entries, header, weights
from engine.requests import EngineError
from engine.requests.files import typed

# Folders of those trees in which there is neither a network nor a LoRA (in small letters, without signs).
OTHERS = {"vae", "vaeapprox", "controlnet", "t2iadapter", "ipadapter", "embeddings", "hypernetworks", "stylemodels"}
OTHERS |= {"clip", "clipvision", "textencoders", "upscalemodels", "latentupscalemodels", "esrgan", "realesrgan"}
OTHERS |= {
    "swinir",
    "dat",
    "ldsr",
    "scunet",
    "gfpgan",
    "codeformer",
    "facerestoremodels",
    "deepbooru",
    "torchdeepdanbooru",
}
OTHERS |= {"animatediff", "animatediffmodels", "insightface", "ultralytics", "sams", "gligen", "photomaker"}
ENDINGS = (".safetensors", ".ckpt")  # the latter are told why they cannot be used
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".preview.png", ".preview.jpg", ".preview.jpeg", ".preview.webp")
DEEP = 8  # folders within folders, at most
JOINS = (" + ", " · ")  # what a network's name is split at
COPYING, END = 60, 4096  # seconds since its last change in which a file that is not whole is one on its way; bytes
_read: dict[Path, tuple[object, Own, bool]] = {}  # what was found of a place, and of which files
_places: dict[tuple[str, tuple[str, ...]], Path] = {}


@dataclass(frozen=True)
class Own:
    """A network or a LoRA of the artist's: ``name`` is what it may be called, the shortest end of its path that means
    nothing else; ``of`` its family in words, "" if it does not say; ``size`` in bytes; ``picture`` lies beside it;
    ``why``: the sentence for what cannot be used, "" where it can."""

    path: Path
    name: str = ""
    lora: bool = False
    of: str = ""
    size: int = 0
    picture: Path | None = None
    why: str = ""

    @property
    def label(self) -> str:
        """As menus have it: what comes after the dot is no part of the name."""
        amount = f"{self.size / 1e9:.1f} GB" if self.size >= 1e8 else f"{max(self.size, 1e5) / 1e6:.1f} MB"
        return " · ".join(filter(None, (self.name, self.of, amount)))


def found(folders: Sequence[str]) -> list[Own]:
    """What lies in the folders and in theirs, by name; without what is still being copied, and what is neither a
    network nor a LoRA."""
    places = list(_places_in(folders))
    names = _names(places)
    out = [replace(own, name=names[p]) for p in places if (own := _looked_at(p))]
    return sorted(out, key=lambda own: (own.lora, own.name.lower()))


def place(name: str, folders: Sequence[str]) -> Path | None:
    """Where the network or LoRA of that name lies (the end of its path, with its ending or without); None if nowhere.

    EngineError for a name that several have."""
    if not folders or not name or os.path.isabs(name) or name.startswith((".", "~")):
        return None
    key = name, tuple(folders)
    if key in _places and _places[key].exists():
        return _places[key]
    parts = tuple(re.split(r"[\\/]", name))
    there = [p for p in _places_in(folders) if parts in (_end(p, len(parts)), _end(_bare(p), len(parts)))]
    exact = [p for p in there if p.name == parts[-1]]
    if len(there := exact or there) > 1:
        names = _names(list(_places_in(folders)))
        got = f"{name}, which {' and '.join(names[p] for p in there[:4])} are called"
        raise EngineError(f"model must be one of those files, named so that it is one, got {got}")
    if not there:
        return None
    _places[key] = there[0]
    return there[0]


def _places_in(folders: Sequence[str]) -> Iterator[Path]:
    """Files and folders that may be networks or LoRAs. What two ways lead to, or a link back, is gone through once."""
    been = set[str]()
    for folder in folders:
        yield from _within(Path(typed(folder)).absolute(), been, 0)


def _within(folder: Path, been: set[str], depth: int) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in been or depth > DEEP:
        return
    been.add(real)
    there = [p for p in entries(folder) if not p.name.startswith(".") and _sayable(p.name)]
    files = {p.name for p in there}
    for p in there:
        if not os.path.isdir(p):  # (Path's own raises where it may not look)
            if p.suffix.lower() in ENDINGS and os.path.isfile(p):
                yield p
        elif any(os.path.isfile(p / mark) for mark in ("model_index.json", "unet/config.json")):
            # (the configs of a single file, in a folder named like it, are no network of their own)
            if f"{p.name}.safetensors" not in files or weights(p / "unet"):
                yield p
        elif re.sub(r"[\W_]", "", p.name).lower() not in OTHERS:
            yield from _within(p, been, depth + 1)


def _sayable(name: str) -> bool:
    """Whether a name can be sent to a page and written in a line."""
    try:
        return "\n" not in name and bool(name.encode("utf8"))
    except UnicodeEncodeError:
        return False


def _end(path: Path, parts: int) -> tuple[str, ...]:
    return path.parts[-parts:]


def _bare(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in ENDINGS else path


def _names(places: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of their paths that are no other's, and of which none is the catalogue's."""
    count: dict[tuple[str, ...], int] = {}
    for p in places:
        for n in range(1, len(p.parts)):
            count[_end(p, n)] = count.get(_end(p, n), 0) + 1
    out, known = {}, {*CATALOGUE, *LORAS}
    for p in places:
        ends = (_end(p, n) for n in range(1, len(p.parts)))
        out[p] = next(("/".join(e) for e in ends if count[e] == 1 and "/".join(e) not in known), str(p))
    return out


def _looked_at(place: Path) -> Own | None:
    """What is there, read again when its files are others; None while it is still being copied, or moved away."""
    try:
        files = [place] if place.is_file() else sorted(p for p in place.glob("*/*") if p.is_file())
        stats = [(f, f.stat()) for f in files]
        same = [(str(f), s.st_size, s.st_mtime_ns) for f, s in stats]
        if place not in _read or _read[place][0] != same:
            _read[place] = same, *_look(place)
        _, own, whole = _read[place]
        if max((s.st_mtime for _, s in stats), default=0) > time.time() - COPYING and (not whole or _blank(place)):
            return None
    except OSError:
        return None
    stem = place.stem if place.is_file() else place.name
    beside = (place.with_name(stem + end) for end in PICTURES)
    return replace(own, picture=next((p for p in beside if os.path.isfile(p)), None))


def _blank(place: Path) -> bool:
    """Whether a file ends in nothing: some programs make room for all of it first."""
    if not place.is_file() or place.stat().st_size < END:
        return False
    with place.open("rb") as f:
        f.seek(-END, os.SEEK_END)
        return not any(f.read())


def _look(place: Path) -> tuple[Own, bool]:
    """What its configs and headers say, and whether all of it is there."""
    own, whole = Own(place), True
    try:
        if sign := next((s for s in JOINS if s in place.name), ""):
            raise EngineError(f"name of {place.name} must be without {sign!r}, which joins a network and LoRAs, got it")
        if place.suffix.lower() == ".ckpt" and place.is_file():
            got = f"{place.name}, which may run code when it is read; convert it to .safetensors"
            raise EngineError(f"model must be a .safetensors file or a folder, got {got}")
        whole = False
        lines = kinds.of(place)
        if place.is_file():
            said = header(place, place.name)
            whole, own = True, replace(own, size=place.stat().st_size)
            if FIRST not in said and tell(lines, FILES[:1]):
                own = replace(own, lora=True, of=WIDTHS.get(_width(said), ""))
                kinds.check_lora(place, f"LoRA {place.name}")
                return own, True
        else:
            parts = (weights(p) for p in entries(place) if p.name.startswith(("unet", "vae", "text_encoder")))
            own = replace(own, size=sum(f.stat().st_size for w in parts if w for f in w.files if f.is_file()))
        kind = tell(lines, KINDS)
        own = replace(own, of=kind.said if kind and kind.family else "")
        kinds.check(place, PARTS)
    except EngineError as e:
        return replace(own, why=str(e)), whole
    return own, True


def _width(said: dict[str, Any]) -> int:
    """How wide the words are for which a LoRA with this header is; 0 if it does not say."""
    keys = ((n, KEY.fullmatch(n)) for n in said)
    wide = (said[n]["shape"][-1] for n, m in keys if m and m[4] in ("A", "down") and "attn2" in m[2] and "to_k" in m[2])
    return next(wide, 0)
