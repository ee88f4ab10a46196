"""Live drawing: from what the canvas sends to what the page shows, one update after another, 256 × 256.

Every update is another drawing (the strokes move), so nothing of it is remembered but what did not change. It shows
through the light decoder, as on the page; ``still_s`` is what the whole decoder's picture of it takes then.
``over_torch`` is against what there was before either: torch alone, every update through the whole decoder. The browser
itself is left out: Chromium on the same cores takes its share of them.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from PIL import Image, ImageChops

from benchmarks.machine import describe
from benchmarks.tiny import done
from engine.checkpoints.manager import Memo, ModelManager
from engine.requests import DrawRequest
from morph_ui.components.canvas import read
from morph_ui.session import inline

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "drawings"
WARM, UPDATES = 3, 16


def url(layer: Image.Image) -> str:
    block = io.BytesIO()
    layer.save(block, "PNG")
    return "data:image/png;base64," + base64.b64encode(block.getvalue()).decode()


def values(part: bool) -> list[dict[str, Any]]:
    """What the canvas sends while its strokes move by a pixel; ``part``: only the middle is painted."""
    sketch, strokes = (Image.open(EXAMPLES / f"own-daisy-{n}.png").convert("RGBA") for n in ("sketch", "strokes"))
    out = []
    for i in range(WARM + UPDATES):
        moved = ImageChops.offset(strokes, i, 0)
        if part:
            only = Image.new("L", moved.size)
            only.paste(255, (50, 40, 200, 190))
            moved.putalpha(only)
        layers = {"sketch": url(sketch), "strokes": url(moved)}
        out.append({"width": 256, "height": 256, "photo": None, "layers": layers, "turn": i, "phase": "live"})
    return out


def update(models: ModelManager, value: dict[str, Any], **how: Any) -> float:
    """Seconds from what the canvas sends to the picture."""
    begun, drawing = perf_counter(), read(value)
    inline(done(models, DrawRequest(drawing.sketch, drawing.strokes, **DrawRequest.presets["live"] | how)).frames[0])
    return perf_counter() - begun


def updates(models: ModelManager, sent: list[dict[str, Any]], **how: Any) -> list[float]:
    """Seconds of every update, the first ones left out."""
    models.memo = Memo()
    return [update(models, value, **how) for value in sent][WARM:]


def stills(models: ModelManager, sent: list[dict[str, Any]], model: str) -> list[float]:
    """Seconds of the whole decoder's pictures after those of the light one."""
    models.memo, took = Memo(), []
    for value in sent:
        update(models, value, model=model, decoder="light")
        took.append(update(models, value | {"phase": "still"}, model=model))
    return took[WARM:]


def measure(model: str, device: str, repeats: int) -> dict[str, Any]:
    models, whole, part = ModelManager(device, executor="auto"), values(False), values(True)
    plain, light = ModelManager(device), {"model": model, "decoder": "light"}
    for _ in range(2):  # what these ask for is made
        stills(models, whole[: WARM + 1], model)
        updates(models, part[: WARM + 1], **light)
        models.executor.ready()
    rounds: dict[str, list[float]] = {"whole": [], "part": [], "four": [], "torch": [], "still": []}
    for _ in range(repeats):  # in turn, so that noise hits all alike
        rounds["whole"] += updates(models, whole, **light)
        rounds["torch"] += updates(plain, whole, model=model)
        rounds["part"] += updates(models, part, **light)
        rounds["four"] += updates(models, whole, steps=4, **light)
        rounds["still"] += stills(models, whole, model)
    s = {k: median(v) for k, v in rounds.items()}
    return {
        "model": model,
        "device": str(models.device),
        "processor": describe(models.device)["device"],
        "executor": models.executor.name,
        "updates_per_s": round(1 / s["whole"], 2),
        "over_torch": round(s["torch"] / s["whole"], 2),
        "stroke_to_picture_s": round(s["whole"], 3),
        "still_s": round(s["still"], 3),
        "slowest_s": round(max(rounds["whole"]), 3),
        "partly_painted_s": round(s["part"], 3),
        "four_steps_s": round(s["four"], 3),
        "four_over_two_steps": round(s["four"] / s["whole"], 2),
    }
