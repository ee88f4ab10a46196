"""The heart against the truth: an ideal denoiser over known points, and diffusers' DDIM."""

import pytest
import torch
from diffusers import DDIMScheduler

from engine.diffusion.sampling import ancestral, euler, flow, gaussian, generator, renoised

DATA = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.3, -2.0]]).view(3, 2, 1, 1)


def ideal(x, s):
    """The exact noise in x when the data are three points: (x − E[x0 | x]) / σ."""
    distance = (x[:, None] - DATA[None]).square().sum((2, 3, 4)) / (2 * s * s)
    weights = torch.softmax(-distance.double(), 1).to(x)
    return (x - torch.einsum("bn,nchw->bchw", weights, DATA)) / s


def walk(field, x, levels, step=euler):
    for state in flow(field, x, levels, step):
        x = state.x
    return x


def geometric(top, bottom, n):
    return torch.logspace(torch.tensor(top).log10(), torch.tensor(bottom).log10(), n).tolist()


def test_denoising_lands_on_the_data():
    x = 20 * gaussian((2, 1, 1), [generator(5, i) for i in range(64)])
    out = walk(ideal, x, [*geometric(20.0, 0.01, 60), 0.0])
    nearest = (out[:, None] - DATA[None]).flatten(2).norm(dim=2).min(1).values
    assert nearest.max() < 0.05


def test_inversion_is_the_flow_backwards():
    levels = geometric(10.0, 0.3, 400)
    x = DATA + 0.1
    there = walk(ideal, x, levels[::-1])
    assert (there - x).abs().max() > 1  # it really went somewhere
    error = (walk(ideal, there, levels) - x).abs().max()
    coarse = geometric(10.0, 0.3, 40)
    coarse_error = (walk(ideal, walk(ideal, x, coarse[::-1]), coarse) - x).abs().max()
    assert error < 0.05 and error < coarse_error


def test_x0_is_the_clean_picture_in_mind():
    x0, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    first = next(flow(lambda x, s: eps, x0 + 3.0 * eps, [3.0, 1.0]))
    assert torch.allclose(first.x0, x0, atol=1e-5)
    assert torch.allclose(first.x, x0 + eps, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_our_step_is_diffusers_ddim(eta):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(12)
    abar = scheduler.alphas_cumprod
    sigmas = [float(((1 - abar[t]) / abar[t]) ** 0.5) for t in scheduler.timesteps] + [0.0]
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * (1 + sigmas[0] ** 2) ** 0.5

    def field(x, s):  # any function of the picture and the level will do
        return torch.tanh(x / (1 + s * s) ** 0.5) + 0.1 * s / (1 + s)

    theirs = x / (1 + sigmas[0] ** 2) ** 0.5
    draw = generator(3)
    for t, s in zip(scheduler.timesteps, sigmas, strict=False):
        noise = gaussian((4, 8, 8), [draw])
        theirs = scheduler.step(
            field(theirs * (1 + s * s) ** 0.5, s), t, theirs, eta=eta, variance_noise=noise
        ).prev_sample
    ours = walk(field, x, sigmas, ancestral(eta, [generator(3)]) if eta else euler)
    assert torch.allclose(ours, theirs, atol=2e-3 if eta else 1e-4)


def test_generators_are_their_keys():
    a, b, c = (gaussian((5,), [generator(*key)]) for key in ((1, 2, 3), (1, 2, 3), (1, 3, 2)))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_consistency_step_has_fresh_noise_of_the_next_level():
    x, d, shape = torch.full((2, 4, 8, 8), 3.0), torch.ones(2, 4, 8, 8), (4, 8, 8)
    step = renoised([generator(1), generator(2)])
    out = step(x, d, 2.0, 0.5)
    noise = gaussian(shape, [generator(1), generator(2)])
    assert torch.allclose(out, 1.0 + 0.5 * noise) and torch.allclose(step(x, d, 2.0, 0.0), torch.ones_like(x))
