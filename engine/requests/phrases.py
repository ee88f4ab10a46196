"""Words as artists write them: what of them counts more or less, and LoRAs that are named among them.

``(red rose:1.3)`` counts 1.3 times, ``(red)`` 1.1, ``((red))`` 1.21, ``[less]`` 1/1.1, as in A1111's web UI (its wiki,
*Attention/emphasis*); a backslash before a bracket makes it one of the text. ``<lora:ink:0.8>`` adds a LoRA to the
network for that job, by any name that the network's field takes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from engine.requests.errors import EngineError
from engine.requests.files import named

MORE, MOST = 1.1, 10.0  # what a pair of brackets does; what would weigh more is no weight: (born in:1984)
WORDS = ("prompt", "prompt_b", "prompts", "negative")  # the fields of requests that hold them
PIECE = re.compile(r"\\[()\[\]\\]|[()\[\]]|[^()\[\]\\]+|\\")
WEIGHT = re.compile(r":\s*([+−-]?(?:\d{1,4}[.,]?\d{0,9}|[.,]\d{1,9}))\s*$")
LORA = re.compile(r"<(?:lora|lyco):([^<>]+)>", re.IGNORECASE)
STRENGTH = re.compile(r":\s*[+−-]?[\d.,]+\s*$")


def weighted(text: str) -> list[tuple[str, float]]:
    """A text → its parts and their weights, −10 … 10; neighbours have different ones. There is nothing that it cannot
    read: a bracket without the other one is text."""
    pieces = PIECE.findall(text)
    opened, closed = _pairs(pieces)
    out, now, outer = list[tuple[str, float]](), 1.0, list[float]()
    for i, piece in enumerate(pieces):
        if i in opened:
            outer.append(now)
            now = round(max(-MOST, min(MOST, now * opened[i])), 12)
        elif i in closed:
            now = outer.pop()
        elif piece:
            before = out.pop()[0] if out and out[-1][1] == now else ""
            out.append((before + (piece[1:] or piece if piece[0] == "\\" else piece), now))
    return out


def _pairs(pieces: list[str]) -> tuple[dict[int, float], set[int]]:
    """Where brackets open, with what they do to weights, and where they close. Weights are taken out of the pieces."""
    waiting, opened, closed = {")": list[int](), "]": list[int]()}, dict[int, float](), set[int]()
    for i, piece in enumerate(pieces):
        if piece in ("(", "["):
            waiting[")" if piece == "(" else "]"].append(i)
        elif own := waiting.get(piece):
            start, other = own.pop(), waiting["]" if piece == ")" else ")"]
            while other and other[-1] > start:  # ([): the inner one has no other
                other.pop()
            factor = MORE if piece == ")" else 1 / MORE
            said = WEIGHT.search(pieces[i - 1]) if piece == ")" and i - 1 not in closed else None
            if said and abs(weight := float(said[1].replace(",", ".").replace("−", "-"))) <= MOST:
                factor, pieces[i - 1] = weight, pieces[i - 1][: said.start()]
            opened[start] = factor
            closed.add(i)
    return opened, closed


def plain(text: str) -> str:
    """A text without its weights."""
    return "".join(part for part, _ in weighted(text))


def spoken(request: Any) -> Any:
    """A request as it is carried out: LoRAs named among its words stand behind its network, each once.

    EngineError where one is given two strengths: a job has one network."""
    said = {n: _texts(value) for n in WORDS if (value := getattr(request, n, None))}
    loras = dict.fromkeys(t.strip() for texts in said.values() for text in texts for t in LORA.findall(text))
    if not loras:
        return request
    strengths = dict[str, str]()
    for lora in loras:
        end = STRENGTH.search(lora)
        name, own = (lora[: end.start()], end[0]) if end else (lora, ":1")
        if strengths.setdefault(name.strip(), own) != own:
            got = f"{strengths[name.strip()].strip(': ')} and {own.strip(': ')}"
            raise EngineError(f"strength of {named(name)} must be the same in all the words of a job, got {got}")
    bare = {n: tuple(" ".join(LORA.sub(" ", t).split()) for t in texts) for n, texts in said.items()}
    values: dict[str, Any] = {n: texts if n == "prompts" else texts[0] for n, texts in bare.items()}
    return replace(request, model=" + ".join([request.model, *loras]), **values)


def told(value: Any) -> Any:
    """Words (a text, or several) as files may tell them: of LoRAs the names without their folders."""
    if isinstance(value, str):
        return LORA.sub(lambda m: m[0].replace(m[1], named(m[1])), value)
    return tuple(told(text) for text in value)


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
