"""Killed at any moment, full disks, clocks set back, folders gone: what is finished is whole or absent, the next job
works."""

import contextlib
import errno
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import traceback
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import done, make_network, picture
from fakehub import FakeHub
from huggingface_hub import constants
from PIL import Image

import engine.__main__ as cli
from engine.checkpoints.hub import Source, fetch, where
from engine.checkpoints.manager import Memo
from engine.diffusion import mapped
from engine.diffusion.graph_files import GraphFiles
from engine.jobs import enlarge
from engine.jobs.cache import ABANDONED, Cache
from engine.requests import Done, EditRequest, EngineError, MorphRequest, Preview
from engine.requests.finish import Finish
from engine.vision import aside, video
from engine.vision.film import Film, save

KILLS, GROUP, SETTINGS = 40, 20, {"method": "morph", "seed": 1}
RNG = np.random.default_rng(0)
FRAMES = [Image.fromarray(RNG.integers(0, 256, (128, 128, 3), np.uint8)) for _ in range(2)]  # noise is long to write
WEIGHTS = {"x": torch.randn(300_000), "y": torch.randn(9)}


def films(out, form):
    return save(Film(FRAMES, Finish(format=form), SETTINGS, 8.0), out / f"film.{form}")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder for what passes."""
    (place := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


WRITERS = {
    "mp4": lambda out: films(out, "mp4"),
    "webp": lambda out: films(out, "webp"),
    "gif": lambda out: films(out, "gif"),
    "png": lambda out: video.save_png(FRAMES[0], out / "one.png", SETTINGS),
    "frames": lambda out: video.save_frames(FRAMES, out, SETTINGS),
    "zip": lambda out: video.save_zip(FRAMES, out / "all.zip", SETTINGS),
    "zip of results": lambda out: video.save_pngs([(p, SETTINGS) for p in FRAMES], out / "some.zip"),
}


def look_at(file):
    """Reads all of a file; raises for one that is not whole."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as z:
            assert z.testzip() is None and len(z.namelist()) == len(FRAMES) + 1
    elif file.suffix == ".mp4":
        with av.open(str(file)) as film:
            assert sum(1 for _ in film.decode(video=0)) >= len(FRAMES)
    else:
        with Image.open(file) as image:
            for n in range(getattr(image, "n_frames", 1)):
                image.seek(n)
                image.load()
    assert video.read_settings(file)["method"] == "morph"


def finished(out):
    return [f for f in sorted(out.iterdir()) if f.suffix != ".part"]


def fit(models, tiny, folder, seed=0):
    """A job that fits LoRAs and keeps them, with noises and features."""
    models.memo = Memo()
    ends = picture(seed, (64, 64)), picture(seed + 1, (64, 64))
    own = {
        "frames": 3,
        "steps": 4,
        "lora_steps": 4,
        "lora_draws": 1,
        "reschedule": False,
        "size": 64,
        "model": str(tiny),
    }
    return done(models, MorphRequest(ends, **own), Cache(folder) if folder else None)


def work(place, seed, models, tiny):
    """What the killed ones do: all that is ever written, in an order of their own, again and again."""
    todo = [lambda own=own: own(place / "out") for own in WRITERS.values()]
    todo += [lambda: fit(models, tiny, place / "cache", seed), lambda: keep(place), lambda: graph(place, seed)]
    while True:
        random.Random(seed).shuffle(todo)
        for own in todo:
            own()


def keep(place):
    Cache(place / "cache").put("lora", "one", WEIGHTS, "a rose")


def graph(place, seed):
    GraphFiles(place / "cache" / "graphs", "v").put(f"g{seed}", lambda folder: mapped.write(WEIGHTS, folder))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed by signals")
@pytest.mark.parametrize("group", range(KILLS // GROUP))
def test_killed_at_any_moment_all_is_whole_or_absent_and_the_next_job_works(models, tiny, tmp_path, temporary, group):
    for folder in ("out", "cache"):
        (tmp_path / folder).mkdir()
    models.load(str(tiny))
    for seed in range(group * GROUP, group * GROUP + GROUP):
        pid = os.fork()
        if not pid:
            try:
                work(tmp_path, seed, models, tiny)
            except BaseException:
                (tmp_path / "said").write_text(traceback.format_exc())
            finally:
                os._exit(1)
        time.sleep(random.Random(seed).uniform(0.02, 0.25))
        os.kill(pid, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert killed, (tmp_path / "said").read_text()  # it was at work to its end
        for file in finished(tmp_path / "out"):
            look_at(file)
        if (kept := Cache(tmp_path / "cache").get("lora", "one")) is not None:
            assert all(torch.equal(kept[n], t) for n, t in WEIGHTS.items())
        if found := GraphFiles(tmp_path / "cache" / "graphs", "v").get(f"g{seed}"):
            assert all(torch.equal(t, WEIGHTS[n]) for n, t in mapped.read(found).items())
        entries = [item.kind for item in Cache(tmp_path / "cache").items()]
        assert "broken" not in entries
    assert finished(tmp_path / "out") or entries or any((tmp_path / "cache").iterdir()), "nobody had come to anything"
    # An hour later, a day for films: what is half is gone, and all works as if nothing had been.
    for half in [*tmp_path.rglob("*.part"), *tmp_path.rglob("part-*"), *tmp_path.glob("temporary/*/passing/*")]:
        os.utime(half, (1, 1))
    for own in WRITERS.values():
        own(tmp_path / "out")
    graph(tmp_path, 999)
    keep(tmp_path)
    again = fit(models, tiny, tmp_path / "cache", group * GROUP)
    for file in tmp_path.glob("out/*"):
        look_at(file)
    halves = [*tmp_path.rglob("*.part"), *tmp_path.rglob("part-*"), *tmp_path.glob("temporary/*/passing/*")]
    assert halves == [] and not again.notes
    if not group:
        plain = fit(models, tiny, None, group * GROUP)
        assert [f.tobytes() for f in plain.frames] == [f.tobytes() for f in again.frames]


def alive(pid):
    return not os.waitpid(pid, os.WNOHANG)[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed by signals")
def test_killed_while_it_downloads_a_network_is_whole_or_absent_and_goes_on(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with FakeHub(tmp_path / "repos") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        resolving = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolving)
        repo = make_network(hub.folder / "a" / "one")
        (repo / "more.safetensors").write_bytes(random.Random(1).randbytes(2_000_000))
        names = sorted(p.relative_to(repo).as_posix() for p in repo.rglob("*") if p.is_file())
        source, hub.pace = Source(("a/one",), tuple(names)), 0.01
        kills = 0
        while (found := where(source)) is None:
            pid = os.fork()
            if not pid:
                try:
                    [*fetch(source, "one")]
                except BaseException:
                    (tmp_path / "said").write_text(traceback.format_exc())
                finally:
                    os._exit(1)
            begun = len(hub.asked)
            while not any("/resolve/" in path for _, path, _ in hub.asked[begun:]) and alive(pid):
                time.sleep(0.002)
            time.sleep(random.Random(kills).uniform(0, 0.2))
            assert not (tmp_path / "said").exists(), (tmp_path / "said").read_text()
            if alive(pid):
                kills += 1
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            for link in tmp_path.glob("cache/models--a--one/snapshots/*/**/*"):
                own = repo.joinpath(*link.relative_to(tmp_path).parts[4:])
                assert own.is_dir() or link.read_bytes() == own.read_bytes()  # what has its name is whole
        assert [*fetch(source, "one")] == []
        assert kills > 1 and any(hub.gets("more.safetensors")), "nobody was killed in the middle, or went on"
    assert not [*tmp_path.rglob("*.incomplete")]
    frames = done(models, EditRequest(FRAMES[0], steps=2, size=64, model=str(found), strength=0.5)).frames
    assert len(frames) == 1


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_costs_the_new_file_and_not_the_old(tmp_path, monkeypatch, kind):
    WRITERS[kind](tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def full(self, file, *_, **__):
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(shutil, "copyfile", lambda source, place: full(None, place))
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda z, *_: full(None, z.filename))
    with pytest.raises((OSError, TypeError), match=r"No space left|BytesIO"):
        WRITERS[kind](tmp_path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_what_the_command_line_writes_is_whole_or_what_was_there(tmp_path, monkeypatch):
    """Keypoints, LoRAs, a single larger picture, and the detail that is shown first."""
    settings = {f"pose_{side}": "new " * 9 for side in "ab"}
    result = Done((), settings, 1.0, 1, (), files={"lora-1.safetensors": b"new " * 9})
    jobs = [SimpleNamespace(verb="pose", out=None, json=[tmp_path / "a.json", tmp_path / "b.json"])]
    kept = {"out": None, "frames_dir": None, "zip": None, "lora_dir": tmp_path}
    jobs += [SimpleNamespace(verb="draw", **kept)]
    video.save_png(FRAMES[0], tmp_path / "new.bmp", SETTINGS)
    larger, preview = SimpleNamespace(paths=[tmp_path / "new.bmp"]), Preview(0, FRAMES[0])
    todo = [partial(save, path) for args in jobs for path, save in cli._writers(args, None, result) if path]
    todo += [lambda: enlarge.write_preview(preview, tmp_path / "preview.png")]
    todo += [lambda: enlarge.save(larger, tmp_path / "one.png", {}, 8.0, print)]
    names = {"a.json", "b.json", "lora-1.safetensors", "preview.png", "one.png", "new.bmp"}
    for name in names - {"new.bmp"}:
        (tmp_path / name).write_bytes(b"old")

    def full(file):
        with open(file, "wb") as f:
            f.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda path, _: full(path))
        patch.setattr(Path, "write_text", lambda path, *_, **__: full(path))
        patch.setattr(Image.Image, "save", lambda self, file, *_, **__: full(file))
        patch.setattr(shutil, "copyfile", lambda source, place: full(place))
        for act in todo:
            with contextlib.suppress(OSError, EngineError):
                act()
    assert {f.name for f in tmp_path.iterdir()} == names
    assert all((tmp_path / name).read_bytes() == b"old" for name in names - {"new.bmp"})
    for act in todo:
        act()
    assert not any((tmp_path / name).read_bytes() == b"old" for name in names) and len(todo) == 5


def test_a_full_disk_and_a_folder_that_can_only_be_read_cost_the_cache_alone(models, tiny, tmp_path, monkeypatch):
    plain = fit(models, tiny, None)
    for number in (errno.ENOSPC, errno.EROFS):

        def refuses(path, *_, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", refuses)
            found = fit(models, tiny, tmp_path)
            patch.setattr(mapped, "write", lambda tensors, folder: refuses(folder))
            files = GraphFiles(tmp_path / "graphs", "v")
            assert files.put("a", lambda folder: mapped.write(WEIGHTS, folder)) is None and files.trouble
        assert [f.tobytes() for f in found.frames] == [f.tobytes() for f in plain.frames]
        assert any(
            f"the cache folder must be writable, got {tmp_path}: {os.strerror(number)}" in n for n in found.notes
        )
        assert list(tmp_path.rglob("*.part")) == list(tmp_path.rglob("part-*")) == []
    cache = Cache(tmp_path)
    cache.put("lora", "one", WEIGHTS, "")
    monkeypatch.setattr(os, "utime", lambda *_: refuses(None))  # which can only be read
    assert cache.get("lora", "one") is not None and not cache.trouble


def test_a_clock_that_was_set_back_keeps_nothing_for_ever(tmp_path):
    size, ahead = WEIGHTS["x"].nbytes, time.time() + 10 * ABANDONED
    cache = Cache(tmp_path, int(4.5 * size))
    for n in range(4):
        cache.put("lora", n, WEIGHTS, "")
    left = tmp_path / "lora-aa.1-bb.part"
    left.write_bytes(b"half")
    graphs = GraphFiles(tmp_path / "graphs", "v")
    graphs.put("a", lambda folder: mapped.write(WEIGHTS, folder))
    (half := graphs.folder / "part-1-aa").mkdir()
    for old in (*tmp_path.glob("*.safetensors"), left, half):
        os.utime(old, (ahead, ahead))
    cache.put("lora", "new", WEIGHTS, "")  # it seems the oldest
    assert cache.get("lora", "new") is not None and len(cache.items()) == 4 and not left.exists()
    assert all(0 <= item.age < ABANDONED for item in cache.items())
    assert GraphFiles(tmp_path / "graphs", "v").get("a") and not half.exists()


def test_a_temporary_folder_that_is_gone_is_made_again_or_named(tmp_path, temporary):
    films(tmp_path, "mp4")
    (own,) = temporary.iterdir()
    shutil.rmtree(own)
    films(tmp_path, "mp4")
    assert own.stat().st_mode & 0o777 == 0o700  # and nobody else's
    shutil.rmtree(temporary)
    with pytest.raises(EngineError, match=r"TMPDIR must be a folder with room that can be written, got .*No such file"):
        films(tmp_path, "mp4")
    look_at(tmp_path / "film.mp4")
    temporary.mkdir()
    films(tmp_path, "mp4")
    look_at(tmp_path / "film.mp4")


def test_a_file_is_written_where_its_link_points_and_names_may_be_long(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "there" / "own.png")
    video.save_png(FRAMES[0], tmp_path / "link.png", SETTINGS)
    look_at(tmp_path / "there" / "own.png")
    with aside.aside(tmp_path / ("ü" * 120)) as part:
        part.write_bytes(b"whole")
    assert (tmp_path / ("ü" * 120)).read_bytes() == b"whole"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    """As /dev/null does, which a rename would replace."""
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with aside.aside(pipe) as part:
        part.write_bytes(b"whole")
    reader.join(20)
    assert got == [b"whole"] and pipe.is_fifo() and [*tmp_path.iterdir()] == [pipe]
