"""Hooks into the network: recording, mixing, and leaving no trace."""

from dataclasses import replace

import pytest
import torch

from engine.diffusion import attention, memory
from engine.diffusion.guidance import Conditioning
from engine.diffusion.words import Words


@pytest.fixture(scope="module")
def model(tiny, models):
    return models.load(str(tiny))


@pytest.fixture
def chunked(model, monkeypatch):
    """The same model, two rows a time."""
    monkeypatch.setattr(model.resident, "plan", replace(model.resident.plan, rows=2))
    return model


def rows(n):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(n, 4, 8, 8, generator=draw), Words(torch.randn(n, 24, 32, generator=draw))


@torch.no_grad()
def record(model, x, embeds, s=1.5):
    with attention.record(model, {s}) as features:
        out = model.denoiser([Conditioning(embeds)])(x, s)
    return out, features


@torch.no_grad()
def mix(model, x, embeds, features, weights, own=0.0, s=1.5):
    with attention.mix(model, features, own):
        return model.denoiser([Conditioning(embeds, attention_weights=weights)])(x, s)


def test_the_decoders_self_attentions_and_no_others(model):
    found = attention.self_attentions(model.unet)
    assert found and all(n.startswith("up_blocks") and n.endswith("attn1") for n in found)


def test_a_picture_that_looks_at_itself_is_itself(model):
    x, embeds = rows(2)
    out, features = record(model, x, embeds)
    itself, other = torch.eye(2), torch.eye(2).flip(0)
    assert torch.allclose(mix(model, x, embeds, features, itself), out, atol=2e-3)  # kept in half precision
    assert not torch.allclose(mix(model, x, embeds, features, other), out, atol=2e-3)
    # β = 1 looks at nobody but itself.
    assert torch.allclose(mix(model, x, embeds, features, other, own=1.0), out, atol=1e-5)


@torch.no_grad()
def test_the_mix_is_what_is_written(model):
    """h = own·x + (1 − own)·Σ weight·feature, by what really enters the layer."""
    x, embeds = rows(2)
    _, features = record(model, x, embeds)
    name, layer = next(iter(attention.self_attentions(model.unet).items()))
    seen, weights = [], torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    with attention.mix(model, features, 0.25):
        handle = layer.register_forward_pre_hook(lambda m, a, kw: seen.append((a, kw)), with_kwargs=True)
        model.denoiser([Conditioning(embeds, attention_weights=weights)])(x, 1.5)
        handle.remove()
    args, kwargs = seen[0]
    own = args[0] if args else kwargs["hidden_states"]
    expected = 0.25 * own + 0.75 * torch.einsum("nk,ktc->ntc", weights, features[name, 1.5].float())
    assert torch.allclose(kwargs["encoder_hidden_states"], expected, atol=1e-5)


@torch.no_grad()
def test_other_sigmas_and_rows_without_weights_are_untouched(model):
    x, embeds = rows(2)
    _, features = record(model, x, embeds)
    plain = model.denoiser([Conditioning(embeds)])
    for s, weights in ((3.0, torch.ones(1, 2) / 2), (1.5, None)):
        assert torch.equal(mix(model, x, embeds, features, weights, s=s), plain(x, s))
    with pytest.raises(ZeroDivisionError), attention.mix(model, features):
        raise ZeroDivisionError
    assert not any(m._forward_pre_hooks for m in model.unet.modules())


def test_chunks_do_not_change_what_is_recorded_or_mixed(model, request):
    x, embeds = rows(5)
    _, whole = record(model, x, embeds)
    weights = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).softmax(1)
    together = mix(model, x, embeds, whole, weights)
    chunked = request.getfixturevalue("chunked")
    _, parts = record(chunked, x, embeds)
    assert whole.keys() == parts.keys() and all(torch.allclose(whole[k], parts[k], atol=2e-3) for k in whole)
    assert torch.allclose(mix(chunked, x, embeds, whole, weights), together, atol=1e-4)


@torch.no_grad()
def test_what_is_kept_is_where_it_is_asked_for_and_as_large_as_was_said(model):
    x, embeds = rows(2)
    with attention.record(model, {1.5, 3.0}, torch.device("meta")) as features:
        for s in (1.5, 3.0):
            model.denoiser([Conditioning(embeds)])(x, s)
    assert {t.device.type for t in features.values()} == {"meta"}
    assert sum(t.nbytes for t in features.values()) == 2 * 2 * attention.per_step(model.unet, x)


def test_what_does_not_fit_waits_outside_or_is_left_out_and_that_is_said(model, monkeypatch):
    x, _ = rows(2)
    step, resident = 2 * attention.per_step(model.unet, x), model.resident
    monkeypatch.setattr(resident, "plan", replace(resident.plan, spare=9 * step))
    assert attention.keeping(model, x, 9) == (9, resident.device, ())
    monkeypatch.setattr(memory, "outside", lambda waiting: 20 * step + waiting - resident.bytes)
    assert attention.keeping(model, x, 12) == (12, resident.device, ())  # a CPU's own memory is that outside
    fewer = attention.keeping(model, x, 30)
    assert (
        fewer[:2] == (20, resident.device) and "only the first 20 of 30 steps look at both pictures" in fewer.notes[0]
    )
    monkeypatch.setattr(resident, "device", torch.device("cuda"))
    assert attention.keeping(model, x, 9) == (9, torch.device("cuda"), ())
    monkeypatch.setattr(memory, "outside", lambda waiting: 20 * step + waiting)
    moved = attention.keeping(model, x, 12)  # nothing waits there: its plan has all parts on the card
    assert moved[:2] == (12, torch.device("cpu")) and "waits outside cuda, which is full" in moved.notes[0]


@torch.no_grad()
def test_plain_products_are_the_same_attention_and_do_not_stay(model):
    x, embeds = rows(2)
    fused, processors = model.denoiser([Conditioning(embeds)])(x, 1.5), model.unet.attn_processors
    with attention.plain_products(model.unet):
        assert torch.allclose(model.denoiser([Conditioning(embeds)])(x, 1.5), fused, atol=1e-4)
    assert model.unet.attn_processors == processors
