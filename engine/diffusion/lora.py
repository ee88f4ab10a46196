"""LoRAs fitted to pictures (Hu et al. 2021; DiffMorpher §3.2), all in one batch, and mixed per row.

A `LoraStack` holds one LoRA a picture for the same layers. With `attach`, every row of a batch carries its own mix of
them (`Conditioning.lora_weights`): nothing is merged and nothing reloaded, so a whole morph is one batch. Two ways to
mix (methods.md §6.1): the sum of the deltas, Σ wₖ BₖAₖ, which DiffMorpher's equation 4 says; or factor-wise,
(Σ wₖ Bₖ)(Σ wₖ Aₖ), which its code does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

from engine.diffusion.guidance import Conditioning
from engine.diffusion.memory import SHORT
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import gaussian, generator
from engine.diffusion.words import Words
from engine.requests import EngineError

CHECK = 20  # steps between two looks at how well the pictures are known


@dataclass
class LoraStack:
    """K LoRAs: a layer's name → A (K, r, in · kernel) and B (K, out, r), float32, each layer of a rank r of its own."""

    factors: dict[str, tuple[Tensor, Tensor]]

    @property
    def count(self) -> int:
        return next(iter(self.factors.values()))[0].shape[0]

    def only(self, k: int) -> LoraStack:
        """LoRA ``k`` alone."""
        return LoraStack({name: (a[k : k + 1], b[k : k + 1]) for name, (a, b) in self.factors.items()})

    def copy(self) -> LoraStack:
        """The same in memory of its own, out of any training."""
        return LoraStack({n: (a.detach().clone(), b.detach().clone()) for n, (a, b) in self.factors.items()})

    def flatten(self) -> dict[str, Tensor]:
        """As plain tensors, for the cache: ``<layer> A`` and ``<layer> B``."""
        return {f"{n} {side}": t for n, pair in self.factors.items() for side, t in zip("AB", pair, strict=True)}

    @staticmethod
    def unflatten(tensors: dict[str, Tensor], device: torch.device) -> LoraStack:
        """`flatten` backwards, on ``device``."""
        names = sorted({n.rpartition(" ")[0] for n in tensors})
        return LoraStack({n: (tensors[f"{n} A"].to(device), tensors[f"{n} B"].to(device)) for n in names})

    @staticmethod
    def join(stacks: list[LoraStack]) -> LoraStack:
        """One stack of several, in their order: zeros stand where one lacks a layer, or a rank that another has."""
        out = {}
        for name in {n: None for s in stacks for n in s.factors}:  # a set in order
            like_a, like_b = next(s.factors[name] for s in stacks if name in s.factors)
            rank, rows = max(s.factors[name][0].shape[1] for s in stacks if name in s.factors), []
            for stack in stacks:
                none_a = like_a.new_zeros(stack.count, 0, like_a.shape[2])
                none_b = like_b.new_zeros(stack.count, like_b.shape[1], 0)
                a, b = stack.factors.get(name, (none_a, none_b))
                rows.append((pad(a, (0, 0, 0, rank - a.shape[1])), pad(b, (0, rank - b.shape[2]))))
            out[name] = tuple(torch.cat([r[i] for r in rows]) for i in (0, 1))
        return LoraStack(out)


def targets(unet: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are fitted: queries, keys, values and outputs of every attention, as in the published code."""
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    return {n: m for n, m in unet.named_modules() if isinstance(m, nn.Linear) and n.endswith(ends)}


def blank(model: LatentDiffusion, count: int, rank: int, seed: int = 0) -> LoraStack:
    """``count`` LoRAs that change nothing yet: B zero, A Gaussian of deviation 1/rank, the same for all (§6.1)."""
    draw, factors = generator(seed, 4), {}
    for name, layer in targets(model.unet).items():
        a = torch.randn((1, rank, layer.in_features), generator=draw) / rank
        b = torch.zeros(count, layer.out_features, rank, device=model.device)
        factors[name] = a.repeat(count, 1, 1).to(model.device), b
    return LoraStack(factors)


@contextmanager
def attach(model: LatentDiffusion, stack: LoraStack, form: str = "sum") -> Iterator[None]:
    """Inside, every row adds the mix of LoRAs that its ``lora_weights`` (n, K) say; rows without any add none."""
    layers = {n: m for n, m in model.unet.named_modules() if n in stack.factors}
    if missing := set(stack.factors) - set(layers):
        raise EngineError(f"LoRA must fit {model.name}, got one for the layer {min(missing)}, which it does not have")
    hooks = {name: _hook(model, a, b, form) for name, (a, b) in stack.factors.items()}
    handles = [layers[name].register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(model: LatentDiffusion, a: Tensor, b: Tensor, form: str) -> Any:
    count, rank = a.shape[:2]
    ready: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def factors(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(K · r, in · kernel) and (out, K · r), in its precision; made once, unless they are being fitted."""
        if a.requires_grad or dtype not in ready:
            ready[dtype] = a.flatten(0, 1).to(dtype), b.permute(1, 0, 2).flatten(1).to(dtype)
        return ready[dtype]

    def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if model.now is None or model.now.lora_weights is None:
            return out
        x = args[0]
        down, up = factors(x.dtype)
        if isinstance(module, nn.Conv2d):
            kernel = down.view(len(down), -1, *module.kernel_size)
            h = conv2d(x, kernel, None, module.stride, module.padding, module.dilation).movedim(1, -1)
        else:
            h = linear(x, down)
        w = model.now.lora_weights.to(x.dtype).view(len(x), *[1] * (x.ndim - 2), count, 1)
        h = h.unflatten(-1, (count, rank)) * w
        if form == "factors":
            h = h.sum(-2, keepdim=True) * w
        h = linear(h.flatten(-2), up)
        return out + (h.movedim(-1, 1) if isinstance(module, nn.Conv2d) else h)

    return add


class FitStep(NamedTuple):
    """After a step of fitting: how many are done, the mean error, and how many steps nearer the end it is."""

    done: int
    error: float
    gained: int = 1


@dataclass
class Fit:
    """Pictures ``z`` (K, C, h, w) under their words (K rows), and the LoRAs that learn them."""

    model: LatentDiffusion
    z: Tensor
    words: Words
    stack: LoraStack
    rows: int  # a time; fewer once memory ran out
    ready: dict[int, LoraStack] = field(default_factory=dict)  # as well as each picture was known at the last look

    def __post_init__(self) -> None:
        self.active = list(range(len(self.z)))
        self.best = torch.full((len(self.z),), float("inf"), device=self.model.device)

    def draw(self, n: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Whose row it is, its timestep and its noise; ``n`` stratified ones for each active picture."""
        sigmas, m = self.model.schedule.training, len(self.active)
        u = (torch.rand(n, generator=draw) + torch.arange(n)) / n
        t = (u * len(sigmas)).long().clamp(max=len(sigmas) - 1)
        eps = gaussian(self.z.shape[1:], [draw] * n)
        return torch.tensor(self.active).repeat_interleave(n), t.repeat(m), eps.repeat(m, 1, 1, 1).to(self.model.device)

    def errors(self, who: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """(B,) mean squared errors (DiffMorpher eq. 3; of v where the network predicts that)."""
        row = Conditioning(self.words[who], lora_weights=torch.eye(len(self.z))[who])
        return self.model.errors(self.z[who], eps, self.model.schedule.training[t], [row])

    @torch.no_grad()
    def look(self, draw: torch.Generator, patience: float, astray: Exception) -> None:
        """Keeps what is known better than before; whom it no longer helps is no longer active."""
        seen = self.errors(*self.draw(16, draw)).unflatten(0, (len(self.active), 16)).mean(1)
        if not seen.isfinite().all():
            raise astray
        errors = dict(zip(self.active, seen, strict=True))
        self.ready |= {k: self.stack.only(k).copy() for k, e in errors.items() if e <= self.best[k]}
        self.active = [k for k, e in errors.items() if not e > self.best[k] * (1 - patience)]
        for k, e in errors.items():
            self.best[k] = torch.minimum(self.best[k], e)

    def backward(self, who: Tensor, t: Tensor, eps: Tensor, draws: int, optimiser: torch.optim.Optimizer) -> float:
        """Gradients of one step of ``draws`` rows a picture; the sum of errors. In parts, when memory runs out."""
        # In half precision the gradients would vanish; AdamW does not mind.
        boost = 1024.0 if self.model.dtype == torch.float16 else 1.0
        while True:
            try:
                total = 0.0
                for part in torch.arange(len(who)).split(self.rows):
                    loss = self.errors(who[part], t[part], eps[part]).sum() / draws
                    (boost * loss).backward()
                    total += loss.item()
                return total
            except SHORT as e:
                optimiser.zero_grad(set_to_none=True)
                self.rows = self.model.room.halve(e, min(self.rows, len(who)), self.z)


def fit(
    model: LatentDiffusion,
    z: Tensor,
    words: Words,
    steps: int,
    rank: int,
    rate: float,
    seed: int = 0,
    draws: int = 4,
    patience: float = 0.01,
) -> Generator[FitStep, None, LoraStack]:
    """One LoRA for each of the pictures ``z`` (K, C, h, w) under its words (K rows), by AdamW at ``rate``.

    A step sees ``draws`` stratified noise levels of every picture in one batch, the same for all, and nothing else is
    common: a picture's LoRA does not depend on its company. A picture is done when, over `CHECK` steps, its error on
    fixed noise has not fallen by more than the share ``patience`` (0: never). When memory runs out, the batch of a
    step is split and its gradients are summed. EngineError if the fit goes astray.
    """
    count = len(z)
    stack = blank(model, count, rank, seed)
    params = [p.requires_grad_(True) for pair in stack.factors.values() for p in pair]
    optimiser = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    astray = EngineError(f"lora_rate must be smaller for {model.name}, got {rate:g}: the fit went astray")
    job = Fit(model, z, words.expand(count), stack, count * draws)
    with attach(model, stack), model.learning(z):
        for i in range(steps):
            if patience and i % CHECK == 0:
                job.look(generator(seed, 5), patience, astray)
                if not job.active:
                    yield FitStep(i, float(job.best.mean()), steps - i)
                    break
            with torch.enable_grad():
                error = job.backward(*job.draw(draws, generator(seed, 6, i)), draws, optimiser) / len(job.active)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            yield FitStep(i + 1, error)
    last = [stack.only(k).copy() if k in job.active else job.ready[k] for k in range(count)]
    if not all(t.isfinite().all() for one in last for pair in one.factors.values() for t in pair):
        raise astray
    return LoraStack.join(last)
