"""What is learnt from: the photographs as one memory map, what can be seen in them, captions, drawings made of them."""

from __future__ import annotations

import colorsys
import csv
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.requests import EngineError
from engine.vision.drawing import sketch_of, strokes_of
from training.loop import WORK, Run

ROOT = Path(os.environ.get("CHRYSALIS_DATA", Path(__file__).parents[2] / "shared/data/flowers256"))
SIDE = 256
KINDS = ("photo", "photo-m", "half", "half-m", "sketch", "sketch-m", "strokes", "strokes-m")  # -m: of the mirror image
PALETTES = [(23, 6), (13, 16), (31, 4), (17, 10)]  # (median kernel, colours): strengths of strokes, in turn


class Row(NamedTuple):
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
        if missing := set(Row._fields) - set(found.fieldnames or ()):
            raise EngineError(f"{ROOT / 'index.csv'} must have the column {missing.pop()}, got {found.fieldnames}")
        return [Row(*(r[name] for name in Row._fields)) for r in found]


def split(index: list[Row], name: str, count: int = 0) -> np.ndarray:
    """Numbers of the rows of a split, "train" or "val"; about ``count`` of them, evenly spread, if it is given."""
    found = np.array([i for i, r in enumerate(index) if r.split == name])
    if not len(found):
        raise EngineError(f"{ROOT / 'index.csv'} must have rows of split {name}, got none")
    return found[:: max(1, round(len(found) / count))][:count] if count else found


def remembered(name: str, entries: Iterable[np.ndarray]) -> np.ndarray:
    """(N, …), read-only memory map of ``WORK/<name>.npy``: one of ``entries`` for every row, made once."""
    path, count, block = WORK / f"{name}.npy", len(rows()), None
    part = path.with_suffix(".part.npy")
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        for i, entry in enumerate(entries):
            if block is None:
                block = np.lib.format.open_memmap(part, "w+", entry.dtype, (count, *entry.shape))
            if i % 100 == 0:
                Run.bar.set_description_str(f"{name}, {i} of {count}")
            block[i] = entry
        part.replace(path)
    if len(block := np.load(path, mmap_mode="r")) != count:
        raise EngineError(f"{path} must hold {count} pictures, as {ROOT} does, got {len(block)}: remove it")
    return block


def photographs() -> np.ndarray:
    """(N, 256, 256, 3) uint8."""
    return remembered("photographs", (np.asarray(Image.open(ROOT / r.file).convert("RGB")) for r in rows()))


def cropped(photo: np.ndarray, side: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of ``side`` from anywhere in a photograph (H, H, 3), ``size`` large; half of them mirrored."""
    y, x = rng.integers(0, len(photo) + 1 - side, 2)
    crop = photo[y : y + side, x : x + side]
    if side != size:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return crop[:, ::-1] if rng.random() < 0.5 else crop


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
    rim, middle = small[radius > 15], small[radius < 11]
    votes: defaultdict[str, float] = defaultdict(float)
    for pixels, share in ((middle, 1 / len(middle)), (rim, -0.6 / len(rim))):  # what the rim has too is not the flower
        for r, g, b in pixels:
            name = colour_name(r, g, b)
            weight = 0.45 if name == "white" else 0.25 + max(r, g, b) - min(r, g, b)
            votes[name] += weight * (0.15 if name in ("green", "black", "grey", "brown") else 1) * share
    flower, ground = max(votes, key=votes.__getitem__), np.median(rim, axis=0)
    tone = "dark" if ground.mean() < 0.27 else "bright" if ground.mean() > 0.62 else ""
    name = colour_name(*ground)
    close = float(np.abs(rim.mean(0) - middle.mean(0)).mean()) < 0.07 or flower == name
    words = f"{tone} {'' if name in ('black', 'grey', 'white') else name}".strip()
    return Look(flower, words or "grey", close)


def looks(block: np.ndarray) -> list[Look]:
    """`look` of every photograph (N, H, W, 3), measured once."""
    path = WORK / "looks.json"
    if not path.exists():
        Run.bar.set_description_str("looks of the photographs")
        path.write_text(json.dumps([vars(look(p)) for p in block]), encoding="utf8")
    return [Look(**v) for v in json.loads(path.read_text(encoding="utf8"))]


def caption(label: str, seen: Look, rng: random.Random) -> str:
    """A caption such as "a close-up photograph of a pink rose, dark green background"; one in ten is empty."""
    if rng.random() < 0.1:
        return ""
    name = label if rng.random() < 0.85 else "flower"
    thing = f"{seen.flower} {name}" if rng.random() < 0.85 else name
    named, style = f"{article_of(thing)} {thing}", rng.random()
    if style < 0.7:
        text = named if style < 0.35 else f"a photograph of {named}"
    else:
        text = f"a close-up photograph of {named}" if seen.close else thing
    return f"{text}, {seen.ground} background" if rng.random() < 0.5 else text


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
