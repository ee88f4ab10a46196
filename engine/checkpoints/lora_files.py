"""LoRA files, read and written: diffusers and peft load ours, and theirs and kohya's are read.

A file is safetensors with the names ``unet.<layer>.lora_A.weight`` and ``lora_B``, as diffusers' `load_lora_weights`
and `load_lora_adapter` want them (peft's `set_peft_model_state_dict`: without ``unet.``), and the LoraConfig in its
header. peft's own files say ``base_model.model.`` in front and keep α in adapter_config.json beside them; kohya's
say ``lora_unet_<layer>.lora_down.weight``, ``lora_up`` and ``alpha`` (and ``lora_mid`` between the two of a
convolution), for SDXL often by the layers' original names (`originals`); the first of diffusers (0.17, which
DiffMorpher used) ``<attention>.processor.to_q_lora.down.weight``. DoRA's magnitudes are peft's
``lora_magnitude_vector`` or kohya's ``dora_scale``. Ours also say which network they were fitted to (`fingerprint`).
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

from engine.checkpoints import kinds
from engine.checkpoints.kinds import ANY, Base, short
from engine.checkpoints.originals import originals
from engine.checkpoints.shapes import FAMILY_OF
from engine.checkpoints.signs import INWARD, KEY, SECOND
from engine.requests import EngineError
from engine.requests.files import named

SIDES = {"A": "a", "down": "a", "B": "b", "up": "b"}
Factors = dict[str, tuple[Tensor, Tensor]]
Layers = dict[str, dict[str, Any]]
WILD = 1000.0  # times a layer's own size: a LoRA that changes more leaves nothing of a network
FIRST_FLORA = "6c4407b4674511ac"  # its fingerprint: what files that name flora and no base were fitted to


class File(NamedTuple):
    """What a file holds for the UNet and for the text encoders: a layer as it calls it → its "a", "b", "note" (the
    LoraConfig) and, where they are there, "alpha", "mid", "dora_scale", "magnitude_vector". ``about``: what `write` was
    told, {} in others' files; ``unsaid``: peft's α is kept elsewhere."""

    unet: Layers
    text: Layers
    text_2: Layers
    about: dict[str, Any]
    unsaid: bool = False


def read(unet: nn.Module, source: bytes | Path, name: str, network: str) -> tuple[Factors, str]:
    """A file's LoRA for this UNet, and a note on what was left out; ``name`` and ``network`` are for the sentences.

    A layer's name → A (1, r, in · kernel) and B (1, out, r), float32 on the CPU, each layer of a rank r of its own.
    EngineError if it does not fit, saying why.
    """
    file = parse(source, name, base(unet, network))
    other = suits(unet, file, name, network)
    factors = {n: (a[None], b[None]) for n, (a, b) in fit(unet, file.unet, name, network).items()}
    text = f"the text encoder's part of {name} is left out" * bool(file.text or file.text_2)
    alpha = f"alpha of {name} is not in the file, so its rank is taken" * file.unsaid
    return factors, "; ".join(filter(None, (text, alpha, other)))


def base(unet: nn.Module, network: str) -> Base:
    """What a LoRA for the ``unet`` of that ``network`` is for."""
    own = getattr(unet, "config", {})
    return Base(network, own.get("cross_attention_dim", 0), own.get("addition_embed_type") == "text_time")


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
        own = f"another network than {short(network)} ({short(model)})"
        return f"{name} was fitted to {own} and may change pictures otherwise"
    other = "the first flora" if base == FIRST_FLORA else f"{model} of other weights ({base})"
    here = f"{short(network)} as it is here"
    raise EngineError(f"{name} must be fitted to {here}, got one fitted to {other}; fit it again")


def parse(source: bytes | Path, name: str, base: Base = ANY) -> File:
    """The layers of a file. EngineError if it is none, not whole, of another kind, or not for that ``base``."""
    kinds.check_lora(source, name, base)
    block = source if isinstance(source, bytes) else source.read_bytes()
    try:
        tensors, note = load(block), _said(block, "lora_adapter_metadata")
    except SafetensorError as e:
        raise EngineError(f"{name} must be a safetensors file, got one that cannot be read ({e})") from None
    beside = _beside(source, name) if isinstance(source, Path) and not note else {}
    unet, text, text_2 = Layers(), Layers(), Layers()
    for key, value in tensors.items():
        found = KEY.fullmatch(key)
        assert found, f"{key} was looked at"
        value = value.float()  # of fp8, too
        if not value.isfinite().all():
            raise EngineError(f"{name} must hold finite numbers, got others in {found[2]}")
        whose = (text_2, "text_encoder_2.") if found[1] in SECOND else (text, "text_encoder.")
        part, head = (unet, "unet.") if found[1] is None else whose
        config = beside or {k.removeprefix(head): v for k, v in note.items()}
        side = found[3] or SIDES.get(found[4], found[4])
        part.setdefault(found[2], {"note": config})[side] = value
    unsaid = not note and not beside and any(key.startswith("base_model.model.") for key in tensors)
    return File(unet, text, text_2, _said(block, "chrysalis"), unsaid)


def _beside(file: Path, name: str) -> dict[str, Any]:
    """peft's settings of a file, where α is: adapter_config.json beside it; {} where there is none."""
    try:
        return kinds.config(file.with_name("adapter_config.json")) if file.name.startswith("adapter_model") else {}
    except EngineError as e:
        raise EngineError(f"{name} must have sound settings beside it; {e}") from None


def fit(module: nn.Module, layers: Layers, name: str, network: str) -> Factors:
    """What `parse` gave, for this module: a layer's own name → (r, in · kernel) and (out, r), α and DoRA's magnitudes
    within. EngineError if it does not fit."""
    modules, here = dict(module.named_modules()), short(network)
    called = {**originals(module), **{n: n for n in modules}}
    plain = {n.replace(".", "_").removeprefix("text_model_"): own for n, own in called.items()}
    words = next((p["a"].shape[-1] for n, p in layers.items() if INWARD.search(n) and "a" in p), 0)
    kinds.check_width(name, words, getattr(getattr(module, "config", None), "cross_attention_dim", 0), network)
    out = Factors()
    for said, parts in layers.items():
        layer = _name(said, plain)
        own = modules.get(layer)
        if own is None:
            raise EngineError(f"{name} must be for {here}, got one for the layer {layer}, which it does not have")
        if "a" not in parts or "b" not in parts:
            raise EngineError(f"{name} must hold both factors of every layer, got one of {layer}")
        if "alpha" in parts and parts["alpha"].numel() != 1:
            raise EngineError(f"{name} must have one alpha a layer, got {parts['alpha'].numel()} for {layer}")
        if not isinstance(own, nn.Linear | nn.Conv2d) or min(parts["a"].ndim, parts["b"].ndim) < 2:
            raise EngineError(f"{name} must be for linear layers and convolutions, got one for {layer}")
        out[layer] = _factors(own.weight.detach().float().cpu(), parts, layer, f"{name} must be for {here}, got")
        if not _size(*out[layer]) <= WILD * max(float(own.weight.detach().float().square().mean()) ** 0.5, 0.01):
            raise EngineError(f"{name} must leave something of {here}, got changes of {layer} far beyond its weights")
    return out


def _factors(weight: Tensor, parts: dict[str, Any], layer: str, refused: str) -> tuple[Tensor, Tensor]:
    """(r, in · kernel) and (out, r) of what one layer's parts add to its ``weight``, on the CPU."""
    a, b, wanted = parts["a"].flatten(1), parts["b"].flatten(1), (weight[0].numel(), len(weight))
    try:
        scale = float(parts["alpha"]) / len(a) if "alpha" in parts else _scale(parts["note"], layer, len(a))
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise EngineError(f"{refused} one whose settings of alpha cannot be read") from None
    try:
        if "mid" in parts:  # of a convolution taken apart: in → r (1 × 1), r → r (its kernel), r → out (1 × 1)
            a = torch.einsum("ijhw,jc->ichw", parts["mid"], a).flatten(1)
        if wanted != (a.shape[1], len(b)) or len(a) != b.shape[1]:
            raise RuntimeError
        magnitude, outputs = parts.get("magnitude_vector"), True
        if magnitude is None and (magnitude := parts.get("dora_scale")) is not None:
            outputs = magnitude.ndim < 2 or len(magnitude) == len(weight)  # else one an input, as kohya's first
        if magnitude is None:
            return a, scale * b
        return _decomposed(weight, scale * b @ a, magnitude.flatten(), outputs)
    except RuntimeError:
        sizes = f"{a.shape[1]} and {len(b)} instead of {wanted[0]} and {wanted[1]}"
        raise EngineError(f"{refused} one of other widths ({sizes} in {layer})") from None


def _decomposed(weight: Tensor, delta: Tensor, magnitude: Tensor, outputs: bool) -> tuple[Tensor, Tensor]:
    """DoRA (Liu et al. 2024, eq. 5): m · V / ‖V‖ for V = W + BA, norms over what enters an output or leaves an input.

    What it adds to ``weight`` has the whole rank, so one factor is the identity."""
    v = weight + delta.view(weight.shape)
    kept = 0 if outputs else 1
    norm = v.transpose(0, kept).flatten(1).norm(dim=1).clamp_min(1e-12)
    shape = [1] * v.ndim
    shape[kept] = -1
    change = (v * (magnitude / norm).view(shape) - weight).flatten(1)
    if len(change) <= change.shape[1]:
        return change, torch.eye(len(change))
    return torch.eye(change.shape[1]), change


def _size(a: Tensor, b: Tensor) -> float:
    """The root mean square of B A, by way of r × r; in double precision, where nothing overflows."""
    a, b = a.double(), b.double()
    return float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0) / (len(b) * a.shape[1])) ** 0.5


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
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _plain(pattern: str) -> str:
    """The end of a layer's name, of a pattern that says no more than that. ValueError for any other."""
    end = re.sub(r"^(\^|\(\?:|\.\*\\?\.)*|\$$", "", pattern[:500]).replace("\\.", ".")
    if not re.fullmatch(r"[\w.]+", end):
        raise ValueError
    return end


def _scale(note: dict[str, Any], layer: str, rank: int) -> float:
    """α/r, or α/√r for rank-stabilised LoRAs; 1 where nothing is said. ValueError for what is no number."""
    alphas = note.get("alpha_pattern") or {}
    # As peft has it: the first that fits, and a layer's own rank. Ends of names only: expressions of strangers may
    # take for ever.
    own = next((p for p in alphas if f".{layer}".endswith(f".{_plain(p)}")), None)
    alpha = note.get("lora_alpha") if own is None else alphas[own]
    if alpha is None:
        return 1.0
    return float(alpha) / (rank**0.5 if note.get("use_rslora") else rank)
