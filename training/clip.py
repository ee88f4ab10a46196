"""flora's own CLIP, in open_clip's folder format: a small residual network and a small text transformer.

Trained contrastively (Radford et al. 2021) on the same captions and words as the UNet, on random crops and mirrored
pictures at 128 pixels. It ranks candidates (engine.vision.clip_score); the colours in the captions forbid jitter.
"""

from __future__ import annotations

import random
import shutil

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.transforms.functional import normalize

from training.data import cropped, looks, photographs, pixels, remembered, rows, split, worded
from training.loop import DEVICE, FAST, FLORA, Run, Weights, spent, write
from training.text import LENGTH, WORDS, tokenizer, tokens

SIDE = 128
AVERAGE = 15_000  # samples
MEAN, STD = (0.45, 0.40, 0.30), (0.29, 0.25, 0.28)


def config(vocabulary: int) -> dict:
    vision = {"image_size": SIDE, "layers": [2, 2, 2, 2], "width": 32, "head_width": 64}
    text = {"context_length": LENGTH, "vocab_size": vocabulary, "width": 192, "heads": 4, "layers": 3}
    return {"embed_dim": 192, "vision_cfg": vision, "text_cfg": text}


def crops(small: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """(B, 3, 128, 128) normalised: crops of 65 to 100 % of the side, half of them mirrored."""
    out = [cropped(small[i], int(rng.uniform(0.65, 1.0) * small.shape[1]), SIDE, rng) for i in index]
    return normalize((pixels(np.stack(out)) + 1) / 2, MEAN, STD)


def shrunk() -> np.ndarray:
    """(N, 160, 160, 3) uint8 of all photographs: what crops are cut from."""
    small = (cv2.resize(p, (160, 160), interpolation=cv2.INTER_AREA) for p in photographs())
    return np.array(remembered("photographs-160", small))


def train(minutes: float, batch: int = 128, lr: float = 1e-3, total: float = 0.0) -> None:
    """Into ``FLORA/clip``, with flora's words; goes on from ``WORK/clip.pt``."""
    index, block, seen, run = rows(), shrunk(), looks(photographs()), Run("clip", "clip", minutes, total)
    among, spelt = split(index, "train"), tokenizer()
    cfg = config(len(spelt))
    model = open_clip.model.CLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])
    model.to(DEVICE, memory_format=torch.channels_last)
    # The batch normalisations want the precision of their statistics: float32 weights under autocast.
    weights = Weights(list(model.parameters()), lr, (AVERAGE,), 0.01, dtype=torch.float32)
    if run.state:
        weights.load(run.state["w"])
    rng, words = np.random.default_rng(run.steps), random.Random(run.steps)

    def drawn() -> tuple[np.ndarray, torch.Tensor]:
        pick = rng.choice(among, batch, replace=batch > len(among))
        return pick, crops(block, pick, rng).to(DEVICE).contiguous(memory_format=torch.channels_last)

    own = torch.arange(batch, device=DEVICE)
    for _ in run.until(lambda: {"w": weights.state()}):
        pick, x = drawn()
        ids = tokens(spelt, [worded(index[i].label, seen[i], words) for i in pick])
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=FAST):
            picture, text, scale = model(x, ids)
        logits = scale.float().clamp(max=100) * picture.float() @ text.float().T
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        loss.backward()
        rate = lr * min(1, (run.steps + 1) / 200) * run.cosine(0.02)
        weights.step(rate, batch, run.samples)
        run.count(batch, lr=rate, loss=loss, scale=scale)
    weights.show(AVERAGE)
    with torch.no_grad():
        for _ in range(60):  # the running statistics of the normalisations belong to the last weights: made anew
            model.encode_image(drawn()[1])
    save(model, cfg)
    spent("clip", run.samples, run.seconds)


def save(model: torch.nn.Module, cfg: dict) -> None:
    """Half-precision weights, config and tokenizer in the folder `clip`, as `open_clip` reads them."""
    folder = FLORA / "clip"
    shutil.copytree(WORDS, folder, dirs_exist_ok=True)
    cfg["text_cfg"]["hf_tokenizer_name"] = "here"  # any name: with local-dir, open_clip looks beside the config
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    write(folder / "open_clip_config.json", {"model_cfg": cfg, "preprocess_cfg": preprocess})
    half = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in half.items()}, folder / "open_clip_model.safetensors")
