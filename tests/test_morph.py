"""DiffMorpher on a tiny network: its laws, each bug of the published code (methods.md §2.2), the cache, bad luck."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import done, events, picture
from pictures import block, distance

from engine.context import Context
from engine.diffusion import attention, lora, memory, sampling
from engine.jobs.cache import Cache
from engine.jobs.run import run
from engine.methods import learn, morph
from engine.requests import EngineError, Frame, MorphRequest, Progress, result
from engine.vision import images

A, B, C = (picture(i) for i in range(3))


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def ask(tiny):
    small = {"model": str(tiny), "frames": 5, "steps": 6, "size": 64, "lora_steps": 3, "lora_rank": 3}
    small["reschedule"] = False
    return lambda *pictures, **own: MorphRequest(pictures or (A, B), **small | own)


@pytest.fixture
def make(models, cache):
    return lambda request, keep=cache: done(models, request, keep)


@pytest.fixture
def start(models, cache):
    """A job before its first step."""

    def start(request):
        context = Context(models, cache)
        result(context.load(request.model, ()))
        with torch.no_grad():
            return learn.start(context, request, [images.fit_frame(p, (64, 48), "fit") for p in request.pictures])

    return start


def same(some, others, most=1e-9):
    return distance(block(some), block(others)) <= most


def kinds(cache):
    return sorted(item.kind for item in cache.items())


def test_every_frame_comes_once_with_its_quality_and_loras(models, ask):
    said = events(models, ask(reschedule=True))
    frames = [e.index for e in said if isinstance(e, Frame)]
    assert sorted(frames) == [0, 1, 2, 3, 4] and frames[:2] == [0, 4]
    assert set(said[-1].quality) == {"length", "variance", "ends", "fade_length", "fade_variance"}
    assert sorted(said[-1].files) == ["lora-1.safetensors", "lora-2.safetensors"]


# -------------------------------------------------------------------------- what the published code gets wrong (§2.2)


@pytest.mark.parametrize(("share", "steps", "found"), [(0.6, 50, 30), (0.6, 10, 6), (0.5, 7, 4), (0, 9, 0), (1, 6, 6)])
def test_lambda_counts_steps_whatever_their_number(ask, start, share, steps, found):
    """The published code has 50 · λ: another number of steps changes λ."""
    assert start(ask(attention=share, steps=steps)).attending == found


def test_lambda_reaches_the_sampler(models, make, ask, monkeypatch):
    """The published page passes it under another name, and the slider does nothing."""
    seen, mix, r = [], attention.mix, ask(steps=10, attention=0.6, lora="none")
    monkeypatch.setattr(attention, "mix", lambda m, features, *more: seen.append(features) or mix(m, features, *more))
    make(r)
    model, (features,) = models.load(r.model), seen
    assert {sigma for _, sigma in features} == set(model.schedule.sigmas(10)[:6])
    assert {layer for layer, _ in features} == set(attention.self_attentions(model.unet))
    assert all(t.dtype == torch.float16 and len(t) == 2 for t in features.values())


def test_no_stale_lora_is_ever_served(make, ask, cache):
    """The published code looks LoRAs up by the folder's name: other pictures get the last ones' LoRAs."""
    make(ask(A, B))
    assert same(make(ask(A, C)).frames, make(ask(A, C), None).frames, 0.01)
    assert kinds(cache) == 3 * ["features"] + 3 * ["inversion"] + 3 * ["lora"]


def test_all_that_a_lora_depends_on_is_in_its_key(ask, start):
    def key(**change):
        job = start(ask(A, C, **change))
        job.loras = [None]  # as if they were there
        assert job.lora_key(0) in job.inversion_key(0)  # which is in that of the features
        return repr(job.lora_key(0))

    changes = {"prompt": "a rose", "lora_rate": 0.02, "lora_steps": 4, "lora_rank": 2, "lora_draws": 1, "seed": 5}
    keys = {key(), key(lora_patience=0.5), *(key(**{name: value}) for name, value in changes.items())}
    assert len(keys) == 2 + len(changes)


@torch.no_grad()
def test_other_weights_under_the_same_name_are_other_entries(models, make, ask, cache):
    make(ask())
    resident = models.load(ask().model).resident
    weight, own, before = resident.unet.conv_in.weight, resident.fingerprint, len(cache.items())
    del resident.fingerprint
    weight += 1e-3
    try:
        assert resident.fingerprint != own
        make(ask())
        assert len(cache.items()) == 2 * before
    finally:
        weight -= 1e-3
        resident.fingerprint = own


@pytest.mark.parametrize("steps", [4, 7])
def test_any_number_of_steps(make, ask, steps):
    assert len(make(ask(steps=steps, frames=3, lora="none")).frames) == 3


def test_fitting_and_inversion_see_the_same_picture(models, make, ask, monkeypatch):
    """The published code fits to an undistorted picture and inverts a squashed one."""
    fitted, inverted, fit, invert = [], [], lora.fit, sampling.invert
    monkeypatch.setattr(lora, "fit", lambda model, z, *rest: fitted.append(z) or fit(model, z, *rest))
    monkeypatch.setattr(sampling, "invert", lambda d, *way: inverted.append(way) or invert(d, *way))
    wide, tall = picture(3, (120, 60)), picture(4, (60, 120))
    frames = make(ask(wide, tall)).frames
    x, sigmas = inverted[0]
    assert sigmas[0] == 0 and torch.equal(fitted[0], x)
    ends = [images.fit_frame(p, frames[0].size, "fit") for p in (wide, tall)]
    with torch.no_grad():
        z = models.load(ask().model).encode(images.to_tensor(ends))
    assert frames[0].size == (64, 32) and torch.allclose(z, x, atol=1e-5)


def test_a_prompt_of_500_words(make, ask):
    assert any("tokens too long" in note for note in make(ask(prompt="rose " * 500, lora="none")).notes)


def test_the_same_picture_twice(make, ask, cache):
    found = make(ask(A, A))
    assert same([found.frames[0]] * 5, found.frames, 2)  # AdaIN's own ε, no more
    assert kinds(cache).count("lora") == 1 and list(found.files) == ["lora-1.safetensors"]
    assert np.isfinite(list(found.quality.values())).all()


# -------------------------------------------------------------------------------------------------------- the method


def test_all_frames_at_once_are_each_alone(models, make, ask, monkeypatch):
    r = ask(frames=6, lora_rate=0.05)
    together, resident = make(r).frames, models.load(r.model).resident
    monkeypatch.setattr(resident, "plan", replace(resident.plan, rows=1))
    assert same(together, make(r).frames, 0.05)


@torch.no_grad()
def test_at_the_ends_the_way_is_the_pictures(ask, start):
    job = start(ask(lora_rate=0.05))
    result(learn.fit(job))
    with ExitStack() as inside:
        inside.enter_context(lora.attach(job.context.model, lora.LoraStack.join(job.loras)))
        noise, whose = result(learn.invert(job))
        again, features = result(learn.redraw(job, noise, whose))
        inside.enter_context(attention.mix(job.context.model, features))
        z = result(morph.between(job, noise, [(0, 0.0), (0, 1.0)], job.sigmas, ""))
    assert torch.allclose(z, again, atol=0.02)  # features are kept in half precision


@torch.no_grad()
def test_inversion_and_denoising_come_back(ask, start):
    """The more steps, the nearer."""
    errors = []
    for steps in (8, 60):
        job = start(ask(steps=steps, lora="none"))
        again, _ = result(learn.redraw(job, *result(learn.invert(job))))
        errors.append(float((again - job.z).square().mean()))
    assert errors[1] < 0.2 * errors[0]


def test_both_forms_are_the_same_where_one_lora_is_alone(make, ask):
    whole, factors = (make(ask(lora_rate=0.1, form=form)).frames for form in ("sum", "factors"))
    assert same(whole[:1], factors[:1], 0.05) and not same(whole, factors)


def test_without_loras_there_are_no_files(make, ask, cache):
    assert not make(ask(lora="none")).files and set(kinds(cache)) == {"inversion", "features"}


def test_exact_ends(make, ask):
    frames = make(ask(exact_ends=True, lora="none")).frames
    assert same(frames[::4], [images.fit_frame(p, frames[0].size, "fit") for p in (A, B)])


def test_a_timeline_counts_joints_once_and_fits_each_picture_once(make, ask, cache):
    found = make(ask(A, B, C, A))
    assert len(found.frames) == 3 * 4 + 1 and same(found.frames[:1], found.frames[12:])
    assert kinds(cache).count("lora") == 3 and sorted(found.files) == [f"lora-{i}.safetensors" for i in (1, 2, 3)]


def test_a_loop_goes_back_without_showing_its_first_picture_again(make, ask):
    some, all_ = (make(ask(A, B, C, loop=loop, lora_steps=1)).frames for loop in (False, True))
    assert (len(some), len(all_)) == (9, 12) and same(some, all_[:9], 0.05)
    assert len(make(ask(A, B, loop=True, lora="none")).frames) == 8


@pytest.mark.parametrize("steps", [1, 8, 50, 80])
def test_the_quick_look_has_the_first_and_the_last_sigma(steps):
    sigmas = [float(i) for i in range(50, -1, -1)]
    found = morph.probe_sigmas(sigmas, steps)
    assert found[0] == 50 and found[-1] == 0 and len(found) == min(steps, 50) + 1
    assert set(found) <= set(sigmas) and found == sorted(found, reverse=True)


def test_words_of_a_picture_come_before_those_of_all():
    r = MorphRequest((A, B, C), prompt="a flower", prompts=("", "a rose"))
    assert r.words() == ["a flower", "a rose", "a flower"]


# ------------------------------------------------------------------------------------------- the cache, and own LoRAs


def test_a_second_run_starts_at_once_and_gives_the_same(models, ask, cache):
    first, second = (events(models, ask(reschedule=True), cache) for _ in "ab")
    assert same(first[-1].frames, second[-1].frames)
    inner = 3 * 6 + 9 * 6  # three frames, and the quick look's nine
    assert second[-1].evaluations == inner < first[-1].evaluations
    assert any("are known already" in e.doing for e in second if isinstance(e, Progress))


def test_a_broken_entry_is_made_again(make, ask, cache):
    first = make(ask()).frames
    for item in cache.items():
        item.path.write_bytes(item.path.read_bytes()[: item.size // 2])
    assert same(first, make(ask()).frames)


def test_a_folder_that_cannot_be_written_costs_only_speed(make, ask):
    found = make(ask(), Cache("/proc/no-room-here"))
    assert same(make(ask()).frames, found.frames)
    assert any("the cache folder must be writable, got /proc/no-room-here" in note for note in found.notes)


def test_a_downloaded_lora_brought_back_gives_the_same_pictures(make, ask, tmp_path):
    own, other = make(ask(lora_rate=0.05)), Cache(tmp_path / "other")
    files = tuple(own.files[f"lora-{i}.safetensors"] for i in (1, 2))
    again = make(ask(loras=files), other)
    assert same(own.frames, again.frames, 0.01) and not again.files and "lora" not in kinds(other)
    half = make(ask(loras=(b"", files[1]), lora_rate=0.05))
    assert same(own.frames, half.frames, 0.01) and list(half.files) == ["lora-1.safetensors"]


# ----------------------------------------------------------------------------------------------------------- bad luck


@pytest.mark.parametrize("until", ["learning", "noise", "again", "looking where", "drawing the frames"])
def test_stopped_anywhere_the_network_is_as_it_was(models, ask, until):
    unet, context = models.load(ask().model).unet, Context(models)
    before = unet.attn_processors
    job = run(context, ask(lora_steps=30, reschedule=True))
    assert any(isinstance(e, Progress) and until in e.doing for e in job)
    job.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    assert unet.attn_processors == before and not any(p.requires_grad for p in unet.parameters())


def test_memory_that_runs_out_while_fitting_and_drawing(models, ask, monkeypatch):
    r = ask(lora_draws=4, steps=4, frames=4)
    expected, resident = done(models, r).frames, models.load(r.model).resident
    forward = resident.unet.forward

    def small(x, *args, **own):
        if len(x) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate a lot")
        return forward(x, *args, **own)

    monkeypatch.setattr(resident.unet, "forward", small)
    monkeypatch.setattr(memory, "release", lambda device: None)  # collecting garbage takes longest
    found = done(models, r)
    assert same(expected, found.frames, 0.05) and any("memory of cpu ran out" in note for note in found.notes)


def test_no_memory_at_all_is_a_sentence(models, ask, monkeypatch):
    def never(*args, **own):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(models.load(ask().model).unet, "forward", never)
    monkeypatch.setattr(memory, "release", lambda device: None)
    with pytest.raises(EngineError, match=r"memory of cpu must hold one picture .* choose a smaller size"):
        done(models, ask())


def test_a_fit_that_goes_astray_is_a_sentence_and_nothing_is_kept(make, ask, cache, monkeypatch):
    fit = lora.fit
    monkeypatch.setattr(lora, "fit", lambda model, z, *rest: fit(model, z * float("nan"), *rest))
    with pytest.raises(EngineError, match="lora_rate must be smaller for"):
        make(ask())
    assert cache.items() == []
