"""The photographs: one uint8 block in memory-mapped form, their split, and captions made by looking at them."""

from __future__ import annotations

import colorsys
import csv
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.loop import WORK

ROOT = Path(os.environ.get("CHRYSALIS_DATA", Path(__file__).parents[2] / "shared/data/flowers256"))


@dataclass(frozen=True)
class Row:
    file: str
    label: str
    source: str
    split: str


def rows() -> list[Row]:
    """The rows of ``index.csv``, in its order (which is the order of `photographs`)."""
    if not (ROOT / "index.csv").exists():
        raise FileNotFoundError(f"CHRYSALIS_DATA must name a folder with an index.csv, got {ROOT}")
    with (ROOT / "index.csv").open() as f:
        return [Row(r["file"], r["label"], r["source"], r["split"]) for r in csv.DictReader(f)]


def photographs() -> np.ndarray:
    """(N, 256, 256, 3) uint8, read-only memory map; decoded once."""
    path, index = WORK / "photographs.npy", rows()
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        block = np.lib.format.open_memmap(part, "w+", np.uint8, (len(index), 256, 256, 3))
        for i, row in enumerate(index):
            block[i] = np.asarray(Image.open(ROOT / row.file).convert("RGB"))
        block.flush()
        part.replace(path)
    return np.load(path, mmap_mode="r")


HUES = [(0.045, "red"), (0.115, "orange"), (0.19, "yellow"), (0.45, "green"), (0.53, "turquoise")]
HUES += [(0.69, "blue"), (0.80, "purple"), (0.94, "pink"), (1.01, "red")]


def colour_name(r: float, g: float, b: float) -> str:
    """The plain word for a colour; r, g, b in [0, 1]."""
    h, s, v = colorsys.rgb_to_hsv(r, g, b)
    if v < 0.16:
        return "black"
    creamy = s < 0.34 and 0.04 < h < 0.2 and v > 0.5
    if s < 0.17 or creamy:
        return "white" if v > 0.62 or creamy else "grey"
    name = next(word for bound, word in HUES if h < bound)
    if name == "red" and v > 0.72 and s < 0.52:
        return "pink"
    if name == "orange" and v < 0.45:
        return "brown"
    return name


@dataclass(frozen=True)
class Look:
    """What can be measured in a picture of a flower."""

    flower: str  # colour word of the flower
    ground: str  # "dark", "bright", "dark green", …
    close: bool  # the flower fills the frame


def look(picture: np.ndarray) -> Look:
    """Measures a (H, W, 3) uint8 picture: the commonest vivid colour of the middle against that of the rim."""
    small = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BOX), np.float32) / 255
    y, x = np.mgrid[:32, :32]
    radius = np.hypot(y - 15.5, x - 15.5)
    rim = small[radius > 15]
    middle = small[radius < 11]
    votes: dict[str, float] = {}
    for pixels, share in ((middle, 1 / len(middle)), (rim, -0.6 / len(rim))):  # what the rim has too is not the flower
        for r, g, b in pixels:
            name = colour_name(r, g, b)
            weight = 0.45 if name == "white" else 0.25 + max(r, g, b) - min(r, g, b)
            if name in ("green", "black", "grey", "brown"):
                weight *= 0.15
            votes[name] = votes.get(name, 0) + weight * share
    flower = max(votes, key=votes.__getitem__)
    ground_rgb = np.median(rim, axis=0)
    tone = "dark" if ground_rgb.mean() < 0.27 else "bright" if ground_rgb.mean() > 0.62 else ""
    name = colour_name(*ground_rgb)
    ground = " ".join(w for w in (tone, name if name not in ("black", "grey", "white") else "") if w)
    close = float(np.abs(rim.mean(0) - middle.mean(0)).mean()) < 0.07 or flower == name
    return Look(flower, ground or "grey", close)


def caption(label: str, seen: Look, rng: random.Random) -> str:
    """A caption such as "a close-up photograph of a pink rose, dark green background"; one in ten is empty."""
    if rng.random() < 0.1:
        return ""
    name = label if rng.random() < 0.85 else "flower"
    thing = f"{seen.flower} {name}" if rng.random() < 0.85 else name
    article = article_of(thing)
    style = rng.random()
    if style < 0.35:
        text = f"{article} {thing}"
    elif style < 0.7:
        text = f"a photograph of {article} {thing}"
    elif seen.close:
        text = f"a close-up photograph of {article} {thing}"
    else:
        text = f"{thing}"
    if rng.random() < 0.5:
        text += f", {seen.ground} background"
    return text


def article_of(thing: str) -> str:
    return "an" if thing[0] in "aeiou" else "a"


def worded(label: str, seen: Look, rng: random.Random) -> str:
    """A caption that is not empty."""
    while not (text := caption(label, seen, rng)):
        pass
    return text
