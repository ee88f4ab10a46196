"""The method on a tiny network: tree, shared noise, schemes, candidates, inversion of the words, determinism."""

import sys

import numpy as np
import pytest
import torch
from conftest import picture

from engine.diffusion.model import guided
from engine.diffusion.sampling import gaussian, generator
from engine.diffusion.textual_inversion import invert_text
from engine.jobs.run import run
from engine.methods.interpolate import _stack, _tries, smoothest
from engine.requests import (
    SCHEMES,
    Done,
    EngineError,
    Frame,
    InterpolateRequest,
    LoadRequest,
    Preview,
    Progress,
    result,
)
from engine.vision import images

A, B = picture(0), picture(1)


def ask(tiny, **kw):
    return InterpolateRequest(
        kw.pop("a", A), kw.pop("b", B), **{"model": str(tiny), "frames": 5, "steps": 8, "size": 64} | kw
    )


def made(models, request):
    models.memo._items.clear()
    return list(run(models, request))


def difference(a, b):
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_makes_every_frame_once_and_keeps_the_ends(models, tiny, scheme):
    events = made(models, ask(tiny, scheme=scheme))
    frames = [e for e in events if isinstance(e, Frame)]
    assert [f.index for f in frames[:2]] == [0, 4] and sorted(f.index for f in frames) == [0, 1, 2, 3, 4]
    done = events[-1]
    assert isinstance(done, Done) and len(done.frames) == 5
    fitted = [images.fitted(p, done.frames[0].size, "fit") for p in (A, B)]
    assert [f.tobytes() for f in (done.frames[0], done.frames[-1])] == [f.tobytes() for f in fitted]
    fractions = [e.fraction for e in events if isinstance(e, Progress)]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    if scheme != "interpolate":
        assert any(isinstance(e, Preview) for e in events) and done.evaluations > 0
    else:
        assert done.evaluations == 0


def test_frames_come_coarse_to_fine(models, tiny):
    frames = [e.index for e in made(models, ask(tiny, frames=9)) if isinstance(e, Frame)]
    assert frames[:5] == [0, 8, 4, 2, 6]


def test_the_work_is_what_the_paper_counts(models, tiny):
    """Σ over levels of frames · candidates · (k + 1) steps · 2 rows, with the rule for candidates (methods.md §1.6)."""
    done = made(models, ask(tiny, frames=9, steps=20, low=0.3, high=0.55, candidates=5))[-1]
    assert [_tries(5, n) for n in range(4)] == [5, 4, 3, 3] and [_tries(8, n) for n in (0, 6, 7)] == [8, 3, 3]
    assert _tries(1, 3) == 1 and _tries(2, 5) == 2
    assert done.evaluations == 2 * (1 * 5 * (11 + 1) + 2 * 4 * (8 + 1) + 4 * 3 * (6 + 1))


def test_same_request_same_pictures_and_another_seed_others(models, tiny):
    first, again, other = (made(models, ask(tiny, seed=s))[-1].frames for s in (3, 3, 4))
    assert [f.tobytes() for f in first] == [f.tobytes() for f in again]
    assert difference(first[2], other[2]) > 0.5


def test_shared_noise_law(models, tiny):
    """Both parents get the same noise: of identical parents the mixture is one of them, however it is mixed.

    With noise of its own for each parent slerp and lerp would differ by a factor near √2 in the noise."""
    one, two = (made(models, ask(tiny, a=A, b=A, mix=m, frames=3))[-1].frames[1] for m in ("slerp", "lerp"))
    assert difference(one, two) < 0.01


def test_wandering_less_stays_nearer_to_the_mixture(models, tiny):
    plain, little, much = (
        made(models, ask(tiny, scheme=s, low=k, high=k, frames=3, steps=20))[-1].frames[1]
        for s, k in (("interpolate", 0.1), ("branch", 0.1), ("branch", 0.9))
    )
    assert difference(plain, little) < difference(plain, much)


def test_batched_tree_equals_one_frame_at_a_time(models, tiny):
    net = models.load(str(tiny))
    whole = made(models, ask(tiny, frames=9, candidates=2, eta=0.3))[-1].frames
    batch, net.batch = net.batch, 1
    try:
        single = made(models, ask(tiny, frames=9, candidates=2, eta=0.3))[-1].frames
    finally:
        net.batch = batch
    assert max(difference(a, b) for a, b in zip(whole, single, strict=True)) < 0.2


def test_stack_has_the_variance_of_its_sigmas(models, tiny):
    class Run:
        z, request = {0: torch.zeros(1, 4, 64, 64)}, ask(tiny)

    shared, own = _stack(Run, 0, [0.5, 1.0, 4.0], 0), _stack(Run, 0, [0.5, 1.0, 4.0], 1)
    for x, s in zip(shared, (0.5, 1.0, 4.0), strict=True):
        assert abs(float(x.std()) - s) < 0.03 * s
    assert all(torch.equal(x, y) for x, y in zip(shared, _stack(Run, 0, [0.5, 1.0, 4.0], 0), strict=True))
    assert not torch.equal(shared[0], own[0])


def test_candidates_are_shown_and_the_smoothest_is_taken(models, tiny):
    events = made(models, ask(tiny, candidates=3, frames=3))
    frame = next(e for e in events if isinstance(e, Frame) and e.index == 1)
    assert len(frame.candidates) == 3 and frame.picture is frame.candidates[frame.chosen]
    ends = [events[-1].frames[i] for i in (0, 2)]
    assert frame.chosen == smoothest(list(frame.candidates), *ends)
    assert smoothest([B, A], A, A) == 1
    picked = made(models, ask(tiny, candidates=3, frames=3, picks=((1, (frame.chosen + 1) % 3),)))[-1]
    assert picked.frames[1].tobytes() == frame.candidates[(frame.chosen + 1) % 3].tobytes()


def test_a_frame_made_again_changes_only_its_descendants_and_costs_only_them(models, tiny):
    first = made(models, ask(tiny, frames=9))[-1]
    again = list(run(models, ask(tiny, frames=9, reseeds=((2, 99),))))[-1]  # the memo stays
    changed = [i for i in range(9) if first.frames[i].tobytes() != again.frames[i].tobytes()]
    assert changed == [1, 2, 3]
    assert 0 < again.evaluations < first.evaluations
    assert list(run(models, ask(tiny, frames=9)))[-1].evaluations == 0  # and the first is still known


def test_bias_pulls_to_the_ends(models, tiny, monkeypatch):
    """With latents that are small pictures and a network that sees no noise, the mixture itself is what comes out."""
    net, small, large = models.load(str(tiny)), torch.nn.functional.avg_pool2d, torch.nn.functional.interpolate
    monkeypatch.setattr(net, "encode", lambda x: torch.cat([small(x, 8), small(x, 8)[:, :1]], 1))
    monkeypatch.setattr(net, "decode", lambda z: large(z[:, :3], scale_factor=8))
    monkeypatch.setattr(net, "field", lambda rows: lambda x, s: torch.zeros_like(x))
    free, pulled = (made(models, ask(tiny, low=0.01, high=0.01, steps=100, bias=b))[-1].frames for b in (0.0, 0.3))
    assert difference(pulled[1], free[0]) < difference(free[1], free[0])
    assert difference(pulled[3], free[4]) < difference(free[3], free[4])
    assert difference(pulled[2], free[2]) < 0.01  # the middle has an end on either side


@torch.no_grad()
def test_inversion_of_the_words_lowers_its_loss(models, tiny):
    net = models.load(str(tiny))
    x = images.to_tensor([picture(0, (64, 64)), picture(1, (64, 64))])
    z, start = net.encode(x), net.embed(["a rose", "a rose", ""])

    def loss(words):
        total = 0.0
        for i in range(12):
            noise = gaussian(z.shape[1:], [generator(77, i)] * 2)
            s = net.levels(200)[70 + 5 * i]
            total += float((net.field(guided(words[:2], words[2:], 2.0))(z + s * noise, s) - noise).square().mean())
        return total

    steps = invert_text(net, x, start[:2], start[2:], 60, 0.05, 2.0, seed=1)
    fitted = result(steps)
    assert fitted.shape == start.shape and loss(fitted) < loss(start) - 0.01


def test_fitted_words_are_remembered(models, tiny):
    request = ask(tiny, frames=3, steps=4, invert_steps=2, prompt="a rose")
    first, again = ([e.doing for e in events if isinstance(e, Progress) and "fitting" in e.doing]
                    for events in (made(models, request), run(models, request)))  # fmt: skip
    assert len(first) == 2 and not again


def test_one_prompt_or_two(models, tiny):
    one, same, two = (
        made(models, ask(tiny, prompt="a rose", prompt_b=b, guidance=8.0))[-1].frames[3] for b in ("", "a rose", "zzz")
    )
    assert one.tobytes() == same.tobytes() and difference(one, two) > 0.05


def test_any_size_and_fit(models, tiny):
    for fit, size in (("fit", (64, 48)), ("crop", (64, 64)), ("pad", (64, 64))):
        done = made(models, ask(tiny, fit=fit, frames=3, steps=4))[-1]
        assert {f.size for f in done.frames} == {size} and (done.settings["width"], done.settings["height"]) == size


def test_a_prompt_too_long_is_told(models, tiny):
    done = made(models, ask(tiny, frames=3, steps=4, prompt="rose " * 60))[-1]
    assert len(done.notes) == 1 and "too long" in done.notes[0]


def test_closing_stops_between_steps(models, tiny):
    whole = made(models, ask(tiny, frames=9))[-1].evaluations
    net = models.load(str(tiny))
    before = net.evaluations
    models.memo._items.clear()
    events = run(models, ask(tiny, frames=9))
    next(e for e in events if isinstance(e, Preview))
    events.close()
    assert 0 < net.evaluations - before < whole and torch.is_grad_enabled()
    with pytest.raises(StopIteration):
        next(events)


@pytest.mark.parametrize("scheme", ["did", "interpolate-denoise"])
def test_fresh_noise_is_fresh_in_every_stretch_of_a_walk(models, tiny, scheme, monkeypatch):
    drawn = []
    module = sys.modules["engine.methods.interpolate"]  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "generator", lambda *key: drawn.append(key) or generator(*key))
    made(models, ask(tiny, frames=9, steps=40, eta=0.5, scheme=scheme))
    walks = [key for key in drawn if key[3:4] == (2,)]
    assert len(walks) == len(set(walks)) > 7


def test_loading_ahead(models, tiny):
    assert list(run(models, LoadRequest(str(tiny))))[-1].fraction == 1
    with pytest.raises(EngineError, match="model must be"):
        list(run(models, LoadRequest("nonsense")))
