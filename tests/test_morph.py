"""DiffMorpher on a tiny network: its laws, each bug of the published code (methods.md §2.2), the cache, bad luck."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture

from engine.diffusion import attention as hooks
from engine.diffusion import lora
from engine.jobs.cache import Cache
from engine.jobs.run import run
from engine.requests import Done, EngineError, Frame, MorphRequest, Preview, Progress, result
from engine.vision import images

method = sys.modules["engine.methods.morph"]
A, B, C = (picture(i) for i in range(3))


@pytest.fixture
def models(models, tmp_path):
    models.cache = Cache(tmp_path / "cache")
    return models


@pytest.fixture
def net(models, tiny):
    return models.load(str(tiny))


def ask(tiny, *pictures, **kw):
    small = {"model": str(tiny), "frames": 5, "steps": 6, "size": 64, "lora_steps": 3, "lora_rank": 3}
    return MorphRequest(pictures or (A, B), **small | kw)


def made(models, request):
    return list(run(models, request))


def difference(a, b):
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


def same(x, y, most=1e-9):
    return len(x) == len(y) and max(difference(p, q) for p, q in zip(x, y, strict=True)) <= most


def test_every_frame_comes_once_with_its_quality_and_loras(models, tiny):
    events = made(models, ask(tiny))
    frames = [e.index for e in events if isinstance(e, Frame)]
    assert sorted(frames) == [0, 1, 2, 3, 4] and frames[:2] == [0, 4]
    assert {e.index for e in events if isinstance(e, Preview)} >= {0, 4}
    for n, event in enumerate(events):  # what is finished does not become rough again
        if isinstance(event, Frame):
            assert not any(isinstance(e, Preview) and e.index == event.index for e in events[n:])
    fractions = [e.fraction for e in events if isinstance(e, Progress)]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    done = events[-1]
    assert isinstance(done, Done) and len(done.frames) == 5 and done.evaluations > 0
    assert set(done.quality) == {"length", "variance", "ends", "fade_length", "fade_variance"}
    assert sorted(done.files) == ["lora-1.safetensors", "lora-2.safetensors"]
    assert done.settings["method"] == "morph" and "pictures" not in done.settings


def test_same_request_same_pictures_and_another_seed_others(models, tiny):
    first = made(models, ask(tiny, lora_rate=0.05))[-1].frames
    models.cache.clear()
    assert same(first, made(models, ask(tiny, lora_rate=0.05))[-1].frames)
    assert not same(first, made(models, ask(tiny, lora_rate=0.05, seed=1))[-1].frames)


# -------------------------------------------------------------------------- what the published code gets wrong (§2.2)


@pytest.mark.parametrize(("share", "steps", "depth"), [(0.6, 50, 30), (0.6, 10, 6), (0.5, 7, 4), (0, 9, 0), (1, 6, 6)])
def test_lambda_counts_steps_whatever_their_number(models, tiny, net, share, steps, depth):
    """The published code has 50 · λ: another number of steps changes λ."""
    r = ask(tiny, attention=share, steps=steps)
    job = method._run(net, models, r, [images.fitted(p, (64, 48), "fit") for p in r.pictures])
    assert job.depth == depth


def test_lambda_reaches_the_sampler(models, tiny):
    """The published page passes it under another name, and the slider does nothing."""
    none, some, all_ = (made(models, ask(tiny, attention=x, reschedule=False))[-1].frames for x in (0.0, 0.5, 1.0))
    assert not same(none[1:-1], some[1:-1]) and not same(some[1:-1], all_[1:-1])
    assert same([none[0], none[-1]], [all_[0], all_[-1]])


def test_attention_is_mixed_at_just_the_first_steps(models, tiny, net):
    seen = []
    original = hooks.blended

    r = ask(tiny, steps=10, attention=0.6, reschedule=False, lora="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method.hooks, "blended", lambda n, f, own: seen.append(f) or original(n, f, own))
        made(models, r)
    levels = net.levels(10)
    assert {s for _, s in seen[0]} == set(levels[:6])
    assert {n for n, _ in seen[0]} == set(hooks.self_attentions(net.unet)) and len(seen[0]) > 0
    assert all(t.dtype == torch.float16 and t.shape[0] == 2 for t in seen[0].values())


def test_no_stale_lora_is_ever_served(models, tiny):
    """The published code looks LoRAs up by the folder's name: other pictures get the last ones' LoRAs."""
    made(models, ask(tiny, A, B))
    mixed = made(models, ask(tiny, A, C))[-1]
    models.cache.clear()
    fresh = made(models, ask(tiny, A, C))[-1]
    assert same(mixed.frames, fresh.frames, 0.01)
    for change in ({"prompt": "a rose"}, {"lora_rate": 0.02}, {"lora_steps": 4}, {"lora_rank": 2}, {"seed": 5}):
        before = len(models.cache.items())
        made(models, ask(tiny, A, C, **change))
        assert len(models.cache.items()) == before + 6, change  # a LoRA, a noise and features for each


def test_other_weights_under_the_same_name_are_other_entries(models, tiny, net):
    made(models, ask(tiny))
    before = len(models.cache.items())
    weight = net.unet.conv_in.weight
    own = net.__dict__.pop("fingerprint")
    with torch.no_grad():
        weight += 1e-3
    try:
        assert net.fingerprint != own
        made(models, ask(tiny))
        assert len(models.cache.items()) == 2 * before
    finally:
        with torch.no_grad():
            weight -= 1e-3
        net.__dict__["fingerprint"] = own


@pytest.mark.parametrize("steps", [4, 7, 23])
def test_any_number_of_steps(models, tiny, steps):
    assert len(made(models, ask(tiny, steps=steps))[-1].frames) == 5


def test_fitting_and_inversion_see_the_same_picture(models, tiny, net, monkeypatch):
    """The published code fits to an undistorted picture and inverts a squashed one."""
    fitted, walked = [], []
    fit, flow = lora.fit, method.flow
    monkeypatch.setattr(method.lora, "fit", lambda n, z, *rest: fitted.append(z) or fit(n, z, *rest))
    monkeypatch.setattr(method, "flow", lambda f, x, levels: walked.append((x, levels)) or flow(f, x, levels))
    wide, tall = picture(3, (120, 60)), picture(4, (60, 120))
    done = made(models, ask(tiny, wide, tall))[-1]
    x, levels = walked[0]
    assert levels[0] < levels[-1]  # rising: the inversion
    assert torch.equal(fitted[0], x)
    frames = [images.fitted(p, done.frames[0].size, "fit") for p in (wide, tall)]
    assert done.frames[0].size == (64, 32) and torch.allclose(net.encode(images.to_tensor(frames)), x, atol=1e-5)


def test_a_prompt_of_500_words(models, tiny):
    done = made(models, ask(tiny, prompt="rose " * 500))[-1]
    assert any("tokens too long" in n for n in done.notes)


def test_the_same_picture_twice(models, tiny):
    done = made(models, ask(tiny, A, A))[-1]
    assert max(difference(done.frames[0], f) for f in done.frames) < 2  # AdaIN's own ε, no more
    assert sum(i.kind == "lora" for i in models.cache.items()) == 1  # it is fitted once
    assert all(np.isfinite(v) for v in done.quality.values()) and list(done.files) == ["lora-1.safetensors"]


# -------------------------------------------------------------------------------------------------------- the method


def test_all_frames_at_once_are_each_alone(models, tiny, net):
    r = ask(tiny, frames=6, lora_rate=0.05)
    together = made(models, r)[-1].frames
    batch, net.batch = net.batch, 1
    try:
        alone = made(models, r)[-1].frames
    finally:
        net.batch = batch
    assert same(together, alone, 0.05)


def test_at_the_ends_the_way_is_the_pictures(models, tiny, net):
    r = ask(tiny, lora_rate=0.05)
    job = method._run(net, models, r, [images.fitted(p, (64, 48), "fit") for p in r.pictures])
    job.bank = lora.Bank.joined(result(method.fitted(job)))
    with torch.no_grad(), lora.attached(net, job.bank):
        noise, own = result(method.inverted(job))
        again, features = result(method.regenerated(job, noise, own))
        with hooks.blended(net, features):
            z = result(method.drawn(job, noise, [(0, 0.0), (0, 1.0)], job.levels, ""))
    assert torch.allclose(z, again, atol=0.02)  # features are kept in half precision


def test_inversion_and_denoising_come_back(models, tiny, net):
    """The more steps, the nearer."""
    errors = []
    for steps in (8, 100):
        r = ask(tiny, steps=steps, lora="none")
        job = method._run(net, models, r, [images.fitted(p, (64, 48), "fit") for p in r.pictures])
        with torch.no_grad():
            noise, own = result(method.inverted(job))
            again, _ = result(method.regenerated(job, noise, own))
        errors.append(float((again - job.z).square().mean()))
    assert errors[1] < 0.2 * errors[0]


def test_ablations_and_modes_differ(models, tiny):
    ways = {
        "whole": {}, "one mix": {"lora": "fixed"}, "another mix": {"lora": "fixed", "fix": 0.0},
        "no LoRA": {"lora": "none"},
        "no attention": {"attention": 0.0}, "half its own": {"own": 0.5}, "no AdaIN": {"adain": False},
        "factors": {"form": "factors"},
    }  # fmt: skip
    found = {n: made(models, ask(tiny, lora_rate=0.1, reschedule=False, **kw))[-1] for n, kw in ways.items()}
    names = list(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not same(found[one].frames[1:-1], found[other].frames[1:-1]), (one, other)
    assert not found["no LoRA"].files
    models.cache.clear()
    made(models, ask(tiny, lora="none"))
    assert {i.kind for i in models.cache.items()} == {"inversion", "features"}
    # Both forms are the same where one LoRA is alone.
    assert same([found["whole"].frames[0]], [found["factors"].frames[0]], 0.05)


def test_exact_ends(models, tiny):
    frames = made(models, ask(tiny, exact_ends=True))[-1].frames
    assert same([frames[0], frames[-1]], [images.fitted(p, frames[0].size, "fit") for p in (A, B)])


def test_a_timeline_counts_joints_once_and_fits_each_picture_once(models, tiny):
    done = made(models, ask(tiny, A, B, C, A))[-1]
    assert len(done.frames) == 3 * 4 + 1 and same([done.frames[0]], [done.frames[12]])
    assert sum(i.kind == "lora" for i in models.cache.items()) == 3
    assert sorted(done.files) == [f"lora-{i}.safetensors" for i in (1, 2, 3)]


def test_a_loop_goes_back_without_showing_its_first_picture_again(models, tiny):
    open_, closed = made(models, ask(tiny, A, B, C))[-1], made(models, ask(tiny, A, B, C, loop=True))[-1]
    assert (len(open_.frames), len(closed.frames)) == (9, 12)
    assert same(open_.frames[:9], closed.frames[:9], 0.05)
    events = [e.index for e in made(models, ask(tiny, A, B, loop=True)) if isinstance(e, Frame)]
    assert sorted(events) == list(range(8))


def test_more_frames_than_the_batch_holds(models, tiny, net):
    batch, net.batch = net.batch, 4
    try:
        frames = [e.index for e in made(models, ask(tiny, frames=11)) if isinstance(e, Frame)]
    finally:
        net.batch = batch
    assert sorted(frames) == list(range(11))


def test_the_quick_look_has_the_first_and_the_last_level():
    levels = [float(i) for i in range(50, -1, -1)]
    for steps in (1, 8, 50, 80):
        found = method.probe_levels(levels, steps)
        assert found[0] == 50 and found[-1] == 0 and len(found) == min(steps, 50) + 1
        assert set(found) <= set(levels) and found == sorted(found, reverse=True)


# ------------------------------------------------------------------------------------------- the cache, and own LoRAs


def test_a_second_run_starts_at_once_and_gives_the_same(models, tiny):
    first = made(models, ask(tiny))
    second = made(models, ask(tiny))
    assert same(first[-1].frames, second[-1].frames)
    inner = 3 * 6 + 9 * 6  # three frames, and the quick look's nine
    assert second[-1].evaluations == inner < first[-1].evaluations
    assert any("LoRAs are known" in e.doing for e in second if isinstance(e, Progress))


def test_one_new_picture_beside_a_known_one(models, tiny):
    made(models, ask(tiny, A, B))
    events = made(models, ask(tiny, A, C))
    fractions = [e.fraction for e in events if isinstance(e, Progress)]
    assert fractions == sorted(fractions)
    models.cache.clear()
    assert same(events[-1].frames, made(models, ask(tiny, A, C))[-1].frames, 0.01)


def test_a_broken_entry_is_made_again(models, tiny):
    first = made(models, ask(tiny))[-1].frames
    for item in models.cache.items():
        item.path.write_bytes(item.path.read_bytes()[: item.size // 2])
    assert same(first, made(models, ask(tiny))[-1].frames)


def test_a_folder_that_cannot_be_written_costs_only_speed(models, tiny):
    expected = made(models, ask(tiny))[-1].frames
    models.cache = Cache("/proc/no-room-here")
    done = made(models, ask(tiny))[-1]
    assert same(expected, done.frames)
    assert any("the cache folder must be writable, got /proc/no-room-here" in n for n in done.notes)


def test_a_downloaded_lora_brought_back_gives_the_same_pictures(models, tiny):
    own = made(models, ask(tiny, lora_rate=0.05))[-1]
    models.cache.clear()
    files = tuple(own.files[f"lora-{i}.safetensors"] for i in (1, 2))
    again = made(models, ask(tiny, loras=files))[-1]
    assert same(own.frames, again.frames, 0.01) and not again.files
    assert not any(i.kind == "lora" for i in models.cache.items())
    half = made(models, ask(tiny, loras=(b"", files[1]), lora_rate=0.05))[-1]
    assert same(own.frames, half.frames, 0.01) and list(half.files) == ["lora-1.safetensors"]
    assert again.settings["loras"][0] and again.settings["loras"] != half.settings["loras"]


# ----------------------------------------------------------------------------------------------------------- bad luck


def clean(net):
    layers = [*net.unet.modules()]
    return not any(m._forward_hooks or m._forward_pre_hooks for m in layers) and net.now is None


@pytest.mark.parametrize("until", ["fitting", "noise", "again", "looking", "drawing the frames"])
def test_stopped_anywhere_the_network_is_as_it_was(models, tiny, net, until):
    before = net.unet.attn_processors
    events = run(models, ask(tiny, lora_steps=30))
    for event in events:
        if isinstance(event, Progress) and until in event.doing:
            break
    else:
        raise AssertionError(f"never came to {until}")
    events.close()
    assert clean(net) and net.unet.attn_processors == before
    assert not any(p.requires_grad for p in net.unet.parameters())
    assert isinstance(made(models, ask(tiny))[-1], Done)


def test_memory_that_runs_out_while_fitting_and_drawing(models, tiny, net, monkeypatch):
    expected = made(models, ask(tiny, lora_draws=4))[-1].frames
    models.cache.clear()
    forward = net.unet.forward

    def small(x, *args, **kw):
        if len(x) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate a lot")
        return forward(x, *args, **kw)

    monkeypatch.setattr(net.unet, "forward", small)
    assert same(expected, made(models, ask(tiny, lora_draws=4))[-1].frames, 0.05)
    monkeypatch.setattr(net, "batch", 4)  # memory runs out in the first of several groups of frames
    assert len(made(models, ask(tiny, frames=11))[-1].frames) == 11


def test_no_memory_at_all_is_a_sentence(models, tiny, net, monkeypatch):
    def never(*args, **kw):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(net.unet, "forward", never)
    with pytest.raises(EngineError, match=r"memory of cpu must hold one picture .* choose a smaller size"):
        made(models, ask(tiny))
    assert clean(net)


def test_a_fit_that_goes_astray_is_a_sentence_and_nothing_is_kept(models, tiny, monkeypatch):
    fit = lora.fit
    monkeypatch.setattr(method.lora, "fit", lambda n, z, *rest: fit(n, z * float("nan"), *rest))
    with pytest.raises(EngineError, match="lora_rate must be smaller for"):
        made(models, ask(tiny))
    assert models.cache.items() == []


def test_other_errors_are_not_taken_for_a_lack_of_memory(models, tiny, net, monkeypatch):
    def wrong(*args, **kw):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(net.unet, "forward", wrong)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        made(models, ask(tiny))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"pictures": (A,)}, "pictures must be 2 to 12, got 1"),
        ({"pictures": (A,) * 13}, "pictures must be 2 to 12, got 13"),
        ({"pictures": (A, None)}, "picture 2 must be a picture, got nothing"),
        ({"frames": 2}, "frames must be a whole number from 3 to 65, got 2"),
        ({"attention": 2}, "attention must be a number from 0 to 1, got 2"),
        ({"lora": "some"}, "lora must be one of mix, fixed, none, got 'some'"),
        ({"loop": "yes"}, "loop must be true or false, got 'yes'"),
        ({"prompts": ("a", "b", "c")}, "prompts must be at most 2 texts, one a picture, got 3"),
        ({"loras": (b"x",) * 3}, "loras must be at most 2 files, one a picture, got 3"),
        ({"loras": (b"x",), "form": "factors"}, "form must be sum when LoRAs are given"),
        ({"loras": (b"x",), "lora": "none"}, "lora must be mix or fixed when LoRAs are given"),
    ],
)
def test_refusals(wrong, sentence):
    with pytest.raises(EngineError) as e:
        MorphRequest(**{"pictures": (A, B)} | wrong)
    assert sentence in str(e.value)


def test_words_of_a_picture_come_before_those_of_all():
    r = MorphRequest((A, B, C), prompt="a flower", prompts=("", "a rose"))
    assert r.words() == ["a flower", "a rose", "a flower"]
    assert (r.total, replace(r, loop=True).total) == (31, 45)
