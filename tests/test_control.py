"""ControlNets, adapters and both predictions against diffusers' own pipelines on the same tiny checkpoints.

Tolerance everywhere: 1e-3 of latents of unit variance after all steps, in float32.
"""

from dataclasses import replace

import diffusers
import pytest
import torch
from checkpoints import adapter, controlnet
from conftest import make_network
from PIL import Image

from engine.checkpoints.manager import ModelManager
from engine.diffusion.control import ControlInput, palette
from engine.diffusion.guidance import Conditioning, classifier_free
from engine.diffusion.sampling import sample
from engine.diffusion.words import Words
from engine.requests import EngineError

STEPS = 6


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    folder = make_network(tmp_path_factory.mktemp("steered") / "net", attends=(0,))
    controlnet(folder, "sketch", 1)
    controlnet(folder, "pose", 3)
    adapter(folder, "stroke")
    return ModelManager("cpu", torch.float32).load(str(folder), ("sketch", "stroke", "pose"))


def pipe_of(model, cls, **more):
    scheduler = diffusers.DDIMScheduler.from_config(model.schedule.config, set_alpha_to_one=True)  # our last sigma is 0
    parts = {name: getattr(model.resident, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = cls(**parts, scheduler=scheduler, **none, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(n=2, seed=0):
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def shown(n=2, seed=4):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def walked(model, x, sigmas, **control):
    """Guided by 5, under two prompts, from latents ``x`` at the first of ``sigmas``."""
    pair = classifier_free(model.embed(["a rose", "blue tulip"]), model.embed(["grey"]), 5.0)
    denoise = model.denoiser([replace(c, control=control) for c in pair])
    for state in sample(denoise, x, sigmas):
        x = state.x
    return x


def drawn(model, noise, **control):
    """From noise alone."""
    sigmas = model.schedule.sigmas(STEPS)
    return walked(model, noise * (1 + sigmas[0] ** 2) ** 0.5, sigmas, **control)


def theirs(pipe, **more):
    more = {"guidance_scale": 5.0, "num_inference_steps": STEPS, "output_type": "latent"} | more
    return pipe(prompt=["a rose", "blue tulip"], negative_prompt=["grey", "grey"], **more).images


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_text_to_image_and_image_to_image_are_diffusers(tmp_path, prediction):
    model = ModelManager("cpu", torch.float32).load(str(make_network(tmp_path / "net", prediction)))
    noise, z, sigmas = latents(), latents(seed=9), model.schedule.sigmas(STEPS)[STEPS // 2 :]
    expected = theirs(pipe_of(model, diffusers.StableDiffusionPipeline), latents=noise, height=64, width=64)
    assert torch.allclose(drawn(model, noise), expected, atol=1e-3)
    ours = walked(model, z + sigmas[0] * latents(seed=3), sigmas)
    pipe = pipe_of(model, diffusers.StableDiffusionImg2ImgPipeline)
    expected = theirs(pipe, image=z, strength=0.5, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(ours, expected, atol=1e-3) and not torch.allclose(ours, z, atol=0.1)


def test_controlnet_rows_are_diffusers_controlnet(steered):
    noise, picture, controls = latents(), shown(), steered.resident.controls
    pipe = pipe_of(steered, diffusers.StableDiffusionControlNetPipeline, controlnet=controls["sketch"])
    more = {"latents": noise, "image": picture, "height": 64, "width": 64}
    ours = drawn(steered, noise, sketch=ControlInput(picture, 0.4))
    assert torch.allclose(ours, theirs(pipe, controlnet_conditioning_scale=0.4, **more), atol=1e-3)
    assert not torch.allclose(ours, drawn(steered, noise), atol=1e-2)


def test_two_controlnets_add_up(steered):
    noise, one, two, controls = latents(), shown(seed=1), shown(seed=2), steered.resident.controls
    both = diffusers.models.MultiControlNetModel([controls["sketch"], controls["pose"]])
    pipe = pipe_of(steered, diffusers.StableDiffusionControlNetPipeline, controlnet=both)
    more = {"image": [one, two], "height": 64, "width": 64, "controlnet_conditioning_scale": [1.0, 0.7]}
    ours = drawn(steered, noise, sketch=ControlInput(one, 1.0), pose=ControlInput(two, 0.7))
    assert torch.allclose(ours, theirs(pipe, latents=noise, **more), atol=1e-3)


def test_adapter_rows_are_diffusers_adapter(steered):
    noise, pixels = latents(), (shown(1)[0] * 255).round().to(torch.uint8)  # as theirs rounds it
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    pipe = pipe_of(steered, diffusers.StableDiffusionAdapterPipeline, adapter=steered.resident.controls["stroke"])
    more = {"image": [image, image], "height": 64, "width": 64, "adapter_conditioning_scale": 0.8}
    ours = drawn(steered, noise, stroke=ControlInput(pixels[None] / 255, 0.8))
    assert torch.allclose(ours, theirs(pipe, latents=noise, **more), atol=1e-3)


@torch.no_grad()
def test_rows_of_one_batch_are_steered_each_for_itself(steered, monkeypatch):
    """Φ is residuals of 0: a row without control, or at strength 0, is the free network; chunks change nothing."""
    x, embeds = latents(3), steered.embed(["a rose"])
    sketch, stroke = ControlInput(shown(3, 5), torch.tensor([1.0, 0.0, 0.5])), ControlInput(shown(1, 6))
    kinds = [{}, {"sketch": sketch}, {"stroke": stroke}, {"sketch": sketch, "stroke": stroke}]
    own = [Conditioning(embeds, w, control=kind) for w, kind in zip((0.1, 0.2, 0.3, 0.4), kinds, strict=True)]
    whole = steered.denoiser(own)(x, 2.0)
    alone = [steered.denoiser([replace(c, weight=1.0)])(x, 2.0) for c in own]
    assert torch.allclose(whole, sum(c.weight * out for c, out in zip(own, alone, strict=True)), atol=1e-4)
    free, seen = alone[:2]
    assert torch.allclose(seen[1], free[1], atol=1e-5) and not torch.allclose(seen[0], free[0], atol=1e-2)
    monkeypatch.setattr(steered.resident, "plan", replace(steered.resident.plan, rows=5))
    assert torch.allclose(steered.denoiser(own)(x, 2.0), whole, atol=1e-4)


@torch.no_grad()
def test_a_row_at_strength_0_costs_no_control(steered):
    calls, control = [], ControlInput(shown(4), torch.tensor([1.0, 0.0, 0.0, 2.0]))
    own = [Conditioning(steered.embed(["a"])), Conditioning(steered.embed(["b"]), control={"sketch": control})]
    net = steered.resident.controls["sketch"]
    handle = net.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    try:
        steered.denoiser(own)(latents(4), 1.0)
    finally:
        handle.remove()
    assert calls == [2]


@torch.no_grad()
def test_a_control_that_is_not_there_is_a_sentence(tiny, models):
    row = Conditioning(Words(torch.zeros(1, 24, 32)), control={"pose": ControlInput(shown(1))})
    with pytest.raises(EngineError, match=r"model must have a control for pose, got .*tiny, without"):
        models.load(str(tiny)).denoiser([row])(latents(), 1.0)


def test_the_palette_is_one_colour_a_cell():
    picture = torch.zeros(1, 3, 128, 192)
    picture[:, 0, :64, :64] = 1.0
    found = palette(picture)
    assert found.shape == picture.shape
    cells = found.unfold(2, 64, 64).unfold(3, 64, 64)
    assert float(cells.std((-1, -2)).max()) < 1e-6
    assert found[0, 0, 0, 0] > 0.7 and float(found[0, 0, 64:, 64:].max()) < 0.2
