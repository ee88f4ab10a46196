"""flora's autoencoder: diffusers' AutoencoderDC of residual blocks, factor 8 with 4 channels, in two stages.

*joint*: encoder and decoder on crops of 128 pixels: L1, slopes of the error, features of a network, and the same at
half scale, so that a latent made small is that of the picture made small. *decoder*: the encoder, and with it all that
was learnt on its latents, is held still; besides the slopes' energy and a judge, for crisp petals.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from torch import Tensor

from engine.requests import EngineError
from training.critics import Adversary, Features, Judge, distance, energy, praise, slopes
from training.data import SIDE, arrays, cropped, photographs, pixels, rows, split
from training.loop import BF16, CUDA, DEVICE, WORK, Run, Weights, get, put, record, working
from training.measures import psnr, slope_ratio

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


def load_autoencoder(start: Path | None = None) -> AutoencoderDC | None:
    """That of the work folder (else that of the export ``start``, which becomes it), if there is one."""
    if start and not get("ae"):
        put({"sd": AutoencoderDC.from_pretrained(start / "vae", torch_dtype=torch.float32).state_dict()}, "ae")
    if not (state := get("ae")):
        return None
    model = build_autoencoder()
    model.load_state_dict(state["sd"])
    return model


def crops(block: np.ndarray, among: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
    """(count, 3, 128, 128) in [−1, 1]: three of five at full scale, the rest of larger squares; half mirrored."""
    out = []
    for i in np.sort(rng.choice(among, count)):
        side = CROP if rng.random() < 0.6 else int(rng.integers(CROP, SIDE + 1))
        out.append(cropped(block[i], side, CROP, rng))
    return pixels(np.stack(out))


class Stage:
    """The model, its working weights, and the loss of one stage, "joint" or "decoder".

    ``some`` photographs (B, 3, h, w) set the judge's scales.
    """

    def __init__(self, run: Run, lr: float, start: Path | None, some: Tensor):
        self.run, model = run, load_autoencoder(start) or build_autoencoder()
        self.model = model.to(DEVICE, memory_format=torch.channels_last)
        self.features = Features().to(DEVICE, BF16, memory_format=torch.channels_last)
        self.adversary, self.ratio = None, 0.0
        if run.name == "decoder":
            self.model.encoder.requires_grad_(False).to(BF16)
            with torch.no_grad():
                self.adversary = Adversary(Judge(self.features(working(some))), 1e-3)
        own = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        self.names, self.weights = list(own), Weights(list(own.values()), lr, (AVERAGE,))
        self.encode, self.decode = (torch.compile(m, dynamic=False) for m in (self.model.encoder, self.model.decoder))
        if run.state:
            self.weights.load(run.state["w"])
        if run.state and self.adversary:
            self.adversary.load(run.state)

    def state(self) -> dict:
        """What to go on from; and writes ``ae.pt``, the average, for all others."""
        whole = {k: v.float().clone() for k, v in self.model.state_dict().items()}
        put({"sd": whole | dict(zip(self.names, self.weights.averages[AVERAGE], strict=True))}, "ae")
        return {"w": self.weights.state()} | (self.adversary.state() if self.adversary else {})

    @torch.no_grad()
    def check(self, block: np.ndarray) -> None:
        """Notes PSNR in dB and the copies' slopes in the photographs' of ``block``."""
        self.weights.show(AVERAGE if self.run.steps > 300 else None)
        latents = (self.model.encode(working(x)).latent for x in pixels(block).split(8))
        copies = np.concatenate([arrays(self.model.decode(z).sample) for z in latents])
        self.weights.show(None)
        record(f"{self.run.name}, val", psnr=round(psnr(block, copies), 3), slopes=round(slope_ratio(block, copies), 4))

    def step(self, x: Tensor, rate: float) -> dict[str, Tensor | float]:
        """One step on photographs (B, 3, h, w), and its losses; the decoder's judge learns alone at first."""
        adversary, told = self.adversary, {}
        alone = adversary is not None and self.run.steps < WARM
        with torch.no_grad():
            fx = self.features(working(x))
        with torch.set_grad_enabled(adversary is None):
            z = self.encode(working(x)).float()
        with torch.set_grad_enabled(not alone):
            amount = 2 * NOISE * torch.rand(len(x), 1, 1, 1, device=DEVICE) * z.detach().std()
            decode = self.model.decoder if alone else self.decode
            y = decode(working(z + amount * torch.randn_like(z))).float()
            fy = self.features(working(y))
        if not alone:
            told = {"l1": (x - y).abs().mean(), "slopes": slopes(x - y), "features": distance(fx, fy)}
            loss = told["l1"] + 0.5 * told["slopes"] + FEATURES * told["features"]
            if adversary:
                own = -praise(adversary.judge(y, fy))
                self.weigh(loss, own, y)
                told |= {"energy": (energy(x) - energy(y)).abs().mean(), "ratio": self.ratio}
                loss = loss + ENERGY * told["energy"] + PULL * self.ratio * adversary.sure * own
            else:
                half = slice(0, len(x) // 2)
                small = F.interpolate(z[half], scale_factor=0.5, mode="bilinear", antialias=True)
                error = F.interpolate(x[half], scale_factor=0.5, mode="area") - self.model.decoder(working(small))
                told |= {"scale": error.abs().mean() + 0.5 * slopes(error), "std": z.std()}
                loss = loss + SCALE * told["scale"] + 1e-4 * z.square().mean()
            loss.backward()
            self.weights.step(rate, len(x), self.run.samples)
        if adversary:
            each = adversary.learn(adversary.judge(x, fx), adversary.judge(y.detach(), [f.detach() for f in fy]))
            told |= {f"judge{i}": loss for i, loss in enumerate(each)}
        return told

    def weigh(self, other: Tensor, own: Tensor, y: Tensor) -> None:
        """How hard the judge's term ``own`` must pull at the copies ``y`` to pull as all else does, now and then."""
        if self.run.steps % 20 == 0 or not self.ratio:
            p, q = (torch.autograd.grad(term, y, retain_graph=True)[0].norm() for term in (other, own))
            now = min(10.0, float(p / (q + 1e-8)))
            self.ratio = 0.8 * self.ratio + 0.2 * now if self.ratio else now


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
    block, index, run = photographs(), rows(), Run(stage, f"ae-{stage}", minutes, total)
    among, val, rng = split(index, "train"), block[split(index, "val", 64)], np.random.default_rng(run.steps)
    own = Stage(run, lr, start, crops(block, among, 32, rng))
    own.check(val)
    pool = ThreadPoolExecutor(1)
    following = pool.submit(crops, block, among, batch, rng)
    for _ in run.until(own.state):
        x, following = following.result().to(DEVICE), pool.submit(crops, block, among, batch, rng)
        rate = lr * min(1, (run.steps + 1) / 100) * run.cosine(0.05)
        run.count(batch, lr=rate, **own.step(x, rate))
        if run.steps % 500 == 0:
            own.check(val)
    own.check(val)
