"""Colours as a file means them → sRGB: by its profile, or by the primaries and the curve that it names."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of a profile's colour space
_SRGB = ImageCms.createProfile("sRGB")
_D65 = (0.3127, 0.3290)
_HOME = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # sRGB's own primaries, x and y of red, green and blue
# ITU-T H.273: what a file says in numbers. Curves: an exponent, 0 for sRGB's own; others (PQ, HLG) stay as they are.
_PRIMARIES = {1: _HOME, 9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046), 12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)}
_CURVES = {1: 0.0, 4: 2.2, 5: 2.8, 6: 0.0, 8: 1.0, 13: 0.0, 14: 0.0, 15: 0.0}
_HEAD = 65536  # bytes in which a file says so


def srgb(image: Image.Image, info: dict[Any, Any], kind: str, named: tuple[int, int] | None) -> Image.Image:
    """RGB, L, CMYK or LAB of a file of some ``kind`` ("PNG") → sRGB.

    In a PNG what is ``named`` (see `named_in`) counts first, then the profile in ``info``, then gamma and
    chromaticities; elsewhere the profile is first. A broken profile or another mode's is none.
    """
    if not (named and kind == "PNG"):
        by_profile = _by_profile(image, info.get("icc_profile"))
        if by_profile is not None:
            return by_profile
    image, gamma = image.convert("RGB"), 0.0 if "srgb" in info else info.get("gamma", 0.0)
    if named:
        primaries, curve = _PRIMARIES.get(named[0]), _CURVES.get(named[1])
        return image if primaries is None or curve is None else _by_primaries(image, primaries, _D65, curve)
    if gamma <= 0 or kind != "PNG" or info.get("icc_profile"):
        return image
    white = info.get("chromaticity", (*_D65, *_HOME))
    primaries, white = tuple(white[2:]), tuple(white[:2])
    usual = abs(gamma - 1 / 2.2) <= 0.01  # which is how sRGB is told there
    if not _sound(primaries, white) or np.abs(np.subtract(primaries, _HOME)).max() < 0.005:
        return image if usual else _by_primaries(image, _HOME, _D65, 1 / gamma)
    return _by_primaries(image, primaries, white, 1 / gamma)


def named_in(file: Any, kind: str) -> tuple[int, int] | None:
    """The numbers of primaries and curve in a PNG's cICP or an AVIF's or HEIC's nclx; None where there are none."""
    if kind not in ("PNG", "AVIF", "HEIF") or file is None:
        return None
    at = file.tell()
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(at)
    if kind == "PNG":
        i = head.partition(b"IDAT")[0].find(b"\0\0\0\x04cICP")
        return (head[i + 8], head[i + 9]) if 0 <= i < len(head) - 9 else None
    i = head.find(b"colrnclx")
    return (head[i + 9], head[i + 11]) if 0 <= i < len(head) - 11 else None


def _by_profile(image: Image.Image, icc: bytes | None) -> Image.Image | None:
    try:
        lab = ImageCms.createProfile("LAB") if image.mode == "LAB" else None
        profile = ImageCms.ImageCmsProfile(lab or io.BytesIO(icc)) if lab or icc else None
        space = _MODES.get(profile.profile.xcolor_space.strip(), "") if profile else ""
        if (space, image.mode) == ("L", "RGB"):  # grey that had alpha, or a palette
            r, g, b = image.split()
            if not (ImageChops.difference(r, g).getbbox() or ImageChops.difference(r, b).getbbox()):
                image = r
        if profile and (space == image.mode or (space, image.mode) == ("RGB", "L")):
            image, how = image.convert(space), ImageCms.Intent.PERCEPTUAL
            return ImageCms.profileToProfile(image, profile, _SRGB, how, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        pass
    return None


def _sound(primaries: tuple[float, ...], white: tuple[float, ...]) -> bool:
    return len(primaries) == 6 and min(*primaries[1::2], white[1]) > 1e-3 and abs(np.linalg.det(_rgb(primaries))) > 1e-3


def _rgb(primaries: tuple[float, ...]) -> np.ndarray:
    """Red, green and blue of Y 1 as the columns of XYZ."""
    x, y = np.array(primaries[::2]), np.array(primaries[1::2])
    return np.stack([x / y, np.ones(3), (1 - x - y) / y])


def _to_xyz(primaries: tuple[float, ...], white: tuple[float, ...]) -> np.ndarray:
    """Linear RGB → XYZ as seen under D65 (von Kries, by Bradford's cones)."""
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    own, home = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in (white, _D65))
    m = _rgb(primaries)
    m = m * np.linalg.solve(m, own)
    return np.linalg.inv(cones) @ np.diag((cones @ home) / (cones @ own)) @ cones @ m


def _by_primaries(image: Image.Image, primaries: Any, white: Any, curve: float) -> Image.Image:
    """RGB of these primaries and this exponent (0: sRGB's curve) → sRGB."""
    if primaries == _HOME and not curve:
        return image
    m = (np.linalg.inv(_to_xyz(_HOME, _D65)) @ _to_xyz(primaries, white)).astype(np.float32)
    v = np.arange(256) / 255
    light = (v**curve if curve else np.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92)).astype(np.float32)
    block = np.array(image)
    for rows in (block[y : y + 256] for y in range(0, len(block), 256)):
        linear = (light[rows] @ m.T).clip(0, 1)
        coded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
        rows[:] = (coded * 255).round()
    return Image.fromarray(block)
