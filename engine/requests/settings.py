"""How this machine is to be used: read once, from the command line and the environment, and passed down."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from engine.requests.errors import EngineError
from engine.requests.files import lies, typed
from engine.requests.spec import Field, Spec, check, fields_of, number, pictures_of

ROOT = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~-]+)+", re.ASCII)
LOCAL = ("127.0.0.1", "localhost", "::1")
VARIABLES = {  # the first that is set counts, where the command line says nothing
    "host": ("HOST", "GRADIO_SERVER_NAME"),
    "port": ("PORT", "GRADIO_SERVER_PORT"),
    "root_path": ("CHRYSALIS_ROOT_PATH",),
    "model": ("CHRYSALIS_MODEL",),
    "models": ("CHRYSALIS_MODELS",),
    "memory": ("CHRYSALIS_MEMORY_GB",),
    "paths": ("CHRYSALIS_PATHS",),
    "cache": ("CHRYSALIS_CACHE",),
    "cache_gb": ("CHRYSALIS_CACHE_GB",),
    "executor": ("CHRYSALIS_EXECUTOR",),
}


@dataclass(frozen=True)
class Settings:
    """``paths``: the only folders in which requests may name files; None: anywhere. ``model`` "": what suits the
    device. ``cache`` None: the person's own. EngineError for what cannot be."""

    host: Annotated[str, Spec("", "0.0.0.0 to be seen from elsewhere")] = "127.0.0.1"
    port: Annotated[int, Spec("", "of the page", 0, 65535)] = 7860
    device: Annotated[str, Spec("", "auto, cuda, mps or cpu")] = "auto"
    model: Annotated[str, Spec("", "what the page begins with; on a GPU sd15 once it is here, else flora")] = ""
    memory: Annotated[float, Spec("", "GB of the device that networks may use; 0: all of it", 0)] = 0.0
    workers: Annotated[int, Spec("", "devices to work on side by side (needs ray)", 1)] = 1
    cluster: Annotated[str, Spec("", "address of a running Ray cluster, or auto")] = ""
    paths: Annotated[tuple[str, ...] | None, Spec("", "folders in which visitors may name files")] = None
    cache: Annotated[Path | None, Spec("", "a folder for what was learnt of pictures")] = None
    cache_gb: Annotated[float, Spec("", "GB that it may take", 0)] = 4.0
    executor: Annotated[str, Spec("", "auto: what is fastest here; torch", choices=("auto", "torch"))] = "auto"
    models: Annotated[str, Spec("", f"a folder of your own networks and LoRAs, or several: a{os.pathsep}b")] = ""
    root_path: Annotated[str, Spec("", "where a proxy has the page, as /studio (docs/proxy.md)")] = ""

    def __post_init__(self) -> None:
        check(self)
        if self.root_path and not ROOT.fullmatch(self.root_path):
            raise EngineError(f"root_path must be a path as /studio, without / at its end, got {self.root_path[:80]!r}")
        for folder in self.folders:
            kind, why = lies(folder)
            if kind != "folder" or why:
                raise EngineError(f"models must be a folder, got {folder!r}, which {why or f'is a {kind}'}")

    @property
    def folders(self) -> tuple[str, ...]:
        """Those in which the artist's own networks and LoRAs lie (`engine.checkpoints.library`)."""
        return tuple(typed(text) for text in self.models.split(os.pathsep) if text.strip())

    @classmethod
    def read(cls, args: Namespace | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
        """From parsed options, and where these are silent from the environment. A page that others see names no
        files of this machine but in ``paths``."""
        given = {n: v for n, v in vars(args or Namespace()).items() if n in fields_of(cls) and v is not None}
        for name, variables in VARIABLES.items():
            text = next((environ[v] for v in variables if environ.get(v)), "")
            own = (
                name not in ("host", "port", "root_path") or args is None or hasattr(args, name)
            )  # those are the page's
            if text and name not in given and own:
                given[name] = _value(variables[0], fields_of(cls)[name].type, text)
        if environ.get("SPACE_ID"):
            given.setdefault("host", "0.0.0.0")
        public = hasattr(args, "host") and given.get("host", cls.host) not in LOCAL
        if public or "CHRYSALIS_PATHS" in environ:
            given.setdefault("paths", ())
        return cls(**given)


def _value(name: str, kind: type, text: str) -> Any:
    if kind is tuple:
        return tuple(filter(None, text.split(os.pathsep)))
    if kind not in (int, float):
        return kind(typed(text) if kind is Path else text)
    if isinstance(value := number(text, whole=kind is int), str):
        raise EngineError(f"{name} must be a number, got {text!r}")
    return value


def options(parser: ArgumentParser, declared: Iterable[Field]) -> None:
    """An option for each field. What is not given is None; what it may be, the request or the settings say."""
    for f in declared:
        kind: dict[str, Any] = {"type": partial(number, whole=f.type is int) if f.type in (int, float) else f.type}
        if f.type is bool:
            kind = {"action": BooleanOptionalAction}
        elif f.type is tuple:
            kind = {"nargs": "+"}
        elif f.spec.choices:
            kind["metavar"] = f"{{{','.join(map(str, f.spec.choices))}}}"
        note = f"{f.spec.about}{f' ({f.spec.span})' if f.spec.span else ''}"
        if f.default not in (MISSING, None, "", ()):
            note += f"; default {'yes' if f.default is True else 'no' if f.default is False else f.default}"
        parser.add_argument(f"--{f.name.replace('_', '-')}", default=None, help=note.replace("%", "%%"), **kind)


def document(requests: Iterable[type]) -> str:
    """docs/settings.md: a table for each of them, one row a field."""
    out = ["# Settings", "", "Made of the declarations by `python -m engine settings > docs/settings.md`."]
    for request in requests:
        out += ["", f"## {request.__name__}", "", "| field | default | may be | what it is |", "|---|---|---|---|"]
        for f in (pictures_of(request) | fields_of(request)).values():
            default = "needed" if f.default is MISSING else "" if f.default in (None, "", ()) else f.default
            span = ", ".join(map(str, f.spec.choices)) or f.spec.span or f.spec.layer or f.type.__name__
            out.append(f"| `{f.name}` | {default} | {span} | {f.spec.about} |")
    variables = ", ".join(f"`{n}` of {' or '.join(v)}" for n, v in VARIABLES.items())
    return "\n".join([*out, "", f"Where the command line is silent, the environment counts: {variables}."])
