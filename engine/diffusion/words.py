"""What networks read of texts: embeddings of every token, and of the whole where they want that too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.diffusion import geometry
from engine.requests import phrases

FLAT = 0.02  # the share of their deviation that a mean of embeddings must have; Stable Diffusion's has about .1


@dataclass(frozen=True)
class Words:
    """Texts as a network reads them: ``embeds`` (B, L, D), and ``pooled`` (B, P) where it wants the whole text beside
    its tokens (SDXL: Podell et al. 2023, arXiv 2307.01952, §2.1), float32. Whatever is done to one is done to both."""

    embeds: Tensor
    pooled: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What there is: ``Words(*words.tensors)`` is the same again."""
        return (self.embeds,) if self.pooled is None else (self.embeds, self.pooled)

    def map(self, fn: Callable[..., Tensor], *others: Words) -> Words:
        """``fn`` of each of its tensors, and of the same one of ``others``."""
        return Words(*(fn(*parts) for parts in zip(self.tensors, *(o.tensors for o in others), strict=True)))

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Words:
        return self.map(lambda t: t[rows])

    def split(self, rows: int) -> list[Words]:
        return [self[i : i + rows] for i in range(0, len(self), rows)]

    def expand(self, rows: int) -> Words:
        """So many rows of the one there is, or the rows there are."""
        return self.map(lambda t: t.expand(rows, *t.shape[1:]))

    @staticmethod
    def cat(parts: Sequence[Words]) -> Words:
        return parts[0].map(lambda *same: torch.cat(same), *parts[1:])

    def lerp(self, other: Words, w: Tensor | float) -> Words:
        """Straight line to ``other``; ``w`` a number or (B,)."""
        return self.map(lambda a, b: geometry.lerp(a, b, w), other)

    def slerp(self, other: Words, w: Tensor | float) -> Words:
        """Great-circle way to ``other``, all tokens of a text as one vector; ``w`` a number or (B,)."""
        return self.map(lambda a, b: geometry.slerp(a, b, w), other)

    def told(self, size: Sequence[int], dtype: torch.dtype) -> dict[str, Any]:
        """What a UNet, and a ControlNet, is told of them for pictures of a ``size`` (height, width) in pixels.

        With pooled words go the original's size, the crop's corner and the size that is wanted (SDXL, §2.2): a picture
        of ours is whole and of its own size.
        """
        out: dict[str, Any] = {"encoder_hidden_states": self.embeds.to(dtype)}
        if self.pooled is not None:
            ids = torch.tensor([*size, 0, 0, *size], dtype=torch.float32, device=self.pooled.device)
            own = {"text_embeds": self.pooled.to(dtype), "time_ids": ids.expand(len(self), -1)}
            out["added_cond_kwargs"] = own
        return out


def read(readers: Sequence[tuple[Any, Any]], texts: Sequence[str], length: int, device: torch.device) -> Words:
    """Texts by one (tokenizer, encoder), its last layer; or by two, SDXL's: the layers before their last ones side by
    side, and the pooled words of the second. Tokens beyond ``length`` are left out; what is `phrases.weighted` weighs
    on each encoder's own tokens (`weigh`), and leaves the whole text, the pooled words, as it is."""
    parts, seen, out = [phrases.weighted(text) for text in texts], list[Tensor](), None
    for tokenizer, encoder in readers:
        ids, weights = tokens(tokenizer, parts, length)
        out = encoder(ids.to(device), output_hidden_states=len(readers) > 1)
        own = out.last_hidden_state if len(readers) == 1 else out.hidden_states[-2]
        seen.append(own.float() if weights is None else weigh(own.float(), weights.to(device)))
    return Words(torch.cat(seen, 2), out.text_embeds.float() if len(readers) > 1 else None)


def tokens(tokenizer: Any, texts: Sequence[Sequence[tuple[str, float]]], length: int) -> tuple[Tensor, Tensor | None]:
    """Texts in weighted parts → ids (B, length) and a weight for each, (B, length); None where all are 1.

    Parts of other weights are read one by one, as A1111 does: a weight ends a word."""
    whole = ["".join(part for part, _ in parts) for parts in texts]
    ids = tokenizer(whole, max_length=length, padding="max_length", truncation=True, return_tensors="pt").input_ids
    weights = torch.ones(ids.shape)
    for i, parts in enumerate(texts):
        if all(w == 1 for _, w in parts):
            continue
        read = tokenizer([part for part, _ in parts], add_special_tokens=False).input_ids
        own = [(t, w) for row, (_, w) in zip(read, parts, strict=True) for t in row][: length - 2]
        row = [tokenizer.bos_token_id, *(t for t, _ in own), tokenizer.eos_token_id]
        ids[i] = torch.tensor(row + [tokenizer.pad_token_id] * (length - len(row)))
        weights[i, 1 : len(own) + 1] = torch.tensor([w for _, w in own])
    return ids, None if bool((weights == 1).all()) else weights


def weigh(embeds: Tensor, weights: Tensor) -> Tensor:
    """Embeddings (B, L, D) times a weight for each token (B, L), brought back to their own mean a text, as A1111's web
    UI does (modules/sd_emphasis.py, *Original*, which says of it that it prevents artefacts).

    Where there is hardly a mean (flora's is .003 of the deviation), or weights turn it over, it is left (*No norm*)."""
    out = embeds * weights[..., None]
    own, new = (t.mean((1, 2), keepdim=True) for t in (embeds, out))
    ratio = own / new
    sound = (own.abs() > FLAT * embeds.square().mean((1, 2), keepdim=True).sqrt()) & (ratio > 0.25) & (ratio < 4)
    changed = (weights != 1).any(1).view(-1, 1, 1)
    return torch.where(changed, torch.where(sound, out * ratio, out), embeds)


def unread(tokenizer: Any, name: str, length: int, prompts: Sequence[str]) -> list[str]:
    """Notes on what of the prompts the network ``name`` does not read: ends beyond its ``length`` in tokens, words in
    unknown letters."""
    prompts, out = [phrases.plain(p) for p in prompts], list[str]()
    long = {p: len(tokenizer(p).input_ids) - length for p in prompts}
    said = "the prompt “{}…” is {} tokens too long for {}; its end was left out"
    out += [said.format(p[:20], n, name) for p, n in long.items() if n > 0]
    words = dict.fromkeys(w for p in prompts for w in p.split())
    unknown = [w for w in words if tokenizer.unk_token_id in tokenizer(w, add_special_tokens=False).input_ids]
    if unknown:
        some = ", ".join(f"“{w[:20]}”" for w in unknown[:3]) + ", …" * (len(unknown) > 3)
        out.append(f"{name} cannot read {some}: write it in English letters")
    return out
