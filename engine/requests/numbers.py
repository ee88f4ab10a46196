"""Numbers as people write them."""

from __future__ import annotations

import re
from typing import Any

DIGITS = 400  # letters of a number: the largest has 309 digits before its point


def number(text: str, whole: bool = False) -> Any:
    """A number as people write it: 7, 0.7, 0,7 or 7e3; what is none, or may be two, stays text: 1,000 (and 1.000 where
    a ``whole`` one is asked for), 1_000, 1 000."""
    text = text.strip()
    plain = text.replace("−", "-").replace(",", ".")
    if len(text) > DIGITS or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", plain, re.IGNORECASE):
        return text
    if (whole or "," in text) and re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", plain):
        return text
    try:
        return float(plain) if re.search("[.eE]", plain) else int(plain)
    except ValueError:  # a whole number of thousands of digits
        return text
