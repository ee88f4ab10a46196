"""What is printed, on terminals that do not know every letter (Windows' cp1252, ``LC_ALL=C``)."""

from __future__ import annotations

import codecs
import json
import math
import sys
import unicodedata
from typing import Any

SIGNS = {"×": "x", "−": "-", "–": "-", "→": "->", "…": "...", "·": "-", "±": "+-", "≥": ">=", "≤": "<="}


def spell() -> None:
    """Has letters that the terminal lacks spelt (η is eta) from now on; nothing that is printed fails."""
    codecs.register_error("spelt", _spelt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spelt")


def plain(report: dict[str, Any]) -> str:
    """A report as one line of JSON that every reader takes: what is no number (NaN, infinite) is null."""

    def sound(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: sound(v) for k, v in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(sound(report))


def _spelt(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_sign, error.object[error.start : error.end])), error.end


def _sign(letter: str) -> str:
    name, plain = unicodedata.name(letter, ""), unicodedata.normalize("NFKD", letter)[0]
    if letter in SIGNS or plain.isascii():
        return SIGNS.get(letter, plain)
    greek = name.startswith("GREEK SMALL LETTER")
    return name.rpartition(" ")[2].lower().replace("lamda", "lambda") if greek else "?"
