"""What every step of the training shares: its time, its record, its checkpoints and the precision of its weights.

A step writes ``WORK/<name>.pt``, a line of ``WORK/training.jsonl`` twice a minute, and the one progress bar. Stopped by
SIGTERM or Ctrl-C it saves first; called again it goes on from there.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

FLORA = Path(os.environ.get("CHRYSALIS_FLORA", Path(__file__).resolve().parents[1] / "assets" / "models" / "flora"))
WORK = Path(os.environ.get("CHRYSALIS_WORK", Path.home() / ".cache" / "chrysalis" / "flora2"))
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
# A processor that does not multiply in bf16 imitates it, seven times slower than float32.
FAST = CUDA or (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
BF16 = torch.bfloat16 if FAST else torch.float32  # of the working weights
STOP = threading.Event()  # asked to end: save, then end


def put(state: dict[str, Any], name: str) -> None:
    """Saves ``WORK/<name>.pt``; a kill in the middle leaves the old one whole."""
    WORK.mkdir(parents=True, exist_ok=True)
    torch.save(state, WORK / f"{name}.part")
    (WORK / f"{name}.part").replace(WORK / f"{name}.pt")


def get(name: str) -> dict[str, Any] | None:
    """What `put` saved under ``name``, on `DEVICE`; None where nothing was."""
    path = WORK / f"{name}.pt"
    # Counters and rates are numpy's now and then, which the restricted reader refuses; the files are one's own.
    return torch.load(path, map_location=DEVICE, weights_only=False) if path.exists() else None


def working(x: Tensor) -> Tensor:
    """``x`` (B, C, H, W) as the working weights want it: on `DEVICE`, in `BF16`, channels last."""
    return x.to(DEVICE, BF16).contiguous(memory_format=torch.channels_last)


def spent(what: str, samples: int, seconds: float) -> None:
    """Notes beside the exported weights what a part of them cost, for the model card."""
    path = FLORA / "training.json"
    noted = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    noted[what] = {"samples": samples, "minutes": round(seconds / 60, 1)}
    path.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf8")


class Weights:
    """Working copies of ``params`` in ``dtype``, with float32 masters, averages and AdamW.

    ``averages``: the lengths, in samples, of the exponential averages. An update of bf16 weights themselves would be
    lost in rounding: the masters take it, and the working copies follow.
    """

    def __init__(self, params: Sequence[torch.nn.Parameter], lr: float, averages=(20_000,), decay=0.0, dtype=BF16):
        self.params = list(params)
        self.masters = [p.detach().float().clone() for p in self.params]
        self.averages = {length: [m.clone() for m in self.masters] for length in averages}
        self.optimiser = torch.optim.AdamW(self.masters, lr=lr, betas=(0.9, 0.99), weight_decay=decay, fused=True)
        for p in self.params:
            p.data = p.data.to(dtype)

    def step(self, lr: float, batch: int, seen: int) -> None:
        """One step along the gradients, which were summed over ``batch`` samples after ``seen`` others."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        for m, p in zip(self.masters, self.params, strict=True):
            m.grad = None if p.grad is None else p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_([m for m in self.masters if m.grad is not None], 1.0)
        self.optimiser.step()
        self.show(None)
        for length, average in self.averages.items():
            keep = min(1 - batch / length, seen / (seen + 20 * batch))
            torch._foreach_lerp_(average, self.masters, 1 - keep)

    @torch.no_grad()
    def show(self, length: int | None) -> None:
        """The working copies become the average of ``length``, or the masters (None)."""
        torch._foreach_copy_(self.params, self.masters if length is None else self.averages[length])

    @contextmanager
    def shown(self, length: int | None) -> Iterator[None]:
        """The working copies are the average of ``length`` inside this block."""
        self.show(length)
        try:
            yield
        finally:
            self.show(None)

    def state(self) -> dict[str, Any]:
        return {"m": self.masters, "ema": self.averages, "o": self.optimiser.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        pairs = [(self.masters, state["m"]), *((own, state["ema"][k]) for k, own in self.averages.items())]
        for own, saved in pairs:
            for t, value in zip(own, saved, strict=True):
                t.copy_(value)
        self.optimiser.load_state_dict(state["o"])
        self.show(None)


class Run:
    """One step's time, counters and record: ``for _ in run.until(save): …; run.count(batch, loss=loss)``.

    ``minutes``: of this call. ``samples``, ``steps``, ``seconds``: what earlier calls did. ``total``: minutes over
    which `cosine` falls, all calls together (0: the earlier ones and this one).
    """

    bar = tqdm(disable=True)  # the one of the whole call

    def __init__(self, name: str, minutes: float, samples=0, steps=0, seconds=0.0, total=0.0):
        self.name, self.minutes, self.total = name, minutes, total or seconds / 60 + minutes
        self.samples, self.steps, self.before, self.took = samples, steps, seconds, 0.0
        self._values: dict[str, list[Any]] = {}

    @property
    def seconds(self) -> float:
        """Of all calls of this step."""
        return self.before + self.took

    @property
    def share(self) -> float:
        """Of this call's minutes, 0 … 1."""
        return min(1.0, self.took / max(60 * self.minutes, 1e-9))

    def cosine(self, floor: float) -> float:
        """1 at the beginning, falling to ``floor`` at the end of `total`."""
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.seconds / (60 * self.total))))

    def until(self, save: Callable[[], None], every: float = 240.0) -> Iterator[None]:
        """Yields until the minutes are over or the process is asked to end; saves every so many seconds and last."""
        began = saved = noted = time.time()
        before = [(s, signal.signal(s, lambda *_: STOP.set())) for s in (signal.SIGTERM, signal.SIGINT)]
        doing(self.name)
        while self.share < 1 and not STOP.is_set():
            yield
            now = time.time()
            Run.bar.update((now - began - self.took) / 60)
            self.took = now - began
            if now - noted > 30:
                self.flush()
                noted = now
            if now - saved > every:
                save()
                saved = time.time()
        self.flush()
        save()
        for s, handler in before:
            signal.signal(s, handler)

    def count(self, batch: int, **values: Any) -> None:
        """One step over ``batch`` samples; ``values`` (numbers, tensors of one) are averaged into the next line."""
        self.samples += batch
        self.steps += 1
        self.note(**values)

    def note(self, **values: Any) -> None:
        for key, value in values.items():
            self._values.setdefault(key, []).append(value.detach() if isinstance(value, Tensor) else value)

    def flush(self) -> None:
        if not self._values:
            return
        means = {k: float(f"{sum(map(float, v)) / len(v):.4g}") for k, v in self._values.items()}
        self._values = {}
        record(self.name, samples=self.samples, minutes=round(self.seconds / 60, 1), **means)


def record(step: str, **values: Any) -> None:
    """One line of ``WORK/training.jsonl``; shown on the bar, or printed where nobody watches a bar."""
    WORK.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"step": step} | values)
    with (WORK / "training.jsonl").open("a", encoding="utf8") as f:
        f.write(line + "\n")
    Run.bar.set_postfix(values)
    if Run.bar.disable:
        print(line, flush=True)


def doing(what: str) -> None:
    """Says on the bar what is being made."""
    Run.bar.set_description_str(what)
