"""flora's words: a CLIPTokenizer with a small vocabulary learnt from the captions, and a small CLIPTextModel."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.requests import EngineError
from training.data import Look, Row, caption, looks, photographs, rows
from training.loop import DEVICE, FLORA, WORK

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 32  # tokens a prompt, start and end included
WIDTH = 192


def build_tokenizer(folder: Path, index: list[Row], seen: list[Look]) -> CLIPTokenizer:
    """Learns a byte-pair vocabulary of at most 900 pieces from many captions and saves it to ``folder``.

    ``vocab.json`` and ``merges.txt`` are written besides, which every version of transformers reads.
    """
    rng = random.Random(0)
    corpus = [caption(r.label, s, rng) for r, s in zip(index, seen, strict=True) for _ in range(2)]
    corpus += [
        "a painting of flowers in a vase, a drawing, a field of poppies, blossom, petals, leaves, stem, garden"
    ] * 4
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[0-9]|[^\sa-z0-9]+"), "isolated")
    alphabet = [chr(c) for c in range(33, 127)]
    # CLIP wants every character as it is and as it ends a word; the trainer only knows the former.
    trainer = trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((w for text in corpus for w in text.replace("'", " ").split()), trainer)
    learnt = json.loads(bpe.to_str())["model"]
    pieces = dict.fromkeys([*alphabet, *(c + "</w>" for c in alphabet), *learnt["vocab"], START, END])
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(m) for m in learnt["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=LENGTH,
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    return tokenizer


def build_text_encoder(tokenizer: CLIPTokenizer, width: int = WIDTH) -> CLIPTextModel:
    """4 layers; its last hidden state (B, 32, width) is what the network attends to."""
    ends = tokenizer.eos_token_id
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=4,
            num_attention_heads=width // 48,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends,
            pad_token_id=ends,
        )
    )


def find_tokenizer(start: Path | None, learn: bool) -> CLIPTokenizer:
    """That of the work folder, else of ``start`` or of flora, copied there; else a new one if it may ``learn``.

    Checkpoints were trained on one vocabulary: EngineError where that is lost.
    """
    own = WORK / "tokenizer"
    places = [own, *([start / "tokenizer"] if start else []), FLORA / "tokenizer"]
    found = next((p for p in places if (p / "vocab.json").exists()), None)
    if not found and not learn:
        raise EngineError(f"the network's tokenizer must lie in {own} or {FLORA / 'tokenizer'}, got none")
    if not found:
        return build_tokenizer(own, rows(), looks(photographs()))
    if found != own:
        shutil.copytree(found, own, dirs_exist_ok=True)
    return CLIPTokenizer.from_pretrained(own)


def tokens(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(B, 32) token numbers on `DEVICE`."""
    ids = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids
    return ids.to(DEVICE)
