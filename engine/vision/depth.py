"""Numbers of any kind → 8 bits, by what their kind may hold; and the TIFFs that Pillow does not open."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from engine.requests import EngineError

ADVICE = "save it with 8 or 16 bits"
UNKNOWN_WHITE = "{} must say what is white, got whole numbers of 32 bits, of which nobody knows; " + ADVICE
HEAVY = 400  # megabytes of numbers in memory
_BITS, _LIGHT, _SAMPLES, _PLANAR, _EXTRA, _KIND = 258, 262, 277, 284, 338, 339  # TIFF's tags
_WHOLE, _SIGNED, _FLOAT = 1, 2, 3  # of a TIFF's SampleFormat
_SHARE = 0.01  # of values outside of the range: filters overshoot here and there, another scale is another matter
_BRIGHT, _FAR, _NEGATIVE = 8, 0.25, 0.1  # of fractions: a scene may be somewhat brighter than white, its colours wider


def eight_bit(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """Sixteen bits, whole numbers and fractions → 8 bits, and what is to be said of it; other pictures as they are.

    EngineError for values that are none, and for a scale that the kind of number does not tell.
    """
    tags = getattr(image, "tag_v2", {})
    bits, kind = tags.get(_BITS, (16,))[0], tags.get(_KIND, (_WHOLE,))[0]
    if image.mode == "L" and kind == _SIGNED:
        values = np.asarray(image).view(np.int8)
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
    else:
        return image, ""
    if image.mode == "I" and tags and bits == 32:
        raise EngineError(UNKNOWN_WHITE.format(name))
    top = 1.0 if image.mode == "F" else 2.0 ** (bits - (kind == _SIGNED)) - 1
    block, note = _scaled(values, top, name)
    # WhiteIsZero, which Pillow minds for 8 bits only
    return Image.fromarray(255 - block if tags.get(_LIGHT) == 0 and image.mode != "L" else block), note


def _scaled(values: np.ndarray, top: float, name: str) -> tuple[np.ndarray, str]:
    """(H, W) or (H, W, C) of numbers from 0 to ``top`` → uint8, and a note of what was cut off."""
    out = np.empty(values.shape, np.uint8)
    low, high, under, over, far, lit = np.inf, -np.inf, 0, 0, 0, 0
    for y in range(0, len(values), 256):
        part = values[y : y + 256].astype(np.float32)
        if not np.isfinite(part).all():
            raise EngineError(f"{name} must hold numbers, got some that are none (NaN or infinite); {ADVICE}")
        low, high = min(low, float(part.min())), max(high, float(part.max()))
        under += np.count_nonzero(part < -0.001 * top)
        over += np.count_nonzero(part > 1.001 * top)
        far += np.count_nonzero(part > _BRIGHT * top)
        lit += np.count_nonzero(part > 0)
        out[y : y + 256] = part.clip(0, top) * (255 / top) + 0.5
    fraction = values.dtype.kind == "f"
    bright = far > _FAR * lit if fraction else over > _SHARE * values.size
    if bright or under > (_NEGATIVE if fraction else _SHARE) * values.size:
        raise EngineError(f"{name} must hold values from 0 to {top:g}, got {low:.6g} to {high:.6g}; {ADVICE}")
    share = 100 * over / values.size
    return out, f"has {share:.0f} % of its values beyond {top:g}, shown as {top:g}" if share >= 1 else ""


def tags_of(file: Any) -> dict[int, Any]:
    """The tags of a TIFF's first picture; none where they cannot be read."""
    try:
        file.seek(0)
        found = ImageFileDirectory_v2(file.read(8))
        file.seek(found.next)
        found.load(file)
        return dict(found)
    except Exception:  # whatever is broken there
        return {}


def rare(tags: dict[int, Any]) -> str:
    """What a TIFF that stays closed is called: ``3 × 16-bit floats``."""
    bits, kind = _first(tags, _BITS, 1), _first(tags, _KIND, _WHOLE)
    sort = {_SIGNED: "signed numbers", _FLOAT: "floats"}.get(kind, "numbers")
    planes = " in separate planes" if tags.get(_PLANAR, 1) == 2 else ""
    return f"a TIFF of {tags.get(_SAMPLES, 1)} × {bits}-bit {sort}{planes}"


def tiff(block: bytes, tags: dict[int, Any], name: str) -> tuple[Image.Image, str] | None:
    """Floats, 32 bits and signed numbers of one colour, three or four, as OpenCV reads them → 8 bits and a note; None
    for what it cannot read either."""
    bits, kind, samples = _first(tags, _BITS, 1), _first(tags, _KIND, _WHOLE), tags.get(_SAMPLES, 1)
    if kind != _FLOAT and bits == 32:
        raise EngineError(UNKNOWN_WHITE.format(name))
    numbers = bits in (32, 64) if kind == _FLOAT else bits == 16
    if not numbers or samples not in (1, 3, 4) or tags.get(_LIGHT) not in (0, 1, 2) or tags.get(_PLANAR, 1) == 2:
        return None
    if (held := tags[256] * tags[257] * samples * bits / 8e6) > HEAVY:
        raise EngineError(f"{name} must have at most {HEAVY} MB when it is unpacked, got {held:.0f}; {ADVICE}")
    import cv2  # dear at a start

    values = cv2.imdecode(np.frombuffer(block, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype.itemsize * 8 != bits or values.size != samples * np.prod(values.shape[:2]):
        return None
    values = values if samples == 1 else values[..., [2, 1, 0, 3][:samples]]
    out, note = _scaled(values, 1.0 if kind == _FLOAT else float(np.iinfo(values.dtype).max), name)
    if samples == 1 and tags[_LIGHT] == 0:
        out = 255 - out
    extra = _first(tags, _EXTRA, 0) if samples == 4 else 0  # 1: the colours are multiplied by it, 2: they are not
    if extra == 1:
        return Image.frombytes("RGBa", out.shape[1::-1], out.tobytes()).convert("RGBA"), note
    return Image.fromarray(out[..., :3] if samples == 4 and not extra else out), note


def _first(tags: dict[int, Any], tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return value[0] if isinstance(value, tuple) else value
