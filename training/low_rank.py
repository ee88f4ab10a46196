"""A LoRA that is learnt at the network's own speed and saved in peft's format."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.loop import DEVICE, Weights

AVERAGE = 1500  # samples
TARGETS = r"(.*\.)?(conv|conv[12]|conv_in|conv_out|conv_shortcut|time_emb_proj|to_[qkv]|to_out\.0|proj_in|proj_out"
TARGETS += r"|net\.0\.proj|net\.2)"


class LowRank:
    """A LoRA on the convolutions and projections of ``net``, whose working weights become the sums W + B·A.

    The network runs at its own speed, and the gradient of a sum gives that of its factors (float32).
    """

    def __init__(self, net: nn.Module, rank: int):
        self.rank, self.parts = rank, {n: m for n, m in net.named_modules() if re.fullmatch(TARGETS, n)}
        net.requires_grad_(False)
        self.base = [m.weight.detach().clone() for m in self.parts.values()]
        sides = [w.flatten(1).shape for w in self.base]
        self.down = [nn.Parameter((2 * torch.rand(rank, n, device=DEVICE) - 1) / n**0.5) for _, n in sides]
        self.up = [nn.Parameter(torch.zeros(n, rank, device=DEVICE)) for n, _ in sides]
        self.weights = Weights([*self.down, *self.up], 0.0, (AVERAGE,), dtype=torch.float32)
        for m in self.parts.values():
            m.weight.requires_grad_(True)

    def each(self) -> Iterator[tuple[nn.Module, Tensor, Tensor, Tensor]]:
        return zip(self.parts.values(), self.base, self.down, self.up, strict=True)

    @torch.no_grad()
    def show(self) -> None:
        """Has the network work with what the factors are now."""
        for m, w, a, b in self.each():
            m.weight.copy_((w.flatten(1) + b @ a).view_as(w))

    @torch.no_grad()
    def step(self, lr: float, batch: int, seen: int) -> None:
        """One step along the gradients in the network, see `Weights`."""
        for m, _, a, b in self.each():
            grad, m.weight.grad = m.weight.grad.float().flatten(1), None
            a.grad, b.grad = b.T @ grad, grad @ a.T
        self.weights.step(lr, batch, seen)
        self.show()

    def save(self, folder: Path) -> None:
        """The averages in peft's format, bf16, with what every version of peft reads."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        tensors = {}
        with self.weights.shown(AVERAGE):
            for name, (_, w, a, b) in zip(self.parts, self.each(), strict=True):
                pair = {"A": a.view(-1, *w.shape[1:]), "B": b.view(*b.shape, *(1 for _ in w.shape[2:]))}
                for k, f in pair.items():
                    short = f.detach().to("cpu", torch.bfloat16, copy=True)
                    tensors[f"base_model.model.{name}.lora_{k}.weight"] = short
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": self.rank, "lora_alpha": self.rank, "lora_dropout": 0.0, "bias": "none"}
        config |= {"target_modules": TARGETS, "inference_mode": True}
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf8")
