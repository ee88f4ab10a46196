"""A network in plain terms, on tiny checkpoints of the real classes in the real folder format."""

from dataclasses import replace

import pytest
import torch
from conftest import make_network
from diffusers import DDIMScheduler

from benchmarks.tiny import schedule
from engine.checkpoints.manager import ModelManager
from engine.diffusion.guidance import Conditioning, classifier_free
from engine.diffusion.residency import swap
from engine.diffusion.sampling import sample


@pytest.fixture(scope="module")
def model(tiny, models):
    return models.load(str(tiny))


@pytest.fixture
def chunked(model, monkeypatch):
    """The same model, three rows a time."""
    monkeypatch.setattr(model.resident, "plan", replace(model.resident.plan, rows=3))
    return model


def latents(n=2, size=8, seed=0):
    return torch.randn(n, 4, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_sizes_come_from_the_configs(model):
    assert (model.vae_scale_factor, model.channels, model.concat_channels, model.size, model.multiple) == (
        8,
        4,
        0,
        64,
        16,
    )
    x = torch.rand(3, 3, 32, 48) * 2 - 1
    z = model.encode(x)
    assert z.shape == (3, 4, 4, 6) and model.decode(z).shape == x.shape


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "v_prediction at zero terminal SNR"])
@torch.no_grad()
def test_the_whole_walk_is_diffusers_ddim(tmp_path, prediction):
    folder = make_network(tmp_path / "net", prediction.split()[0])
    if "zero" in prediction:
        own = schedule(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
        own.save_pretrained(folder / "scheduler")
    model = ModelManager("cpu", torch.float32).load(str(folder))
    embeds, sigmas = model.embed(["a rose", "tulip"]), model.schedule.sigmas(5)
    scheduler = DDIMScheduler.from_config(model.schedule.config, set_alpha_to_one=True)
    scheduler.set_timesteps(5)
    theirs = latents()
    x = theirs * (1 + sigmas[0] ** 2) ** 0.5
    for t in scheduler.timesteps:
        theirs = scheduler.step(model.unet(theirs, t, encoder_hidden_states=embeds).sample, t, theirs).prev_sample
    for state in sample(model.denoiser([Conditioning(embeds)]), x, sigmas):
        x = state.x
    assert torch.allclose(x, theirs, atol=1e-3)


@torch.no_grad()
def test_under_noise_alone_v_is_read_without_losing_digits(tmp_path, monkeypatch):
    """At σ in the thousands x0 by way of the noise would be off by σ times what half precision rounds away."""
    model = ModelManager("cpu", torch.float32).load(str(make_network(tmp_path / "net", "v_prediction")))
    x0, eps, row = latents(seed=1), latents(seed=2), [Conditioning(model.embed(["a rose"]))]
    for s in (0.1, 14.6, 4096.0):
        v = ((eps - s * x0) / (1 + s * s) ** 0.5).bfloat16().float()
        monkeypatch.setattr(model, "_output", lambda *args, v=v: v)
        x = x0 + s * eps
        assert torch.allclose(model.denoiser(row)(x, s), x0, atol=0.02)
        assert torch.allclose(model.eps(x, torch.full((2,), s), row), eps, atol=0.02)


@torch.no_grad()
def test_guidance_is_u_plus_g_times_c_minus_u(model):
    cond, uncond = model.embed(["a rose"]), model.embed([""])
    x, s = latents(), 2.0
    c, u = (model.denoiser([Conditioning(e)])(x, s) for e in (cond, uncond))
    for g in (0.0, 2.5):
        assert torch.allclose(model.denoiser(classifier_free(cond, uncond, g))(x, s), u + g * (c - u), atol=1e-4)
    before = model.evaluations
    model.denoiser(classifier_free(cond, uncond, 1.0))(x, s)
    assert model.evaluations - before == 2  # no unconditional rows when guidance is off


@torch.no_grad()
def test_weights_may_differ_from_place_to_place(model):
    a, b = model.embed(["a rose"]), model.embed(["a tulip"])
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    x = latents()
    mixed = model.denoiser([Conditioning(a, left), Conditioning(b, 1 - left)])(x, 2.0)
    one, other = (model.denoiser([Conditioning(e)])(x, 2.0) for e in (a, b))
    assert torch.allclose(mixed, torch.cat([one[..., :4], other[..., 4:]], 3), atol=1e-5)


@torch.no_grad()
def test_chunks_do_not_change_the_picture(model, request):
    rows, x = classifier_free(model.embed(["a rose"]), model.embed([""]), 3.0), latents(7)
    whole = model.denoiser(rows)(x, 1.5)
    assert torch.allclose(request.getfixturevalue("chunked").denoiser(rows)(x, 1.5), whole, atol=1e-4)


@torch.no_grad()
def test_every_picture_may_have_a_sigma_of_its_own(chunked):
    x, s = latents(4), torch.tensor([0.3, 1.1, 7.0, 1.1]).double()
    rows = classifier_free(chunked.embed(["a rose"]), chunked.embed([""]), 3.0)
    together = chunked.eps(x, s, rows)
    for i, own in enumerate(s.tolist()):
        alone = x[i : i + 1]
        assert torch.allclose(together[i : i + 1], (alone - chunked.denoiser(rows)(alone, own)) / own, atol=1e-4)


@torch.no_grad()
def test_latents_beside_the_noise_and_the_missing_one(tmp_path):
    model = ModelManager("cpu", torch.float32).load(str(make_network(tmp_path / "net", extra=8)))
    assert model.sees_drawings
    embeds, x, null = model.embed(["a rose"]), latents(), model.null_latent((8, 8))
    assert torch.allclose(null, model.encode(torch.zeros(1, 3, 64, 64)), atol=1e-5)

    def seen(concat):
        return model.denoiser([Conditioning(embeds, concat_latents=concat)])(x, 1.0)

    assert torch.allclose(seen(None), seen(torch.cat([null, null], 1)), atol=1e-5)
    assert not torch.allclose(seen(None), seen(torch.cat([latents(1, seed=3), null], 1)), atol=1e-3)


@torch.no_grad()
def test_the_previewer_is_the_best_linear_look(model):
    colours = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = torch.nn.functional.interpolate(colours, scale_factor=8)
    z = torch.cat([colours, latents(2)[:, :1]], 1)  # colours, as latents hold them, and noise
    seen = model.previewer(z, x)(z)
    assert seen.shape == (2, 3, 32, 32)
    small = torch.nn.functional.avg_pool2d(seen, 4)
    assert (small - colours).abs().mean() < 0.35 * colours.abs().mean()


@torch.no_grad()
def test_long_prompts_are_cut_and_told(model):
    assert model.overlong(["a rose", ""]) == []
    said = f"the prompt “rose rose rose rose …” is 138 tokens too long for {model.name}; its end was left out"
    assert model.overlong(["a rose", "rose " * 40]) == [said]
    assert model.embed(["rose " * 500]).shape[1] == model.max_tokens


def test_weights_come_back_after_an_error(model):
    name, own = next(iter(model.unet.named_parameters()))
    before = own.data_ptr()
    with pytest.raises(ZeroDivisionError), swap(model.unet, {name: torch.zeros_like(own)}):
        assert not own.any()
        raise ZeroDivisionError
    assert own.data_ptr() == before


def test_a_fingerprint_is_of_the_weights_and_not_of_the_folder(tmp_path, model):
    manager = ModelManager("cpu", torch.float32)
    same, other = (manager.load(str(make_network(tmp_path / f"{seed}", seed=seed))) for seed in (0, 1))
    assert same.fingerprint == model.fingerprint != other.fingerprint
