"""flora's autoencoder: diffusers' AutoencoderDC of residual blocks, factor 8 with 4 channels, in two stages.

*joint*: encoder and decoder on crops of 128 pixels: L1, slopes of the error, features of a network, and the same at
half scale, so that a latent made small is that of the picture made small. *decoder*: the encoder, and with it all that
was learnt on its latents, is held still; besides the slopes' energy and a judge, for crisp petals.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from safetensors.torch import load_file
from torch import Tensor

from engine.requests import EngineError
from training.critics import Adversary, Features, distance, energy, slopes
from training.data import SIDE, photographs, pixels, rows, split
from training.loop import BF16, CUDA, DEVICE, WORK, Run, Weights, get, put, record, working

ENCODER, DECODER = (32, 32, 64, 128), (24, 48, 96, 192)  # channels of their levels
CROP = 128
AVERAGE = 16_000  # samples
FEATURES, SCALE, ENERGY, PULL = 0.12, 0.25, 3.0, 3.0  # weights beside L1 of 1 and slopes of 0.5
WARM = 200  # steps for which the judge learns alone
NOISE = 0.05  # of the latents' deviation, on average: neighbouring latents decode to neighbouring pictures


def build_autoencoder() -> AutoencoderDC:
    """4.7 M parameters; decoding a 256 × 256 picture is 16.4 GFLOP."""
    return AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=ENCODER,
        decoder_block_out_channels=DECODER,
        encoder_layers_per_block=(0, 1, 2, 4),
        decoder_layers_per_block=(1, 2, 2, 4),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        upsample_block_type="interpolate",  # pixel shuffle leaves a checkerboard
    )


def exported(folder: Path, part: str) -> dict[str, Tensor]:
    """The float32 weights of a part of an exported folder: "vae", "unet" or "text_encoder"."""
    files = sorted((folder / part).glob("*.safetensors"))
    if not files:
        raise EngineError(f"{folder / part} must hold a safetensors file, got none")
    return {k: v.float() for k, v in load_file(files[0]).items()}


def load_autoencoder(start: Path | None = None) -> AutoencoderDC:
    """That of the work folder (else that of the export ``start``, which becomes it), frozen, in `BF16` on `DEVICE`."""
    state = get("ae")
    if state is None and start:
        state = {"sd": exported(start, "vae")}
        put(state, "ae")
    if state is None:
        raise EngineError(f"{WORK / 'ae.pt'} must hold an autoencoder, got none: python -m training joint, or --start")
    model = build_autoencoder()
    model.load_state_dict(state["sd"])
    return model.eval().requires_grad_(False).to(DEVICE, BF16, memory_format=torch.channels_last)


def crops(block: np.ndarray, among: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
    """(count, 3, 128, 128) in [−1, 1]: three of five at full scale, the rest of larger squares; half mirrored."""
    out = np.empty((count, CROP, CROP, 3), np.uint8)
    for k, i in enumerate(np.sort(rng.choice(among, count))):
        side = CROP if rng.random() < 0.6 else int(rng.integers(CROP, SIDE + 1))
        y, x = rng.integers(0, SIDE + 1 - side, 2)
        crop = block[i, y : y + side, x : x + side]
        if side != CROP:
            crop = cv2.resize(crop, (CROP, CROP), interpolation=cv2.INTER_AREA)
        out[k] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return pixels(out)


class Stage:
    """The model, its working weights, and the loss of one stage, "joint" or "decoder"."""

    def __init__(self, name: str, lr: float, start: Path | None):
        self.name, self.state, prior = name, get(f"ae-{name}"), get("ae")
        self.model = build_autoencoder()
        if prior or start:
            self.model.load_state_dict(prior["sd"] if prior else exported(start, "vae"))
        self.model.to(DEVICE, memory_format=torch.channels_last)
        if name == "decoder":
            self.model.encoder.requires_grad_(False).to(BF16)
        own = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        self.names, self.weights = list(own), Weights(list(own.values()), lr, (AVERAGE,))
        self.features = Features().to(DEVICE, BF16, memory_format=torch.channels_last)
        self.encode, self.decode = (torch.compile(m, dynamic=False) for m in (self.model.encoder, self.model.decoder))
        self.adversary: Adversary | None = None

    def resume(self, some: Tensor) -> dict[str, float]:
        """Takes up the checkpoint, if there is one; its counters. ``some`` photographs set the judge's scales."""
        if self.name == "decoder":
            with torch.no_grad():
                self.adversary = Adversary(self.features(working(some)))
        if not (state := self.state):
            return {}
        self.weights.load(state["w"])
        if self.adversary:
            self.adversary.load(state)
        return {"samples": state["seen"], "steps": state["steps"], "seconds": state["sec"]}

    def save(self, run: Run) -> None:
        """``ae-<stage>.pt`` to go on from, and ``ae.pt``, the average, for all others."""
        judged = self.adversary.state() if self.adversary else {"disc": None, "dopt": None, "edge": 1.0}
        counters = {"seen": run.samples, "steps": run.steps, "sec": run.seconds}
        put({"w": self.weights.state()} | counters | judged, f"ae-{self.name}")
        whole = {k: v.float().clone() for k, v in self.model.state_dict().items()}
        whole |= {k: m.clone() for k, m in zip(self.names, self.weights.averages[AVERAGE], strict=True)}
        put({"sd": whole}, "ae")

    @torch.no_grad()
    def check(self, block: np.ndarray, steps: int) -> None:
        """Notes PSNR in dB and the copies' slopes in the photographs' of ``block``."""
        x = pixels(block)
        with self.weights.shown(AVERAGE if steps > 300 else None):
            copies = [self.model.decode(self.model.encode(working(part)).latent).sample for part in x.split(8)]
        y = torch.cat(copies).float().cpu().clamp(-1, 1)
        psnr = (-10 * torch.log10(((x - y) / 2).square().mean((1, 2, 3)))).mean()
        record(f"{self.name}, val", psnr=round(float(psnr), 3), slopes=round(float(slopes(y) / slopes(x)), 4))

    def copy(self, x: Tensor, decode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Latents of (B, 3, h, w), float32, and the copies made of them under a little noise."""
        with torch.set_grad_enabled(self.name == "joint"):
            z = self.encode(working(x)).float()
        amount = 2 * NOISE * torch.rand(len(x), 1, 1, 1, device=DEVICE) * z.detach().std()
        return z, decode(working(z + amount * torch.randn_like(z))).float()

    def likeness(self, run: Run, x: Tensor, y: Tensor, fx: list[Tensor], fy: list[Tensor]) -> Tensor:
        l1, slope, far = (x - y).abs().mean(), slopes(x - y), distance(fx, fy)
        run.note(l1=l1, slopes=slope, features=far)
        return l1 + 0.5 * slope + FEATURES * far

    def descend(self, run: Run, loss: Tensor, batch: int, rate: float) -> None:
        loss.backward()
        self.weights.step(rate, batch, run.samples)

    def joint(self, run: Run, x: Tensor, rate: float) -> None:
        """One step on photographs (B, 3, h, w)."""
        z, y = self.copy(x, self.decode)
        with torch.no_grad():
            fx = self.features(working(x))
        half = slice(0, len(x) // 2)
        small = F.interpolate(z[half], scale_factor=0.5, mode="bilinear", antialias=True)
        error = F.interpolate(x[half], scale_factor=0.5, mode="area") - self.model.decoder(working(small)).float()
        scale = error.abs().mean() + 0.5 * slopes(error)
        run.note(scale=scale, std=z.std())
        loss = self.likeness(run, x, y, fx, self.features(working(y)))
        self.descend(run, loss + SCALE * scale + 1e-4 * z.square().mean(), len(x), rate)

    def decoder(self, run: Run, x: Tensor, rate: float) -> None:
        """One step on photographs (B, 3, h, w); at first only the judge learns."""
        alone = run.steps < WARM
        with torch.no_grad():
            fx = self.features(working(x))
        with torch.set_grad_enabled(not alone):
            _, y = self.copy(x, self.model.decoder if alone else self.decode)
            fy = self.features(working(y))
        if not alone:
            rough, alike = (energy(x) - energy(y)).abs().mean(), self.likeness(run, x, y, fx, fy)
            pull = self.adversary.pull(alike, y, fy, run.steps % 20 == 0)
            run.note(energy=rough, ratio=self.adversary.ratio)
            self.descend(run, alike + ENERGY * rough + PULL * pull, len(x), rate)
        run.note(**self.adversary.learn(x, fx, y, fy))


def train(
    stage: str, minutes: float, batch: int = 0, lr: float = 0.0, total: float = 0.0, start: Path | None = None
) -> None:
    """Goes on from the stage's own checkpoint, else from the autoencoder of the work folder or of the export ``start``.

    ``total``: minutes over which the rate falls to 5 %, all calls of this stage together. ``batch``, ``lr``, ``total``:
    0 for the stage's own.
    """
    if stage == "joint" and (WORK / "z-photo.npy").exists():
        raise EngineError(
            f"joint changes the encoder, but {WORK} holds latents of the present one: move z-*.npy and unet.pt away"
        )
    batch = batch or (64 if CUDA else 16 if stage == "joint" else 8)
    lr = lr or (5e-4 if stage == "joint" else 2e-4)
    block, index = photographs(), rows()
    among, val = split(index, "train"), block[split(index, "val", 64)]
    own = Stage(stage, lr, start)
    rng = np.random.default_rng(own.state["steps"] if own.state else 0)
    run = Run(stage, minutes, total=total, **own.resume(crops(block, among, 32, rng)))
    own.check(val, run.steps)
    pool = ThreadPoolExecutor(1)
    following = pool.submit(crops, block, among, batch, rng)
    for _ in run.until(lambda: own.save(run)):
        x, following = following.result().to(DEVICE), pool.submit(crops, block, among, batch, rng)
        rate = lr * min(1, (run.steps + 1) / 100) * run.cosine(0.05)
        getattr(own, stage)(run, x, rate)
        run.count(batch, lr=rate)
        if run.steps % 500 == 0:
            own.check(val, run.steps)
    own.check(val, run.steps)
