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

from engine.checkpoints import kinds, lora_files, predicts
from engine.checkpoints.catalogue import PARTS
from engine.checkpoints.shapes import skeleton
from engine.checkpoints.whole import check_weights, config, weights
from engine.diffusion.memory import short_of_memory
from engine.diffusion.residency import pixels
from engine.requests import EngineError

HALF = 65504  # the largest number of half precision


@dataclass
class Parts:
    """The modules of one network, on the CPU. SDXL's kin have a second text encoder (a CLIPTextModelWithProjection)
    and tokenizer; ``zero_negative``: zeros stand for an empty negative prompt."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    folder: Path  # where what lies beside it would be
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    zero_negative: bool = False


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


def read(path: Path, dtype: torch.dtype, name: str, half: Path | None = None) -> Parts:
    """A network from a folder or a single ``.safetensors`` file. EngineError if it is not whole or of another kind.

    ``half``: where a VAE lies that SDXL's kin can use in half precision, in which their own overflows (without: it
    works in full precision).
    """
    with _told(name):
        parts = _read_folder(path, dtype) if path.is_dir() else _read_file(path, dtype)
        if dtype == torch.float16 and parts.text_encoder_2 is not None and parts.vae.config.get("force_upcast", True):
            parts.vae = _module(half, dtype) if half else _wide(parts.vae)
        for part in kinds.MODULES:
            if (found := getattr(parts, part)) is not None:
                _sound(found, f"model {kinds.short(name)}", part)
        return parts


def _wide(vae: Any) -> Any:
    """A VAE in full precision that takes what is in half."""
    for first in (vae.encoder.conv_in, vae.post_quant_conv or vae.decoder.conv_in):
        first.register_forward_pre_hook(lambda _, args: tuple(a.float() for a in args))
    return vae.float()


def _sound(module: Any, name: str, part: str) -> None:
    """EngineError for weights of which nothing but noise can come, on a device of half precision or on any."""
    for n, p in module.named_parameters():
        most = max(map(abs, torch.stack(torch.aminmax(p.detach())).tolist()), key=lambda x: (x != x, x))
        if not most <= HALF:
            raise EngineError(f"{name} must hold numbers up to {HALF}, got {most:g} in {part}.{n}")


def module(folder: Path, dtype: torch.dtype, cls: str = "", **own: Any) -> Any:
    """The one module in ``folder``, of the class its config names (or ``cls``), with settings of its ``own``.
    EngineError if it is not whole."""
    with _told(folder.name):
        return _module(folder, dtype, cls, **own)


def light(folder: Path, dtype: torch.dtype, vae: Any, name: str) -> Any:
    """The light decoder in ``folder``: an AutoencoderTiny for the latents of ``vae``, in eval mode, frozen.
    EngineError if it is not whole or decodes others."""
    name = f"light decoder of {kinds.short(name)}"
    with _told(name):
        if (kind := config(folder / "config.json").get("_class_name")) != "AutoencoderTiny":
            raise EngineError(f"{name} must be an AutoencoderTiny, got {kind}")
        found, told = _module(folder, dtype, output_loading_info=True)
        if lacking := told["missing_keys"]:
            raise EngineError(f"{name} must have all its weights, got none of {sorted(lacking)[0]}")
        _sound(found, name, "it")
        factor, z = pixels(vae), torch.zeros(1, int(vae.config.latent_channels), 2, 2, dtype=dtype)
        with torch.no_grad():
            shape = tuple(found.decode(z).sample.shape[1:])
        if shape != (3, 2 * factor, 2 * factor):
            raise EngineError(f"{name} must make {factor} × {factor} pixels of a latent, got {shape[1:]} of 2 × 2")
        return found.eval().requires_grad_(False)


def _module(folder: Path, dtype: torch.dtype, name: str = "", **own: Any) -> Any:
    check_weights(folder, folder.parent.name)
    found, said = weights(folder), config(folder / "config.json")
    assert found, "which was looked at"
    if "_class_name" in said:
        cls, kind = getattr(hush(), name or said["_class_name"]), "torch_dtype"
    else:
        import transformers

        second = folder.name == "text_encoder_2"
        cls, kind = transformers.CLIPTextModelWithProjection if second else transformers.CLIPTextModel, "dtype"
    own |= {"variant": found.variant, "use_safetensors": found.safe, kind: dtype}
    return cls.from_pretrained(folder, local_files_only=True, **own)


def _read_folder(folder: Path, dtype: torch.dtype) -> Parts:
    kinds.check(folder, PARTS)
    two = kinds.two_texts(folder)
    own = {part: _module(folder / part, dtype) for part in kinds.MODULES[: 4 if two else 3]}
    own |= {t: _tokenizer(folder / t) for t in ("tokenizer", "tokenizer_2")[: 2 if two else 1]}
    return Parts(**own, scheduler=_scheduler(folder), folder=folder, zero_negative=two and _zero(folder))


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _zero(folder: Path) -> bool:
    """Whether zeros stand for an empty negative prompt: as diffusers has it where nothing is said."""
    return bool(config(folder / "model_index.json").get("force_zeros_for_empty_prompt", True))


def _scheduler(folder: Path) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(DDIMScheduler.load_config(folder, subfolder="scheduler", local_files_only=True))


def _read_file(path: Path, dtype: torch.dtype) -> Parts:
    """A checkpoint in one file, as A1111 and ComfyUI have them.

    Its shape is Stable Diffusion 1's, 2's or XL's, by the width of its words; a diffusers folder of the same name
    beside the file (configs and tokenizers, no weights) says otherwise.
    """
    beside = path.with_suffix("")
    with tempfile.TemporaryDirectory() as temporary:
        said = kinds.check(path, PARTS)
        known = (beside / "unet" / "config.json").is_file()
        shape = beside if known else skeleton(Path(temporary), *predicts.kind(path, said))
        xl, diffusers = kinds.two_texts(shape), hush()
        more = {part: _module(beside / part, dtype) for part in kinds.lacking(said)}
        if not xl:
            more |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
        pipe = pipeline.from_single_file(str(path), config=str(shape), local_files_only=True, torch_dtype=dtype, **more)
        names = ("unet", "vae", "text_encoder", "tokenizer", *(kinds.MORE if xl else ()))
        own = {n: getattr(pipe, n) for n in names}
        # The file's own schedule is guessed from its metadata; the configs say it.
        return Parts(**own, scheduler=_scheduler(shape), folder=beside, zero_negative=xl and _zero(shape))


def merge(parts: Parts, path: Path, strength: float, name: str) -> None:
    """Adds a LoRA (`lora_files`) to the weights of UNet and text encoders, ``strength`` times; EngineError if it does
    not fit."""
    file = lora_files.parse(path, f"LoRA {path.name}", lora_files.base(parts.unet, name))
    lora_files.suits(parts.unet, file, f"LoRA {path.name}", name)
    texts = (parts.text_encoder, file.text), (parts.text_encoder_2, file.text_2)
    for module, part in ((parts.unet, file.unet), *(t for t in texts if t[1])):
        for key, weight in _add(module, part, path, strength, name).items():
            module.get_parameter(key).data = weight


def tensors(net: Any, path: Path) -> dict[str, torch.Tensor]:
    """The UNet's parameters that a few-step LoRA file changes, changed, by name (``net`` has a unet and a name)."""
    file = lora_files.parse(path, f"LoRA {path.name}", lora_files.base(net.unet, net.name))
    return _add(net.unet, file.unet, path, 1.0, net.name)


def _add(module: Any, layers: Any, path: Path, strength: float, name: str) -> dict[str, torch.Tensor]:
    out = {}
    for layer, (a, b) in lora_files.fit(module, layers, f"LoRA {path.name}", name).items():
        weight = module.get_submodule(layer).weight.data
        delta = (b @ a).view(weight.shape).to(weight.device)
        out[f"{layer}.weight"] = (weight.float() + strength * delta).to(weight.dtype)
    return out
