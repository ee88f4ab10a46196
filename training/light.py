"""flora's light decoder: diffusers' AutoencoderTiny (TAESD's shape), which shows what moves at a quarter of the cost.

It learns what the whole decoder makes of latents of photographs, of drawings in few steps, and of what a network takes
a noisy latent for (which is what previews show). Nothing else is true of it, so no judge is wanted: L1, slopes of the
error, the slopes' energy, and the error in the large, for the whole picture takes its place without a jump in colour.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from engine.checkpoints.manager import ModelManager
from engine.diffusion.guidance import Conditioning
from engine.diffusion.model import LatentDiffusion
from training.critics import energy, slopes
from training.data import SIDE, arrays, photographs, picture_of, pixels, rows, split
from training.loop import CUDA, DEVICE, FLORA, WORK, Run, Weights, record, spent
from training.measures import psnr, slope_ratio
from training.samples import decode, encode, hashed, noise, walk

WIDTH, BLOCKS = 32, (8, 4, 1, 0)  # channels, blocks at 32 × 32, 64 × 64 …: 3.95 GFLOP a 256 × 256 picture
PHOTOS, DRAWN, GUESSED = 900, 400, 400  # pictures to learn from
VAL = 32  # of each kind, to measure
AVERAGE = 1500  # crops
CROP, MARGIN = 16, 2  # latents a side: four times the steps of whole pictures; what a cut edge may spoil


def build() -> AutoencoderTiny:
    """1.0 MB in bf16. Its encoder is as small as the format allows: nobody asks it."""
    own = {"encoder_block_out_channels": (16,) * 4, "num_encoder_blocks": (0, 0, 1, 2)}
    shape = {"decoder_block_out_channels": (WIDTH,) * 4, "num_decoder_blocks": BLOCKS}
    return AutoencoderTiny(latent_channels=4, scaling_factor=1.0, **own, **shape)


@torch.no_grad()
def begin(model: AutoencoderTiny, z: np.ndarray, x: np.ndarray) -> None:
    """Has the decoder begin as what is linear in it: the best map from 3 × 3 latents to their picture's mean colours
    goes through the first channels to the end, every block's last convolution adds nothing yet, upsampling smooth."""
    every = -(-len(z) // 200)
    latents = torch.tanh(torch.from_numpy(z[::every].astype(np.float32)) / 3) * 3
    colours = F.avg_pool2d(pixels(x[::every]).float(), SIDE // z.shape[-1]) / 2 + 0.5
    near = F.unfold(F.pad(latents, (1, 1, 1, 1)), 3).transpose(1, 2).reshape(-1, 36)
    near = torch.cat([near, torch.ones(len(near), 1)], 1)
    found = torch.linalg.lstsq(near, colours.flatten(2).transpose(1, 2).reshape(-1, 3)).solution.T
    layers, smooth = list(model.decoder.layers), torch.tensor([1.0, 2.0, 1.0])
    layers[0].weight[:3], layers[0].bias[:3] = found[:, :36].view(3, 4, 3, 3), found[:, 36]
    for layer in layers[1:]:
        if hasattr(layer, "skip"):
            layer.conv[-1].weight.zero_()
            layer.conv[-1].bias.zero_()
        elif isinstance(layer, torch.nn.Conv2d):
            layer.weight[:3] *= 0.1 if layer is layers[-1] else 0
            for c in range(3):
                layer.weight[c, :3] = 0
                layer.weight[c, c] = torch.outer(smooth, smooth) / 16
    layers[-1].bias.zero_()


def seen(net: LatentDiffusion, photos: np.ndarray, kind: str, key: int) -> Tensor:
    """Latents (B, 4, h, w) of unit variance as the studio meets them, of photographs (B, H, W, 3).

    ``kind``: "photo"; "drawn", in few steps from the photographs' lines and colours; "guessed", x0 of a noisy latent.
    """
    if kind == "photo":
        return encode(net, photos)
    words = net.embed([""])
    if kind == "guessed":
        rng, z = np.random.default_rng(key), encode(net, photos)
        sigma = float(rng.choice(net.schedule.sigmas(25)[1:-1]))
        return net.denoiser([Conditioning(words)])(z + sigma * noise(net, len(z), key), sigma)
    lines, paint = (encode(net, np.stack([picture_of(k, key, p) for p in photos])) for k in ("sketch", "strokes"))
    sigmas = net.few_step_sigmas()
    with net.resident.weights_for("live"):
        x = paint + sigmas[0] * noise(net, len(paint), key)
        return walk(net, x, sigmas, [Conditioning(words, concat_latents=torch.cat([lines, paint], 1))])


@torch.no_grad()
def pairs(part: str, counts: dict[str, int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Latents (N, 4, h, w) float16, the whole decoder's pictures of them (N, H, W, 3), and their kinds; made once."""
    own = hashed(FLORA, ("vae",))[:8]
    path, kinds = WORK / f"light-{part}-{own}.npz", [k for k, n in counts.items() for _ in range(n)]
    if not path.exists():
        net, block = ModelManager(DEVICE.type).load(str(FLORA)), photographs()
        among = split(rows(), part)
        chosen = np.random.default_rng(1).choice(among, len(kinds), replace=len(kinds) > len(among))
        z, x = zip(*made(net, block, chosen, kinds), strict=True)
        np.savez(path.with_suffix(".part.npz"), z=np.concatenate(z), x=np.concatenate(x))
        path.with_suffix(".part.npz").replace(path)
    with np.load(path) as kept:
        return kept["z"], kept["x"], kinds


def made(
    net: LatentDiffusion, block: np.ndarray, chosen: np.ndarray, kinds: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    size = 64 if CUDA else 4
    for i in range(0, len(kinds), size):
        Run.bar.set_description_str(f"light, {i} of {len(kinds)}")
        z = seen(net, block[chosen[i : i + size]], kinds[i], i).half()
        yield z.cpu().numpy(), decode(net, z.float())


def some(z: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor, tuple[slice, slice]]:
    """A crop of a latent and its picture, and what of the picture counts: everything but near a cut edge. Half of the
    crops lie at the border, for how a picture ends there is to be learnt, too."""
    i, far = rng.integers(len(z)), z.shape[-1] - CROP
    place = [int(np.clip(rng.integers(-3, far + 4), 0, far)) for _ in range(2)]
    seen = [slice(at, at + CROP) for at in place]
    pixel = [slice(8 * at, 8 * (at + CROP)) for at in place]
    counts = [slice(8 * MARGIN * (at > 0), 8 * (CROP - MARGIN * (at < far))) for at in place]
    latent = torch.from_numpy(z[i : i + 1, :, seen[0], seen[1]].astype(np.float32)).to(DEVICE)
    return latent, pixels(x[i : i + 1, pixel[0], pixel[1]]).to(DEVICE), (counts[0], counts[1])


def losses(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    large = F.avg_pool2d(x - y, 16).abs().mean()
    told = {"l1": (x - y).abs().mean(), "slopes": slopes(x - y), "energy": (energy(x) - energy(y)).abs().mean()}
    return told | {"large": large}


@torch.no_grad()
def check(model: AutoencoderTiny, z: np.ndarray, x: np.ndarray, kinds: list[str]) -> dict[str, dict[str, float]]:
    """By kind, PSNR in dB to the whole decoder's pictures, the slopes in theirs, and the mean colours' error of 255."""
    latents = torch.from_numpy(z.astype(np.float32)).to(DEVICE)
    y = np.concatenate([arrays(model.decode(part).sample) for part in latents.split(8)])
    found = {}
    for kind in dict.fromkeys(kinds):
        of = np.array([k == kind for k in kinds])
        colour = np.abs(x[of].mean((1, 2), dtype=np.float64) - y[of].mean((1, 2), dtype=np.float64)).mean()
        told = {"psnr": round(psnr(x[of], y[of]), 2), "slopes": round(slope_ratio(x[of], y[of]), 3)}
        found[kind] = told | {"colour": round(float(colour), 2)}
        record(f"light, {kind}", **found[kind])
    return found


def train(minutes: float, lr: float = 1e-3, total: float = 0.0) -> None:
    """Distils the *exported* decoder into ``FLORA/light``; it resumes. ``total``: as of the other steps."""
    counts = {"photo": PHOTOS, "drawn": DRAWN, "guessed": GUESSED}
    z, x, _ = pairs("train", counts)
    val, run = pairs("val", dict.fromkeys(counts, VAL)), Run("light", "light", minutes, total)
    model = build()
    if not run.state:
        begin(model, z, x)
    model.to(DEVICE, memory_format=torch.channels_last)
    within = [p for p in model.decoder.parameters() if p.shape[:2] == (WIDTH, WIDTH)]
    weights = Weights(list(model.parameters()), lr, (AVERAGE,), dtype=torch.float32, muon=within)
    if run.state:
        weights.load(run.state["w"])
    rng = np.random.default_rng(run.steps)
    for _ in run.until(lambda: {"w": weights.state()}):
        latents, pictures, (down, across) = some(z, x, rng)
        told = losses(pictures[..., down, across], model.decode(latents).sample[..., down, across])
        loss = told["l1"] + 0.5 * told["slopes"] + told["energy"] + told["large"]
        if run.steps % 32 == 0:  # nobody asks the encoder, but it is in the file
            told["encoder"] = (model.encode(pictures).latents - latents).abs().mean()
            loss = loss + 0.5 * told["encoder"]
        loss.backward()
        rate = lr * min(1, (run.steps + 1) / 100) * run.cosine(0.0)
        weights.step(rate, 1, run.samples)
        run.count(1, lr=rate, **told)
        if run.steps % 4000 == 0:
            weights.show(AVERAGE)
            check(model, *val)
            weights.show(None)
    weights.show(AVERAGE)
    found = check(model, *val)
    model.to(torch.bfloat16).save_pretrained(FLORA / "light")
    spent("light", run.samples, run.seconds, measures=found)
