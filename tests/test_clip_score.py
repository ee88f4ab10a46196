"""CLIP scores, on a tiny CLIP in open_clip's own folder format."""

import pytest
import torch
from checkpoints import cached
from conftest import done, events, make_network, picture

from benchmarks.tiny import make_clip
from engine.checkpoints.manager import ModelManager
from engine.checkpoints.resolve import CLIPS
from engine.context import Context
from engine.jobs.run import run
from engine.requests import EngineError, Frame, InterpolateRequest, Progress, result

PICTURES = [picture(i) for i in range(3)]


@pytest.fixture(scope="module")
def with_clip(tmp_path_factory):
    """A tiny network with a tiny CLIP of random weights beside it."""
    folder = make_network(tmp_path_factory.mktemp("clip") / "net")
    make_clip(folder / "clip", folder / "tokenizer")
    return folder


def ranker(models, model, which="clip"):
    context = Context(models)
    result(context.load(str(model), ()))
    return context.clip(which)


@pytest.fixture(scope="module")
def judge(with_clip, models):
    return ranker(models, with_clip)


def ask(model, **own):
    small = {"frames": 3, "steps": 4, "candidates": 4, "picker": "clip", "size": 64}
    return InterpolateRequest(*PICTURES[:2], **{"model": str(model)} | small | own)


def middle(models, request):
    return next(e for e in events(models, request) if isinstance(e, Frame) and e.index == 1)


def test_the_score_is_the_difference_of_cosines(judge):
    x, (good, bad) = judge.pictures(PICTURES), judge.texts(["a rose", "a weed"])
    assert torch.allclose(x.norm(dim=1), torch.ones(3), atol=1e-5)
    for words, expected in (
        (("a rose", "a weed"), x @ good - x @ bad),
        (("a rose",), x @ good),
        (({"a rose": 0.3, "a weed": 0.7},), 0.3 * (x @ good) + 0.7 * (x @ bad)),
    ):
        assert torch.allclose(judge.score(PICTURES, *words), expected, atol=1e-6)


def test_pictures_are_normalised_as_the_config_says(judge):
    """The published code forgot this (methods.md §1.6)."""
    grey = judge.prepare(PICTURES[0].convert("L").point(lambda v: 128).convert("RGB"))
    assert grey.shape == (3, 32, 32) and torch.allclose(grey, torch.tensor((128 / 255 - 0.5) / 0.25), atol=1e-3)


def test_the_best_scored_candidate_becomes_the_frame(models, with_clip, judge):
    frame = middle(models, ask(with_clip, rank_for="a rose", rank_against="a weed"))
    assert frame.chosen == int(judge.score(frame.candidates, "a rose", "a weed").argmax())


def test_words_of_both_pictures_count_by_the_place_and_without_any_the_papers_own(models, with_clip, judge):
    frame = middle(models, ask(with_clip, prompt="a rose", prompt_b="a daisy", negative="a weed"))
    scores = judge.score(frame.candidates, {"a rose": 0.5, "a daisy": 0.5}, "a weed")
    assert frame.chosen == int(scores.argmax())
    frame = middle(models, ask(with_clip, candidates=6))
    scores = judge.score(frame.candidates, "high quality, detailed, 2D", "blurry, distorted, 3D render")
    assert frame.chosen == int(scores.argmax())


def test_a_network_without_clip_says_so_before_any_work(models, tiny):
    job, seen = run(Context(models), ask(tiny, prompt="a rose")), []
    with pytest.raises(EngineError, match=r"CLIP ViT-L/14 must be fetched from the hub on first use .*got no answer"):
        seen.extend(job)
    assert all(isinstance(e, Progress) for e in seen)


@pytest.mark.parametrize("which", CLIPS)
def test_a_network_without_a_clip_takes_the_hubs(monkeypatch, tmp_path, tiny, with_clip, judge, which):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    models = ModelManager("cpu", torch.float32)
    with pytest.raises(EngineError, match=f"no {CLIPS[which].about} on this machine, got {which}"):
        ranker(models, tiny, which)
    cached(tmp_path, CLIPS[which].source, with_clip / "clip")
    scores = ranker(models, tiny, which).score(PICTURES, "a rose")
    assert torch.allclose(scores, judge.score(PICTURES, "a rose"))
    assert len(done(models, ask(tiny, prompt="a rose", picker=which)).frames) == 3
