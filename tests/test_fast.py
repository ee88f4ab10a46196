"""Morph without LoRAs on a tiny network: the table of rules against attention by hand, and all that a way may be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import done, events, picture
from pictures import block, distance

from engine.context import Context
from engine.diffusion import attention, memory
from engine.diffusion.guidance import Conditioning
from engine.diffusion.words import Words
from engine.jobs.plan import plan
from engine.jobs.run import run
from engine.methods import fast
from engine.requests import EngineError, Frame, MorphRequest, Preview, Progress, make
from engine.vision import images

A, B, C = (picture(i) for i in range(3))
W = torch.tensor([[1.0, 0.0], [0.7, 0.3], [0.2, 0.8], [0.0, 1.0]])
S = 1.5  # a sigma


@pytest.fixture(scope="module")
def model(tiny, models):
    return models.load(str(tiny))


@pytest.fixture
def ask(tiny):
    small = {"model": str(tiny), "frames": 5, "steps": 5, "size": 64, "tier": "fast"}
    return lambda *pictures, **own: MorphRequest(pictures or (A, B), **small | own)


@pytest.fixture
def quick(monkeypatch):
    """The published numbers with one evaluation a step: less to wait for."""
    monkeypatch.setattr(fast, "PUBLISHED", replace(fast.PUBLISHED, iterations=1))


def rows(n=4):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(n, 4, 8, 8, generator=draw), Words(torch.randn(n, 24, 32, generator=draw))


def same(some, others, most=1e-9):
    return distance(block(some), block(others)) <= most


def by_hand(layer, x, seen):
    """Softmax attention of one picture, (T, C) at (S, C'), from the layer's matrices alone."""
    q, k, v = layer.to_q(x), layer.to_k(seen), layer.to_v(seen)
    out = []
    for a, b, c in zip(*(t.chunk(layer.heads, -1) for t in (q, k, v)), strict=True):
        scores = torch.exp(a @ b.T / a.shape[-1] ** 0.5)
        out.append(scores / scores.sum(-1, keepdim=True) @ c)
    return layer.to_out[0](torch.cat(out, -1))


def expected(rule, layer, x, seen):
    if rule == "plain":
        return torch.stack([by_hand(layer, q, s) for q, s in zip(x, seen, strict=True)])
    if rule == "mean":
        return expected("plain", layer, x, seen).mean(0).repeat(len(x), 1, 1)
    out = []
    for q, s, (first, last) in zip(x, seen, W.tolist(), strict=True):
        if rule == "half":
            first = last = 0.5
        ends = [torch.cat([s, e]) if rule == "joined" else e for e in (seen[0], seen[-1])]
        out.append(first * by_hand(layer, q, ends[0]) + last * by_hand(layer, q, ends[1]))
    return torch.stack(out)


# ---------------------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("rule", attention.RULES)
@torch.no_grad()
def test_every_attention_follows_its_rule(model, rule):
    """By what enters and leaves the layers of a real call, self and cross, encoder, middle and decoder."""
    x, words = rows()
    layers = {n: m for n, m in model.unet.named_modules() if n.endswith((".attn1", ".attn2"))}
    said, handles = {}, []
    with attention.steer(model, {S: rule}):
        for name, layer in layers.items():

            def keep(module, args, kwargs, out, name=name):
                seen = kwargs.get("encoder_hidden_states")
                said[name] = args[0], args[0] if seen is None else seen, out

            handles.append(layer.register_forward_hook(keep, with_kwargs=True))
        model.denoiser([Conditioning(words, attention_weights=W)])(x, S)
    for handle in handles:
        handle.remove()
    assert {n.partition("_")[0] for n in said} == {"down", "mid", "up"} and said.keys() == layers.keys()
    for name, (q, seen, out) in said.items():
        assert torch.allclose(out, expected(rule, layers[name], q, seen), atol=1e-4), name


def test_the_published_table_is_the_published_schedule():
    """40 of 50 steps: what each does, counted by hand (methods.md, FreeMorph)."""
    t = fast.PUBLISHED
    assert fast.walked(t, 50) == 40
    up, down = ([fast.rule(shares, i, 40) for i in range(40)] for shares in (t.up, t.down))
    assert up == 16 * ["plain"] + 14 * ["mean"] + ["plain"] + 9 * ["half"]
    assert down == 8 * ["ends"] + 16 * ["joined"] + 16 * ["plain"]
    assert (t.guidance, t.iterations, t.keep * 48, t.keep_beside * 48, t.beta) == (7.5, 5, 42, 44, 20)


@pytest.mark.parametrize("name", ["FLORA", "PUBLISHED"])
@pytest.mark.parametrize("steps", [1, 3, 7, 500])
def test_every_step_has_a_rule(name, steps):
    t = getattr(fast, name)
    assert {fast.rule(s, i, steps) for s in (t.up, t.down) for i in range(steps)} <= set(attention.RULES)
    assert 1 <= fast.walked(t, steps) <= steps


@torch.no_grad()
def test_rows_without_weights_and_other_sigmas_are_plain(model):
    x, words = rows()
    plain = model.denoiser([Conditioning(words)])
    with attention.steer(model, {S: "mean"}):
        assert torch.allclose(plain(x, S), plain_of(model, x, words), atol=1e-5)
        guided = model.denoiser([Conditioning(words, 3.0, attention_weights=W), Conditioning(words[:1], -2.0)])
        both, other = guided(x, S), guided(x, 3.0)
        steered = model.denoiser([Conditioning(words, attention_weights=W)])(x, S)
    without = model.denoiser([Conditioning(words[:1])])(x, S)
    assert torch.allclose(both, 3 * steered - 2 * without, atol=1e-4)
    unsteered = model.denoiser([Conditioning(words, 3.0), Conditioning(words[:1], -2.0)])
    assert torch.allclose(other, unsteered(x, 3.0), atol=1e-4) and not torch.allclose(both, unsteered(x, S), atol=1e-3)


def plain_of(model, x, words):
    return model.denoiser([Conditioning(words)])(x, S)


@pytest.mark.parametrize("rule", attention.RULES)
@torch.no_grad()
def test_fewer_rows_a_time_are_the_same_averages(model, monkeypatch, rule):
    x, words = rows()

    def steered():
        with attention.steer(model, {S: rule}):
            return model.denoiser([Conditioning(words, attention_weights=W)])(x, S)

    whole, most = steered(), []
    for n in (1, 3):
        monkeypatch.setattr(model.resident, "plan", replace(model.resident.plan, rows=n))
        heavy = [m for m in model.unet.modules() if type(m).__name__ in attention.BLOCKS]
        with pytest.MonkeyPatch.context() as m:
            for layer in heavy:
                m.setattr(layer, "forward", lambda v, *a, own=layer.forward: most.append(len(v)) or own(v, *a))
            assert torch.allclose(steered(), whole, atol=1e-4)
        assert max(most) == n
        most.clear()


def test_the_network_is_left_as_it_was(model):
    room, before = model.room, [dict(vars(m)) for m in model.unet.modules()]
    with pytest.raises(ZeroDivisionError), attention.steer(model, {}):
        assert model.room is not room
        raise ZeroDivisionError
    assert model.room is room and [dict(vars(m)) for m in model.unet.modules()] == before


# ----------------------------------------------------------------------------------------------- slerp, ring, quantile


def test_rows_of_the_latent_turn_by_themselves():
    a, b = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    x = fast.between(a, b, torch.tensor([0.0, 0.5, 1.0]), True)
    assert torch.allclose(x[0], a, atol=1e-6) and torch.allclose(x[2], b, atol=1e-6)
    p, q = a[2, 3], b[2, 3]
    angle = torch.arccos(p @ q / p.norm() / q.norm())
    assert torch.allclose(x[1, 2, 3], (p + q) * torch.sin(angle / 2) / torch.sin(angle), atol=1e-5)


def test_the_ring_alone_is_exchanged():
    x, noise = torch.randn(3, 4, 8, 6), torch.randn(1, 4, 8, 6)
    out = fast.ring(x, noise, [1, 0.5, 0.75])
    assert torch.allclose(out[0], x[0], atol=1e-5)
    own, other, got = (torch.fft.fftshift(torch.fft.fft2(t), dim=(2, 3)) for t in (x, noise, out))
    for row, tall, wide in ((1, 2, 1), (2, 3, 2)):  # whole frequencies kept, of 4 up and down, 3 sideways
        box = torch.zeros(8, 6, dtype=torch.bool)
        box[4 - tall : 5 + tall, 3 - wide : 4 + wide] = True
        assert torch.allclose(got[row], torch.where(box, own[row], other[0]), atol=1e-4)


def test_the_quantile_is_that_of_beta():
    from scipy.stats import beta  # development only

    for n in (1, 20):
        for p in (0.0, 0.05, 1 / 3, 0.5, 0.9, 1.0):
            assert fast.beta_quantile(p, n) == pytest.approx(beta.ppf(p, n, n), abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- the method


@pytest.mark.parametrize("own", [{}, {"loop": True}, {"frames": 3, "steps": 4}], ids=str)
def test_a_plan_is_what_it_does(models, ask, own):
    r = ask(A, B, C, **own)
    cost, said = plan(replace(r, model="sd15")), events(models, r)
    frames = [e.index for e in said if isinstance(e, Frame)]
    assert sorted(frames) == list(range(r.total)) and frames[:3] == [0, r.frames - 1, 2 * (r.frames - 1)]
    assert said[-1].evaluations == cost.steps * cost.rows and cost.fits == 0
    fractions = [e.fraction for e in said if isinstance(e, Progress)]
    assert fractions == sorted(fractions) and fractions[-2] == 0.999  # nothing of what was planned is left
    assert cost.pictures == sum(1 for i in frames if i % (r.frames - 1))
    assert not said[-1].files and np.isfinite(list(said[-1].quality.values())).all()


def test_the_ends_are_the_pictures(models, ask, quick):
    frames = done(models, ask(A, B, C)).frames
    assert same(frames[::4], [images.fit_frame(p, frames[0].size, "fit") for p in (A, B, C)], 0)


def test_a_seed_is_a_noise_and_words_count(models, ask, quick):
    first, again, other, worded = (
        done(models, ask(**o)).frames for o in ({}, {}, {"seed": 1}, {"prompts": ("a", "b")})
    )
    assert same(first, again) and not same(first, other, 0.05) and not same(first, worded, 0.01)


def test_a_way_is_the_same_in_any_company(models, ask, quick, monkeypatch):
    """Whether other ways go before it, and with one row a time."""
    alone, resident = done(models, ask(A, B)).frames, models.load(ask().model).resident
    assert same(alone, done(models, ask(A, B, A)).frames[:5], 0.05)
    assert same(done(models, ask(A, B, loop=True)).frames, done(models, ask(A, B, A)).frames[:8], 0.05)
    monkeypatch.setattr(resident, "plan", replace(resident.plan, rows=1))
    assert same(alone, done(models, ask(A, B)).frames, 0.05)


def test_the_same_picture_twice_is_that_picture(models, ask, monkeypatch):
    """Whoever it looks at it sees itself: by flora's numbers what is left is inversion and drawing again."""
    monkeypatch.setattr(fast, "PUBLISHED", fast.FLORA)
    away, net = [], models.load(ask().model)
    for steps in (8, 60):
        start, *frames, end = done(models, ask(A, A, frames=4, steps=steps)).frames
        assert same(frames[:1], frames[1:], 0.05) and same([start], [end])
        with torch.no_grad():
            seen = images.to_pictures(net.decode(net.encode(images.to_tensor([start]))))
        away.append(distance(block(seen), block(frames[:1])))
    assert away[1] < 0.8 * away[0]


def test_each_family_has_its_numbers():
    assert fast.table("flora") is fast.FLORA and all(fast.table(f) is fast.PUBLISHED for f in ("", "sd1", "sd2"))
    r = MorphRequest((A, B, C), tier="fast", frames=5, steps=10)
    assert plan(r).steps == plan(replace(r, model="flora + rose:.5")).steps == 2 * 5 * 8 * 2
    assert plan(replace(r, model="sd15")).steps == 2 * 5 * 8 * (5 + 2)


def test_previews_are_of_the_frames_between(models, ask, quick, monkeypatch):
    monkeypatch.setattr("engine.jobs.run.PREVIEW_EVERY", 0)
    seen = {e.index for e in events(models, ask(A, B, C)) if isinstance(e, Preview)}
    assert seen == set(range(9))  # the pictures at once, the rest while it is drawn


@pytest.mark.parametrize("until", ["finding", "drawing"])
def test_stopped_anywhere_the_network_is_as_it_was(models, ask, until):
    unet, context = models.load(ask().model).unet, Context(models)
    job = run(context, ask())
    assert any(isinstance(e, Progress) and until in e.doing for e in job)
    job.close()
    assert not any("forward" in vars(m) for m in unet.modules())
    assert isinstance(context.model.room, memory.Room)


def test_memory_that_runs_out_in_a_block(models, ask, quick, monkeypatch):
    r = ask()
    expected, unet = done(models, r).frames, models.load(r.model).unet
    layer = unet.mid_block.resnets[0]

    def small(x, *args, own=layer.forward):
        if len(x) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate a lot")
        return own(x, *args)

    monkeypatch.setattr(memory, "release", lambda device: None)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(layer, "forward", small)
        found = done(models, r)
    assert same(expected, found.frames, 0.05) and any("memory of cpu ran out" in note for note in found.notes)


def test_loras_do_not_go_with_it():
    with pytest.raises(EngineError, match="tier must be full when LoRAs are given, got fast"):
        MorphRequest((A, B), tier="fast", loras=(b"file",))
    assert make(MorphRequest, {"tier": "fast"}, {"pictures": (A, B), "loras": (b"file",)}).tier == "full"
    with pytest.raises(EngineError, match="tier must be one of full, fast, got 'slow'"):
        MorphRequest((A, B), tier="slow")
