"""flora's UNet and text encoder, trained together on cached latents.

The network sees [noisy latent, sketch latent, strokes latent], as DiSS concatenates its conditions (methods.md §3);
the missing condition Φ is the latent of mid-grey. Stage 1 always gives both conditions; stage 2 takes both away from
40 % of the rows, so that text-only and unconditional sampling are learnt too, and either with 0.3 from the rest.
ε-prediction on SD 1.5's schedule, loss weighted by min-SNR 5 (Hang et al. 2023).
"""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from transformers import CLIPTokenizer

from engine.vision.drawing import sketch_of, strokes_of
from training import autoencoder as ae
from training.data import caption, photographs, rows
from training.loop import FLORA, WORK, Trainer, autocast
from training.text import LENGTH, build_text_encoder, build_tokenizer, looks

WIDTH = 192
KINDS = ("photo", "half", "half-mirrored", "quarter", "quarter-mirrored", "sketch", "strokes")
SMALL = {16: "half", 8: "quarter"}  # side of the latent: which pictures
PALETTES = [(23, 6), (13, 16), (31, 4), (17, 10)]  # (median kernel, colours): strengths of strokes, in turn


def build() -> UNet2DConditionModel:
    """34 M parameters, 4.6 GFLOP a 32 × 32 latent: thin where the grid is fine, attention at 16 × 16 and below."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=3 * 4,
        out_channels=4,
        block_out_channels=(64, 128, 256, 384),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4, 8, 12),  # diffusers' name; it is the number of heads, 32 channels each
    )


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def load_autoencoder() -> AutoencoderDC:
    """The averaged weights of the last checkpoint, or the shipped ones where there is none."""
    path = WORK / "autoencoder.pt"
    if not path.exists():
        return AutoencoderDC.from_pretrained(FLORA / "vae").eval()
    model = ae.build()
    for p, e in zip(model.parameters(), torch.load(path, map_location="cpu", weights_only=True)["ema"], strict=True):
        p.data.copy_(e)
    return model.eval()


def picture_of(kind: str, i: int, photo: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: photograph number ``i`` itself, its sketch, or its strokes at one of four strengths."""
    if kind == "photo":
        return photo
    if kind.startswith(("half", "quarter")):
        side = 128 if kind.startswith("half") else 64
        small = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
        return small[:, ::-1] if kind.endswith("-mirrored") else small
    if kind == "sketch":
        return np.repeat(sketch_of(photo)[..., None], 3, 2)
    return strokes_of(photo, *PALETTES[i % 4])


@torch.no_grad()
def latents(kind: str, device: torch.device) -> np.ndarray:
    """(N, C, h, w) float16 latents of every photograph, or of the drawings made from them; encoded once."""
    path = WORK / f"latents-{kind}.npy"
    if not path.exists():
        block, model = photographs(), load_autoencoder().to(device, torch.bfloat16, memory_format=torch.channels_last)
        encode, out = torch.compile(model.encoder, dynamic=False), []
        size = 256 if device.type == "cuda" else 8  # eight fit a small chip's cache
        with ThreadPoolExecutor(2) as pool:
            for i in range(0, len(block), size):
                drawn = list(pool.map(lambda j: picture_of(kind, j, block[j]), range(i, min(i + size, len(block)))))
                x = ae.pixels(np.stack(drawn + drawn[:1] * (size - len(drawn)))).to(device, torch.bfloat16)
                z = encode(x.contiguous(memory_format=torch.channels_last))
                out.append(z[: len(drawn)].float().half().cpu().numpy())
                if i % 3200 == 0:
                    print(f"latents of {kind}: {i}/{len(block)}", flush=True)
        np.save(path.with_suffix(".part.npy"), np.concatenate(out))
        path.with_suffix(".part.npy").replace(path)
    return np.load(path)


@torch.no_grad()
def sample(unet, text, tokenizer, prompts, shape_, null, device, guidance=2.0, steps=20, conditions=None, seed=0):
    """(B, C, h, w) latents drawn with DDIM under classifier-free guidance; ``conditions`` (B, 2C, h, w) or Φ."""
    sched = scheduler()
    sched.set_timesteps(steps)
    n = len(prompts)
    ids = tokenizer(
        [*prompts, *[""] * n], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    x = torch.randn((n, *shape_), generator=torch.Generator().manual_seed(seed)).to(device)
    cond = (torch.cat([null, null], 1).expand(n, -1, -1, -1) if conditions is None else conditions).to(device)
    with autocast(device):
        embeds = text(ids.input_ids.to(device)).last_hidden_state
        for t in sched.timesteps:
            rows_ = torch.cat([torch.cat([x, cond], 1)] * 2)
            c, u = unet(rows_, t.to(device), embeds).sample.float().chunk(2)
            x = sched.step(u + guidance * (c - u), t, x).prev_sample
    return x


def sheet(model, z, scale, path, columns=8, device="cpu") -> None:
    """Decodes latents to a grid of pictures."""
    with torch.no_grad(), autocast(torch.device(device)):
        x = torch.cat([model.decode(c / scale).sample for c in z.split(8)]).float().clamp(-1, 1)
    x = ((x + 1) * 127.5).byte().permute(0, 2, 3, 1).cpu().numpy()
    grid = np.concatenate([np.concatenate(list(x[i : i + columns]), 1) for i in range(0, len(x), columns)])
    Image.fromarray(grid).save(path)


def nulls_of(vae: AutoencoderDC, scale: float, device: torch.device) -> dict[int, torch.Tensor]:
    """Φ, the missing condition, by the latent's side: the latent of mid-grey."""
    with torch.no_grad():
        greys = {side: torch.zeros(1, 3, 8 * side, 8 * side, device=device) for side in (8, 16, 32)}
        return {side: vae.encode(grey).latent * scale for side, grey in greys.items()}


def drop(conds: list[torch.Tensor], phi: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Conditions with Φ for some: both in 40 % of the rows, either in 30 % of the rest. And which rows lost all."""
    shape = (len(phi), 1, 1, 1)
    none = torch.rand(shape, device=phi.device) < 0.4
    drops = [none | (torch.rand(shape, device=phi.device) < 0.3) for _ in conds]
    free = torch.stack(drops).all(0).flatten()
    return [torch.where(d, phi, c) for c, d in zip(conds, drops, strict=True)], free


PROMPTS = ["", "", "a yellow tulip", "a photograph of a pink rose", "a purple passion flower", "a red poppy"]
PROMPTS += ["a white water lily", "a yellow sunflower"]


def pick_batch(z: dict, shares: tuple[float, float], batch: int, index: np.ndarray, rng: np.random.Generator):
    """Numbers of the photographs of a step, and their latents: small with the shares (quarter, half), else whole.

    A step at half size costs a quarter, and the whole flower is in reach of every layer; at a quarter still more so.
    """
    side = int(rng.choice([8, 16, 32], p=[*shares, 1 - sum(shares)]))
    pick = np.sort(rng.choice(index, batch * 32 // side, replace=False))
    kind = "photo" if side == 32 else SMALL[side] + ("-mirrored" if rng.random() < 0.5 else "")
    return pick, z[kind][pick]


def train(minutes: float, device, stage: int, shares: tuple, batch: int, horizon: int, lr: float) -> None:
    torch.manual_seed(1)
    block, index = photographs(), rows()
    seen = looks(block)
    z = {k: torch.from_numpy(latents(k, device)) for k in KINDS}
    train_index = np.array([i for i, r in enumerate(index) if r.split == "train"])
    scale = 1 / float(z["photo"][train_index].float().std())
    vae = load_autoencoder().to(device)
    nulls = nulls_of(vae, scale, device)
    folder = WORK / "tokenizer"
    if not folder.exists() and (FLORA / "tokenizer").exists():
        shutil.copytree(FLORA / "tokenizer", folder)
    ready = (folder / "vocab.json").exists()
    tokenizer = CLIPTokenizer.from_pretrained(folder) if ready else build_tokenizer(folder, index, seen)
    unet, text = build(), build_text_encoder(tokenizer, WIDTH)
    trainer = Trainer("unet", {"unet": unet, "text": text}, device, lr, horizon, ema_samples=12_000)
    millions = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (unet, text)]
    print("UNet {:.1f} M, text {:.1f} M, scale {:.4f}".format(*millions, scale), flush=True)
    step_fn = torch.compile(unet, dynamic=False) if device.type == "cuda" else unet
    if device.type == "cpu":  # plain products: the fused attention of CPUs takes 1.4 to 1.7 times as long a step here
        unet.set_attn_processor(AttnProcessor())
    abar = scheduler().alphas_cumprod.to(device)

    def sheets() -> None:
        with trainer.averaged():
            for side, null in nulls.items():
                drawn = sample(unet, text, tokenizer, PROMPTS, null.shape[1:], null, device)
                sheet(vae, drawn, scale, WORK / f"unet-{side}.png", device=device.type)

    rng, words = np.random.default_rng(trainer.samples), random.Random(trainer.samples)
    for step, _ in enumerate(trainer.run(minutes)):
        pick, chosen = pick_batch(z, shares, batch, train_index, rng)
        x0, size = chosen.to(device).float() * scale, len(pick)
        texts = [caption(index[i].label, seen[i], words) for i in pick]
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
        phi = nulls[x0.shape[-1]].expand(size, -1, -1, -1)
        conds = [phi, phi]
        if x0.shape[-1] == 32:
            conds = [z[k][pick].to(device).float() * scale for k in ("sketch", "strokes")]
        if x0.shape[-1] == 32 and stage == 2:
            conds, _ = drop(conds, phi)
        # Stratified times: the loss is less noisy than with independent ones.
        t = ((torch.randperm(size) + torch.rand(size)) / size * 1000).long().clamp(0, 999).to(device)
        a, noise = abar[t].view(-1, 1, 1, 1), torch.randn_like(x0)
        x = (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with autocast(device):
            embeds = text(ids.to(device)).last_hidden_state
            eps = step_fn(torch.cat([x, *conds], 1), t, embeds).sample
        snr = a / (1 - a)
        error = (eps.float() - noise).square()
        loss = (error * (snr.clamp(max=5) / snr)).mean()
        rate = trainer.step(loss, size)
        if step % 50 == 49:
            trainer.log(loss=loss.item(), mse=error.mean().item(), lr=rate, stage=stage, side=x0.shape[-1])
        if step % 400 == 399:
            sheets()
    sheets()
