"""The studio as a public page runs: a process of its own under a crowd (`benchmarks.crowd`), watched from inside
(`benchmarks.watched`).

The first third of the jobs, at most a hundred, warm up; memory and threads are compared with how they are then, files
with how they were before anybody came, each after Gradio has forgotten the visitors.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from time import monotonic, sleep
from typing import Any

import httpx
import psutil

from benchmarks.crowd import Crowd
from benchmarks.visits import Site
from benchmarks.watched import BACKGROUND

ROOT = Path(__file__).resolve().parents[1]
START, CALM = 300.0, 120.0  # seconds until the studio answers, and until it is idle when all have gone
POOLS = ("AnyIO", "asyncio_", "ThreadPoolExecutor", BACKGROUND)  # threads that wait for work, or end by themselves
WARM = 100


class Studio:
    """The process: its address, and what can be seen of it from outside."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], folder: Path):
        self.url, self.process, self.folder = url, process, folder

    def asked(self, path: str) -> dict[str, Any]:
        return httpx.get(f"{self.url}/{path}", timeout=60).raise_for_status().json()

    def ready(self) -> None:
        until = monotonic() + START
        while True:
            try:
                if self.asked("health")["networks"]:
                    return
            except (httpx.HTTPError, ValueError):
                pass
            if self.process.poll() is not None or monotonic() > until:
                raise RuntimeError(f"the studio did not come up: {self.log()[-2000:]}")
            sleep(0.2)

    def calm(self) -> bool:
        """Waits until nothing runs or waits, and the graphs are there that a pause is used for; whether that came to
        be."""
        until = monotonic() + CALM
        while monotonic() < until:
            health = self.asked("health")
            if not health["queue"] and not health["running"] and BACKGROUND not in self.asked("watched")["threads"]:
                return True
            sleep(0.2)
        return False

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def files(self) -> set[Path]:
        return {f for f in (self.folder / "temp").rglob("*") if f.is_file()}

    def memory(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


@contextmanager
def studio(model: str, device: str) -> Iterator[Studio]:
    """The studio on a free port, with folders of its own; its output goes to a file."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        (folder / "temp").mkdir()
        own = {"TMPDIR": str(folder / "temp"), "CHRYSALIS_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
        env = {k: v for k, v in os.environ.items() if k != "GRADIO_TEMP_DIR"} | own
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "benchmarks.watched",
            "--port",
            str(port),
            "--model",
            model,
            "--device",
            device,
        ]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            here = Studio(f"http://127.0.0.1:{port}", process, folder)
            here.ready()
            yield here
        except Exception:
            print((folder / "log").read_text(errors="replace")[-8000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def measure(
    model: str, device: str, jobs: int = 60, visitors: int = 20, minutes: float = 0.0, seed: int = 0
) -> dict[str, Any]:
    """The figures; what was lost or crossed is told on stderr, with the end of the studio's log."""
    began, until = monotonic(), monotonic() + minutes * 60 if minutes else float("inf")
    with studio(model, device) as here:
        crowd, files = Crowd(Site(here.url), model, seed), here.files()
        here.calm()
        crowd.run(warm := min(WARM, jobs // 3), visitors, until)
        here.calm()
        warmed, memory = here.asked("watched?forget=1"), here.memory()
        with sampled(here) as memories:
            crowd.run(jobs - warm, visitors, until)
        free = here.calm()
        seen = here.asked("watched?forget=1")
        grown, left, health = here.memory() - memory, here.files() - files, here.asked("health")
        log = here.log()
    figures = told(crowd, seen)
    figures |= {"memory_growth_mb": round(grown, 1), "files_left": len(left)}
    threads = more(seen["threads"], warmed["threads"])
    figures |= {"memory_mb": memories, "threads_left": len(threads), "free_at_the_end": free}
    grew = Counter(seen["objects"]) - Counter(warmed["objects"])
    print(
        "objects more than after the warm-up:", *(f"{n} {name}," for name, n in grew.most_common(12)), file=sys.stderr
    )
    figures |= {
        "sessions_left": seen["sessions"],
        "tracebacks": bugs(log),
        "minutes": round((monotonic() - began) / 60, 2),
    }
    for line in (*crowd.lost, *crowd.crossed, *map(str, sorted(left)[:20]), *threads):
        print(line, file=sys.stderr)
    if crowd.lost or crowd.crossed or bugs(log):
        print(log[-8000:], file=sys.stderr)
    return {"model": model, "visitors": visitors, "seed": seed} | figures | {"health": health}


@contextmanager
def sampled(here: Studio, every: float = 1.0) -> Iterator[list[int]]:
    """MB of the process, filled at the end: some ten of them over the time, of what grows and of what only came."""
    out, all_, over = list[int](), list[int](), threading.Event()

    def look() -> None:
        while not over.wait(every):
            all_.append(round(here.memory()))

    (thread := threading.Thread(target=look, daemon=True)).start()
    try:
        yield out
    finally:
        over.set()
        thread.join()
        out += all_[:: max(1, len(all_) // 10)]


def bugs(log: str) -> int:
    """Tracebacks, but for those that Gradio itself prints when it refuses a path."""
    return log.count("Traceback") - log.count("gradio.exceptions.InvalidPathError")


def more(now: list[str], before: list[str]) -> list[str]:
    """Names of threads that were not there, but for those of pools."""
    left = list(before)
    return [n for n in now if not n.startswith(POOLS) and (n not in left or left.remove(n))]


def told(crowd: Crowd, seen: dict[str, Any]) -> dict[str, Any]:
    """What the crowd and the device say together, by the jobs' seeds."""
    device = {job["seed"]: job for job in seen["jobs"] if job["seed"] in crowd.sent}
    waits = [job["began"] - crowd.sent[seed] for seed, job in device.items()]
    centiles = quantiles(waits, n=100) if len(waits) > 1 else [0.0] * 99
    ends = {seed: job["ended"] or seen["now"] for seed, job in device.items()}
    stopped = stops(crowd, device, ends)
    count = {n: crowd.ends[n] for n in ("done", "cancelled", "vanished", "refused", "lost", "strokes")}
    own = {"jobs": sum(v for n, v in count.items() if n != "strokes")} | count
    own |= {"overlapped": seen["overlapped"], "crossed": len(crowd.crossed), "forwards": seen["forwards"]}
    own |= {"p50_wait_s": round(centiles[49], 2), "p95_wait_s": round(centiles[94], 2)}
    for seed, (whole, *stages) in sorted(stopped.items(), key=lambda found: -found[1][0])[:5]:
        told = "heard after {:.2f}, then a step of {:.2f}, then out after {:.2f}".format(*stages)
        print(f"job {seed} stopped after {whole:.2f} s: {told}", file=sys.stderr)
    worst = [round(max(times, default=0.0), 2) for times in zip(*stopped.values(), strict=True)] or [0.0] * 4
    names = "stopped_within_s", "heard_within_s", "stepped_within_s", "out_within_s"
    return own | dict(zip(names, worst, strict=True)) | {"slowest_step_s": round(seen["slowest"], 2)}


def stops(crowd: Crowd, device: dict[int, Any], ends: dict[int, float]) -> dict[int, tuple[float, ...]]:
    """A cancelled job's seed → seconds from the visitor's word until the device is free, and of these until the job
    hears it, until its step is done, and until it is out."""
    out = {}
    for seed, at in crowd.stopped.items():
        if (job := device.get(seed)) is None or ends[seed] <= at:
            continue
        heard = min(max(at, job["told"] or at), ends[seed])
        stepped = min(max(heard, job["last"] or heard), ends[seed])
        out[seed] = ends[seed] - at, heard - at, stepped - heard, ends[seed] - stepped
    return out
