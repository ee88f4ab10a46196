"""The studio as a process of its own under a small crowd: nothing lost, nothing left; and that the figures can fail."""

import io
import threading
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks import soak
from benchmarks.crowd import SEEDS, Crowd, colour, corner, png
from benchmarks.tiny import make_flora
from benchmarks.watched import Watch


@pytest.mark.slow
def test_a_small_crowd_loses_nothing_and_leaves_nothing(tmp_path, capsys):
    """Of the jobs of this seed some end in each way; `python -m benchmarks soak` has more."""
    model = make_flora(tmp_path / "tiny")
    found = soak.measure(str(model), "cpu", jobs=60, visitors=8, seed=10)
    told = capsys.readouterr().err
    assert found["jobs"] == 60 and found["done"] > 5 and found["forwards"] > 50, told
    for kind in ("lost", "overlapped", "crossed", "files_left", "threads_left", "sessions_left", "tracebacks"):
        assert found[kind] == 0, (kind, found, told)
    assert found["cancelled"] and found["refused"] and found["strokes"] and found["free_at_the_end"], found
    assert found["health"]["networks"] == ["tiny"] and not found["health"]["running"]


def test_two_at_once_in_a_network_are_seen_and_one_inside_itself_is_not():
    watch, inside, go = Watch(), threading.Event(), threading.Event()

    def slow(deep=0):
        inside.set()
        return counted(deep - 1) if deep else go.wait(30)

    counted = watch.around(slow)
    first = threading.Thread(target=counted, args=(2,))
    first.start()
    inside.wait(30)
    graphs = threading.Thread(target=counted, name="graphs")
    graphs.start()  # which compiles a copy meanwhile
    while watch.forwards < 3:
        pass
    assert watch.overlapped == 0
    second = threading.Thread(target=counted)
    second.start()
    while watch.forwards < 4:
        pass
    assert watch.overlapped == 1
    go.set()
    for thread in (first, second, graphs):
        thread.join(30)
    assert not watch.inside


def test_the_result_of_another_is_seen():
    crowd = Crowd(SimpleNamespace(), "", 0)
    own, other = (png(Image.new("RGB", (8, 8), colour(n))) for n in (5, 6))
    crowd.check(5, own, 5 * SEEDS)
    assert not crowd.crossed
    crowd.check(5, other, 5 * SEEDS), crowd.check(5, own, 6 * SEEDS)
    assert len(crowd.crossed) == 2


def test_colours_are_all_different_and_stay_so_as_jpeg():
    assert len({colour(n) for n in range(4096)}) == 4096
    for n in range(0, 4096, 211):
        block = io.BytesIO()
        Image.new("RGB", (64, 64), colour(n)).save(block, "JPEG", quality=88)
        assert max(abs(a - b) for a, b in zip(corner(block.getvalue()), colour(n), strict=True)) <= 7


def test_what_is_left_is_told():
    assert soak.more(["a", "fetch", "AnyIO worker thread", "a"], ["a"]) == ["fetch", "a"]
    log = "Traceback\ngradio.exceptions.InvalidPathError: x\nTraceback\nKeyError"
    assert soak.bugs(log) == 1
