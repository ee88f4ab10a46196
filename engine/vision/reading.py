"""The one door that pictures come in by: any file → upright sRGB of 8 bits, or one sentence that says why not."""

from __future__ import annotations

import io
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from pillow_heif import register_heif_opener

from engine.requests import EngineError
from engine.requests.files import unreadable
from engine.vision import colour, depth

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
)
_TIFF = rb"II[*+]\0|MM\0[*+]"
_RAW = next(row for row in _CLOSED if "RAW" in row[2])
_PICTURE = "a picture (PNG, JPEG, WebP, HEIC, TIFF …)"
_TURNS = (None, None, *(Image.Transpose[t] for t in ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM")))
_TURNS = (*_TURNS, *(Image.Transpose[t] for t in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")))


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
    what = f"{len(source)} bytes" if isinstance(source, bytes) else Path(source).name
    try:
        if not isinstance(source, bytes) and (why := unreadable(source)):
            raise _refused(name, "a picture file", what, f"which {why}")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            if image.format == "TIFF" and _is_raw(image, what):
                raise _closed(name, what, _RAW)
            _check_size(image, name)
            if image.format == "TIFF" and image.tag_v2.get(284) == 2 and max(image.tag_v2.get(258, (8,))) > 8:
                raise _closed(name, what, ("", "", depth.rare(image.tag_v2), depth.ADVICE))  # Pillow mixes its planes
            share = max(image.size) / longest
            if image.format in ("JPEG", "MPO") and share > 1:  # decoded at a fraction of its size, and of the time
                image.draft(None, (int(0.77 * image.width / share), int(0.77 * image.height / share)))
            return _settled(image, name, longest)
    except EngineError:
        raise
    except UnidentifiedImageError:
        head = _begin(source, None)
        if re.match(_TIFF, head):
            return _rare(head if isinstance(source, bytes) else _begin(source, -1), name, what, longest)
        raise _unknown(head[:1024], name, what) from None
    except MemoryError:
        raise EngineError(f"{name} must fit into this machine's memory, got one that does not") from None
    except Image.DecompressionBombError:
        raise EngineError(f"{name} must have at most {LARGEST} megapixels, got far more") from None
    except Exception as e:  # whatever a decoder makes of a broken file
        if isinstance(e, OSError) and e.errno:
            raise _refused(name, "a picture file", what, f"which cannot be read ({e.strerror})") from None
        cut = "truncated" in str(e).lower()
        state = "which is cut short; send or copy it again" if cut else "which is broken"
        raise _refused(name, "a whole picture file", what, state) from None


def _rare(block: bytes, name: str, what: str, longest: float) -> Image.Image:
    """A TIFF that Pillow does not open."""
    tags = depth.tags_of(io.BytesIO(block))
    if not tags:
        raise _refused(name, "a whole picture file", what, "which is broken")
    if Path(what).suffix.lower().lstrip(".") in _RAW[1].split() or 50706 in tags:
        raise _closed(name, what, _RAW)
    size = tags.get(256, 0), tags.get(257, 0)
    _check_size(size, name)
    found = depth.tiff(block, tags, name)
    if found is None or found[0].size != size:
        raise _closed(name, what, ("", "", depth.rare(tags), depth.ADVICE))
    image, note = found
    image.info = {"icc_profile": tags.get(34675)}
    image.getexif()[274] = tags.get(274, 1)
    return _settled(image, name, longest, note)


def _settled(image: Image.Image, name: str, longest: float, said: str = "") -> Image.Image:
    """``said``: what is to be said of it already. (A file's own ``info`` may hold any text under any name.)"""
    count, kind = _count(image), image.format or ""
    named = colour.named_in(getattr(image, "fp", None), kind)
    image.load()
    turn, info = _turn(image), image.info
    image, deep = depth.eight_bit(image, name)
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in ("RGBA", "RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if (share := min(max(image.size) / longest, min(image.size) / SMALLEST)) > 1:  # (a thin one stays thick enough)
        size = round(image.width / share), round(image.height / share)
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    image = colour.srgb(image.convert("RGB") if alpha else image, info, kind, named)
    if alpha:
        image.putalpha(alpha)
    image = image if turn is None else image.transpose(turn)
    notes = [f"has {count} pictures; the first is used"] if count > 1 else []
    notes += [n for n in (said, deep) if n]
    image.info = {NOTE: f"{name} {', and '.join(notes)}"} if notes else {}
    return image


def _check_size(image: Image.Image | tuple[int, int], name: str) -> None:
    (w, h), kind = (image, "") if isinstance(image, tuple) else (image.size, image.format)
    most = LARGEST_JPEG if kind in ("JPEG", "MPO") else LARGEST
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


def _is_raw(tiff: Any, file: str) -> bool:
    """A RAW file's TIFF opens as the thumbnail in it. (50706: DNGVersion; 254: this is a reduced copy.)"""
    named = Path(file).suffix.lower().lstrip(".") in _RAW[1].split()
    return named or 50706 in tiff.tag_v2 or bool(int(tiff.tag_v2.get(254, 0)) & 1)


def _begin(source: str | Path | bytes, most: int | None) -> bytes:
    """The first bytes; all of them for -1."""
    if isinstance(source, bytes):
        return source
    with open(source, "rb") as file:
        return file.read(most or 1024)


def _unknown(head: bytes, name: str, what: str) -> EngineError:
    ending = Path(what).suffix.lower().lstrip(".")
    if not head:
        return _refused(name, "a picture", what, "which is empty; send or copy it again")
    if re.match(_WHOLE, head, re.DOTALL):
        return _refused(name, "a whole picture file", what, "which is broken")
    found = [row for row in _CLOSED if re.match(row[0], head, re.DOTALL)]
    if found := found or [row for row in _CLOSED if ending and ending in row[1].split()]:
        return _closed(name, what, found[0])
    return _refused(name, _PICTURE, what, "which is none")


def _closed(name: str, what: str, row: tuple[Any, ...]) -> EngineError:
    return _refused(name, _PICTURE, what, f"{row[2]}; {row[3]}")


def _refused(name: str, wanted: str, what: str, got: str) -> EngineError:
    """One sentence. A file that ``name`` names already is not named again."""
    if what == name:
        return EngineError(f"{name} must be {wanted}, got {re.sub('^which', 'one that', got)}")
    return EngineError(f"{name} must be {wanted}, got {what}, {got}")
