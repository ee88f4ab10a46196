"""flora in four steps, as a LoRA: consistency distillation, and a judge in latent space beside it.

The noise axis is cut into parts at `engine.diffusion.schedule.FEW_STEPS`. From any level of a part the student's one
straight step must land where the teacher's path crosses the part's lower end, to which multistep consistency
distillation (Heek et al. 2024) settles. There the teacher takes one short step and the student the rest; here the
teacher walks all the way, in few steps of second order, so that nothing has to seep down through rounds of training.
Four rows of five are on the student's own way: they begin at pure noise, and where a row lands it goes on next time.

The judge (LADD, Sauer et al. 2024): small heads on the frozen network's own down blocks tell photographs from what the
student lands on, both noised to the same level above, the same drawings beside both.

Noise levels are angles throughout, see `training.angles`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from transformers import CLIPTextModel, CLIPTokenizer

from engine.diffusion.schedule import FEW_STEPS
from training.angles import angles, at, noised, turn, velocity_to, walk
from training.critics import Adversary, praise
from training.loop import BF16, CUDA, DEVICE, FAST, FLORA, Run, Weights, spent, working, write
from training.network import Examples, scheduler
from training.text import tokens

GUIDANCE = 3.0  # of the teacher, by words where there is no drawing; the student has it folded in
WALK = 4  # steps of the teacher through a part
RANK = 32
AVERAGE = 1500  # samples
# All convolutions and projections.
TARGETS = r"(.*\.)?(conv|conv[12]|conv_in|conv_out|conv_shortcut|time_emb_proj|to_[qkv]|to_out\.0|proj_in|proj_out"
TARGETS += r"|net\.0\.proj|net\.2)"

Rows = dict[str, Tensor]  # x, t, low (to land at), clean (photographs), drawings, embeds, free (nothing drawn)


class Judge(nn.Module):
    """Hinge heads on the down blocks of a frozen UNet: spectral norm, each told the level by the time embedding."""

    def __init__(self, unet: UNet2DConditionModel, width: int = 64):
        super().__init__()
        self.unet, wide = [unet], unet.config.block_out_channels  # in a list: no part of what is learnt
        self.tell = nn.ModuleList(nn.Linear(4 * wide[0], width) for _ in wide)
        self.see = nn.ModuleList(spectral_norm(nn.Conv2d(c, width, 3, padding=1)) for c in wide)
        last = [[spectral_norm(nn.Conv2d(width, n, 1)) for n in (width, 1)] for _ in wide]
        self.say = nn.ModuleList(nn.Sequential(hidden, nn.LeakyReLU(0.2), out) for hidden, out in last)

    def features(self, x: Tensor, t: Tensor, embeds: Tensor) -> list[Tensor]:
        """What the network sees in latents and drawings (B, 3C, h, w) at levels ``t`` (B,); last the level itself."""
        unet, out = self.unet[0], []
        level = unet.time_embedding(unet.time_proj(t).to(x.dtype))
        x = unet.conv_in(x)
        for block in unet.down_blocks:
            words = {"encoder_hidden_states": embeds} if getattr(block, "has_cross_attention", False) else {}
            x, states = block(x, level, **words)
            out.append(states[0])
        return [*out, level]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Logits, one map for every block; photographs are to be above 0."""
        *seen, level = features
        out = []
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=FAST):
            for f, see, tell, say in zip(seen, self.see, self.tell, self.say, strict=True):
                f = f * f.float().square().mean((1, 2, 3), keepdim=True).add(1e-6).rsqrt().to(f.dtype)
                out.append(say(F.leaky_relu(see(f) + tell(level)[..., None, None], 0.2)).float())
        return out


def shown(x: Tensor, r: Rows) -> Tensor:
    """What a network sees of ``x``: the drawings beside it."""
    return working(torch.cat([x, r["drawings"]], 1))


class Distillation:
    """Teacher, student and judge at work on rows. The student is the teacher under a LoRA."""

    def __init__(self) -> None:
        self.phi = angles(scheduler().alphas_cumprod).to(DEVICE)
        nets = [UNet2DConditionModel.from_pretrained(FLORA / "unet", torch_dtype=BF16) for _ in range(2)]
        for net in nets:
            net.to(DEVICE, memory_format=torch.channels_last).requires_grad_(False)
            if not CUDA:
                net.set_attn_processor(AttnProcessor())  # plain products, see `training.network.modules`
        self.teacher, student = nets
        self.student = get_peft_model(student, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
        self.weights = Weights([p for p in self.student.parameters() if p.requires_grad], 0.0, (AVERAGE,))
        self.adversary = Adversary(Judge(self.teacher), 3e-3)

    def guided(self, r: Rows, empty: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The teacher's v for rows; where nothing is drawn, guided by the words away from ``empty`` (1, L, D)."""
        free, embeds = r["free"], torch.cat([r["embeds"], empty.expand(int(r["free"].sum()), -1, -1)])

        def predict(x: Tensor, t: Tensor) -> Tensor:
            given = shown(x, r)
            out = self.teacher(torch.cat([given, given[free]]), torch.cat([t, t[free]]), embeds).sample.float()
            v, plain = out[: len(x)], out[len(x) :]
            v[free] = plain + GUIDANCE * (v[free] - plain)
            return v

        return predict

    def step(self, r: Rows, empty: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients in the student from one batch. Where its rows landed, and the losses."""
        x, t, low = r["x"], r["t"], r["low"]
        a, b = at(self.phi, t), at(self.phi, low)
        with torch.no_grad():  # steps finer towards the end, where the path bends
            times = [torch.lerp(low, t, (1 - k / WALK) ** 1.5) for k in range(WALK + 1)]
            goal = velocity_to(x, walk(self.guided(r, empty), x, times, self.phi), a, b)
        out = self.student(shown(x, r), t, r["embeds"]).sample.float()
        v = out.detach().requires_grad_(True)
        loss = (v - goal).square().mean()
        landed = turn(x, v, a, b)
        liked, told = self.judged(r, landed)
        (grad,), (own,) = torch.autograd.grad(loss, v), torch.autograd.grad(-liked, v)
        # As long as the teacher's, once photographs are told apart: a judge at chance pulls nothing.
        pull = self.adversary.sure * grad.norm() / own.norm().clamp(min=1e-12)
        out.backward(grad + pull * own)
        return landed.detach(), {"loss": loss, "judge": told}

    def judged(self, r: Rows, landed: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads say of ``landed``, on average, and their hinge loss, from which they learn."""
        judge, low, start = self.adversary.judge, r["low"], at(self.phi, torch.zeros_like(r["low"]))
        t = torch.lerp(low, torch.full_like(low, 999), torch.rand_like(low).square())
        made, real = noised(landed, at(self.phi, low), at(self.phi, t)), noised(r["clean"], start, at(self.phi, t))
        seen = judge.features(shown(made, r), t, r["embeds"])
        with torch.no_grad():
            known = judge.features(shown(real, r), t, r["embeds"])
        each = self.adversary.learn(judge(known), judge([f.detach() for f in seen]))
        return praise(judge(seen)), torch.stack(each).mean()

    def state(self) -> dict[str, Any]:
        return {"lora": self.weights.state()} | self.adversary.state()

    def load(self, state: dict[str, Any]) -> None:
        self.weights.load(state["lora"])
        self.adversary.load(state)

    def save(self, folder: Path) -> None:
        """The LoRA's average in peft's format, with those settings that every version of peft reads."""
        self.weights.show(AVERAGE)
        self.student.save_pretrained(folder)
        self.weights.show(None)
        (folder / "README.md").unlink()  # peft's, with blanks to fill in
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf8"))
        write(
            path, {k: config[k] for k in ("peft_type", "r", "lora_alpha", "bias", "target_modules", "inference_mode")}
        )


class Supply:
    """New rows of photographs, with their drawings and captions under noise."""

    def __init__(self, count: int, phi: Tensor, seed: int):
        vae = AutoencoderDC.from_pretrained(FLORA / "vae", torch_dtype=BF16).to(DEVICE)
        self.tokenizer = CLIPTokenizer.from_pretrained(FLORA / "tokenizer")
        text = CLIPTextModel.from_pretrained(FLORA / "text_encoder", dtype=BF16)
        self.text = text.to(DEVICE).eval().requires_grad_(False)
        self.examples = Examples(vae, self.tokenizer, float(vae.config.scaling_factor), count, 0.0, seed=seed)
        self.phi, self.ends = phi, torch.tensor([*FEW_STEPS, 0.0], device=DEVICE)
        self.empty = self.text(tokens(self.tokenizer, [""])).last_hidden_state

    def __call__(self, part: Tensor, inside: Tensor) -> Rows:
        """Rows for parts (B,): at their upper end, or, where ``inside`` (B,), anywhere in them."""
        new, high, low = self.examples(), self.ends[part], self.ends[part + 1]
        t = torch.where(inside, torch.lerp(high, low, torch.rand_like(high)), high)
        x = noised(new.clean, at(self.phi, torch.zeros_like(t)), at(self.phi, t))
        free = (new.drawings == torch.cat([self.examples.phi[32]] * 2, 1)).flatten(1).all(1)
        given = {"clean": new.clean, "drawings": new.drawings, "embeds": self.text(new.ids).last_hidden_state}
        return given | {"x": x, "t": t, "low": low, "free": free}


def train(minutes: float, batch: int = 20, lr: float = 1e-3) -> None:
    """Distils the *exported* network, so that what is learnt fits what is shipped, into ``FLORA/live``; it resumes.

    A step has four rows in five on the student's own way, as many in each part, and one with a photograph's noise.
    """
    fifth, d, run = batch // 5, Distillation(), Run("few-steps", "few-steps", minutes)
    if run.state:
        d.load(run.state)
    supply, begun = Supply(2 * fifth, d.phi, run.steps), run.steps
    inside, ends = torch.arange(2 * fifth, device=DEVICE) >= fifth, supply.ends

    def first(rows: Rows) -> Rows:
        return {k: v[:fifth] for k, v in rows.items()}

    moving = [first(supply(torch.full_like(inside, k, dtype=torch.long), inside)) for k in (1, 2, 3)]
    for _ in run.until(d.state):
        new = supply(torch.randint_like(inside, 4, dtype=torch.long) * inside, inside)
        moving = [first(new), *moving]
        r = {k: torch.cat([*(m[k] for m in moving), v[fifth:]]) for k, v in new.items()}
        landed, told = d.step(r, supply.empty)
        rate = lr * min(1, (run.steps - begun + 1) / 20) * max(0.05, 1 - run.share)
        d.weights.step(rate, len(landed), run.samples)
        run.count(len(landed), lr=rate, **told)
        here = zip(moving, landed.split(fifth), ends[2:], strict=False)  # who has landed at 0 leaves
        moving = [m | {"x": x, "t": m["low"], "low": low.expand(fifth)} for m, x, low in here]
    d.save(FLORA / "live")
    spent("live", run.samples, run.seconds)
