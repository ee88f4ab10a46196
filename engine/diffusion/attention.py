"""Context managers that reach into a network and leave it as it was, however they are left.

``model`` is a `LatentDiffusion`: its ``unet``, and what its rows carry at the moment (``now``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.diffusion.memory import GB, Keeping, Room, keep

Features = dict[tuple[str, float], Tensor]  # (layer, σ) → (K, tokens, channels), half precision
Attend = Callable[[Tensor, Tensor], Tensor]  # (queries (F, T, C), what they look at (F, S, C')) → (F, T, C)
RULES = ("plain", "mean", "half", "ends", "joined")  # see `follow`


def self_attentions(unet: nn.Module) -> dict[str, nn.Module]:
    """The self-attentions of the decoder blocks, where DiffMorpher mixes (§3.4): name → layer."""
    return {n: m for n, m in unet.named_modules() if n.startswith("up_blocks.") and n.endswith(".attn1")}


@contextmanager
def _hooks(unet: nn.Module, hook: Callable[[str], Callable]) -> Iterator[None]:
    handles = [m.register_forward_pre_hook(hook(n), with_kwargs=True) for n, m in self_attentions(unet).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keeping(model: Any, z: Tensor, steps: int) -> Keeping:
    """Where `record` is to keep the first ``steps`` steps of all pictures ``z`` (K, C, h, w), and how many fit.

    SDXL has 105 MB a step and picture at 1024 × 1024, 6.2 GB for two pictures in DiffMorpher's thirty steps.
    """
    own, step = model.resident, len(z) * per_step(model.unet, z)
    waiting = own.bytes if own.plan.offload or own.device.type == "cpu" else 0
    kept = keep(own.device, own.plan.spare, waiting, step, steps)
    said = f"what attention keeps of the pictures, {steps * step / GB:.1f} GB"
    if kept.steps < steps:
        looking = f"only the first {kept.steps} of {steps} steps look at both pictures"
        return kept._replace(notes=(f"{said}, is more than memory holds: {looking}; fewer steps or pixels need less",))
    outside = kept.device != own.device
    return kept._replace(notes=(f"{said}, waits outside {own.device}, which is full",) if outside else ())


def per_step(unet: Any, z: Tensor) -> int:
    """Bytes that `record` keeps of a picture in a step, its latents like ``z`` (…, h, w)."""
    last, total = len(unet.config.up_block_types) - 1, 0
    for name, layer in self_attentions(unet).items():
        level = last - int(name.split(".")[1])  # how often what it sees was halved
        total += (z.shape[-2] >> level) * (z.shape[-1] >> level) * int(layer.query_dim) * torch.half.itemsize
    return total


@contextmanager
def record(model: Any, sigmas: Collection[float], place: torch.device | None = None) -> Iterator[Features]:
    """Collects what enters the decoder's self-attentions at ``sigmas``, in half precision, on the device ``place``
    (None: where the network is).

    As in the published code it is the layer's normalised input that is kept, not keys and values: half the memory.
    """
    parts: dict[tuple[str, float], dict[int, Tensor]] = {}
    found: Features = {}

    def hook(name: str):
        def see(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            now = model.now
            if now is not None and now.sigma in sigmas:
                x = args[0] if args else kwargs["hidden_states"]
                parts.setdefault((name, now.sigma), {})[now.first] = x.detach().half().to(place or x.device)

        return see

    with _hooks(model.unet, hook):
        yield found
    for key in list(parts):
        rows = parts.pop(key)  # or all of it would be there twice
        found[key] = torch.cat([rows[i] for i in sorted(rows)])


@contextmanager
def mix(
    model: Any,
    features: Features,
    own: float = 0.0,
    blend: Callable[[Tensor, Tensor, int], Tensor | None] | None = None,
) -> Iterator[None]:
    """Inside, rows that carry ``attention_weights`` (n, K) take keys and values from that mix of recorded features.

    h = own · (their own) + (1 − own) · Σ weightₖ · featureₖ (DiffMorpher eq. 7; β in its code), at the recorded sigmas
    only; all else is as it was. ``blend``, of the features (K, tokens, c), the weights and the number of the first row,
    may give another mix, (n, tokens, c).
    """

    def hook(name: str):
        def change(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            now = model.now
            if now is None or now.attention_weights is None or (name, now.sigma) not in features:
                return None
            x = args[0] if args else kwargs["hidden_states"]
            kept = features[name, now.sigma].to(x.device, x.dtype)
            mixed = blend(kept, now.attention_weights, now.first) if blend else None
            if mixed is None:
                mixed = torch.einsum("nk,ktc->ntc", now.attention_weights.to(x.device, x.dtype), kept)
            if own:
                mixed = own * x + (1 - own) * mixed
            # Attention takes keys and values from ``encoder_hidden_states`` where there are any.
            return args, kwargs | {"encoder_hidden_states": mixed}

        return change

    with _hooks(model.unet, hook):
        yield


@contextmanager
def plain_products(unet: Any) -> Iterator[None]:
    """Inside, attention is plain products: 1.4 to 1.7 times as fast as the fused attention of CPUs, forwards and
    backwards, for latents up to 32 × 32 (training/README.md)."""
    from diffusers.models.attention_processor import AttnProcessor

    own = unet.attn_processors
    try:
        unet.set_attn_processor(AttnProcessor())
        yield
    finally:
        unet.set_attn_processor(own)


def follow(rule: str, attend: Attend, x: Tensor, seen: Tensor, weights: Tensor) -> Tensor:
    """One attention of a way's frames, first to last: queries ``x`` (F, T, C), ``seen`` (F, S, C') what each would look
    at by itself, ``weights`` (F, 2) how much each is of the first frame and of the last.

    "mean": the mean of what all frames find; "ends": what each finds in the first and in the last frame, weighted;
    "half": the same, half and half; "joined": as "ends", each seeing itself beside the end (FreeMorph, Cao et al. 2025,
    arXiv 2507.01953; fused by one softmax as in AID, He et al. 2024).
    """
    if rule == "plain":
        return attend(x, seen)
    if rule == "mean":
        return attend(x, seen).mean(0, keepdim=True).expand_as(x)
    if rule == "half":
        weights = torch.full_like(weights, 0.5)
    out = torch.zeros_like(x)
    for end, weight in zip((seen[:1], seen[-1:]), weights.to(x).T, strict=True):
        end = end.expand_as(seen)
        # Outputs are mixed behind the last linear layer: with weights whose sum is 1 it is all the same.
        out += weight.view(-1, 1, 1) * attend(x, torch.cat([seen, end], 1) if rule == "joined" else end)
    return out


BLOCKS = ("ResnetBlock2D", "FeedForward", "Upsample2D", "Downsample2D")


@contextmanager
def steer(model: Any, rules: Mapping[float, str]) -> Iterator[None]:
    """Inside, rows that carry ``attention_weights`` (F, 2), the frames of one way, follow the rule of their sigma in
    every attention, self and cross; all else is plain.

    As the frames look at each other, all rows of a call are in the network at once; its blocks, which take the memory,
    have ``model.rows`` of them a time.
    """
    room, changed = model.room, []
    try:
        for name, module in model.unet.named_modules():
            if name.endswith((".attn1", ".attn2")):
                made = partial(_look, rules, model, room, module.forward)
            elif type(module).__name__ in BLOCKS:
                made = partial(_in_parts, model, room, module.forward)
            else:
                continue
            changed.append((module, vars(module).get("forward")))
            module.forward = made
        model.room = _Whole(room)
        yield
    finally:
        model.room = room
        for module, own in changed:
            del module.forward
            if own:
                module.forward = own


def _in_parts(model: Any, room: Room, own: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A block's ``own`` forward, ``model.rows`` rows a time."""
    n = sum(isinstance(a, Tensor) for a in args)  # they come first

    def one(first: int, *rows: Tensor) -> Tensor:
        return own(*rows, *args[n:], **kwargs)

    return room.chunk(one, args[:n], model.rows, "rows")


def _look(
    rules: Mapping[float, str],
    model: Any,
    room: Room,
    own: Callable[..., Tensor],
    x: Tensor,
    encoder_hidden_states: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """An attention's ``own`` forward, by the rule of the sigma for rows that carry weights."""
    seen, now = x if encoder_hidden_states is None else encoder_hidden_states, model.now
    rule, attend = rules.get(now.sigma, "plain") if now else "plain", partial(_in_parts, model, room, own)
    if rule == "plain" or now.attention_weights is None:
        return attend(x, seen)
    frames, out = now.attention_weights.any(1), torch.empty_like(x)
    out[frames] = follow(rule, attend, x[frames], seen[frames], now.attention_weights[frames])
    if not frames.all():
        out[~frames] = attend(x[~frames], seen[~frames])
    return out


class _Whole:
    """A `Room` whose rows of the network are not parted; all else of it is the room's own."""

    def __init__(self, room: Room):
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._room, name)

    def chunk(self, fn: Callable[..., Tensor], tensors: tuple[Tensor, ...], most: int, what: str) -> Tensor:
        if what != "rows":
            return self._room.chunk(fn, tensors, most, what)
        return fn(0, *(t.to(self._room.device) for t in tensors))
