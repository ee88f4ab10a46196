"""What SDXL needs of a card's memory at 1024 × 1024, computed: ``python -m benchmarks.memory``. Nothing is loaded.

Modules of its published configuration (Stability-AI/generative-models, configs/inference/sd_xl_base.yaml) run on
PyTorch's meta device, where tensors have shapes and no numbers, while the bytes of those that live at once are counted.
Left out, as only a card could tell: workspaces of convolutions, what the allocator loses between blocks, the driver.
Attention is taken as fused, which keeps no table of scores.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from engine.diffusion import lora, memory
from engine.diffusion.attention import per_step
from engine.diffusion.guidance import Pass
from engine.diffusion.memory import GB

BUDGETS = (6, 8, 12, 24)  # GB
SIDE, FACTOR, WIDTH = 1024, 8, 320  # pixels a side and a latent; channels of the UNet's first level
STEPS, PICTURES, RANK = 30, 2, 16  # morph: λ·T = .6 · 50 steps that look at both pictures; of its LoRAs
UNET = {
    "sample_size": SIDE // FACTOR,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "sample_size": SIDE,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
TEXT_2 = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "projection_dim": 1280}
TEXT_2 |= {"num_hidden_layers": 32, "hidden_act": "gelu"}  # type: ignore[dict-item]


class Alive(TorchDispatchMode):
    """Counts the bytes of all that is made inside and still lives: ``most`` is their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage(), given)
        return out

    def _note(self, storage: Any, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in given:  # a view of something known
            return
        self._seen[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self.now += size
        self.most = max(self.most, self.now)

    def _gone(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


class Fused(torch.autograd.Function):
    """The shapes of fused attention, and what it keeps for the way back."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])


def peak(fn: Callable[[], Any]) -> int:
    """The most bytes that live at once while ``fn`` runs on the meta device, beside what was there before."""

    def fused(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        return Fused.apply(q, k, v)

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", fused), torch.device("meta"), Alive() as alive:
        held = fn()
    del held
    return alive.most


def size(*modules: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())


def network() -> dict[str, Any]:
    """SDXL's UNet, autoencoder and both text encoders in half precision, without numbers."""
    with torch.device("meta"):
        texts = CLIPTextModel(CLIPTextConfig(**TEXT)), CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2))
        found = {"unet": UNet2DConditionModel(**UNET), "vae": AutoencoderKL(**VAE), "text": nn.ModuleList(texts)}
    return {name: module.half().eval().requires_grad_(False) for name, module in found.items()}


def rows(unet: Any, count: int) -> Tensor:
    """``count`` rows through the UNet."""
    half, side = torch.half, unet.config.sample_size
    added = {"text_embeds": torch.zeros(count, 1280, dtype=half), "time_ids": torch.zeros(count, 6, dtype=half)}
    words = torch.zeros(count, 77, unet.config.cross_attention_dim, dtype=half)
    x = torch.zeros(count, 4, side, side, dtype=half)
    return unet(x, torch.zeros(count), encoder_hidden_states=words, added_cond_kwargs=added).sample


def fitting(unet: Any) -> int:
    """Bytes at the peak of one row, forwards and backwards, while a LoRA is fitted (`lora.fit`)."""
    model: Any = SimpleNamespace(unet=unet, now=Pass(0, 1.0, torch.ones(1, 1, device="meta"), None))
    pairs = {n: (m.in_features, m.out_features) for n, m in lora.targets(unet).items()}
    made = {
        n: (torch.zeros(1, RANK, i, device="meta"), torch.zeros(1, o, RANK, device="meta"))
        for n, (i, o) in pairs.items()
    }
    for pair in made.values():
        for factor in pair:
            factor.requires_grad_(True)
    with lora.attach(model, lora.LoraStack(made)):
        return peak(lambda: rows(unet, 1).float().square().mean().backward())


def decoding(vae: Any, dtype: torch.dtype, tiles: bool) -> int:
    vae.to(dtype)
    memory.tile(vae, tiles)
    with torch.no_grad():
        return peak(lambda: vae.decode(torch.zeros(1, 4, SIDE // FACTOR, SIDE // FACTOR, dtype=dtype)).sample)


def planned(sizes: dict[str, int], row: int, shown: dict[tuple[torch.dtype, bool], int], kept: int) -> Iterator[list]:
    """Rows of the table: a word, and what it is for every budget."""
    for dtype, name in ((torch.half, ""), (torch.float, ", autoencoder in float32")):
        own = sizes | {"vae": sizes["vae"] * dtype.itemsize // 2}
        some = [memory.plan(n * GB, own, WIDTH, SIDE, FACTOR, 2, 64, dtype.itemsize) for n in BUDGETS]
        there = {part: [own[part] if p.offload else sum(own.values()) for p in some] for part in own}
        if dtype == torch.half:
            yield ["parts wait outside", *("yes" if p.offload else "no" for p in some)]
            yield ["UNet rows at a time", *(p.rows for p in some)]
            yield ["in use at a step, GB", *(gb(n + p.rows * row) for n, p in zip(there["unet"], some, strict=True))]
            yield ["what morph keeps is", *("on the card" if kept <= p.spare else "outside" for p in some)]
        yield ["pictures decoded at a time" + name, *("1, in tiles" if p.tiles else p.pictures for p in some)]
        used = [n + p.pictures * shown[dtype, p.tiles] for n, p in zip(there["vae"], some, strict=True)]
        yield ["in use at that, GB", *map(gb, used)]


def gb(count: float) -> str:
    return f"{count / GB:.1f}"


def main() -> None:
    parts = network()
    sizes, unet = {name: size(module) for name, module in parts.items()}, parts["unet"]
    kept = PICTURES * STEPS * per_step(unet, torch.empty(SIDE // FACTOR, SIDE // FACTOR, device="meta"))
    with torch.no_grad():
        row = peak(lambda: rows(unet, 1))
    shown = {(d, t): decoding(parts["vae"], d, t) for d in (torch.half, torch.float) for t in (False, True)}
    print("GB of weights, half precision:", ", ".join(f"{n} {gb(b)}" for n, b in sizes.items()))
    print(f"at a UNet row's peak {row / GB:.2f}; at that of one that fits a LoRA {gb(fitting(unet))}")
    for (dtype, tiles), count in shown.items():
        print(f"at a decoded picture's {gb(count)} ({str(dtype)[6:]}{', in tiles' * tiles})")
    print(f"kept by morph of {PICTURES} pictures in {STEPS} steps {gb(kept)}\n")
    print("| GB | " + " | ".join(map(str, BUDGETS)) + " |\n" + "|---" * (len(BUDGETS) + 1) + "|")
    for line in planned(sizes, row, shown, kept):
        print("| " + " | ".join(map(str, line)) + " |")


if __name__ == "__main__":
    main()
