"""Seeded requests, one for every branch of the methods, and a recorder of their pictures.

    python tests/pictures.py record OUT.json [--only TEXT]   digests in OUT.json, pixels in OUT.npz
    python tests/pictures.py compare A.json B.json [--only TEXT]
                                                             equal, or how far apart, case by case
    python tests/pictures.py thumbnails tests/pictures.png   what tests/test_pictures.py compares with

Records the tree that PYTHONPATH names, in float32 on one thread of the CPU. Nothing is remembered from one recording to
the next; within one, what a case keeps on the disk (LoRAs, inversions) serves those after it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from PIL.PngImagePlugin import PngInfo

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
THUMBNAIL = 32


def _first(*places: str) -> Any:
    """The first of the dotted names that this tree has."""
    for place in places:
        module, _, name = place.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError):
            pass
    raise ImportError(f"none of {', '.join(places)} is here")


manager = _first("engine.checkpoints.manager.ModelManager", "engine.checkpoints.manager.Models", "engine.models.Models")
run = _first("engine.jobs.run.run", "engine.methods.run")
read = _first("engine.vision.images.read", "engine.images.read")
disk = _first("engine.jobs.cache.Cache", "engine.cache.Cache")
try:
    job = _first("engine.context.Context")
except ImportError:  # once the manager was what a job works with, its cache included
    job = None
REQUESTS = {
    kind: _first(f"engine.requests.{kind.title()}Request", f"engine.schema.{kind.title()}Request")
    for kind in ("interpolate", "morph", "draw", "edit")
}

RESIDENT: dict[str, Any] = {}


@cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """Tiny networks and the cache of this recording; gone when the process is."""
    return tempfile.TemporaryDirectory(prefix="chrysalis-pictures-")


def fresh() -> Any:
    """A manager that has nothing in mind; only the networks are those of earlier ones, since loading takes longest."""
    models = manager("cpu", torch.float32)
    models._resident = RESIDENT.setdefault("networks", models._resident)
    return models


def answer(models: Any, asked: Any) -> Any:
    """The `Done` of a request."""
    models.cache = disk(Path(scratch().name) / "cache")
    *_, done = run(job(models, models.cache) if job else models, asked)
    return done


# ------------------------------------------------------------------------------------------------- what is drawn


def _lines() -> Image.Image:
    """A flower in ink."""
    out = Image.new("RGBA", (128, 128))
    pen = ImageDraw.Draw(out)
    for x, y in ((64, 24), (94, 46), (84, 80), (44, 80), (34, 46)):
        pen.ellipse((x - 20, y - 20, x + 20, y + 20), outline="black", width=3)
    pen.ellipse((50, 40, 78, 68), outline="black", width=3)
    pen.line((64, 90, 60, 127), fill="black", width=4)
    return out


def _paint(ground: str | None = None) -> Image.Image:
    """A flower in colours, on nothing or on a ``ground``."""
    out = Image.new("RGBA", (128, 128), ground or (0, 0, 0, 0))
    brush = ImageDraw.Draw(out)
    brush.line((64, 80, 60, 127), fill="#2f7d32", width=12)
    for x, y in ((64, 24), (94, 46), (84, 80), (44, 80), (34, 46)):
        brush.ellipse((x - 20, y - 20, x + 20, y + 20), fill="#d8325f")
    brush.ellipse((50, 40, 78, 68), fill="#f3c623")
    return out


def _dab() -> Image.Image:
    """One stroke of paint on nothing."""
    out = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(out).ellipse((20, 30, 76, 86), fill="#3060d0")
    return out


def _mask(soft: bool = False) -> Image.Image:
    """White may change: the left half, or more and more of it from right to left."""
    out = Image.new("L", (128, 128))
    ImageDraw.Draw(out).rectangle((0, 0, 72, 127), fill=255)
    return out.filter(ImageFilter.GaussianBlur(24)) if soft else out


def _person(x: float, lean: float) -> str:
    """OpenPose's JSON of somebody at ``x`` of a picture."""
    at = [
        (0, 0.1),
        (0, 0.2),
        (-0.1, 0.2),
        (-0.15, 0.35),
        (-0.15, 0.5),
        (0.1, 0.2),
        (0.15, 0.35),
        (0.15, 0.5),
        (-0.05, 0.5),
        (-0.05, 0.75),
        (-0.05, 0.95),
        (0.05, 0.5),
        (0.05, 0.75),
        (0.05, 0.95),
        (-0.02, 0.08),
        (0.02, 0.08),
        (-0.04, 0.1),
        (0.04, 0.1),
    ]
    joints = [v for dx, y in at for v in (x + dx + lean * y, y, 1.0)]
    return json.dumps({"people": [{"pose_keypoints_2d": joints}]})


ROSE, DAISY, SUNFLOWER, TULIP, DANDELION = (
    read(EXAMPLES / f"{name}.webp")
    for name in (
        "rose-22325299158",
        "daisy-163978992",
        "sunflower-20410697750",
        "tulip-489506904",
        "dandelion-13967344688",
    )
)
WIDE = (0, 64, 256, 192)  # a part of a photograph
LINES, PAINT, PAINTING, DAB, MASK, SOFT = _lines(), _paint(), _paint("#9cc4e4"), _dab(), _mask(), _mask(soft=True)

# ------------------------------------------------------------------------------------------------------ the cases

# Settings in which every switch shows: much noise between pictures, LoRAs that have learnt more than is good for them.
WAY = {"a": ROSE, "b": SUNFLOWER, "frames": 3, "steps": 8, "low": 0.4, "high": 0.65, "invert_rate": 0.1, "size": 64}
FIVE = WAY | {"frames": 5}
NINE = WAY | {"frames": 9, "low": 0.1, "high": 0.8}
WORDS = {"prompt": "a red rose", "prompt_b": "a white daisy", "negative": "blue", "guidance": 5.0}
TRIES = WAY | {"candidates": 4, "seed": 2}
POSED = WAY | {"model": "epsilon", "pose_a": _person(0.3, 0.1), "pose_b": _person(0.6, -0.1)}
MORPH = {
    "pictures": (TULIP, SUNFLOWER),
    "frames": 3,
    "steps": 6,
    "lora_steps": 6,
    "lora_rate": 0.025,
    "lora_patience": 0.0,
    "attention": 1.0,
    "reschedule": False,
    "size": 64,
}
BOTH = {"sketch": LINES, "strokes": PAINT, "steps": 5, "size": 64, "prompt": "a red rose"}
STEERED = BOTH | {"model": "epsilon", "sketch_scale": 2.0, "stroke_scale": 2.0}
HALF = BOTH | {"realism": 0.4}
LOCAL = {"sketch": LINES, "strokes": DAB, "photo": TULIP, "steps": 6, "size": 64, "around": 8, "feather": 4}
LOCAL["match"] = False  # what is recorded is older; tests/test_light.py has it
EDIT = {"guide": PAINTING, "strength": 0.6, "steps": 12, "size": 64, "match": False}
MASKED = EDIT | {"guide": DAISY, "mask": MASK, "strength": 0.8}

# A kind of request, its fields, and what changes in a second request to the same manager, whose pictures count; that
# may be made of the first one's result.
Case = tuple[Any, ...]
CASES: dict[str, Case] = {
    "interpolate": ("interpolate", FIVE),
    "interpolate did": ("interpolate", FIVE | {"scheme": "did"}),
    "interpolate did-independent": ("interpolate", FIVE | {"scheme": "did-independent"}),
    "interpolate denoise": ("interpolate", FIVE | {"scheme": "interpolate-denoise"}),
    "interpolate only": ("interpolate", FIVE | {"scheme": "interpolate"}),
    "interpolate lerp": ("interpolate", FIVE | {"scheme": "did-independent", "mix": "lerp"}),
    "interpolate slerp": ("interpolate", FIVE | {"mix": "slerp"}),
    "interpolate bias": ("interpolate", FIVE | {"bias": 0.4}),
    "interpolate remade": ("interpolate", FIVE, {"reseeds": ((1, 7),)}),
    "interpolate convex": ("interpolate", NINE | {"schedule": "convex"}),
    "interpolate concave": ("interpolate", NINE | {"schedule": "concave"}),
    "interpolate wide": ("interpolate", WAY | {"a": ROSE.crop(WIDE), "size": 128}),
    "interpolate pad": ("interpolate", WAY | {"a": ROSE.crop(WIDE), "fit": "pad"}),
    "interpolate crop": ("interpolate", WAY | {"a": ROSE.crop(WIDE), "fit": "crop"}),
    "interpolate three": ("interpolate", WAY),
    "interpolate eta": ("interpolate", WAY | {"eta": 1.0}),
    "interpolate inverted": ("interpolate", WAY | {"invert_steps": 4}),
    "interpolate words": ("interpolate", WAY | WORDS),
    "interpolate live": ("interpolate", WAY | WORDS | {"sampler": "live"}),
    "interpolate candidates": ("interpolate", TRIES),
    "interpolate first": ("interpolate", TRIES | {"picker": "first"}),
    "interpolate clip": ("interpolate", TRIES | {"picker": "clip"}),
    "interpolate picked": ("interpolate", TRIES, {"picks": ((1, 1),)}),
    "morph": ("morph", MORPH),
    "morph lora none": ("morph", MORPH | {"lora": "none"}),
    "morph lora fixed": ("morph", MORPH | {"lora": "fixed"}),
    "morph factors": ("morph", MORPH | {"form": "factors"}),
    "morph attention 0": ("morph", MORPH | {"attention": 0.0}),
    "morph own": ("morph", MORPH | {"own": 0.9}),
    "morph no adain": ("morph", MORPH | {"adain": False}),
    "morph reschedule": ("morph", MORPH | {"reschedule": True}),
    "morph exact ends": ("morph", MORPH | {"exact_ends": True}),
    "morph brought": ("morph", MORPH, {"loras": lambda done: tuple(done.files.values())[::-1]}),
    "morph patient": (
        "morph",
        MORPH | {"pictures": (ROSE, ROSE), "lora_steps": 21, "lora_draws": 1, "lora_patience": 0.5},
    ),
    "morph loop": ("morph", MORPH | {"loop": True, "lora": "none"}),
    "morph three": (
        "morph",
        MORPH | {"lora_rate": 0.005, "pictures": (ROSE, TULIP, DAISY), "prompts": ("a red rose", "", "a daisy")},
    ),
    "draw": ("draw", BOTH),
    "draw again": ("draw", BOTH | {"strokes": None}, {"strokes": PAINT}),
    "draw sketch": ("draw", BOTH | {"strokes": None}),
    "draw strokes": ("draw", BOTH | {"sketch": None}),
    "draw dab": ("draw", BOTH | {"strokes": DAB}),
    "draw words": ("draw", BOTH | {"negative": "a white daisy", "guidance": 8.0}),
    "draw no guidance": ("draw", BOTH | {"negative": "a white daisy", "guidance": 1.0}),
    "draw eta": ("draw", BOTH | {"eta": 1.0}),
    "draw clean": ("draw", HALF | {"refine": "clean"}),
    "draw noised": ("draw", HALF | {"refine": "noised"}),
    "draw off": ("draw", HALF | {"refine": "off"}),
    "draw held": ("draw", HALF | {"refine": "noised", "free": 0.9}),
    "draw k": ("draw", BOTH | {"k": 16}),
    "draw joint": ("draw", BOTH | {"combine": "joint", "sketch_scale": 2.0, "stroke_scale": 2.0}),
    "draw sum": ("draw", BOTH | {"combine": "sum", "sketch_scale": 2.0, "stroke_scale": 2.0}),
    "draw live": ("draw", BOTH | {"sampler": "live", "steps": 2}),
    "draw two steps": ("draw", BOTH | {"steps": 2}),
    "draw sheet": ("draw", BOTH | {"sheet": "sketch-stroke", "steps": 2}),
    "draw ladder": ("draw", BOTH | {"sheet": "ladder", "steps": 2}),
    "draw wide": ("draw", {"sketch": LINES.crop((0, 0, 128, 64)), "steps": 6, "size": 128, "count": 2}),
    "draw photo": ("draw", LOCAL),
    "draw photo masked": ("draw", LOCAL | {"mask": MASK}),
    "edit": ("edit", EDIT),
    "edit words": ("edit", EDIT | {"prompt": "a white daisy", "negative": "red"}),
    "edit rounds": ("edit", EDIT | {"repeats": 2}),
    "edit eta": ("edit", EDIT | {"eta": 1.0}),
    "edit strength 1": ("edit", EDIT | {"strength": 1.0}),
    "edit all": ("edit", MASKED | {"mask": None}),
    "edit mask": ("edit", MASKED),
    "edit soft mask": ("edit", MASKED | {"mask": SOFT}),
    "edit frozen": ("edit", MASKED | {"mask": SOFT, "noise": "frozen"}),
    "edit paint": ("edit", EDIT | {"guide": DAB, "photo": TULIP, "around": 12, "count": 2}),
    "tiny draw": ("draw", STEERED),
    "tiny draw no lines": ("draw", STEERED | {"sketch_scale": 0.0}),
    "tiny draw no colours": ("draw", STEERED | {"stroke_scale": 0.0}),
    "tiny interpolate": ("interpolate", POSED),
    "tiny interpolate posed": ("interpolate", POSED | {"pose": "given"}),
    "tiny interpolate v": ("interpolate", POSED | {"model": "v_prediction"}),
}

# Cases that give the same pictures: one of them lets something be remembered in between.
SAME = [("draw", "draw again")]

# Cases that differ in one field, and so in their pictures.
PAIRS = [
    tuple(pair.split(" | "))
    for pair in """\
interpolate | interpolate did
interpolate | interpolate denoise
interpolate | interpolate only
interpolate did | interpolate did-independent
interpolate did-independent | interpolate lerp
interpolate | interpolate bias
interpolate | interpolate remade
interpolate convex | interpolate concave
interpolate pad | interpolate crop
interpolate three | interpolate eta
interpolate three | interpolate inverted
interpolate words | interpolate live
interpolate candidates | interpolate first
interpolate candidates | interpolate clip
interpolate candidates | interpolate picked
morph | morph lora none
morph | morph lora fixed
morph | morph factors
morph | morph attention 0
morph | morph own
morph | morph no adain
morph | morph reschedule
morph | morph exact ends
morph | morph brought
draw | draw sketch
draw | draw strokes
draw | draw dab
draw words | draw no guidance
draw | draw eta
draw | draw k
draw clean | draw noised
draw clean | draw off
draw noised | draw off
draw noised | draw held
draw joint | draw sum
draw live | draw two steps
draw photo | draw photo masked
edit | edit rounds
edit | edit eta
edit | edit strength 1
edit mask | edit all
edit mask | edit soft mask
edit soft mask | edit frozen
tiny draw | tiny draw no lines
tiny draw | tiny draw no colours
tiny interpolate | tiny interpolate posed
tiny interpolate | tiny interpolate v""".splitlines()
]

# ------------------------------------------------------------------------------------------------- tiny networks


@cache
def tiny(prediction: str) -> str:
    """A folder with a tiny network of random weights as Stable Diffusion is made, and controls beside it."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = Path(scratch().name) / prediction
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=32,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4,
            norm_num_groups=8,
        ),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=8,
        ),
        "scheduler": diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
            set_alpha_to_one=False,
            prediction_type=prediction,
        ),
    }
    letters = [chr(c) for c in range(33, 127)]
    vocab = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    begin, end = len(vocab) - 2, len(vocab) - 1
    parts["text_encoder"] = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            projection_dim=32,
            bos_token_id=begin,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    parts["tokenizer"] = CLIPTokenizer(
        vocab={v: i for i, v in enumerate(vocab)},
        merges=[],
        model_max_length=24,
        bos_token=vocab[begin],
        **dict.fromkeys(("unk_token", "eos_token", "pad_token"), vocab[end]),
    )
    for kind in ("sketch", "pose"):
        net = diffusers.ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(4, 8, 8, 8))
        for p in net.parameters():
            if not p.any():  # its zero convolutions
                torch.nn.init.normal_(p, std=0.3)
        parts[kind] = net
    parts["stroke"] = diffusers.T2IAdapter(channels=[16, 32], num_res_blocks=1, downscale_factor=8)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {n: ["transformers" if n[0] == "t" else "diffusers", type(p).__name__] for n, p in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"} | index))
    return str(folder)


# ------------------------------------------------------------------------------------------------------- running


def request(kind: str, fields: dict[str, Any]) -> Any:
    model = fields.get("model", "flora")
    return REQUESTS[kind](**fields | {"model": tiny(model) if model in ("epsilon", "v_prediction") else model})


def result(name: str) -> Any:
    """What a case gives (`Done`), made on one thread."""
    kind, fields, *more = CASES[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        models = fresh()
        done = answer(models, request(kind, fields))
        for change in more:
            fields = fields | {n: v(done) if callable(v) else v for n, v in change.items()}
            done = answer(models, request(kind, fields))
        return done
    finally:
        torch.set_num_threads(threads)


def block(frames: Sequence[Image.Image]) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    return np.stack([np.asarray(f.convert("RGB")) for f in frames])


def thumbnails(frames: Sequence[Image.Image]) -> np.ndarray:
    return block([f.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for f in frames])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean absolute difference, in grey levels, of the frames that differ most."""
    return float(np.abs(a.astype(int) - b).mean((1, 2, 3)).max()) if a.shape == b.shape else float("inf")


def store(out: Path, cases: dict[str, np.ndarray], columns: int = 16) -> None:
    """One sheet of all different thumbnails; its text says which are whose."""
    cells: dict[bytes, int] = {}
    whose = {name: [cells.setdefault(t.tobytes(), len(cells)) for t in own] for name, own in cases.items()}
    side = THUMBNAIL
    sheet = Image.new("RGB", (columns * side, -(-len(cells) // columns) * side))
    for pixels, i in cells.items():
        sheet.paste(Image.frombytes("RGB", (side, side), pixels), (i % columns * side, i // columns * side))
    text = PngInfo()
    text.add_text("cases", json.dumps(whose))
    sheet.save(out, optimize=True, pnginfo=text)


def stored(path: Path) -> dict[str, np.ndarray]:
    """The thumbnails of every case on a sheet."""
    with Image.open(path) as sheet:
        sheet.load()
        rows, columns = sheet.height // THUMBNAIL, sheet.width // THUMBNAIL
        cells = np.asarray(sheet).reshape(rows, THUMBNAIL, columns, THUMBNAIL, 3).swapaxes(1, 2)
        cells = cells.reshape(-1, THUMBNAIL, THUMBNAIL, 3)
        return {name: cells[own] for name, own in json.loads(sheet.info["cases"]).items()}


def _record(out: Path, only: str) -> None:
    found, pixels, began = {}, {}, process_time()
    for name in (n for n in CASES if only in n):
        start, done = process_time(), result(name)
        hashes = [hashlib.sha256(repr(f.size).encode() + f.tobytes()).hexdigest() for f in done.frames]
        found[name] = {"frames": hashes, "evaluations": done.evaluations}
        pixels[name] = block(done.frames)
        print(f"{process_time() - start:6.2f} s  {len(hashes)} frames  {name}", flush=True)
    out.write_text(json.dumps(found, indent=1))
    np.savez_compressed(out.with_suffix(".npz"), **pixels)
    print(f"{process_time() - began:6.2f} s  {len(found)} cases")


def _compare(first: Path, second: Path, only: str) -> int:
    """How many cases have other pictures; says of each how far apart they are."""
    a, b = (json.loads(p.read_text()) for p in (first, second))
    pixels = [np.load(p.with_suffix(".npz")) for p in (first, second)]
    names, failed = [n for n in a | b if only in n], 0
    for name in names:
        if name not in a or name not in b:
            said = f"only in {first if name in a else second}"
        elif a[name]["frames"] == b[name]["frames"]:
            work = [found[name]["evaluations"] for found in (a, b)]
            said = "equal" if work[0] == work[1] else f"equal, made of {work[0]} and {work[1]} evaluations"
        elif (x := pixels[0][name]).shape != (y := pixels[1][name]).shape:
            said = f"shapes {x.shape} and {y.shape}"
        else:
            away = np.abs(x.astype(int) - y)
            worst = [i for i, d in enumerate(away) if d.any()]
            said = f"max {away.max()}, mean {away.mean():.4f} grey levels, in frames {worst}"
        failed += not said.startswith("equal")
        print(f"{name}: {said}")
    print(f"{len(names) - failed} of {len(names)} equal")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare", "thumbnails"))
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--only", default="", help="cases with this in their names")
    given = parser.parse_args()
    if given.what == "compare":
        return min(1, _compare(*given.files, given.only))
    if given.what == "record":
        _record(given.files[0], given.only)
    else:
        store(given.files[0], {name: thumbnails(result(name).frames) for name in CASES})
    return 0


if __name__ == "__main__":
    sys.exit(main())
