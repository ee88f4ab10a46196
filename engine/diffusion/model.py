"""One network in plain terms: pictures in [−1, 1], latents of unit variance, sigmas, a `denoiser` to walk with.

ε- and v-prediction, the scaling of the input, the timestep of a sigma, guidance rows, latents side by side (DiSS) and
what each row carries (LoRA weights, attention weights) all end here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from engine.diffusion import attention
from engine.diffusion.control import residuals
from engine.diffusion.guidance import Conditioning, Pass, carried, combine
from engine.diffusion.memory import Room
from engine.diffusion.residency import Resident
from engine.diffusion.sampling import Denoise
from engine.diffusion.words import Words, read, unread
from engine.requests import EngineError
from engine.requests.phrases import plain

channels_last = torch.channels_last


class LatentDiffusion:
    """A resident network as one job uses it. Latents are (B, C, h, w), float32, on ``device``, of about unit variance.

    What belongs to the job is here and goes with it: its `Room`, how many rows it had ``evaluations`` of, who
    ``answered``, and what the rows in the UNet carry ``now``. All else belongs to the `Resident`.
    """

    def __init__(self, resident: Resident, room: Room | None = None):
        self.resident, self.room = resident, room or Room(resident.device)
        self.name, self.device, self.dtype = resident.name, resident.device, resident.dtype
        self.unet, self.vae, self.schedule = resident.unet, resident.vae, resident.schedule
        self.vae_scale_factor = resident.vae_scale_factor
        self.channels, self.concat_channels = resident.channels, resident.concat_channels
        self.size = int(self.unet.config.sample_size) * self.vae_scale_factor
        # The UNet halves its input between levels: frames must be whole at the deepest one.
        self.multiple = self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        self.max_tokens = int(resident.text_encoder.config.max_position_embeddings)  # start and end included
        self.evaluations = 0
        self.answered = Counter[str]()  # rows and pictures, by who answered
        self.now: Pass | None = None

    @property
    def sees_drawings(self) -> bool:
        """Whether sketch and strokes stand beside the noise in its input, as in DiSS and flora."""
        return self.concat_channels == 2 * self.channels

    @property
    def fingerprint(self) -> str:
        """What tells these weights from others."""
        return self.resident.fingerprint

    @property
    def rows(self) -> int:
        """UNet rows a time."""
        return self.resident.plan.rows

    # ------------------------------------------------------------------------------------- pictures and prompts

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1] → latents (B, C, h, w) (the mean of the posterior)."""
        scale = float(self.vae.config.scaling_factor)

        def one(rows: Tensor) -> Tensor:
            rows = rows.to(self.device, self.resident.vae_dtype, memory_format=channels_last)
            return self._run("encode", rows).float() * scale

        return self.with_pictures(one, x)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) → pictures (B, 3, H, W), about [−1, 1], float32."""
        scale = float(self.vae.config.scaling_factor)

        def one(rows: Tensor) -> Tensor:
            rows = (rows / scale).to(self.resident.vae_dtype, memory_format=channels_last)
            return self._run("decode", rows).float()

        return self.with_pictures(one, z)

    def look(self, z: Tensor) -> Tensor:
        """The same by the light decoder (AutoencoderTiny), rougher in a fraction of the time, where there is one."""
        light = self.resident.light
        if light is None:
            return self.decode(z)
        self.resident.need("unet")  # which it waits with

        def one(first: int, rows: Tensor) -> Tensor:
            rows = (rows / light.config.scaling_factor).to(self.dtype, memory_format=channels_last)
            return self._run("look", rows).float()

        return self.room.chunk(one, (z,), self.resident.plan.pictures, "pictures")

    def _run(self, part: str, *given: Tensor) -> Tensor:
        (out, *_), who = self.resident.run(part, *given)
        self.answered[who] += len(out)
        return out

    @property
    def executor(self) -> str:
        """Who answered so far: "torch", another, or "torch, …" where it took over on the way."""
        return ", ".join(sorted(self.answered, key=lambda who: who != "torch")) or "torch"

    def with_pictures(self, fn: Callable[..., Tensor], *tensors: Tensor, share: int = 1) -> Tensor:
        """Runs the autoencoder over rows; a picture that is too large for the memory goes in tiles.

        ``share``: how many pictures a row stands for.
        """
        self.resident.need("vae")
        most = max(1, self.resident.plan.pictures // share)

        def one(first: int, *rows: Tensor) -> Tensor:
            return fn(*rows)

        try:
            return self.room.chunk(one, tensors, most, "pictures")
        except EngineError:  # one picture was too much
            if not self.resident.tile():
                raise
            self.room.tell("pictures of this size go in tiles")
            return self.room.chunk(one, tensors, 1, "pictures")

    def embed(self, prompts: Sequence[str], negatives: Sequence[str] = ()) -> Words:
        """Texts → their words, rows of ``prompts`` first. An empty negative is zeros for networks that learnt it so.

        Brackets weigh (`engine.requests.phrases`). What goes beyond the network's length is left out (see `unread`).
        """
        texts = [*prompts, *negatives]
        self.resident.need("text")
        words = read(self.resident.readers, texts, self.max_tokens, self.device)
        if not self.resident.zero_negative:
            return words
        shown = torch.tensor([i < len(prompts) or bool(plain(t)) for i, t in enumerate(texts)], device=self.device)
        return words.map(lambda t: t * shown.view(-1, *[1] * (t.ndim - 1)))

    def unread(self, prompts: Sequence[str]) -> list[str]:
        """Notes on what of the prompts the network does not read: ends beyond its length, words in unknown letters."""
        return unread(self.resident.tokenizer, self.name, self.max_tokens, prompts)

    def null_latent(self, size: tuple[int, int]) -> Tensor:
        """Φ, the missing condition: (1, C, h, w) latent of mid-grey for a latent ``size`` (h, w)."""
        return self.resident.null_latent(size, self.encode)

    # ------------------------------------------------------------------------------------------------ denoising

    def few_step_sigmas(self, top: float | None = None, steps: int = 4) -> list[float]:
        """Falling sigmas of the few-step weights, from ``top`` (or pure noise) to 0: at most ``steps`` of them."""
        return self.schedule.few_step_sigmas(self.resident.few_step_times, top, steps)

    def denoiser(self, conditionings: Sequence[Conditioning]) -> Denoise:
        """(x, σ) → x0, guided: Σ weightᵢ · x0(x, conditioningᵢ), Σ weightᵢ = 1. Rows of all frames go as one batch."""

        def denoise(x: Tensor, s: float) -> Tensor:
            out = self._output(x, torch.full((len(x),), s, dtype=torch.float64), conditionings)
            if self.schedule.prediction == "v_prediction":  # v = √ā·ε − √(1−ā)·x0, so x0 = √ā·x − √(1−ā)·v in VP scale
                return (x / (1 + s * s) ** 0.5 - s * out) / (1 + s * s) ** 0.5
            return x - s * out

        return denoise

    def eps(self, x: Tensor, s: Tensor, conditionings: Sequence[Conditioning]) -> Tensor:
        """The noise in pictures ``x`` (B, C, h, w), each at a sigma of its own, ``s`` (B,)."""
        out = self._output(x, s, conditionings)
        if self.schedule.prediction == "v_prediction":  # ε = √ā·v + √(1−ā)·x
            s = s.to(x).view(-1, 1, 1, 1)
            out = (out + s * x / (1 + s * s).sqrt()) / (1 + s * s).sqrt()
        return out

    def errors(self, z: Tensor, noise: Tensor, s: Tensor, conditionings: Sequence[Conditioning]) -> Tensor:
        """(B,) mean squared errors of what the network itself predicts, ε or v, of ``z`` (B, C, h, w) under ``noise``
        of sigmas ``s`` (B,): what is trained. A step in v counts as 1/ā of one in ε, so that large noise counts too.
        """
        own = s.to(z).view(-1, 1, 1, 1)
        out = self._output(z + own * noise, s, conditionings)
        target = noise if self.schedule.prediction == "epsilon" else (noise - own * z) / (1 + own * own).sqrt()
        return (out - target).square().mean((1, 2, 3))

    def _output(self, x: Tensor, s: Tensor, conditionings: Sequence[Conditioning]) -> Tensor:
        """What the UNet says of ``x`` (B, C, h, w) at ``s`` (B,), guided."""
        n, rows = x.shape[0], len(conditionings)
        known = {v: self.schedule.timestep(v) for v in set(s.tolist())}
        times = torch.tensor([known[v] for v in s.tolist()])
        s = s.to(x).view(-1, 1, 1, 1)
        scaled = x / (1 + s * s).sqrt()
        words = Words.cat([c.words.expand(n) for c in conditionings])
        inputs = torch.cat([self._concat(scaled, c.concat_latents) for c in conditionings])
        names = ("lora_weights", "attention_weights")
        own = {k: v for k in names if (v := carried(conditionings, k, n)) is not None}
        sigma = next(iter(known)) if len(known) == 1 else None
        steer = self._steer(conditionings, n)
        self.resident.need("unet")

        def one(first: int, part: Tensor, times: Tensor, *more: Tensor) -> Tensor:
            part = part.to(self.dtype, memory_format=channels_last)
            seen = Words(*more[len(own) :]).told([side * self.vae_scale_factor for side in part.shape[2:]], self.dtype)
            held = dict.fromkeys(names) | dict(zip(own, more, strict=False))
            self.now = Pass(first, sigma, **held)
            try:
                shown = steer(first, part, times, seen) if steer else {}
                if shown:
                    self.answered["torch"] += len(part)
                    return self.unet(part, times, **seen, **shown).sample.float()
                return self._run("unet", part, times, *unpacked(seen)).float()
            finally:
                self.now = None

        out = self.room.chunk(one, (inputs, times.repeat(rows), *own.values(), *words.tensors), self.rows, "rows")
        self.evaluations += out.shape[0]
        return combine(out.unflatten(0, (rows, n)), conditionings, self.schedule.zero_terminal_snr)

    def _steer(self, conditionings: Sequence[Conditioning], n: int) -> Any:
        inputs, controls = [c.control or {} for c in conditionings], self.resident.controls
        if not any(inputs):
            return None
        if missing := {k for own in inputs for k in own} - set(controls):
            raise EngineError(f"model must have a control for {', '.join(sorted(missing))}, got {self.name}, without")
        return residuals(controls, inputs, n, self.dtype)

    def _concat(self, x: Tensor, latents: Tensor | None) -> Tensor:
        if not self.concat_channels:
            return x
        if latents is None:
            null = self.null_latent((x.shape[2], x.shape[3]))
            latents = null.repeat(1, self.concat_channels // self.channels, 1, 1)
        return torch.cat([x, latents.expand(x.shape[0], -1, -1, -1)], 1)

    @contextmanager
    def learning(self, z: Tensor) -> Iterator[None]:
        """Inside, attention is what is fastest forwards and backwards for latents like ``z``."""
        if self.device.type != "cpu" or z.shape[2] * z.shape[3] > 32 * 32:
            yield
            return
        with attention.plain_products(self.unet):
            yield


def unpacked(seen: dict[str, Any]) -> tuple[Tensor, ...]:
    """What a UNet is told of words (`Words.told`), as `plain.Denoising` takes it."""
    return seen["encoder_hidden_states"], *seen.get("added_cond_kwargs", {}).values()
