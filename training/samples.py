"""What a flora makes, for its report: pictures of every use, by the engine itself.

Pictures are (N, H, W, 3) uint8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from torch import Tensor

from engine.checkpoints.manager import ModelManager
from engine.context import Context
from engine.diffusion.guidance import Conditioning, classifier_free
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import Step, gaussian, generator, sample
from engine.jobs.run import run
from engine.requests import Done, DrawRequest, InterpolateRequest, MorphRequest
from engine.vision.drawing import faithfulness, sketch_of, strokes_of
from training.data import arrays, picture_of, pixels

BATCH, STEPS = 16, 25
FRAMES = 5  # of a way from one picture to another, both included
Way = Callable[..., Iterator[Step]]


def walk(net: LatentDiffusion, x: Tensor, sigmas: list[float], rows: list[Conditioning], way: Way = sample) -> Tensor:
    """Where latents (N, C, h, w) come to along ``sigmas``; ``way``: `sample`, or `invert` for rising ones."""
    for state in way(net.denoiser(rows), x, sigmas):
        x = state.x
    return x


def noise(net: LatentDiffusion, count: int, *key: int) -> Tensor:
    side = net.size // net.vae_scale_factor
    return gaussian((net.channels, side, side), [generator(*key, i) for i in range(count)]).to(net.device)


def pure(net: LatentDiffusion, count: int, sigma: float, *key: int) -> Tensor:
    """What a picture begins with at the largest noise, (count, C, h, w).

    Of a schedule that never quite hides the picture's mean colour (Lin et al. 2024) the noise has none: it would tell
    a colour that nobody asked for.
    """
    x = noise(net, count, *key)
    return sigma * x if sigma > 1000 else (x - x.mean((2, 3), keepdim=True)) * (1 + sigma**2) ** 0.5


def imagine(net: LatentDiffusion, prompts: Sequence[str], guidance: float, seed: int = 0) -> np.ndarray:
    """Pictures from words and noise."""
    out, sigmas = [], net.schedule.sigmas(STEPS)
    for i in range(0, len(prompts), BATCH):
        part = prompts[i : i + BATCH]
        rows = classifier_free(net.embed(part), net.embed([""]), guidance)
        out.append(decode(net, walk(net, pure(net, len(part), sigmas[0], seed, i), sigmas, rows)))
    return np.concatenate(out)


def draw(
    net: LatentDiffusion, conditions: Tensor, sigmas: list[float], sampler: str = "ddim", seed: int = 2
) -> np.ndarray:
    """Pictures from drawings (N, 2C, h, w), from the strokes under the largest noise, with a sampler's weights."""
    out, words = [], net.embed([""])
    with net.resident.weights_for(sampler):
        for i, cond in enumerate(conditions.split(BATCH)):
            x = cond[:, -net.channels :].to(net.device) + sigmas[0] * noise(net, len(cond), seed, i)
            out.append(decode(net, walk(net, x, sigmas, [Conditioning(words, concat_latents=cond)])))
    return np.concatenate(out)


def drawings(photos: np.ndarray) -> Iterator[np.ndarray]:
    """Sketches and strokes of photographs, as they were learnt from."""
    for kind in ("sketch", "strokes"):
        yield np.stack([picture_of(kind, i, p) for i, p in enumerate(photos)])


def encode(net: LatentDiffusion, pictures: np.ndarray) -> Tensor:
    """(N, C, h, w)."""
    return torch.cat([net.encode(pixels(pictures[i : i + BATCH])) for i in range(0, len(pictures), BATCH)])


def decode(net: LatentDiffusion, z: Tensor) -> np.ndarray:
    return np.concatenate([arrays(net.decode(part)) for part in z.split(BATCH)])


def renoise(net: LatentDiffusion, photos: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Photographs noised to t = 600 and back, without words."""
    sigmas, rows = net.schedule.sigmas_from_strength(strength, STEPS), [Conditioning(net.embed([""]))]
    parts = enumerate(encode(net, photos).split(BATCH))
    z = [walk(net, z + sigmas[0] * noise(net, len(z), 5, i), sigmas, rows) for i, z in parts]
    return decode(net, torch.cat(z))


def made(models: ModelManager, request: Any) -> np.ndarray:
    """The pictures of a request, as the studio makes them."""
    done = next(e for e in run(Context(models), request) if isinstance(e, Done))
    return np.stack([np.asarray(p) for p in done.frames])


def between(models: ModelManager, model: str, a: np.ndarray, b: np.ndarray, words: tuple[str, str]) -> dict[str, Any]:
    """The inner frames of three ways from ``a`` to ``b`` (H, W, 3), each (`FRAMES` − 2, H, W, 3): drafts of Morph and
    of Interpolate, and a plain cross-fade."""
    p, q, own = Image.fromarray(a), Image.fromarray(b), {"frames": FRAMES, "model": model}
    asked = {
        "morph": MorphRequest((p, q), prompts=words, **own | MorphRequest.presets["draft"]),
        "interpolate": InterpolateRequest(p, q, *words, **own | InterpolateRequest.presets["draft"]),
    }
    shares = np.linspace(0, 1, FRAMES)[1:-1]
    fade = np.stack([(a * (1 - w) + b * w).round().astype(np.uint8) for w in shares])
    return {name: made(models, r)[1:-1] for name, r in asked.items()} | {"fade": fade}


def follow(models: ModelManager, model: str, photo: np.ndarray, values: Sequence[float]) -> dict[str, Any]:
    """One drawing of a photograph (H, W, 3) at ``values`` of realism and of both scales: by the name of the slider the
    pictures (V, H, W, 3) and their distances from what it acts on, colours (of 255) or lines (of 1)."""
    lines, paint = sketch_of(photo), strokes_of(photo)
    layer = Image.fromarray(np.dstack([np.zeros_like(photo), 255 - lines]))
    base = DrawRequest(layer, Image.fromarray(paint).convert("RGBA"), model=model, **DrawRequest.presets["draft"])
    out = {}
    for name, kind in (("realism", "colours"), ("sketch_scale", "lines"), ("stroke_scale", "colours")):
        pictures = np.concatenate([made(models, replace(base, **{name: v})) for v in values])
        out[name] = pictures, [faithfulness(p, lines, paint)[kind] for p in pictures]
    return out


def strangers(side: int = 256) -> np.ndarray:
    """Pictures that show no flower: faces, a room, an animal, painted by strangers.json; and scikit-image's free
    photographs (CC0, or of the public domain) where it is installed: a cup of coffee, an astronaut, a rocket."""
    painted = [_painted(**p) for p in json.loads((Path(__file__).parent / "strangers.json").read_text(encoding="utf8"))]
    spec = find_spec("skimage")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else Path()
    files = [folder / name for name in ("coffee.png", "astronaut.png", "rocket.jpg")]
    photos = [Image.open(f).convert("RGB") for f in files if f.is_file()]
    return np.stack([np.asarray(ImageOps.fit(p, (side, side), Image.Resampling.LANCZOS)) for p in (*painted, *photos)])


def _painted(ground: str, shapes: list[list[Any]]) -> Image.Image:
    """Shapes at 512 × 512, softened like paint, with a little grain."""
    picture = Image.new("RGB", (512, 512), ground)
    pen = ImageDraw.Draw(picture)
    for kind, where, colour in shapes:
        getattr(pen, kind)(where, fill=colour, **({"width": 6} if kind == "line" else {}))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.5)), np.float32)
    return Image.fromarray((soft + np.random.default_rng(0).normal(0, 5, (512, 512, 1))).clip(0, 255).astype(np.uint8))


def pairs(photos: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs to compare metrics on, in turn: other photographs, cross-fades, shifted and brightened, turned."""
    rng, x, y = np.random.default_rng(seed), [], []
    for i in range(count):
        a, b = photos[rng.choice(len(photos), 2, replace=False)]
        amount = rng.random()
        if i % 4 == 1:
            b = (a * (1 - amount) + b * amount).astype(np.uint8)
        elif i % 4 == 2:
            b = np.clip(np.roll(a, int(12 * amount), 1) * (1 + 0.4 * (rng.random() - 0.5)), 0, 255).astype(np.uint8)
        elif i % 4 == 3:
            middle = (a.shape[1] / 2, a.shape[0] / 2)
            turn = cv2.getRotationMatrix2D(middle, 40 * amount, 1 + 0.3 * rng.random())
            b = cv2.warpAffine(a, turn, a.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
        x.append(a)
        y.append(b)
    return np.stack(x), np.stack(y)


def hashed(folder: Path, parts: Sequence[str]) -> str:
    """Tells a network's weights and noise from others: what lies on the disk in these ``parts`` of its folder."""
    found = hashlib.blake2b(digest_size=12)
    for part in parts:
        for file in sorted([*(folder / part).glob("*.safetensors"), *(folder / part).glob("scheduler_config.json")]):
            found.update(part.encode() + file.read_bytes())
    return found.hexdigest()
