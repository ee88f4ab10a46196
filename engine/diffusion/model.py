"""One resident network in plain terms: pictures in [−1, 1], latents of unit variance, sigmas, a `field` to walk along.

ε- and v-prediction, the scaling of the input, the timestep of a sigma,
guidance rows, conditions side by side (DiSS) and what each row carries (LoRA mix, attention blend) all end here.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.checkpoints import load as loading
from engine.checkpoints.load import Parts
from engine.diffusion import attention as hooks
from engine.diffusion import memory
from engine.diffusion.control import Hint, steering
from engine.diffusion.memory import SHORT, short_of_memory
from engine.requests import EngineError

LIVE = (999, 749, 499, 249)  # the timesteps between which the few-step weights jump (training/distil.py)
LCM = tuple(range(999, 0, -20))  # those LCM-LoRA was distilled at (Luo et al. 2023, arXiv 2311.05556)


@dataclass(frozen=True)
class Row:
    """One row of guidance: its text (B or 1, L, D), its weight (a number, or a map (B or 1, 1, h or 1, w or 1)), its
    conditions (B or 1, kC, h, w; None = Φ).

    ``mix`` (B or 1, K): how much of each attached LoRA it carries (lora.py). ``blend`` (B or 1, K): how much of each
    recorded picture its self-attention looks at (hooks.blended). ``hints``: what its controls are shown (control.py).
    """

    embeds: Tensor
    weight: float | Tensor = 1.0
    conditions: Tensor | None = None
    mix: Tensor | None = None
    blend: Tensor | None = None
    hints: Mapping[str, Hint] | None = None


class Now(NamedTuple):
    """What hooks may ask while rows are in the UNet: the number of the first row, and what each row carries."""

    first: int
    level: float | None  # σ, if it is the same for all
    mix: Tensor | None
    blend: Tensor | None


def guided(cond: Tensor, uncond: Tensor, guidance: float) -> list[Row]:
    """Classifier-free guidance (Ho & Salimans 2022) as rows: u + g·(c − u); one row when g is 1."""
    if guidance == 1:
        return [Row(cond)]
    return [Row(cond, guidance), Row(uncond, 1 - guidance)]


class Network:
    """One resident network. Latents are (B, C, h, w), float32, on ``device``, of about unit variance."""

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, name: str = "", limit: int = 1 << 62):
        self.name, self.folder, self.device, self.dtype = name or parts.folder.name, parts.folder, device, dtype
        self.unet, self.vae, self.text_encoder = parts.unet, parts.vae, parts.text_encoder
        for module in (self.unet, self.vae, self.text_encoder):
            module.eval().requires_grad_(False)
        self.tokenizer, self.scheduler = parts.tokenizer, parts.scheduler
        self.prediction = self.scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise EngineError(f"model {name} must predict epsilon or v_prediction, got {self.prediction}")
        abar = self.scheduler.alphas_cumprod.double().clamp(min=2**-24)  # some end at 0, where σ has no number
        self.sigmas = ((1 - abar) / abar).sqrt()  # rising, one a training timestep
        self.scale = float(self.vae.config.scaling_factor)
        self.factor = 2 ** (len(_stages(self.vae)) - 1)
        self.channels = int(self.unet.config.out_channels)
        self.extra = int(self.unet.config.in_channels) - self.channels
        if self.extra % self.channels:
            raise EngineError(f"model {self.name} must see noise, or drawings beside it, got a network for inpainting")
        self.size = int(self.unet.config.sample_size) * self.factor
        # The UNet halves its input between levels: frames must be whole at the deepest one.
        self.multiple = self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        self.controls: dict[str, Any] = {}  # ControlNets and adapters, by what they are shown (control.py)
        self.few: Path | None = None  # the file of few-step weights; the folder ``live`` needs none
        self.tiny: Any = None  # a small decoder for previews
        self.room = self.space = 2**16  # rows and pictures for which there was memory in this job
        self.relief: Callable[[], bool] = lambda: False  # has another network leave the device (Models)
        self.trouble = ""  # what a lack of memory has changed in this job, in words
        self._first = 0  # of the rows that are in a chunk at this moment
        self.evaluations = 0
        self.lora_rate, self.family = 1e-3, ""
        self.limit = limit
        self._nulls: dict[tuple[int, int], Tensor] = {}
        self._live: dict[str, Tensor] = {}
        self.now: Now | None = None
        self._settled: Any = None  # for what the plan was made
        self.settle()

    def has(self, kind: str) -> bool:
        """Whether it has what that kind of request wants: few steps, or a control for what it is shown."""
        return kind in self.controls or (kind == "live" and (self.few or self.folder / "live").exists())

    @property
    def sees_drawings(self) -> bool:
        """Whether sketch and strokes stand beside the noise in its input, as in DiSS and flora."""
        return self.extra == 2 * self.channels

    # ------------------------------------------------------------------------------------------------ memory

    def modules(self) -> dict[str, list[Any]]:
        """The parts that are at work at different times, each with its modules."""
        looks = [self.tiny] if self.tiny is not None else []
        return {"unet": [self.unet, *self.controls.values(), *looks], "vae": [self.vae], "text": [self.text_encoder]}

    @property
    def bytes(self) -> int:
        few = sum(t.numel() * t.element_size() for t in self._live.values())
        return few + sum(_bytes(m) for modules in self.modules().values() for m in modules)

    def settle(self) -> None:
        """Chooses how to work within the memory (`engine.diffusion.memory`), and moves the modules to where that has them.

        Every job asks for it; where nothing has changed since, nothing is done.
        """
        now = self.limit, {part: list(map(id, modules)) for part, modules in self.modules().items()}, len(self._live)
        if now == self._settled:
            return
        self._settled = now
        sizes = {part: sum(map(_bytes, modules)) for part, modules in self.modules().items()}
        sizes["unet"] += sum(t.numel() * t.element_size() for t in self._live.values())
        most = 64 if self.device.type == "cuda" else 16
        width, itemsize = int(self.unet.config.block_out_channels[0]), self.dtype.itemsize
        self.plan = memory.plan(self.limit, sizes, width, self.size, self.factor, itemsize, most)
        self.batch = self.plan.rows
        if hasattr(self.vae, "disable_tiling"):
            self.vae.enable_tiling() if self.plan.tiles else self.vae.disable_tiling()
        for modules in self.modules().values():
            for module in modules:
                self._move(module, torch.device("cpu") if self.plan.offload else self.device)

    def _move(self, module: Any, device: torch.device) -> None:
        if next(module.parameters()).device.type != device.type:
            module.to(device)
        if any(p.ndim == 4 for p in module.parameters()):
            module.to(memory_format=torch.channels_last)

    def need(self, part: str) -> None:
        """Has a part on the device, and the others off it if they do not all fit."""
        if not self.plan.offload:
            return
        for name, modules in self.modules().items():
            for module in modules:
                if name != part:
                    module.to("cpu")
        for module in self.modules()[part]:
            module.to(self.device)

    def notes(self, *prompts: str) -> list[str]:
        """What a job's result should say: words that were left out, a lack of memory."""
        long = {p: n for p in prompts if (n := self.overlong(p))}
        said = [f"the prompt “{p[:20]}…” is {n} tokens too long for {self.name}; its end was left out"
                for p, n in long.items()]  # fmt: skip
        return [*said, self.trouble] if self.trouble else said

    # ------------------------------------------------------------------------------------ pictures and words

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1] → latents (B, C, h, w) (the mean of the posterior)."""

        def one(rows: Tensor) -> Tensor:
            out = self.vae.encode(rows.to(self.device, self.dtype, memory_format=torch.channels_last))
            return (out.latent if hasattr(out, "latent") else out.latent_dist.mode()).float() * self.scale

        return self.with_pictures(one, x)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) → pictures (B, 3, H, W), about [−1, 1], float32."""

        def one(rows: Tensor) -> Tensor:
            return self.vae.decode((rows / self.scale).to(self.dtype, memory_format=torch.channels_last)).sample.float()

        return self.with_pictures(one, z)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Texts → (B, L, D) float32. Words beyond the network's length are left out (see `overlong`)."""
        ids = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.words, return_tensors="pt"
        ).input_ids
        self.need("text")
        return self.text_encoder(ids.to(self.device)).last_hidden_state.float()

    @property
    def words(self) -> int:
        """Tokens a prompt, its start and end included."""
        return int(self.text_encoder.config.max_position_embeddings)

    def overlong(self, prompt: str) -> int:
        """How many tokens of the prompt are left out."""
        return max(0, len(self.tokenizer(prompt).input_ids) - self.words)

    def null(self, size: tuple[int, int]) -> Tensor:
        """Φ, the missing condition: (1, C, h, w) latent of mid-grey for a latent ``size`` (h, w)."""
        if size not in self._nulls:
            grey = torch.zeros(1, 3, size[0] * self.factor, size[1] * self.factor)
            self._nulls = {size: self.encode(grey)}
        return self._nulls[size]

    def previewer(self, z: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
        """A cheap look at latents: the linear map from latents to colours that fits these pictures best.

        ``z`` (B, C, h, w) and ``x`` (B, 3, H, W) are the job's own pictures; the map gives soft (B, 3, 4h, 4w). Ridge
        least squares, milliseconds, on any network; decoding every step would cost more than the steps. A network
        with a tiny decoder beside it (TAESD) looks with that, (B, 3, H, W).
        """
        if self.tiny is not None:

            def see(latents: Tensor) -> Tensor:
                def one(rows: Tensor) -> Tensor:
                    return self.tiny.decode(rows.to(self.dtype) / self.tiny.config.scaling_factor).sample.float()

                return self.chunked(one, latents, most=self.plan.pictures)

            return see
        small = torch.nn.functional.interpolate(x.float().cpu(), z.shape[2:], mode="area")
        target = small.permute(0, 2, 3, 1).flatten(0, 2)
        source = torch.cat([z.float().cpu().permute(0, 2, 3, 1).flatten(0, 2), torch.ones(len(target), 1)], 1)
        gram = source.T @ source + 0.02 * len(target) * torch.eye(source.shape[1])
        weights = torch.linalg.solve(gram, source.T @ target)  # (C + 1, 3)

        def look(latents: Tensor) -> Tensor:
            colours = (latents.float().cpu().permute(0, 2, 3, 1) @ weights[:-1] + weights[-1]).permute(0, 3, 1, 2)
            return torch.nn.functional.interpolate(colours, scale_factor=4, mode="bicubic")

        return look

    # ------------------------------------------------------------------------------------------------- noise

    def levels(self, steps: int) -> list[float]:
        """Falling sigmas of ``steps`` steps at the network's own spacing, and 0 at the end (steps + 1 numbers)."""
        self.scheduler.set_timesteps(steps)
        return [*self.sigmas[self.scheduler.timesteps.cpu().long().clamp(max=len(self.sigmas) - 1)].tolist(), 0.0]

    def sampler(self, name: str) -> AbstractContextManager[None]:
        """Inside, the network has a sampler's weights: "ddim" its own, "live" those distilled to four steps.

        The few-step weights are a LoRA: in peft's format in the folder ``live`` beside the UNet (flora), or a file
        (LCM-LoRA). EngineError without.
        """
        if name == "ddim":
            return nullcontext()
        if self.family == "turbo":  # its own weights are the few-step ones
            return nullcontext()
        folder = self.folder / "live"
        beside = (folder / "adapter_config.json").is_file()
        if not beside and self.few is None:
            raise EngineError(f"sampler must be ddim for {self.name}, which has no few-step LoRA, got {name!r}")
        return self._few_steps()

    @contextmanager
    def _few_steps(self) -> Iterator[None]:
        if not self._live:
            from peft import PeftModel

            if self.few is not None:
                self._live = loading.tensors(self, self.few)
            else:
                twin = PeftModel.from_pretrained(copy.deepcopy(self.unet), str(self.folder / "live"))
                twin = twin.merge_and_unload(progressbar=False, safe_merge=True)
                own = dict(self.unet.named_parameters())
                # What the LoRA does not touch stays shared with the network.
                self._live = {n: p.data for n, p in twin.named_parameters() if not torch.equal(p, own[n])}
            self.settle()
        if self.plan.offload:  # both sets wait outside: only one is ever on the device
            self.unet.to("cpu")
            self._live = {n: t.cpu() for n, t in self._live.items()}
        with hooks.weights(self.unet, self._live):
            yield

    @property
    def marks(self) -> Sequence[int]:
        """Timesteps between which the few-step weights jump: LCM's own fifty, or the four of flora and SD-Turbo."""
        return LCM if self.few is not None else LIVE

    def jumps(self, s: float | None = None, steps: int = 4) -> list[float]:
        """Falling sigmas of the live sampler, from ``s`` (or pure noise) to 0: at most ``steps`` of its four."""
        times = [self.marks[i * len(self.marks) // steps] for i in range(steps)]
        marks = [float(self.sigmas[min(t, len(self.sigmas) - 1)]) for t in times]
        return [*marks, 0.0] if s is None else [s, *(m for m in marks if m < 0.99 * s), 0.0]

    def sigma(self, t: float) -> float:
        """The level of ``t``, 0 (no noise) … 1 (the last of the schedule): SDEdit's t0, and what strength means."""
        return float(self.sigmas[round(t * (len(self.sigmas) - 1))]) if t > 0 else 0.0

    def below(self, t: float, steps: int) -> list[float]:
        """Falling sigmas from the level of ``t`` to 0, evenly in time, of ``steps`` for the whole schedule.

        Unlike `levels` it begins where it says: the spacing of many checkpoints stops far below pure noise.
        """
        n = max(1, math.ceil(t * steps - 1e-9))
        return [self.sigma(t * (n - i) / n) for i in range(n + 1)]

    def timestep(self, s: float) -> float:
        """The training timestep of a sigma; between two of them, by the logarithm."""
        logs = self.sigmas.log()
        value = torch.tensor(max(s, 1e-9), dtype=torch.float64).log().clamp(logs[0], logs[-1])
        high = int(torch.searchsorted(logs, value).clamp(1, len(logs) - 1))
        part = float((value - logs[high - 1]) / (logs[high] - logs[high - 1]))
        t = high - 1 + part
        return round(t) if abs(t - round(t)) < 1e-3 else t

    def field(self, rows: Sequence[Row]) -> Callable[[Tensor, float], Tensor]:
        """(x, σ) → the clean picture in mind. Rows of all frames go as one batch, in chunks."""

        def denoise(x: Tensor, s: float) -> Tensor:
            out = self.guided_output(x, torch.full((len(x),), s, dtype=torch.float64), rows)
            if self.prediction == "v_prediction":  # v = √ā·ε − √(1−ā)·x0, so x0 = √ā·x − √(1−ā)·v in VP scale
                return (x / (1 + s * s) ** 0.5 - s * out) / (1 + s * s) ** 0.5
            return x - s * out

        return denoise

    def noise_in(self, x: Tensor, s: Tensor, rows: Sequence[Row]) -> Tensor:
        """The noise in pictures ``x`` (B, C, h, w), each at a sigma of its own, ``s`` (B,): what training compares."""
        out = self.guided_output(x, s, rows)
        if self.prediction == "v_prediction":  # ε = √ā·v + √(1−ā)·x
            s = s.to(x).view(-1, 1, 1, 1)
            out = (out + s * x / (1 + s * s).sqrt()) / (1 + s * s).sqrt()
        return out

    def guided_output(self, x: Tensor, s: Tensor, rows: Sequence[Row]) -> Tensor:
        """What the network says of pictures ``x``, guided: Σ weightᵢ · output(x, rowᵢ)."""
        n = x.shape[0]
        known = {v: self.timestep(v) for v in set(s.tolist())}
        t = torch.tensor([known[v] for v in s.tolist()])
        s = s.to(x).view(-1, 1, 1, 1)
        scaled = x / (1 + s * s).sqrt()
        embeds = torch.cat([r.embeds.expand(n, -1, -1) for r in rows])
        inputs = torch.cat([self._with_conditions(scaled, r.conditions) for r in rows])
        carried = {k: v for k in ("mix", "blend") if (v := _carried(rows, k, n)) is not None}
        level = next(iter(known)) if len(known) == 1 else None
        steer = self._steering(rows, n)
        self.need("unet")

        def one(part: Tensor, text: Tensor, times: Tensor, *own: Tensor) -> Tensor:
            part = part.to(self.dtype, memory_format=torch.channels_last)
            held = dict(zip(carried, own, strict=True))
            self.now = Now(self._first, level, held.get("mix"), held.get("blend"))
            try:
                text = text.to(self.dtype)
                shown = steer(self._first, part, times, text) if steer else {}
                return self.unet(part, times, encoder_hidden_states=text, **shown).sample.float()
            finally:
                self.now = None

        out = self.chunked(one, inputs, embeds, t.repeat(len(rows)), *carried.values())
        self.evaluations += out.shape[0]
        out = out.unflatten(0, (len(rows), n))
        weights = [r.weight.to(out) if isinstance(r.weight, Tensor) else r.weight for r in rows]
        return torch.stack([w * e for w, e in zip(weights, out, strict=True)]).sum(0)

    def _steering(self, rows: Sequence[Row], n: int) -> Any:
        hints = [r.hints or {} for r in rows]
        if not any(hints):
            return None
        if missing := {k for own in hints for k in own} - set(self.controls):
            raise EngineError(f"model must have a control for {', '.join(sorted(missing))}, got {self.name}, without")
        return steering(self.controls, hints, n, self.dtype)

    def _with_conditions(self, x: Tensor, conditions: Tensor | None) -> Tensor:
        if not self.extra:
            return x
        if conditions is None:
            conditions = self.null((x.shape[2], x.shape[3])).repeat(1, self.extra // self.channels, 1, 1)
        return torch.cat([x, conditions.expand(x.shape[0], -1, -1, -1)], 1)

    def with_pictures(self, fn: Callable[..., Tensor], *tensors: Tensor, share: int = 1) -> Tensor:
        """Runs the autoencoder over rows; a picture that is too large for the memory goes in tiles.

        ``share``: how many pictures a row stands for.
        """
        self.need("vae")
        most = max(1, self.plan.pictures // share)
        try:
            return self.chunked(fn, *tensors, most=most)
        except EngineError:  # one picture was too much
            if not hasattr(self.vae, "enable_tiling") or self.vae.use_tiling:
                raise
            self.vae.enable_tiling()
            self._settled = None  # for this job: the next one plans anew
            self.trouble = f"memory of {self.device} ran out; pictures of this size go in tiles"
            return self.chunked(fn, *tensors, most=1)

    def chunked(self, fn: Callable[..., Tensor], *tensors: Tensor, most: int = 0) -> Tensor:
        """Runs ``fn`` over the rows in chunks of ``most`` or `batch`.

        When memory runs out, another network leaves; if there is none, the chunks are halved.
        """
        out, start, total = [], 0, tensors[0].shape[0]
        while start < total:
            size = min(most, self.space) if most else min(self.batch, self.room)
            self._first = start
            failed = None
            try:
                out.append(fn(*(t[start : start + size].to(self.device) for t in tensors)))
                start += size
            except SHORT as e:
                if torch.is_grad_enabled():
                    raise  # what earlier chunks keep for the way back is not freed by smaller ones
                if not short_of_memory(e):
                    raise
                failed = e.with_traceback(None)  # which holds on to the tensors
            if failed is not None and not self.relief():
                fewer = self.smaller(failed, min(size, total), tensors[0])
                if most:
                    self.space = fewer
                else:
                    self.room = fewer
        return torch.cat(out)

    def smaller(self, error: BaseException, rows: int, like: Tensor) -> int:
        """Half of ``rows``, after ``error`` came up with so many of them; raises what is no lack of memory.

        When one row is too much, the lack of memory becomes a sentence (EngineError).
        """
        if not short_of_memory(error):
            raise error
        if rows <= 1:
            raise EngineError(
                f"memory of {self.device} must hold one picture of {tuple(like.shape[2:])} rows and columns in the "
                "network, got too little; choose a smaller size"
            ) from None
        self.trouble = f"memory of {self.device} ran out; it went on with {rows // 2} pictures a time"
        logging.getLogger(__name__).warning(self.trouble)
        memory.emptied(self.device)
        return rows // 2

    @contextmanager
    def learning(self, z: Tensor) -> Iterator[None]:
        """Inside, attention is what is fastest forwards and backwards: plain products for small latents on a CPU.

        The fused attention of CPUs takes 1.4 to 1.7 times as long a step there (training/README.md).
        """
        if self.device.type != "cpu" or z.shape[2] * z.shape[3] > 32 * 32:
            yield
            return
        from diffusers.models.attention_processor import AttnProcessor

        own = self.unet.attn_processors
        try:
            self.unet.set_attn_processor(AttnProcessor())
            yield
        finally:
            self.unet.set_attn_processor(own)

    @cached_property
    def fingerprint(self) -> str:
        """What tells these weights from others of the same name: a hash over a few numbers of every tensor."""
        # Where it lies and which diffusers wrote it say nothing of its weights.
        configs = [
            {k: v for k, v in c.items() if not k.startswith("_")} for c in (self.scheduler.config, self.unet.config)
        ]
        said = self.dtype, configs, self.scale, self.sigmas.sum()
        found = hashlib.blake2b(repr(said).encode(), digest_size=8)
        for part in (self.unet, self.vae, self.text_encoder):
            for name, p in part.named_parameters():
                few = p.data.flatten()[:: max(1, p.numel() // 8)].float().cpu()
                found.update(f"{name} {tuple(p.shape)}".encode() + few.numpy().tobytes())
        return found.hexdigest()


def _carried(rows: Sequence[Row], name: str, n: int) -> Tensor | None:
    """What all rows carry by that name, (rows · n, K); zeros for those that carry none, None if no row does."""
    own = [getattr(r, name) for r in rows]
    width = next((w.shape[1] for w in own if w is not None), None)
    if width is None:
        return None
    return torch.cat([torch.zeros(n, width) if w is None else w.cpu().expand(n, -1) for w in own])


def _bytes(module: Any) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _stages(vae: Any) -> Sequence[int]:
    config = vae.config
    return config.encoder_block_out_channels if "encoder_block_out_channels" in config else config.block_out_channels
