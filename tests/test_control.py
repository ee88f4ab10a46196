"""ControlNets, adapters and both predictions against diffusers' own pipelines on the same tiny checkpoints.

Tolerance everywhere: 1e-3 of latents of unit variance after all steps, in float32.
"""

import diffusers
import numpy as np
import pytest
import torch
from checkpoints import adapter, controlnet
from conftest import make_network
from PIL import Image

from engine.checkpoints.manager import Models
from engine.diffusion.control import Hint, palette
from engine.diffusion.model import Row, guided
from engine.diffusion.sampling import flow

STEPS = 6


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    folder = make_network(tmp_path_factory.mktemp("steered") / "net", attends=(0,))
    controlnet(folder, "sketch", 1)
    controlnet(folder, "pose", 3)
    adapter(folder, "stroke")
    return Models("cpu", torch.float32).load(str(folder), ("sketch", "stroke", "pose"))


def pipe_of(net, cls, **more):
    scheduler = diffusers.DDIMScheduler.from_config(net.scheduler.config, set_alpha_to_one=True)  # our last level is 0
    pipe = cls(vae=net.vae, text_encoder=net.text_encoder, tokenizer=net.tokenizer, unet=net.unet, scheduler=scheduler,
               safety_checker=None, feature_extractor=None, requires_safety_checker=False, **more)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(n=2, seed=0):
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def shown(n=2, seed=4):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def rows(net, guidance, **more):
    cond, uncond = net.embed(["a rose", "blue tulip"]), net.embed(["grey"])
    return [Row(r.embeds, r.weight, **more) for r in guided(cond, uncond, guidance)]


def walked(net, x, levels, rows):
    with torch.no_grad():
        for state in flow(net.field(rows), x, levels):
            x = state.x
    return x


def theirs(pipe, **more):
    more = {"guidance_scale": 5.0, "num_inference_steps": STEPS, "output_type": "latent"} | more
    return pipe(prompt=["a rose", "blue tulip"], negative_prompt=["grey", "grey"], **more).images


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_text_to_image_and_image_to_image_are_diffusers(tmp_path, prediction):
    net = Models("cpu", torch.float32).load(str(make_network(tmp_path / "net", prediction)))
    levels, noise = net.levels(STEPS), latents()
    ours = walked(net, noise * (1 + levels[0] ** 2) ** 0.5, levels, rows(net, 5.0))
    expected = theirs(pipe_of(net, diffusers.StableDiffusionPipeline), latents=noise, height=64, width=64)
    assert torch.allclose(ours, expected, atol=1e-3)
    z, draw = latents(seed=9), torch.Generator().manual_seed(3)
    eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    ours = walked(net, z + levels[STEPS // 2] * eps, levels[STEPS // 2 :], rows(net, 5.0))
    pipe = pipe_of(net, diffusers.StableDiffusionImg2ImgPipeline)
    expected = theirs(pipe, image=z, strength=0.5, generator=draw)
    assert torch.allclose(ours, expected, atol=1e-3) and not torch.allclose(ours, z, atol=0.1)


def test_controlnet_rows_are_diffusers_controlnet(steered):
    net, levels, noise, picture = steered, steered.levels(STEPS), latents(), shown()
    pipe = pipe_of(net, diffusers.StableDiffusionControlNetPipeline, controlnet=net.controls["sketch"])
    more = {"latents": noise, "image": picture, "height": 64, "width": 64}
    free = walked(net, noise * (1 + levels[0] ** 2) ** 0.5, levels, rows(net, 5.0))
    for scale in (1.0, 0.4):
        hints = {"sketch": Hint(picture, scale)}
        ours = walked(net, noise * (1 + levels[0] ** 2) ** 0.5, levels, rows(net, 5.0, hints=hints))
        expected = theirs(pipe, controlnet_conditioning_scale=scale, **more)
        assert torch.allclose(ours, expected, atol=1e-3)
        assert not torch.allclose(ours, free, atol=1e-2)


def test_two_controlnets_add_up(steered):
    net, levels, noise = steered, steered.levels(STEPS), latents()
    one, two = shown(seed=1), shown(seed=2)
    both = diffusers.models.MultiControlNetModel([net.controls["sketch"], net.controls["pose"]])
    pipe = pipe_of(net, diffusers.StableDiffusionControlNetPipeline, controlnet=both)
    hints = {"sketch": Hint(one, 1.0), "pose": Hint(two, 0.7)}
    ours = walked(net, noise * (1 + levels[0] ** 2) ** 0.5, levels, rows(net, 5.0, hints=hints))
    expected = theirs(pipe, latents=noise, image=[one, two], height=64, width=64,
                      controlnet_conditioning_scale=[1.0, 0.7])  # fmt: skip
    assert torch.allclose(ours, expected, atol=1e-3)


def test_adapter_rows_are_diffusers_adapter(steered):
    net, levels, noise, picture = steered, steered.levels(STEPS), latents(), shown(1)
    pipe = pipe_of(net, diffusers.StableDiffusionAdapterPipeline, adapter=net.controls["stroke"])
    image = Image.fromarray((picture[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    hints = {"stroke": Hint(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255, 0.8)}  # as theirs rounds it
    ours = walked(net, noise * (1 + levels[0] ** 2) ** 0.5, levels, rows(net, 5.0, hints=hints))
    expected = theirs(pipe, latents=noise, image=[image, image], height=64, width=64,
                      adapter_conditioning_scale=0.8)  # fmt: skip
    assert torch.allclose(ours, expected, atol=1e-3)


def test_rows_of_one_batch_are_steered_each_for_itself(steered):
    """Φ is residuals of 0: a row without hints, or at strength 0, is the free network; chunks change nothing."""
    net, x, words = steered, latents(3), steered.embed(["a rose"])
    sketch, stroke = Hint(shown(3, 5), torch.tensor([1.0, 0.0, 0.5])), Hint(shown(1, 6))
    kinds = [{}, {"sketch": sketch}, {"stroke": stroke}, {"sketch": sketch, "stroke": stroke}]
    own = [Row(words, w, hints=h) for w, h in zip((0.1, 0.2, 0.3, 0.4), kinds, strict=True)]
    with torch.no_grad():
        whole = net.field(own)(x, 2.0)
        alone = sum(
            w * net.field([Row(words, hints=h)])(x, 2.0) for w, h in zip((0.1, 0.2, 0.3, 0.4), kinds, strict=True)
        )
        assert torch.allclose(whole, alone, atol=1e-4)
        free = net.field([Row(words)])(x, 2.0)
        seen = net.field([Row(words, hints={"sketch": sketch})])(x, 2.0)
        assert torch.allclose(seen[1], free[1], atol=1e-5) and not torch.allclose(seen[0], free[0], atol=1e-2)
        batch, net.batch = net.batch, 5
        try:
            assert torch.allclose(net.field(own)(x, 2.0), whole, atol=1e-4)
        finally:
            net.batch = batch


def test_a_row_at_strength_0_costs_no_control(steered):
    calls, net = [], steered
    handle = net.controls["sketch"].register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    hint = Hint(shown(4), torch.tensor([1.0, 0.0, 0.0, 2.0]))
    try:
        with torch.no_grad():
            net.field([Row(net.embed(["a"])), Row(net.embed(["b"]), hints={"sketch": hint})])(latents(4), 1.0)
    finally:
        handle.remove()
    assert calls == [2]


def test_the_palette_is_one_colour_a_cell():
    picture = torch.zeros(1, 3, 128, 192)
    picture[:, 0, :64, :64] = 1.0
    found = palette(picture)
    assert found.shape == picture.shape
    cells = found.unfold(2, 64, 64).unfold(3, 64, 64)
    assert float(cells.std((-1, -2)).max()) < 1e-6
    assert found[0, 0, 0, 0] > 0.7 and float(found[0, 0, 64:, 64:].max()) < 0.2
