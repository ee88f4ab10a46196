"""What both trainings share: a time budget, a checkpoint to resume from, an average of the weights and a log.

A step writes ``<work>/<name>.pt`` (model, EMA, optimiser, counters) and ``<work>/<name>.jsonl`` (one line a
hundred steps). Learning rate: linear warm-up, then cosine over ``horizon`` samples, so that a resumed run
goes on where the last one stopped, whatever its batch size or machine.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

FLORA = Path(__file__).resolve().parents[1] / "assets" / "models" / "flora"
WORK = Path(os.environ.get("CHRYSALIS_WORK", Path.home() / ".cache" / "chrysalis" / "training"))

SHIPPED = {"autoencoder": "vae", "unet": "unet", "text": "text_encoder"}  # where export puts each module


def pick_device(name: str) -> torch.device:
    """``auto`` → CUDA, then MPS, then CPU; any other name as torch understands it."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, dtype=torch.bfloat16)


def spent(what: str, samples: int, seconds: float) -> None:
    """Notes beside the weights what a part of them cost, for the model card."""
    path = FLORA / "training.json"
    noted = json.loads(path.read_text()) if path.exists() else {}
    noted[what] = {"samples": samples, "minutes": round(seconds / 60, 1)}
    path.write_text(json.dumps(noted, indent=1) + "\n")


class Trainer:
    """The state of one training: modules, optimiser, EMA, samples seen."""

    def __init__(self, name: str, modules: dict[str, nn.Module], device, lr: float, horizon: int, ema_samples: int):
        self.name, self.modules, self.device, self.lr, self.horizon = name, modules, device, lr, horizon
        self.ema_samples = ema_samples
        self.path = WORK / f"{name}.pt"
        self.samples, self.seconds = 0, 0.0
        for module in modules.values():
            module.to(device, memory_format=torch.channels_last)
        params = [p for m in modules.values() for p in m.parameters()]
        self.params = params
        self.optimiser = torch.optim.AdamW(
            params, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=device.type in ("cuda", "cpu")
        )
        if self.path.exists():
            state = torch.load(self.path, map_location=device, weights_only=True)
            for key, module in modules.items():
                module.load_state_dict(state["modules"][key])
            self.optimiser.load_state_dict(state["optimiser"])
            for group in self.optimiser.param_groups:  # what the checkpoint's machine chose is not this one's choice
                group["fused"] = device.type in ("cuda", "cpu")
            self.samples, self.seconds = state["samples"], state["seconds"]
            self.ema = [e.to(device) for e in state["ema"]]
            print(f"{name}: resumed after {self.samples} samples, {self.seconds / 60:.0f} min", flush=True)
        else:
            for key, module in modules.items():  # no checkpoint here: go on from what is shipped
                if key in SHIPPED and (shipped := next((FLORA / SHIPPED[key]).glob("*.safetensors"), None)):
                    module.load_state_dict({k: v.float() for k, v in load_file(shipped).items()})
                    print(f"{name}: {key} starts from {shipped}", flush=True)
            self.ema = [p.detach().clone() for p in params]
            noted = FLORA / "training.json"  # what the shipped weights have seen counts on
            if (
                any(key in SHIPPED for key in modules)
                and noted.exists()
                and name in (seen := json.loads(noted.read_text()))
            ):
                self.samples, self.seconds = seen[name]["samples"], seen[name]["minutes"] * 60
        self.begun = 0 if self.path.exists() else self.samples  # a fresh optimiser warms up from here

    def save(self) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        state = {
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema,
            "samples": self.samples,
            "seconds": self.seconds,
        }
        torch.save(state, self.path.with_suffix(".part"))
        self.path.with_suffix(".part").replace(self.path)  # a kill in the middle leaves the old one whole

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules carry the averaged weights inside this block."""
        kept = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            for p, e in zip(self.params, self.ema, strict=True):
                p.copy_(e)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, k in zip(self.params, kept, strict=True):
                    p.copy_(k)

    def step(self, loss: torch.Tensor, batch: int) -> float:
        """One optimiser step on ``loss`` (a scalar over ``batch`` samples). Returns the learning rate used."""
        progress = min(self.samples / self.horizon, 1.0)
        warm = min(1.0, (self.samples - self.begun + batch) / min(200 * batch, 0.05 * self.horizon))
        lr = self.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.samples += batch
        decay = min(1 - batch / self.ema_samples, self.samples / (self.samples + 20 * batch))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - decay)
        return lr

    def run(self, minutes: float, save_every: float = 240.0) -> Iterator[None]:
        """Yields until the budget is spent; saves now and then, and at the end."""
        started = last = saved = time.monotonic()
        while time.monotonic() - started < minutes * 60:
            yield
            now = time.monotonic()
            self.seconds, last = self.seconds + min(now - last, 60), now  # a long pause is no training
            if now - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def log(self, **values: float) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        line = {"samples": self.samples, "minutes": round(self.seconds / 60, 2)}
        line |= {k: float(f"{v:.5g}") for k, v in values.items()}
        with (WORK / f"{self.name}.jsonl").open("a") as f:
            f.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
