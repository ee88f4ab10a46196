"""The hub: the real client in its own process against a hub on loopback."""

import errno
import os
import random
import shutil
import socket
import subprocess
import sys
from collections import namedtuple

import pytest
from fakehub import COMMIT, FakeHub, sums

from engine.checkpoints import hub as module
from engine.checkpoints.hub import Source, fetch, where
from engine.requests import EngineError, Progress, result

BIG = random.Random(7).randbytes(3_000_000)
SMALL = b'{"a": 1}'
WEIGHTS, CONFIG = "unet/model.safetensors", "unet/config.json"
SOURCE = Source(("a/one",), (CONFIG, WEIGHTS))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with FakeHub(tmp_path / "repos") as it:
        monkeypatch.setenv("HF_ENDPOINT", it.url)
        it.add("a/one", {CONFIG: SMALL, WEIGHTS: BIG, "unet/model.bin": b"a pickle" * 20_000})
        yield it


def whole(source, name="sd15"):
    """All events, and the folder."""
    events, job = [], fetch(source, name)
    try:
        while True:
            events.append(next(job))
    except StopIteration as end:
        return events, end.value


def refused(source, name="sd15"):
    with pytest.raises(EngineError) as e:
        whole(source, name)
    text = str(e.value)
    assert "sd15" in text and " must " in text and "got " in text and "\n" not in text and "Traceback" not in text
    return text


def until_it_stalls(hub, job):
    """Goes on until the hub waits and the events say that as much as is on the way came; closes; the last event."""
    last = None
    for last in job:
        if hub.stalled.is_set() and last.fraction > 0.3:
            break
    job.close()
    return last


def test_fetch_brings_the_named_files_and_asks_nobody_again(hub, tmp_path):
    assert where(SOURCE) is None
    events, folder = whole(SOURCE)
    assert folder == where(SOURCE) == tmp_path / "cache/models--a--one/snapshots" / COMMIT
    assert (folder / WEIGHTS).read_bytes() == BIG and (folder / CONFIG).read_bytes() == SMALL
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["config.json", "model.safetensors"]
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert all(isinstance(e, Progress) and "sd15" in e.doing for e in events)
    asked = len(hub.asked)
    assert whole(SOURCE) == ([], folder) and len(hub.asked) == asked
    assert not [a for a in hub.asked if a[1].endswith(".bin")] and len(hub.gets(WEIGHTS)) == 1
    from huggingface_hub import snapshot_download  # the cache is the client's own: it finds all of it there

    assert snapshot_download("a/one", cache_dir=tmp_path / "cache", local_files_only=True) == str(folder)


def test_of_alternatives_the_first_there_is_and_optional_ones_may_be_absent(hub):
    hub.add("a/both", {"x.fp16.safetensors": b"16", "x.safetensors": b"32"})
    hub.add("a/plain", {"x.safetensors": b"32", "extra.json": b"{}"})
    files = ("x.fp16.safetensors|x.safetensors", "extra.json?")
    for repo, has in (("a/both", ["x.fp16.safetensors"]), ("a/plain", ["extra.json", "x.safetensors"])):
        folder = whole(Source((repo,), files))[1]
        assert sorted(p.name for p in folder.iterdir()) == has


def test_a_model_without_its_optional_file_is_whole_only_if_there_is_none(hub):
    hub.stall[WEIGHTS] = 2_000_000
    source = Source(("a/one",), (CONFIG, WEIGHTS + "?"))
    until_it_stalls(hub, fetch(source, "sd15"))
    assert where(source) is None
    hub.release.set()
    assert (whole(source)[1] / WEIGHTS).read_bytes() == BIG


def test_the_mirror_is_taken_and_the_first_repository_is_preferred(hub):
    source = Source(("gone/gone", "a/one"), SOURCE.files)
    folder = whole(source)[1]
    assert "models--a--one" in str(folder) and where(source) == folder
    hub.add("gone/gone", {CONFIG: SMALL, WEIGHTS: BIG})
    whole(Source(("gone/gone",), SOURCE.files))
    assert "models--gone--gone" in str(where(source))


def test_what_is_gated_says_how_to_open_it_and_its_mirror_is_taken(hub):
    hub.stall[WEIGHTS] = 2_000_000
    until_it_stalls(hub, fetch(SOURCE, "sd15"))
    hub.release.set()
    hub.gated.add("a/one")  # its terms came when a part was here already
    text = refused(Source(("a/one", "gone/gone"), SOURCE.files))
    assert "https://huggingface.co/a/one" in text and "`hf auth login`" in text and "gone/gone" in text
    assert where(SOURCE) is None
    hub.add("b/mirror", {CONFIG: SMALL, WEIGHTS: BIG})
    events, folder = whole(Source(("a/one", "b/mirror"), SOURCE.files))
    assert (folder / WEIGHTS).read_bytes() == BIG
    fractions = [e.fraction for e in events]  # the mirror begins from nothing, and the bar stays where it was
    assert fractions == sorted(fractions) and any(0.3 < f < 0.9 for f in fractions)


def test_what_is_not_there_is_named(hub):
    text = refused(Source(("a/one", "gone/gone"), (CONFIG, "vae/x.safetensors|vae/y.safetensors")))
    assert "vae/x.safetensors or vae/y.safetensors in a/one" in text and "gone/gone" in text
    assert not hub.gets(CONFIG)
    text = refused(Source(("gone/gone", "gone/too"), SOURCE.files))
    assert "gone/gone or gone/too" in text and "no such repository" in text
    assert "no such version" in refused(Source(("a/one",), SOURCE.files, "v9"))


def test_no_network_offline_and_a_hub_that_fails(hub, monkeypatch):
    hub.fail = 503
    assert "answer 503" in refused(SOURCE) and hub.asked
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://127.0.0.1:{s.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        text = refused(Source(("a/one", "b/mirror"), SOURCE.files))
    assert "no answer" in text and address in text and "a/one or b/mirror" in text and "network" in text
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused(SOURCE)


def test_a_stopped_download_goes_on_where_it_stopped(hub, tmp_path, monkeypatch):
    hub.stall[WEIGHTS] = 2_000_000
    monkeypatch.chdir(tmp_path)  # and from a folder that has an `engine` of its own
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise SystemExit('not this one')")
    last = until_it_stalls(hub, fetch(SOURCE, "sd15"))
    assert "of 3.0 MB" in last.doing
    part = tmp_path / "cache/models--a--one/blobs" / (sums(BIG)["sha256"] + ".incomplete")
    size = part.stat().st_size
    assert 900_000 <= size <= 2_000_000 and BIG.startswith(part.read_bytes())
    assert where(SOURCE) is None  # though the configuration is whole
    hub.release.set()
    events, folder = whole(SOURCE)
    assert hub.gets(WEIGHTS) == [0, size] and (folder / WEIGHTS).read_bytes() == BIG and not part.exists()
    first = next(e for e in events if "MB" in e.doing)
    assert first.fraction >= 0.99 * size / 3_000_000


def test_closing_ends_the_process_and_so_does_the_end_of_the_studio(hub, monkeypatch):
    started, popen = [], subprocess.Popen

    def keep(*a, **k):
        started.append(popen(*a, **k))
        return started[-1]

    monkeypatch.setattr(module.subprocess, "Popen", keep)
    hub.stall[WEIGHTS] = 2_000_000
    until_it_stalls(hub, fetch(SOURCE, "sd15"))
    assert started[0].returncode is not None
    job = fetch(SOURCE, "sd15")
    for _ in job:
        if len(hub.gets(WEIGHTS)) == 2:
            break
    started[1].stdin.close()  # what the system does when the studio is killed
    assert started[1].wait(20) == 1
    job.close()


def test_two_who_want_the_same_file_fetch_it_once(hub):
    hub.stall[WEIGHTS] = 2_000_000
    one, two = fetch(SOURCE, "sd15"), fetch(SOURCE, "sd15")
    for _ in one:
        if hub.stalled.is_set():
            break
    while next(two).fraction == 0:  # it sees what the other one brings
        next(one)
    hub.release.set()
    assert result(one) == result(two) == where(SOURCE)
    assert hub.gets(WEIGHTS) == [0]


def test_a_cut_connection_is_taken_up_again(hub):
    hub.cut[WEIGHTS] = [1_000_000]
    folder = whole(SOURCE)[1]
    assert (folder / WEIGHTS).read_bytes() == BIG
    first, second = hub.gets(WEIGHTS)
    assert first == 0 < second <= 1_000_000


def test_a_connection_that_breaks_for_good_keeps_what_came(hub, tmp_path):
    hub.cut[WEIGHTS] = [1_000_000]
    hub.ill.add(WEIGHTS)
    text = refused(SOURCE)
    assert "answer 500" in text and "ask again" in text and "a/one" in text
    kept = (tmp_path / "cache/models--a--one/blobs" / (sums(BIG)["sha256"] + ".incomplete")).stat().st_size
    assert 0 < kept <= 1_000_000 and where(SOURCE) is None
    hub.ill.clear()
    hub.cut[WEIGHTS], hub.reset = [1_000_000], {WEIGHTS}
    assert "a broken connection (ConnectionResetError)" in refused(SOURCE)
    folder = whole(SOURCE)[1]
    assert (folder / WEIGHTS).read_bytes() == BIG
    starts = hub.gets(WEIGHTS)
    assert starts[:3] == [0, kept, kept] and kept <= starts[3] and len(starts) == 4


def test_the_token_is_shown_to_the_hub_and_to_no_other_host(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_nobodys")
    whole(SOURCE)
    assert hub.told == {"127.0.0.1"} and hub.gets(WEIGHTS) == [0]


def test_wrong_bytes_are_refused_and_thrown_away(hub):
    hub.wrong.add(WEIGHTS)
    text = refused(SOURCE)
    assert "checksum" in text and WEIGHTS in text and where(SOURCE) is None
    hub.wrong.clear()
    assert (whole(SOURCE)[1] / WEIGHTS).read_bytes() == BIG and hub.gets(WEIGHTS) == [0, 0]


def test_a_full_disk_is_seen_before_anything_is_written(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")

    def nearly_full(path):
        assert not hub.served.wait(0.5), "the download did not wait for the disk to be looked at"
        return usage(10**9, 10**9 - 10**6, 10**6)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    text = refused(SOURCE)
    assert "3.0 MB free" in text and "got 1.0 MB" in text and str(tmp_path / "cache") in text
    assert not hub.gets(WEIGHTS) and not hub.gets(CONFIG)


def test_a_disk_that_fills_and_a_folder_that_cannot_be_written_are_told_apart():
    try:
        raise RuntimeError("the client's own") from OSError(errno.ENOSPC, "No space left on device")
    except RuntimeError as e:
        assert module._kind(e, started=True) == ("full", "")
    kind, text = module._kind(PermissionError(errno.EACCES, "Permission denied", "/x/y"), started=True)
    assert kind == "write" and "/x/y" in text
    assert module._kind(NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/y"))[0] == "write"
    assert module._kind(ConnectionResetError(errno.ECONNRESET, "reset"), started=True)[0] == "broken"


def test_the_cache_is_where_huggingface_hub_looks(monkeypatch, tmp_path):
    """Against the client's own constants, each in a fresh process."""
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    code = "import importlib.util as u, sys; s = u.spec_from_file_location('c', sys.argv[1]); "
    code += "m = u.module_from_spec(s); s.loader.exec_module(m); print(m.HF_HUB_CACHE)"
    import huggingface_hub.constants

    for given in ({}, {"XDG_CACHE_HOME": "/x"}, {"HF_HOME": "~/h"}, {"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/l"},
                  {"HF_HOME": "/h", "HF_HUB_CACHE": "$HOME/c"}):  # fmt: skip
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        theirs = subprocess.run(
            [sys.executable, "-S", "-c", code, huggingface_hub.constants.__file__], env=os.environ, text=True,
            capture_output=True, check=True,
        )  # fmt: skip
        assert str(module.cache()) == theirs.stdout.strip()


@pytest.mark.parametrize("name", ["unet/model.bin", "x.CKPT", "a.safetensors|b.pt?", "../x.safetensors", "/etc/passwd"])
def test_pickles_and_ways_out_are_refused(name):
    with pytest.raises(EngineError, match="pickle"):
        Source(("a/one",), (name,))


def test_a_pickle_is_fetched_only_where_the_source_says_that_it_is_read_as_tensors(hub):
    assert (whole(Source(("a/one",), ("unet/model.bin",), pickled=True))[1] / "unet/model.bin").is_file()
    with pytest.raises(EngineError, match="path within"):
        Source(("a/one",), ("../x.bin",), pickled=True)


def test_the_words_of_progress():
    from collections import deque

    assert module._size(800_000_000, 2_100_000_000) == "0.8 of 2.1 GB" and module._gb(1_500_000) == "1.5 MB"
    assert module._left(deque([(0.0, 0), (10.0, 100)]), 500) == ", about 40 s left"
    assert module._left(deque([(0.0, 0), (10.0, 100)]), 6100) == ", about 10 min left"
    assert module._left(deque([(0.0, 50), (10.0, 50)]), 500) == "" and module._left(deque([(0.0, 0)]), 5) == ""
