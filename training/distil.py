"""flora in four steps: multistep consistency distillation (Heek et al. 2024, Algorithm 1) into a LoRA.

The noise axis is cut into four parts at `engine.diffusion.schedule.FEW_STEPS`. From any level of a part the student's
one straight step must land where the teacher's DDIM path crosses the lower end of that part: a short teacher step, then
the student's own (held still) from there. Text guidance is folded in where there is no drawing; with drawings the
teacher is not guided.
"""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.diffusion.schedule import FEW_STEPS
from training.data import caption, photographs, rows
from training.loop import FLORA, Trainer, autocast, spent
from training.text import LENGTH, looks
from training.unet import KINDS, drop, latents, load_autoencoder, nulls_of, pick_batch, scheduler

GUIDANCE = 2.0
SUBSTEP = 50  # timesteps of one teacher step: five a part
CONFIG = ("peft_type", "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "inference_mode")
TARGETS = r".*(conv1|conv2|conv_shortcut|to_q|to_k|to_v|to_out\.0|proj_in|proj_out|net\.0\.proj|net\.2)"


def adapted(unet: UNet2DConditionModel, rank: int):
    """The network with a LoRA on every convolution of its residual blocks and every projection of its attention."""
    return get_peft_model(unet, LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, lora_dropout=0.0))


def target_of(x: torch.Tensor, d: torch.Tensor, rest: torch.Tensor, s, s2, s_low) -> torch.Tensor:
    """The slope that takes ``x`` at sigma ``s`` straight to the part's lower end ``s_low``.

    That is: where the teacher's slope ``d`` leads to at ``s2``, and from there the student's own ``rest``.
    """
    landed = x + (s2 - s) * d + (s_low - s2) * rest  # nothing is left to go where s2 is the end
    return (landed - x) / (s_low - s)


def train(minutes: float, device: torch.device, shares: tuple, batch: int, horizon: int, lr: float, rank: int) -> None:
    """Distils the *shipped* network (export it first), so that what is learnt fits what is shipped."""
    torch.manual_seed(2)
    block, index = photographs(), rows()
    seen = looks(block)
    train_index = np.array([i for i, r in enumerate(index) if r.split == "train"])
    z = {k: torch.from_numpy(latents(k, device)) for k in KINDS}
    vae = load_autoencoder().to(device)
    scale = 1 / float(z["photo"][train_index].float().std())
    nulls = nulls_of(vae, scale, device)
    tokenizer = CLIPTokenizer.from_pretrained(FLORA / "tokenizer")
    text = CLIPTextModel.from_pretrained(FLORA / "text_encoder", dtype=torch.float32).to(device).eval()
    unet = UNet2DConditionModel.from_pretrained(FLORA / "unet", torch_dtype=torch.bfloat16).to(device)
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())
    net = adapted(unet, rank)
    params = [p for p in net.parameters() if p.requires_grad]  # float32, whatever the network is in
    trainer = Trainer("live", {"live": nn.ParameterList(params)}, device, lr, horizon, ema_samples=6_000)
    print(f"LoRA {sum(p.numel() for p in params) / 1e6:.1f} M", flush=True)
    abar = scheduler().alphas_cumprod.to(device).double()
    sigmas = ((1 - abar) / abar).sqrt().float()
    ends = torch.tensor([*FEW_STEPS, 0], device=device)

    def slope(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        s = sigmas[t].view(-1, 1, 1, 1)
        with autocast(device):
            given = torch.cat([x / (1 + s * s).sqrt(), cond], 1).contiguous(memory_format=torch.channels_last)
            return net(given, t, embeds).sample.float()

    rng, words = np.random.default_rng(trainer.samples), random.Random(trainer.samples)
    for step, _ in enumerate(trainer.run(minutes)):
        pick, chosen = pick_batch(z, shares, batch, train_index, rng)
        x0, size = chosen.to(device).float() * scale, len(pick)
        texts = [caption(index[i].label, seen[i], words) for i in pick]
        phi = nulls[x0.shape[-1]].expand(size, -1, -1, -1)
        conds, free = [phi, phi], torch.ones(size, dtype=torch.bool, device=device)
        if x0.shape[-1] == 32:
            conds, free = drop([z[k][pick].to(device).float() * scale for k in ("sketch", "strokes")], phi)
        cond = torch.cat(conds, 1)
        part = torch.arange(size, device=device)[torch.randperm(size)] % 4
        high, low = ends[part], ends[part + 1]
        t = (low + ((high - low) * torch.rand(size, device=device)).ceil().clamp(min=1)).long()
        t = torch.where(torch.rand(size, device=device) < 0.3, high, t)  # where the sampler starts from
        t2 = torch.maximum(t - SUBSTEP, low)
        s, s2, s_low = (torch.where(v > 0, sigmas[v], 0.0).view(-1, 1, 1, 1) for v in (t, t2, low))
        noise = torch.randn_like(x0)
        x = x0 + s * noise
        with torch.no_grad():
            ids = tokenizer([*texts, ""], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
            every = text(ids.input_ids.to(device)).last_hidden_state
            embeds, empty = every[:-1], every[-1:]
            with net.disable_adapter():
                d = slope(x, t, cond, embeds)
                if free.any():
                    n = int(free.sum())
                    plain = slope(x[free], t[free], cond[free], empty.expand(n, -1, -1))
                    d[free] = plain + GUIDANCE * (d[free] - plain)
            rest = slope(x + (s2 - s) * d, t2.clamp(min=1), cond, embeds)
            target = target_of(x, d, rest, s, s2, s_low)
        out = slope(x, t, cond, embeds)
        error = (out - target).square()
        loss = (error * (5 * s * s).clamp(max=1)).mean()
        rate = trainer.step(loss, size)
        if step % 25 == 24:
            trainer.log(loss=loss.item(), mse=error.mean().item(), lr=rate, side=x0.shape[-1])
    with trainer.averaged():
        save(net)
    spent("live", trainer.samples, trainer.seconds)


def save(net) -> None:
    """The LoRA in peft's own format, bf16, in the folder `live` beside the network."""
    folder = FLORA / "live"
    shutil.rmtree(folder, ignore_errors=True)
    for p in net.parameters():
        if p.requires_grad:
            p.data = p.data.to(torch.bfloat16)
    net.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; flora's own says what this is
    config = json.loads((folder / "adapter_config.json").read_text())
    plain = {k: config[k] for k in CONFIG}  # what every version of peft reads
    (folder / "adapter_config.json").write_text(json.dumps(plain, indent=1) + "\n")
