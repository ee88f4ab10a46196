"""What flora makes, for its report: pictures drawn in every way it is used, through the engine itself."""

from __future__ import annotations

import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.diffusion import lora
from engine.diffusion.guidance import Conditioning, classifier_free
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import gaussian, generator, sample
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


def walk(net: LatentDiffusion, x: Tensor, sigmas: list[float], rows: list[Conditioning]) -> Tensor:
    for state in sample(net.denoiser(rows), x, sigmas):
        x = state.x
    return x


def noise(net: LatentDiffusion, count: int, side: int, *key: int) -> Tensor:
    return gaussian((net.channels, side, side), [generator(*key, i) for i in range(count)]).to(net.device)


@torch.no_grad()
def draw(
    net: LatentDiffusion, conditions: Tensor, sigmas: list[float], sampler: str = "ddim", seed: int = 2
) -> np.ndarray:
    """(N, H, W, 3) pictures from drawings (N, 2C, h, w), along ``sigmas`` with a sampler's weights.

    It begins with the strokes under the largest noise. That noise never quite hides a picture's mean colour (Lin et al.
    2024, *Common diffusion noise schedules*): pure noise would tell the network a colour that nobody drew.
    """
    out = []
    with net.resident.weights_for(sampler):
        for i, cond in enumerate(conditions.split(BATCH)):
            x = cond[:, -net.channels :].to(net.device) + sigmas[0] * noise(net, len(cond), cond.shape[-1], seed, i)
            row = Conditioning(net.embed([""]), concat_latents=cond)
            out.append(arrays(net.decode(walk(net, x, sigmas, [row]))))
    return np.concatenate(out)


@torch.no_grad()
def imagine(net: LatentDiffusion, prompts: list[str], guidance: float, seed: int = 0) -> np.ndarray:
    """(N, H, W, 3) pictures from words and noise, at half of the size first, where most of the training was spent.

    The noise has no mean, for the reason given in `draw`. The enlarged picture is then taken to t = 800 and down again
    (SDEdit at twice the size).
    """
    out, sigmas = [], net.schedule.sigmas(25)
    for i in range(0, len(prompts), BATCH):
        part = prompts[i : i + BATCH]
        rows = classifier_free(net.embed(part), net.embed([""]), guidance)
        x = noise(net, len(part), net.size // net.vae_scale_factor // 2, seed, i)
        x = (x - x.mean((2, 3), keepdim=True)) * (1 + sigmas[0] ** 2) ** 0.5
        small = net.decode(walk(net, x, sigmas, rows)).clamp(-1, 1)
        x = net.encode(torch.nn.functional.interpolate(small, scale_factor=2, mode="bicubic").clamp(-1, 1))
        down = [s for s in sigmas if s <= float(net.schedule.training[800])]
        x = walk(net, x + down[0] * noise(net, len(part), x.shape[-1], seed, i, 1), down, rows)
        out.append(arrays(net.decode(x)))
    return np.concatenate(out)


@torch.no_grad()
def reconstruct(net: LatentDiffusion, block: np.ndarray) -> np.ndarray:
    parts = np.array_split(block, -(-len(block) // 8))
    return np.concatenate([arrays(net.decode(net.encode(tensor(part)))) for part in parts])


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over the pictures, in dB."""
    mse = ((x.astype(np.float32) - y) / 255).__pow__(2).mean((1, 2, 3))
    return float((-10 * np.log10(mse)).mean())


@torch.no_grad()
def invert(net: LatentDiffusion, block: np.ndarray, steps: int = 50) -> tuple[float, np.ndarray]:
    """DDIM inversion and back: the root mean square error of the latents (of unit variance), and the pictures."""
    z, rows = net.encode(tensor(block)), [Conditioning(net.embed([""]))]
    sigmas = net.schedule.sigmas(steps)
    up = walk(net, z, sigmas[-2::-1], rows)
    back = walk(net, up, sigmas, rows)
    return float((back - z).square().mean().sqrt()), arrays(net.decode(back))


def drawings(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sketches and strokes (N, H, W, 3) of photographs, at the four strengths of the training in turn."""
    lines = np.stack([np.repeat(sketch_of(p)[..., None], 3, 2) for p in block])
    return lines, np.stack([strokes_of(p, *PALETTES[i % 4]) for i, p in enumerate(block)])


@torch.no_grad()
def conditions(net: LatentDiffusion, lines: np.ndarray, paints: np.ndarray) -> Tensor:
    """(N, 2C, h, w)."""
    parts = range(0, len(lines), BATCH)
    return torch.cat([torch.cat([net.encode(tensor(b[i : i + BATCH])) for b in (lines, paints)], 1) for i in parts])


def faithfulness(pictures: np.ndarray, lines: np.ndarray, paints: np.ndarray) -> tuple[float, float]:
    """How far pictures are from their drawings: lines (0 … 1, mean absolute) and colours (0 … 255, at 16 × 16)."""
    own = np.stack([sketch_of(p) for p in pictures]).astype(np.float32)
    edge = np.abs(own - lines[..., 0]).mean() / 255
    small = [[Image.fromarray(p).resize((16, 16), Image.Resampling.BOX) for p in b] for b in (pictures, paints)]
    own, wanted = (np.stack([np.asarray(p, np.float32) for p in b]) for b in small)
    return float(edge), float(np.abs(own - wanted).mean())


@torch.no_grad()
def fit(net: LatentDiffusion, block: np.ndarray, steps: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Pictures noised to t = 700 and denoised in 25 steps, before and after a LoRA is fitted to each."""
    z, words = net.encode(tensor(block)), net.embed([""])
    sigmas = [s for s in net.schedule.sigmas(25) if s <= float(net.schedule.training[700])]
    x = z + sigmas[0] * noise(net, len(z), z.shape[-1], 7)
    before = arrays(net.decode(walk(net, x, sigmas, [Conditioning(words)])))
    stack = result(lora.fit(net, z, words, steps, 16, 1e-3, patience=0))
    with lora.attach(net, stack):
        after = walk(net, x, sigmas, [Conditioning(words, lora_weights=torch.eye(len(z)))])
    return before, arrays(net.decode(after))


@torch.no_grad()
def live_ms(net: LatentDiffusion) -> float:
    """Milliseconds from a drawing's latents to the picture: four steps and the decoder, batch 1, median of seven."""
    side, took = net.size // net.vae_scale_factor, []
    cond = torch.cat([net.null_latent((side, side))] * 2, 1)
    for i in range(9):
        begun = time.perf_counter()
        draw(net, cond, net.few_step_sigmas(), "live", seed=i)
        took.append(1000 * (time.perf_counter() - begun))
    return float(np.median(took[2:]))
