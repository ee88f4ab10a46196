"""A network in plain terms, on tiny checkpoints of the real classes in the real folder format."""

from dataclasses import replace

import pytest
import torch
from conftest import make_network
from diffusers import DDIMScheduler

from benchmarks.tiny import ZERO_SNR, schedule
from engine.checkpoints.manager import ModelManager
from engine.diffusion.guidance import Conditioning, classifier_free, combine
from engine.diffusion.preview import linear_look
from engine.diffusion.sampling import invert, sample
from engine.diffusion.weights import swap
from engine.diffusion.words import Words


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


V = {"prediction_type": "v_prediction"}
SCHEDULES = {"epsilon": {}, "v_prediction": V, "zero terminal SNR": V | ZERO_SNR}


@pytest.fixture(params=SCHEDULES)
def ddim(request, tmp_path):
    """A network of each kind, and its whole walk by diffusers: (x of unit variance, embeddings) → latents.

    The last level of zero SNR stands at ā = 2⁻²⁴ there too, as in diffusers' Euler scheduler, and the walk ends
    without noise."""
    folder = make_network(tmp_path / "net")
    schedule(**SCHEDULES[request.param]).save_pretrained(folder / "scheduler")
    model = ModelManager("cpu", torch.float32).load(str(folder))
    scheduler = DDIMScheduler.from_config(model.schedule.config, set_alpha_to_one=True)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double().clamp(min=2**-24)
    scheduler.set_timesteps(20)

    def walk(x, embeds):
        for t in scheduler.timesteps:
            out = model.unet(x.float(), t, encoder_hidden_states=embeds.embeds).sample
            x = scheduler.step(out.double(), t, x.double()).prev_sample
        return x.float()

    return model, walk


@torch.no_grad()
def test_the_whole_walk_is_diffusers_ddim(ddim):
    (model, theirs), x = ddim, latents()
    embeds, sigmas = model.embed(["a rose", "tulip"]), model.schedule.sigmas(20)
    *_, last = sample(model.denoiser([Conditioning(embeds)]), x * (1 + sigmas[0] ** 2) ** 0.5, sigmas)
    assert torch.allclose(last.x, theirs(x, embeds), atol=1e-4)


@torch.no_grad()
def test_what_is_inverted_comes_back_by_diffusers_ddim(ddim):
    (model, theirs), z = ddim, latents()
    embeds, sigmas = model.embed(["a rose", "tulip"]), model.schedule.sigmas(20)
    denoise = model.denoiser([Conditioning(embeds)])
    errors = []
    for n in (1, 3, 30):
        *_, last = invert(denoise, z, sigmas[::-1], n)
        errors.append(float((theirs(last.x / (1 + sigmas[0] ** 2) ** 0.5, embeds) - z).abs().max()))
    assert errors[2] < 1e-4 and errors[2] < errors[1] < errors[0], errors
    walked = sum(1 for _ in invert(denoise, z, sigmas[::-1], 3))
    assert walked == 20 * 3  # a state an evaluation, for the progress bar


@torch.no_grad()
def test_learning_compares_what_the_network_itself_predicts(ddim):
    """ε, or v = √ā·ε − √(1−ā)·z (Salimans & Ho 2022), at all levels to the last."""
    (model, _), z, noise = ddim, latents(), latents(seed=4)
    row = Conditioning(model.embed(["a rose", "tulip"]))
    for t in (0, 400, 999):
        sigma = model.schedule.training[[t, t]]
        abar = (1 / (1 + sigma**2)).float().view(-1, 1, 1, 1)
        out = model.unet(abar.sqrt() * z + (1 - abar).sqrt() * noise, t, encoder_hidden_states=row.words.embeds)
        epsilon = model.schedule.prediction == "epsilon"
        target = noise if epsilon else abar.sqrt() * noise - (1 - abar).sqrt() * z
        expected = (out.sample - target).square().mean((1, 2, 3))
        assert torch.allclose(model.errors(z, noise, sigma, [row]), expected, rtol=1e-3)


@torch.no_grad()
def test_strong_guidance_is_rescaled_where_the_last_level_is_noise_alone(ddim):
    """Lin et al. 2024, eq. 14 to 16; up to 4 nothing changes."""
    (model, _), x, s = ddim, latents(), 2.0
    cond, uncond = model.embed(["a rose"]), model.embed([""])
    one, at = torch.full((2,), s, dtype=torch.float64), model._output
    c, u = (at(x, one, [Conditioning(e)]) for e in (cond, uncond))
    for g in (4.0, 7.5):
        plain = u + g * (c - u)
        phi = 0.7 if g > 4 and model.schedule.zero_terminal_snr else 0.0
        scaled = plain * c.std((1, 2, 3), keepdim=True) / plain.std((1, 2, 3), keepdim=True)
        found = at(x, one, classifier_free(cond, uncond, g))
        assert torch.allclose(found, phi * scaled + (1 - phi) * plain, atol=1e-4)


def test_guidance_by_the_words_is_rescaled_and_none_by_drawings():
    """Every picture by its own guidance, whatever else is mixed: towards the deviation that it has without."""
    rows, embeds = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), Words(torch.zeros(1, 2, 3))

    def made(*weights, rescaled=True):
        return combine(rows[: len(weights)], [Conditioning(embeds, *w) for w in weights], rescaled)

    def same(*weights):
        return torch.equal(made(*weights), made(*weights, rescaled=False))

    assert same((-5.0,), (6.0,)) and same((6.0,), (-6.0,), (1.0,)) and same((4.0, 1.0), (-3.0, 0.0))
    drawn = (7.0, 2.0), (-5.0, 0.0), (-1.0,)  # guidance 6 on top of a drawing's own rows
    out, plain = made(*drawn), made(*drawn, rescaled=False)
    without = made((2.0,), (0.0,), (-1.0,))
    scaled = plain * without.std((1, 2, 3), keepdim=True) / plain.std((1, 2, 3), keepdim=True)
    assert torch.allclose(out, 0.7 * scaled + 0.3 * plain, atol=1e-5)
    mixed = torch.ones(2, 1, 8, 8)
    mixed[0, :, :4] = 6.0  # of the first picture a half
    out, plain = (made((mixed, 1.0), (1 - mixed, 0.0), rescaled=r) for r in (True, False))
    assert torch.equal(out[1], plain[1]) and not torch.allclose(out[0], plain[0])


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
def test_the_preview_is_the_best_linear_look():
    colours = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = torch.nn.functional.interpolate(colours, scale_factor=8)
    z = torch.cat([colours, latents(2)[:, :1]], 1)  # colours, as latents hold them, and noise
    seen = linear_look(z, x)(z)
    assert seen.shape == (2, 3, 32, 32)
    small = torch.nn.functional.avg_pool2d(seen, 4)
    assert (small - colours).abs().mean() < 0.35 * colours.abs().mean()


@torch.no_grad()
def test_long_prompts_are_cut_and_told(model):
    assert model.unread(["a rose", ""]) == []
    said = f"the prompt “rose rose rose rose …” is 138 tokens too long for {model.name}; its end was left out"
    assert model.unread(["a rose", "rose " * 40]) == [said]
    assert model.embed(["rose " * 500]).embeds.shape[1] == model.max_tokens


def test_words_that_cannot_be_read_are_told(model):
    said = f"{model.name} cannot read “роза”, “バラ”, “🌹”, …: write it in English letters"
    assert model.unread(["a роза バラ", "🌹 وردة", "a роза"]) == [said]
    assert model.unread(["one 🌹"]) == [f"{model.name} cannot read “🌹”: write it in English letters"]


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
