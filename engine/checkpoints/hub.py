"""Downloads from the Hugging Face hub into the hub's own cache, with progress, stop, resume, and calm errors.

The download runs in a process of its own (`_main`), so that ending that process stops it at any moment. Only the named
files are fetched, and no pickle unless the source says so.

Since 1.18 the hub's client writes each try into a file of a random name and drops it when it fails; hf_xet writes out
of order. Neither can go on, and no setting changes that (seen in the source of 2.4; huggingface_hub issue 4196). So a
large file is brought here with the client's own ``http_get``, whose ``resume_size`` asks for the rest only, into
``blobs/SHA256.incomplete`` under the client's own lock, as clients before 1.18 did. Its checksum is compared with what
the hub lists, and ``hf_hub_download`` then finds the blob whole and links it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.requests import EngineError, Progress

ROOT = Path(__file__).resolve().parents[2]
# Not -m: that would take an `engine` in the folder where the studio was started from for ours.
START = "import sys; sys.path.insert(0, sys.argv[1]); from engine.checkpoints.hub import _main; _main(sys.argv[2])"
PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")  # loading one runs whatever code is in it
TELLING = ("full", "write", "damaged", "broken", "gated", "missing", "unreachable", "gone")  # the most telling first


@dataclass(frozen=True)
class Source:
    """Files of one model and where they are: ``repos`` in order of preference, each tried when the one before fails.

    ``files`` are groups: "a|b" is the first of these that the repository has; a "?" at the end makes it optional.
    """

    repos: tuple[str, ...]
    files: tuple[str, ...]
    revision: str = "main"
    pickled: bool = (
        False  # only for what is read as mere tensors (torch's weights_only): some repositories have no other
    )

    def __post_init__(self) -> None:
        for file in (f for group in self.files for f in names(group)):
            if (file.lower().endswith(PICKLES) and not self.pickled) or ".." in file.split("/") or file.startswith("/"):
                raise EngineError(f"file must be a path within the repository and no pickle, got {file!r}")


def names(group: str) -> list[str]:
    return group.removesuffix("?").split("|")


def on(*variables: str) -> bool:
    """Whether the first of the environment's ``variables`` that is set says yes, as huggingface_hub reads them."""
    value = next((v for v in map(os.environ.get, variables) if v), "")
    return value.upper() in ("1", "ON", "YES", "TRUE")


def cache() -> Path:
    """The hub's cache by the variables huggingface_hub knows, read when asked: it reads them once, at its import."""
    env = os.environ.get
    home = env("HF_HOME") or os.path.join(env("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    path = env("HF_HUB_CACHE") or env("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(path))).absolute()


def _place(folder: Path, repo: str) -> Path:
    """A repository's folder in the cache: blobs/, snapshots/COMMIT/FILE, refs/REVISION."""
    return folder / ("models--" + repo.replace("/", "--"))


def where(source: Source) -> Path | None:
    """The folder of the first repository in which every group that is not optional has a whole file; asks nobody.

    A file has its name in a snapshot only when it is whole.
    """
    for repo in source.repos:
        place = _place(cache(), repo)
        try:
            commit = (place / "refs" / source.revision).read_text().strip()
        except OSError:
            commit = source.revision
        folder = place / "snapshots" / commit
        if all(g.endswith("?") or any((folder / f).is_file() for f in names(g)) for g in source.files):
            return folder
    return None


def fetch(source: Source, name: str) -> Generator[Progress, None, Path]:
    """Brings the files here unless they are; returns their folder. Close it to stop: what came is kept for next time.

    Yields at least every quarter second. EngineError, in one sentence, for whatever keeps the files away.
    """
    if folder := where(source):
        return folder
    if on("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        raise EngineError(
            f"model {name} must be on this machine while HF_HUB_OFFLINE is set, got nothing or a part of it; unset it "
            f"to fetch {' or '.join(source.repos)}"
        )
    env = os.environ | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    job = json.dumps(asdict(source) | {"cache": str(cache())})
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(ROOT), job], env=env, bufsize=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        problems = yield from _watch(process, lines, name)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdin.close()
        process.stdout.close()
    if problems:
        raise EngineError(_sentence(source, name, problems))
    if not (folder := where(source)):
        raise EngineError(f"model {name} must stay the same while it is fetched, got a newer version; ask again")
    yield Progress(1.0, f"{name} is here")
    return folder


def _read(stream: Any, lines: queue.Queue) -> None:
    for line in stream:
        with suppress(ValueError):  # a stranger's line, printed while Python starts
            lines.put(json.loads(line))
    lines.put(None)


def _watch(process: subprocess.Popen, lines: queue.Queue, name: str) -> Generator[Progress, None, list[dict[str, Any]]]:
    """Progress until the process ends; what went wrong, which is nothing if the files are here."""
    files, total, best, doing = [], 0, 0.0, f"fetching {name}: asking the hub"
    samples: deque[tuple[float, int]] = deque(maxlen=50)  # some ten seconds
    while True:
        try:
            line = lines.get(timeout=0.2)
            if line is None:
                return [{"kind": "broken", "repo": "", "detail": f"an end with code {process.wait()}"}]
            if "problems" in line:
                return line["problems"]
            files, total = line["files"], sum(f["size"] for f in line["files"])
            samples.clear()
            _room(Path(line["cache"]), total - _came(files), name)
            with suppress(OSError):  # it has ended, and the next line says why
                process.stdin.write(b"\n")  # it waits for this, so that nothing is written where nothing fits
        except queue.Empty:
            pass
        if files:
            have = _came(files)
            samples.append((time.monotonic(), have))
            best = max(best, 0.999 * have / max(total, 1))
            doing = f"fetching {name}: {_size(have, total)}{_left(samples, total)}"
        yield Progress(best, doing)


def _came(files: list[dict[str, Any]]) -> int:
    """Bytes of these files that are here: whole, a blob that is not linked yet, or a part."""
    came = 0
    for file in files:
        for path in file["paths"]:
            try:
                came += min(os.stat(path).st_size, file["size"])
                break
            except OSError:
                continue
    return came


def _room(folder: Path, needed: int, name: str) -> None:
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise EngineError(f"disk of {folder} must have {_gb(needed)} free for model {name}, got {_gb(free)}")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _size(have: int, total: int) -> str:
    unit = 1e9 if total >= 1e9 else 1e6
    return f"{have / unit:.1f} of {_gb(total)}"


def _left(samples: deque[tuple[float, int]], total: int) -> str:
    (t0, h0), (t1, h1) = samples[0], samples[-1]
    if h1 >= total:
        return ", checking"
    if t1 - t0 < 1 or h1 <= h0:
        return ""
    seconds = (total - h1) * (t1 - t0) / (h1 - h0)
    return f", about {math.ceil(seconds / 5) * 5} s left" if seconds < 90 else f", about {round(seconds / 60)} min left"


def _sentence(source: Source, name: str, problems: list[dict[str, Any]]) -> str:
    p = min(problems, key=lambda p: TELLING.index(p["kind"]))
    repo, got, all_ = p["repo"], p["detail"], " or ".join(source.repos)
    tried = f" (tried {', '.join(source.repos)})" if len(source.repos) > 1 else ""
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return {
        "full": f"disk of {cache()} must have room for model {name}, got a full disk; what came is kept",
        "write": f"folder {cache()} must be one that can be written to, for model {name}, got {got}",
        "damaged": f"model {name} must have the checksum that {repo} lists, got other bytes in {got}, which are thrown "
        "away; ask again",
        "broken": f"model {name} must come whole from {repo or all_}, got {got}; what came is kept, so ask again and "
        "it goes on from there",
        "gated": f"model {name} must be open to you on the hub, got a gated repository; accept its terms on "
        f"https://huggingface.co/{repo} and log in with `hf auth login`{tried}",
        "missing": f"model {name} must have {got} in {repo}, got a repository without it{tried}",
        "unreachable": f"model {name} must be fetched from the hub on first use ({all_}), got {got} from {hub}; check "
        "the network and ask again",
        "gone": f"model {name} must be on the hub as {all_} at {source.revision}, got {got}",
    }[p["kind"]]


# What follows runs in the process that downloads.


class _Problem(Exception):
    """``kind`` is one of `TELLING`, ``detail`` what came."""

    def __init__(self, kind: str, detail: str):
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


def _main(text: str) -> None:
    """Fetches what the JSON ``text`` asks for: a `Source` and the cache's folder. Answers in lines of JSON."""
    job = json.loads(text)
    out, sys.stdout = sys.stdout, sys.stderr  # only our own lines go to the one who reads
    go = threading.Semaphore(0)

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    def listen() -> None:
        # By os.read: a thread within sys.stdin would hold its lock when the interpreter ends.
        while os.read(0, 1):
            go.release()
        os._exit(1)  # the studio has gone

    threading.Thread(target=listen, daemon=True).start()

    def agree(files: list[dict[str, Any]]) -> None:
        say({"files": files, "cache": job["cache"]})
        go.acquire()

    problems = []
    for repo in job["repos"]:
        try:
            _repository(job, repo, agree)
            problems = []
            break
        except Exception as e:
            p = e if isinstance(e, _Problem) else _Problem(*_kind(e))
            problems.append({"kind": p.kind, "repo": repo, "detail": p.detail})
            if p.kind in ("full", "write", "damaged", "broken"):  # another repository would begin from nothing
                break
    say({"problems": problems})


def _repository(job: dict[str, Any], repo: str, agree: Callable[[list[dict[str, Any]]], None]) -> None:
    """Fetches the files of one repository after ``agree`` was told what they are."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    constants.DOWNLOAD_CHUNK_SIZE = 1 << 18  # else bytes are handed on by 10 MB, and a stop loses up to as many
    folder = Path(job["cache"])
    info = HfApi().model_info(repo, revision=job["revision"], files_metadata=True, timeout=20)
    known = {s.rfilename: s for s in info.siblings or ()}
    chosen = []
    for group in sorted(job["files"], key=lambda g: not g.endswith("?")):
        # The optional ones first: when all that must be there is there, `where` says that nothing is left to fetch.
        file = next((f for f in names(group) if f in known), None)
        if file:
            chosen.append(known[file])
        elif not group.endswith("?"):
            raise _Problem("missing", " or ".join(names(group)))
    place = _place(folder, repo)
    agree([_row(place, str(info.sha), s) for s in chosen])
    for sibling in chosen:
        try:
            blob = _bring(folder, repo, str(info.sha), sibling) if sibling.lfs else None
            path = Path(hf_hub_download(repo, sibling.rfilename, revision=job["revision"], cache_dir=folder))
            if blob and path.is_file() and not path.is_symlink():
                blob.unlink(missing_ok=True)  # where there are no links (Windows), the client made a second copy
        except Exception as e:
            raise e if isinstance(e, _Problem) else _Problem(*_kind(e, started=True)) from e


def _row(place: Path, commit: str, sibling: Any) -> dict[str, Any]:
    """Size of a file in bytes, and the paths at which it or a part of it may be, the best first."""
    blob = str(place / "blobs" / (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id))
    paths = [str(place / "snapshots" / commit / sibling.rfilename), blob, blob + ".incomplete"]
    return {"size": sibling.size or 0, "paths": paths}


def _bring(folder: Path, repo: str, commit: str, sibling: Any) -> Path | None:
    """The blob of a large file, whole and checked: from where an earlier try stopped, if one did."""
    from huggingface_hub import hf_hub_url

    try:
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers
    except ImportError:
        return None  # a client that has moved them brings the file whole, and cannot go on after a stop

    place, size, sha = _place(folder, repo), sibling.size, sibling.lfs.sha256
    if (place / "snapshots" / commit / sibling.rfilename).exists():
        return None
    blob = place / "blobs" / sha
    part = blob.with_name(f"{sha}.incomplete")
    lock = folder / ".locks" / place.name / f"{sha}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return blob
        if part.exists() and part.stat().st_size > size:
            part.unlink()
        with part.open("ab") as f:
            url = hf_hub_url(repo, sibling.rfilename, revision=commit)
            http_get(url, f, resume_size=f.tell(), headers=build_hf_headers(), expected_size=size)
        with part.open("rb") as f:
            digest = hashlib.sha256()
            while piece := f.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != sha:
            part.unlink()
            raise _Problem("damaged", sibling.rfilename)
        part.replace(blob)
    return blob


def _kind(e: BaseException, started: bool = False) -> tuple[str, str]:
    """What an exception of the hub's client means, and how to name it. ``started``: files were already asked for."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    cause: BaseException | None = e
    while cause and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for x in chain:
        number = getattr(x, "errno", None)
        if number == errno.ENOSPC or (number and number == getattr(errno, "EDQUOT", 0)):
            return "full", ""
        if number and getattr(x, "filename", None):
            return "write", f"{os.strerror(number)} at {x.filename}"
        if isinstance(x, errors.GatedRepoError):
            return "gated", ""
        if isinstance(x, errors.RevisionNotFoundError):
            return "gone", "no such version there"
        if isinstance(x, errors.RepositoryNotFoundError | errors.DisabledRepoError | errors.HFValidationError):
            return "gone", "no such repository, or one that is not open"
        if isinstance(x, errors.HfHubHTTPError):
            status = x.response.status_code
            mend = " (log in again with `hf auth login`)" if status in (401, 403) else ""
            return ("broken" if started else "unreachable"), f"answer {status}{mend}"
    if started:
        return "broken", f"a broken connection ({type(chain[-1]).__name__})"
    return "unreachable", f"no answer ({type(e).__name__})"
