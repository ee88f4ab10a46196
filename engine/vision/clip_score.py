"""Which candidate is best, by CLIP: score = cos(image, positive) − cos(image, negative) (methods.md §1.6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from engine.requests.phrases import plain


class Ranker:
    """A CLIP in open_clip's folder format: ``open_clip_config.json``, weights and tokenizer."""

    def __init__(self, folder: Path, device: torch.device):
        import open_clip

        source = f"local-dir:{folder}"
        self.device = device
        self.model, _, self.prepare = open_clip.create_model_and_transforms(source, device=device)
        self.model.eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(source)
        self.bytes = sum(p.numel() * p.element_size() for p in self.model.parameters())

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Image]) -> Tensor:
        """(N, D) of length 1; each picture resized, cropped and normalised as the folder's config says."""
        x = torch.stack([self.prepare(p) for p in pictures]).to(self.device)
        return torch.nn.functional.normalize(self.model.encode_image(x).float(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) of length 1; weights in them do not count."""
        ids = self.tokenizer([plain(text) for text in texts]).to(self.device)
        return torch.nn.functional.normalize(self.model.encode_text(ids).float(), dim=-1)

    def score(self, pictures: Sequence[Image], positive: str | Mapping[str, float], negative: str = "") -> Tensor:
        """(N,), −2 … 2: cos(image, positive) − cos(image, negative), the second term only if there is a negative.

        ``positive`` may be several texts with weights that sum to 1: their cosines are averaged so.
        """
        words = Counter({positive: 1.0} if isinstance(positive, str) else positive)
        if negative:
            words[negative] -= 1
        weights = torch.tensor(list(words.values()), dtype=torch.float32, device=self.device)
        return self.pictures(pictures) @ (weights @ self.texts(list(words)))
