"""What a flora is measured by: every use of it a function from a `Bench` to figures, with a sheet of its pictures."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

from engine.checkpoints.manager import ModelManager
from engine.diffusion.guidance import Conditioning
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import invert
from engine.vision import perceptual
from engine.vision.clip_score import Ranker
from engine.vision.drawing import faithfulness
from training import measures as m
from training import samples as s
from training.data import HUES, article_of, look, looks, photographs, pixels, rows, split, worded
from training.loop import WORK

TEXTS = ["a yellow tulip", "a red rose", "a white daisy", "a purple passion flower", "a yellow sunflower"]
TEXTS += ["a pink water lily", "an orange californian poppy", "a blue bearded iris"]
PICTURES, PAIRS, DRAWINGS, REFERENCE = 320, 60, 20, 2000
VALUES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of realism and of both scales
Figures = dict[str, float]


@dataclass
class Bench:
    """A flora in ``folder``, and the photographs it is held against; ``sheets``: where its pictures go. ``quick``: a
    fifth of the pictures. ``other``: a flora that is shown beside it in the crops."""

    folder: Path
    sheets: Path
    quick: bool = False
    other: Path | None = None

    def __post_init__(self) -> None:
        index, block, self.models = rows(), photographs(), ModelManager()
        at, seen = split(index, "val"), looks(block)
        self.val, self.rows, self.looks = block[at], [index[i] for i in at], [seen[i] for i in at]
        free = [i for i, r in enumerate(self.rows) if r.source == "flower_photos"]  # the others may not be shown
        self.shown = free[:: max(1, len(free) // 8)][:8]

    @cached_property
    def net(self) -> LatentDiffusion:
        return self.models.load(str(self.folder))

    @cached_property
    def ranker(self) -> Ranker:
        return Ranker(self.folder / "clip", self.models.device)

    @cached_property
    def real(self) -> np.ndarray:
        """Inception features of photographs, spread over the whole set; remembered."""
        path, block = WORK / f"inception-{REFERENCE}.npy", photographs()
        if not path.exists():
            at = np.linspace(0, len(block) - 1, REFERENCE).astype(int)
            np.save(path, m.inception_features(block[at], self.models.device))
        return np.load(path)

    def count(self, whole: int) -> int:
        return max(2, round(whole / 5)) if self.quick else whole

    def some(self) -> np.ndarray:
        """Numbers of ``val`` pictures, evenly spread: the rows stand in the order of the kinds."""
        return np.linspace(0, len(self.val) - 1, min(len(self.val), self.count(PICTURES))).astype(int)

    def words(self, i: int) -> str:
        return f"{article_of(self.looks[i].flower)} {self.looks[i].flower} {self.rows[i].label}"

    def worth(self, name: str, pictures: np.ndarray) -> Figures:
        found = m.inception_features(pictures, self.models.device)
        return {f"kid_{name}": m.kid(found, self.real), f"fid_{name}": m.fid(found, self.real), "pictures": len(found)}

    def sheet(self, name: str, lines: Sequence[np.ndarray], side: int = 192) -> None:
        """Rows of pictures, one under the other."""
        self.sheets.mkdir(parents=True, exist_ok=True)
        whole = Image.fromarray(np.concatenate([np.concatenate(line, 1) for line in lines]))
        size = side * len(lines[0]), side * len(lines)
        whole.resize(size, Image.Resampling.BOX).save(self.sheets / f"{name}.jpg", quality=86)


def words(b: Bench) -> Figures:
    rng = random.Random(0)
    made = s.imagine(b.net, [worded(b.rows[i].label, b.looks[i], rng) for i in b.some()], 3.0, seed=3)
    return b.worth("words", made)


def unconditional(b: Bench) -> Figures:
    made = s.imagine(b.net, [""] * b.count(PICTURES), 1.0)
    b.sheet("unconditional", np.split(made[:32], range(8, len(made[:32]), 8)))
    return b.worth("unconditional", made)


def renoised(b: Bench) -> Figures:
    made = s.renoise(b.net, b.val[b.some()])
    b.sheet("noised-to-600-and-back", [b.val[b.shown], s.renoise(b.net, b.val[b.shown])])
    return b.worth("renoised", made)


def followed(pictures: np.ndarray, lines: np.ndarray, paints: np.ndarray, name: str) -> Figures:
    """Mean distances from the drawings: lines (of 1) and colours (of 255)."""
    found = [faithfulness(p, a[..., 0], b) for p, a, b in zip(pictures, lines, paints, strict=True)]
    return {f"{kind}_{name}": float(np.mean([f[kind] for f in found])) for kind in ("lines", "colours")}


def drawn(b: Bench) -> Figures:
    lines, paints = s.drawings(b.val[b.some()])
    sigmas, net = b.net.schedule.sigmas(s.STEPS), b.net
    made = s.draw(net, torch.cat([s.encode(net, lines), s.encode(net, paints)], 1), sigmas)
    own, colours = s.drawings(b.val[b.shown])
    x, y = s.encode(net, own), s.encode(net, colours)
    none = net.null_latent((x.shape[2], x.shape[3])).expand_as(x)
    ways = [s.draw(net, torch.cat(pair, 1), sigmas) for pair in ((x, y), (x, none), (none, y))]
    b.sheet("sketch-and-strokes", [own, colours, *ways, b.val[b.shown]])
    out = b.worth("drawn", made) | followed(made, lines, paints, "drawn")
    return out | followed(np.roll(made, 1, 0), lines, paints, "other")


def few(b: Bench) -> Figures:
    """Four steps with the weights made for them (if there are any) and with the plain ones, beside fifty."""
    at = np.concatenate([b.some(), b.shown])
    lines, paints = s.drawings(b.val[at])
    cond, four = torch.cat([s.encode(b.net, lines), s.encode(b.net, paints)], 1), b.net.few_step_sigmas()
    made = {"fifty": s.draw(b.net, cond, b.net.schedule.sigmas(50)), "four": s.draw(b.net, cond, four)}
    if b.net.resident.has("live"):
        made["live"] = s.draw(b.net, cond, four, "live")
    many, out = len(at) - len(b.shown), {}
    for name, pictures in made.items():
        out |= b.worth(name, pictures[:many]) | followed(pictures, lines, paints, name)
        out[f"slopes_{name}"] = m.slope_ratio(made["fifty"], pictures)
    b.sheet("live", [made[n][many:] for n in ("fifty", "live", "four") if n in made])
    return out


def speed(b: Bench) -> Figures:
    """Milliseconds from a drawing's latents to the picture: four steps and the decoder, batch 1, median of seven."""
    side, took = b.net.size // b.net.vae_scale_factor, []
    cond = torch.cat([b.net.null_latent((side, side))] * 2, 1)
    for i in range(9 * b.net.resident.has("live")):
        begun = time.perf_counter()
        s.draw(b.net, cond, b.net.few_step_sigmas(), "live", seed=i)
        took.append(1000 * (time.perf_counter() - begun))
    return {"ms_live": float(np.median(took[2:]))} if took else {}


def copies(b: Bench) -> Figures:
    photos, shown = b.val[::9][:64], b.val[b.shown]
    own = s.decode(b.net, s.encode(b.net, photos))
    out = {"psnr": m.psnr(photos, own), "slopes": m.slope_ratio(photos, own)}
    out["regression"] = m.slope_regression(photos, own)
    floras = [b, *([Bench(b.other, b.sheets)] if b.other else [])]
    many = [shown, *(s.decode(o.net, s.encode(o.net, shown)) for o in reversed(floras))]
    b.sheet("reconstruction", [many[0], many[-1]], 256)
    middle = slice(3 * photos.shape[1] // 8, 5 * photos.shape[1] // 8)
    b.sheet("crops-at-400", [p[:, middle, middle].repeat(4, 1).repeat(4, 2) for p in many], 256)
    return out | b.worth("decoded", s.decode(b.net, s.encode(b.net, b.val[b.some()])))


def inversion(b: Bench) -> Figures:
    """Deterministic inversion up to the last level, and back: the root mean square error of the latents, of their
    deviation."""
    z, sigmas, rows = s.encode(b.net, b.val[b.shown]), b.net.schedule.sigmas(50), [Conditioning(b.net.embed([""]))]
    x = s.walk(b.net, s.walk(b.net, z, sigmas[::-1], rows, invert), sigmas, rows)
    b.sheet("inversion", [b.val[b.shown], s.decode(b.net, x)])
    return {"inversion_rms": float((x - z).square().mean().sqrt() / z.std())}


def said(b: Bench) -> Figures:
    """How often the measured colour is the asked one, and the kind that CLIP sees among the eight the asked one."""
    pictures = s.imagine(b.net, [t for t in TEXTS for _ in range(b.count(40))], 4.0, seed=1)
    b.sheet("words", [own[:8] for own in np.split(pictures, len(TEXTS))], 160)
    colour = [next(w for w in t.split() if w in {*(n for _, n in HUES), "white"}) for t in TEXTS]
    agree, kinds = [], []
    for n, own in enumerate(np.split(pictures, len(TEXTS))):
        others = [f"a photograph of {t.replace(c, colour[n])}" for t, c in zip(TEXTS, colour, strict=True)]
        near = b.ranker.pictures([Image.fromarray(p) for p in own]) @ b.ranker.texts(others).T
        agree += [look(p).flower == colour[n] for p in own]
        kinds += (near.argmax(1) == n).tolist()
    return {
        "colour_agreement": np.mean(agree).item(),
        "kind_agreement": np.mean(kinds).item(),
        "pictures": len(pictures),
    }


def sliders(b: Bench) -> Figures:
    """On how many of `DRAWINGS` no step of a slider goes the wrong way: *realism* never nearer to the strokes, lines
    and colours never farther from theirs."""
    at, out = np.linspace(0, len(b.val) - 1, DRAWINGS).astype(int), {}
    found = [s.follow(b.models, str(b.folder), b.val[i], VALUES) for i in (*at, b.shown[1])]
    for name in found[0]:
        sign = 1 if name == "realism" else -1
        out[f"{name}_monotone"] = sum(bool((np.diff(f[name][1]) * sign >= 0).all()) for f in found[:-1])
        for k, v in enumerate(VALUES):
            out[f"{name}_at_{v:g}"] = float(np.mean([f[name][1][k] for f in found[:-1]]))
    b.sheet("sliders", [found[-1][name][0] for name in found[-1]])
    return out


def ways(b: Bench) -> Figures:
    """The inner frames of morphs and interpolations between pairs, beside a plain cross-fade of the same."""
    rng, out = np.random.default_rng(0), {}
    pairs = [rng.choice(len(b.val), 2, replace=False) for _ in range(b.count(PAIRS))] + [(b.shown[1], b.shown[-2])]
    found = [s.between(b.models, str(b.folder), b.val[i], b.val[j], (b.words(i), b.words(j))) for i, j in pairs]
    for name in found[0]:
        out |= b.worth(name, np.concatenate([f[name] for f in found[:-1]]))
    first, last = b.val[list(pairs[-1])]
    b.sheet("ways", [np.stack([first, *frames, last]) for frames in found[-1].values()])
    return out


def strangers(b: Bench) -> Figures:
    """Pictures that show no flower: decoded, and noised to t = 600 and back."""
    block = s.strangers(b.net.size)
    own = s.decode(b.net, s.encode(b.net, block))
    b.sheet("no-flowers", [block, own, s.renoise(b.net, block)])
    return {"strangers_psnr": m.psnr(block, own), "strangers_slopes": m.slope_ratio(block, own)}


def metric(b: Bench) -> Figures:
    """Spearman's rank correlation of distances with the reference metric: the engine's, and squared differences.

    Over pairs other than those (seed 0) by which the engine's was chosen.
    """
    net, (x, y) = m.perceptual(torch.device("cpu")), s.pairs(b.val, b.count(200), seed=1)
    p, q = pixels(x), pixels(y)
    truth = [net(a, c).item() for a, c in zip(p.split(1), q.split(1), strict=True)]
    ours = torch.cat([perceptual.distance(b.net, *pair) for pair in zip(p.split(10), q.split(10), strict=True)])
    distances = {"agreement": ours.numpy(), "agreement_squared": (p - q).square().mean((1, 2, 3)).numpy()}
    return {name: float(spearmanr(truth, found).statistic) for name, found in distances.items()}


def clip(b: Bench) -> Figures:
    """Share of ``val`` pictures whose own caption CLIP puts first, and among five, of all their distinct captions."""
    captions = [f"a photograph of {b.words(i)}" for i in range(len(b.rows))]
    names = sorted(set(captions))
    parts = [b.val[i : i + 50] for i in range(0, len(b.val), 50)]
    seen = torch.cat([b.ranker.pictures([Image.fromarray(p) for p in part]) for part in parts])
    best = (seen @ b.ranker.texts(names).T).topk(5).indices.cpu()
    found = (best == torch.tensor([names.index(c) for c in captions])[:, None]).float()
    first, five = found[:, 0].mean().item(), found.sum(1).mean().item()
    return {"clip_first": first, "clip_five": five, "clip_captions": len(names)}
