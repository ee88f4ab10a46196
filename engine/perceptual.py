"""How different two pictures look, without downloads: features of the resident network's own autoencoder.

The Euclidean distance between the features of the encoder's first stage, averaged over the picture. Nothing is learnt
for it. It was chosen among all stages, normalised over channels as in LPIPS (Zhang et al. 2018, eq. 1) or not, squared
or not, by rank correlation with a learnt metric over 200 pairs; ``python -m training report`` measures it on others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models import Network


def distance(net: Network, x: Tensor, y: Tensor) -> Tensor:
    """(B,) distances between pictures ``x`` and ``y``, both (B, 3, H, W) in [−1, 1]; 0 for equal ones.

    In units of the network's own features: distances of different networks do not compare.
    """
    encoder = net.vae.encoder

    def one(a: Tensor, b: Tensor) -> Tensor:
        both = torch.cat([a, b]).to(net.dtype, memory_format=torch.channels_last)
        p, q = encoder.down_blocks[0](encoder.conv_in(both)).float().chunk(2)
        return (p - q).square().sum(1).sqrt().mean((1, 2))

    return net.chunked(one, x, y).cpu()
