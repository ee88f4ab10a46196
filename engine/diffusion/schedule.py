"""The noise levels of a network, as plain numbers: sigmas, steps, strengths, timesteps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from engine.requests import EngineError

FEW_STEPS = (999, 749, 499, 249)  # the timesteps between which flora's few-step weights jump (training/distil.py)
LCM = tuple(range(999, 0, -20))  # those LCM-LoRA was distilled at (Luo et al. 2023, arXiv 2311.05556)


class Schedule:
    """What a diffusers scheduler's config says, in sigma scale: x = x0 + σ·eps, σ = √((1 − ā)/ā).

    ``training`` holds the sigmas of all training timesteps, rising, float64. ``prediction``: "epsilon" or
    "v_prediction"; EngineError for another. ``zero_terminal_snr``: whether the last level shows nothing of the picture
    (Lin et al. 2024, *Common diffusion noise schedules*, §3.1); it then stands at σ = 4096, where x0 is −v but for
    what half precision rounds away.
    """

    def __init__(self, scheduler: Any, name: str):
        self._scheduler, self.config = scheduler, scheduler.config
        self.prediction: str = scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise EngineError(f"model {name} must predict epsilon or v_prediction, got {self.prediction}")
        least, abar = 2**-24, scheduler.alphas_cumprod.double()
        self.zero_terminal_snr = bool(abar[-1] <= least)
        abar = abar.clamp(min=least)
        self.training = ((1 - abar) / abar).sqrt()
        self._logs = self.training.log()

    def sigmas(self, steps: int) -> list[float]:
        """Falling sigmas of ``steps`` steps at the network's own spacing, and 0 at the end (steps + 1 numbers)."""
        self._scheduler.set_timesteps(steps)
        times = self._scheduler.timesteps.cpu().long().clamp(max=len(self.training) - 1)
        return [*self.training[times].tolist(), 0.0]

    def sigma(self, strength: float) -> float:
        """The sigma of a strength: 0 is no noise, 1 the last of the schedule (SDEdit's t0)."""
        return float(self.training[round(strength * (len(self.training) - 1))]) if strength > 0 else 0.0

    def sigmas_from_strength(self, strength: float, steps: int) -> list[float]:
        """Falling sigmas from that of ``strength`` to 0, evenly in time, of ``steps`` for the whole schedule.

        Unlike `sigmas` it begins where it says: the spacing of many checkpoints stops far below pure noise.
        """
        n = max(1, math.ceil(strength * steps - 1e-9))
        return [self.sigma(strength * (n - i) / n) for i in range(n + 1)]

    def few_step_sigmas(self, times: Sequence[int], top: float | None = None, steps: int = 4) -> list[float]:
        """Falling sigmas of few-step weights that jump between ``times``, from ``top`` (or pure noise) to 0."""
        picked = [times[i * len(times) // steps] for i in range(steps)]
        marks = [float(self.training[min(t, len(self.training) - 1)]) for t in picked]
        return [*marks, 0.0] if top is None else [top, *(m for m in marks if m < 0.99 * top), 0.0]

    def timestep(self, sigma: float) -> float:
        """The training timestep of a sigma; between two of them, by the logarithm."""
        logs = self._logs
        value = torch.tensor(max(sigma, 1e-9), dtype=torch.float64).log().clamp(logs[0], logs[-1])
        high = int(torch.searchsorted(logs, value).clamp(1, len(logs) - 1))
        t = high - 1 + float((value - logs[high - 1]) / (logs[high] - logs[high - 1]))
        return round(t) if abs(t - round(t)) < 1e-3 else t
