"""Interpolate on a tiny network: shared noise, the tree, candidates, frames made again, fitted words."""

from dataclasses import replace

import pytest
import torch
from conftest import done, events, picture
from pictures import block, distance

from engine.checkpoints.manager import Memo
from engine.context import Context
from engine.diffusion.geometry import slerp
from engine.diffusion.guidance import classifier_free
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import gaussian, generator
from engine.diffusion.textual_inversion import invert_text
from engine.jobs.plan import plan
from engine.methods import interpolate, path
from engine.requests import SCHEMES, Frame, InterpolateRequest, Progress, result
from engine.vision import images

A, B = picture(0), picture(1)


@pytest.fixture
def ask(tiny):
    small = {"a": A, "b": B, "model": str(tiny), "frames": 5, "steps": 8, "size": 64}
    return lambda **own: InterpolateRequest(**small | own)


@pytest.fixture
def make(models):
    """All frames of a request, without what is remembered of others."""

    def make(request):
        models.memo = Memo()
        return done(models, request).frames

    return make


def far(a, b):
    return distance(block([a]), block([b]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_makes_every_frame_once_between_the_pictures_themselves(models, ask, scheme):
    said = events(models, ask(scheme=scheme, frames=9))
    frames = {e.index: e.picture for e in said if isinstance(e, Frame)}
    assert sum(isinstance(e, Frame) for e in said) == 9 and list(frames)[:2] == [0, 8]
    assert block([frames[i] for i in range(9)]).tobytes() == block(said[-1].frames).tobytes()
    ends = [images.fit_frame(p, frames[0].size, "fit") for p in (A, B)]
    assert block([frames[0], frames[8]]).tobytes() == block(ends).tobytes()
    if scheme == "branch":  # coarse to fine
        assert list(frames)[2:5] == [4, 2, 6]


def test_the_work_is_what_the_paper_counts(ask):
    """Σ over levels of frames · candidates · (k + 1) steps, with the rule for candidates (methods.md §1.6)."""
    r = ask(frames=9, steps=20, low=0.3, high=0.55, candidates=5)
    assert plan(r).steps == 1 * 5 * (11 + 1) + 2 * 4 * (8 + 1) + 4 * 3 * (6 + 1)
    tries = {n: [interpolate.tries_at(ask(candidates=n), level) for level in range(8)] for n in (1, 2, 8)}
    assert tries == {1: [1] * 8, 2: [2] * 8, 8: [8, 7, 6, 5, 4, 3, 3, 3]}


def test_same_request_same_pictures_and_another_seed_others(make, ask):
    first, again, other = (make(ask(seed=s, frames=3)) for s in (3, 3, 4))
    assert distance(block(first), block(again)) == 0 and far(first[1], other[1]) > 0.5


def test_shared_noise_law(make, ask):
    """Both parents get the same noise: of identical parents the mixture is one of them, however it is mixed.

    With noise of its own for each parent slerp and lerp would differ by a factor near √2 in the noise."""
    one, two, three = (make(ask(a=A, b=A, mix=m, frames=3)) for m in ("slerp", "lerp", "clean"))
    assert far(one[1], two[1]) < 0.01 and far(one[1], three[1]) < 0.01


def test_clean_latents_are_mixed_before_the_noise(models, ask):
    """So the noise of a mixture is what its sigma says, of unlike parents too; slerp of noisy ones makes it larger."""
    z = {i: gaussian((4, 8, 8), [generator(i)]) + 2 for i in (0, 2)}
    context = Context(models)
    result(context.load(ask().model, ()))
    way, plain = (path.Path(context, ask(frames=3, mix=m), z[0], None, None, z, {}) for m in ("clean", "slerp"))
    still, one, four = (interpolate.between(way, [(1, 0)], 1, s) for s in (0.0, 1.0, 4.0))
    assert torch.allclose(still, slerp(z[0], z[2], 0.5)) and torch.allclose(four - still, 4 * (one - still), atol=1e-5)
    assert float((one - still).std()) == pytest.approx(1, rel=0.1)
    assert not torch.allclose(interpolate.between(plain, [(1, 0)], 1, 1.0), one, atol=0.1)


def test_wandering_less_stays_nearer_to_the_mixture(make, ask):
    plain, little, much = (
        make(ask(scheme=s, low=k, high=k, frames=3, steps=20))[1]
        for s, k in (("interpolate", 0.1), ("branch", 0.1), ("branch", 0.9))
    )
    assert far(plain, little) < far(plain, much)


def test_a_batched_tree_is_one_frame_at_a_time(models, make, ask, monkeypatch):
    r = ask(frames=9, candidates=2, eta=0.3)
    whole, resident = make(r), models.load(r.model).resident
    monkeypatch.setattr(resident, "plan", replace(resident.plan, rows=1))
    assert distance(block(whole), block(make(r))) < 0.2


def test_a_stack_has_the_variance_of_its_sigmas(models, ask):
    z = {0: torch.zeros(1, 4, 64, 64)}
    way, sigmas = path.Path(Context(models), ask(), z[0], None, None, z, {}), [0.5, 1.0, 4.0]
    shared, own, again = (interpolate.stack(way, 0, sigmas, stream) for stream in (0, 1, 0))
    assert [float(x.std()) for x in shared] == pytest.approx(sigmas, rel=0.03)
    assert torch.equal(shared[2], again[2]) and not torch.equal(shared[0], own[0])


def test_the_smoothest_candidate_is_taken_or_the_one_picked(models, make, ask):
    said = events(models, ask(candidates=3, frames=3))
    frame = next(e for e in said if isinstance(e, Frame) and e.index == 1)
    ends = said[-1].frames[::2]
    assert len(frame.candidates) == 3 and frame.picture is frame.candidates[frame.chosen]
    assert frame.chosen == path.smoothest(list(frame.candidates), *ends) and path.smoothest([B, A], A, A) == 1
    other = (frame.chosen + 1) % 3
    assert far(make(ask(candidates=3, frames=3, picks=((1, other),)))[1], frame.candidates[other]) == 0


def test_a_frame_made_again_changes_only_its_descendants_and_costs_only_them(models, ask):
    models.memo = Memo()
    first, again = (done(models, ask(frames=9, reseeds=r)) for r in ((), ((2, 99),)))
    assert [i for i in range(9) if far(first.frames[i], again.frames[i])] == [1, 2, 3]
    assert 0 < again.evaluations < first.evaluations
    assert done(models, ask(frames=9)).evaluations == 0  # and the first is still known


def test_bias_pulls_to_the_ends(make, ask, monkeypatch):
    """With latents that are small pictures and a network that sees no noise, the mixture itself is what comes out."""
    small, large = torch.nn.functional.avg_pool2d, torch.nn.functional.interpolate
    monkeypatch.setattr(LatentDiffusion, "encode", lambda _, x: torch.cat([small(x, 8), small(x, 8)[:, :1]], 1))
    monkeypatch.setattr(LatentDiffusion, "decode", lambda _, z: large(z[:, :3], scale_factor=8))
    monkeypatch.setattr(LatentDiffusion, "denoiser", lambda *_: lambda x, s: x)
    free, near = (make(ask(low=0.01, high=0.01, steps=100, bias=b)) for b in (0.0, 0.3))
    assert far(near[1], free[0]) < far(free[1], free[0]) and far(near[3], free[4]) < far(free[3], free[4])
    assert far(near[2], free[2]) < 0.01  # the middle has an end on either side


@torch.no_grad()
def test_inversion_of_the_words_lowers_its_loss(models, tiny):
    model = models.load(str(tiny))
    x = images.to_tensor([picture(i, (64, 64)) for i in (0, 1)])
    z, start, sigmas = model.encode(x), model.embed(["a rose", "a rose", ""]), model.schedule.sigmas(200)

    def loss(words):
        total = 0.0
        for i in range(12):
            noise = gaussian(z.shape[1:], [generator(77, i)] * 2)
            s = torch.full((2,), sigmas[70 + 5 * i])
            seen = model.eps(z + sigmas[70 + 5 * i] * noise, s, classifier_free(words[:2], words[2:], 2.0))
            total += float((seen - noise).square().mean())
        return total

    fitted = result(invert_text(model, x, start, 25, 0.05, 2.0, seed=1))
    assert fitted.embeds.shape == start.embeds.shape and loss(fitted) < loss(start) - 0.01


def test_fitted_words_are_remembered(models, ask):
    models.memo, r = Memo(), ask(frames=3, steps=4, invert_steps=2, prompt="a rose")
    first, again = ([e for e in events(models, r) if isinstance(e, Progress) and "fitting" in e.doing] for _ in "ab")
    assert len(first) == 2 and not again


def test_one_prompt_or_two(make, ask):
    one, same, two = (make(ask(frames=3, prompt="a rose", prompt_b=b, guidance=8.0))[1] for b in ("", "a rose", "zzz"))
    assert far(one, same) == 0 and far(one, two) > 0.05


def test_a_prompt_too_long_is_told(models, ask):
    (note,) = done(models, ask(frames=3, steps=4, prompt="rose " * 60)).notes
    assert "tokens too long" in note


@pytest.mark.parametrize("scheme", ["did", "interpolate-denoise"])
def test_fresh_noise_is_fresh_in_every_stretch_of_a_walk(make, ask, scheme, monkeypatch):
    drawn = []
    monkeypatch.setattr(path, "generator", lambda *key: drawn.append(key) or generator(*key))
    make(ask(frames=9, steps=20, eta=0.5, scheme=scheme))
    walks = [key for key in drawn if key[3:4] == (2,)]
    assert len(walks) == len(set(walks)) > 7
