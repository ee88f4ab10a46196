"""Tiny networks of the real classes in the real folder format, pictures, and a worker that owns one of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[1]
# Chromium as root, without a GPU, asking nobody outside.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def pytest_configure():
    os.environ["CHRYSALIS_CACHE"] = tempfile.mkdtemp(prefix="chrysalis-cache-")  # not the person's own
    os.environ["HF_HUB_CACHE"] = tempfile.mkdtemp(prefix="chrysalis-hub-")
    os.environ.pop("CHRYSALIS_MODEL", None)
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody answers there


def pytest_collection_modifyitems(items):
    """Fast ones first: the laws in closed form before the command line, the page last."""
    order = [
        "geometry",
        "sampling",
        "schema",
        "layering",
        "stream",
        "images",
        "video",
        "worker",
        "zero",
        "models",
        "hub",
        "catalogue",
        "memory",
        "loading",
        "control",
        "pose",
        "posing",
        "ranking",
        "perceptual",
        "cache",
        "hooks",
        "lora",
        "lorafile",
        "interpolate",
        "morph",
        "timeline",
        "drawing",
        "draw",
        "edit",
    ]
    order += [
        "benchmarks",
        "training",
        "cli",
        "flora",
        "api",
        "container",
        "skeleton",
        "canvas",
        "page",
        "easel",
        "networks",
    ]
    place = {name: n for n, name in enumerate(order)}
    items.sort(key=lambda i: place.get(i.path.stem.removeprefix("test_"), len(place)))


def make_network(
    folder: Path, prediction: str = "epsilon", extra: int = 0, seed: int = 0, attends: tuple[int, ...] = (1,)
) -> Path:
    """A Stable-Diffusion-shaped checkpoint of random weights, factor 8, 4 channels, in the diffusers folder format.

    ``attends``: which of its two levels look at the words; in Stable Diffusion all but the last do."""
    down = ["CrossAttnDownBlock2D" if i in attends else "DownBlock2D" for i in (0, 1)]
    up = ["CrossAttnUpBlock2D" if i in attends else "UpBlock2D" for i in (1, 0)]
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4 + extra, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=down, up_block_types=up,
        cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=8,
        scaling_factor=0.18215,
    )  # fmt: skip
    letters = [chr(c) for c in range(33, 127)]
    vocab = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, projection_dim=32, bos_token_id=len(vocab) - 2, eos_token_id=len(vocab) - 1,
        pad_token_id=len(vocab) - 1,
    ))  # fmt: skip
    tokenizer = CLIPTokenizer(
        vocab={v: i for i, v in enumerate(vocab)}, merges=[], unk_token="<|endoftext|>", bos_token="<|startoftext|>",
        eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=24,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        set_alpha_to_one=False, prediction_type=prediction,
    )  # fmt: skip
    parts = (("unet", unet), ("vae", vae), ("text_encoder", text), ("tokenizer", tokenizer), ("scheduler", scheduler))
    for name, part in parts:
        part.save_pretrained(folder / name)
    index = {name: ["transformers" if name[0] == "t" else "diffusers", type(part).__name__] for name, part in parts}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"} | index))
    return folder


def picture(seed: int = 0, size: tuple[int, int] = (80, 64)) -> Image.Image:
    """A smooth coloured picture."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return make_network(tmp_path_factory.mktemp("networks") / "tiny")


@pytest.fixture(scope="session")
def models():
    from engine.checkpoints.manager import Models

    return Models("cpu", torch.float32)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def started(*arguments: str, **env: str) -> Iterator[str]:
    """The README's own command on a free port; the address, when it answers."""
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | env)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < until, "the studio did not come up"
            threading.Event().wait(0.3)  # another process is opening its port; nothing of ours is timed
    try:
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def studio():
    with started() as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()
