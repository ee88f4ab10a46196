"""The trade-off curves of DiSS and SDEdit, on ``val`` photographs drawn by the machine. Development requirements only.

Lines: mean absolute difference of the picture's own lines from the sketch, 0 … 1. Colours: mean absolute difference at
16 × 16, 0 … 255. FID and KID against the photographs themselves: of so few pictures FID is biased, for one table only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tiny import done
from engine.checkpoints.manager import ModelManager
from engine.requests import DrawRequest, EditRequest
from engine.vision.drawing import faithfulness, sketch_of, strokes_of

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
REALISM = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
STRENGTHS = (0.1, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
STEPS = 16


def photographs(count: int) -> np.ndarray:
    """(count, 256, 256, 3): every so many of the ``val`` rows."""
    from training.data import photographs as every
    from training.data import rows

    found = [i for i, r in enumerate(rows()) if r.split == "val"]
    at = [found[i] for i in np.linspace(0, len(found) - 1, count).astype(int)]
    block = every()
    return np.stack([np.asarray(block[i]) for i in at])


def ink(lines: np.ndarray) -> Image.Image:
    """Lines (H, W), dark on white → the layer that a canvas would send."""
    layer = Image.new("RGBA", lines.shape[::-1], "black")
    layer.putalpha(Image.fromarray(255 - lines))
    return layer


def picture(models: ModelManager, request: Any) -> np.ndarray:
    return np.asarray(done(models, request).frames[0])


def curves(models: ModelManager, model: str, photos: np.ndarray) -> Iterator[tuple[str, str, dict[str, float]]]:
    """(curve, point, figures), one after another."""
    from training.measures import fid, inception_features, kid

    real = inception_features(photos, models.device)
    lines, paints = [sketch_of(p) for p in photos], [strokes_of(p) for p in photos]
    layers = [(ink(a), Image.fromarray(b).convert("RGBA")) for a, b in zip(lines, paints, strict=True)]
    common = {"steps": STEPS, "realism": 1.0, "model": model}
    base = [DrawRequest(sketch=a, strokes=b, seed=i, **common) for i, (a, b) in enumerate(layers)]

    def measured(pictures: np.ndarray) -> dict[str, float]:
        own = [faithfulness(p, a, b) for p, a, b in zip(pictures, lines, paints, strict=True)]
        found = inception_features(pictures, models.device)
        out = {k: float(np.mean([o[k] for o in own])) for k in ("lines", "colours")}
        return out | {"FID": fid(found, real), "KID": kid(found, real)}

    def drawn(**change: Any) -> dict[str, float]:
        return measured(np.stack([picture(models, replace(r, **change)) for r in base]))

    yield "joint", "scales 1, realism 1", drawn(refine="off")
    yield "sum", "scales 1, realism 1", drawn(refine="off", combine="sum")
    for s in SCALES:
        yield "sketch scale", f"{s:g}", drawn(sketch_scale=s, refine="off", combine="sum")
    for s in SCALES:
        yield "stroke scale", f"{s:g}", drawn(stroke_scale=s, refine="off", combine="sum")
    for rule in ("clean", "noised"):
        for r in REALISM:
            yield f"realism, {rule}", f"{r:g}", drawn(realism=r, refine=rule)
    for t in STRENGTHS:
        common = {"strength": t, "steps": 50, "model": model}
        edits = (EditRequest(guide=Image.fromarray(p), seed=i, **common) for i, p in enumerate(paints))
        pictures = np.stack([picture(models, e) for e in edits])
        away = np.square((pictures.astype(np.float32) - np.stack(paints)) / 255).sum((1, 2, 3))
        yield "strength", f"{t:g}", {"L2": float(away.mean())} | measured(pictures)


def faster(model: str, device: str, repeats: int = 5) -> float:
    """How many times as fast as torch a drawing is with the executor, 24 steps; in turn, the median."""
    from benchmarks.live import values
    from morph_ui.components.canvas import read

    drawing, took = read(values(False)[0]), []
    r = DrawRequest(drawing.sketch, drawing.strokes, model=model)
    plain, quick = ModelManager(device), ModelManager(device, executor="auto")
    for models in (plain, quick, quick):
        done(models, r)
        models.executor.ready()
    for _ in range(repeats):
        spans = []
        for models in (plain, quick):
            models.memo = type(models.memo)()
            spans.append(done(models, r).seconds)
        took.append(spans[0] / spans[1])
    return round(median(took), 2)


def measure(model: str, device: str, count: int = 48) -> dict[str, Any]:
    """The table, row by row; without pictures (``count`` 0) speed alone."""
    out: dict[str, Any] = {"model": model, "over_torch": faster(model, device)}
    if not count:
        return out
    models, photos = ModelManager(device), photographs(count)
    out |= {"pictures": count, "steps": STEPS}
    for curve, point, figures in curves(models, model, photos):
        row = {k: round(v, 4 if v < 1 else 2) for k, v in figures.items()}
        out.setdefault(curve, {})[point] = row
        print(f"{curve:16} {point:20} " + "  ".join(f"{k} {v:9}" for k, v in row.items()), flush=True)
    return out
