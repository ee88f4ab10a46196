"""The parts of a network as plain calls, of tensors alone: what an executor may answer in torch's place."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = ("AttnProcessor", "AttnProcessor2_0")  # of diffusers: they compute the same


class Plain(nn.Module):
    """A part and how it is called. ``name`` tells its call from others of the same module."""

    name = ""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module
        self._inside = [[m for m in module.modules()], [*module.parameters(), *module.buffers()]]

    def untouched(self) -> bool:
        """Whether nothing but its own code would run: no hooks, no other forward or attention, no tiles."""
        if any(getattr(self.module, way, False) for way in ("use_tiling", "use_slicing")):
            return False
        for m in self._inside[0]:
            own = m.__dict__
            if m._forward_hooks or m._forward_pre_hooks or "forward" in own:
                return False
            if "processor" in own and type(own["processor"]).__name__ not in PLAIN:
                return False
        return True

    def weights(self) -> tuple[Any, ...]:
        """What tells the weights it has now from others while both live: where they lie, and how often changed."""
        return tuple((t.data_ptr(), t._version) for t in self._inside[1])

    def tensors(self) -> list[Tensor]:
        """The weights it has now."""
        return [t.data for t in self._inside[1]]

    def twin(self, weights: list[Tensor]) -> Plain:
        """The same over ``weights``, which this one had (`tensors`) and may have others by now."""
        memo: dict[int, Any] = {}
        for own, had in zip(self._inside[1], weights, strict=True):
            memo[id(own)] = nn.Parameter(had, False) if isinstance(own, nn.Parameter) else had
        return copy.deepcopy(self, memo)

    def digest(self) -> str:
        """A hash over the call, the configuration and every bit of the weights."""
        said = {k: v for k, v in dict(getattr(self.module.config, "to_dict", lambda: self.module.config)()).items()}
        for own in ("_name_or_path", "_diffusers_version", "transformers_version"):
            said.pop(own, None)
        found = hashlib.blake2b(repr((self.name, sorted(said.items(), key=str))).encode(), digest_size=16)
        for name, t in [*self.module.named_parameters(), *self.module.named_buffers()]:
            found.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
            found.update(t.detach().contiguous().flatten().view(torch.uint8).numpy())
        return found.hexdigest()


class Denoising(Plain):
    """x (B, C, h, w), timesteps (B,), words (B, L, D), and of SDXL pooled words and ids → (B, C, h, w)."""

    name = "unet"

    def forward(self, x: Tensor, times: Tensor, words: Tensor, pooled: Any = None, ids: Any = None) -> tuple[Tensor]:
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": ids}
        return (self.module(x, times, encoder_hidden_states=words, added_cond_kwargs=added, return_dict=False)[0],)


class Encoding(Plain):
    """Pictures (B, 3, H, W) → latents (B, C, h, w), the mean of the posterior, not yet scaled."""

    name = "encode"

    def forward(self, x: Tensor) -> tuple[Tensor]:
        out = self.module.encode(x)
        return (out.latent if hasattr(out, "latent") else out.latent_dist.mode(),)


class Decoding(Plain):
    """Latents (B, C, h, w), not scaled, → pictures (B, 3, H, W)."""

    name = "decode"

    def forward(self, z: Tensor) -> tuple[Tensor]:
        return (self.module.decode(z, return_dict=False)[0],)


class Reading(Plain):
    """Tokens (B, L) → what the last layer says of them, (B, L, D); where there are ``two`` encoders the one before
    the last, and of the second also the whole text's, (B, P)."""

    name = "text"

    def __init__(self, module: Any, two: bool = False):
        super().__init__(module)
        self.two = two

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        seen = self.module(ids, output_hidden_states=self.two)
        if not self.two:
            return (seen.last_hidden_state,)
        pooled = getattr(seen, "text_embeds", None)
        return (seen.hidden_states[-2],) if pooled is None else (seen.hidden_states[-2], pooled)


def reader(run: Callable[..., tuple[Tensor, ...]], two: bool) -> Callable[..., Any]:
    """A text encoder as `words.read` calls it, of which ``run`` makes a plain call."""

    def read(ids: Tensor, output_hidden_states: bool = False) -> Any:
        first, *pooled = run(ids)
        if not two:
            return SimpleNamespace(last_hidden_state=first)
        return SimpleNamespace(hidden_states=(first, None), text_embeds=pooled[0] if pooled else None)

    return read
