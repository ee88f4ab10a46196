"""A cheap look at latents on the way, on any network: decoding every step would cost more than the steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def linear_look(z: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The linear map from latents to colours that fits these pictures best, by ridge least squares, in milliseconds.

    ``z`` (B, C, h, w) and ``x`` (B, 3, H, W) are the job's own pictures; the map gives soft (B, 3, 4h, 4w).
    """
    small = interpolate(x.float().cpu(), z.shape[2:], mode="area")
    target = small.permute(0, 2, 3, 1).flatten(0, 2)
    source = torch.cat([z.float().cpu().permute(0, 2, 3, 1).flatten(0, 2), torch.ones(len(target), 1)], 1)
    gram = source.T @ source + 0.02 * len(target) * torch.eye(source.shape[1])
    weights = torch.linalg.solve(gram, source.T @ target)  # (C + 1, 3)

    def look(latents: Tensor) -> Tensor:
        colours = (latents.float().cpu().permute(0, 2, 3, 1) @ weights[:-1] + weights[-1]).permute(0, 3, 1, 2)
        return interpolate(colours, scale_factor=4, mode="bicubic")

    return look
