"""Downloads from the Hugging Face hub into the hub's own cache, with progress, stop, resume, and calm errors.

Only the named files are fetched, and no pickle unless the source says so. Since 1.18 the hub's client drops what came
of a file when its download ends early (huggingface_hub issue 4196), so files are asked for here, from where an earlier
try stopped, into ``blobs/CHECKSUM.incomplete`` under the client's own lock. The client finds them where it looks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, errors, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from engine.requests import EngineError, Progress

REVISION = "main"
PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")  # loading one runs whatever code is in it
LEFT = 30 * 86400  # seconds after which a part of a file is one that nobody waits for
TICK, PATIENCE, SILENCE, TRIES = 0.2, 10, 5, 4  # seconds: between events, for an answer, without a byte; tries


@dataclass(frozen=True)
class Source:
    """Files of one model and where they are: ``repos`` in order of preference, each tried when the one before fails.

    ``files`` are groups: "a|b" is the first of these that the repository has; a "?" at the end makes it optional.
    ``pickled`` only for what is read as mere tensors (torch's weights_only): some repositories have no other.
    """

    repos: tuple[str, ...]
    files: tuple[str, ...]
    pickled: bool = False

    def __post_init__(self) -> None:
        for file in (f for group in self.files for f in names(group)):
            if (file.lower().endswith(PICKLES) and not self.pickled) or ".." in file.split("/") or file.startswith("/"):
                raise EngineError(f"file must be a path within the repository and no pickle, got {file!r}")


class _File(NamedTuple):
    """``link`` is its name in a snapshot, which it has only when it is whole; ``digest`` sha256, or git's sha1."""

    url: str
    size: int
    digest: str
    link: Path
    blob: Path

    @property
    def part(self) -> Path:
        return Path(f"{self.blob}.incomplete")

    def came(self) -> int:
        """Bytes that are here: whole, not linked yet, or a part."""
        return next((p.stat().st_size for p in (self.link, self.blob, self.part) if p.exists()), 0)


def names(group: str) -> list[str]:
    return group.removesuffix("?").split("|")


def cache() -> Path:
    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)  # the client reads it once, at its import


def where(source: Source) -> Path | None:
    """The folder of the first repository in which every group that is not optional has a whole file; asks nobody."""

    def folder(repo: str, group: str) -> Path | None:
        found = {file: try_to_load_from_cache(repo, file, cache(), REVISION) for file in names(group)}
        return next((Path(p).parents[file.count("/")] for file, p in found.items() if isinstance(p, str)), None)

    needed = [group for group in source.files if not group.endswith("?")]
    return next((folder(r, needed[0]) for r in source.repos if all(folder(r, group) for group in needed)), None)


def fetch(source: Source, name: str) -> Generator[Progress, None, Path]:
    """Brings the files here unless they are; returns their folder. Close it to stop: what came is kept for next time.

    Yields at least every quarter second while bytes come, and every five seconds while none do. EngineError, in one
    sentence, for whatever keeps the files away.
    """
    if found := where(source):
        return found
    if constants.HF_HUB_OFFLINE:
        raise EngineError(f"model {name} must be on this machine while HF_HUB_OFFLINE is set, got nothing or a part")
    problems, best = list[tuple[int, str]](), 0.0
    for repo in source.repos:
        files = list[_File]()
        try:
            yield Progress(best, f"fetching {name}: asking the hub")
            info = HfApi().model_info(repo, revision=REVISION, files_metadata=True, timeout=PATIENCE)
            place, commit = cache() / f"models--{repo.replace('/', '--')}", str(info.sha)
            files = _list(source, repo, name, info.siblings or (), place, commit)
            _sweep(place, {file.part for file in files})
            began, first, total = time.monotonic(), sum(f.came() for f in files), sum(f.size for f in files)
            if (free := _free(place)) < total - first:
                got = f"free for model {name}, got {_gb(free)}"
                raise EngineError(f"disk of {cache()} must have {_gb(total - first)} {got}")
            for _ in (tick for file in files for tick in _bring(file)):
                have = sum(f.came() for f in files)
                best = max(best, 0.999 * have / max(total, 1))
                yield Progress(best, f"fetching {name}: {_say(have, total, began, first)}")
            (place / "refs").mkdir(exist_ok=True)
            half = place / "refs" / f".{REVISION}.{os.getpid()}"  # a half name would hide all that is here
            half.write_text(commit, encoding="utf8")
            half.replace(place / "refs" / REVISION)
            yield Progress(1.0, f"{name} is here")
            return place / "snapshots" / commit
        except Exception as e:
            problems.append(_explain(e, source, repo, name, bool(files)))
            if files and problems[-1][0] == 0:  # another repository would begin from nothing
                break
    tried = f" (tried {', '.join(source.repos)})" if len(problems) > 1 else ""
    raise EngineError(min(problems, key=lambda p: p[0])[1] + tried)


def _sweep(place: Path, wanted: Collection[Path]) -> None:
    """Away with parts of a repository's files that nobody has gone on with for long: the hub has those files no longer.
    ``wanted``: those that are gone on with now. What other programs have of other networks is theirs."""
    for part in place.glob("blobs/*.incomplete"):
        with suppress(OSError):  # another process was quicker
            if part not in wanted and abs(time.time() - part.stat().st_mtime) > LEFT:
                part.unlink()


def _free(place: Path) -> int:
    return shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _say(have: int, total: int, began: float, first: int) -> str:
    spent = time.monotonic() - began
    seconds = (total - have) * spent / max(have - first, 1)
    left = f"{5 + seconds // 5 * 5:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    more = ", checking" if have >= total else f", about {left} left" if spent > 1 and have > first else ""
    return f"{have / (1e9 if total >= 1e9 else 1e6):.1f} of {_gb(total)}{more}"


def _list(source: Source, repo: str, name: str, siblings: Iterable[Any], place: Path, commit: str) -> list[_File]:
    known, out = {s.rfilename: s for s in siblings}, []
    # The optional ones first: when all that must be there is there, `where` says that nothing is left to fetch.
    for group in sorted(source.files, key=lambda g: not g.endswith("?")):
        if s := next((known[f] for f in names(group) if f in known), None):
            digest, url = s.lfs.sha256 if s.lfs else s.blob_id, hf_hub_url(repo, s.rfilename, revision=commit)
            link, blob = place / "snapshots" / commit / s.rfilename, place / "blobs" / digest
            out.append(_File(url, s.size, digest, link, blob))
        elif not group.endswith("?"):
            got = "got a repository without it"
            raise EngineError(f"model {name} must have {' or '.join(names(group))} in {repo}, {got}")
    return out


def _bring(file: _File) -> Iterator[None]:
    """Brings what is missing of a file, compares its checksum and gives it its name; under a lock, so that one does."""
    place = file.blob.parents[1]
    lock = place.parent / ".locks" / place.name / f"{file.digest}.lock"
    for path in (lock, file.blob, file.link):
        path.parent.mkdir(parents=True, exist_ok=True)
    while not file.link.exists():
        yield
        try:
            with FileLock(lock, timeout=TICK, mode=0o664, thread_local=False):
                if not file.blob.exists():
                    yield from _download(file)
                    file.part.replace(file.blob)
                try:
                    file.link.symlink_to(os.path.relpath(file.blob, file.link.parent))
                except OSError:  # Windows lets only some make links
                    shutil.move(file.blob, file.link)
        except Timeout:  # another job brings it
            continue


def _download(file: _File) -> Iterator[None]:
    """From where an earlier try stopped; a connection that breaks is taken up again."""
    file.part.touch()
    if file.part.stat().st_size > file.size:  # another program's, which makes room first
        file.part.unlink()
        file.part.touch()
    tries, error, last = TRIES, Exception(), time.monotonic()
    while (have := file.part.stat().st_size) < file.size:
        if not tries:
            raise error
        tries -= 1
        yield
        headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        waits = (PATIENCE, SILENCE, SILENCE, PATIENCE)  # for a connection, for bytes
        try:
            with get_session().stream("GET", file.url, headers=headers, timeout=waits) as answer:
                hf_raise_for_status(answer)
                with file.part.open("ab" if answer.status_code == 206 else "wb", buffering=0) as f:
                    for piece in answer.iter_raw():
                        f.write(piece)
                        tries = TRIES
                        if time.monotonic() - last >= TICK:
                            last = time.monotonic()
                            yield
        except OSError:  # the disk's, or a refusal of the hub's
            raise
        except Exception as e:  # of whichever HTTP package the client uses: a broken connection
            error = e
    digest = hashlib.sha256() if len(file.digest) == 64 else hashlib.sha1(b"blob %d\0" % file.size)  # git's
    with file.part.open("rb") as f:
        while piece := f.read(1 << 26):
            digest.update(piece)
            yield
    if digest.hexdigest() != file.digest:
        file.part.unlink()
        raise EngineError(f"{file.link} must have the hub's checksum, got other bytes, thrown away now; ask again")


def _explain(e: Exception, source: Source, repo: str, name: str, started: bool) -> tuple[int, str]:
    """What keeps files away: (how telling it is, 0 the most; a sentence). ``started``: files were asked for already."""
    status = e.response.status_code if isinstance(e, errors.HfHubHTTPError) else 0
    got = f"answer {status}" if status else f"{'a broken connection' if started else 'no answer'} ({type(e).__name__})"
    got += " (log in again with `hf auth login`)" if status in (401, 403) else ""
    kept = "what came is kept, so ask again and it goes on from there"
    match e:
        case EngineError():
            return 0, str(e)
        case errors.GatedRepoError():
            terms = f"accept its terms on https://huggingface.co/{repo} and log in with `hf auth login`"
            return 1, f"model {name} must be open to you on the hub, got a gated repository; {terms}"
        case errors.RevisionNotFoundError() | errors.RepositoryNotFoundError() | errors.HFValidationError():
            gone = "got no such repository, or one that is not open"
            return 3, f"model {name} must be on the hub as {repo}, {gone}"
        case OSError() if not status:
            return 0, f"folder {cache()} must have room and be writable for model {name}, got {e}; {kept}"
    if started:
        return 0, f"model {name} must come whole from {repo}, got {got}; {kept}"
    mend = f"from {constants.ENDPOINT}; check the network and ask again"
    return 2, f"model {name} must be fetched from the hub on first use ({repo}), got {got} {mend}"
