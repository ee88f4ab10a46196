"""LoRAs fitted to pictures (Hu et al. 2021; DiffMorpher §3.2), all in one batch, and mixed per row.

A `Bank` holds one LoRA a picture for the same layers. With `attached`, every row of a batch carries its own mix of them
(`Row.mix`): nothing is merged and nothing reloaded, so a whole morph is one batch. Two ways to mix (methods.md §6.1):
the sum of the deltas, Σ wₖ BₖAₖ, which DiffMorpher's equation 4 says; or factor-wise, (Σ wₖ Bₖ)(Σ wₖ Aₖ), which its
code does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engine.models import Network, Row
from engine.sampling import gaussian, generator
from engine.schema import EngineError, Progress

CHECK = 20  # steps between two looks at how well the pictures are known


@dataclass
class Bank:
    """K LoRAs: a layer's name → A (K, r, in) and B (K, out, r), float32."""

    factors: dict[str, tuple[Tensor, Tensor]]

    @property
    def count(self) -> int:
        return next(iter(self.factors.values()))[0].shape[0]

    @property
    def rank(self) -> int:
        return next(iter(self.factors.values()))[0].shape[1]

    @property
    def bytes(self) -> int:
        return sum(a.numel() * a.element_size() + b.numel() * b.element_size() for a, b in self.factors.values())

    def only(self, k: int) -> Bank:
        """The bank of LoRA ``k`` alone."""
        return Bank({name: (a[k : k + 1], b[k : k + 1]) for name, (a, b) in self.factors.items()})

    @staticmethod
    def joined(banks: list[Bank]) -> Bank:
        """One bank of several of equal layers and rank, in their order."""
        first = banks[0].factors
        return Bank({n: tuple(torch.cat([b.factors[n][i] for b in banks]) for i in (0, 1)) for n in first})  # type: ignore


def targets(unet: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are fitted: queries, keys, values and outputs of every attention, as in the published code."""
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    return {n: m for n, m in unet.named_modules() if isinstance(m, nn.Linear) and n.endswith(ends)}


def blank(net: Network, count: int, rank: int, seed: int = 0) -> Bank:
    """``count`` LoRAs that change nothing yet: B zero, A Gaussian of deviation 1/rank, the same for all (§6.1)."""
    draw, factors = generator(seed, 4), {}
    for name, layer in targets(net.unet).items():
        a = torch.randn((1, rank, layer.in_features), generator=draw) / rank
        factors[name] = (
            a.repeat(count, 1, 1).to(net.device),
            torch.zeros(count, layer.out_features, rank, device=net.device),
        )
    return Bank(factors)


@contextmanager
def attached(net: Network, bank: Bank, form: str = "sum") -> Iterator[None]:
    """Inside, every row adds the mix of LoRAs that its `Row.mix` (n, K) says; rows without one add none."""
    layers = targets(net.unet)
    if missing := set(bank.factors) - set(layers):
        raise EngineError(f"LoRA must fit {net.name}, got one for the layer {min(missing)}, which it does not have")

    def hook(a: Tensor, b: Tensor):
        count, rank = a.shape[:2]

        def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if net.mix is None:
                return out
            x = args[0]
            w = net.mix.to(x.dtype)[:, None, :, None]  # (rows, 1, K, 1)
            h = linear(x, a.flatten(0, 1).to(x.dtype)).unflatten(-1, (count, rank)) * w
            if form == "factors":
                h = h.sum(2, keepdim=True) * w
            return out + linear(h.flatten(2), b.permute(1, 0, 2).flatten(1).to(x.dtype))

        return add

    handles = [layers[name].register_forward_hook(hook(a, b)) for name, (a, b) in bank.factors.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fit(
    net: Network,
    z: Tensor,
    embeds: Tensor,
    steps: int,
    rank: int,
    rate: float,
    seed: int = 0,
    draws: int = 4,
    patience: float = 0.01,
) -> Generator[Progress, None, Bank]:
    """One LoRA for each of the pictures ``z`` (K, C, h, w) under its words ``embeds`` (K, L, D), by AdamW at ``rate``.

    A step sees ``draws`` stratified noise levels of every picture in one batch; losses of different pictures meet no
    common weight, so the result is that of separate fits. It stops early when, over `CHECK` steps, no picture's error
    on fixed noise has fallen by more than the share ``patience`` (0: never). Loss: squared error of the noise
    (DiffMorpher eq. 3).
    """
    count = len(z)
    bank = blank(net, count, rank, seed)
    params = [p.requires_grad_(True) for pair in bank.factors.values() for p in pair]
    optimiser = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    who = torch.arange(count, device=net.device).repeat_interleave(draws)
    own = torch.eye(count, device=net.device)[who]
    x0, words = z[who], embeds[who] if len(embeds) == count else embeds

    def errors(draw: torch.Generator) -> Tensor:
        """(K,) mean squared errors at stratified timesteps."""
        u = (torch.rand(count * draws, generator=draw) + torch.arange(draws).repeat(count)) / draws
        t = (u * len(net.sigmas)).long().clamp(max=len(net.sigmas) - 1)
        eps = gaussian(z.shape[1:], [draw] * len(who)).to(net.device)
        s = net.sigmas[t]
        found = net.noise_in(x0 + s.to(x0).view(-1, 1, 1, 1) * eps, s, [Row(words, mix=own)])
        return (found - eps).square().mean((1, 2, 3)).unflatten(0, (count, draws)).mean(1)

    best = torch.full((count,), float("inf"), device=net.device)
    with attached(net, bank):
        for i in range(steps):
            if patience and i % CHECK == 0:
                with torch.no_grad():
                    now = torch.stack([errors(generator(seed, 5, n)) for n in range(4)]).mean(0)
                if i and (now > best * (1 - patience)).all():
                    break
                best = torch.minimum(best, now)
            with torch.enable_grad():
                loss = errors(generator(seed, 6, i))
                loss.sum().backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            yield Progress((i + 1) / steps, f"fitting LoRAs to the pictures, step {i + 1} of at most {steps} "
                           f"(error {loss.mean().item():.3f})")  # fmt: skip
    for p in params:
        p.requires_grad_(False)
    return bank
