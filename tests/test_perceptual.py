"""The perceptual distance over the resident network's features."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderDC

from benchmarks.tiny import make_flora
from engine.vision.perceptual import arc, distance, even, features, quality, steps


@pytest.fixture(scope="module")
def model(tiny, models):
    return models.load(str(tiny))


def pictures(n, seed=0):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_it_is_a_distance(model):
    x, y = pictures(3), pictures(3, 1)
    assert torch.allclose(distance(model, x, x), torch.zeros(3), atol=1e-6)
    assert torch.allclose(distance(model, x, y), distance(model, y, x), atol=1e-6)
    assert (distance(model, x, y) > 0).all()


@pytest.fixture(scope="module")
def flora(tmp_path_factory, models):
    """A tiny network with an encoder like flora's, whose first stage is its first convolution alone."""
    folder = make_flora(tmp_path_factory.mktemp("networks") / "flora")
    widths = {f"{side}_block_out_channels": (8, 8, 16, 16) for side in ("encoder", "decoder")}
    layers = {"encoder_layers_per_block": (0, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1)}
    kinds = {f"{side}_block_types": "ResBlock" for side in ("encoder", "decoder")}
    plain = {f"{side}_qkv_multiscales": ((),) * 4 for side in ("encoder", "decoder")}
    torch.manual_seed(0)
    vae = AutoencoderDC(latent_channels=4, attention_head_dim=8, **widths | layers | kinds | plain)
    vae.save_pretrained(folder / "vae")
    return models.load(str(folder))


@torch.no_grad()
def test_a_first_stage_without_blocks_is_its_convolution(flora):
    x, y = pictures(2), pictures(2, 1)
    assert torch.equal(features(flora, x), flora.vae.encoder.conv_in(x))
    apart = (flora.vae.encoder.conv_in(x) - flora.vae.encoder.conv_in(y)).norm(dim=1).mean((1, 2))
    assert torch.allclose(distance(flora, x, y), apart, atol=1e-5)
    assert torch.allclose(distance(flora, x, x), torch.zeros(2), atol=1e-6)


@torch.no_grad()
def test_it_grows_along_a_fade(model):
    a, b = pictures(1), pictures(1, 1)
    steps = torch.cat([distance(model, a, a + (b - a) * w) for w in (0.1, 0.3, 0.6, 1.0)])
    assert (steps.diff() > 0).all()


@torch.no_grad()
def test_chunks_do_not_change_it(model, monkeypatch):
    x, y = pictures(5), pictures(5, 1)
    whole = distance(model, x, y)
    monkeypatch.setattr(model.resident, "plan", replace(model.resident.plan, pictures=4))
    assert torch.allclose(distance(model, x, y), whole, atol=1e-5)


def test_even_steps_on_a_curve_known_in_closed_form():
    """Places w whose looks move as w²: even steps in looks stand at √."""
    places = [i / 64 for i in range(65)]
    lengths = [(b * b - a * a) * 3 for a, b in pairwise(places)]
    assert arc(places, lengths) == pytest.approx([w * w for w in places])
    found = even(places, lengths, 9)
    assert found == pytest.approx([(i / 8) ** 0.5 for i in range(9)], abs=0.01)
    assert found[0] == 0 and found[-1] == 1


def test_the_arc_and_its_inverse_are_each_others():
    places, lengths = [0.0, 0.1, 0.5, 0.6, 1.0], [1.0, 0.0, 4.0, 2.0]
    shares = arc(places, lengths)
    assert shares == pytest.approx([0, 1 / 7, 1 / 7, 5 / 7, 1])
    assert even(places, lengths, 8)[1] in (pytest.approx(0.1), pytest.approx(0.5))
    assert even(places, lengths, 8)[5] == pytest.approx(0.6)


def test_a_way_without_length_is_walked_evenly():
    """Identical frames: the published code divides by zero."""
    assert even([0.0, 0.5, 1.0], [0.0, 0.0], 5) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@torch.no_grad()
def test_quality_of_a_fade_is_that_of_a_fade(model):
    keys = pictures(2)
    fade = torch.stack([torch.lerp(keys[0], keys[1], w) for w in (0.0, 0.25, 0.5, 0.75, 1.0)])
    q = quality(model, fade, keys, (0, 4))
    assert q["length"] == q["fade_length"] > 0 and q["variance"] == q["fade_variance"] and q["ends"] == 0
    apart = steps(model, fade)
    assert q["length"] == pytest.approx(float(apart.sum()), rel=1e-3)
    assert q["variance"] == pytest.approx(float(apart.var(correction=0)), rel=1e-3)


@torch.no_grad()
def test_quality_sees_a_jump_a_detour_and_ends_that_are_off(model):
    keys, other = pictures(2), pictures(1, 7)
    jump = quality(model, torch.cat([keys[:1]] * 3 + [keys[1:]] * 2), keys, (0, 4))
    assert jump["variance"] > 10 * max(jump["fade_variance"], 1e-9)
    detour = quality(model, torch.cat([keys[:1], other, keys[1:]]), keys, (0, 2))
    assert detour["length"] > 1.3 * detour["fade_length"]
    assert quality(model, torch.cat([other, keys[1:]]), keys, (0, 1))["ends"] > 0
    loop = quality(model, torch.cat([keys[:1], keys[1:]]), keys, (0, 1), loop=True)
    apart = float(distance(model, keys[:1], keys[1:]))
    assert loop["length"] == loop["fade_length"] == pytest.approx(2 * apart, rel=1e-3)


@torch.no_grad()
def test_no_memory_for_measuring_costs_the_figures_and_not_the_way(model, monkeypatch):
    def failing(error):
        def fn(*args):
            raise error

        monkeypatch.setattr("engine.vision.perceptual.features", fn)
        return quality(model, frames, frames[[0, 2]], (0, 2))

    frames = pictures(3)
    assert failing(torch.OutOfMemoryError("CUDA out of memory")) == {}
    with pytest.raises(RuntimeError, match="a bug"):
        failing(RuntimeError("a bug"))
