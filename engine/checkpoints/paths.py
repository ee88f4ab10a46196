"""Paths as people name them: which may be named, how they are told again, and what was meant by a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.checkpoints import hub
from engine.checkpoints.whole import entries
from engine.requests.files import typed

LONGEST = 200  # letters of a path that a sentence tells


def may_open(path: Path, paths: Sequence[str] | None) -> bool:
    """Whether files may be named there."""
    try:
        place = Path(path).resolve()
        place.exists()
    except (OSError, ValueError, RuntimeError):  # too long, with characters that no path has, a link to itself
        return False
    return paths is None or any(f and place.is_relative_to(Path(typed(f)).resolve()) for f in paths)


def shown(text: str) -> str:
    """A path as it may be told: where the person's own folder lies is nobody's business."""
    home = str(Path("~").expanduser())
    told = text if home == "/" else text.replace(home, "~")
    return told if len(told) <= LONGEST else f"{told[:LONGEST]}…"


def pickled(name: str) -> str:
    return ", which may run code when it is read; convert it to .safetensors" * name.lower().endswith(hub.PICKLES)


def inside(folder: Path) -> str:
    """What may have been meant by a folder of networks: one of a repository in the hub's cache, the only one in it."""
    found = [p.parents[1] for p in folder.glob("snapshots/*/unet/config.json")]
    found = found or [p for p in entries(folder) if p.suffix.lower() == ".safetensors" or (p / "unet").is_dir()]
    return f"; did you mean {found[0].relative_to(folder)} in it?" if len(found) == 1 else ""


def meant(path: Path, names: Mapping[str, str], paths: Sequence[str] | None) -> str:
    """What may have been meant by a path that is not there: one of ``names``, or what lies where it should."""
    known = {n.lower(): name for n, name in names.items()}
    if path.parent != Path() and may_open(str(path.parent), paths):
        there = [p for p in entries(path.parent) if (p.suffix.lower() == ".safetensors" and p.exists()) or p.is_dir()]
        known |= {n.lower(): p.name for p in there for n in (p.stem, p.name)}
    own = path.name.lower()
    found = [n for n in known if sorted(n) == sorted(own)] or difflib.get_close_matches(
        own.removesuffix(".safetensors"), known, 1
    )
    return f"; did you mean {known[found[0]]}?" if found else ""
