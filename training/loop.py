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
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
# What numpy's numbers are made of in a file: by the names that its versions 1 and 2 have for it.
SCALAR, DTYPES = np.float64(0).__reduce__()[0], [type(np.dtype(kind)) for kind in "?bhilqBHILQefd"]
NUMBERS = [*((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")), np.dtype, *DTYPES]
STOP = threading.Event()  # asked to end: save, then end


def put(state: dict[str, Any], name: str) -> None:
    """Saves ``WORK/<name>.pt``; a kill in the middle leaves the old one whole."""
    WORK.mkdir(parents=True, exist_ok=True)
    torch.save(plain(state), WORK / f"{name}.part")
    (WORK / f"{name}.part").replace(WORK / f"{name}.pt")


def get(name: str) -> dict[str, Any] | None:
    """What `put` saved under ``name``, on `DEVICE`; None where nothing was."""
    path = WORK / f"{name}.pt"
    if not path.exists():
        return None
    with torch.serialization.safe_globals(NUMBERS):  # which older files hold
        return torch.load(path, map_location=DEVICE, weights_only=True)


def plain(value: Any) -> Any:
    """The same with numpy's numbers and arrays, of which counters and rates are made now and then, as Python's and
    torch's own: the restricted reader knows no others."""
    if type(value) is dict:
        return {plain(k): plain(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value.item() if isinstance(value, np.generic) else value


def working(x: Tensor) -> Tensor:
    """``x`` (B, C, H, W) as the working weights want it: on `DEVICE`, in `BF16`, channels last."""
    return x.to(DEVICE, BF16).contiguous(memory_format=torch.channels_last)


def spent(what: str, samples: int, seconds: float, **own: Any) -> None:
    """Notes beside the exported weights what a part of them cost, for the model card, and what else is its ``own``."""
    path = FLORA / "training.json"
    noted = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    noted[what] = {"samples": samples, "minutes": round(seconds / 60, 1)} | own
    write(path, noted)


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf8")


def orthogonal(x: Tensor) -> Tensor:
    """Roughly the orthogonal matrix nearest to ``x`` (rows ≤ columns): five steps of Newton and Schulz, singular values
    between .7 and 1.2 (Jordan et al. 2024, *Muon*; the coefficients are theirs)."""
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x


class Weights:
    """Working copies of ``params`` in ``dtype``, with float32 masters, averages and AdamW.

    ``averages``: the lengths, in samples, of the exponential averages. An update of bf16 weights themselves would be
    lost in rounding: the masters take it, and the working copies follow. ``muon``: those of the params, whose update is
    made orthogonal instead (Jordan et al. 2024, *Muon*), at `MUON` times the rate: it needs fewer steps.
    """

    MUON = 6.0

    def __init__(
        self, params: Sequence[torch.nn.Parameter], lr: float, averages=(20_000,), decay=0.0, dtype=BF16, muon=()
    ):
        self.params = list(params)
        self.masters = [p.detach().float().clone() for p in self.params]
        self.averages = {length: [m.clone() for m in self.masters] for length in averages}
        chosen = [any(p is q for q in muon) for p in self.params]
        self.momenta = {i: torch.zeros_like(m) for i, m in enumerate(self.masters) if chosen[i]}
        self.others = [m for i, m in enumerate(self.masters) if not chosen[i]]
        self.optimiser = torch.optim.AdamW(self.others, lr=lr, betas=(0.9, 0.99), weight_decay=decay, fused=True)
        for p in self.params:
            p.data = p.data.to(dtype)

    def step(self, lr: float, batch: int, seen: int) -> None:
        """One step along the gradients, which were summed over ``batch`` samples after ``seen`` others."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        for m, p in zip(self.masters, self.params, strict=True):
            m.grad = None if p.grad is None else p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_([m for m in self.others if m.grad is not None], 1.0)
        self.optimiser.step()
        for i, momentum in self.momenta.items():
            momentum.lerp_(self.masters[i].grad, 0.05)
            update = orthogonal(self.masters[i].grad.lerp(momentum, 0.95).flatten(1))
            self.masters[i].sub_(update.view_as(momentum), alpha=self.MUON * lr)
        self.show(None)
        for length, average in self.averages.items():
            keep = min(1 - batch / length, seen / (seen + 20 * batch))
            torch._foreach_lerp_(average, self.masters, 1 - keep)

    @torch.no_grad()
    def show(self, length: int | None) -> None:
        """The working copies become the average of ``length``, or the masters (None)."""
        torch._foreach_copy_(self.params, self.masters if length is None else self.averages[length])

    def state(self) -> dict[str, Any]:
        return {"m": self.masters, "ema": self.averages, "o": self.optimiser.state_dict(), "mu": self.momenta}

    def load(self, state: dict[str, Any]) -> None:
        pairs = [(self.masters, state["m"]), *((own, state["ema"][k]) for k, own in self.averages.items())]
        for own, saved in pairs:
            for t, value in zip(own, saved, strict=True):
                t.copy_(value)
        for i, momentum in self.momenta.items():
            momentum.copy_(state["mu"][i])
        self.optimiser.load_state_dict(state["o"])
        self.show(None)


class Run:
    """One step's time, counters, checkpoint and record: ``for _ in run.until(state): …; run.count(batch, loss=loss)``.

    ``minutes``: of this call. ``file``: the checkpoint, whose content is `state`, {} in the first call. ``total``:
    minutes over which `cosine` falls, all calls together (0: the earlier ones and this one).
    """

    bar = tqdm(disable=True)  # the one of the whole call

    def __init__(self, name: str, file: str, minutes: float, total: float = 0.0):
        self.name, self.file, self.minutes, self.state = name, file, minutes, get(file) or {}
        self.samples, self.steps = self.state.get("seen", self.state.get("n", 0)), self.state.get("steps", 0)
        self.seconds = self.state.get("sec", 0.0)  # of all calls of this step
        self.share = 0.0  # of this call's minutes
        self.total = total or self.seconds / 60 + minutes
        self._values: defaultdict[str, list[Any]] = defaultdict(list)

    def cosine(self, floor: float) -> float:
        """1 at the beginning, falling to ``floor`` at the end of `total`."""
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.seconds / (60 * self.total))))

    def until(self, state: Callable[[], dict[str, Any]], every: float = 240.0) -> Iterator[None]:
        """Yields until the minutes are over or the process is asked to end; saves every so many seconds and last."""
        began = saved = noted = last = time.time()
        before = [(s, signal.signal(s, lambda *_: STOP.set())) for s in (signal.SIGTERM, signal.SIGINT)]
        Run.bar.set_description_str(self.name)
        self.state.clear()  # taken up, and half a gigabyte
        while self.share < 1 and not STOP.is_set():
            yield
            took, last = time.time() - last, time.time()
            self.seconds += took
            self.share = min(1.0, (last - began) / max(60 * self.minutes, 1e-9))
            Run.bar.update(took / 60)
            if last - noted > 30:
                self.flush()
                noted = last
            if last - saved > every:
                self.save(state())
                saved = time.time()
        self.flush()
        self.save(state())
        for s, handler in before:
            signal.signal(s, handler)

    def save(self, state: dict[str, Any]) -> None:
        """With the counters as recipe.py reads them: of an autoencoder's file "seen", of a network's "n"."""
        counters = {"n": self.samples, "seen": self.samples, "steps": self.steps, "sec": self.seconds}
        put(state | counters, self.file)

    def count(self, batch: int, **values: Any) -> None:
        """One step over ``batch`` samples; ``values`` (numbers, tensors of one) are averaged into the next line."""
        self.samples += batch
        self.steps += 1
        for key, value in values.items():
            self._values[key].append(value.detach() if isinstance(value, Tensor) else value)

    def flush(self) -> None:
        if self._values:
            means = {k: float(f"{sum(map(float, v)) / len(v):.4g}") for k, v in self._values.items()}
            record(self.name, samples=self.samples, minutes=round(self.seconds / 60, 1), **means)
        self._values.clear()


def record(step: str, **values: Any) -> None:
    """One line of ``WORK/training.jsonl``; shown on the bar, or printed where nobody watches a bar."""
    WORK.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"step": step} | values)
    with (WORK / "training.jsonl").open("a", encoding="utf8") as f:
        f.write(line + "\n")
    Run.bar.set_postfix(values)
    if Run.bar.disable:
        print(line, flush=True)
