"""The modules of one network between jobs: where they are, what belongs to them, which weights the UNet has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.diffusion import memory
from engine.diffusion.executor import Executor
from engine.diffusion.plain import Decoding, Denoising, Encoding, Plain, Reading, reader
from engine.diffusion.schedule import FEW_STEPS, LCM, Schedule
from engine.diffusion.weights import fingerprint, merged, swap
from engine.requests import EngineError

CPU = torch.device("cpu")
TURBO = ("turbo", "sdxl-turbo")  # families whose own weights are few-step ones


class Resident:
    """The modules of one network on ``device`` (or waiting outside it, see `memory.Plan`), in eval mode, frozen.

    ``parts`` (`engine.checkpoints.load.Parts`) has unet, vae, text_encoder, tokenizer, scheduler, with SDXL a second
    text encoder and tokenizer, and the ``folder`` where what lies beside it would be. ``light``: an AutoencoderTiny, of
    which the decoder shows what moves (None: there is none).
    """

    def __init__(
        self,
        parts: Any,
        device: torch.device,
        dtype: torch.dtype,
        name: str = "",
        family: str = "",
        lora_rate: float = 1e-3,
        light: Any = None,
        executor: Executor | None = None,
    ):
        self.name, self.folder, self.device, self.dtype = name or parts.folder.name, parts.folder, device, dtype
        self.family, self.lora_rate, self.light = family, lora_rate, light
        self.unet, self.vae = parts.unet, parts.vae
        self.text_encoder, self.tokenizer = parts.text_encoder, parts.tokenizer
        second = getattr(parts, "text_encoder_2", None)
        self.texts = [self.text_encoder, second] if second else [self.text_encoder]
        self.executor, self._plain = executor or Executor(), self._parts()
        tokenizers = (self.tokenizer, parts.tokenizer_2) if second else (self.tokenizer,)
        own = [reader(partial(self._read, i), bool(second)) for i in range(len(self.texts))]
        self.readers = list(zip(tokenizers, own, strict=True))  # (tokenizer, text encoder)
        self.zero_negative = bool(getattr(parts, "zero_negative", False))
        for module in (self.unet, self.vae, *self.texts):
            module.eval().requires_grad_(False)
        # Of SDXL it is float32 beside a UNet of half precision, which its features would overflow (`load.read`).
        self.vae_dtype = next(self.vae.parameters()).dtype
        self.schedule = Schedule(parts.scheduler, self.name)
        self.channels = int(self.unet.config.out_channels)
        self.concat_channels = int(self.unet.config.in_channels) - self.channels
        if self.concat_channels % self.channels:
            got = f"one with {self.concat_channels} more channels"
            raise EngineError(f"model {self.name} must see noise, or drawings beside it, got {got}")
        self.controls: dict[str, Any] = {}  # ControlNets and adapters, by what they are shown (control.py)
        self._few_step: Callable[[], dict[str, Tensor]] | None = None  # what loads LCM-LoRA's weights
        self._few_step_weights: dict[str, Tensor] = {}
        self._null_latents: dict[tuple[int, int], Tensor] = {}
        self._planned: Any = None  # for what the plan was made

    # ---------------------------------------------------------------------------------------------- equipment

    def has(self, kind: str) -> bool:
        """Whether it has what that kind of request wants: few steps, or a control for what it is shown."""
        return kind in self.controls or (kind == "live" and (self.lcm or self._has_few_steps))

    @property
    def _has_few_steps(self) -> bool:
        return (self.folder / "live" / "adapter_config.json").is_file()

    def equip(self, kind: str, module: Any) -> None:
        """Puts a control beside it, or for "live" a function that gives LCM-LoRA's weights (see `weights_for`)."""
        if kind == "live":
            self._few_step, self._few_step_weights = module, {}
            self.executor.forget(self)
        else:
            self.controls[kind] = module.eval().requires_grad_(False)

    def drop_controls(self, but: tuple[str, ...]) -> None:
        """Forgets controls that would be moved about for nothing; where all fits they stay."""
        if self.plan.offload:
            self.controls = {k: m for k, m in self.controls.items() if k in but}

    @property
    def lcm(self) -> bool:
        """Whether its few-step weights are LCM-LoRA's, which jump as consistency models do."""
        return self._few_step is not None

    @property
    def few_step_times(self) -> tuple[int, ...]:
        """Timesteps between which the few-step weights jump: LCM's own fifty, or the four of flora and SD-Turbo."""
        return LCM if self.lcm else FEW_STEPS

    # -------------------------------------------------------------------------------------------- plain calls

    def _parts(self) -> dict[str, Plain]:
        two = len(self.texts) > 1
        own = {"unet": Denoising(self.unet), "encode": Encoding(self.vae), "decode": Decoding(self.vae)}
        own |= {f"text {i}": Reading(encoder, two) for i, encoder in enumerate(self.texts)}
        return own | ({"look": Decoding(self.light)} if self.light is not None else {})

    def run(self, part: str, *given: Tensor) -> tuple[tuple[Tensor, ...], str]:
        """A plain call of a part ("unet", "encode", "decode", "look" by the light decoder), and who answered it: a
        graph where there is one (`executor`), else torch."""
        found = None if self.plan.offload else self.executor.answer(self, self._plain[part], given)
        return (self._plain[part](*given), "torch") if found is None else (found, self.executor.name)

    def leave(self) -> None:
        """It is wanted no longer: a job that still has it goes on in torch."""
        self.executor.forget(self)
        self.executor = Executor()

    def _read(self, which: int, ids: Tensor) -> tuple[Tensor, ...]:
        return self.run(f"text {which}", ids)[0]

    # ------------------------------------------------------------------------------------------------- memory

    def modules(self) -> dict[str, list[Any]]:
        """The parts that are at work at different times, each with its modules."""
        looks = [self.light] if self.light is not None else []
        return {"unet": [self.unet, *self.controls.values(), *looks], "vae": [self.vae], "text": self.texts}

    @property
    def bytes(self) -> int:
        return sum(_bytes(m.parameters()) for modules in self.modules().values() for m in modules) + self._few_bytes

    @property
    def _few_bytes(self) -> int:
        return _bytes(self._few_step_weights.values())

    def settle(self, limit: int) -> None:
        """Chooses how to work within ``limit`` bytes (`memory.plan`), and moves the modules to where that has them.

        Every job asks for it; where nothing has changed since, nothing is done.
        """
        now = limit, {part: list(map(id, modules)) for part, modules in self.modules().items()}, self._few_bytes
        if now == self._planned:
            return
        self._planned, self._limit = now, limit
        sizes = {part: sum(_bytes(m.parameters()) for m in modules) for part, modules in self.modules().items()}
        sizes["unet"] += self._few_bytes
        most, width = 64 if self.device.type == "cuda" else 16, int(self.unet.config.block_out_channels[0])
        side, itemsizes = int(self.unet.config.sample_size), (self.dtype.itemsize, self.vae_dtype.itemsize)
        size, factor = side * self.vae_scale_factor, self.vae_scale_factor
        self.plan = memory.plan(limit, sizes, width, size, factor, itemsizes[0], most, itemsizes[1])
        memory.tile(self.vae, self.plan.tiles)
        for modules in self.modules().values():
            for module in modules:
                _move(module, CPU if self.plan.offload else self.device)

    def tile(self) -> bool:
        """Has pictures decoded in tiles until the next job plans anew; False if they cannot be, or are already."""
        if not hasattr(self.vae, "enable_tiling") or self.vae.use_tiling:
            return False
        memory.tile(self.vae, True)
        self._planned = None
        return True

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

    @property
    def vae_scale_factor(self) -> int:
        return pixels(self.vae)

    def null_latent(self, size: tuple[int, int], encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Φ, the missing condition: (1, C, h, w) latent of mid-grey for a latent ``size`` (h, w)."""
        if size not in self._null_latents:
            grey = torch.zeros(1, 3, *(n * self.vae_scale_factor for n in size))
            self._null_latents = {size: encode(grey)}
        return self._null_latents[size]

    # ------------------------------------------------------------------------------------------------ weights

    def weights_for(self, sampler: str) -> Any:
        """Inside, the UNet has a sampler's weights: "ddim" its own, "live" those distilled to few steps.

        The few-step weights are a LoRA: in peft's format in the folder ``live`` beside the UNet (flora), or LCM-LoRA.
        EngineError without.
        """
        if sampler == "ddim" or self.family in TURBO:  # whose own weights are the few-step ones
            return nullcontext()
        if not self.lcm and not self._has_few_steps:
            raise EngineError(f"sampler must be ddim for {self.name}, which has no few-step LoRA, got {sampler!r}")
        return self._few_steps()

    @contextmanager
    def _few_steps(self) -> Iterator[None]:
        if not self._few_step_weights:
            self._few_step_weights = self._few_step() if self._few_step else self._merged(self.folder / "live")
            self.settle(self._limit)
        if self.plan.offload:  # both sets wait outside: only one is ever on the device
            self.unet.to("cpu")
        place = CPU if self.plan.offload else self.device
        self._few_step_weights = {n: t.to(place) for n, t in self._few_step_weights.items()}
        with swap(self.unet, self._few_step_weights):
            yield

    def _merged(self, folder: Path) -> dict[str, Tensor]:
        """What the LoRA in ``folder`` makes of the UNet's parameters, remembered by the weights of both."""
        found = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        for file in sorted(folder.glob("adapter*")):
            found.update(file.read_bytes())
        return self.executor.keep(f"merged-{found.hexdigest()}", lambda: merged(self.unet, folder))

    @cached_property
    def fingerprint(self) -> str:
        """What tells these weights from others of the same name (`weights.fingerprint`)."""
        # Where it lies and which diffusers wrote it say nothing of its weights.
        configs = [
            {k: v for k, v in c.items() if not k.startswith("_")} for c in (self.schedule.config, self.unet.config)
        ]
        said = self.dtype, configs, float(self.vae.config.scaling_factor), self.schedule.training.sum()
        return fingerprint((self.unet, self.vae, *self.texts), said)


def pixels(vae: Any) -> int:
    """Pixels a side that an autoencoder makes of a latent."""
    wide = "encoder_block_out_channels" if "encoder_block_out_channels" in vae.config else "block_out_channels"
    return 2 ** (len(vae.config[wide]) - 1)


def _move(module: Any, device: torch.device) -> None:
    if any(p.device.type != device.type for p in module.parameters()):
        module.to(device)
    if any(p.ndim == 4 for p in module.parameters()):
        module.to(memory_format=torch.channels_last)


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
