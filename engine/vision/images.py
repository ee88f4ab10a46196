"""Pictures in and out: what a picture or a layer means, its frame, and the only owner of [−1, 1]."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter, ImageOps

from engine.requests import EngineError, pictures_of
from engine.vision.reading import NOTE, opened

LEAST = 0.001  # the share of a picture that must be clear for its alpha to say something


def read(source: str | Path | bytes | Image.Image, name: str = "picture") -> Image.Image:
    """Any picture file → upright sRGB (RGB), at most 4096 pixels a side, alpha on white; see `reading.opened`."""
    image = opened(source, name)
    return _flat(image) if image.mode == "RGBA" else image


def _flat(image: Image.Image) -> Image.Image:
    """RGBA on white."""
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    flat.info = dict(image.info)
    return flat


def layer(source: str | Path | bytes | Image.Image, name: str, kind: str) -> Image.Image:
    """A drawn layer: a picture with alpha as it is; of one whose alpha says nothing, what a person means by it.

    ``kind`` "sketch": lines on paper, dark on light or light on dark (`drawing.ink`), as the alpha; "strokes": all of
    it is painted. Both give RGBA. "mask": what may change, white, as L. ``info`` says what was understood. Refuses what
    `reading.opened` refuses.
    """
    image = opened(source, name)
    rgba = image.convert("RGBA")
    if kind not in ("mask", "sketch"):
        return rgba
    out, said = mask(rgba) if kind == "mask" else ink(rgba)
    notes = [image.info.get(NOTE, ""), said and f"{name}: {said}"]
    out.info = {NOTE: "; ".join(n for n in notes if n)}
    return out


def mask(rgba: Image.Image) -> tuple[Image.Image, str]:
    """RGBA → what may change (L, 255: wholly), and which side that is.

    Black and white count before alpha. Alpha that says something is paint, which may change, or, in a picture with a
    hole, what is left of it, which may not.
    """
    alpha, kind = rgba.getchannel("A"), _speaks(rgba)
    if kind == "grey" and np.mean(np.asarray(alpha) < 250) >= LEAST:
        tones = rgba.convert("L").histogram(alpha.point([0] * 128 + [255] * 128))
        kind = "hole" if sum(tones[32:224]) > 0.25 * sum(tones) else kind  # in a photograph without colours
    colour = _coloured(rgba) if kind == "grey" else None
    if colour is not None:
        out, side = colour, "coloured"
    elif kind == "grey":
        light = rgba.convert("RGB").convert("L")
        # JPEG is never quite black, and what may change a little is not kept.
        out, side = light.point([0] * 8 + [*range(8, 248)] + [255] * 8), "white"
        if np.mean(np.asarray(alpha) < 250) >= LEAST:
            out = ImageChops.multiply(out, alpha)
    elif kind == "hole":
        out, side = ImageOps.invert(alpha), "clear"
    else:
        out, side = alpha, "painted"
    return out, _changes(out, side)


def _changes(mask: Image.Image, side: str) -> str:
    share = float(np.mean(np.asarray(mask) > 2))
    part = "less than 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
    return f"the {side} part may change, {part} of the picture"


def _coloured(rgba: Image.Image) -> Image.Image | None:
    """How strongly a colour was painted on an even ground, black, white or grey (L); None if it was none."""
    block = np.asarray(rgba.convert("RGB"))
    chroma = (block.max(2) - block.min(2)).astype(np.float32)
    paint = chroma > 48
    if not LEAST <= paint.mean() <= 0.95 or np.subtract(*np.percentile(block[~paint].mean(1), (95, 5))) > 32:
        return None
    share = (chroma / np.percentile(chroma[paint], 75)).clip(0, 1)
    return Image.fromarray(np.where(share < 0.125, 0, 255 * share).astype(np.uint8))


def ink(rgba: Image.Image) -> tuple[Image.Image, str]:
    """RGBA → lines as RGBA, and what was understood: paper and light lines on dark become ink on nothing."""
    from engine.vision.drawing import darkest, ink_of

    if _speaks(rgba) != "grey":
        alpha = rgba.getchannel("A")
        a, grey = np.asarray(alpha, np.float32), np.asarray(rgba.convert("RGB").convert("L"), np.float32)
        if (a * grey).sum() < 200 * a.sum():
            return rgba, ""
        said = "its light lines are taken for dark ones"
    else:
        block, turned = ink_of(darkest(np.asarray(_flat(rgba))))
        alpha, said = (
            Image.fromarray(block),
            "it is mostly dark, so its light lines are taken for ink" if turned else "",
        )
    out = Image.new("RGBA", rgba.size, "black")
    out.putalpha(alpha)
    return out, said


def _speaks(rgba: Image.Image) -> str:
    """What tells the parts of a picture apart: "grey" its brightness, "paint" its alpha, or a "hole" in a picture."""
    block = np.asarray(rgba)
    if np.mean(block[..., 3] < 250) < LEAST or block[..., 3].min() == block[..., 3].max():
        return "grey"
    seen = block[block[..., 3] >= 128][:, :3].astype(int)
    if not len(seen):
        return "paint"
    grey = seen.mean(1)
    if np.ptp(seen, 1).mean() < 12 and np.ptp(grey) > 64:
        return "grey"
    whole = len(seen) > 0.5 * block[..., 3].size
    return "hole" if whole and not (np.ptp(grey) < 16 and grey.mean() > 127) else "paint"


def notes(request: Any, size: tuple[int, int] | None) -> list[str]:
    """What is to be said of a request's pictures: what was found when they were opened, and, in frames of ``size``,
    what these leave out and how they differ from what was asked for."""
    found: list[tuple[str, Image.Image]] = []
    said: list[str] = []
    for name, field in pictures_of(type(request)).items():
        value = getattr(request, name)
        name = field.spec.label if field.spec.layer == "RGB" else name  # as refusals have it
        if isinstance(value, tuple):
            found += [(f"picture {i}", p) for i, p in enumerate(value, 1)]
        elif value is not None:
            found.append((name, value))
            if field.spec.layer == "L" and NOTE not in value.info:  # painted here, and not read
                said.append(f"{name}: {_changes(value, 'painted')}")
    out = [p.info[NOTE] for _, p in found if p.info.get(NOTE)] + said
    asked = getattr(request, "size", None)
    if size is None or asked is None:
        return [n[0].upper() + n[1:] for n in out]
    if asked and max(size) != asked:
        out.append(f"size is {max(size)}, not {asked}: the nearest that the network draws in these proportions")
    if getattr(request, "fit", "fit") == "fit":
        cut: dict[str, list[str]] = {}
        for name, p in found:
            if share := cropped(p.size, size):
                cut.setdefault(share, []).append(name)
        remedy = "; the shape “square, all of it” (fit pad) shows it whole" if hasattr(request, "fit") else ""
        out += [f"of {' and '.join(n)} the middle {share} is shown{remedy}" for share, n in cut.items()]
    return [n[0].upper() + n[1:] for n in out]


def cropped(given: tuple[int, int], size: tuple[int, int]) -> str:
    """How much of a picture a frame of ``size`` shows that it covers, as "67 %"; "" if that is nearly all."""
    share = given[0] * size[1] / (given[1] * size[0])
    share = min(share, 1 / share)
    return f"{max(1, round(100 * share))} %" if share < 0.75 else ""


def drawing(path: str | Path) -> dict[str, Image.Image]:
    """The layers in a drawing that the canvas saved: sketch, strokes, mask (L) and photo, those that are there.

    They travel in a PNG's text chunk named ``chrysalis-drawing``. EngineError for a file of another program.
    """
    opened(path, "drawing")
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


def frame_size(picture: Image.Image, fit: str, longer: int, multiple: int) -> tuple[int, int]:
    """(width, height) of the frames: square for crop and pad, the proportions of ``picture`` for fit.

    Both are multiples of ``multiple``, the longer the nearest to ``longer``. Proportions beyond 3 : 1 are held there,
    for which the longer side may become shorter.
    """
    side = max(multiple, int(longer / multiple + 0.5) * multiple)
    if fit != "fit":
        return side, side
    w, h = picture.size
    ratio = min(max(w / h, 1 / 3), 3)
    other = max(multiple, round(side * min(ratio, 1 / ratio) / multiple) * multiple)
    if side > 3.15 * other:
        side = 3 * other
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
