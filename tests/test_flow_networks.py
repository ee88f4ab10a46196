"""The seam for flow networks (docs/flow.md): their velocity as x0, walked by the heart as it is."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from engine.diffusion.sampling import gaussian, generator, sample

PURE = 2.0**26  # where pure noise stands, t = 1: nothing of the picture is left in single precision


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    sizes = {"attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16, "num_layers": 2}
    texts = {"joint_attention_dim": 12, "pooled_projection_dim": 10}
    made = SD3Transformer2DModel(sample_size=8, pos_embed_max_size=8, in_channels=16, **sizes, **texts).eval()
    torch.nn.init.normal_(made.proj_out.weight, std=0.3)  # or it says too little to matter
    return made


@torch.no_grad()
def test_a_velocity_turned_into_x0_walks_as_the_flow_does(network):
    """x0 = z − t·v of z = x/(1 + σ) at t = σ/(1 + σ), eight steps at SD3's shift."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(8)
    noise, words, pooled = (gaussian(s, [generator(7)]) for s in ((16, 8, 8), (5, 12), (10,)))

    def velocity(z, t):
        return network(z, words, pooled, timestep=1000 * t.expand(1), return_dict=False)[0]

    def denoise(x, s):
        t, z = s / (1 + s), x / (1 + s)
        return z - t * velocity(z, torch.tensor(t))

    sigmas = [t / (1 - t) if t < 1 else PURE for t in scheduler.sigmas.double().tolist()]
    steps, z = sample(denoise, noise * (1 + PURE), sigmas), noise
    for step, t, s in zip(steps, scheduler.timesteps, sigmas[1:], strict=True):
        z = scheduler.step(velocity(z, t / 1000), t, z).prev_sample
        assert torch.allclose(step.x / (1 + s), z, atol=1e-5)
    assert (z - noise).abs().max() > 0.5 and torch.equal(step.x, step.x0)  # it really went somewhere, to the end
