"""The hub: downloads from a hub on loopback into the client's own cache."""

import os
import random
import shutil
import socket
from collections import namedtuple

import pytest
from fakehub import COMMIT, FakeHub, sums
from huggingface_hub import constants, snapshot_download

from engine.checkpoints import hub as module
from engine.checkpoints.hub import Source, fetch, where
from engine.requests import EngineError, Progress, result

BIG = random.Random(7).randbytes(3_000_000)
SMALL = b'{"a": 1}'
WEIGHTS, CONFIG = "unet/model.safetensors", "unet/config.json"
SOURCE = Source(("a/one",), (CONFIG, WEIGHTS))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TICK", 0.0)  # an event for every piece
    monkeypatch.setattr(module, "SILENCE", 0.5)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with FakeHub(tmp_path / "repos") as it:
        monkeypatch.setattr(constants, "ENDPOINT", it.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", it.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
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
    assert " must " in text and "got " in text and "\n" not in text and "Traceback" not in text
    return text


def some(source):
    """Fetches until a part is here, stops, and gives the last event."""
    job = fetch(source, "sd15")
    last = next(event for event in job if event.fraction > 0.3)
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
    # the cache is the client's own: it finds all of it there
    assert snapshot_download("a/one", cache_dir=tmp_path / "cache", local_files_only=True) == str(folder)


def test_of_alternatives_the_first_there_is_and_optional_ones_may_be_absent(hub):
    hub.add("a/both", {"x.fp16.safetensors": b"16", "x.safetensors": b"32"})
    hub.add("a/plain", {"x.safetensors": b"32", "extra.json": b"{}"})
    files = ("x.fp16.safetensors|x.safetensors", "extra.json?")
    for repo, has in (("a/both", ["x.fp16.safetensors"]), ("a/plain", ["extra.json", "x.safetensors"])):
        folder = whole(Source((repo,), files))[1]
        assert sorted(p.name for p in folder.iterdir()) == has


def test_a_model_without_its_optional_file_is_whole_only_if_there_is_none(hub):
    source = Source(("a/one",), (CONFIG, WEIGHTS + "?"))
    some(source)
    assert where(source) is None
    assert (whole(source)[1] / WEIGHTS).read_bytes() == BIG


def test_the_mirror_is_taken_and_the_first_repository_is_preferred(hub):
    source = Source(("gone/gone", "a/one"), SOURCE.files)
    folder = whole(source)[1]
    assert "models--a--one" in str(folder) and where(source) == folder
    hub.add("gone/gone", {CONFIG: SMALL, WEIGHTS: BIG})
    whole(Source(("gone/gone",), SOURCE.files))
    assert "models--gone--gone" in str(where(source))


def test_what_is_gated_says_how_to_open_it_and_its_mirror_is_taken(hub):
    some(SOURCE)
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
    assert "gone/gone, gone/too" in text and "no such repository" in text


def test_no_network_offline_and_a_hub_that_fails(hub, monkeypatch):
    hub.fail = 503
    assert "answer 503" in refused(SOURCE) and hub.asked
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://127.0.0.1:{s.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        text = refused(Source(("a/one", "b/mirror"), SOURCE.files))
    assert "no answer" in text and address in text and "a/one, b/mirror" in text and "network" in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(SOURCE)


def test_a_stopped_download_goes_on_where_it_stopped(hub, tmp_path):
    last = some(SOURCE)
    assert "of 3.0 MB" in last.doing
    part = tmp_path / "cache/models--a--one/blobs" / (sums(BIG)["sha256"] + ".incomplete")
    size = part.stat().st_size
    assert 900_000 <= size < 3_000_000 and BIG.startswith(part.read_bytes())
    assert where(SOURCE) is None  # though the configuration is whole
    events, folder = whole(SOURCE)
    assert hub.gets(WEIGHTS) == [0, size] and (folder / WEIGHTS).read_bytes() == BIG and not part.exists()
    assert next(e for e in events if "MB" in e.doing).fraction >= 0.99 * size / 3_000_000


def test_two_who_want_the_same_file_fetch_it_once(hub):
    one, two = fetch(SOURCE, "sd15"), fetch(SOURCE, "sd15")
    while next(one).fraction < 0.3:
        pass
    while next(two).fraction == 0:  # it sees what the other one brings
        pass
    assert result(one) == result(two) == where(SOURCE)
    assert hub.gets(WEIGHTS) == [0]


def test_a_cut_connection_is_taken_up_again_and_so_is_a_silent_one(hub):
    hub.cut[WEIGHTS], hub.stall[WEIGHTS] = [1_000_000], 2_000_000
    hub.reset.add(WEIGHTS)
    job = fetch(SOURCE, "sd15")
    while not hub.stalled.is_set():
        next(job)
    hub.stall.clear()
    assert (result(job) / WEIGHTS).read_bytes() == BIG
    first, second, third = hub.gets(WEIGHTS)
    assert first == 0 < second <= 1_000_000 < third <= 2_000_000


def test_a_connection_that_breaks_for_good_keeps_what_came(hub, tmp_path):
    hub.cut[WEIGHTS] = [1_000_000]
    hub.ill.add(WEIGHTS)
    text = refused(SOURCE)
    assert "answer 500" in text and "ask again" in text and "a/one" in text
    kept = (tmp_path / "cache/models--a--one/blobs" / (sums(BIG)["sha256"] + ".incomplete")).stat().st_size
    assert 0 < kept <= 1_000_000 and where(SOURCE) is None
    hub.ill.clear()
    hub.cut[WEIGHTS] = [0] * module.TRIES
    assert "a broken connection (RemoteProtocolError)" in refused(SOURCE)
    assert (whole(SOURCE)[1] / WEIGHTS).read_bytes() == BIG
    assert hub.gets(WEIGHTS) == [0] + [kept] * (module.TRIES + 2)


def test_the_token_is_shown_to_the_hub_and_to_no_other_host(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_nobodys")
    whole(SOURCE)
    assert hub.told == {"127.0.0.1"} and hub.gets(WEIGHTS) == [0]


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_wrong_bytes_are_refused_and_thrown_away(hub, name):
    hub.wrong.add(name)
    text = refused(SOURCE)
    assert "checksum" in text and name in text and where(SOURCE) is None
    hub.wrong.clear()
    assert (whole(SOURCE)[1] / WEIGHTS).read_bytes() == BIG and hub.gets(name) == [0, 0]


def test_a_full_disk_is_seen_before_anything_is_written(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    text = refused(SOURCE)
    assert "3.0 MB free" in text and "got 1.0 MB" in text and str(tmp_path / "cache") in text
    assert not hub.gets(WEIGHTS) and not hub.gets(CONFIG)


def test_a_folder_that_cannot_be_written_is_named(hub, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".locks").write_text("a file in the way")
    assert f"folder {tmp_path / 'cache'} must have room and be writable" in refused(SOURCE)


def test_links_are_made_where_they_are_allowed_only(hub, monkeypatch):
    monkeypatch.setattr(module.Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError("a privilege is missing")))
    folder = whole(SOURCE)[1]
    assert (folder / WEIGHTS).read_bytes() == BIG and not (folder / WEIGHTS).is_symlink()


@pytest.mark.parametrize("name", ["unet/model.bin", "x.CKPT", "a.safetensors|b.pt?", "../x.safetensors", "/etc/passwd"])
def test_pickles_and_ways_out_are_refused(name):
    with pytest.raises(EngineError, match="pickle"):
        Source(("a/one",), (name,))


def test_a_pickle_is_fetched_only_where_the_source_says_that_it_is_read_as_tensors(hub):
    assert (whole(Source(("a/one",), ("unet/model.bin",), pickled=True))[1] / "unet/model.bin").is_file()
    with pytest.raises(EngineError, match="path within"):
        Source(("a/one",), ("../x.bin",), pickled=True)


def test_the_words_of_progress(monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", lambda: 10.0)
    assert module._say(800_000_000, 2_100_000_000, 9.5, 0) == "0.8 of 2.1 GB" and module._gb(1_500_000) == "1.5 MB"
    assert module._say(100, 500, 0.0, 0) == "0.0 of 0.0 MB, about 45 s left"
    assert module._say(100, 6100, 0.0, 0).endswith(", about 10 min left")
    assert module._say(50, 500, 0.0, 50).endswith("MB") and module._say(500, 500, 0.0, 50).endswith(", checking")


def test_parts_that_nobody_goes_on_with_do_not_stay_for_ever(hub, tmp_path):
    """Those of files that the hub has no longer; the one that is wanted is gone on with, and others' are theirs."""
    some(SOURCE)
    blobs = tmp_path / "cache/models--a--one/blobs"
    (other := tmp_path / "cache/models--another--program/blobs").mkdir(parents=True)
    for folder, name in ((blobs, "0" * 64), (blobs, "1" * 64), (other, "2" * 64)):
        (folder / f"{name}.incomplete").write_bytes(b"half")
    for part in (*blobs.glob("*.incomplete"), *other.iterdir()):
        if part.name[0] != "1":
            os.utime(part, (1, 1))
    whole(SOURCE)
    left = {p.name[0] for p in tmp_path.rglob("*.incomplete")}
    assert hub.gets(WEIGHTS)[-1] > 0 and left == {"1", "2"}


def test_a_part_that_is_too_long_is_begun_anew(hub, tmp_path):
    some(SOURCE)
    (part := next(tmp_path.rglob("*.incomplete"))).write_bytes(bytes(4_000_000))
    _, folder = whole(SOURCE)
    assert (folder / WEIGHTS).read_bytes() == BIG and not part.exists()
