"""The cache on disk: content keys, bounds, two writers at once, a death in the middle, folders that fail."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from engine.jobs.cache import Cache

# A fork of this process would take torch's threads half along; of one that has only imported it, none.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["engine.jobs.cache"])


def tensors(value=0.0, n=1000):
    return {"x": torch.full((n,), value)}


def put(cache, key, value=0.0, n=1000, kind="lora"):
    cache.put(kind, key, tensors(float(value), n), f"about {key}")


def test_what_is_put_comes_back_and_nothing_else(tmp_path):
    cache = Cache(tmp_path / "not yet there")
    assert cache.get("lora", "a") is None and cache.items() == []
    put(cache, ("a", 1), 3.0)
    assert torch.equal(cache.get("lora", ("a", 1))["x"], torch.full((1000,), 3.0))
    assert cache.get("lora", ("a", 2)) is None and cache.get("lora", ("a", 1.0)) is None
    put(cache, ("a", 1), 4.0)
    assert float(cache.get("lora", ("a", 1))["x"][0]) == 4 and len(cache.items()) == 1
    item = cache.items()[0]
    assert (item.kind, item.about) == ("lora", "about ('a', 1)") and item.size > 4000


def test_the_least_recently_used_leave(tmp_path):
    cache = Cache(tmp_path, limit=20_000)
    for i in range(4):
        put(cache, i, i)
        os.utime(cache._path("lora", i), (i, i))
    assert cache.get("lora", 0) is not None  # used just now
    put(cache, 4)
    assert cache.get("lora", 0) is not None and cache.get("lora", 1) is None and cache.get("lora", 3) is not None
    assert sum(i.size for i in cache.items()) <= 20_000


def test_what_is_quickest_to_make_again_leaves_first(tmp_path):
    cache = Cache(tmp_path, limit=20_000)
    for n, kind in enumerate(("lora", "inversion", "features", "features")):
        put(cache, n, kind=kind)
    put(cache, 9, kind="features")
    assert [i.kind for i in cache.items()].count("features") == 2
    put(cache, 10), put(cache, 11), put(cache, 12)
    assert [i.kind for i in cache.items()] == ["lora"] * 4


def test_one_entry_may_not_drive_out_all_others(tmp_path):
    cache = Cache(tmp_path, limit=20_000)
    put(cache, "small")
    put(cache, "large", n=3000)
    assert cache.get("lora", "large") is None and cache.get("lora", "small") is not None


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * len(b)])
def test_a_broken_file_is_no_entry_and_goes(tmp_path, spoil):
    cache = Cache(tmp_path)
    put(cache, "a")
    path = cache._path("lora", "a")
    path.write_bytes(spoil(path.read_bytes()))
    assert cache.items()[0].kind == "broken"
    assert cache.get("lora", "a") is None and not path.exists()


def _write(folder, value, rounds):
    cache = Cache(folder)
    for _ in range(rounds):
        put(cache, "shared", value, 50_000)


def test_two_writers_at_once_leave_one_whole_entry(tmp_path):
    writers = [FORKS.Process(target=_write, args=(tmp_path, float(v), 40)) for v in (1, 2)]
    for w in writers:
        w.start()
    cache, seen = Cache(tmp_path), 0
    while any(w.is_alive() for w in writers):
        if found := cache.get("lora", "shared"):
            assert found["x"].unique().numel() == 1  # never half of one and half of the other
            seen += 1
    for w in writers:
        w.join()
    assert seen and [w.exitcode for w in writers] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_death_in_the_middle_leaves_what_was_there(tmp_path):
    _write(tmp_path, 1.0, 1)
    writer = FORKS.Process(target=_write, args=(tmp_path, 2.0, 10_000))
    writer.start()
    until = time.monotonic() + 60
    while not list(tmp_path.glob("*.part")) and time.monotonic() < until:
        pass  # until it is in the middle of writing
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    cache = Cache(tmp_path)
    assert cache.get("lora", "shared")["x"].unique().numel() == 1
    left = tmp_path / "dead.1-aa.part"
    left.write_bytes(b"half")
    put(cache, "b")
    assert left.exists()  # somebody may still be writing it
    os.utime(left, (1, 1))
    put(cache, "c")
    assert not left.exists()


def test_folders_that_fail(tmp_path):
    cache = Cache("/proc/no-room-here")
    put(cache, "a")
    assert (
        "the cache folder must be writable" in cache.trouble and cache.get("lora", "a") is None and cache.clear() == 0
    )
    (tmp_path / "file").write_text("no folder")
    cache = Cache(tmp_path / "file")
    put(cache, "a")
    assert cache.trouble and cache.get("lora", "a") is None
    full = Cache("/dev/full")
    put(full, "a")
    assert full.trouble


def test_clear(tmp_path):
    cache = Cache(tmp_path)
    put(cache, 1), put(cache, 2)
    assert cache.clear() == 2 and cache.items() == []
