"""Textual inversion of the whole embedding, for a pair of pictures (Wang & Golland 2023, §4.2; methods.md §1.4)."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor
from torchvision.transforms import v2

from engine.diffusion.model import Network, guided
from engine.diffusion.sampling import gaussian, generator
from engine.requests import Progress


def invert_text(
    net: Network, x: Tensor, embeds: Tensor, uncond: Tensor, steps: int, rate: float, guidance: float, seed: int
) -> Generator[Progress, None, Tensor]:
    """Fits the embeddings of two pictures ``x`` (2, 3, H, W), and the shared unconditional one, by Adam at ``rate``.

    ``embeds`` (2, L, D) and ``uncond`` (1, L, D) are where it starts. Loss: squared error of the *guided* noise at the
    middle third of the noise levels, on jittered and re-cropped pictures. Returns (3, L, D): the two embeddings and the
    unconditional one. Both pictures go as one batch, so Adam steps once, not twice, an iteration.
    """
    free = torch.cat([embeds, uncond]).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=rate)
    levels = net.levels(200)[:-1]
    boost = 1024.0 if net.dtype == torch.float16 else 1.0  # or the gradients would vanish; Adam does not mind
    jitter = v2.Compose([v2.ColorJitter(0.1, 0.2, 0.2, 0.1), v2.RandomResizedCrop(x.shape[2:], scale=(0.7, 1.0))])
    for i in range(steps):
        draw = generator(seed, 1, i)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=draw)))
            z = net.encode(torch.stack([jitter((p + 1) / 2) for p in x]) * 2 - 1)
        s = levels[int(torch.randint(len(levels) // 3, 2 * len(levels) // 3, (), generator=draw))]
        noise = gaussian(z.shape[1:], [draw, draw]).to(z)
        with torch.enable_grad():
            eps = net.noise_in(z + s * noise, torch.full((len(z),), s), guided(free[:2], free[2:], guidance))
            loss = (eps - noise).square().mean()
            (boost * loss).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        yield Progress(
            (i + 1) / steps, f"fitting the words to the pictures, step {i + 1} of {steps} (loss {loss.item():.3f})"
        )
    return free.detach()
