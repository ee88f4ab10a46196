"""What the studio makes of its examples: ``python -m training.examples`` → ``assets/examples/made`` and ``…/first``.

The page shows these pictures at once (`morph_ui.tabs.made` of the ready pairs, `morph_ui.tabs.first` when a tab is
opened), so that a slow machine shows what it does. Make them again when flora's weights, what they are made of or a
method have changed; ``tests/test_made.py`` says when the first two have. About two minutes on two CPU cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.checkpoints.resolve import resolve
from engine.requests import Done, EngineError, InterpolateRequest
from morph_ui.tabs import first
from morph_ui.tabs.made import FOLDER, MADE, pairs, pictures
from training.samples import hashed

PRESET, SEED, FRAMES, QUALITY = "draft", 7, 9, 88
LESS = 80  # the quality of many frames
PARTS = ("unet", "vae", "text_encoder", "scheduler")  # what draws them: not the few-step weights, nor CLIP


def weights(name: str = "flora") -> str:
    """A hash of a network's weights as they lie on the disk.

    Not `Resident.fingerprint`, which holds the dtype too.
    """
    return hashed(resolve(name).folder(), PARTS)


def request_for(pair: dict[str, str]) -> InterpolateRequest:
    """What pressing Make asks for after a click on a pair, in a fresh visit on a CPU."""
    own = {"frames": FRAMES, "seed": SEED, "model": "flora"} | InterpolateRequest.presets[PRESET]
    return InterpolateRequest(*pictures(pair), pair["prompt"], pair["prompt_b"], **own)


def make(what: str = "all") -> None:
    """Makes and writes all of them, or those of ``assets/examples`` / ``what`` ("made", "first")."""
    from engine.checkpoints.manager import ModelManager
    from engine.context import Context
    from engine.jobs.run import run

    models = ModelManager("cpu")

    def finish(request: Any) -> Done:
        done = next(e for e in run(Context(models), request) if isinstance(e, Done))
        if done.notes:
            raise EngineError(f"examples must come without a note, got {'; '.join(done.notes)}")
        return done

    about = {"weights": weights(), "dtype": str(models.dtype)}
    for name, each in (("made", made), ("first", firsts)):
        if what in ("all", name):
            each(finish, about)


def made(finish: Callable[[Any], Done], about: dict[str, Any]) -> None:
    """*Interpolate*'s, of every ready pair."""
    found = []
    for i, pair in enumerate(pairs()):
        done, file = finish(request_for(pair)), f"{i:02d}.webp"
        entry = {"file": file, "a": pair["a"], "b": pair["b"]} | kept(done)
        del entry["count"], entry["size"]
        found.append(entry)
        sheet(done, MADE / file, QUALITY)
    write(MADE, {"preset": PRESET} | about | {"made": found}, {m["file"] for m in found})


def firsts(finish: Callable[[Any], Done], about: dict[str, Any]) -> None:
    """What the other tabs show when they are opened."""
    found = {}
    for tab in ("morph", "draw", "edit"):
        done = finish(first.request_for(tab))
        found[tab] = kept(done)
        sheet(done, first.FOLDER / f"{tab}.webp", LESS if len(done.frames) > FRAMES else QUALITY)
    write(first.FOLDER, about | found, {f"{tab}.webp" for tab in found})


def kept(done: Done) -> dict[str, Any]:
    quality = {k: round(v, 6) for k, v in done.quality.items()}
    own = {k: v for k, v in done.settings.items() if k != "loras"}
    return {"count": len(done.frames), "size": done.frames[0].size, "settings": own, "quality": quality}


def sheet(done: Done, path: Path, quality: int) -> None:
    """The pictures in a row, as WebP."""
    from engine.vision import video

    path.parent.mkdir(exist_ok=True)
    video.side_by_side(done.frames).save(path, "WEBP", quality=quality, method=6)
    print(f"{path.name} {path.stat().st_size / 1e3:.0f} kB in {done.seconds:.1f} s", flush=True)


def write(folder: Path, about: dict[str, Any], files: set[str]) -> None:
    """``settings.json``; what else is there and no longer belongs goes."""
    (folder / "settings.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")
    for old in {f.name for f in folder.iterdir()} - files - {"settings.json"}:
        (folder / old).unlink()
    print(f"{sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.2f} MB in {folder.relative_to(FOLDER.parents[1])}")


if __name__ == "__main__":
    make(*sys.argv[1:])
