"""SDXL by the same path as all others: equal to diffusers' own pipelines, back from its inversion, all methods on it.

Tolerance everywhere: 1e-3 of latents of unit variance after all steps, in float32, on a tiny checkpoint.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from checkpoints import controlnet, sdxl
from conftest import done, picture
from PIL import Image, ImageDraw

from benchmarks.morph import frames_of, stack_of
from benchmarks.naive import Naive
from engine.checkpoints import lora_files
from engine.checkpoints.load import read
from engine.checkpoints.manager import ModelManager
from engine.diffusion import geometry, lora
from engine.diffusion.control import ControlInput
from engine.diffusion.guidance import Conditioning, classifier_free
from engine.diffusion.residency import Resident
from engine.diffusion.sampling import invert, sample
from engine.diffusion.textual_inversion import invert_text
from engine.diffusion.words import Words
from engine.requests import DrawRequest, EditRequest, InterpolateRequest, MatchRequest, MorphRequest, result
from engine.vision import images

STEPS = 6
PROMPTS = ["a rose", "blue tulip"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = sdxl(tmp_path_factory.mktemp("sdxl") / "xl")
    controlnet(folder, "sketch")
    controlnet(folder, "tile", 3)  # of the catalogue otherwise, which is asked for colours
    torch.manual_seed(4)
    adapter = diffusers.T2IAdapter(3, [16, 32, 32, 32], 1, downscale_factor=16, adapter_type="full_adapter_xl")
    adapter.save_pretrained(folder / "stroke")
    return folder


@pytest.fixture(scope="module")
def model(folder, models):
    return models.load(str(folder), ("sketch", "stroke"))


def pipe_of(model, cls, **more):
    own = model.resident
    parts = {name: getattr(own, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    parts |= {"tokenizer_2": own.readers[1][0], "text_encoder_2": own.texts[1]}
    # Our last sigma is 0, and nothing of ours is clipped.
    scheduler = diffusers.DDIMScheduler.from_config(model.schedule.config, set_alpha_to_one=True, clip_sample=False)
    pipe = cls(**parts, scheduler=scheduler, force_zeros_for_empty_prompt=True, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe, negative=None, **more):
    more = {"guidance_scale": 5.0, "num_inference_steps": STEPS, "output_type": "latent"} | more
    return pipe(prompt=PROMPTS, negative_prompt=negative, **more).images


def latents(n=2, seed=0, size=(8, 8)):
    return torch.randn(n, 4, *size, generator=torch.Generator().manual_seed(seed))


def shown(n=2, seed=4):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def end(denoise, x, sigmas):
    for state in sample(denoise, x, sigmas):
        x = state.x
    return x


@torch.no_grad()
def walked(model, x, sigmas, negative="", **control):
    """Guided by 5, under two prompts, from latents ``x`` at the first of ``sigmas``."""
    words = model.embed(PROMPTS, [negative])
    rows = [replace(c, control=control) for c in classifier_free(words[:2], words[2:], 5.0)]
    return end(model.denoiser(rows), x, sigmas)


def drawn(model, noise, **more):
    sigmas = model.schedule.sigmas(STEPS)
    return walked(model, noise * (1 + sigmas[0] ** 2) ** 0.5, sigmas, **more)


def test_whatever_is_done_to_words_is_done_to_the_pooled_ones():
    draw = torch.Generator().manual_seed(0)
    a, b = (Words(torch.randn(1, 5, 3, generator=draw), torch.randn(1, 7, generator=draw)) for _ in "ab")
    both, w = Words.cat([a, b]), torch.tensor([0.0, 0.3, 1.0])
    assert len(both) == 2 and torch.equal(both[1:].pooled, b.pooled) and torch.equal(both[[1]].embeds, b.embeds)
    assert [len(p) for p in both.split(1)] == [1, 1] and torch.equal(both.split(1)[1].pooled, b.pooled)
    for kind in ("lerp", "slerp"):
        way = getattr(a.expand(3), kind)(b.expand(3), w)
        for got, x, y in zip(way.tensors, a.tensors, b.tensors, strict=True):
            own = getattr(geometry, kind)(x.expand(3, *x.shape[1:]), y.expand(3, *y.shape[1:]), w)
            assert torch.equal(got, own) and torch.allclose(got[2], y[0], atol=1e-6)
    assert Words(a.embeds).lerp(Words(b.embeds), 0.5).pooled is None


@torch.no_grad()
@pytest.mark.parametrize("negative", ["", "grey"])
def test_words_are_those_of_diffusers(model, negative):
    """Layers before the last of both encoders, pooled words of the second; an empty negative is zeros here."""
    found = model.embed(PROMPTS[:1], [negative])
    pipe = pipe_of(model, diffusers.StableDiffusionXLPipeline)
    cond, uncond, pooled, none = pipe.encode_prompt(PROMPTS[0], negative_prompt=negative or None)
    assert torch.allclose(found.embeds, torch.cat([cond, uncond]), atol=1e-5)
    assert torch.allclose(found.pooled, torch.cat([pooled, none]), atol=1e-5)
    assert bool(found.embeds[1].any()) == bool(found.pooled[1].any()) == bool(negative)
    assert model.embed([""]).pooled.any()  # a picture without words has those of nothing said


@torch.no_grad()
def test_a_network_that_learnt_no_zeros_gets_the_words_of_nothing(model, monkeypatch):
    monkeypatch.setattr(model.resident, "zero_negative", False)
    assert torch.equal(model.embed(["a"], [""])[1:].pooled, model.embed(["a", ""])[1:].pooled)


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
@pytest.mark.parametrize("negative", ["", "grey"])
def test_text_to_image_is_diffusers(model, size, negative):
    """Sizes go in as rows, then columns: of a square nobody would see it."""
    noise, pipe = latents(size=size), pipe_of(model, diffusers.StableDiffusionXLPipeline)
    more = {"latents": noise, "height": 8 * size[0], "width": 8 * size[1]}
    expected = theirs(pipe, [negative] * 2 if negative else None, **more)
    assert torch.allclose(drawn(model, noise, negative=negative), expected, atol=1e-3)
    other = theirs(pipe, [negative] * 2 if negative else None, **more, original_size=(512, 640))
    assert not torch.allclose(other, expected, atol=1e-3)


def test_image_to_image_is_diffusers(model):
    z, sigmas = latents(seed=9), model.schedule.sigmas(STEPS)[STEPS // 2 :]
    ours = walked(model, z + sigmas[0] * latents(seed=3), sigmas)
    pipe = pipe_of(model, diffusers.StableDiffusionXLImg2ImgPipeline)
    expected = theirs(pipe, image=z, strength=0.5, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(ours, expected, atol=1e-3) and not torch.allclose(ours, z, atol=0.1)


def test_controlnet_rows_are_diffusers_controlnet(model):
    noise, pictures = latents(), shown()
    cls, net = diffusers.StableDiffusionXLControlNetPipeline, model.resident.controls["sketch"]
    more = {"latents": noise, "image": pictures, "height": 64, "width": 64, "controlnet_conditioning_scale": 0.4}
    ours = drawn(model, noise, sketch=ControlInput(pictures, 0.4))
    assert torch.allclose(ours, theirs(pipe_of(model, cls, controlnet=net), **more), atol=1e-3)
    assert not torch.allclose(ours, drawn(model, noise), atol=1e-2)


def test_adapter_rows_are_diffusers_adapter(model):
    noise, pixels = latents(), (shown(1)[0] * 255).round().to(torch.uint8)  # as theirs rounds it
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    pipe = pipe_of(model, diffusers.StableDiffusionXLAdapterPipeline, adapter=model.resident.controls["stroke"])
    more = {"image": [image, image], "height": 64, "width": 64, "adapter_conditioning_scale": 0.8}
    ours = drawn(model, noise, stroke=ControlInput(pixels[None] / 255, 0.8))
    assert torch.allclose(ours, theirs(pipe, latents=noise, **more), atol=1e-3)
    assert not torch.allclose(ours, drawn(model, noise), atol=1e-2)


def test_a_lora_fitted_here_is_diffusers_lora(model, tmp_path):
    """Fitted on every attention of the UNet, written, loaded by diffusers: the same picture."""
    z, noise = latents(seed=7), latents()
    with torch.no_grad():
        words = model.embed(["a rose", "b"])
    stack = result(lora.fit(model, z, words, 12, 3, 2e-2, patience=0)).only(0)
    (tmp_path / "own.safetensors").write_bytes(lora_files.write(stack.factors, model.unet, model.name))
    with lora.attach(model, stack), torch.no_grad():
        own = model.embed(PROMPTS, [""])
        rows = [replace(c, lora_weights=torch.ones(1, 1)) for c in classifier_free(own[:2], own[2:], 5.0)]
        sigmas = model.schedule.sigmas(STEPS)
        ours = end(model.denoiser(rows), noise * (1 + sigmas[0] ** 2) ** 0.5, sigmas)
    pipe = pipe_of(model, diffusers.StableDiffusionXLPipeline)
    pipe.load_lora_weights(str(tmp_path / "own.safetensors"))
    try:
        expected = theirs(pipe, latents=noise, height=64, width=64)
    finally:
        pipe.unload_lora_weights()
    assert torch.allclose(ours, expected, atol=1e-3) and not torch.allclose(ours, drawn(model, noise), atol=1e-2)


@torch.no_grad()
def test_what_is_inverted_comes_back_here_and_by_diffusers(model):
    z, sigmas = latents(seed=5), model.schedule.sigmas(40)[-9:]  # the last fifth of the way
    denoise = model.denoiser([Conditioning(model.embed(PROMPTS))])
    *_, last = invert(denoise, z, sigmas[::-1], 4)
    assert torch.allclose(end(denoise, last.x, sigmas), z, atol=1e-3) and not torch.allclose(last.x, z, atol=0.1)
    pipe, noisy = pipe_of(model, diffusers.StableDiffusionXLImg2ImgPipeline), last.x / (1 + sigmas[0] ** 2) ** 0.5
    more = {"guidance_scale": 1.0, "num_inference_steps": 40, "denoising_start": 0.8}
    assert torch.allclose(theirs(pipe, image=noisy, **more), z, atol=1e-3)


def test_the_engines_morph_is_the_plain_one(model, models, folder):
    """LoRAs and features mixed for every row of one batch, pooled words too: the pictures of the plain way."""
    r = MorphRequest((picture(0, (64, 64)), picture(1, (64, 64))), steps=8, frames=4, model=str(folder), size=64)
    naive = Naive(model, r.steps)
    with torch.no_grad():
        z, words = model.encode(images.to_tensor(list(r.pictures))), model.embed(["a", "b"])
        loras = [naive.fit(z[i : i + 1], words[i : i + 1], 4, 3, 0.05) for i in (0, 1)]
        noise = []
        for i, (a, b) in enumerate(loras):
            naive.merge({n: b[n] @ a[n] for n in a})
            noise.append(naive.invert(z[i : i + 1], words[i : i + 1]))
        plain = naive.pictures(naive.way(noise, [words[:1], words[1:]], loras, [i / 3 for i in range(4)]))
    assert len(loras[0][0]) == 4 * 2 * 2 * (2 * 2 + 1 + 2 * 3)  # to_q, to_k, to_v, to_out of every block's two
    scaled = torch.cat(noise) * (1 + model.schedule.sigmas(r.steps)[0] ** 2) ** 0.5
    _, batched = frames_of(models, r, scaled, words, stack_of(loras))
    assert (plain - batched).abs().mean() < 2e-3 < (plain[1:] - plain[:-1]).abs().mean()


def test_textual_inversion_fits_the_pooled_words_too(model):
    x = images.to_tensor([picture(i, (64, 64)) for i in (0, 1)])
    with torch.no_grad():
        start = model.embed(["a rose", "a rose"], [""])
    steps, losses = invert_text(model, x, start, 20, 0.05, 2.0, seed=1), []
    while True:
        try:
            losses.append(next(steps)[1])
        except StopIteration as ended:
            fitted = ended.value
            break
    moved = [(a - b).abs().amax(tuple(range(1, a.ndim))) for a, b in zip(fitted.tensors, start.tensors, strict=True)]
    assert all((m > 0.1).all() for m in moved)  # of both pictures and of what counts against them
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def marks():
    layer = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(layer).ellipse((10, 10, 50, 50), outline="black", width=3)
    return layer


A, B = picture(0, (64, 64)), picture(1, (64, 64))
SMALL = {"size": 64, "steps": 6}
MORPH = SMALL | {"steps": 4, "frames": 3, "lora_steps": 2, "lora_rank": 2}
REQUESTS = {
    "interpolate": (InterpolateRequest, (A, B), SMALL | {"frames": 3, "prompt": "a rose", "invert_steps": 2}, 3),
    "morph": (MorphRequest, ((A, B),), MORPH | {"align": "automatic", "prompts": ("a", "b")}, 3),
    "fast": (MorphRequest, ((A, B),), MORPH | {"tier": "fast"}, 3),
    "draw": (DrawRequest, (), SMALL | {"sketch": marks(), "strokes": A.convert("RGBA"), "prompt": "a rose"}, 1),
    "edit": (EditRequest, (A,), SMALL | {"strength": 0.5, "prompt": "a rose"}, 1),
    "match": (MatchRequest, (A, B), {"size": 64, "align": "automatic"}, 0),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_all_methods_run_on_it(models, folder, name):
    """The same twice; and its pooled words and sizes count for every one of them."""
    cls, given, own, frames = REQUESTS[name]
    request = cls(*given, model=str(folder), **own)
    got = [done(models, request) for _ in "ab"]
    assert len(got[0].frames) == frames and got[0].evaluations > 0 and all(f.size == (64, 64) for f in got[0].frames)
    assert all(np.array_equal(x, y) for x, y in zip(*(g.frames for g in got), strict=True))
    assert not frames or np.asarray(got[0].frames[-1]).std() > 1


@pytest.mark.parametrize("name", ["interpolate", "morph", "draw", "edit"])
def test_pooled_words_count_in_every_method(models, model, folder, name, monkeypatch):
    cls, given, own, frames = REQUESTS[name]
    request, at = cls(*given, model=str(folder), **own), frames // 2
    first = done(models, request).frames[at]
    monkeypatch.setattr(models, "memo", type(models.memo)())
    told = Words.told
    monkeypatch.setattr(Words, "told", lambda s, *a: told(Words(s.embeds, s.pooled.flip(-1)), *a))
    assert not np.array_equal(first, done(models, request).frames[at])


@torch.no_grad()
@pytest.mark.parametrize("repaired", [False, True])
def test_its_autoencoder_does_not_overflow_in_half_precision(tmp_path, repaired):
    """SDXL's own works in float32 beside a UNet of half precision; the repaired one says that it need not."""
    folder = sdxl(tmp_path / "xl")
    said = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(said | {"force_upcast": not repaired}))
    net = ModelManager("cpu", torch.float16).load(str(folder))
    net.vae.decoder.conv_in.weight *= 1e5  # as its features are too large in the middle
    assert net.unet.dtype == torch.float16
    assert net.resident.vae_dtype == net.vae.dtype == (torch.float16 if repaired else torch.float32)
    assert bool(net.decode(latents(1)).isfinite().all()) != repaired


def test_another_networks_autoencoder_keeps_half_precision(tiny):
    """Stable Diffusion 1.5's config says nothing of it, and its pictures stay as they were."""
    assert ModelManager("cpu", torch.float16).load(str(tiny)).resident.vae_dtype == torch.float16


def test_its_own_weights_are_the_few_step_ones(folder):
    parts = read(folder, torch.float32, "xl")
    own = Resident(parts, torch.device("cpu"), torch.float32, "xl", "sdxl-turbo")
    with own.weights_for("live"):
        assert own.few_step_times == (999, 749, 499, 249) and not own.lcm


def test_the_second_text_encoder_is_the_networks_too(model):
    """Moved with it, counted, and told apart by."""
    own = model.resident
    second = own.texts[1]
    assert own.modules()["text"] == [own.text_encoder, second]
    assert own.bytes > sum(p.numel() * 4 for m in (own.unet, own.vae, own.text_encoder) for p in m.parameters())
    parts = SimpleNamespace(unet=own.unet, vae=own.vae, text_encoder=own.text_encoder, tokenizer=own.tokenizer)
    parts.scheduler, parts.folder = own.schedule._scheduler, own.folder
    assert Resident(parts, own.device, own.dtype).fingerprint != own.fingerprint
