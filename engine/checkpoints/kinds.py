"""Which kind of network a folder or a file is, told before anything is loaded, by one table; and whether it is whole.

A row of the table is what a sentence calls the kind, and the signs of it: an expression searched in lines such as
``class StableDiffusionXLPipeline``, ``part text_encoder_2``, ``inputs 9``, ``words 768`` and ``has <tensor>``. What no
row refuses may run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from engine.checkpoints.shapes import FIRST, WORDS
from engine.requests import EngineError

AGAIN = "download it again"
LARGEST_HEADER = 100_000_000  # bytes: what safetensors itself reads
WEIGHTS = (".safetensors", ".bin")


class Kind(NamedTuple):
    """``said``: as in "got …"; ``family``: what belongs to it (`resolve.FAMILIES`), "" where it is refused."""

    said: str
    signs: str
    family: str = ""


# The first row whose signs are there counts, so what is told by little stands last.
KINDS = (
    Kind("a FLUX network", r"^class (Flux|Chroma)|^has .*(double_blocks|single_transformer_blocks)\."),
    Kind("a Stable Diffusion 3 network", r"^class (StableDiffusion3|SD3)|^has .*joint_blocks\."),
    Kind("a network for films", r"^class .*(Video|UNet3D|Spatio|Motion|Animate)|^has .*(time_stack|temporal_tr)"),
    Kind("an unCLIP network", r"^class StableUnCLIP|^labels proj|^has noise_augmentor\."),
    Kind("a Kandinsky network", r"^class Kandinsky|^adds image"),
    Kind("a Stable Cascade network", r"^class (StableCascade|Wuerstchen)|^has .*clip_txt_mapper"),
    Kind("a DeepFloyd IF network", r"^class IF[A-Z]|^inputs [36]$"),
    Kind(
        "a transformer", r"^part (transformer|prior)$|^has (model\.diffusion_model\.)?(transformer_blocks|blocks)\.0\."
    ),
    Kind("an SDXL network", r"^class .*XL|^part text_encoder_2$|^adds text_time|^words (2048|1280)$"),
    Kind("an SDXL network", r"^has (conditioner\.|model\.diffusion_model\.label_emb\.|add_embedding\.)"),
    Kind(
        "a ControlNet",
        r"^class ControlNetModel|^has (control_model|controlnet_\w+|.*input_hint_block|zero_convs)\.",
    ),
    Kind("an adapter", r"^class T2IAdapter|^has ((adapter\.)?body\.\d\.(in_conv|block1|resn)|image_proj|ip_adapter)"),
    Kind("a network for inpainting", r"^class PaintByExample|^inputs 9$"),
    Kind("a network guided by depth", r"^inputs 5$"),
    Kind("a network that enlarges", r"^inputs 7$"),
    Kind("one that takes a picture beside the noise, as InstructPix2Pix does", r"^inputs 8$"),
    Kind("one that takes a picture for words", r"^class .*ImageVariation"),
    Kind("a GLIGEN network", r"^attention gated|^has .*position_net\."),
    Kind("one with another text encoder than CLIP's", r"^text (?!CLIPText)"),
    Kind("one whose VAE has latents of another size", r"^differ "),
    Kind("flora", r"(?s)^inputs 12$.*^words 192$", "flora"),
    Kind("Stable Diffusion 1", r"(?s)^inputs 4$.*^words 768$", "sd1"),
    Kind("Stable Diffusion 2", r"(?s)^inputs 4$.*^words 1024$", "sd2"),
)
# Files that are no network, or a part of one.
FILES = (
    Kind("a LoRA", r"^has .*(lora[_.]|hada_w|lokr_w|oft_blocks)"),
    Kind("averaged weights (EMA) alone", r"^has (model_)?ema[._]"),
    Kind("a textual inversion", r"^has (emb_params|string_to_param|clip_[lg]|<.+>)"),
    Kind("a network that only enlarges pictures", r"^has (conv_first|model\.0|.*(rdb1|RDB1|conv_up1))\."),
    Kind("a VAE alone", r"^has (first_stage_model\.)?(encoder|decoder)\.conv_in\."),
    Kind("a UNet alone", r"^has (unet\.)?(down_blocks|conv_in)\."),
    Kind("a CLIP alone", r"^has (cond_stage_model\.)?(text_model|text_projection|vision_model|visual|transformer)\b"),
)
LORAS = (
    Kind("one for SDXL", r"^has lora_te2_|^has text_encoder_2\.|^has lora_unet_(input|output|middle)_block"),
    Kind("one for SDXL", r"^has lora_.*transformer_blocks_[1-9]|transformer_blocks\.[1-9].*lora"),
    Kind("one for FLUX", r"^has .*(double_blocks|single_transformer_blocks|single_blocks)[_.]"),
    Kind("one for Stable Diffusion 3", r"^has .*joint_blocks[_.]"),
    Kind("one for films", r"^has .*(temporal|motion_modules)"),
    Kind("one for a transformer", r"^has ((base_model\.model\.)?(transformer|diffusion_model)\.|lora_transformer_)"),
    Kind("one for the text encoder alone", r"^has base_model\.model\.text_model\."),
    Kind("a LoHa", r"^has .*hada_"),
    Kind("a LoKr", r"^has .*lokr_"),
    Kind("an OFT", r"^has .*(oft|boft)_"),
    Kind("a GLoRA", r"^has .*\.[ab][12]\.weight$"),
    Kind("an (IA)³", r"^has .*(on_input$|ia3)"),
    Kind("the full differences of layers", r"^has .*\.diff(_b)?$"),
)
# For LoRAs: networks by the width of their words.
WIDTHS = {192: "flora", 768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL", 1280: "SDXL's refiner"}


def short(network: str) -> str:
    """What a sentence calls a network: without folders, and without the LoRAs on it."""
    return Path(network.partition(" + ")[0]).name


def tell(lines: Iterable[str], table: tuple[Kind, ...]) -> Kind | None:
    text = "\n".join(lines)
    return next((kind for kind in table if re.search(kind.signs, text, re.MULTILINE)), None)


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
    length = int.from_bytes(first[:8], "little")
    if found := other_than_weights(first, size):
        raise EngineError(f"{name} must be a whole safetensors file, got {found}")
    if size - 8 < length <= LARGEST_HEADER and first[8:9] == b"{":
        raise EngineError(f"{name} must be a whole safetensors file, got only its first {size} bytes; {AGAIN}")
    try:
        said = json.loads(text[:length])
        ends = [int(v["data_offsets"][1]) for n, v in said.items() if n != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise EngineError(f"{name} must be a safetensors file, got {size} bytes of something else") from None
    if (whole := 8 + length + max(ends, default=0)) > size:
        raise EngineError(f"{name} must be a whole safetensors file, got {size / whole:.0%} of it; {AGAIN}")
    return said


def other_than_weights(first: bytes, size: int) -> str:
    """What a file is that should be weights or a config and begins so; "" if nothing tells."""
    if first[5:9] == b"\0\0\0{":  # a length and a header, as it should be
        return ""
    start = first.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if not size:
        return f"an empty file; {AGAIN}"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in its place; fetch the file itself with 'git lfs pull'"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"a web page in its place; {AGAIN}"
    if first.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return "a pickle or a zip under another name; convert it to safetensors"
    if first.startswith(b"GGUF"):
        return "a GGUF file, which cannot be used here"
    return ""


def of_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A single file's header, and what is known of it as lines."""
    said = header(path, f"model {path.name}")
    shape = {n: v.get("shape", []) for n, v in said.items() if n != "__metadata__"}
    lines = [f"inputs {s[1]}" for n in (FIRST,) if len(s := shape.get(n, [])) > 1]
    lines += [f"words {s[-1]}" for n in (WORDS,) if (s := shape.get(n))]
    return said, [*lines, *(f"has {n}" for n in shape)]


def of_folder(folder: Path) -> list[str]:
    """What the configs of a folder in the diffusers format say, as lines."""
    index, unet = config(folder / "model_index.json"), config(folder / "unet" / "config.json")
    vae, text = config(folder / "vae" / "config.json"), config(folder / "text_encoder" / "config.json")
    own, shown = config(folder / "config.json"), unet.get("out_channels")
    latents = vae.get("latent_channels")
    classes = [c.get("_class_name") for c in (index, unet, own)]
    lines = [f"class {c}" for c in classes if c]
    lines += [f"part {p.name}" for p in sorted(folder.iterdir()) if p.is_dir()] if folder.is_dir() else []
    if unet:
        lines += [f"inputs {unet.get('in_channels')}", f"words {unet.get('cross_attention_dim')}"]
        lines += [f"adds {unet.get('addition_embed_type')}", f"labels {unet.get('class_embed_type')}"]
        lines += [f"attention {unet.get('attention_type')}"]
    lines += [f"text {a}" for a in text.get("architectures") or ()]
    return lines + ["differ latents"] * bool(latents and shown and latents != shown)


def config(path: Path) -> dict[str, Any]:
    """A config file; {} where there is none. EngineError for what is not one."""
    try:
        block = path.read_bytes()
        return dict(json.loads(block))
    except OSError:
        return {}
    except (ValueError, TypeError):
        found = other_than_weights(block[:256], len(block)) or "something else"
        name = "/".join(path.parts[-3:])
        raise EngineError(f"model file {name} must be settings in JSON, got {found}") from None


def refuse(lines: list[str], name: str, table: tuple[Kind, ...] = KINDS) -> None:
    """EngineError for what cannot run here."""
    kind = tell(lines, table)
    if kind and not kind.family:
        raise EngineError(f"model {name} must be of the kind of Stable Diffusion 1, 2 or flora, got {kind.said}")


def family(place: Path) -> str:
    """The family of a network in a folder or a file; "" if it is of no known one or cannot be read."""
    try:
        folder = place if place.is_dir() else place.with_suffix("")
        lines = of_folder(folder) if (folder / "unet" / "config.json").is_file() else of_file(place)[1]
    except (EngineError, OSError):
        return ""
    kind = tell(lines, KINDS)
    return kind.family if kind else ""


def check_folder(folder: Path, name: str, parts: tuple[str, ...]) -> None:
    """EngineError for a folder that is of another kind or not whole."""
    refuse(of_folder(folder), name)
    if missing := [p for p in parts if not (folder / p).is_dir()]:
        raise EngineError(f"model {name} must have the folders {', '.join(parts)}, got none of {', '.join(missing)}")
    for part in parts[:3]:
        weights = [f for f in (folder / part).glob("[!.]*") if f.suffix.lower() in WEIGHTS]
        weights = [f for f in weights if f.suffix == ".safetensors"] or weights  # which diffusers takes first
        if not weights:
            raise EngineError(f"model {name} must have weights in the folder {part}, got none")
        for file in weights:
            if file.suffix == ".safetensors":
                header(file, f"model file {folder.name}/{part}/{file.name}")
            elif (found := _first(file)) and not found.startswith("a pickle"):
                raise EngineError(f"model file {folder.name}/{part}/{file.name} must be whole, got {found}")
        for listed in (folder / part).glob("*.index.json"):
            wanted = set(config(listed).get("weight_map", {}).values())
            if gone := sorted(n for n in wanted if not (folder / part / n).is_file()):
                raise EngineError(f"model {name} must have {part}/{gone[0]}, got none; {AGAIN}")


def _first(file: Path) -> str:
    with file.open("rb") as f:
        return other_than_weights(f.read(256), file.stat().st_size)


def check_file(path: Path, beside: Path) -> dict[str, Any]:
    """A single file's header. EngineError for one that is of another kind or not whole; parts that it lacks may lie
    in the folder ``beside``."""
    said, lines = of_file(path)
    names, name = [n for n in said if n != "__metadata__"], path.name

    def has(*heads: str) -> bool:
        return any(n.startswith(heads) for n in names)

    refuse(lines, name)
    if FIRST not in said:
        kind = tell(lines, FILES)
        if kind and kind.said == "a LoRA":
            raise EngineError(f"model {name} must be a network, got a LoRA: name it after one, as in 'sd15 + {path}'")
        raise EngineError(f"model {name} must be a whole network, got {kind.said if kind else 'a file without a UNet'}")
    for part, heads, what in (
        ("vae", ("first_stage_model.",), "a VAE"),
        ("text_encoder", ("cond_stage_model.", "text_encoder."), "a text encoder"),
    ):
        if not has(*heads) and not any((beside / part).glob("*.safetensors")):
            raise EngineError(f"model {name} must be a whole network, got one without {what}")
    return said


def check_lora(source: bytes | Path, name: str) -> None:
    """EngineError for a LoRA file that is not whole or of a kind that cannot be used; its weights are not looked at."""
    lines = (f"has {n}" for n in header(source, name))
    if kind := tell(lines, LORAS):
        raise EngineError(f"{name} must be a LoRA for Stable Diffusion 1, 2 or flora, got {kind.said}")
