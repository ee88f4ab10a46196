"""What a device does with flora, and with a network of Stable Diffusion 1.5's exact shape whose weights are random.

Speeds and memory are true of the shape; its pictures are noise, so nothing here speaks of pictures but the difference
between two precisions. One JSON line a figure as soon as it is known, a table at the end, every figure of one run.

    python -m benchmarks device --only network,morph --json device.json
    python -m benchmarks device --only interpolate --share 0.25
    python -m benchmarks device --shape tiny --size 64 --steps 4 --share 0.02 --seconds 1   # what the test runs

On a bare machine without a network, in commands of less than ten minutes (3 GB in /tmp, made again on a fresh machine):

    PYTHONUNBUFFERED=1 python3 -m benchmarks device --folder /tmp/sd1 --only network,morph --json $OUT/a.json
    PYTHONUNBUFFERED=1 python3 -m benchmarks device --folder /tmp/sd1 --only interpolate,live --json $OUT/b.json
    PYTHONUNBUFFERED=1 python3 -m benchmarks device --folder /tmp/sd1 --only precision,memory --json $OUT/c.json

It imports no page; beside torch it wants diffusers, transformers, peft, open-clip-torch (the tokenizer) and what those
need. Where flora's weights were left behind (its UNet alone is 69 MB), or with ``--flora none``, its rows are left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops

from benchmarks.interpolate import bare, job, request, watched
from engine.checkpoints.load import hushed
from engine.checkpoints.manager import Models, pick_device, pick_dtype
from engine.checkpoints.resolve import ASSETS
from engine.checkpoints.shapes import skeleton
from engine.diffusion import lora
from engine.jobs.cache import Cache
from engine.jobs.run import run
from engine.requests import (
    DRAW_PRESETS,
    MORPH_PRESETS,
    PRESETS,
    Done,
    DrawRequest,
    EngineError,
    LoadRequest,
    MorphRequest,
)

DRAWINGS = Path(__file__).resolve().parents[1] / "assets" / "examples" / "drawings"
BUDGETS = (4, 6, 8, 12, 24)  # GB
WARM = 3  # updates of the live canvas that are not counted
# What the tiny shape has less of; all else, the number of levels too, is Stable Diffusion's.
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 64, "sample_size": 8,
             "layers_per_block": 1},
    "vae": {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1, "sample_size": 64},
    "text_encoder": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "projection_dim": 64},
}  # fmt: skip
# What LCM-LoRA changes, at its rank of 64.
FEW = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
       "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]  # fmt: skip


# ---------------------------------------------------------------------------------------------------- the network


def random_network(folder: Path, shape: str) -> Path:
    """A diffusers folder of that shape with random weights in half-precision files, as a download would lie there.

    Beside it, as the engine looks for them: ``sketch`` (a ControlNet), ``stroke`` (a colour T2I-Adapter) and ``live``
    (a few-step LoRA). What an earlier call made there is taken. EngineError for a folder that holds something else.
    """
    from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPTextConfig, CLIPTextModel

    mark = folder / "random.json"
    if mark.is_file() and json.loads(mark.read_text()) == shape:
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise EngineError(f"folder must be empty or hold a random network of the shape {shape}, got {folder}")
    hushed()
    skeleton(folder, "sd1")
    for part, less in SMALL.items() if shape == "tiny" else ():
        config = folder / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | less))

    def save(module: Any, name: str) -> None:
        module.half().save_pretrained(folder / name, variant="fp16")

    torch.manual_seed(0)
    save(AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")), "vae")
    save(CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")), "text_encoder")
    unet: Any = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    control: Any = ControlNetModel.from_unet(unet)
    for p in control.parameters():
        if not p.any():  # its zero convolutions
            torch.nn.init.normal_(p, std=0.01)
    save(control, "sketch")
    del control
    widths = list(unet.config.block_out_channels)[:3]
    save(T2IAdapter(3, widths, num_res_blocks=4, downscale_factor=8, adapter_type="light_adapter"), "stroke")
    save(unet, "unet")
    rank = 64 if shape == "sd1" else 4
    config = LoraConfig(r=rank, lora_alpha=rank / 10, target_modules=FEW, init_lora_weights=False)  # pyright: ignore
    get_peft_model(unet, config).half().save_pretrained(str(folder / "live"))
    mark.write_text(json.dumps(shape))
    return folder


# --------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Bench:
    """What is measured: networks by name, on which device, how large (pixels), in how many steps (0: their own)."""

    device: str
    networks: dict[str, str]  # what a line calls it → a catalogue name or a folder
    size: int = 512
    steps: int = 0
    share: float = 1.0  # of the steps of the paper presets
    seconds: float = 5.0  # of drawing live

    @property
    def cuda(self) -> bool:
        return pick_device(self.device).type == "cuda"

    def side(self, network: str) -> int:
        """flora knows pictures of 256 pixels."""
        return self.size if network != "flora" else min(self.size, 256)

    def part(self, steps: int, least: int = 1) -> int:
        """The share of a paper preset's steps that is run."""
        return max(least, round(steps * self.share))

    def draft(self, network: str, **change: Any) -> Any:
        own = {"steps": self.steps} if self.steps else {}
        r = request(self.networks[network])
        return replace(r, fit="crop", size=self.side(network), **own | change)

    def morph(self, network: str, **change: Any) -> MorphRequest:
        r = self.draft(network)
        fixed = {"frames": 16, "steps": self.steps or 50, "lora_patience": 0.0}  # or its cost were the pictures'
        return MorphRequest((r.a, r.b), prompts=(r.prompt, r.prompt_b), fit="crop", size=r.size, model=r.model,
                            **fixed | change)  # fmt: skip

    @contextmanager
    def models(self, dtype: torch.dtype | None = None, memory: float = 0.0) -> Iterator[Models]:
        """Networks with nothing resident and nothing remembered, of an earlier figure's neither."""
        gc.collect()
        emptied(pick_device(self.device))
        with tempfile.TemporaryDirectory() as folder:
            models = Models(self.device, dtype, memory)
            models.cache = Cache(folder)
            try:
                yield models
            finally:
                models._resident.clear()
                models.memo = type(models.memo)()


def emptied(device: torch.device) -> None:
    """Waits for the device, gives back what nothing holds, and begins a new count of the most memory in use."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux's own count of a process
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> dict[str, float]:
    """The most memory in use since `emptied`, in MB: the allocator's on a GPU, else what was resident."""
    if device.type == "cuda":
        return {"allocated_mb": round(torch.cuda.max_memory_allocated() / 2**20),
                "reserved_mb": round(torch.cuda.max_memory_reserved() / 2**20)}  # fmt: skip
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return {"resident_mb": round(int(next(s for s in lines if s.startswith("VmHWM")).split()[1]) / 1024)}
    except (OSError, StopIteration):
        return {"resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def done(models: Models, asked: Any) -> Done:
    event = None
    for event in run(models, asked):  # noqa: B007, only the last one counts
        pass
    assert isinstance(event, Done)
    return event


def measured(models: Models, asked: Any) -> dict[str, Any]:
    """One run of a request from nothing remembered: seconds, evaluations (network rows), the most memory."""
    models.memo = type(models.memo)()
    models.cache.clear()
    emptied(models.device)
    begun = perf_counter()
    result = done(models, asked)
    took = perf_counter() - begun
    return {"frames": len(result.frames), "seconds": round(took, 3), "evaluations": result.evaluations,
            "evaluations_per_s": round(result.evaluations / took, 2)} | peak(models.device) | said(result)  # fmt: skip


def said(result: Done) -> dict[str, Any]:
    return {"notes": list(result.notes)} if result.notes else {}


@contextmanager
def fits(device: torch.device) -> Iterator[list[float]]:
    """Collects the seconds of every fit of LoRAs inside."""
    spans, own = [], lora.fit

    def timed(*args: Any, **more: Any) -> Any:
        if device.type == "cuda":
            torch.cuda.synchronize()  # what was asked of it before
        begun = perf_counter()
        bank = yield from own(*args, **more)  # it looks at every loss and every factor, so the device has finished
        spans.append(perf_counter() - begun)
        return bank

    lora.fit = timed
    try:
        yield spans
    finally:
        lora.fit = own


def warmed(models: Models, name: str) -> Any:
    """The network, loaded, and warm as the studio makes it."""
    for _ in run(models, LoadRequest(name)):
        pass
    return models.load(name)


# ----------------------------------------------------------------------------------------------------- the figures


def network(b: Bench) -> Iterator[dict[str, Any]]:
    """The draft of *Interpolate* over the bare calls that it makes."""
    for name, model in b.networks.items():
        with b.models() as models:
            r, net = b.draft(name), warmed(models, model)
            with watched(net) as calls:
                job(models, r)
            whole, first, result = job(models, r)
            # Five calls of each shape, or the first one's wait would be the only figure where there is but one call.
            alone = sum(n * bare(net, Counter({call: 5})) / 5 for call, n in calls.items())
            del net  # or it would be there beside the next one
            yield {"network": name, "size": b.side(name), "frames": r.frames, "steps": r.steps,
                   "evaluations": result.evaluations, "whole_s": round(whole, 3), "bare_s": round(alone, 3),
                   "first_frame_s": round(first, 3), "engine_over_network": round(whole / alone, 3)}  # fmt: skip


def morph(b: Bench) -> Iterator[dict[str, Any]]:
    """DiffMorpher's 16 frames in 50 steps, LoRAs fitted in the standard preset's steps and in the paper's."""
    standard, steps = MORPH_PRESETS["standard"], b.steps or 50
    standard = standard | {"steps": steps, "lora_steps": max(1, standard["lora_steps"] * steps // 50)}
    paper = MORPH_PRESETS["paper"]
    paper = paper | {k: b.part(paper[k], least) for k, least in (("steps", 4), ("lora_steps", 1))}
    with b.models() as models, fits(models.device) as spans:
        warmed(models, b.networks["sd"])
        for preset, change, share in (("standard", standard, 1.0), ("paper", paper, b.share)):
            r = b.morph("sd", **change)
            figures = measured(models, r)
            yield {"network": "sd", "preset": preset, "share": share, "size": r.size, "steps": r.steps,
                   "lora_steps": r.lora_steps, "lora_fit_s": round(spans.pop(), 3)} | figures  # fmt: skip


def interpolate(b: Bench) -> Iterator[dict[str, Any]]:
    """*Interpolate*: the draft of 9 frames, and the paper preset's 17 in that share of its steps.

    CLIP, which may be the preset's judge, is no part of the network: the smoothest way is taken.
    """
    paper = PRESETS["paper"]
    part = {"picker": "smoothest", "steps": b.part(paper["steps"], 4), "invert_steps": b.part(paper["invert_steps"])}
    with b.models() as models:
        warmed(models, b.networks["sd"])
        for preset, r, share in (("draft", b.draft("sd"), 1.0),
                                 ("paper", b.draft("sd", frames=17, **paper | part), b.share)):  # fmt: skip
            told = {"network": "sd", "preset": preset, "share": share, "size": r.size, "steps": r.steps,
                    "candidates": r.candidates, "picker": r.picker, "invert_steps": r.invert_steps}  # fmt: skip
            yield told | measured(models, r)


def live(b: Bench) -> Iterator[dict[str, Any]]:
    """Drawing live, the page left out: every update has its strokes moved by a pixel, as a hand would."""
    plain = {f.name: f.default for f in fields(DrawRequest) if f.name not in DrawRequest.LAYERS} | DRAW_PRESETS["live"]
    for name, model in b.networks.items():
        side = b.side(name)
        sketch, strokes = (Image.open(DRAWINGS / f"own-daisy-{n}.png").convert("RGBA").resize((side, side))
                           for n in ("sketch", "strokes"))  # fmt: skip
        with b.models() as models:
            warmed(models, model)
            emptied(models.device)
            took, rows, since = [], 0, 0.0
            while len(took) < WARM + 3 or perf_counter() - since < b.seconds:
                layers = {"sketch": sketch, "strokes": ImageChops.offset(strokes, len(took), 0)}
                begun = perf_counter()
                if len(took) == WARM:
                    since = begun
                rows = done(models, DrawRequest(**plain | layers | {"model": model, "size": side})).evaluations
                took.append(perf_counter() - begun)
            counted = took[WARM:]
            yield {"network": name, "size": side, "updates": len(counted), "evaluations_per_update": rows,
                   "controls": sorted(models.load(model).controls),
                   "updates_per_s": round(len(counted) / sum(counted), 2), "median_s": round(median(counted), 4),
                   "slowest_s": round(max(counted), 4), "first_s": round(took[0], 3)} | peak(models.device)  # fmt: skip


def precision(b: Bench) -> Iterator[dict[str, Any]]:
    """The draft in float32 against half precision: how far the pictures are apart (of 255), and how much faster."""
    half = (torch.bfloat16, torch.float16) if b.cuda else (torch.bfloat16,)  # no CPU is given float16 by the engine
    for name, model in b.networks.items():
        plain, before = None, 0.0
        for dtype in (torch.float32, *half):
            with b.models(dtype) as models:
                warmed(models, model)
                r = b.draft(name)
                job(models, r)
                emptied(models.device)
                whole, _, result = job(models, r)
                line = {"network": name, "dtype": str(dtype).removeprefix("torch."), "size": r.size, "steps": r.steps,
                        "whole_s": round(whole, 3)} | peak(models.device) | said(result)  # fmt: skip
            own = np.stack([np.asarray(p, np.float32) for p in result.frames[1:-1]])
            if plain is None:
                plain, before = own, whole
                line["contrast"] = round(float(own.std()), 2)  # the pictures' own spread, beside which to read the gap
            else:
                gap = np.abs(own - plain)
                line |= {"difference": round(float(gap.mean()), 3), "speedup": round(before / whole, 2),
                         "worst_frame": round(float(gap.mean((1, 2, 3)).max()), 3)}  # fmt: skip
            yield line


def memory(b: Bench) -> Iterator[dict[str, Any]]:
    """A draft and a morph without LoRAs within budgets of memory, the allocator held to them."""
    if not b.cuda:
        yield {"skipped": "budgets are for CUDA: elsewhere nothing holds a process to less than the machine has"}
        return
    # The morph's steps look at both pictures, which is what it keeps most of.
    jobs = {"interpolate": b.draft("sd"), "morph": b.morph("sd", lora="none")}
    total = torch.cuda.get_device_properties(pick_device(b.device)).total_memory
    for gb in BUDGETS:
        for what, r in jobs.items():
            line: dict[str, Any] = {"network": "sd", "budget_gb": gb, "job": what, "size": r.size, "finished": False}
            if gb << 30 > total:
                yield line | {"skipped": "the device has less"}
                continue
            torch.cuda.set_per_process_memory_fraction(1.0)  # the last budget's
            try:
                with b.models(memory=gb) as models:
                    try:
                        line["plan"] = vars(models.load(r.model).plan)
                        line |= measured(models, r) | {"finished": True}
                    except (EngineError, torch.OutOfMemoryError) as e:
                        line |= {"said": str(e)[:300]} | peak(models.device)
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0)
            yield line


FIGURES: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "network": network, "morph": morph, "interpolate": interpolate, "live": live, "precision": precision,
    "memory": memory,
}  # fmt: skip


def machine(device: torch.device) -> dict[str, Any]:
    """What it was measured on."""
    out: dict[str, Any] = {"kind": device.type, "torch": torch.__version__, "python": platform.python_version(),
                           "dtype": str(pick_dtype(device)).removeprefix("torch.")}  # fmt: skip
    if device.type != "cuda":
        named = [s.partition(": ")[2] for s in _text("/proc/cpuinfo").splitlines() if s.startswith("model name")]
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return out | {"device": named[0] if named else platform.processor(), "memory_gb": round(total, 1),
                      "cores": os.cpu_count(), "threads": torch.get_num_threads()}  # fmt: skip
    found, driver = torch.cuda.get_device_properties(device), "unknown"
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout.split()[0]
    return out | {"device": found.name, "memory_gb": round(found.total_memory / 2**30, 1), "driver": driver,
                  "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
                  "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]}  # fmt: skip


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def main(argv: list[str] | None = None) -> int:
    """Measures; 1 if a figure could not be had, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks device", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=512, help="pixels a side; flora is held at 256")
    parser.add_argument("--steps", type=int, default=0, help="of all but the paper presets; 0: 50 (morphs), 24")
    parser.add_argument("--only", default=",".join(FIGURES), help="which figures: " + ", ".join(FIGURES))
    parser.add_argument("--share", type=float, default=1.0, help="of the paper presets' steps; 1 is all of them")
    parser.add_argument("--seconds", type=float, default=5.0, help="of drawing live")
    parser.add_argument("--shape", choices=("sd1", "tiny"), default="sd1")
    parser.add_argument("--folder", type=Path, help="where the random network is made, or lies; default: temporary")
    parser.add_argument("--flora", default="flora", help="flora's folder, or none")
    parser.add_argument("--json", type=Path, help="a file for all lines as one list, written as they come")
    args = parser.parse_args(argv)
    names = args.only.split(",")
    if unknown := [n for n in names if n not in FIGURES]:
        parser.error(f"only must be of {', '.join(FIGURES)}, got {unknown[0]}")
    device, lines, failed = pick_device(args.device), [], False

    def told(figure: str, line: dict[str, Any]) -> None:
        lines.append({"figure": figure} | line)
        print(json.dumps(lines[-1]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(lines, indent=1))

    told("machine", machine(device) | {"shape": args.shape, "runs": 1})
    with tempfile.TemporaryDirectory() as temporary:
        begun = perf_counter()
        folder = random_network(args.folder or Path(temporary) / "sd", args.shape)
        size = sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 2**20
        told("made", {"network": "sd", "seconds": round(perf_counter() - begun, 1), "disk_mb": round(size)})
        place = ASSETS / "flora" if args.flora == "flora" else Path(args.flora)
        here = any(place.glob("unet/*.safetensors"))
        if not here:
            told("flora", {"skipped": f"its weights are not in {place}"})
        known = ({"flora": args.flora} if here else {}) | {"sd": str(folder)}
        b = Bench(args.device, known, args.size, args.steps, args.share, args.seconds)
        for name in names:
            try:
                for line in FIGURES[name](b):
                    told(name, line)
            except Exception as e:  # the others are still worth their time
                failed = True
                traceback.print_exc()
                told(name, {"failed": f"{type(e).__name__}: {e}"[:300]})
    print()
    for line in lines:
        rest = "  ".join(f"{k} {v}" for k, v in line.items() if k not in ("figure", "network"))
        print(f"{line['figure']:12} {line.get('network', ''):6} {rest}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
