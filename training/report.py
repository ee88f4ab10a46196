"""Measures the shipped flora through the engine itself, and writes its model card with sample sheets."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from engine import images
from engine.drawing import sketch_of, strokes_of
from engine.models import Models, Network, Row, guided
from engine.sampling import flow, gaussian, generator
from training.data import HUES, look, photographs, rows
from training.loop import FLORA, WORK
from training.measures import fid, inception_features, kid

TEXTS = ["a yellow tulip", "a red rose", "a white daisy", "a purple passion flower", "a yellow sunflower",
         "a pink water lily", "an orange californian poppy", "a blue bearded iris"]  # fmt: skip


@torch.no_grad()
def draw(
    net: Network, prompts: list[str], guidance: float, side: int, steps: int = 25, conditions=None, seed: int = 0
) -> np.ndarray:
    """(N, H, W, 3) uint8 pictures of ``side`` × ``side`` latents; ``conditions`` (N, 2C, h, w) or None."""
    levels, out = net.levels(steps), []
    for i in range(0, len(prompts), 16):
        part = prompts[i : i + 16]
        cond = conditions[i : i + 16] if conditions is not None else None
        given = [Row(r.embeds, r.weight, cond) for r in guided(net.embed(part), net.embed([""]), guidance)]
        noise = gaussian((net.channels, side, side), [generator(seed, i + j) for j in range(len(part))]).to(net.device)
        x = noise * (1 + levels[0] ** 2) ** 0.5
        for state in flow(net.field(given), x, levels):
            x = state.x
        out += [np.asarray(p) for p in images.to_pictures(net.decode(x))]
    return np.stack(out)


@torch.no_grad()
def reconstruct(net: Network, block: np.ndarray) -> tuple[np.ndarray, float]:
    """Copies of pictures by the autoencoder, and their mean PSNR in dB."""
    copies = []
    for i in range(0, len(block), 16):
        x = images.to_tensor([Image.fromarray(p) for p in block[i : i + 16]])
        copies += [np.asarray(p) for p in images.to_pictures(net.decode(net.encode(x)))]
    y = np.stack(copies)
    mse = ((y.astype(np.float32) - block) / 255).__pow__(2).mean((1, 2, 3))
    return y, float((-10 * np.log10(mse)).mean())


def perceptual(x: np.ndarray, y: np.ndarray) -> float:
    from training.autoencoder import perceptual as metric
    from training.autoencoder import pixels

    net = metric(torch.device("cpu"))
    with torch.no_grad():
        return float(np.mean([net(pixels(a[None]), pixels(b[None])).item() for a, b in zip(x, y, strict=True)]))


def grid(pictures: np.ndarray, columns: int, path: Path) -> None:
    lines = [np.concatenate(list(pictures[i : i + columns]), 1) for i in range(0, len(pictures), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(lines)).save(path, quality=88)


def reference(block: np.ndarray, count: int, device) -> np.ndarray:
    """Inception features of ``count`` photographs at half size, spread over the whole set; remembered."""
    path = WORK / f"inception-half-{count}.npy"
    if not path.exists():
        chosen = block[np.linspace(0, len(block) - 1, count).astype(int)]
        small = np.stack([cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in chosen])
        np.save(path, inception_features(small, device))
    return np.load(path)


@torch.no_grad()
def report(device: torch.device, samples: int, as_json: bool, count: int = 1000) -> dict:
    started, net = time.time(), Models(str(device)).load("flora")
    block, index = photographs(), rows()
    val = block[[i for i, r in enumerate(index) if r.split == "val"]]
    out: dict = {"samples": samples, "reference": count, "val_pictures": len(val)}
    copies, out["psnr"] = reconstruct(net, val)
    out["perceptual"] = perceptual(val[::4], copies[::4])
    # Only the CC BY pictures may be shown, each with its number.
    free_rows = [i for i, r in enumerate(v for v in index if v.split == "val") if r.source == "flower_photos"]
    shown = free_rows[:: len(free_rows) // 8][:8]
    files = [v.file for v in index if v.split == "val"]
    numbers = [files[i].split("f-")[1].split("_")[0] for i in shown]
    grid(np.concatenate([val[shown], copies[shown]]), 8, FLORA / "sheets/reconstruction.jpg")
    real = reference(block, count, device)
    side = net.size // net.factor
    free = draw(net, [""] * samples, 1.0, side // 2)
    features = inception_features(free, device)
    out["kid"], out["fid"] = kid(features, real), fid(features, real)
    grid(free[:40], 8, FLORA / "sheets/unconditional.jpg")
    texts = draw(net, [t for t in TEXTS for _ in range(8)], 3.0, side // 2, seed=1)
    grid(texts, 8, FLORA / "sheets/text.jpg")
    words = {name for _, name in HUES} | {"white"}
    meant = [next(w for w in t.split() if w in words) for t in TEXTS for _ in range(8)]
    out["colour_agreement"] = float(np.mean([look(p).flower == m for p, m in zip(texts, meant, strict=True)]))
    photos = val[shown]
    lines = np.stack([np.repeat(sketch_of(p)[..., None], 3, 2) for p in photos])
    paints = np.stack([strokes_of(p) for p in photos])
    cond = torch.cat([net.encode(images.to_tensor([Image.fromarray(p) for p in b])) for b in (lines, paints)], 1)
    drawn = draw(net, [""] * 8, 1.0, side, conditions=cond, seed=2)
    grid(np.concatenate([lines, paints, drawn, photos]), 8, FLORA / "sheets/sketch-and-strokes.jpg")
    x = gaussian((net.channels, side, side), [generator(0)]).to(net.device)
    begun = time.perf_counter()
    net.decode(x)
    out["decode_ms"] = 1000 * (time.perf_counter() - begun)
    out = {k: round(v, 4) if isinstance(v, float) else v for k, v in out.items()}
    (FLORA / "README.md").write_text(card(out, numbers, json.loads((FLORA / "training.json").read_text())))
    for key, value in out.items():
        print(f"{key:20} {value}")
    print(f"{time.time() - started:.0f} s")
    if as_json:
        print(json.dumps(out))
    return out


def card(measures: dict, numbers: list[str], compute: dict) -> str:
    text = (Path(__file__).parent / "card.md").read_text()
    seen = {"seen": compute["samples"], "minutes": compute["minutes"], "prompts": "; ".join(TEXTS)}
    seen["photographs"] = ", ".join(f"[{n}](https://www.flickr.com/photo.gne?id={n})" for n in numbers)
    return text.format(**measures, **seen)
