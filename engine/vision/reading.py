"""The one door that pictures come in by: any file → upright sRGB of 8 bits, or one sentence that says why not."""

from __future__ import annotations

import io
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from pillow_heif import register_heif_opener

from engine.requests import EngineError

LARGEST = 100  # megapixels
LARGEST_JPEG = 250  # megapixels of a JPEG, of which a fraction is decoded
SMALLEST = 16  # pixels a side
LONGEST = 4096  # what is kept of a large picture: no network here draws more
NOTE = "note"  # the key in a picture's ``info`` of what is to be said with the result

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "HEIF", "TIFF", "BMP", "DIB", "ICO", "ICNS", "JPEG2000", "PPM", "TGA")
_FORMATS = (*_FORMATS, "QOI", "PCX", "SGI", "DDS")
_WHOLE = rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|.{4}ftyp(avi|hei|hev|mif|msf)"  # how these begin
# What stays closed: how such a file begins, how its name ends, what it is, and what to do.
_CLOSED = (
    (rb"8BPS", "psd psb", "a Photoshop file", "save it there as PNG"),
    (rb"%PDF", "pdf ai", "a PDF", "save the page as PNG"),
    (rb"\s*(?i:<!doctype html|<html)", "html htm mhtml", "a web page", "save the picture itself"),
    (rb"(\xef\xbb\xbf)?\s*(?=<(\?xml|!|svg)).*<svg", "svg svgz", "an SVG drawing", "save it as PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "eps ps", "a PostScript file", "save it as PNG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "jxl", "a JPEG XL", "save it as PNG or JPEG"),
    (
        rb"FUJIFILMCCD|II(U\0|RO|RS)|MMOR|II\*\0.{4}CR|.{4}ftypcrx|FOVb",
        "3fr arw cr2 cr3 crw dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f",
        "a camera's RAW file",
        "save it as JPEG, with the camera or a photo program",
    ),
    (rb"v/1\x01|#\?R", "exr hdr", "a picture of high dynamic range", "save it as PNG or JPEG"),
    (
        rb"gimp xcf|CSFCHUNK|PK.{28}mimetype(application/x-krita|image/openraster)",
        "xcf kra ora procreate clip afphoto afdesign cdr sketch fig",
        "a file of a drawing program",
        "save it there as PNG",
    ),
    (rb"version https://git-lfs", "", "a Git LFS pointer", "run git lfs pull"),
    (rb".{128}DICM", "dcm", "a DICOM file", "save it as PNG"),
    (
        rb".{4}ftyp(isom|iso[2-9]|mp4|M4V|qt|avc|3g)|\x1aE\xdf\xa3|RIFF.{4}AVI |FLV",
        "mp4 m4v mov webm mkv avi 3gp",
        "a film",
        "save one picture of it as PNG",
    ),
    (rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b", "zip rar 7z gz tar", "an archive", "unpack it first"),
    (rb"II[*+]\0|MM\0[*+]", "", "a TIFF of a rare kind", "save it with 8 or 16 bits a colour"),
)
_RAW = next(row for row in _CLOSED if "RAW" in row[2])
_TURNS = (None, None, *(Image.Transpose[t] for t in ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM")))
_TURNS = (*_TURNS, *(Image.Transpose[t] for t in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")))
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of a profile's colour space
_SRGB = ImageCms.createProfile("sRGB")


@cache
def _ready() -> None:
    """Pillow made ready: for HEIC, and silent of broken EXIF, which counts as none."""
    warnings.filterwarnings("ignore", module="PIL")
    register_heif_opener(thumbnails=False)
    Image.MAX_IMAGE_PIXELS = int(LARGEST_JPEG * 1e6)  # it refuses twice that; `_check_size` knows better


def opened(source: str | Path | bytes | Image.Image, name: str = "picture", longest: float = LONGEST) -> Image.Image:
    """Any picture file → upright sRGB, 8 bits a colour, at most ``longest`` pixels a side: RGBA where it has
    alpha, else RGB.

    Depth is scaled by the mode, never by what the picture holds; colours by the profile; EXIF turns every format. Of an
    animation comes the first picture. ``info`` holds nothing but a note, if there is something to say (`NOTE`).
    Refuses (EngineError) what is no picture, is cut short, cannot be shown, is under 16 pixels a side or over 100
    megapixels (a JPEG: 250).
    """
    if isinstance(source, Image.Image):
        _check_size(source, name)
        return _settled(source, name, longest)
    _ready()
    what = Path(source).name if isinstance(source, str | Path) else f"{len(source)} bytes"
    if isinstance(source, str | Path) and not Path(source).is_file():
        gone = "a folder" if Path(source).is_dir() else "not there"
        raise EngineError(f"{name} must be a picture file, got {what!r}, which is {gone}")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            if image.format == "TIFF" and _is_raw(image, what):
                raise _closed(name, what, _RAW)
            _check_size(image, name)
            share = max(image.size) / longest
            if image.format in ("JPEG", "MPO") and share > 1:  # decoded at a fraction of its size, and of the time
                image.draft(None, (int(0.77 * image.width / share), int(0.77 * image.height / share)))
            return _settled(image, name, longest)
    except EngineError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as e:
        if isinstance(e, Image.DecompressionBombError):
            raise EngineError(f"{name} must have at most {LARGEST} megapixels, got far more ({what})") from None
        raise _unknown(source, name, what) from None
    except Exception as e:  # whatever a decoder makes of a broken file
        raise EngineError(f"{name} must be a whole picture file, got {what}, which is broken ({e})") from None


def _settled(image: Image.Image, name: str, longest: float) -> Image.Image:
    count, png = _count(image), image.format == "PNG"
    image.load()
    turn, info = _turn(image), image.info
    image = _eight_bit(image, name)
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in ("RGBA", "RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if max(image.size) > longest:
        image = image.copy()
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    image = _srgb(image.convert("RGB") if alpha else image, info, png)
    if alpha:
        image.putalpha(alpha)
    image = image if turn is None else image.transpose(turn)
    image.info = {NOTE: f"{name} has {count} pictures; the first is used"} if count > 1 else {}
    return image


def _check_size(image: Image.Image, name: str) -> None:
    w, h = image.size
    most = LARGEST_JPEG if image.format in ("JPEG", "MPO") else LARGEST
    if w * h > most * 1e6:
        raise EngineError(f"{name} must have at most {most} megapixels, got {w * h / 1e6:.0f} ({w} × {h})")
    if min(w, h) < SMALLEST:
        raise EngineError(f"{name} must be at least {SMALLEST} × {SMALLEST} pixels, got {w} × {h}")


def _count(image: Image.Image) -> int:
    """Pictures in the file; those behind a photograph (MPO: depth, a second lens) are none of a person's."""
    try:
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # a broken end; the first picture may be whole
        return 1


def _turn(image: Image.Image) -> Any:
    """How EXIF says that the picture is to be turned; None: not at all, or nothing that can be understood."""
    try:
        n = image.getexif().get(274, 1)  # Orientation
        return _TURNS[n] if n in range(2, 9) else None
    except Exception:
        return None


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Sixteen bits, whole numbers and fractions → 8 bits, by what their mode may hold."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values, tags = np.asarray(image, np.float32), getattr(image, "tag_v2", {})
    top = 1.0 if image.mode == "F" else 65535.0
    if image.mode.startswith("I;16"):
        top = 2.0 ** tags.get(258, (16,))[0] - 1  # BitsPerSample: 12 of some scanners
    if not np.isfinite(values).all():
        raise EngineError(
            f"{name} must hold numbers, got some that are none (NaN or infinite); save it with 8 or 16 bits"
        )
    # Filters overshoot here and there; another scale is another matter.
    if np.mean((values < -0.001 * top) | (values > 1.001 * top)) > 0.01:
        got = f"{values.min():.6g} to {values.max():.6g}"
        raise EngineError(f"{name} must hold values from 0 to {top:g}, got {got}; save it with 8 or 16 bits")
    if tags.get(262) == 0 and image.mode.startswith("I;16"):  # WhiteIsZero, which Pillow minds for 8 bits only
        values = top - values
    return Image.fromarray((values.clip(0, top) * (255 / top) + 0.5).astype(np.uint8))


def _srgb(image: Image.Image, info: dict[Any, Any], png: bool) -> Image.Image:
    """RGB, L, CMYK or LAB → sRGB, by the profile or a PNG's gamma; a broken profile or another mode's is none."""
    icc, gamma = info.get("icc_profile"), info.get("gamma") if png and "srgb" not in info else None
    try:
        lab = ImageCms.createProfile("LAB") if image.mode == "LAB" else None
        profile = ImageCms.ImageCmsProfile(lab or io.BytesIO(icc)) if lab or icc else None
        space = _MODES.get(profile.profile.xcolor_space.strip(), "") if profile else ""
        if profile and (space == image.mode or (space, image.mode) == ("RGB", "L")):
            image = image.convert(space)
            intent = ImageCms.Intent.PERCEPTUAL
            return ImageCms.profileToProfile(image, profile, _SRGB, intent, outputMode="RGB") or image.convert("RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        pass
    image = image.convert("RGB")
    if gamma and not icc and abs(gamma - 1 / 2.2) > 0.01:
        light = (np.arange(256) / 255) ** (1 / gamma)
        curve = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
        image = image.point((curve * 255).round().astype(int).tolist() * 3)
    return image


def _is_raw(tiff: Any, file: str) -> bool:
    """A RAW file's TIFF opens as the thumbnail in it. (50706: DNGVersion; 254: this is a reduced copy.)"""
    named = Path(file).suffix.lower().lstrip(".") in _RAW[1].split()
    return named or 50706 in tiff.tag_v2 or bool(int(tiff.tag_v2.get(254, 0)) & 1)


def _unknown(source: str | Path | bytes, name: str, what: str) -> EngineError:
    if isinstance(source, bytes):
        head = source[:1024]
    else:
        with open(source, "rb") as file:
            head = file.read(1024)
    ending = Path(what).suffix.lower().lstrip(".")
    if not head:
        return EngineError(f"{name} must be a picture, got {what}, which is empty; send or copy it again")
    if re.match(_WHOLE, head, re.DOTALL):
        return EngineError(f"{name} must be a whole picture file, got {what}, which is broken")
    found = [row for row in _CLOSED if re.match(row[0], head, re.DOTALL)]
    if found := found or [row for row in _CLOSED if ending and ending in row[1].split()]:
        return _closed(name, what, found[0])
    return EngineError(f"{name} must be a picture (PNG, JPEG, WebP, HEIC, TIFF …), got {what}, which is none")


def _closed(name: str, what: str, row: tuple[bytes, str, str, str]) -> EngineError:
    return EngineError(f"{name} must be a picture (PNG, JPEG, WebP, HEIC, TIFF …), got {what}, {row[2]}; {row[3]}")
