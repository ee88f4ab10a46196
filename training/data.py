"""What is learnt from: the photographs as one memory map, what can be seen in them, captions, drawings made of them."""

from __future__ import annotations

import colorsys
import csv
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.requests import EngineError
from engine.vision.drawing import sketch_of, strokes_of
from training.loop import WORK, doing

ROOT = Path(os.environ.get("CHRYSALIS_DATA", Path(__file__).parents[2] / "shared/data/flowers256"))
SIDE = 256
KINDS = ("photo", "photo-m", "half", "half-m", "sketch", "sketch-m", "strokes", "strokes-m")  # -m: of the mirror image
PALETTES = [(23, 6), (13, 16), (31, 4), (17, 10)]  # (median kernel, colours): strengths of strokes, in turn


@dataclass(frozen=True)
class Row:
    file: str
    label: str
    source: str
    split: str


def rows() -> list[Row]:
    """The rows of ``index.csv``, in its order (which is the order of `photographs`)."""
    if not (ROOT / "index.csv").exists():
        raise EngineError(
            f"CHRYSALIS_DATA must name a folder of {SIDE} × {SIDE} pictures with an index.csv "
            f"(columns file, label, source, split), got {ROOT}"
        )
    with (ROOT / "index.csv").open(encoding="utf8") as f:
        found = csv.DictReader(f)
        if missing := {"file", "label", "source", "split"} - set(found.fieldnames or ()):
            raise EngineError(f"{ROOT / 'index.csv'} must have the column {missing.pop()}, got {found.fieldnames}")
        return [Row(r["file"], r["label"], r["source"], r["split"]) for r in found]


def split(index: list[Row], name: str, count: int = 0) -> np.ndarray:
    """Numbers of the rows of a split, "train" or "val"; about ``count`` of them, evenly spread, if it is given."""
    found = np.array([i for i, r in enumerate(index) if r.split == name])
    if not len(found):
        raise EngineError(f"{ROOT / 'index.csv'} must have rows of split {name}, got none")
    return found[:: max(1, round(len(found) / count))][:count] if count else found


def photographs() -> np.ndarray:
    """(N, 256, 256, 3) uint8, read-only memory map; decoded once."""
    path, index = WORK / "photographs.npy", rows()
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        block = np.lib.format.open_memmap(part, "w+", np.uint8, (len(index), SIDE, SIDE, 3))
        for i, row in enumerate(index):
            if i % 100 == 0:
                doing(f"photographs, {i} of {len(index)}")
            block[i] = np.asarray(Image.open(ROOT / row.file).convert("RGB"))
        block.flush()
        part.replace(path)
    return fitting(np.load(path, mmap_mode="r"), path, index)


def fitting(block: np.ndarray, path: Path, index: list[Row]) -> np.ndarray:
    """``block`` as read from ``path``, if it has one entry for every row; EngineError otherwise."""
    if len(block) != len(index):
        raise EngineError(f"{path} must hold {len(index)} pictures, as {ROOT} does, got {len(block)}: remove it")
    return block


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


def looks(block: np.ndarray) -> list[Look]:
    """`look` of every photograph (N, H, W, 3), measured once."""
    path = WORK / "looks.json"
    if not path.exists():
        doing("looks of the photographs")
        path.write_text(json.dumps([vars(look(p)) for p in block]), encoding="utf8")
    return [Look(**v) for v in json.loads(path.read_text(encoding="utf8"))]


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


def picture_of(kind: str, i: int, photo: np.ndarray) -> np.ndarray:
    """Photograph number ``i`` (256, 256, 3) as one of `KINDS`: itself, half as large, its sketch or its strokes.

    The mirror image's drawings are others too: coarser lines with regions left out, as people draw; another palette.
    """
    mirrored, kind = kind.endswith("-m"), kind.removesuffix("-m")
    if mirrored:
        photo = np.ascontiguousarray(photo[:, ::-1])
    if kind == "half":
        return cv2.resize(photo, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    if kind == "strokes":
        return strokes_of(photo, *PALETTES[(i + 2 * mirrored) % 4])
    if kind == "sketch":
        lines = sketch_of(photo, 2.6 if mirrored else 1.6)
        if mirrored:
            amount = np.random.default_rng(i).random((5, 5)).astype(np.float32)
            drawn = cv2.resize(amount, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) > 0.35
            lines = np.where(drawn, lines, 255).astype(np.uint8)
        return np.repeat(lines[..., None], 3, 2)
    return photo


def pixels(block: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in [−1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(block)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def arrays(x: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [−1, 1], clamped → (B, H, W, 3) uint8."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
