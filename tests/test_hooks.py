"""Hooks into the network: recording, blending, and leaving no trace."""

import pytest
import torch

from engine.diffusion import attention as hooks
from engine.diffusion.model import Row


@pytest.fixture(scope="module")
def net(tiny, models):
    return models.load(str(tiny))


def rows(n):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(n, 4, 8, 8, generator=draw), torch.randn(n, 24, 32, generator=draw)


@torch.no_grad()
def record(net, x, words, level=1.5, batch=None):
    kept, net.batch = net.batch, batch or net.batch
    try:
        with hooks.recorded(net, {level}) as features:
            out = net.field([Row(words)])(x, level)
    finally:
        net.batch = kept
    return out, features


@torch.no_grad()
def blend(net, x, words, features, weights, own=0.0, level=1.5):
    with hooks.blended(net, features, own):
        return net.field([Row(words, blend=weights)])(x, level)


def test_the_decoders_self_attentions_and_no_others(net):
    found = hooks.self_attentions(net.unet)
    assert found and all(n.startswith("up_blocks") and n.endswith("attn1") for n in found)


def test_a_picture_that_looks_at_itself_is_itself(net):
    x, words = rows(2)
    out, features = record(net, x, words)
    assert torch.allclose(blend(net, x, words, features, torch.eye(2)), out, atol=2e-3)  # kept in half precision
    assert not torch.allclose(blend(net, x, words, features, torch.eye(2).flip(0)), out, atol=2e-3)
    # β = 1 looks at nobody but itself.
    assert torch.allclose(blend(net, x, words, features, torch.eye(2).flip(0), own=1.0), out, atol=1e-5)


def test_the_mix_is_what_is_written(net):
    """h = own·x + (1 − own)·Σ blend·feature, by what really enters the layer."""
    x, words = rows(2)
    _, features = record(net, x, words)
    name, layer = next(iter(hooks.self_attentions(net.unet).items()))
    seen = []
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    with hooks.blended(net, features, 0.25):
        handle = layer.register_forward_pre_hook(lambda m, a, kw: seen.append((a, kw)), with_kwargs=True)
        with torch.no_grad():
            net.field([Row(words, blend=weights)])(x, 1.5)
        handle.remove()
    (args, kwargs), kept = seen[0], features[name, 1.5].float()
    own = args[0] if args else kwargs["hidden_states"]
    expected = 0.25 * own + 0.75 * torch.einsum("nk,ktc->ntc", weights, kept)
    assert torch.allclose(kwargs["encoder_hidden_states"], expected, atol=1e-5)


def test_other_levels_and_rows_without_a_blend_are_untouched(net):
    x, words = rows(2)
    _, features = record(net, x, words)
    with torch.no_grad():
        plain = net.field([Row(words)])(x, 3.0)
        assert torch.equal(blend(net, x, words, features, torch.ones(1, 2) / 2, level=3.0), plain)
        with hooks.blended(net, features):
            assert torch.equal(net.field([Row(words)])(x, 3.0), plain)
    assert not any(m._forward_pre_hooks for m in net.unet.modules())


def test_chunks_do_not_change_what_is_recorded_or_blended(net):
    x, words = rows(5)
    _, whole = record(net, x, words)
    _, parts = record(net, x, words, batch=2)
    assert whole.keys() == parts.keys() and all(torch.allclose(whole[k], parts[k], atol=2e-3) for k in whole)
    weights = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).softmax(1)
    together = blend(net, x, words, whole, weights)
    kept, net.batch = net.batch, 2
    try:
        assert torch.allclose(blend(net, x, words, whole, weights), together, atol=1e-4)
    finally:
        net.batch = kept


def test_weights_come_back_after_an_error(net):
    name, own = next(iter(net.unet.named_parameters()))
    before = own.data_ptr()
    with pytest.raises(ZeroDivisionError), hooks.weights(net.unet, {name: torch.zeros_like(own)}):
        assert not own.any()
        raise ZeroDivisionError
    assert own.data_ptr() == before
