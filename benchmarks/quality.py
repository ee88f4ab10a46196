"""The published measures over a folder of pairs: cross-fade, *Interpolate*, and *Morph* with the paper's ablations.

FID between the inputs and two random frames of every way (mean of ten draws), PPL = Σ and PDV = variance of the LPIPS
distances between neighbours among 17 frames at 512 × 512, averaged over the pairs (methods.md §2.5). LPIPS is the
shift-tolerant one (Ghildyal & Liu 2022) on AlexNet, whose weights travel in a wheel. KID between the inputs and all
frames between them. Seconds are the median. Development requirements only.
Pairs of ``tests/points.json`` also have their parts moved, and what ghosts in the middle frame (`benchmarks.ghosting`)
along the points of the reader whose points moved nothing, with the mean slope there. With three frames the middle
stands half way, as that meter has it; with more, *Morph* may have it elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling, blend

from benchmarks.ghosting import Pair, ghosting, marked
from benchmarks.tiny import done
from engine.checkpoints.manager import ModelManager
from engine.requests import InterpolateRequest, MorphRequest
from engine.vision import images

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
FRAMES, SIDE, DRAWS = 17, 512, 10  # as published
WAYS: dict[str, dict[str, Any] | None] = {  # the rows of the paper's ablation, each on top of the last
    "cross-fade": None,
    "interpolate": None,
    "DDIM": {"lora": "none", "attention": 0.0, "adain": False, "reschedule": False},
    "+ LoRA": {"attention": 0.0, "adain": False, "reschedule": False},
    "+ attention": {"adain": False, "reschedule": False},
    "+ AdaIN": {"reschedule": False},
    "morph": {},
    "instant": MorphRequest.presets["instant"],  # both without LoRAs
    "fast": {"tier": "fast"},
}
INSTANT = MorphRequest.presets["instant"]
MOVED: dict[str, dict[str, Any]] = {  # with the points of the first reader
    "instant + align (points)": INSTANT | {"align": "points"},
    "instant + align (automatic)": INSTANT | {"align": "automatic"},
    "morph + align (points)": {"align": "points"},
    "morph + align (automatic)": {"align": "automatic"},
    "interpolate + align": {"align": "points"},
}


def pairs(folder: Path) -> Iterator[Pair]:
    """Pictures and words: of a file of points (see `benchmarks.ghosting`), of ``pairs.json`` in a folder (a, b, prompt,
    prompt_b), or of its subfolders with two pictures each."""
    if folder.is_file():
        yield from marked(folder)
        return
    if (folder / "pairs.json").is_file():
        for p in json.loads((folder / "pairs.json").read_text(encoding="utf8")):
            yield Pair(images.read(folder / p["a"]), images.read(folder / p["b"]), p["prompt"], p["prompt_b"])
        return
    for sub in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = sorted(p for p in sub.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
        if len(files) == 2:
            yield Pair(images.read(files[0]), images.read(files[1]))


def way(models: ModelManager, name: str, pair: Pair, model: str, steps: int, count: int = FRAMES) -> list[Image]:
    """The frames of one way, ``count`` of them."""
    a, b, prompt, prompt_b = pair[:4]
    change, request = MOVED.get(name, WAYS.get(name)), None
    if change and change.get("align") == "points":
        change = change | {"points": (pair.first,)}
    if name.startswith("interpolate"):
        own = InterpolateRequest.presets["draft"] | {"frames": count, "model": model} | (change or {})
        request = InterpolateRequest(a, b, prompt, prompt_b, **own)
    elif change is not None:
        own = {"model": model, "steps": steps, "lora_steps": 20} | change | {"frames": count}
        if count == 3:
            own["reschedule"] = False
        request = MorphRequest((a, b), prompts=(prompt, prompt_b or prompt), **own)
    else:
        net = models.load(model)
        size = images.frame_size(a, "fit", net.size, net.multiple)
        p, q = (images.fit_frame(x, size, "fit") for x in (a, b))
        return [blend(p, q, i / (count - 1)) for i in range(count)]
    return list(done(models, request).frames)


def measure(
    model: str,
    device: str,
    folder: Path,
    steps: int = 16,
    rows: Sequence[str] = (),
    count: int = FRAMES,
    side: int = SIDE,
    most: int | None = None,
) -> dict[str, Any]:
    """The table, row by row; ``rows``: which ones (all); ``count`` frames a way; LPIPS at ``side`` pixels; of the
    first ``most`` pairs."""
    from training.measures import inception_features, perceptual

    models, lpips = ModelManager(device), perceptual(torch.device("cpu"))
    found = list(pairs(folder))[:most]
    if not found:
        raise SystemExit(f"pairs must be in {folder} (pairs.json, or folders of two pictures), got none")
    points = all(pair.second for pair in found)
    names = [*WAYS, *(MOVED if points else ())]
    if unknown := [n for n in rows if n not in names]:
        raise SystemExit(f"rows must be of {', '.join(names)}, got {', '.join(unknown)}")
    ends = np.stack([np.asarray(images.fit_frame(p, (256, 256), "crop")) for pair in found for p in pair[:2]])
    known = inception_features(ends, models.device)
    out: dict[str, Any] = {"model": model, "pairs": len(found), "frames": count, "steps": steps, "side": side}
    for name in rows or names:
        lengths, features, ghosts, took = [], [], [], []
        for pair in found:
            begun = perf_counter()
            frames = way(models, name, pair, model, steps, count)
            took.append(perf_counter() - begun)
            x = images.to_tensor([f.resize((side, side), Resampling.BICUBIC) for f in frames])
            with torch.no_grad():
                lengths.append(torch.cat([lpips(p, q).flatten() for p, q in pairwise(x.split(1))]))
            block = np.stack([np.asarray(images.fit_frame(f, (256, 256), "crop")) for f in frames])
            features.append(inception_features(block, models.device))
            if points:
                ghosts.append(ghosting(frames[count // 2], pair, pair.second))
        out[name] = row = measured(known, features, torch.stack(lengths), took)
        if points:
            ghost, slope = np.mean(ghosts, 0)
            row |= {"ghosting": round(float(ghost), 3), "slope": round(float(slope), 4)}
            row |= {"ghosts": [round(g, 3) for g, _ in ghosts], "slopes": [round(s, 4) for _, s in ghosts]}
        print(f"{name:25} " + "  ".join(f"{k} {v:8}" for k, v in row.items() if not isinstance(v, list)), flush=True)
        if points:
            print("   ghosts of the pairs:", *row["ghosts"], flush=True)
    few = f"of {2 * len(found)} against {2 * len(found)} pictures: biased, for this table only"
    out["units"] = f"KID × 10⁻³, of inner frames; PDV × 10⁻⁴; FID {few}"
    return out


def measured(known: np.ndarray, features: list[np.ndarray], lengths: torch.Tensor, took: list[float]) -> dict[str, Any]:
    """One row: Inception's features ``known`` of the inputs and of every way's frames, LPIPS (ways, steps), seconds."""
    from training.measures import fid, kid

    draw = np.random.default_rng(0)
    drawn = [np.concatenate([f[draw.choice(len(f), 2, replace=False)] for f in features]) for _ in range(DRAWS)]
    return {
        "FID": round(float(np.mean([fid(known, d) for d in drawn])), 1),
        "KID": round(1e3 * kid(known, np.concatenate([f[1:-1] for f in features])), 1),
        "PPL": round(float(lengths.sum(1).mean()), 3),
        "PDV": round(1e4 * float(lengths.var(1, correction=0).mean()), 3),
        "seconds": round(median(took), 1),
    }
