"""A Dockerfile as steps, and the files that a build would be sent: read by docker/chroot and tests/test_container.py.

It knows what this project's Dockerfile uses and names and refuses the rest. The reference is
https://docs.docker.com/reference/dockerfile/ and, for .dockerignore, https://docs.docker.com/build/concepts/context/.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"  # of the python images
FLAGS = {"COPY": ("chown",), "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries")}
BUILD = ("FROM", "ARG", "ENV", "USER", "WORKDIR", "RUN", "COPY")
WORDS = (*BUILD, "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "CMD")


@dataclass(frozen=True)
class Step:
    """One instruction, and what holds when it runs: the user, the folder, and the variables it sees.

    ``values`` is what it is about: one shell command (RUN, HEALTHCHECK), sources and a destination (COPY), the program
    and its arguments (CMD), NAME=VALUE pairs (ENV, ARG), else words. ``line`` is its first, from 1.
    """

    word: str
    line: int
    values: tuple[str, ...]
    user: str
    folder: str
    environment: dict[str, str]
    flags: dict[str, str] = field(default_factory=dict)


def instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, word and the rest of each instruction: comments dropped, continued lines joined."""
    held, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (held or line.strip()):
            continue
        first = first if held else number
        held += line
        if held.rstrip().endswith("\\"):
            held = held.rstrip()[:-1] + " "
            continue
        word, _, rest = held.strip().partition(" ")
        yield first, word.upper(), rest.strip()
        held = ""
    if held:
        raise ValueError(f"line {first} must end somewhere, got a backslash at the end of the file")


def expand(text: str, variables: dict[str, str], line: int) -> str:
    """``$NAME`` and ``${NAME}`` by their values, an unset one by nothing; ValueError for ``${NAME:-…}``."""
    if re.search(r"\$\{\w+[^\w}]|\\\$", text):
        raise ValueError(f"line {line} must hold only $NAME and ${{NAME}}, got {text!r}")
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: variables.get(m[1] or m[2], ""), text)


def parse(text: str, given: dict[str, str] | None = None) -> tuple[Step, ...]:
    """The steps of a Dockerfile, in order; ``given`` are the build's arguments (``--build-arg``).

    ValueError names the line and whatever is not known here: an instruction, a flag, a second stage, a heredoc.
    """
    given, user, folder, steps = dict(given or {}), "root", "/", []
    environment, arguments = {"PATH": PATH}, {}
    for line, word, rest in instructions(text):
        if word not in WORDS or (word == "FROM") != (not steps):
            raise ValueError(f"line {line} must be one of {', '.join(WORDS)}, FROM once and first, got {word}")
        flags, rest = _flags(word, rest, line)
        seen = {**arguments, **environment}  # ENV wins over ARG, as in Docker
        values = _values(word, rest, seen, line)
        if word == "ARG":
            name, _, value = values[0].partition("=")
            value = given.pop(name, value)
            arguments[name], values = value, (f"{name}={value}",)
        elif word == "ENV":
            environment = environment | dict(value.split("=", 1) for value in values)
        elif word == "USER":
            user = values[0]
        elif word == "WORKDIR":
            folder = str(PurePosixPath(folder, values[0]))
            values = (folder,)
        sees = seen if word == "RUN" else dict(environment)
        steps.append(Step(word, line, values, user, folder, sees, flags))
    if given:
        raise ValueError(f"a build argument must be one of {', '.join(arguments) or 'none'}, got {', '.join(given)}")
    return tuple(steps)


def _flags(word: str, rest: str, line: int) -> tuple[dict[str, str], str]:
    """The leading ``--name=value`` of an instruction, and what follows them."""
    flags = {}
    while match := re.match(r"--([\w-]+)(?:=(\S+))?\s+", rest):
        if match[1] not in FLAGS.get(word, ()):
            raise ValueError(f"line {line} must be without flags not known here, got {word} --{match[1]}")
        flags[match[1]] = match[2] or ""
        rest = rest[match.end() :]
    return flags, rest


def _values(word: str, rest: str, seen: dict[str, str], line: int) -> tuple[str, ...]:
    if word == "RUN":
        if "<<" in rest or rest.startswith("["):
            raise ValueError(f"line {line} must be a command for the shell, got {rest[:40]!r}")
        return (rest,)
    if word == "HEALTHCHECK":
        if not rest.startswith("CMD ") or rest[4:].lstrip().startswith("["):
            raise ValueError(f"line {line} must be HEALTHCHECK CMD and a command for the shell, got {rest[:40]!r}")
        return (rest[4:].strip(),)
    if word == "CMD":
        if not rest.startswith("["):
            raise ValueError(f"line {line} must be a JSON list, so that no shell stands before it, got {rest[:40]!r}")
        return tuple(json.loads(rest))
    values = tuple(shlex.split(expand(rest, seen, line)))
    if word == "COPY" and not values[-1].endswith(("/", ".")):
        raise ValueError(f"line {line} must copy into a folder (its name ends with /), got {values[-1]}")
    if word == "ENV" and not all(re.match(r"\w+=", value) for value in values):
        raise ValueError(f"line {line} must be NAME=VALUE pairs, got {rest[:40]!r}")
    return values


def ignored(patterns: tuple[str, ...], path: str) -> bool:
    """Whether .dockerignore's patterns leave ``path`` (relative, with /) out, itself or with a folder above it."""
    parts = path.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(re.fullmatch(_expression(pattern), name) for pattern in patterns for name in above)


def _expression(pattern: str) -> str:
    """Go's filepath.Match with Docker's ``**``: any number of folders, none too."""
    made = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/"))
    return "".join(made.get(piece) or re.escape(piece) for piece in pieces)


def patterns(text: str) -> tuple[str, ...]:
    """The patterns of a .dockerignore. ValueError for an exception (``!``) or a class of characters (``[``)."""
    lines = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    for line in lines:
        if "[" in line or line.startswith("!"):
            raise ValueError(f".dockerignore must be without ! and [, got {line}")
    return lines


def sent(root: Path = ROOT) -> list[str]:
    """Every file and folder that a build in ``root`` would be sent, relative to it, a folder before what it holds."""
    out, found = patterns((root / ".dockerignore").read_text()), []
    for folder, folders, files in os.walk(root):
        above = Path(folder).relative_to(root)
        names = {name: (above / name).as_posix() for name in (*folders, *files)}
        found += [path for path in names.values() if not ignored(out, path)]
        folders[:] = [name for name in folders if not ignored(out, names[name])]
    return sorted(found)


def below(source: str, paths: list[str]) -> list[str]:
    """Of ``paths`` those that ``COPY source`` takes: the file itself, or all that the folder holds."""
    prefix = "" if source in (".", "./") else source.strip("/") + "/"
    return [path for path in paths if path == source or (path.startswith(prefix) and path != prefix)]


def script(steps: tuple[Step, ...]) -> str:
    """The steps as calls of the shell functions of docker/chroot, each after its ENVIRONMENT."""
    lines = []
    for step in steps:
        pairs = [f"{name}={value}" for name, value in step.environment.items()]
        lines.append(f"ENVIRONMENT=({shlex.join(pairs)})")
        owner = step.flags.get("chown", "root:root")
        given = (step.user, step.folder, *((owner,) if step.word == "COPY" else ()), *step.values)
        lines.append(shlex.join((step.word, *given)))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":  # steps.py [NAME=VALUE …]: the script; steps.py --files SOURCE: names, each ended by a NUL
    if sys.argv[1:2] == ["--files"]:
        sys.stdout.write("".join(path + "\0" for path in below(sys.argv[2], sent())))
    else:
        build = dict(pair.split("=", 1) for pair in sys.argv[1:])
        sys.stdout.write(script(parse((ROOT / "Dockerfile").read_text(), build)))
