"""flora's autoencoder: diffusers' AutoencoderDC of residual blocks, factor 8 with 4 channels.

Loss: L1 + 0.4 × shift-tolerant LPIPS (AlexNet) on random 128-pixel crops, with relative noise on the latent so that
neighbouring latents decode to neighbouring pictures. The decoder alone is then trained with 0.1 × LPIPS and the error's
slopes, against a woven look, and with as much as 25 % noise, for the UNet's latents are never quite clean. More stands
in training/README.md.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderDC
from PIL import Image

from training.data import photographs, rows
from training.loop import WORK, Trainer, autocast


def build() -> AutoencoderDC:
    """4.7 M parameters; encoding a 256 × 256 picture is 4.6 GFLOP, decoding 16.4."""
    return AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(32, 32, 64, 128),
        decoder_block_out_channels=(24, 48, 96, 192),
        encoder_layers_per_block=(0, 1, 2, 4),
        decoder_layers_per_block=(1, 2, 2, 4),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        upsample_block_type="interpolate",  # pixel shuffle leaves a checkerboard
    )


def pixels(block: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float in [−1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(block)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def perceptual(device: torch.device):
    """The training-time perceptual distance (development requirement; weights inside the wheel)."""
    from stlpips_pytorch import stlpips

    net = stlpips.LPIPS(net="alex", variant="shift_tolerant").eval().requires_grad_(False)
    return net.to(device, memory_format=torch.channels_last)


def crops(block: np.ndarray, index: np.ndarray, size: int, rng: np.random.Generator) -> torch.Tensor:
    out = np.empty((len(index), size, size, 3), np.uint8)
    for k, i in enumerate(index):
        y, x = rng.integers(0, 257 - size, 2)
        crop = block[i, y : y + size, x : x + size]
        out[k] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return pixels(out)


def slopes(error: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels of an error (B, C, H, W): what a woven look is made of."""
    return (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2


@torch.no_grad()
def validate(model: AutoencoderDC, block: np.ndarray, index: np.ndarray, device, sheet=None) -> float:
    """Mean PSNR in dB over the pictures of ``index`` at full size; writes originals over copies to ``sheet``."""
    x = pixels(block[index]).to(device)
    with autocast(device):
        y = torch.cat([model.decode(model.encode(c).latent).sample for c in x.split(8)]).float().clamp(-1, 1)
    if sheet:
        pair = torch.cat([torch.cat([*x[:8]], 2), torch.cat([*y[:8]], 2)], 1)
        Image.fromarray(((pair + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()).save(sheet)
    mse = ((x - y) / 2).square().mean((1, 2, 3))
    return float((-10 * torch.log10(mse)).mean())


def train(minutes: float, device: torch.device, part: str, batch: int, horizon: int, lr: float) -> None:
    """``part`` "decoder" holds the encoder still, so that latents and the UNet trained on them stay valid."""
    torch.manual_seed(0)
    model = build()
    if part == "decoder":
        model.encoder.requires_grad_(False)
    trainer = Trainer("autoencoder", {"autoencoder": model}, device, lr, horizon, ema_samples=8000)
    lpips, weight = perceptual(device), 0.1 if part == "decoder" else 0.4
    block, index = photographs(), rows()
    train_index = np.array([i for i, r in enumerate(index) if r.split == "train"])
    val_index = np.array([i for i, r in enumerate(index) if r.split == "val"])[::18][:32]
    rng = np.random.default_rng(trainer.samples)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    encode, decode = torch.compile(model.encoder), torch.compile(model.decoder)
    for step, _ in enumerate(trainer.run(minutes)):
        x = crops(block, np.sort(rng.choice(train_index, batch)), 128, rng).to(
            device, memory_format=torch.channels_last
        )
        with autocast(device):
            z = encode(x)
            amount = 0.07
            if part == "decoder":  # none for some, up to a quarter for the rest
                amount = (0.4 * torch.rand(batch, 1, 1, 1, device=device) - 0.15).clamp(min=0)
            z = z + amount * z.detach().float().std() * torch.randn_like(z)
            y = decode(z)
            some = slice(0, batch if device.type == "cuda" else batch // 2)  # most of a CPU step's time otherwise
            distance = lpips(x[some], y[some]).mean()
        l1 = (x - y.float()).abs().mean()
        loss = (
            l1
            + (slopes(x - y.float()) if part == "decoder" else 0.0)
            + weight * distance.float()
            + 1e-4 * z.float().square().mean()
        )
        rate = trainer.step(loss, batch)
        if step % 100 == 99:
            trainer.log(loss=loss.item(), l1=l1.item(), lpips=distance.item(), lr=rate, std=z.float().std().item())
        if step % 400 == 399:
            with trainer.averaged():
                trainer.log(val_psnr=validate(model, block, val_index, device, WORK / f"{trainer.name}.png"))
    with trainer.averaged():
        trainer.log(val_psnr=validate(model, block, val_index, device, WORK / f"{trainer.name}.png"))
