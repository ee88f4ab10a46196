"""SDEdit on a tiny network: what strength, masks, rounds and noise must do."""

import numpy as np
import pytest
import torch
from conftest import done, picture
from pictures import block, distance
from PIL import Image

import engine.methods.edit as method
from engine.diffusion.guidance import Conditioning
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import gaussian, generator, sample
from engine.requests import EditRequest
from engine.vision import images

GUIDE, PHOTO = picture(2, (64, 64)), picture(5, (64, 64))


def mask(box, value=255):
    out = Image.new("L", (64, 64))
    out.paste(value, box)
    return out


def away(a, b):
    """(H, W) the largest difference of any colour."""
    return np.abs(np.subtract(*block([a, b]), dtype=int)).max(2)


@pytest.fixture
def ask(tiny):
    return lambda **own: EditRequest(**{"guide": GUIDE, "model": str(tiny), "size": 64, "steps": 10} | own)


@pytest.fixture
def make(models):
    """The first frame of a request."""
    return lambda request: done(models, request).frames[0]


@pytest.fixture
def model(models, tiny):
    return models.load(str(tiny))


@torch.no_grad()
def encode(model, picture):
    return model.encode(images.to_tensor([picture]))


@torch.no_grad()
def test_strength_0_gives_the_guide_back_and_little_of_it_nearly_so(models, model, ask):
    none = done(models, ask(strength=0.0))
    assert not away(none.frames[0], GUIDE).any() and none.evaluations == 0 and none.quality == {"l2": 0}
    z, sigmas = encode(model, GUIDE), model.schedule.sigmas_from_strength(0.001, 10)
    x = z + sigmas[0] * gaussian(z.shape[1:], [generator(1)])
    (last,) = sample(model.denoiser([Conditioning(model.embed([""]))]), x, sigmas)
    assert float((last.x - z).abs().max()) < 0.3 and sigmas[0] < 0.06


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_strength_1_forgets_the_guide(make, ask, strength):
    a, b = (make(ask(guide=picture(i, (64, 64)), strength=strength, steps=4)) for i in (2, 3))
    assert away(a, b).any() == (strength < 1)


def test_the_guide_is_noised_to_the_sigma_of_its_strength(models, model, ask, monkeypatch):
    seen, walk, z = [], method.walk, encode(model, GUIDE)

    def spy(denoise, x, sigmas, *rest):
        seen.append((x, sigmas[0]))
        return walk(denoise, x, sigmas, *rest)

    monkeypatch.setattr(method, "walk", spy)
    for strength in (0.2, 0.9):
        done(models, ask(strength=strength, count=16, steps=4))
        x, sigma = seen.pop()
        noise = (x - z) / sigma
        assert sigma == model.schedule.sigma(strength)
        assert [float(noise.var()), float(noise.mean())] == pytest.approx([1, 0], abs=0.06)


@pytest.mark.parametrize("noise", ["fresh", "frozen"])
def test_a_mask_keeps_the_rest_to_the_last_bit(make, ask, noise):
    found = away(make(ask(photo=PHOTO, mask=mask((16, 16, 48, 48)), noise=noise, feather=4)), PHOTO)
    assert found[24:40, 24:40].mean() > 1
    found[16:48, 16:48] = 0
    assert not found.any()


def test_a_mask_of_everything_is_none(make, ask):
    assert not away(make(ask(mask=mask((0, 0, 64, 64)))), make(ask())).any()


def test_where_nothing_may_change_the_guide_is_the_photograph(make, ask):
    """A guide painted outside of the mask too: nothing of it may come in, not even through the network."""
    wild = PHOTO.copy()
    wild.paste((255, 0, 255), (32, 0, 64, 64))
    a, b = (make(ask(guide=g, photo=PHOTO, mask=mask((0, 0, 32, 64)))) for g in (PHOTO, wild))
    assert not away(a, b).any()


def test_paint_over_a_photograph_may_change_it_around(make, ask):
    paint = Image.new("RGBA", (64, 64))
    paint.paste((250, 20, 20, 255), (20, 20, 36, 36))
    narrow, wide = (away(make(ask(guide=paint, photo=PHOTO, around=a, feather=0)), PHOTO) > 0 for a in (2, 12))
    assert not narrow[:17].any() and not narrow[40:].any() and wide.sum() > narrow.sum() > 200


def test_a_soft_mask_is_a_strength_for_every_place(make, model, ask, monkeypatch):
    ends, decode = [], LatentDiffusion.decode
    monkeypatch.setattr(LatentDiffusion, "decode", lambda own, z: ends.append(z) or decode(own, z))
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1)))
    make(ask(mask=ramp, strength=0.9, steps=40))
    columns = (ends[0] - encode(model, GUIDE)).abs().mean((0, 1, 2))
    thirds = [float(columns[i : i + 3].mean()) for i in (0, 2, 5)]
    assert thirds == sorted(thirds) and thirds[2] > 3 * thirds[0], thirds


def test_a_half_strong_mask_still_sees_the_paint(make, model, ask, monkeypatch):
    """Where less than the whole strength is asked for, what is kept until then is the guide, not the photograph."""
    held, painted = [], GUIDE.copy()
    monkeypatch.setattr(method, "masked_step", lambda step, z, free, noise: held.append(z) or step)
    painted.paste((255, 0, 0), (16, 16, 48, 48))
    make(ask(guide=painted, photo=GUIDE, mask=mask((16, 16, 48, 48), 128)))
    assert torch.allclose(held[0], encode(model, painted), atol=1e-5)


def test_more_rounds_go_on_from_the_last(models, ask, monkeypatch):
    walked, walk = [], method.walk

    def spy(denoise, x, sigmas, *rest):
        end = yield from walk(denoise, x, sigmas, *rest)
        walked.append((x, sigmas[0], end))
        return end

    monkeypatch.setattr(method, "walk", spy)
    one, two = (done(models, ask(repeats=k, strength=0.4)) for k in (1, 2))
    assert two.evaluations == 2 * one.evaluations and torch.equal(walked[0][2], walked[1][2])
    (_, _, first), (x, sigma, _) = walked[1:]
    assert float(((x - first) / sigma).std()) == pytest.approx(1, abs=0.15)


def test_seeds_are_each_alone_and_have_fresh_noise(models, make, ask):
    several, again = (block(done(models, ask(count=3, eta=1.0)).frames) for _ in "ab")
    assert len({f.tobytes() for f in several}) == 3 and distance(several, again) == 0
    third = make(ask(seed=2, eta=1.0))
    assert np.abs(block([third])[0].astype(int) - several[2]).max() <= 1
    assert away(make(ask(seed=2)), third).any()


def test_odd_sizes_and_photographs_of_other_proportions(make, ask):
    given = {"guide": picture(1, (97, 61)), "photo": picture(2, (300, 50)), "mask": mask((0, 0, 9, 9)).resize((97, 61))}
    assert make(ask(steps=2, **given)).size in ((64, 32), (64, 48))
