"""LoRAs as files: diffusers and peft load ours, and theirs and kohya's are read.

A file is safetensors with the names ``unet.<layer>.lora_A.weight`` and ``lora_B``, as diffusers' `load_lora_weights`
and `load_lora_adapter` want them (peft's `set_peft_model_state_dict`: without ``unet.``), and the LoraConfig in its
header. peft's own files say ``base_model.model.`` in front and keep α elsewhere, so it is taken for the rank; kohya's
say ``lora_unet_<layer>.lora_down.weight``, ``lora_up`` and ``alpha``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from engine.diffusion.lora import LoraStack as Bank
Network = Any
from engine.requests import EngineError

ENDS = {".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_down.weight": "a", ".lora_up.weight": "b",
        ".lora.down.weight": "a", ".lora.up.weight": "b", "_lora.down.weight": "a", "_lora.up.weight": "b",
        ".alpha": "alpha"}  # fmt: skip
HEADS = ("base_model.model.", "unet.", "lora_unet_")
LEFT_OUT = ("text_encoder", "lora_te")


def to_bytes(bank: Bank, about: dict[str, Any]) -> bytes:
    """One LoRA (`Bank` of one) as a safetensors file; ``about`` goes into its header."""
    tensors = {}
    for name, (a, b) in bank.factors.items():
        tensors[f"unet.{name}.lora_A.weight"] = a[0].detach().cpu().contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = b[0].detach().cpu().contiguous()
    config = {"unet.r": bank.rank, "unet.lora_alpha": bank.rank, "unet.target_modules": sorted(bank.factors)}
    note = {"lora_adapter_metadata": json.dumps(config), "chrysalis": json.dumps(about)}
    return save(tensors, note)


def from_bytes(net: Network, block: bytes, name: str = "LoRA") -> tuple[Bank, str]:
    """A file's LoRA for this network, and a note on what was left out. EngineError if it does not fit, saying why."""
    try:
        tensors, note = load(block), _header(block)
    except SafetensorError as e:
        raise EngineError(f"{name} must be a safetensors file, got {len(block)} bytes that are none ({e})") from None
    layers = {n: m for n, m in net.unet.named_modules() if n}
    flat = {n.replace(".", "_"): n for n in layers}
    found: dict[str, dict[str, Tensor]] = {}
    text = 0
    for key, value in tensors.items():
        if key.startswith(LEFT_OUT):
            text += 1
            continue
        end = next((e for e in ENDS if key.endswith(e)), None)
        if end is None:
            raise EngineError(f"{name} must hold lora_A and lora_B weights, got {key}")
        layer = _layer(key.removesuffix(end), flat)
        found.setdefault(layer, {})[ENDS[end]] = value.float()
    if not found:
        raise EngineError(f"{name} must hold weights for a UNet, got {'a text encoder only' if text else 'none'}")
    factors = {}
    for layer, parts in found.items():
        a, b = _fitting(net, name, layer, layers.get(layer), parts)
        scale = float(parts["alpha"]) / a.shape[1] if "alpha" in parts else _scale(note, layer, a.shape[1])
        factors[layer] = a, b * scale
    ranks = {a.shape[1] for a, _ in factors.values()}
    rank = max(ranks)
    pad: Callable[..., Tensor] = nn.functional.pad
    factors = {n: (pad(a, (0, 0, 0, rank - a.shape[1])).to(net.device), pad(b, (0, rank - b.shape[2])).to(net.device))
               for n, (a, b) in factors.items()}  # fmt: skip
    return Bank(factors), f"the text encoder's part of {name} is left out" if text else ""


def _layer(key: str, flat: dict[str, str]) -> str:
    for head in HEADS:
        key = key.removeprefix(head)
    key = key.replace(".processor", "")  # of the first diffusers LoRAs, which DiffMorpher wrote
    plain = key.replace(".", "_")
    if plain.endswith("to_out"):
        plain += "_0"
    return flat.get(plain, key)


def _fitting(net: Network, name: str, layer: str, module: nn.Module | None, parts: dict[str, Tensor]):
    """(1, r, in) and (1, out, r), if they are for this layer."""
    if module is None:
        raise EngineError(f"{name} must fit {net.name}, got one for the layer {layer}, which {net.name} does not have")
    if "a" not in parts or "b" not in parts:
        raise EngineError(f"{name} must hold both factors of every layer, got one of {layer}")
    a, b = parts["a"], parts["b"]
    if a.ndim == 4 and a.shape[2:] == (1, 1):
        a, b = a.flatten(1), b.flatten(1)
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        wanted = module.in_channels, module.out_channels
    elif isinstance(module, nn.Linear):
        wanted = module.in_features, module.out_features
    else:
        wanted = None
    if wanted is None or a.ndim != 2 or b.ndim != 2:
        raise EngineError(f"{name} must be for linear layers, got one for the {type(module).__name__} {layer}")
    got = a.shape[1], b.shape[0]
    if wanted != got or a.shape[0] != b.shape[1]:
        raise EngineError(
            f"{name} must fit {net.name}, whose layer {layer} has {wanted[0]} inputs and {wanted[1]} outputs, "
            f"got {got[0]} and {got[1]}, ranks {a.shape[0]} and {b.shape[1]}"
        )
    return a[None], b[None]


def _header(block: bytes) -> dict[str, Any]:
    """What diffusers writes beside the weights: the LoraConfig, where α stands."""
    size = int.from_bytes(block[:8], "little")
    note = json.loads(block[8 : 8 + size]).get("__metadata__") or {}
    try:
        found = json.loads(note.get("lora_adapter_metadata", "{}"))
        return {k.removeprefix("unet."): v for k, v in found.items()}
    except (ValueError, AttributeError):
        return {}


def _scale(note: dict[str, Any], layer: str, rank: int) -> float:
    """α/r, or α/√r for rank-stabilised LoRAs; 1 where nothing is said."""
    alpha = note.get("lora_alpha", rank)
    for pattern, own in (note.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", layer):
            alpha = own
    return float(alpha) / (rank**0.5 if note.get("use_rslora") else rank)


def read(unet, block, name, network):
    from types import SimpleNamespace
    bank, note = from_bytes(SimpleNamespace(unet=unet, name=network, device="cpu"), block, name)
    return bank.factors, note


def write(factors, about):
    return to_bytes(Bank(factors), about)
