"""How different two pictures look, without downloads: features of the resident network's own autoencoder.

The form is that of LPIPS (Zhang et al. 2018, eq. 1): at every stage of the encoder the features are scaled to length 1
over their channels, and the squared difference is averaged over the picture. Nothing is learnt for it; how well it
agrees with a learnt metric is measured by ``python -m training report`` (rank correlation over 200 pairs).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models import Network


def distance(net: Network, x: Tensor, y: Tensor) -> Tensor:
    """(B,) distances between pictures ``x`` and ``y``, both (B, 3, H, W) in [−1, 1]; 0 for equal ones, at most 4."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, out: Tensor) -> None:
        f = out.float()
        found.append(f * torch.rsqrt(f.square().sum(1, keepdim=True) + 1e-8))

    def one(a: Tensor, b: Tensor) -> Tensor:
        found.clear()
        net.vae.encode(torch.cat([a, b]).to(net.dtype, memory_format=torch.channels_last))
        pairs = [f.chunk(2) for f in found]
        return torch.stack([(p - q).square().sum(1).mean((1, 2)) for p, q in pairs]).mean(0)

    handles = [block.register_forward_hook(keep) for block in net.vae.encoder.down_blocks]
    try:
        return net.chunked(one, x, y).cpu()
    finally:
        for handle in handles:
            handle.remove()
