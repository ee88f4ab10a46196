"""Seeded requests, one for every branch of the methods, and a recorder of their pictures.

    python tests/pictures.py record OUT.json [--only TEXT]   digests in OUT.json, pixels in OUT.npz
    python tests/pictures.py compare A.json B.json           equal, or how far apart, case by case
    python tests/pictures.py thumbnails tests/pictures.npz   what tests/test_pictures.py compares with

Records the tree that PYTHONPATH names, in float32 on one thread of the CPU; every case in a manager and a cache of its
own.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

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
REQUESTS = {
    kind: _first(f"engine.requests.{kind.title()}Request", f"engine.schema.{kind.title()}Request")
    for kind in ("interpolate", "morph", "draw", "edit")
}

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
    at = [(0, .1), (0, .2), (-.1, .2), (-.15, .35), (-.15, .5), (.1, .2), (.15, .35), (.15, .5), (-.05, .5),
          (-.05, .75), (-.05, .95), (.05, .5), (.05, .75), (.05, .95), (-.02, .08), (.02, .08), (-.04, .1), (.04, .1)]
    joints = [v for dx, y in at for v in (x + dx + lean * y, y, 1.0)]
    return json.dumps({"people": [{"pose_keypoints_2d": joints}]})


ROSE, DAISY, SUNFLOWER, TULIP = (read(EXAMPLES / f"{name}.webp") for name in (
    "rose-22325299158", "daisy-163978992", "sunflower-20410697750", "tulip-489506904"))
LINES, PAINT, PAINTING, DAB, MASK, SOFT = _lines(), _paint(), _paint("#9cc4e4"), _dab(), _mask(), _mask(soft=True)

# ------------------------------------------------------------------------------------------------------ the cases

# A case: the kind of request, its fields, and what changes in a second request to the same manager, whose pictures
# count. A field that changes may be a function of the first result.
Case = tuple[Any, ...]
WAY = {"a": ROSE, "b": SUNFLOWER, "frames": 3, "steps": 16, "low": 0.4, "high": 0.65, "size": 64}
FIVE = WAY | {"frames": 5}
MORPH = {"pictures": (ROSE, SUNFLOWER), "frames": 4, "steps": 8, "lora_steps": 8, "lora_rate": 3e-3, "size": 64}
BOTH = {"sketch": LINES, "strokes": PAINT, "steps": 8, "size": 64, "prompt": "a red rose"}
LOCAL = {"sketch": LINES, "strokes": DAB, "photo": TULIP, "steps": 8, "size": 64, "around": 8, "feather": 4}
EDIT = {"guide": PAINTING, "strength": 0.6, "steps": 12, "size": 64}
MASKED = EDIT | {"guide": DAISY, "mask": MASK, "strength": 0.8}

CASES: dict[str, Case] = {
    "interpolate": ("interpolate", FIVE),
    "interpolate did": ("interpolate", FIVE | {"scheme": "did"}),
    "interpolate did-independent": ("interpolate", FIVE | {"scheme": "did-independent"}),
    "interpolate denoise": ("interpolate", FIVE | {"scheme": "interpolate-denoise"}),
    "interpolate only": ("interpolate", FIVE | {"scheme": "interpolate"}),
    "interpolate lerp": ("interpolate", FIVE | {"scheme": "did-independent", "mix": "lerp"}),
    "interpolate eta": ("interpolate", FIVE | {"eta": 1.0}),
    "interpolate bias": ("interpolate", FIVE | {"bias": 0.4}),
    "interpolate convex": ("interpolate", FIVE | {"schedule": "convex"}),
    "interpolate concave": ("interpolate", FIVE | {"schedule": "concave"}),
    "interpolate live": ("interpolate", FIVE | {"sampler": "live"}),
    "interpolate remade": ("interpolate", FIVE, {"reseeds": ((1, 7),)}),
    "interpolate candidates": ("interpolate", WAY | {"candidates": 4}),
    "interpolate picker first": ("interpolate", WAY | {"candidates": 4, "picker": "first"}),
    "interpolate picker clip": ("interpolate", WAY | {"candidates": 4, "picker": "clip", "rank_for": "a daisy"}),
    "interpolate picked": ("interpolate", WAY | {"candidates": 4}, {"picks": ((1, 2),)}),
    "interpolate words": ("interpolate", WAY | {"prompt": "a red rose", "prompt_b": "a yellow sunflower",
                                                "negative": "blue", "guidance": 6.0}),
    "interpolate inverted": ("interpolate", WAY | {"invert_steps": 6, "invert_rate": 0.05, "guidance": 6.0}),
    "interpolate pad": ("interpolate", WAY | {"a": ROSE.crop((0, 40, 256, 180)), "fit": "pad"}),
    "interpolate crop": ("interpolate", WAY | {"a": ROSE.crop((0, 40, 256, 180)), "fit": "crop"}),
    "morph": ("morph", MORPH),
    "morph lora none": ("morph", MORPH | {"lora": "none"}),
    "morph lora fixed": ("morph", MORPH | {"lora": "fixed", "fix": 0.0}),
    "morph factors": ("morph", MORPH | {"form": "factors"}),
    "morph attention 0": ("morph", MORPH | {"attention": 0.0}),
    "morph own": ("morph", MORPH | {"own": 0.9}),
    "morph no adain": ("morph", MORPH | {"adain": False}),
    "morph no reschedule": ("morph", MORPH | {"reschedule": False}),
    "morph exact ends": ("morph", MORPH | {"exact_ends": True}),
    "morph loop": ("morph", MORPH | {"loop": True, "lora": "none"}),
    "morph three": ("morph", MORPH | {"pictures": (ROSE, TULIP, DAISY), "prompts": ("a red rose", "", "a white daisy"),
                                      "frames": 3}),
    "morph brought": ("morph", MORPH, {"loras": lambda done: tuple(done.files.values())[::-1]}),
    "morph remembered": ("morph", MORPH, {"adain": False}),
    "draw": ("draw", BOTH),
    "draw sketch": ("draw", BOTH | {"strokes": None}),
    "draw strokes": ("draw", BOTH | {"sketch": None}),
    "draw dab": ("draw", BOTH | {"strokes": DAB}),
    "draw clean": ("draw", BOTH | {"refine": "clean", "realism": 0.4}),
    "draw noised": ("draw", BOTH | {"refine": "noised", "realism": 0.4}),
    "draw off": ("draw", BOTH | {"refine": "off", "realism": 0.4}),
    "draw sum": ("draw", BOTH | {"combine": "sum", "sketch_scale": 2.0, "stroke_scale": 2.0}),
    "draw joint": ("draw", BOTH | {"combine": "joint", "sketch_scale": 2.0, "stroke_scale": 2.0}),
    "draw eta": ("draw", BOTH | {"eta": 1.0}),
    "draw live": ("draw", BOTH | {"sampler": "live", "steps": 2, "guidance": 1.0}),
    "draw sheet": ("draw", BOTH | {"sheet": "sketch-stroke", "steps": 4}),
    "draw ladder": ("draw", BOTH | {"sheet": "ladder", "steps": 4}),
    "draw photo": ("draw", LOCAL),
    "draw photo masked": ("draw", LOCAL | {"mask": MASK}),
    "edit": ("edit", EDIT),
    "edit rounds": ("edit", EDIT | {"repeats": 2}),
    "edit eta": ("edit", EDIT | {"eta": 1.0}),
    "edit strength 1": ("edit", EDIT | {"strength": 1.0}),
    "edit mask": ("edit", MASKED),
    "edit soft mask": ("edit", MASKED | {"mask": SOFT}),
    "edit no mask": ("edit", MASKED | {"mask": None}),
    "edit frozen": ("edit", MASKED | {"noise": "frozen"}),
    "edit paint": ("edit", EDIT | {"guide": DAB, "photo": TULIP, "around": 12, "count": 2}),
    "tiny draw steered": ("draw", BOTH | {"model": "epsilon"}),
    "tiny draw sketch scale": ("draw", BOTH | {"model": "epsilon", "sketch_scale": 3.0}),
    "tiny draw stroke scale": ("draw", BOTH | {"model": "epsilon", "stroke_scale": 3.0}),
    "tiny interpolate": ("interpolate", WAY | {"model": "epsilon"}),
    "tiny interpolate posed": ("interpolate", WAY | {"model": "epsilon", "pose": "given", "pose_a": _person(0.3, 0.1),
                                                     "pose_b": _person(0.6, -0.1)}),
    "tiny interpolate v": ("interpolate", WAY | {"model": "v_prediction"}),
}

# Cases that differ in one field, and so in their pictures.
PAIRS: list[tuple[str, str]] = [
    *(("interpolate", f"interpolate {x}") for x in
      "did denoise only eta bias convex concave live remade".split()),
    ("interpolate did", "interpolate did-independent"),
    ("interpolate did-independent", "interpolate lerp"),
    ("interpolate candidates", "interpolate picker first"),
    ("interpolate candidates", "interpolate picked"),
    ("interpolate pad", "interpolate crop"),
    *(("morph", f"morph {x}") for x in ("lora none", "lora fixed", "factors", "attention 0", "own", "no adain",
                                        "no reschedule", "exact ends", "brought")),
    *(("draw", f"draw {x}") for x in ("sketch", "strokes", "dab", "eta")),
    ("draw clean", "draw noised"), ("draw clean", "draw off"), ("draw noised", "draw off"), ("draw joint", "draw sum"),
    ("draw photo", "draw photo masked"),
    *(("edit", f"edit {x}") for x in ("rounds", "eta", "strength 1")),
    ("edit mask", "edit soft mask"), ("edit mask", "edit no mask"), ("edit mask", "edit frozen"),
    ("tiny draw steered", "tiny draw sketch scale"), ("tiny draw steered", "tiny draw stroke scale"),
    ("tiny interpolate", "tiny interpolate v"),
]

# ------------------------------------------------------------------------------------------------- tiny networks


@cache
def tiny(prediction: str) -> str:
    """A folder with a tiny network of random weights as Stable Diffusion is made, and controls beside it."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = Path(tempfile.mkdtemp(prefix="chrysalis-tiny-"))
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4, norm_num_groups=8),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=8),
        "scheduler": diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
            set_alpha_to_one=False, prediction_type=prediction),
    }
    letters = [chr(c) for c in range(33, 127)]
    vocab = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    begin, end = len(vocab) - 2, len(vocab) - 1
    parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, projection_dim=32, bos_token_id=begin, eos_token_id=end, pad_token_id=end))
    parts["tokenizer"] = CLIPTokenizer(
        vocab={v: i for i, v in enumerate(vocab)}, merges=[], model_max_length=24, bos_token=vocab[begin],
        **dict.fromkeys(("unk_token", "eos_token", "pad_token"), vocab[end]))
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
    """What a case gives (`Done`), made in a manager and a cache of its own on one thread."""
    kind, fields, *more = CASES[name]
    threads, before = torch.get_num_threads(), os.environ.get("CHRYSALIS_CACHE")
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="chrysalis-pictures-") as folder:
            os.environ["CHRYSALIS_CACHE"] = folder
            models = manager("cpu", torch.float32)
            *_, done = run(models, request(kind, fields))
            for change in more:
                fields = fields | {n: v(done) if callable(v) else v for n, v in change.items()}
                *_, done = run(models, request(kind, fields))
            return done
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("CHRYSALIS_CACHE")
        os.environ |= {"CHRYSALIS_CACHE": before} if before is not None else {}


def block(frames: Sequence[Image.Image]) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    return np.stack([np.asarray(f.convert("RGB")) for f in frames])


def thumbnails(frames: Sequence[Image.Image]) -> np.ndarray:
    return block([f.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for f in frames])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean absolute difference, in grey levels, of the frames that differ most."""
    return float(np.abs(a.astype(int) - b).mean((1, 2, 3)).max()) if a.shape == b.shape else float("inf")


def _record(out: Path, only: str) -> None:
    found, pixels, began = {}, {}, perf_counter()
    for name in (n for n in CASES if only in n):
        start, done = perf_counter(), result(name)
        hashes = [hashlib.sha256(repr(f.size).encode() + f.tobytes()).hexdigest() for f in done.frames]
        found[name] = {"frames": hashes, "evaluations": done.evaluations}
        pixels[name] = block(done.frames)
        print(f"{perf_counter() - start:6.2f} s  {len(hashes)} frames  {name}", flush=True)
    out.write_text(json.dumps(found, indent=1))
    np.savez_compressed(out.with_suffix(".npz"), **pixels)
    print(f"{perf_counter() - began:6.2f} s  {len(found)} cases")


def _compare(first: Path, second: Path) -> int:
    """How many cases are not equal; says of each how far apart they are."""
    a, b = (json.loads(p.read_text()) for p in (first, second))
    pixels = [np.load(p.with_suffix(".npz")) for p in (first, second)]
    failed = 0
    for name in a | b:
        if name not in a or name not in b:
            said = f"only in {first if name in a else second}"
        elif a[name] == b[name]:
            said = "equal"
        elif a[name]["frames"] == b[name]["frames"]:
            said = f"equal pictures, {a[name]['evaluations']} and {b[name]['evaluations']} evaluations"
        elif (x := pixels[0][name]).shape != (y := pixels[1][name]).shape:
            said = f"shapes {x.shape} and {y.shape}"
        else:
            away = np.abs(x.astype(int) - y)
            worst = [i for i, d in enumerate(away) if d.any()]
            said = f"max {away.max()}, mean {away.mean():.4f} grey levels, in frames {worst}"
        failed += said != "equal"
        print(f"{name}: {said}")
    print(f"{len(a | b) - failed} of {len(a | b)} equal")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare", "thumbnails"))
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--only", default="", help="cases with this in their names")
    given = parser.parse_args()
    if given.what == "compare":
        return min(1, _compare(*given.files))
    if given.what == "record":
        _record(given.files[0], given.only)
    else:
        np.savez_compressed(given.files[0], **{name: thumbnails(result(name).frames) for name in CASES})
    return 0


if __name__ == "__main__":
    sys.exit(main())
