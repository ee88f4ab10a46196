"""Pictures in and out: reading whatever people drop, fitting it to a frame, and the only owner of [−1, 1]."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from engine.requests import EngineError

LARGEST = 40  # megapixels
SMALLEST = 16  # pixels a side
LONGEST = 4096  # what is kept of a large picture; no network here draws more


def read(source: str | Path | bytes | Image.Image, name: str = "picture") -> Image.Image:
    """Any picture file → upright RGB, at most 4096 pixels a side.

    EXIF turns are applied, alpha is laid on white, 16-bit, CMYK and palette files become 8-bit RGB, an animation gives
    its first picture. Refuses (EngineError) what is no picture, is cut short, under 16 pixels or over 40 megapixels.
    """
    if isinstance(source, Image.Image):
        return _upright(source, name)
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise EngineError(f"{name} must be a picture file, got {Path(source).name!r}, which is not there")
    what = Path(source).name if isinstance(source, str | Path) else f"{len(source)} bytes"
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_size(image.size, name)
            if image.format == "JPEG":  # a large photograph decodes at half or quarter size, in a fraction of the time
                image.draft("RGB", (LONGEST, LONGEST))
            return _upright(image, name)
    except EngineError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as e:
        if isinstance(e, Image.DecompressionBombError):
            raise EngineError(f"{name} must have at most {LARGEST} megapixels, got far more ({what})") from None
        raise EngineError(f"{name} must be a picture (PNG, JPEG, WebP, GIF …), got {what}, which is none") from None
    except (OSError, SyntaxError, ValueError, EOFError) as e:
        raise EngineError(f"{name} must be a whole picture file, got {what}, which is broken ({e})") from None


def _check_size(size: tuple[int, int], name: str) -> None:
    w, h = size
    if w * h > LARGEST * 1e6:
        raise EngineError(f"{name} must have at most {LARGEST} megapixels, got {w * h / 1e6:.0f} ({w} × {h})")
    if min(w, h) < SMALLEST:
        raise EngineError(f"{name} must be at least {SMALLEST} × {SMALLEST} pixels, got {w} × {h}")


def _upright(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    image.load()
    image = ImageOps.exif_transpose(image)
    image = _eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    if max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return image


def layer(source: str | Path | bytes | Image.Image, name: str, kind: str) -> Image.Image:
    """A drawn layer: a picture with alpha as it is; of one without, what a person means by it.

    ``kind`` "sketch": dark lines on light, so darkness is the alpha; "strokes": all of it is painted. Both give RGBA.
    "mask": alpha, or brightness where there is none, as L (white may change). Refuses what `read` refuses.
    """
    image = source
    if not isinstance(image, Image.Image):
        read(source, name)  # says what is wrong with it
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    rgba = _eight_bit(image).convert("RGBA")
    if max(rgba.size) > LONGEST:
        rgba.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    alpha = rgba.getchannel("A")
    clear = bool(np.asarray(alpha).min() < 255)
    if kind == "mask":
        return alpha if clear else rgba.convert("L")
    if kind == "sketch" and not clear:
        ink = Image.new("RGBA", rgba.size, "black")
        ink.putalpha(ImageOps.invert(rgba.convert("L")))
        return ink
    return rgba


def drawing(path: str | Path) -> dict[str, Image.Image]:
    """The layers in a drawing that the canvas saved: sketch, strokes, mask (L) and photo, those that are there.

    They travel in a PNG's text chunk named ``chrysalis-drawing``. EngineError for a file of another program.
    """
    read(path, "drawing")
    with Image.open(path) as image:
        image.load()
        text = image.info.get("chrysalis-drawing")
    if not text:
        raise EngineError(f"drawing must be a PNG saved by the canvas, got {Path(path).name!r}, which has no layers")
    try:
        found = json.loads(text)
        blocks = {n: v["png"] for n, v in found["layers"].items() if v["visible"] and v["png"]}
        shown = {n: float(v["opacity"]) for n, v in found["layers"].items()}
        photo = found.get("photo") or ""
        out = {n: layer(_block(b), n, "strokes") for n, b in blocks.items() if n in ("sketch", "strokes", "mask")}
        for name, value in out.items():
            if shown[name] < 1:
                value.putalpha(value.getchannel("A").point(lambda a, o=shown[name]: round(a * o)))
        if "mask" in out:
            out["mask"] = out["mask"].getchannel("A")
        if photo:
            out["photo"] = read(_block(photo), "photo")
        return out
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        if isinstance(e, EngineError):
            raise
        raise EngineError(f"drawing must hold whole layers, got {type(e).__name__} in {Path(path).name!r}") from None


def _block(url: str) -> bytes:
    return base64.b64decode(url.partition("base64,")[2], validate=True)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image, np.float64)
    top = 65535 if values.max() > 255 else 255
    return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))


def frame_size(picture: Image.Image, fit: str, longer: int, multiple: int) -> tuple[int, int]:
    """(width, height) of the frames: square for crop and pad, the proportions of ``picture`` for fit.

    Both are multiples of ``multiple`` and at most ``longer``; proportions beyond 3 : 1 are held at 3 : 1.
    """
    side = max(multiple, longer // multiple * multiple)
    if fit != "fit":
        return side, side
    w, h = picture.size
    ratio = min(max(w / h, 1 / 3), 3)
    other = max(multiple, round(side * min(ratio, 1 / ratio) / multiple) * multiple)
    return (side, other) if ratio >= 1 else (other, side)


def fit_frame(picture: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    """The picture in a frame of ``size``, never squashed: covered and cropped at the centre, or (pad) shown whole
    over a blurred copy of itself."""
    if picture.size == size:
        return picture
    cover = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    if fit != "pad":
        return cover
    whole = ImageOps.contain(picture, size, Image.Resampling.LANCZOS)
    ground = cover.filter(ImageFilter.GaussianBlur(max(size) / 16))
    ground.paste(whole, ((size[0] - whole.width) // 2, (size[1] - whole.height) // 2))
    return ground


def to_tensor(pictures: Sequence[Image.Image | np.ndarray]) -> torch.Tensor:
    """RGB pictures of one size, or such (H, W, 3) uint8 → (B, 3, H, W) float32 in [−1, 1]."""
    block = np.stack([np.asarray(p.convert("RGB") if isinstance(p, Image.Image) else p) for p in pictures])
    return torch.from_numpy(block).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(x: torch.Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [−1, 1] (clamped) → RGB pictures."""
    block = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(p) for p in block]


def digest(picture: Image.Image) -> str:
    """A content hash of size and pixels: the same picture, whatever file it came in."""
    return hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=12).hexdigest()


def digest_of(block: bytes) -> str:
    """The same of a file's bytes; "" for none."""
    return hashlib.blake2b(block, digest_size=12).hexdigest() if block else ""
