"""Of which kind a network or a LoRA is, in a folder or a file, and whether it is whole; told before anything is loaded.

Files and configs are told as lines such as ``class StableDiffusionXLPipeline``, ``part text_encoder_2``, ``inputs 9``,
``words 768`` and ``has <tensor>``, in which the signs of the table (`signs`) are searched. What no row refuses may run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from engine.checkpoints.shapes import DEEPEST, FAMILY_OF, FIRST, SCALE, words
from engine.checkpoints.signs import FILES, INWARD, KEY, KINDS, LORAS, WIDTHS, tell
from engine.checkpoints.whole import check_text, check_weights, config, entries, header, weights
from engine.requests import EngineError

# Of single files: what the UNet gives, and what the VAE takes, is as many channels as latents have.
LAST, LATENTS = "model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_in.weight"
TEXTS = ("text_encoder", "text_encoder_2")
LABELS = "model.diffusion_model.label_emb."  # where SDXL's UNet takes pooled words and sizes in, in single files
MODULES = ("unet", "vae", *TEXTS)
MORE = ("text_encoder_2", "tokenizer_2")  # what SDXL's kin have beside `catalogue.PARTS`


class Base(NamedTuple):
    """What a LoRA is for: a network's ``name``, how wide its words are (0: unknown), and whether it is of SDXL's kin
    (None: unknown)."""

    name: str = ""
    words: int = 0
    xl: bool | None = None


ANY = Base()


def short(network: str) -> str:
    """What a sentence calls a network: without folders, and without the LoRAs on it."""
    return Path(network.partition(" + ")[0]).name


def _names(said: dict[str, Any]) -> list[str]:
    return [n for n in said if n != "__metadata__"]


def of_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A single file's header, and what is known of it as lines."""
    said = header(path, f"model {path.name}")
    lines = [f"inputs {s[1]}" for s in [said.get(FIRST, {}).get("shape", [])] if len(s) > 1]
    lines += [f"words {n}" for n in [words(said)] if n]
    shapes = [said.get(n, {}).get("shape", []) for n in (LAST, LATENTS)]
    lines += ["differ latents"] * (all(len(s) > 1 for s in shapes) and shapes[0][0] != shapes[1][1])
    return said, [*lines, *(f"has {n}" for n in _names(said))]


def of_folder(folder: Path) -> list[str]:
    """What the configs of a folder in the diffusers format say, as lines."""
    index, unet = config(folder / "model_index.json"), config(folder / "unet" / "config.json")
    vae, texts = config(folder / "vae" / "config.json"), [config(folder / t / "config.json") for t in TEXTS]
    noise = config(folder / "scheduler" / "scheduler_config.json").get("_class_name")
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
    lines += [f"text {a}" for text in texts for a in _names_in(text)] + [f"noise {noise}"] * bool(noise)
    lines += [f"scale {vae.get('scaling_factor', SCALE)}"] * bool(vae)
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
        raise EngineError(f"model {name} must be of the kind of Stable Diffusion 1, 2, XL or flora, got {kind.said}")


def two_texts(folder: Path) -> bool:
    """Whether a folder in the diffusers format is of SDXL's kin, with two text encoders."""
    return config(folder / "unet" / "config.json").get("addition_embed_type") == "text_time"


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
    if (found := words(said)) not in FAMILY_OF or (FAMILY_OF[found] == "sdxl" and DEEPEST not in said):
        got = f"words {found} wide" if found not in FAMILY_OF else "a smaller kin of SDXL"
        must = f"model {place.name} must be of Stable Diffusion 1, 2 or XL"
        raise EngineError(f"{must}, got {got}; put its configs into {beside}")
    return said


def check_folder(folder: Path, parts: tuple[str, ...]) -> None:
    """EngineError for a folder that is of another kind or not whole."""
    name = folder.name
    refuse(lines := of_folder(folder), name)
    kind = tell(lines, KINDS)
    parts += MORE * bool(kind and kind.family == "sdxl")
    if missing := [p for p in parts if not (folder / p).is_dir()]:
        raise EngineError(f"model {name} must have the folders {', '.join(parts)}, got none of {', '.join(missing)}")
    weighty, tokenizers = [p for p in parts if p in MODULES], [p for p in parts if p.startswith("tokenizer")]
    needed = [*(f"{part}/config.json" for part in weighty), "scheduler/scheduler_config.json"]
    needed += [f"{t}/{f}|{t}/tokenizer.json" for t in tokenizers for f in ("vocab.json", "merges.txt")]
    for files in needed:
        if not any((folder / f).is_file() for f in files.split("|")):
            raise EngineError(f"model {name} must have {files.replace('|', ' or ')}, got none")
    config(folder / "scheduler" / "scheduler_config.json")
    for file in (f for t in tokenizers for f in entries(folder / t)):
        check_text(file)
    for part in weighty:
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
            what = {"vae": "a VAE", "text_encoder": "a text encoder"}.get(part, "its second text encoder")
            raise EngineError(f"model {path.name} must be a whole network, got one without {what}")
        check_weights(beside / part, path.name)
    return said


def lacking(said: dict[str, Any]) -> list[str]:
    """Which parts a single file with this header lacks, or has without use."""
    heads = {"vae": ("first_stage_model.",), "text_encoder": ("cond_stage_model.", "text_encoder.")}
    if any(n.startswith((LABELS, "conditioner.")) for n in said):
        heads |= {t: (f"conditioner.embedders.{i}.",) for i, t in enumerate(TEXTS)}
    out = [part for part, own in heads.items() if not any(n.startswith(own) for n in said)]
    if TEXTS[1] in out and TEXTS[0] not in out:
        out.append(TEXTS[0])  # diffusers finds the first by the second
    return out


def check_lora(source: bytes | Path, name: str, base: Base = ANY) -> None:
    """EngineError for a LoRA file that is not whole, or of a kind that cannot be used, or for another network than
    ``base``; its weights are not looked at."""
    said = header(source, name)
    lines = [f"has {n}" for n in _names(said)]
    kind = tell(lines, LORAS)
    if kind and not kind.family:
        raise EngineError(f"{name} must be a LoRA for Stable Diffusion 1, 2, XL or flora, got {kind.said}")
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
    if kind and base.xl is False:
        raise EngineError(f"{name} must be for {short(base.name)}, got {kind.said}")
    for n, found in keys.items():
        # SDXL's text encoders are as wide as those of others, or as none: its words are the two side by side.
        told = found and found[4] in ("A", "down") and not (found[1] is not None and (base.xl or kind))
        if told and found and INWARD.search(found[2]):
            check_width(name, said[n]["shape"][-1], base.words, base.name)


def check_width(name: str, words: int, own: int, network: str) -> None:
    """EngineError for a LoRA for ``words`` of another width than the ``network``'s ``own``; 0: unknown."""
    if words and own and words != own:
        got = f"got one for {WIDTHS.get(words, f'words {words} wide')}"
        raise EngineError(f"{name} must be for {short(network)}, {got}")
