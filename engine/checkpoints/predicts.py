"""What the UNet of a single file predicts, noise or v, and on which schedule: by its header, or what lies beside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from engine.checkpoints.shapes import FAMILY_OF, words
from engine.requests import EngineError


def kind(path: Path, said: dict[str, Any]) -> tuple[str, str, bool, int]:
    """(family, prediction type, zero terminal SNR, side or 0 for the family's) of a single file, from its header
    ``said``; SDXL-Turbo alone is told by its name: merges of it are made for 1024 pixels again."""
    about, family = said.get("__metadata__") or {}, FAMILY_OF[words(said)]
    # ComfyUI's marks are empty tensors; kohya's stand in the metadata.
    zero = "ztsnr" in said or _true(about.get("ss_zero_terminal_snr"))
    own = "v_prediction" if "v_pred" in said else prediction(path, family, about)
    return family, own, zero, 64 * bool(re.match(r"sd_?xl_turbo", path.stem.lower()))


def _true(said: Any) -> bool:
    return str(said).lower() in ("true", "1")


def prediction(path: Path, family: str, about: dict[str, str]) -> str:
    """What the UNet says where no tensor tells: the file's metadata, or the YAML beside it (A1111's custom), or its
    name ("vpred"), or the usual: SD 2 checkpoints of 768 px predict v, all others the noise."""
    said = (about.get("modelspec.prediction_type") or about.get("modelspec.predict_key") or "").lower()
    if not said and "ss_v_parameterization" in about:
        said = "v" if _true(about["ss_v_parameterization"]) else "eps"
    beside = [f for end in (".yaml", ".yml") if (f := path.with_suffix(end)).is_file()]
    if not said and beside:
        said = _parameterization(beside[0]) or "eps"
    if not said and re.search("v[-_ ]?pred", path.stem.lower()):
        said = "v"
    if not said and family == "sd2" and not any(mark in path.stem.lower() for mark in ("turbo", "base", "512")):
        said = "v"
    if not said and path.stem.lower().endswith("_x0"):  # SDXL-Lightning's for one step: the schedule refuses it
        return "sample"
    return "v_prediction" if said.startswith("v") else "epsilon"


def _parameterization(file: Path) -> str:
    """What a YAML file in any of its styles and encodings says of it, with tabs or without; "" if nothing."""
    seen = set[int]()

    def find(value: Any) -> str:
        if id(value) in seen:  # YAML may name a list again and again, and within itself
            return ""
        seen.add(id(value))
        if isinstance(value, dict) and "parameterization" in value:
            return str(value["parameterization"]).lower()
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return next(filter(None, map(find, inside)), "")

    block = file.read_bytes()[: 1 << 20]
    wide = "utf-16-be" if block.startswith((b"\xfe\xff", b"\0")) else "utf-16-le"
    text = block.decode(wide if b"\0" in block[:4] else "utf8", errors="replace").removeprefix("\ufeff")
    try:
        return find(yaml.safe_load(text.expandtabs(2)))
    except (yaml.YAMLError, RecursionError):
        raise EngineError(f"{file.name} beside the model must be YAML, got something else") from None
