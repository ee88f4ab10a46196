"""LoRA files, read and written: diffusers and peft load ours, and theirs and kohya's are read.

A file is safetensors with the names ``unet.<layer>.lora_A.weight`` and ``lora_B``, as diffusers' `load_lora_weights`
and `load_lora_adapter` want them (peft's `set_peft_model_state_dict`: without ``unet.``), and the LoraConfig in its
header. peft's own files say ``base_model.model.`` in front and keep α elsewhere, so it is taken for the rank; kohya's
say ``lora_unet_<layer>.lora_down.weight``, ``lora_up`` and ``alpha``; the first of diffusers (0.17, which DiffMorpher
used) ``<attention>.processor.to_q_lora.down.weight``. Ours also say which network they were fitted to (`fingerprint`).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import pad

from engine.checkpoints.shapes import FAMILY_OF
from engine.requests import EngineError
from engine.requests.files import named

KEY = re.compile(
    r"(?:base_model\.model\.)?(?:unet\.|lora_unet_|(text_encoder\.|lora_te1?_))?(.+?)"
    r"(?:\.alpha|[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default)?\.weight)"
)
SIDES = {"A": "a", "down": "a", "B": "b", "up": "b", None: "alpha"}
Factors = dict[str, tuple[Tensor, Tensor]]
Layers = dict[str, dict[str, Any]]
FIRST_FLORA = "6c4407b4674511ac"  # its fingerprint: what files that name flora and no base were fitted to


class File(NamedTuple):
    """What a file holds for the UNet and for the text encoder: a layer as it calls it → its "a", "b", "alpha", "note"
    (the LoraConfig). ``about``: what `write` was told, {} in others' files."""

    unet: Layers
    text: Layers
    about: dict[str, Any]


def read(unet: nn.Module, source: bytes | Path, name: str, network: str) -> tuple[Factors, str]:
    """A file's LoRA for this UNet, and a note on what was left out; ``name`` and ``network`` are for the sentences.

    A layer's name → A (1, r, in) and B (1, out, r), float32 on the CPU, all of one rank r. EngineError if it does not
    fit, saying why.
    """
    file = parse(source, name)
    other = suits(unet, file, name, network)
    if not file.unet:
        raise EngineError(f"{name} must hold weights for a UNet, got {'a text encoder only' if file.text else 'none'}")
    found = fit(unet, file.unet, name, network)
    for layer in found:
        if getattr(module := unet.get_submodule(layer), "kernel_size", (1, 1)) != (1, 1):
            raise EngineError(f"{name} must be for linear layers, got one for the {type(module).__name__} {layer}")
    rank = max(len(a) for a, _ in found.values())
    missing = {n: rank - len(a) for n, (a, _) in found.items()}
    factors = {n: (pad(a, (0, 0, 0, missing[n]))[None], pad(b, (0, missing[n]))[None]) for n, (a, b) in found.items()}
    return factors, "; ".join(filter(None, (f"the text encoder's part of {name} is left out" * bool(file.text), other)))


def write(factors: Factors, unet: nn.Module, network: str, **about: str) -> bytes:
    """One LoRA (see `read`) as a safetensors file; its header says to what ``unet`` it was fitted, of what name, and
    what else is told ``about`` it."""
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"unet.{name}.lora_A.weight"] = a[0].detach().cpu().contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = b[0].detach().cpu().contiguous()
    rank = next(iter(factors.values()))[0].shape[1]
    config = {"unet.r": rank, "unet.lora_alpha": rank, "unet.target_modules": sorted(factors)}
    about |= {"model": named(network), "base": fingerprint(unet)}
    return save(tensors, {"lora_adapter_metadata": json.dumps(config), "chrysalis": json.dumps(about)})


def fingerprint(unet: nn.Module) -> str:
    """What tells a network from another of the same shapes, the same on every device: a hash of the signs of its biases
    and norms. No precision changes a sign, so the half and the full files of a network have one; and no LoRA touches
    them, so a network with LoRAs has its base's."""
    signs = torch.cat([p.data.signbit() for p in unet.parameters() if p.ndim == 1])
    return hashlib.blake2b(signs.cpu().numpy().tobytes(), digest_size=8).hexdigest()


def suits(unet: nn.Module, file: File, name: str, network: str) -> str:
    """A note if a file of ours was fitted to another network, "" if to this or if it does not say; EngineError where
    it would fit silently and do harm."""
    model = str(file.about.get("model", ""))[:60]
    base = file.about.get("base", FIRST_FLORA if model.split(" ")[0] == "flora" else None)
    if base is None or base == fingerprint(unet):
        return ""
    # All networks of Stable Diffusion's shapes descend from it, and artists use a LoRA of one on the others. Those of
    # other shapes, as the two floras, were each trained from nothing.
    if getattr(unet, "config", {}).get("cross_attention_dim") in FAMILY_OF:
        return f"{name} was fitted to another network than {network} ({model}) and may change pictures otherwise"
    other = "the first flora" if base == FIRST_FLORA else f"{model} of other weights ({base})"
    here = network.partition(" + ")[0]  # without the LoRAs on it, of which this may be one
    raise EngineError(f"{name} must be fitted to {here} as it is here, got one fitted to {other}; fit it again")


def parse(source: bytes | Path, name: str) -> File:
    """The layers of a file, whatever it is for. EngineError if it is none or of another kind."""
    try:
        block = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as e:
        raise EngineError(f"{name} must be a file that can be read, got {e.strerror}") from None
    try:
        tensors, note = load(block), _said(block, "lora_adapter_metadata")
    except SafetensorError as e:
        raise EngineError(f"{name} must be a safetensors file, got {len(block)} bytes that are none ({e})") from None
    unet, text = Layers(), Layers()
    for key, value in tensors.items():
        found = KEY.fullmatch(key)
        if found is None:
            raise EngineError(f"{name} must hold lora_A and lora_B weights, got {key}")
        head = "text_encoder." if found[1] else "unet."
        config = {k.removeprefix(head): v for k, v in note.items()}
        (text if found[1] else unet).setdefault(found[2], {"note": config})[SIDES[found[3]]] = value.float()
    return File(unet, text, _said(block, "chrysalis"))


def fit(module: nn.Module, layers: Layers, name: str, network: str) -> Factors:
    """What `parse` gave, for this module: a layer's own name → (r, in · kernel) and (out, r), α within. EngineError if
    it does not fit."""
    modules = dict(module.named_modules())
    plain = {n.replace(".", "_").removeprefix("text_model_"): n for n in modules}
    out = Factors()
    for said, parts in layers.items():
        layer = _name(said, plain)
        own = modules.get(layer)
        if own is None:
            raise EngineError(f"{name} must fit {network}, got one for the layer {layer}, which it does not have")
        if "a" not in parts or "b" not in parts:
            raise EngineError(f"{name} must hold both factors of every layer, got one of {layer}")
        if "alpha" in parts and parts["alpha"].numel() != 1:
            raise EngineError(f"{name} must have one alpha a layer, got {parts['alpha'].numel()} for {layer}")
        a, b = parts["a"], parts["b"]
        if not isinstance(own, nn.Linear | nn.Conv2d) or min(a.ndim, b.ndim) < 2:
            raise EngineError(f"{name} must be for linear layers, got one for the {type(own).__name__} {layer}")
        a, b, wanted = a.flatten(1), b.flatten(1), (own.weight[0].numel(), len(own.weight))
        if wanted != (a.shape[1], len(b)) or len(a) != b.shape[1]:
            raise EngineError(
                f"{name} must fit {network}, whose layer {layer} has {wanted[0]} inputs and {wanted[1]} outputs, "
                f"got {a.shape[1]} and {len(b)}, ranks {len(a)} and {b.shape[1]}"
            )
        scale = float(parts["alpha"]) / len(a) if "alpha" in parts else _scale(parts["note"], layer, len(a))
        out[layer] = a, b * scale
    return out


def _name(said: str, plain: dict[str, str]) -> str:
    """A module's own name of a layer, or, where it has none, the file's."""
    said = said.replace(".processor", "")
    key = re.sub("to_out$", "to_out_0", said.replace(".", "_").removeprefix("text_model_"))
    return plain.get(key) or plain.get(re.sub(r"to_(q|k|v|out)(_0)?$", r"\1_proj", key), said)  # the latter: old CLIPs


def _said(block: bytes, key: str) -> dict[str, Any]:
    """What stands beside the weights: diffusers' LoraConfig, where α is, or what `write` was told."""
    size = int.from_bytes(block[:8], "little")
    try:
        return dict(json.loads(json.loads(block[8 : 8 + size])["__metadata__"][key]))
    except (ValueError, KeyError, TypeError):
        return {}


def _scale(note: dict[str, Any], layer: str, rank: int) -> float:
    """α/r, or α/√r for rank-stabilised LoRAs; 1 where nothing is said."""
    alpha = note.get("lora_alpha", rank)
    for pattern, own in (note.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", layer):
            alpha = own
    return float(alpha) / (rank**0.5 if note.get("use_rslora") else rank)
