"""What flora makes, for its report: pictures drawn in every way it is used, through the engine itself."""

from __future__ import annotations

import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.diffusion import lora
from engine.diffusion.model import Network, Row, guided
from engine.diffusion.sampling import flow, gaussian, generator
from engine.requests import result
from engine.vision import images
from engine.vision.drawing import sketch_of, strokes_of
from training.unet import PALETTES

BATCH = 16


def tensor(block: np.ndarray) -> Tensor:
    return images.to_tensor([Image.fromarray(p) for p in block])


def arrays(x: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [−1, 1] → (B, H, W, 3) uint8."""
    return np.stack([np.asarray(p) for p in images.to_pictures(x)])


def walk(net: Network, x: Tensor, levels: list[float], rows: list[Row]) -> Tensor:
    for state in flow(net.field(rows), x, levels):
        x = state.x
    return x


def noise(net: Network, count: int, side: int, *key: int) -> Tensor:
    return gaussian((net.channels, side, side), [generator(*key, i) for i in range(count)]).to(net.device)


@torch.no_grad()
def drawn(net: Network, conditions: Tensor, levels: list[float], sampler: str = "ddim", seed: int = 2) -> np.ndarray:
    """(N, H, W, 3) pictures from drawings (N, 2C, h, w), along ``levels`` with a sampler's weights.

    It begins with the strokes under the largest noise. That noise never quite hides a picture's mean colour (Lin et al.
    2024, *Common diffusion noise schedules*): pure noise would tell the network a colour that nobody drew.
    """
    out = []
    with net.sampler(sampler):
        for i, cond in enumerate(conditions.split(BATCH)):
            x = cond[:, -net.channels :].to(net.device) + levels[0] * noise(net, len(cond), cond.shape[-1], seed, i)
            out.append(arrays(net.decode(walk(net, x, levels, [Row(net.embed([""]), 1.0, cond)]))))
    return np.concatenate(out)


@torch.no_grad()
def grown(net: Network, prompts: list[str], guidance: float, seed: int = 0) -> np.ndarray:
    """(N, H, W, 3) pictures from words and noise, at half of the size first, where most of the training was spent.

    The noise has no mean, for the reason given in `drawn`. The enlarged picture is then taken to t = 800 and down again
    (SDEdit at twice the size).
    """
    out, levels = [], net.levels(25)
    for i in range(0, len(prompts), BATCH):
        part = prompts[i : i + BATCH]
        rows = guided(net.embed(part), net.embed([""]), guidance)
        x = noise(net, len(part), net.size // net.factor // 2, seed, i)
        x = (x - x.mean((2, 3), keepdim=True)) * (1 + levels[0] ** 2) ** 0.5
        small = net.decode(walk(net, x, levels, rows)).clamp(-1, 1)
        x = net.encode(torch.nn.functional.interpolate(small, scale_factor=2, mode="bicubic").clamp(-1, 1))
        down = [s for s in levels if s <= float(net.sigmas[800])]
        x = walk(net, x + down[0] * noise(net, len(part), x.shape[-1], seed, i, 1), down, rows)
        out.append(arrays(net.decode(x)))
    return np.concatenate(out)


@torch.no_grad()
def reconstructed(net: Network, block: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [arrays(net.decode(net.encode(tensor(part)))) for part in np.array_split(block, -(-len(block) // 8))]
    )


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over the pictures, in dB."""
    mse = ((x.astype(np.float32) - y) / 255).__pow__(2).mean((1, 2, 3))
    return float((-10 * np.log10(mse)).mean())


@torch.no_grad()
def inverted(net: Network, block: np.ndarray, steps: int = 50) -> tuple[float, np.ndarray]:
    """DDIM inversion and back: the root mean square error of the latents (of unit variance), and the pictures."""
    z, rows = net.encode(tensor(block)), [Row(net.embed([""]))]
    levels = net.levels(steps)[:-1]
    up = walk(net, z, levels[::-1], rows)
    back = walk(net, up, [*levels, 0.0], rows)
    return float((back - z).square().mean().sqrt()), arrays(net.decode(back))


def drawings(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sketches and strokes (N, H, W, 3) of photographs, at the four strengths of the training in turn."""
    lines = np.stack([np.repeat(sketch_of(p)[..., None], 3, 2) for p in block])
    return lines, np.stack([strokes_of(p, *PALETTES[i % 4]) for i, p in enumerate(block)])


@torch.no_grad()
def conditions(net: Network, lines: np.ndarray, paints: np.ndarray) -> Tensor:
    """(N, 2C, h, w)."""
    parts = range(0, len(lines), BATCH)
    return torch.cat([torch.cat([net.encode(tensor(b[i : i + BATCH])) for b in (lines, paints)], 1) for i in parts])


def followed(drawn_: np.ndarray, lines: np.ndarray, paints: np.ndarray) -> tuple[float, float]:
    """How far pictures are from their drawings: lines (0 … 1, mean absolute) and colours (0 … 255, at 16 × 16)."""
    own = np.stack([sketch_of(p) for p in drawn_]).astype(np.float32)
    edge = np.abs(own - lines[..., 0]).mean() / 255
    small = [np.stack([np.asarray(Image.fromarray(p).resize((16, 16), Image.Resampling.BOX), np.float32) for p in b])
             for b in (drawn_, paints)]  # fmt: skip
    return float(edge), float(np.abs(small[0] - small[1]).mean())


@torch.no_grad()
def fitted(net: Network, block: np.ndarray, steps: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Pictures noised to t = 700 and denoised in 25 steps, before and after a LoRA is fitted to each."""
    z, words = net.encode(tensor(block)), net.embed([""])
    levels = [s for s in net.levels(25) if s <= float(net.sigmas[700])]
    x = z + levels[0] * noise(net, len(z), z.shape[-1], 7)
    before = arrays(net.decode(walk(net, x, levels, [Row(words)])))
    bank = result(lora.fit(net, z, words, steps, 16, 1e-3, patience=0))
    with lora.attached(net, bank):
        after = walk(net, x, levels, [Row(words, mix=torch.eye(len(z)))])
    return before, arrays(net.decode(after))


@torch.no_grad()
def live_ms(net: Network) -> float:
    """Milliseconds from a drawing's latents to the picture: four steps and the decoder, batch 1, median of seven."""
    side, took = net.size // net.factor, []
    cond = torch.cat([net.null((side, side))] * 2, 1)
    for i in range(9):
        begun = time.perf_counter()
        drawn(net, cond, net.jumps(), "live", seed=i)
        took.append(1000 * (time.perf_counter() - begun))
    return float(np.median(took[2:]))
