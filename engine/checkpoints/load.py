"""Checkpoints into modules: folders in the diffusers format, single files, LoRAs, ControlNets, adapters.

Nothing is fetched here, and of a file only its tensors are read.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from engine.checkpoints import lora_files
from engine.checkpoints.resolve import PARTS
from engine.checkpoints.shapes import FAMILY_OF, WORDS, skeleton
from engine.diffusion.memory import short_of_memory
from engine.requests import EngineError

FIRST = "model.diffusion_model.input_blocks.0.0.weight"  # of the UNet in single files


@dataclass
class Parts:
    """The modules of one network, on the CPU."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    folder: Path  # where what lies beside it would be


def hush() -> Any:
    """diffusers without bars of progress of its own."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    return diffusers


def read(path: Path, dtype: torch.dtype, name: str) -> Parts:
    """A network from a folder or a single ``.safetensors`` file. EngineError if it is not whole or of another kind."""
    try:
        return _read_file(path, dtype) if path.suffix.lower() == ".safetensors" else _read_folder(path, dtype, name)
    except Exception as e:  # safetensors, diffusers and transformers raise many kinds for what is broken
        if isinstance(e, EngineError) or short_of_memory(e):
            raise
        said = " ".join(str(e).split())[:300]
        raise EngineError(f"model {name} must be whole in {path}, got {type(e).__name__}: {said}") from e


def module(folder: Path, dtype: torch.dtype, cls: Any = None) -> Any:
    """The one module in ``folder``, of the class its config names; half-precision files serve where no others are."""
    cls = cls or getattr(hush(), json.loads((folder / "config.json").read_text(encoding="utf8"))["_class_name"])
    plain = any(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin") and ".fp16." not in f.name)
    variant = None if plain or not any(folder.glob("*.fp16.*")) else "fp16"
    kind = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
    return cls.from_pretrained(folder, local_files_only=True, variant=variant, **{kind: dtype})


def _read_folder(folder: Path, dtype: torch.dtype, name: str) -> Parts:
    from transformers import CLIPTextModel, CLIPTokenizer

    if missing := [p for p in PARTS if not (folder / p).is_dir()]:
        raise EngineError(f"model {name} must have the folders {', '.join(PARTS)}, got none of {', '.join(missing)}")
    unet, vae = module(folder / "unet", dtype), module(folder / "vae", dtype)
    text = module(folder / "text_encoder", dtype, CLIPTextModel)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return Parts(unet, vae, text, tokenizer, _scheduler(folder), folder)


def _scheduler(folder: Path) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(DDIMScheduler.load_config(folder, subfolder="scheduler", local_files_only=True))


def _read_file(path: Path, dtype: torch.dtype) -> Parts:
    """A checkpoint in one file, as A1111 and ComfyUI have them.

    Its shape is Stable Diffusion 1's or 2's, by the width of its words; a diffusers folder of the same name beside
    the file (configs and tokenizer, no weights) says otherwise.
    """
    beside = path.with_suffix("")
    with tempfile.TemporaryDirectory() as temporary:
        known = (beside / "unet" / "config.json").is_file()
        config = beside if known else skeleton(Path(temporary), *_kind(path))
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = hush().StableDiffusionPipeline.from_single_file(
            str(path), config=str(config), local_files_only=True, torch_dtype=dtype, **none
        )
        # The file's own schedule is guessed from its metadata; the configs say it.
        return Parts(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, _scheduler(config), beside)


def _kind(path: Path) -> tuple[str, str, bool]:
    """(family, prediction type, zero terminal SNR) of a single file, from its tensors. EngineError for other kinds."""
    with safe_open(path, "pt") as f:
        names, about = set(f.keys()), f.metadata() or {}
        first, width = ((f.get_slice(n).get_shape() if n in names else [0, 0])[1] for n in (FIRST, WORDS))
    expected = f"model must be a whole Stable Diffusion 1 or 2 checkpoint, got {path.name}, which"
    if any("lora" in n for n in names):
        raise EngineError(f"{expected} is a LoRA: name it after a network, as in 'sd15 + {path}:0.8'")
    if any(n.startswith("conditioner.") for n in names):
        raise EngineError(f"{expected} is of the SDXL kind with its two text encoders")
    if not first or not width:
        raise EngineError(f"{expected} has no UNet of that kind")
    if first != 4:
        raise EngineError(f"{expected} is for inpainting")
    if width not in FAMILY_OF:
        raise EngineError(f"{expected} takes words {width} wide; put its configs into {path.with_suffix('')}")
    # ComfyUI's marks are empty tensors; kohya's stand in the metadata.
    zero = "ztsnr" in names or about.get("ss_zero_terminal_snr") == "True"
    own = "v_prediction" if "v_pred" in names else _prediction(path, FAMILY_OF[width], about)
    return FAMILY_OF[width], own, zero


def _prediction(path: Path, family: str, about: dict[str, str]) -> str:
    """What the UNet says where no tensor tells: the file's metadata, or the YAML beside it (A1111's custom), or the
    usual: SD 2 checkpoints of 768 px predict v, all others the noise."""
    said = (about.get("modelspec.prediction_type") or about.get("modelspec.predict_key") or "").lower()
    yaml, name = path.with_suffix(".yaml"), path.stem.lower()
    if not said and yaml.is_file():
        found = re.search(
            r"""^\s*["']?parameterization["']?:\s*["']?(\w+)""", yaml.read_text(encoding="utf8"), re.MULTILINE
        )
        said = found[1] if found else "eps"
    if not said and family == "sd2" and not any(mark in name for mark in ("turbo", "base", "512")):
        said = "v"
    return "v_prediction" if said in ("v", "v_prediction") else "epsilon"


def merge(parts: Parts, path: Path, strength: float, name: str) -> None:
    """Adds a LoRA (`lora_files`) to the weights of UNet and text encoder, ``strength`` times; EngineError if it does
    not fit."""
    file = lora_files.parse(path, f"LoRA {path.name}")
    lora_files.suits(parts.unet, file, f"LoRA {path.name}", name)
    if not file.unet and not file.text:
        raise EngineError(f"LoRA {path.name} must change some layer of {name}, got none")
    for module, part in ((parts.unet, file.unet), (parts.text_encoder, file.text)):
        for key, weight in _add(module, part, path, strength, name).items():
            module.get_parameter(key).data = weight


def tensors(net: Any, path: Path) -> dict[str, torch.Tensor]:
    """The UNet's parameters that a few-step LoRA file changes, changed, by name (``net`` has a unet and a name)."""
    return _add(net.unet, lora_files.parse(path, f"LoRA {path.name}").unet, path, 1.0, net.name)


def _add(module: Any, layers: Any, path: Path, strength: float, name: str) -> dict[str, torch.Tensor]:
    out = {}
    for layer, (a, b) in lora_files.fit(module, layers, f"LoRA {path.name}", name).items():
        weight = module.get_submodule(layer).weight.data
        delta = (b @ a).view(weight.shape).to(weight.device)
        out[f"{layer}.weight"] = (weight.float() + strength * delta).to(weight.dtype)
    return out
