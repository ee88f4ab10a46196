"""Options of the command line to a request: files read, and refused, before anything slow."""

from __future__ import annotations

import argparse
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from engine.requests import METHODS, EngineError, Field, fields_of, make, pictures_of, points
from engine.requests.files import typed, unreadable


def request_of(args: argparse.Namespace) -> Any:
    """Reads the pictures and refuses bad input, before anything slow."""
    from engine.vision.images import digest, drawing

    request = METHODS[args.verb]
    preset = request.presets[args.preset] if request.presets and args.preset else {}
    values: dict[str, Any] = {}
    for f in pictures_of(request).values():
        if (found := getattr(args, f.name)) is not None:
            values[f.name] = _picture(f, found)
    if getattr(args, "drawing", None):
        values = {k: v for k, v in drawing(typed(args.drawing)).items() if v is not None} | values
    for f in fields_of(request).values():
        if (given := getattr(args, f.name)) is not None:
            values[f.name] = tuple(given) if f.type is tuple and f.name != "points" else given
    for name in ("pose_a", "pose_b"):
        if name in values:
            values[name] = _file(values[name], name).decode("utf8", "replace")
    if "points" in values:
        pictures = values.get("pictures") or (values["a"], values["b"], *values["more"])
        text = _file(values["points"], "points").decode("utf8", "replace")
        values["points"] = points.read(text, [digest(p) for p in pictures])
        values.setdefault("align", "points")
    if "loras" in values:
        values["loras"] = tuple(b"" if path == "-" else _lora(path) for path in args.loras)
    if "seed" in fields_of(request):
        values.setdefault("seed", fields_of(request)["seed"].default)
    return make(request, preset, values)


def _picture(f: Field, found: Any) -> Any:
    from engine.vision.images import layer, read

    if f.type is tuple:
        first = 1 if f.default is MISSING else 3  # after two that have names of their own
        return tuple(read(typed(p), f"picture {i}") for i, p in enumerate(found, first))
    if f.spec.layer == "RGB":
        return read(typed(found), f.spec.label)
    return layer(typed(found), f.name, f.name)


def _file(path: str, name: str) -> bytes:
    if why := unreadable(typed(path)):
        raise EngineError(f"{name} must be a file, got {path!r}, which {why}")
    return Path(typed(path)).read_bytes()


def _lora(path: str) -> bytes:
    from engine.checkpoints.kinds import check_lora

    check_lora(block := _file(path, "loras"), f"LoRA {Path(path).name}")
    return block
