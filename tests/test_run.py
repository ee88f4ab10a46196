"""The envelope of every job, around methods that are written down here; and how all of it is handed on."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from conftest import done, events, picture

import engine.jobs.run as module
from engine.checkpoints.manager import Memo
from engine.context import Advance, Context, Output
from engine.diffusion.memory import Room
from engine.jobs.plan import plan, total
from engine.requests import (
    Done,
    EditRequest,
    EngineError,
    Frame,
    LoadRequest,
    PoseRequest,
    Preview,
    Progress,
)
from engine.requests.settings import Settings

CPU = torch.device("cpu")
GUIDE, SMALL = picture(0, (48, 32)), picture(1, (8, 8))
REQUEST = EditRequest(GUIDE, steps=10, strength=1.0, prompt="a rose")  # ten steps of two rows, one picture


class Manager:
    """A manager whose networks do nothing but see seven rows."""

    device, light = CPU, None

    def __init__(self):
        self.memo, self.room = Memo(), Room(CPU)

    def loading(self, name, wants):
        yield Progress(0.0, f"loading {name}")
        own = {"executor": "", "resident": SimpleNamespace(light=self.light)}
        return SimpleNamespace(room=self.room, evaluations=7, fingerprint="own", **own)


@pytest.fixture
def job(monkeypatch):
    """A job that runs a method, given as a function of its context."""

    def job(method, request=REQUEST, cache=None):
        monkeypatch.setitem(module.METHODS, type(request), lambda context, r: method(context))
        return module.run(Context(Manager(), cache), request)

    return job


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are told to."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "perf_counter", lambda: clock.now)
    return clock


def fractions(said):
    return [e.fraction for e in said if isinstance(e, Progress)]


def test_a_job_loads_works_and_is_done(job, clock):
    def method(context):
        assert context.evaluations == 7 and not torch.is_grad_enabled()
        yield Advance("walking", steps=5)
        clock.now += 3
        yield Frame(0, GUIDE)
        yield Advance("decoding", steps=5, decoded=1)
        return Output([GUIDE], {"plan": 1}, {"l2": 2.0}, ["a note"], {"a.txt": b"file"})

    said = list(job(method))
    assert [e.doing for e in said if isinstance(e, Progress)][2:] == ["walking", "decoding", "done"]
    assert fractions(said) == [0, 0, 10 / total(plan(REQUEST)), 0.999, 1] and total(plan(REQUEST)) == 23
    settings = REQUEST.settings() | {"plan": 1, "width": 48, "height": 32}
    assert said[-3:-2] == [Progress(0.999, "decoding")] and said[3] == Frame(0, GUIDE)
    assert said[-1] == Done((GUIDE,), settings, 3.0, 7, ("a note",), {"l2": 2.0}, {"a.txt": b"file"})


def test_progress_never_falls_and_is_whole_only_in_the_end(job):
    def method(context):
        for _ in range(30):
            yield Advance("doing more than was planned", steps=1)
        return Output([GUIDE])

    found = fractions(job(method))
    assert found == sorted(found) and max(found[:-1]) < 1 == found[-1]


def test_previews_are_made_now_and_then_of_the_first_candidate_of_each_frame(job, clock, monkeypatch):
    looked = []
    monkeypatch.setattr(Context, "look", lambda own, z, light: looked.append(z.flatten().tolist()) or [SMALL] * len(z))

    def method(context):
        z = torch.arange(4.0).view(4, 1, 1, 1)
        for seconds in (0.0, 0.1, 0.2, 0.05, 0.25):
            clock.now += seconds
            yield Advance("walking", frames=[2, 2, 5, 5], latents=z)
        yield Advance("walking", frames=[2, 5], pictures=[SMALL, GUIDE])  # which are there: told at once
        return Output([GUIDE])

    previews = [(e.index, e.picture) for e in job(method) if isinstance(e, Preview)]
    assert looked == [[0, 2]] * 3  # at 0, .3 and .6 seconds
    assert previews == [(2, SMALL), (5, SMALL)] * 3 + [(2, SMALL), (5, GUIDE)]


def test_the_light_decoder_is_looked_through_where_it_takes_a_tenth_at_most(job, clock, monkeypatch):
    looked, took = [], {2: 0.05, 3: 0.12}

    def look(own, z, light):
        looked.append((round(clock.now - 100, 2), light))
        clock.now += took[len(z)] if light else 0
        return [SMALL] * len(z)

    def method(context):
        for n in (2, 3):
            for _ in range(20):
                clock.now += 0.25
                yield Advance("walking", frames=range(n), latents=torch.zeros(n, 1, 1, 1))
        return Output([GUIDE])

    monkeypatch.setattr(Context, "look", look)
    monkeypatch.setattr(Manager, "light", True)
    list(job(method))
    early, late = [x for x in looked if x[0] <= 1.25], [x for x in looked if x[0] > 1.25]
    assert len(early) == 5 and not any(light for _, light in early)  # a job of a second is not made longer
    assert all(light for t, light in late if t < 5.3) and late[-1][0] - late[-9][0] < 2.5 and not late[-1][1]
    light = [t for t, light in looked if light]
    spent = sum(took[2 if t < 5.5 else 3] for t in light)
    assert spent <= 0.1 * (clock.now - 100) and min(b - a for a, b in pairwise(light)) >= 0.5


def test_a_job_that_is_closed_closes_its_method_and_leaves_the_grad_mode_alone(job):
    ended = []

    def method(context):
        try:
            yield Advance("walking")
            yield Advance("never")
        finally:
            ended.append(True)

    said = job(method)
    assert any(e == Progress(0.0, "walking") for e in said) and torch.is_grad_enabled()
    said.close()
    assert ended and list(said) == []


def test_a_lack_of_memory_is_a_sentence_and_other_errors_are_themselves(job):
    def fails(error):
        def method(context):
            yield Advance("walking")
            raise error

        return method

    sentence = "memory of cpu must hold the pictures of the job, got too little; choose a smaller size or fewer"
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("cannot allocate memory")):
        with pytest.raises(EngineError, match=sentence):
            list(job(fails(error)))
    for error in (RuntimeError("an illegal memory access"), EngineError("strength must be")):
        with pytest.raises(type(error), match=str(error)):
            list(job(fails(error)))


class Full:
    """A cache that cannot be written, whatever a job hopes."""

    def __init__(self, said):
        self.said = said

    graphs, trouble = "graphs", property(lambda self: self.said, lambda self, value: None)


def test_what_a_lack_of_memory_has_changed_is_told_once_and_stays_a_note(job):
    def method(context):
        for doing in ("one", "two"):
            yield Advance(doing)
            context.model.room.tell("it went on with 4 pictures a time")
        return Output([GUIDE], notes=["a note"])

    said, trouble = list(job(method, cache=Full("no cache"))), "memory of cpu ran out; it went on"
    told = [e.doing.startswith(trouble) for e in said if isinstance(e, Progress)]
    assert told == [False] * 4 + [True, False]  # between "two" and "done"
    assert [note[: len(trouble)] for note in said[-1].notes] == ["a note", trouble, "no cache"]


def test_people_are_looked_for_without_a_network(job):
    def method(context):
        assert context.evaluations == 0 and context.trouble == ""
        yield Frame(0, GUIDE)
        return Output([GUIDE])

    said = list(job(method, PoseRequest((GUIDE,))))
    assert [type(e) for e in said] == [Frame, Progress, Done] and said[-1].evaluations == 0


def test_loading_ahead_warms_up_and_makes_nothing(models, tiny):
    said = events(models, LoadRequest(str(tiny)))
    assert said[-1].frames == () and "width" not in said[-1].settings and said[-1].evaluations > 0
    assert any("warming" in e.doing for e in said[:-1])
    with pytest.raises(EngineError, match="model must be"):
        done(models, LoadRequest("nonsense"))


def test_a_runner_makes_networks_and_cache_once_when_the_first_job_comes(models, tiny, monkeypatch, tmp_path):
    made, settings = [], Settings(device="cpu", memory=3.0, paths=(str(tiny.parent),), cache=tmp_path, cache_gb=0.5)
    monkeypatch.setattr(module, "ModelManager", lambda *given, **more: made.append((given, more)) or models)
    monkeypatch.setattr(module, "Cache", lambda *given: made.append(given) or Full("full"))
    run = module.runner(settings)
    assert not made
    first, second = ([*run(LoadRequest(str(tiny)))][-1] for _ in "ab")
    assert first.evaluations == second.evaluations > 0 and first.notes == ("full",)  # a context a job
    own = {"memory": 3.0, "paths": settings.paths, "folders": (), "executor": settings.executor, "graphs": "graphs"}
    assert made == [(tmp_path, 500_000_000), (("cpu",), own)]


def test_what_a_job_has_to_fetch_is_fetched_beside_it(tiny, monkeypatch):
    from engine.jobs import fetch as fetching

    asked = []
    monkeypatch.setattr(fetching.resolve, "fetch", lambda needs: asked.extend(about for about, _ in needs) or iter(()))
    for wanted, request in (
        (set(), EditRequest(GUIDE, model=str(tiny))),
        ({"DWPose"}, PoseRequest((GUIDE,), model="sd15")),  # no network is at work
        ({"DWPose", "sd15", "ControlNet 1.1 canny"}, PoseRequest((GUIDE,), rescue="photo", model="sd15")),
    ):
        asked.clear()
        assert list(fetching.fetch(request, Settings())) == []
        assert set(asked) - {"quick previews (TAESD)"} == wanted
    with pytest.raises(EngineError, match="model must"):
        list(fetching.fetch(LoadRequest(str(tiny)), Settings(paths=())))
