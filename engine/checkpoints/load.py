"""Checkpoints into modules: folders in the diffusers format, single files, LoRAs, ControlNets, adapters.

Nothing is fetched here, and of a file only its tensors are read.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.checkpoints import kinds, lora_files
from engine.checkpoints.catalogue import PARTS
from engine.checkpoints.shapes import FAMILY_OF, WORDS, skeleton
from engine.checkpoints.whole import check_weights, config, weights
from engine.diffusion.memory import short_of_memory
from engine.requests import EngineError

HALF = 65504  # the largest number of half precision


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


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Inside, whatever is raised for what is broken, of many kinds and with advice for programmers, is a sentence."""
    try:
        yield
    except Exception as e:
        if isinstance(e, EngineError) or short_of_memory(e):
            raise
        logging.getLogger(__name__).info("loading %s", name, exc_info=e)
        got = f"parts that cannot be read or do not belong together ({type(e).__name__})"
        raise EngineError(f"model {kinds.short(name)} must be whole, got {got}") from e


def read(path: Path, dtype: torch.dtype, name: str) -> Parts:
    """A network from a folder or a single ``.safetensors`` file. EngineError if it is not whole or of another kind."""
    with _told(name):
        parts = _read_folder(path, dtype) if path.is_dir() else _read_file(path, dtype)
        for part in PARTS[:3]:
            _sound(getattr(parts, part), f"model {kinds.short(name)}", part)
        return parts


def _sound(module: Any, name: str, part: str) -> None:
    """EngineError for weights of which nothing but noise can come, on a device of half precision or on any."""
    for n, p in module.named_parameters():
        most = max(map(abs, torch.stack(torch.aminmax(p.detach())).tolist()), key=lambda x: (x != x, x))
        if not most <= HALF:
            raise EngineError(f"{name} must hold numbers up to {HALF}, got {most:g} in {part}.{n}")


def module(folder: Path, dtype: torch.dtype) -> Any:
    """The one module in ``folder``, of the class its config names. EngineError if it is not whole."""
    with _told(folder.name):
        return _module(folder, dtype)


def _module(folder: Path, dtype: torch.dtype) -> Any:
    check_weights(folder, folder.parent.name)
    found, said = weights(folder), config(folder / "config.json")
    assert found, "which was looked at"
    if "_class_name" in said:
        cls, kind = getattr(hush(), said["_class_name"]), "torch_dtype"
    else:
        from transformers import CLIPTextModel as cls

        kind = "dtype"
    own = {"variant": found.variant, "use_safetensors": found.safe, kind: dtype}
    return cls.from_pretrained(folder, local_files_only=True, **own)


def _read_folder(folder: Path, dtype: torch.dtype) -> Parts:
    from transformers import CLIPTokenizer

    kinds.check(folder, PARTS)
    unet, vae, text = (_module(folder / part, dtype) for part in PARTS[:3])
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
        said = kinds.check(path, PARTS)
        known = (beside / "unet" / "config.json").is_file()
        shape = beside if known else skeleton(Path(temporary), *_kind(path, said))
        more = {part: _module(beside / part, dtype) for part in kinds.lacking(said)}
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = hush().StableDiffusionPipeline.from_single_file(
            str(path), config=str(shape), local_files_only=True, torch_dtype=dtype, **none, **more
        )
        # The file's own schedule is guessed from its metadata; the configs say it.
        return Parts(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, _scheduler(shape), beside)


def _kind(path: Path, said: dict[str, Any]) -> tuple[str, str, bool]:
    """(family, prediction type, zero terminal SNR) of a single file, from its header."""
    about, width = said.get("__metadata__") or {}, said[WORDS]["shape"][-1]
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
    """What a YAML file in any of its styles and encodings says of it, with tabs or without; "" if nothing."""

    def find(value: Any) -> str:
        if isinstance(value, dict) and "parameterization" in value:
            return str(value["parameterization"]).lower()
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return next(filter(None, map(find, inside)), "")

    block = file.read_bytes()
    wide = "utf-16-be" if block.startswith((b"\xfe\xff", b"\0")) else "utf-16-le"
    text = block.decode(wide if b"\0" in block[:4] else "utf8", errors="replace").removeprefix("\ufeff")
    try:
        return find(yaml.safe_load(text.expandtabs(2)))
    except (yaml.YAMLError, RecursionError):
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
