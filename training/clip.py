"""flora's own CLIP, in open_clip's folder format: a small residual network and a small text transformer.

Trained contrastively (Radford et al. 2021) on the same captions and words as the UNet, on random crops and mirrored
pictures at 128 pixels. It ranks candidates (engine.vision.clip_score); the colours in the captions forbid jitter.
"""

from __future__ import annotations

import json
import random
import shutil

import cv2
import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from training.data import Look, Row, article_of, photographs, rows, worded
from training.loop import FLORA, WORK, Trainer, autocast, spent
from training.text import LENGTH, looks

SIDE = 128
MEAN, STD = (0.45, 0.40, 0.30), (0.29, 0.25, 0.28)


def config(vocabulary: int) -> dict:
    vision = {"image_size": SIDE, "layers": [2, 2, 2, 2], "width": 32, "head_width": 64}
    text = {"context_length": LENGTH, "vocab_size": vocabulary, "width": 192, "heads": 4, "layers": 3}
    return {"embed_dim": 192, "vision_cfg": vision, "text_cfg": text}


def crops(small: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """(B, 3, 128, 128) normalised: crops of 65 to 100 % of the side, half of them mirrored."""
    out = np.empty((len(index), SIDE, SIDE, 3), np.uint8)
    for k, i in enumerate(index):
        side = int(rng.uniform(0.65, 1.0) * small.shape[1])
        y, x = rng.integers(0, small.shape[1] - side + 1, 2)
        crop = cv2.resize(small[i, y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        out[k] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return normalised(out)


def normalised(block: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(block).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def plain_caption(row: Row, seen: Look) -> str:
    return f"a photograph of {article_of(seen.flower)} {seen.flower} {row.label}"


def shrunk() -> np.ndarray:
    """(N, 160, 160, 3) uint8 of all photographs: what crops are cut from; made once."""
    path = WORK / "photographs-160.npy"
    if not path.exists():
        part = path.with_suffix(".part.npy")
        np.save(part, np.stack([cv2.resize(p, (160, 160), interpolation=cv2.INTER_AREA) for p in photographs()]))
        part.replace(path)
    return np.load(path)


def found_first(pictures: torch.Tensor, texts: torch.Tensor, own: list[int]) -> tuple[float, float]:
    """Share of pictures (N, D) whose own text (of M, D; number ``own``) comes first, and among the first five."""
    order, at = (pictures @ texts.T).topk(5).indices.cpu(), torch.tensor(own)[:, None]
    return float((order[:, :1] == at).float().mean()), float((order == at).any(1).float().mean())


def train(minutes: float, device: torch.device, batch: int, horizon: int, lr: float) -> None:
    torch.manual_seed(3)
    index, block = rows(), shrunk()
    seen = looks(photographs())
    train_index = np.array([i for i, r in enumerate(index) if r.split == "train"])
    tokenizer = CLIPTokenizer.from_pretrained(FLORA / "tokenizer")
    cfg = config(len(tokenizer))
    model = open_clip.model.CLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])
    trainer = Trainer("clip", {"clip": model}, device, lr, horizon, ema_samples=15_000)
    print(f"CLIP {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M", flush=True)

    def tokens(texts: list[str]) -> torch.Tensor:
        return tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids

    rng, words = np.random.default_rng(trainer.samples), random.Random(trainer.samples)
    for step, _ in enumerate(trainer.run(minutes)):
        pick = rng.choice(train_index, batch, replace=False)
        x = crops(block, pick, rng).to(device).contiguous(memory_format=torch.channels_last)
        texts = [worded(index[i].label, seen[i], words) for i in pick]
        with autocast(device):
            picture, text, scale = model(x, tokens(texts).to(device))
        logits = scale.float() * picture.float() @ text.float().T
        own = torch.arange(batch, device=device)
        ce = torch.nn.functional.cross_entropy
        loss = (ce(logits, own) + ce(logits.T, own)) / 2
        rate = trainer.step(loss, batch)
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6)  # 100, as in the paper
        if step % 50 == 49:
            trainer.log(loss=loss.item(), lr=rate, scale=float(scale))
    with trainer.averaged(), torch.no_grad():
        for _ in range(60):  # the running statistics of the normalisations belong to the last weights: made anew
            model.encode_image(crops(block, rng.choice(train_index, batch), rng).to(device))
        save(model.eval(), cfg)
    spent("clip", trainer.samples, trainer.seconds)


def save(model: torch.nn.Module, cfg: dict) -> None:
    """Half-precision weights, config and tokenizer in the folder `clip`, as `open_clip` reads them."""
    folder = FLORA / "clip"
    shutil.copytree(FLORA / "tokenizer", folder, dirs_exist_ok=True)
    cfg["text_cfg"]["hf_tokenizer_name"] = "here"  # any name: with local-dir, open_clip looks beside the config
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}, indent=2) + "\n"
    )
    half = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    state = {k: v.contiguous() for k, v in half.items()}
    save_file(state, folder / "open_clip_model.safetensors")
