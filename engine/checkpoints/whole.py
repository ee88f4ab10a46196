"""Whether files are whole and what they say they are, by their first bytes: weights and configs, nothing loaded."""

from __future__ import annotations

import json
import math
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from engine.checkpoints import hub
from engine.checkpoints.catalogue import FAMILIES
from engine.requests import EngineError

AGAIN = "download it again"
IN_NETWORKS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
LARGEST_HEADER = 100_000_000  # bytes: what safetensors itself reads
LONGEST_NAME = 500  # letters of a tensor's: signs are looked for in them
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}  # what torch reads of it
# How other things begin (in small letters, without blanks and byte order marks), and what a sentence says of them.
BEGINNINGS = (
    ((b"version https://git-lfs",), "a Git LFS pointer in its place; fetch the file itself with 'git lfs pull'"),
    ((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--"), f"a web page in its place; {AGAIN}"),
    ((b"{", b"["), f"a text in JSON in its place, as a server answers; {AGAIN}"),
    (
        (b"pk\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a pickle or a zip under another name; convert it to safetensors",
    ),
    ((b"gguf",), "a GGUF file, which cannot be used here"),
    ((b"7z\xbc\xaf", b"rar!", b"\x1f\x8b"), "a packed file; unpack it"),
    ((b"\x89png", b"gif8", b"\xff\xd8\xff", b"riff", b"%pdf"), "a picture or a document"),
)


class Weights(NamedTuple):
    """The weights of a module in a folder: one file, or its shards, of which some may be missing."""

    files: tuple[Path, ...]
    variant: str | None
    safe: bool  # safetensors, no pickle


def weights(folder: Path) -> Weights | None:
    """Which of the files in a module's folder are loaded: safetensors before pickles, full precision before half."""
    text = folder.name.startswith("text_encoder")  # transformers names its files otherwise, and sees to shards last
    for end in ("safetensors", "bin"):
        stem = ("model" if end == "safetensors" else "pytorch_model") if text else "diffusion_pytorch_model"
        for variant in (None, "fp16"):
            mark = f".{variant}" if variant else ""
            file, index = folder / f"{stem}{mark}.{end}", folder / f"{stem}.{end}.index{mark}.json"
            if index.is_file() and not (text and file.is_file()):
                shards = config(index).get("weight_map")
                names = sorted({str(n) for n in shards.values()}) if isinstance(shards, dict) else []
                return Weights(tuple(folder / n for n in names), variant, end == "safetensors")
            if file.is_file():
                return Weights((file,), variant, end == "safetensors")
    return None


def check_weights(folder: Path, name: str) -> None:
    """EngineError unless what is loaded of a module's folder is there and whole. ``name``: the network's."""
    found = weights(folder)
    if found is None or not found.files:
        raise EngineError(f"model {name} must have weights in the folder {folder.name}, got none")
    if not found.safe and not _listed(folder):
        got = f"{found.files[0].name}, which may run code when it is read; convert it"
        raise EngineError(f"model {name} must have .safetensors in the folder {folder.name}, got {got}")
    for file in found.files:
        if not file.is_file():
            raise EngineError(f"model {name} must have {folder.name}/{file.name}, got none; {AGAIN}")
        said = f"model file {_within(file)}"
        if found.safe:
            header(file, said)
        elif (other := _begins(file)) and not other.startswith("a pickle"):
            raise EngineError(f"{said} must be whole, got {other}")


def _listed(folder: Path) -> bool:
    """Whether it is of the hub, of a repository of the catalogue that has nothing but a pickle, which is read as mere
    tensors (weights_only)."""
    sources = [extra.source for extras in FAMILIES.values() for extra in extras.values() if extra.source.pickled]
    places = [hub.cache() / f"models--{repo.replace('/', '--')}" for source in sources for repo in source.repos]
    return any(folder.absolute().is_relative_to(place.absolute()) for place in places)


def header(source: bytes | Path, name: str) -> dict[str, Any]:
    """The header of a safetensors file, after a look at whether all of the file is there; EngineError if it is not.

    ``name`` is what the sentence calls the file.
    """
    try:
        if isinstance(source, bytes):
            first, size, text = source[:256], len(source), source[8:]
        else:
            size = source.stat().st_size
            with source.open("rb") as f:
                first = f.read(256)
                length = int.from_bytes(first[:8], "little")
                f.seek(8)
                text = f.read(length) if length <= min(size, LARGEST_HEADER) else b""
    except OSError as e:
        raise EngineError(f"{name} must be a file that can be read, got {e.strerror}") from None
    length, refused = int.from_bytes(first[:8], "little"), f"{name} must be a whole safetensors file, got"
    if found := other_than_weights(first, size):
        raise EngineError(f"{refused} {found}")
    if size - 8 < length <= LARGEST_HEADER and (size <= 8 or first[8:9] == b"{"):
        raise EngineError(f"{refused} only its first {size} bytes; {AGAIN}")
    try:
        said = json.loads(text[:length])
        tensors = {n: v for n, v in said.items() if n != "__metadata__"}
        amiss = next(filter(None, (_amiss(n, v) for n, v in tensors.items())), "")
        ends = [v["data_offsets"][1] for v in tensors.values()]
        held = sum(v["data_offsets"][1] - v["data_offsets"][0] for v in tensors.values())
        if not all(isinstance(v, str) for v in said.get("__metadata__", {}).values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise EngineError(f"{refused} {size} bytes of something else") from None
    if amiss or held != max(ends, default=0):
        raise EngineError(f"{refused} {amiss or 'tensors that lie over one another or leave holes'}")
    whole = 8 + length + max(ends, default=0)
    if whole > size:
        raise EngineError(f"{refused} {size / whole:.0%} of it; {AGAIN}")
    if whole < size:
        raise EngineError(f"{refused} {size - whole} bytes more than it says; {AGAIN}")
    return said


def _amiss(name: str, tensor: dict[str, Any]) -> str:
    """What is wrong with a tensor of a header; "" if it has known numbers and as many bytes as its shape wants.

    TypeError or ValueError for what no header has."""
    begin, end = tensor["data_offsets"]
    if len(name) > LONGEST_NAME or not all(type(n) is int and 0 <= n < 1 << 63 for n in (begin, end, *tensor["shape"])):
        raise ValueError
    if tensor["dtype"] not in BITS:
        return f"{name[:80]} of an unknown kind of numbers ({str(tensor['dtype'])[:20]})"
    wanted = math.prod(tensor["shape"]) * BITS[tensor["dtype"]] // 8
    return "" if end - begin == wanted else f"{name[:80]} of {end - begin} bytes instead of {wanted}"


def other_than_weights(first: bytes, size: int) -> str:
    """What a file is that should be weights and begins so; "" if nothing tells."""
    if not size:
        return f"an empty file; {AGAIN}"
    if first[5:9] == b"\0\0\0{":  # a length and a header, as it should be
        return ""
    if first.startswith(b"\x1f\x8b"):
        try:  # a page that was kept as it was sent
            inside = zlib.decompressobj(31).decompress(first, 256)
        except zlib.error:
            inside = b""
        if found := inside and other_than_weights(inside, len(inside)):
            return found
    start = re.sub(rb"^(\xef\xbb\xbf|\xff\xfe|\xfe\xff)", b"", first).replace(b"\0", b"").lstrip().lower()
    if found := next((said for signs, said in BEGINNINGS if start.startswith(signs)), ""):
        return found
    if first.isascii() and first.decode().replace("\n", " ").strip().isprintable() and first.strip():
        return f"a text in its place ({' '.join(first.decode().split())[:40]!r}); {AGAIN}"
    return ""


def check_text(file: Path) -> None:
    """EngineError for a file of a tokenizer in whose place another thing lies."""
    other = _begins(file) if file.is_file() else ""
    if other and not other.startswith("a text in"):
        raise EngineError(f"model file {_within(file)} must be whole, got {other}")


def _within(file: Path) -> str:
    """Its name from the network's folder on."""
    depth = 3 if file.parent.name.removesuffix("_2") in IN_NETWORKS else 2
    return "/".join(file.parts[-depth:])


def _begins(file: Path) -> str:
    try:
        with file.open("rb") as f:
            return other_than_weights(f.read(256), file.stat().st_size)
    except OSError as e:
        raise EngineError(f"model file {_within(file)} must be a file that can be read, got {e.strerror}") from None


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, in order; nothing where there is none, or one that is closed."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def config(path: Path) -> dict[str, Any]:
    """A config file; {} where there is none. EngineError for what is not one."""
    try:
        block = path.read_bytes()
    except OSError:
        return {}
    try:
        return dict(json.loads(block.decode("utf8")))
    except (ValueError, TypeError, RecursionError):
        found = "something else"
        if block.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) or b"\0" in block[:4]:
            found = "another encoding; save it as UTF-8 without a byte order mark"
        elif (other := other_than_weights(block[:256], len(block))) and "JSON" not in other:
            found = other
        raise EngineError(f"model file {_within(path)} must be settings in JSON, got {found}") from None
