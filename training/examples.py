"""What *Interpolate* makes of the ready pairs: ``python -m training.examples`` → ``assets/examples/made``.

The page shows these frames at once (`morph_ui.tabs.made`), so that a slow machine shows what it does. Make them again
when flora's weights, the pairs or the method have changed; ``tests/test_made.py`` says when the first two have. About
four seconds a pair on two CPU cores.
"""

from __future__ import annotations

import json
from typing import Any

from engine.checkpoints.resolve import resolve
from engine.requests import Done, EngineError, InterpolateRequest
from morph_ui.tabs.made import FOLDER, MADE, pairs, pictures
from training.samples import hashed

PRESET, SEED, FRAMES, QUALITY = "draft", 7, 9, 88
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


def make() -> None:
    """Makes and writes all of them: a sheet of nine frames in a row for each pair, and ``settings.json``."""
    from engine.checkpoints.manager import ModelManager
    from engine.context import Context
    from engine.jobs.run import run
    from engine.vision import video

    models, found = ModelManager("cpu"), []
    MADE.mkdir(exist_ok=True)
    for i, pair in enumerate(pairs()):
        done = next(e for e in run(Context(models), request_for(pair)) if isinstance(e, Done))
        if done.notes:
            raise EngineError(f"example {i} must come without a note, got {'; '.join(done.notes)}")
        file = f"{i:02d}.webp"
        video.side_by_side(done.frames).save(MADE / file, "WEBP", quality=QUALITY, method=6)
        quality = {k: round(v, 6) for k, v in done.quality.items()}
        found.append({"file": file, "a": pair["a"], "b": pair["b"], "settings": done.settings, "quality": quality})
        print(f"{file} {(MADE / file).stat().st_size / 1e3:.0f} kB in {done.seconds:.1f} s", flush=True)
    about: dict[str, Any] = {"preset": PRESET, "weights": weights(), "dtype": str(models.dtype), "made": found}
    (MADE / "settings.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")
    for old in {f.name for f in MADE.iterdir()} - {m["file"] for m in found} - {"settings.json"}:
        (MADE / old).unlink()
    print(f"{sum(f.stat().st_size for f in MADE.iterdir()) / 1e6:.2f} MB in {MADE.relative_to(FOLDER.parents[1])}")


if __name__ == "__main__":
    make()
