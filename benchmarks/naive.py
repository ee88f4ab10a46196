"""DiffMorpher the plain way, as the published code goes about it: the reference of `benchmarks.morph`.

One picture after the other, one frame after the other, batch 1, float32; LoRAs are merged into the weights again for
every frame; both end pictures are drawn again for every pass; the whole is made twice, for the second time where the
perceptual distances of the first say. Written from methods.md §2.2 with none of the engine's loop.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.lora import targets
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.words import Words
from engine.vision import perceptual

Deltas = dict[str, Tensor]  # layer → what is added to its weight


class Mixing:
    """An attention processor that keeps what enters a self-attention, or attends to a mix of what two others kept."""

    def __init__(self, inner: Callable[..., Tensor]):
        self.inner = inner
        self.keep: list[Tensor] | None = None
        self.mix: tuple[Any, Any, float] | None = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kw):
        if self.keep is not None:
            self.keep.append(hidden_states.clone())
        elif self.mix is not None:
            d0, d1, w = self.mix
            encoder_hidden_states = (1 - w) * d0.pop(0) + w * d1.pop(0)
        return self.inner(attn, hidden_states, encoder_hidden_states, **kw)


class Naive:
    """``net`` must be float32. Latents in the sampler's usual scale, √ā·x0 + √(1 − ā)·ε."""

    def __init__(self, net: LatentDiffusion, steps: int):
        self.net, self.unet = net, net.unet
        self.times = [round(net.schedule.timestep(s)) for s in net.schedule.sigmas(steps)[:-1]]  # falling
        self.abar = 1 / (1 + net.schedule.training**2)
        self.own = {n: m.weight.data.clone() for n, m in targets(self.unet).items()}

    def eps(self, x: Tensor, t: int, words: Words) -> Tensor:
        beside = self.net.concat_channels // x.shape[1]
        phi = [self.net.null_latent((x.shape[2], x.shape[3]))] * beside if beside else []
        told = words.told([side * self.net.vae_scale_factor for side in x.shape[2:]], x.dtype)
        return self.unet(torch.cat([x, *phi], 1), torch.tensor(t), **told).sample

    def move(self, x: Tensor, t: int, words: Words, a: Tensor, b: Tensor) -> Tensor:
        """From the level ā = a, seen at timestep t, to b."""
        eps = self.eps(x, t, words)
        clean = (x - (1 - a).sqrt() * eps) / a.sqrt()
        return (b.sqrt() * clean + (1 - b).sqrt() * eps).float()

    def merge(self, deltas: Deltas) -> None:
        for name, layer in targets(self.unet).items():
            layer.weight.data = self.own[name] + deltas[name] if deltas else self.own[name].clone()

    def fit(self, z: Tensor, words: Words, steps: int, rank: int, rate: float, seed: int = 0) -> tuple[Deltas, Deltas]:
        """One picture's factors (A, B): one timestep a step."""
        torch.manual_seed(seed)
        layers = targets(self.unet)
        a = {n: (torch.randn(rank, m.in_features, device=z.device) / rank).requires_grad_() for n, m in layers.items()}
        b = {n: torch.zeros(m.out_features, rank, device=z.device).requires_grad_() for n, m in layers.items()}
        hooks = [m.register_forward_hook(lambda mod, x, y, n=n: y + x[0] @ a[n].T @ b[n].T) for n, m in layers.items()]
        optimiser = torch.optim.AdamW([*a.values(), *b.values()], lr=rate, weight_decay=1e-2)
        with torch.enable_grad():
            for _ in range(steps):
                t = int(torch.randint(0, len(self.abar), ()))
                noise = torch.randn_like(z)
                x = (self.abar[t].sqrt() * z + (1 - self.abar[t]).sqrt() * noise).float()
                (self.eps(x, t, words) - noise).square().mean().backward()
                optimiser.step()
                optimiser.zero_grad()
        for h in hooks:
            h.remove()
        return {n: p.detach() for n, p in a.items()}, {n: p.detach() for n, p in b.items()}

    def invert(self, z: Tensor, words: Words) -> Tensor:
        rising = self.times[::-1]
        x = self.abar[rising[0]].sqrt().float() * z
        # `z` stands for the first level's picture without noise, as the published inversion has it.
        for t, up in pairwise(rising):
            x = self.move(x, t, words, self.abar[t], self.abar[up])
        return x

    def denoise(self, x: Tensor, words: Words, at_step: Callable[[int], None] = lambda i: None) -> Tensor:
        for i, t in enumerate(self.times):
            at_step(i)
            down = self.abar[self.times[i + 1]] if i + 1 < len(self.times) else torch.ones((), dtype=torch.float64)
            x = self.move(x, t, words, self.abar[t], down)
        return x

    def way(
        self,
        noise: list[Tensor],
        words: list[Words],
        loras: list[tuple[Deltas, Deltas]],
        places: list[float],
        share: float = 0.6,
    ) -> list[Tensor]:
        """Latents of all frames: both ends drawn again first, and what they kept mixed for the others."""
        before = self.unet.attn_processors
        mixing = {n: Mixing(p) for n, p in before.items() if n.startswith("up_blocks") and ".attn1." in n}
        self.unet.set_attn_processor({n: mixing.get(n, p) for n, p in before.items()})
        depth = -(-len(self.times) * round(100 * share) // 100)
        products = [{n: b[n] @ a[n] for n in a} for a, b in loras]
        kept: list[dict[str, list[Tensor]]] = []
        out: dict[float, Tensor] = {}
        try:
            for i, end in enumerate((0.0, 1.0)):
                self.merge(products[i])
                kept.append({n: [] for n in mixing})
                for n, m in mixing.items():
                    m.keep = kept[i][n]
                out[end] = self.denoise(noise[i], words[i])
            for m in mixing.values():
                m.keep = None
            for w in places[1:-1]:
                self.merge({n: (1 - w) * products[0][n] + w * products[1][n] for n in products[0]})
                for n, m in mixing.items():
                    m.mix = (list(kept[0][n]), list(kept[1][n]), w)

                def at_step(i: int) -> None:
                    if i == depth:
                        for m in mixing.values():
                            m.mix = None

                out[w] = self.denoise(self.between(*noise, w), words[0].lerp(words[1], w), at_step)
        finally:
            self.unet.set_attn_processor(before)
            self.merge({})
        return [out[0.0], *(out[w] for w in places[1:-1]), out[1.0]]

    @staticmethod
    def between(a: Tensor, b: Tensor, w: float) -> Tensor:
        """slerp, then AdaIN of the noise's statistics."""
        angle = torch.acos((a * b).sum() / (a.norm() * b.norm()))
        x = (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)
        (s0, m0), (s1, m1), (s, m) = (torch.std_mean(v, dim=(2, 3), keepdim=True, correction=0) for v in (a, b, x))
        return (x - m) / (s + 1e-5) * ((1 - w) * s0 + w * s1) + (1 - w) * m0 + w * m1

    def pictures(self, latents: list[Tensor]) -> Tensor:
        return torch.cat([self.net.decode(z) for z in latents])

    def whole(self, z: Tensor, words: Words, frames: int, rank: int = 16) -> Tensor:
        """All of it, with the published hyper-parameters; (frames, 3, H, W)."""
        loras = [self.fit(z[i : i + 1], words[i : i + 1], 200, rank, 2e-4) for i in (0, 1)]
        noise, ends = [], [words[:1], words[1:]]
        for i, (a, b) in enumerate(loras):
            self.merge({n: b[n] @ a[n] for n in a})
            noise.append(self.invert(z[i : i + 1], ends[i]))
        places = [i / (frames - 1) for i in range(frames)]
        first = self.pictures(self.way(noise, ends, loras, places))
        lengths = [float(perceptual.distance(self.net, p, q)) for p, q in pairwise(first.split(1))]
        return self.pictures(self.way(noise, ends, loras, perceptual.even(places, lengths, frames)))
