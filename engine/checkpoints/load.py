"""Checkpoints into modules: folders in the diffusers format, single files, LoRAs, ControlNets, adapters.

Nothing is fetched here, and of a file only its tensors are read.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.checkpoints import kinds, lora_files
from engine.checkpoints.resolve import PARTS
from engine.checkpoints.shapes import FAMILY_OF, WORDS, skeleton
from engine.diffusion.memory import short_of_memory
from engine.requests import EngineError


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
    """diffusers, which says nothing on the terminal: what is wrong is said by sentences of ours."""
    import diffusers
    import transformers

    for logs in (diffusers.utils.logging, transformers.utils.logging):
        logs.disable_progress_bar()
        logs.set_verbosity_error()
    return diffusers


def read(path: Path, dtype: torch.dtype, name: str) -> Parts:
    """A network from a folder or a single ``.safetensors`` file. EngineError if it is not whole or of another kind."""
    try:
        return _read_folder(path, dtype) if path.is_dir() else _read_file(path, dtype)
    except Exception as e:  # safetensors, diffusers and transformers raise many kinds for what is broken
        if isinstance(e, EngineError) or short_of_memory(e):
            raise
        # What they advise is for programmers.
        logging.getLogger(__name__).info("loading %s", path, exc_info=e)
        got = f"parts that cannot be read or do not belong together ({type(e).__name__})"
        raise EngineError(f"model {kinds.short(name)} must be whole, got {got}") from e


def module(folder: Path, dtype: torch.dtype, cls: Any = None) -> Any:
    """The one module in ``folder``, of the class its config names; half-precision files serve where no others are."""
    cls = cls or getattr(hush(), json.loads((folder / "config.json").read_text(encoding="utf8"))["_class_name"])
    plain = any(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin") and ".fp16." not in f.name)
    variant = None if plain or not any(folder.glob("*.fp16.*")) else "fp16"
    kind = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
    return cls.from_pretrained(folder, local_files_only=True, variant=variant, **{kind: dtype})


def _read_folder(folder: Path, dtype: torch.dtype) -> Parts:
    from transformers import CLIPTextModel, CLIPTokenizer

    kinds.check_folder(folder, folder.name, PARTS)
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
        if known:
            kinds.refuse(kinds.of_folder(beside), path.name)
            kinds.check_file(path, beside)
        config = beside if known else skeleton(Path(temporary), *_kind(path))
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = hush().StableDiffusionPipeline.from_single_file(
            str(path), config=str(config), local_files_only=True, torch_dtype=dtype, **none
        )
        # The file's own schedule is guessed from its metadata; the configs say it.
        return Parts(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, _scheduler(config), beside)


def _kind(path: Path) -> tuple[str, str, bool]:
    """(family, prediction type, zero terminal SNR) of a single file, from its header. EngineError for other kinds."""
    said = kinds.check_file(path, path.with_suffix(""))
    about, width = said.get("__metadata__") or {}, said.get(WORDS, {"shape": [0]})["shape"][-1]
    if width not in FAMILY_OF:
        raise EngineError(
            f"model {path.name} must be of Stable Diffusion 1 or 2, got words {width} wide; put its configs into "
            f"{path.with_suffix('')}"
        )
    # ComfyUI's marks are empty tensors; kohya's stand in the metadata.
    zero = "ztsnr" in said or _true(about.get("ss_zero_terminal_snr"))
    own = "v_prediction" if "v_pred" in said else _prediction(path, FAMILY_OF[width], about)
    return FAMILY_OF[width], own, zero


def _true(said: Any) -> bool:
    return str(said).lower() in ("true", "1")


def _prediction(path: Path, family: str, about: dict[str, str]) -> str:
    """What the UNet says where no tensor tells: the file's metadata, or the YAML beside it (A1111's custom), or the
    usual: SD 2 checkpoints of 768 px predict v, all others the noise."""
    said = (about.get("modelspec.prediction_type") or about.get("modelspec.predict_key") or "").lower()
    if not said and "ss_v_parameterization" in about:
        said = "v" if _true(about["ss_v_parameterization"]) else "eps"
    beside = [f for end in (".yaml", ".yml") if (f := path.with_suffix(end)).is_file()]
    if not said and beside:
        said = _parameterization(beside[0]) or "eps"
    if not said and family == "sd2" and not any(mark in path.stem.lower() for mark in ("turbo", "base", "512")):
        said = "v"
    return "v_prediction" if said.startswith("v") else "epsilon"


def _parameterization(file: Path) -> str:
    """What a YAML file in any of its styles and encodings says of it; "" if nothing."""

    def find(value: Any) -> str:
        if isinstance(value, dict) and "parameterization" in value:
            return str(value["parameterization"]).lower()
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return next(filter(None, map(find, inside)), "")

    block = file.read_bytes()
    if block[:1] and b"\0" in block[:2]:  # UTF-16 without its mark, which YAML wants
        block = block.decode("utf-16-be" if block[0] == 0 else "utf-16-le").encode()
    try:
        return find(yaml.safe_load(block))
    except yaml.YAMLError:
        raise EngineError(f"{file.name} beside the model must be YAML, got something else") from None


def merge(parts: Parts, path: Path, strength: float, name: str) -> None:
    """Adds a LoRA (`lora_files`) to the weights of UNet and text encoder, ``strength`` times; EngineError if it does
    not fit."""
    file = lora_files.parse(path, f"LoRA {path.name}")
    lora_files.suits(parts.unet, file, f"LoRA {path.name}", name)
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
