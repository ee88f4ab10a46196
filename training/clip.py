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
import torch.nn.functional as F
from safetensors.torch import save_file

from training.data import Look, Row, article_of, fitting, looks, photographs, rows, split, worded
from training.loop import DEVICE, FAST, FLORA, WORK, Run, Weights, doing, get, put, spent
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
        doing("smaller photographs")
        part = path.with_suffix(".part.npy")
        np.save(part, np.stack([cv2.resize(p, (160, 160), interpolation=cv2.INTER_AREA) for p in photographs()]))
        part.replace(path)
    return fitting(np.load(path), path, rows())


def found_first(pictures: torch.Tensor, texts: torch.Tensor, own: list[int]) -> tuple[float, float]:
    """Share of pictures (N, D) whose own text (of M, D; number ``own``) comes first, and among the first five."""
    order, at = (pictures @ texts.T).topk(5).indices.cpu(), torch.tensor(own)[:, None]
    return float((order[:, :1] == at).float().mean()), float((order == at).any(1).float().mean())


def train(minutes: float, batch: int = 128, lr: float = 1e-3, total: float = 0.0) -> None:
    """Into ``FLORA/clip``, with flora's words; goes on from ``WORK/clip.pt``."""
    index, block, seen, state = rows(), shrunk(), looks(photographs()), get("clip") or {}
    among, spelt = split(index, "train"), tokenizer()
    cfg = config(len(spelt))
    model = open_clip.model.CLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])
    model.to(DEVICE, memory_format=torch.channels_last)
    # The batch normalisations want the precision of their statistics: float32 weights under autocast.
    weights = Weights(list(model.parameters()), lr, (AVERAGE,), 0.01, dtype=torch.float32)
    run = Run("clip", minutes, state.get("n", 0), state.get("steps", 0), state.get("sec", 0.0), total)
    if state:
        weights.load(state["w"])
    rng, words = np.random.default_rng(run.steps), random.Random(run.steps)

    def drawn() -> tuple[np.ndarray, torch.Tensor]:
        pick = rng.choice(among, batch, replace=batch > len(among))
        return pick, crops(block, pick, rng).to(DEVICE).contiguous(memory_format=torch.channels_last)

    def keep() -> None:
        put({"w": weights.state(), "n": run.samples, "steps": run.steps, "sec": run.seconds}, "clip")

    for _ in run.until(keep):
        pick, x = drawn()
        ids = tokens(spelt, [worded(index[i].label, seen[i], words) for i in pick])
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=FAST):
            picture, text, scale = model(x, ids)
        logits, own = (
            scale.float().clamp(max=100) * picture.float() @ text.float().T,
            torch.arange(batch, device=DEVICE),
        )
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        loss.backward()
        rate = lr * min(1, (run.steps + 1) / 200) * run.cosine(0.02)
        weights.step(rate, batch, run.samples)
        run.count(batch, lr=rate, loss=loss, scale=scale)
    weights.show(AVERAGE)
    with torch.no_grad():
        for _ in range(60):  # the running statistics of the normalisations belong to the last weights: made anew
            model.encode_image(drawn()[1])
    save(model.eval(), cfg)
    spent("clip", run.samples, run.seconds)


def save(model: torch.nn.Module, cfg: dict) -> None:
    """Half-precision weights, config and tokenizer in the folder `clip`, as `open_clip` reads them."""
    folder = FLORA / "clip"
    shutil.copytree(WORDS, folder, dirs_exist_ok=True)
    cfg["text_cfg"]["hf_tokenizer_name"] = "here"  # any name: with local-dir, open_clip looks beside the config
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}, indent=2) + "\n", encoding="utf8"
    )
    half = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    state = {k: v.contiguous() for k, v in half.items()}
    save_file(state, folder / "open_clip_model.safetensors")
