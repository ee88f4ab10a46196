"""flora's words: the tree's tokenizer, and a small CLIPTextModel that is trained with the network.

The tokenizer's 894 pieces were learnt from the captions of the first generation, with every printable character among
them, so it can spell any other set's words too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.loop import DEVICE

WORDS = Path(__file__).resolve().parents[1] / "assets" / "models" / "flora" / "tokenizer"
LENGTH = 32  # tokens a prompt, start and end included
WIDTH = 192


def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(WORDS)


def build_text_encoder() -> CLIPTextModel:
    """4 layers; the network attends to its last hidden state (B, 32, 192)."""
    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.eos_token_id,
    )
    return CLIPTextModel(config)


def tokens(words: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(B, 32) token numbers on `DEVICE`."""
    ids = words(list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    return ids.to(DEVICE)
