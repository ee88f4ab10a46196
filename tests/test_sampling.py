"""The heart against the truth: an ideal denoiser over known points, and diffusers' DDIM."""

import pytest
import torch
from diffusers import DDIMScheduler

from benchmarks.tiny import schedule
from engine.diffusion.sampling import ancestral, euler, gaussian, generator, lcm_step, masked_step, sample

DATA = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.3, -2.0]]).view(3, 2, 1, 1)


def ideal(x, s):
    """E[x0 | x], exactly, when the data are three points."""
    distance = (x[:, None] - DATA[None]).square().sum((2, 3, 4)) / (2 * s * s)
    return torch.einsum("bn,nchw->bchw", torch.softmax(-distance.double(), 1).to(x), DATA)


def end(denoise, x, sigmas, step=euler):
    return [x, *(state.x for state in sample(denoise, x, sigmas, step))][-1]


def geometric(top, bottom, n):
    return torch.logspace(torch.tensor(top).log10(), torch.tensor(bottom).log10(), n).tolist()


def test_denoising_lands_on_the_data():
    x = 20 * gaussian((2, 1, 1), [generator(5, i) for i in range(64)])
    out = end(ideal, x, [*geometric(20.0, 0.01, 60), 0.0])
    assert (out[:, None] - DATA[None]).flatten(2).norm(dim=2).min(1).values.max() < 0.05


def test_inversion_is_the_way_backwards():
    x, sigmas, coarse = DATA + 0.1, geometric(10.0, 0.3, 400), geometric(10.0, 0.3, 40)
    there = end(ideal, x, sigmas[::-1])
    assert (there - x).abs().max() > 1  # it really went somewhere
    error, rough = ((end(ideal, end(ideal, x, way[::-1]), way) - x).abs().max() for way in (sigmas, coarse))
    assert error < 0.05 and error < rough


def test_a_step_goes_from_the_clean_picture_in_mind_by_what_is_left_of_the_noise():
    x0, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    first = next(sample(lambda x, s: x0, x0 + 3 * eps, [3.0, 1.0]))
    assert torch.equal(first.x0, x0) and torch.allclose(first.x, x0 + eps, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_is_that_of_diffusers_ddim(eta):
    scheduler = DDIMScheduler.from_config(schedule().config, set_alpha_to_one=True)
    scheduler.set_timesteps(12)
    abar = scheduler.alphas_cumprod
    sigmas = [float(((1 - abar[t]) / abar[t]) ** 0.5) for t in scheduler.timesteps] + [0.0]

    def eps(x, s):  # any function of the picture and the sigma will do
        return torch.tanh(x / (1 + s * s) ** 0.5) + 0.1 * s / (1 + s)

    theirs, draw = torch.randn(1, 4, 8, 8, generator=generator(1)), generator(3)
    x = theirs * (1 + sigmas[0] ** 2) ** 0.5
    for t, s in zip(scheduler.timesteps, sigmas, strict=False):
        noise, seen = gaussian((4, 8, 8), [draw]), eps(theirs * (1 + s * s) ** 0.5, s)
        theirs = scheduler.step(seen, t, theirs, eta=eta, variance_noise=noise).prev_sample
    ours = end(lambda x, s: x - s * eps(x, s), x, sigmas, ancestral(eta, [generator(3)]) if eta else euler)
    assert torch.allclose(ours, theirs, atol=2e-3 if eta else 1e-4)


def test_generators_are_their_keys():
    a, b, c = (gaussian((5,), [generator(*key)]) for key in ((1, 2, 3), (1, 2, 3), (1, 3, 2)))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_consistency_step_has_fresh_noise_of_the_next_sigma():
    x, x0 = torch.full((2, 4, 8, 8), 3.0), torch.ones(2, 4, 8, 8)
    step, noise = lcm_step([generator(1), generator(2)]), gaussian((4, 8, 8), [generator(1), generator(2)])
    assert torch.allclose(step(x, x0, 2.0, 0.5), 1.0 + 0.5 * noise) and torch.equal(step(x, x0, 2.0, 0.0), x0)


def test_the_masked_step_holds_what_is_not_free_at_every_sigma():
    z, free = torch.full((1, 1, 2, 2), 3.0), torch.tensor([[[[9.0, 1.0], [0.0, 0.0]]]])
    noise, x = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    step = masked_step(euler, z, free, lambda: noise)
    cells = [s.x[0, 0].flatten().tolist() for s in sample(lambda x, s: x, x, [4.0, 2.0, 1.0, 0.5, 0.0], step)]
    assert [c[0] for c in cells] == [0, 0, 0, 0]  # free from the start
    assert [c[1] for c in cells] == [5, 4, 4, 4]  # joins at sigma 1, from z + 1·noise
    assert [c[2] for c in cells] == [5, 4, 3.5, 3]  # kept: z at the new sigma, z itself in the end
