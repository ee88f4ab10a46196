"""Textual inversion of the whole embedding, for a pair of pictures (Wang & Golland 2023, §4.2; methods.md §1.4)."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor
from torchvision.transforms import v2

from engine.diffusion.guidance import classifier_free
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import gaussian, generator
from engine.diffusion.words import Words


def invert_text(
    model: LatentDiffusion, x: Tensor, words: Words, steps: int, rate: float, guidance: float, seed: int
) -> Generator[tuple[int, float], None, Words]:
    """Fits the embeddings of two pictures ``x`` (2, 3, H, W), and the shared unconditional one, by Adam at ``rate``.

    ``words`` (3 rows) are where it starts, the unconditional one last; so it returns them, and yields number
    and loss of every step: squared error of what is predicted, *guided*, at the middle third of the noise levels, on
    jittered and re-cropped pictures. Both pictures go as one batch, so Adam steps once, not twice, an iteration.
    """
    free = words.map(lambda t: t.clone().requires_grad_(True))
    optimiser = torch.optim.Adam(free.tensors, lr=rate)
    sigmas = model.schedule.sigmas(200)[:-1]
    boost = 1024.0 if model.dtype == torch.float16 else 1.0  # or the gradients would vanish; Adam does not mind
    jitter = v2.Compose([v2.ColorJitter(0.1, 0.2, 0.2, 0.1), v2.RandomResizedCrop(x.shape[2:], scale=(0.7, 1.0))])
    for i in range(steps):
        draw = generator(seed, 1, i)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=draw)))
            z = model.encode(torch.stack([jitter((p + 1) / 2) for p in x]) * 2 - 1)
        s = sigmas[int(torch.randint(len(sigmas) // 3, 2 * len(sigmas) // 3, (), generator=draw))]
        noise = gaussian(z.shape[1:], [draw, draw]).to(z)
        at = torch.full((2,), s, dtype=torch.float64)
        with torch.enable_grad():
            rows = classifier_free(free[:2], free[2:], guidance)
            loss = model.errors(z, noise, at, rows).mean()
            (boost * loss).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        yield i + 1, loss.item()
    return free.map(Tensor.detach)
