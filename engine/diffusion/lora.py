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
from torch.nn.functional import linear, pad

from engine.diffusion.memory import SHORT
from engine.diffusion.model import Network, Row
from engine.diffusion.sampling import gaussian, generator
from engine.requests import EngineError, Progress

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

    def only(self, k: int) -> Bank:
        """The bank of LoRA ``k`` alone."""
        return Bank({name: (a[k : k + 1], b[k : k + 1]) for name, (a, b) in self.factors.items()})

    def copied(self) -> Bank:
        """The same in memory of its own, out of any training."""
        return Bank({n: (a.detach().clone(), b.detach().clone()) for n, (a, b) in self.factors.items()})

    @staticmethod
    def joined(banks: list[Bank]) -> Bank:
        """One bank of several, in their order: zeros stand where one lacks a layer, or a rank that another has."""
        rank, out = max(b.rank for b in banks), {}
        for name in {n: None for b in banks for n in b.factors}:  # a set in order
            like = next(b.factors[name] for b in banks if name in b.factors)
            rows = []
            for bank in banks:
                a, b = bank.factors.get(name) or (like[0].new_zeros(bank.count, 0, like[0].shape[2]),
                                                  like[1].new_zeros(bank.count, like[1].shape[1], 0))  # fmt: skip
                rows.append((pad(a, (0, 0, 0, rank - a.shape[1])), pad(b, (0, rank - b.shape[2]))))
            out[name] = tuple(torch.cat([r[i] for r in rows]) for i in (0, 1))
        return Bank(out)


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
    layers = {n: m for n, m in net.unet.named_modules() if n in bank.factors}
    if missing := set(bank.factors) - set(layers):
        raise EngineError(f"LoRA must fit {net.name}, got one for the layer {min(missing)}, which it does not have")

    def hook(a: Tensor, b: Tensor):
        count, rank = a.shape[:2]
        ready: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

        def factors(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
            """(K · r, in) and (out, K · r), in the network's precision; made once, unless they are being fitted."""
            if a.requires_grad or dtype not in ready:
                ready[dtype] = a.flatten(0, 1).to(dtype), b.permute(1, 0, 2).flatten(1).to(dtype)
            return ready[dtype]

        def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if net.now is None or net.now.mix is None:
                return out
            x = args[0].movedim(1, -1) if isinstance(module, nn.Conv2d) else args[0]
            down, up = factors(x.dtype)
            w = net.now.mix.to(x.dtype).view(len(x), *[1] * (x.ndim - 2), count, 1)
            h = linear(x, down).unflatten(-1, (count, rank)) * w
            if form == "factors":
                h = h.sum(-2, keepdim=True) * w
            h = linear(h.flatten(-2), up)
            return out + (h.movedim(-1, 1) if isinstance(module, nn.Conv2d) else h)

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

    A step sees ``draws`` stratified noise levels of every picture in one batch, the same for all, and nothing else is
    common: a picture's LoRA does not depend on its company. A picture is done when, over `CHECK` steps, its error on
    fixed noise has not fallen by more than the share ``patience`` (0: never). Loss: squared error of the noise
    (DiffMorpher eq. 3). When memory runs out, the batch of a step is split and its gradients are summed.
    """
    count = len(z)
    bank = blank(net, count, rank, seed)
    params = [p.requires_grad_(True) for pair in bank.factors.values() for p in pair]
    optimiser = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    words = embeds.expand(count, -1, -1)
    ready: dict[int, Bank] = {}  # as well as each picture was known at the last look
    size = count * draws  # rows a time
    boost = 1024.0 if net.dtype == torch.float16 else 1.0  # or the gradients would vanish; AdamW does not mind

    def rows(active: list[int], n: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Whose row it is, its timestep and its noise; ``n`` stratified ones for each active picture."""
        u = (torch.rand(n, generator=draw) + torch.arange(n)) / n
        t = (u * len(net.sigmas)).long().clamp(max=len(net.sigmas) - 1)
        eps = gaussian(z.shape[1:], [draw] * n)
        m = len(active)
        return torch.tensor(active).repeat_interleave(n), t.repeat(m), eps.repeat(m, 1, 1, 1).to(net.device)

    def errors(who: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """(B,) mean squared errors of the rows."""
        s = net.sigmas[t]
        noisy = z[who] + s.to(z).view(-1, 1, 1, 1) * eps
        found = net.noise_in(noisy, s, [Row(words[who], mix=torch.eye(count)[who])])
        return (found - eps).square().mean((1, 2, 3))

    def step(active: list[int], i: int) -> float:
        """Gradients of one step; the mean error."""
        nonlocal size
        who, t, eps = rows(active, draws, generator(seed, 6, i))
        while True:
            try:
                total = 0.0
                for part in torch.arange(len(who)).split(size):
                    loss = errors(who[part], t[part], eps[part]).sum() / draws
                    (boost * loss).backward()
                    total += loss.item()
                return total / len(active)
            except SHORT as e:
                optimiser.zero_grad(set_to_none=True)
                size = net.smaller(e, min(size, len(who)), z)

    best = torch.full((count,), float("inf"), device=net.device)
    active = list(range(count))
    with attached(net, bank), net.learning(z):
        for i in range(steps):
            if patience and i % CHECK == 0:
                with torch.no_grad():
                    now = errors(*rows(active, 16, generator(seed, 5))).unflatten(0, (len(active), 16)).mean(1)
                for k, error in zip(list(active), now, strict=True):
                    if not error.isfinite():
                        raise EngineError(
                            f"lora_rate must be smaller for {net.name}, got {rate:g}: the fit went astray"
                        )
                    if error <= best[k]:
                        ready[k] = bank.only(k).copied()
                    if i and error > best[k] * (1 - patience):
                        active.remove(k)
                    best[k] = torch.minimum(best[k], error)
                if not active:
                    break
            with torch.enable_grad():
                error = step(active, i)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            yield Progress((i + 1) / steps, f"fitting LoRAs, step {i + 1} of at most {steps} (error {error:.3f})")
    yield Progress(1.0, "LoRAs are fitted")
    last = [bank.only(k).copied() if k in active else ready[k] for k in range(count)]
    if not all(t.isfinite().all() for one in last for pair in one.factors.values() for t in pair):
        raise EngineError(f"lora_rate must be smaller for {net.name}, got {rate:g}: the fit went astray")
    return Bank.joined(last)
