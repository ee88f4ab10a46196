"""Of which kind a network or a LoRA is, in a folder or a file, and whether it is whole; told before anything is loaded.

Files and configs are told as lines such as ``class StableDiffusionXLPipeline``, ``part text_encoder_2``, ``inputs 9``,
``words 768`` and ``has <tensor>``, in which the signs of the table (`signs`) are searched. What no row refuses may run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.checkpoints.shapes import FAMILY_OF, FIRST, WORDS
from engine.checkpoints.signs import FILES, INWARD, KEY, KINDS, LORAS, WIDTHS, tell
from engine.checkpoints.whole import check_text, check_weights, config, entries, header, weights
from engine.requests import EngineError


def short(network: str) -> str:
    """What a sentence calls a network: without folders, and without the LoRAs on it."""
    return Path(network.partition(" + ")[0]).name


def _names(said: dict[str, Any]) -> list[str]:
    return [n for n in said if n != "__metadata__"]


def of_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A single file's header, and what is known of it as lines."""
    said = header(path, f"model {path.name}")
    lines = [f"inputs {s[1]}" for s in [said.get(FIRST, {}).get("shape", [])] if len(s) > 1]
    lines += [f"words {s[-1]}" for s in [said.get(WORDS, {}).get("shape", [])] if s]
    return said, [*lines, *(f"has {n}" for n in _names(said))]


def of_folder(folder: Path) -> list[str]:
    """What the configs of a folder in the diffusers format say, as lines."""
    index, unet = config(folder / "model_index.json"), config(folder / "unet" / "config.json")
    vae, text = config(folder / "vae" / "config.json"), config(folder / "text_encoder" / "config.json")
    own, shown, latents = config(folder / "config.json"), unet.get("out_channels"), vae.get("latent_channels")
    classes = [*(c.get("_class_name") for c in (index, unet, own)), *_names_in(own)]
    lines = [f"class {c}" for c in classes if c]
    for p in entries(folder):
        lines.append(f"part {p.name}" if p.is_dir() else f"file {p.name}")
    if unet:
        lines += [f"inputs {unet.get('in_channels')}", f"words {unet.get('cross_attention_dim')}"]
        lines += [f"adds {unet.get('addition_embed_type')}", f"labels {unet.get('class_embed_type')}"]
        lines += [f"attention {unet.get('attention_type')}"]
    lines += [f"{n} {c['_class_name']}" for n, c in (("unet", unet), ("vae", vae)) if "_class_name" in c]
    lines += [f"text {a}" for a in _names_in(text)]
    return lines + ["differ latents"] * bool(latents and shown and latents != shown)


def _names_in(config: dict[str, Any]) -> list[Any]:
    names = config.get("architectures")
    return names if isinstance(names, list) else []


def of(place: Path) -> list[str]:
    """The lines of a folder, or of a file (with the configs of the folder named like it, where there are any)."""
    folder = place if place.is_dir() else place.with_suffix("")
    return of_folder(folder) if place.is_dir() or (folder / "unet" / "config.json").is_file() else of_file(place)[1]


def refuse(lines: list[str], name: str) -> None:
    """EngineError for what cannot run here."""
    kind = tell(lines, KINDS)
    if kind and not kind.family:
        raise EngineError(f"model {name} must be of the kind of Stable Diffusion 1, 2 or flora, got {kind.said}")


def family(place: Path) -> str:
    """The family of a network in a folder or a file; "" if it is of no known one or cannot be read."""
    try:
        kind = tell(of(place), KINDS)
    except (EngineError, OSError):
        return ""
    return kind.family if kind else ""


def width(place: Path) -> int:
    """How wide a network's words are; 0 if it does not say."""
    said = [line.removeprefix("words ") for line in of(place) if line.startswith("words ")]
    return int(said[0]) if said and said[0].isdecimal() else 0


def check(place: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    """EngineError for a network, in a folder or a single file, that is of another kind or not whole; a file's
    header."""
    if place.is_dir():
        check_folder(place, parts)
        return {}
    if ((beside := place.with_suffix("")) / "unet" / "config.json").is_file():
        refuse(of_folder(beside), place.name)
        return check_file(place, beside)
    said = check_file(place, beside)
    if (words := [0, *said.get(WORDS, {"shape": []})["shape"]][-1]) not in FAMILY_OF:
        got = f"words {words} wide; put its configs into {beside}"
        raise EngineError(f"model {place.name} must be of Stable Diffusion 1 or 2, got {got}")
    return said


def check_folder(folder: Path, parts: tuple[str, ...]) -> None:
    """EngineError for a folder that is of another kind or not whole."""
    name = folder.name
    refuse(of_folder(folder), name)
    if missing := [p for p in parts if not (folder / p).is_dir()]:
        raise EngineError(f"model {name} must have the folders {', '.join(parts)}, got none of {', '.join(missing)}")
    needed = [f"{part}/config.json" for part in parts[:3]]
    needed += ["scheduler/scheduler_config.json", "tokenizer/vocab.json|tokenizer/tokenizer.json"]
    needed += ["tokenizer/merges.txt|tokenizer/tokenizer.json"]
    for files in needed:
        if not any((folder / f).is_file() for f in files.split("|")):
            raise EngineError(f"model {name} must have {files.replace('|', ' or ')}, got none")
    config(folder / "scheduler" / "scheduler_config.json")
    for file in entries(folder / "tokenizer"):
        check_text(file)
    for part in parts[:3]:
        check_weights(folder / part, name)


def check_file(path: Path, beside: Path) -> dict[str, Any]:
    """A single file's header. EngineError for one that is of another kind or not whole; a VAE or text encoder that it
    lacks may lie in the folder ``beside``."""
    said, lines = of_file(path)
    refuse(lines, path.name)
    if FIRST not in said:
        kind = tell(lines, FILES)
        if kind and kind.said == "a LoRA":
            got = f"a LoRA: name it after one, as in 'sd15 + {path}'"
            raise EngineError(f"model {path.name} must be a network, got {got}")
        raise EngineError(
            f"model {path.name} must be a whole network, got {kind.said if kind else 'a file without a UNet'}"
        )
    for part in lacking(said):
        if not (beside / part / "config.json").is_file() or not weights(beside / part):
            what = {"vae": "a VAE", "text_encoder": "a text encoder"}[part]
            raise EngineError(f"model {path.name} must be a whole network, got one without {what}")
        check_weights(beside / part, path.name)
    return said


def lacking(said: dict[str, Any]) -> list[str]:
    """Which of its parts a single file with this header lacks."""
    heads = {"vae": ("first_stage_model.",), "text_encoder": ("cond_stage_model.", "text_encoder.")}
    return [part for part, own in heads.items() if not any(n.startswith(own) for n in said)]


def check_lora(source: bytes | Path, name: str, own: int = 0, network: str = "") -> None:
    """EngineError for a LoRA file that is not whole, or of a kind that cannot be used, or for words of another width
    than the ``network``'s ``own`` (0: unknown); its weights are not looked at."""
    said = header(source, name)
    lines = [f"has {n}" for n in _names(said)]
    if kind := tell(lines, LORAS):
        raise EngineError(f"{name} must be a LoRA for Stable Diffusion 1, 2 or flora, got {kind.said}")
    keys = {n: KEY.fullmatch(n) for n in _names(said)}
    if odd := [n for n, found in keys.items() if not found]:
        other = tell(lines, (*(k for k in KINDS if not k.family), *FILES[1:]))
        whole = "a whole network" if any(n.startswith("model.diffusion_model.") for n in keys) else ""
        raise EngineError(f"{name} must be a LoRA, got {whole or (other.said if other else f'one with {odd[0][:80]}')}")
    if all(found and found[1] is not None for found in keys.values()):
        got = "one for the text encoder alone" if keys else "one without any layer"
        raise EngineError(f"{name} must be a LoRA for a UNet, got {got}")
    for n, found in keys.items():
        if found and 0 in said[n]["shape"]:
            raise EngineError(f"{name} must have a rank of at least 1, got no numbers in {found[2]}")
        if found and found[4] in ("A", "down", "B", "up") and len(said[n]["shape"]) < 2:
            raise EngineError(f"{name} must be made of matrices, got numbers in a row in {found[2]}")
    for n, found in keys.items():
        if found and found[4] in ("A", "down") and INWARD.search(found[2]):
            check_width(name, said[n]["shape"][-1], own, network)


def check_width(name: str, words: int, own: int, network: str) -> None:
    """EngineError for a LoRA for ``words`` of another width than the ``network``'s ``own``; 0: unknown."""
    if words and own and words != own:
        got = f"got one for {WIDTHS.get(words, f'words {words} wide')}"
        raise EngineError(f"{name} must be for {short(network)}, {got}")
