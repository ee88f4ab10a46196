"""Points that two readers marked by hand, and what is measured by them: matches, and ghosts in the middle of a way.

``tests/points.json`` has 20 pairs of five points; ``first``: (x0, y0, x1, y1) of one reader, ``second``: (x1, y1) where
another found the same parts without seeing the first one's. Fractions of the pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from engine.checkpoints.manager import ModelManager
from engine.diffusion import correspondence, transport, warp
from engine.methods.align import shown
from engine.vision import images
from training import data

ROOT = Path(__file__).resolve().parents[1]
MARKED = ROOT / "tests" / "points.json"
SIDE, NEAR = 128, 0.1
TIMES, SETS = (61, 161, 261, 401), ((-4,), (-3,), (-2,), (-1,), (-4, -3), (-3, -2))  # blocks from the last one
Point = tuple[float, float, float, float]


class Pair(NamedTuple):
    """Two pictures, their words, and the points of both readers (n, 4) on each; () where nobody put any."""

    a: Image
    b: Image
    prompt: str = ""
    prompt_b: str = ""
    first: tuple[Point, ...] = ()
    second: tuple[Point, ...] = ()


def marked(file: Path = MARKED) -> Iterator[Pair]:
    """The pairs of a file of points whose pictures are on this machine."""
    for p in json.loads(file.read_text(encoding="utf8"))["pairs"]:
        places = [(data.ROOT.parent if n.startswith("flowers256/") else ROOT / "assets") / n for n in (p["a"], p["b"])]
        if all(place.is_file() for place in places):
            first = tuple(map(tuple, p["first"]))
            second = tuple((x, y, *q) for (x, y, *_), q in zip(first, p["second"], strict=True))
            a, b = map(images.read, places)
            yield Pair(a, b, first=first, second=second)  # type: ignore[arg-type]


def edges(picture: Image) -> np.ndarray:
    """(SIDE, SIDE) steepness of the lightness, 0 … 1."""
    grey = np.asarray(picture.convert("L").resize((SIDE, SIDE), Resampling.BICUBIC), np.float64) / 255
    return np.hypot(*np.gradient(grey))


def explained(whole: np.ndarray, *parts: np.ndarray) -> float:
    """The share of the variance of ``whole`` that a sum of multiples of ``parts`` explains."""
    columns = np.stack([np.ones(whole.size), *(p.ravel() for p in parts)], 1)
    rest = whole.ravel() - columns @ np.linalg.lstsq(columns, whole.ravel(), rcond=None)[0]
    return 1 - float(rest.var() / max(whole.var(), 1e-12))


def ghosting(middle: Image, pair: Pair, points: tuple[Point, ...], fit: str = "fit") -> tuple[float, float]:
    """How much of the middle's edges the ends' edges explain where they were, less how much they do when moved half
    way along ``points``; and the middle's mean slope."""
    ends = [images.fit_frame(p, middle.size, fit) for p in (pair.a, pair.b)]
    own, (a, b) = edges(middle), (edges(p) for p in ends)
    p = torch.tensor(points, dtype=torch.float64)
    sides = (shown(s, q.size, middle.size, fit) for s, q in zip(p.split(2, 1), (pair.a, pair.b), strict=True))
    places, _ = warp.of_points(torch.cat(list(sides), 1), (32, 32)).look((SIDE, SIDE), 0.5, 0.0, 1.0)
    both = zip((a, b), places, strict=True)
    moved = [transport.bring(torch.from_numpy(e)[None, None], at[None])[0, 0].numpy() for e, at in both]
    return explained(own, a, b) - explained(own, *moved), float(own.mean())


def errors(found: Tensor, marks: Tensor) -> Tensor:
    return (found - marks).norm(dim=-1)


@torch.no_grad()
def measure(model: str, device: str, file: Path = MARKED) -> dict[str, Any]:
    """PCK@0.1 (within a tenth of the side) of the automatic match by time and blocks: of the cells' own matches, and
    of the map made of them; beside where nothing moves, and beside the two readers."""
    net, found = ModelManager(device).load(model), list(marked(file))
    if not found:
        raise SystemExit(f"pairs must be those of {file}, got none of their pictures")
    side = (net.size, net.size)
    z = [net.encode(images.to_tensor([images.fit_frame(p, side, "crop") for p in pair[:2]])) for pair in found]
    marks = [[in_frame(points, pair, side) for points in (pair.first, pair.second)] for pair in found]
    known, words = torch.cat([first for first, _ in marks]), net.embed([""]).expand(2, -1, -1)
    other, out = torch.cat([second for _, second in marks]), {}
    out["pairs"] = len(found)
    out["nothing moves"] = summary(errors(known[:, :2], known[:, 2:]))
    out["two readers"] = summary(errors(other[:, 2:], known[:, 2:]))
    size = (z[0].shape[2], z[0].shape[3])
    grid = correspondence.grid_of(size)
    for time in TIMES:
        seen = [correspondence.features(net, pair, words, time=time, blocks=(-4, -3, -2, -1)) for pair in z]
        for blocks in SETS:
            cells, maps = [], []
            for f, (first, _) in zip(seen, marks, strict=True):
                a, b = correspondence.described([f[i] for i in blocks], grid)
                match = correspondence.matched(a, b, grid)
                own = warp.sampled(match.places.T.unflatten(1, grid), first[:, :2])
                cells.append(errors(own, first[:, 2:]))
                maps.append(errors(correspondence.regular(match, grid, size)(first[:, :2]), first[:, 2:]))
            key = f"t {time}, blocks {' '.join(map(str, blocks))}"
            out[key] = {"cells": summary(torch.cat(cells)), "map": summary(torch.cat(maps))}
            print(key, out[key], flush=True)
    return out


def in_frame(points: tuple[Point, ...], pair: Pair, side: tuple[int, int]) -> Tensor:
    p = torch.tensor(points, dtype=torch.float64)
    return torch.cat([shown(s, q.size, side, "crop") for s, q in zip(p.split(2, 1), (pair.a, pair.b), strict=True)], 1)


def summary(apart: Tensor) -> dict[str, float]:
    """PCK@0.1, and the mean and median distance in per cent of the side."""
    near, middle = float((apart < NEAR).double().mean()), float(apart.median())
    return {"PCK": round(near, 3), "mean %": round(100 * float(apart.mean()), 1), "median %": round(100 * middle, 1)}
