"""The embedded network, end to end."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import ROOT, done
from PIL import Image

from engine.checkpoints.manager import ModelManager
from engine.context import Context
from engine.diffusion.guidance import Conditioning
from engine.diffusion.sampling import gaussian, generator, sample
from engine.diffusion.textual_inversion import invert_text
from engine.jobs.cache import Cache
from engine.requests import InterpolateRequest, MorphRequest, result
from engine.vision import images
from engine.vision.drawing import sketch_of, strokes_of

pytestmark = pytest.mark.slow
FLORA = ROOT / "assets/models/flora"


def example(name):
    return images.read(next((ROOT / "assets/examples").glob(f"{name}*.webp")))


@pytest.fixture(scope="module")
def resident():
    return ModelManager("cpu")


def test_files_are_small_enough_for_a_public_host():
    files = list(FLORA.rglob("*.safetensors"))
    assert len(files) == 5 and all(f.stat().st_size < 95e6 for f in files)
    card = (FLORA / "README.md").read_text()
    assert all(word in card for word in ("PSNR", "KID", "FID", "CC BY 2.0", "ICVGIP 2008"))


@torch.no_grad()
def test_it_serves_all_tabs(resident):
    net = resident.load("flora")
    assert net.sees_drawings and net.size == 256


@torch.no_grad()
def test_copies_look_like_their_originals(resident):
    net = resident.load("flora")
    x = images.to_tensor([example(n) for n in ("rose", "daisy", "sunflower")])
    mse = ((net.decode(net.encode(x)).clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
    assert (-10 * torch.log10(mse)).min() > 20


@torch.no_grad()
def test_it_sees_noise_for_what_it_is(resident):
    """On a photograph under noise the prediction explains most of the noise: far better than guessing 0."""
    net = resident.load("flora")
    z = net.encode(images.to_tensor([example("rose-22325299158"), example("daisy-2520369272")]))
    eps = gaussian(z.shape[1:], [generator(0), generator(1)])
    for s, most in ((3.0, 0.1), (1.0, 0.35), (0.5, 0.7)):
        x0 = net.denoiser([Conditioning(net.embed(["", ""]))])(z + s * eps, s)
        assert ((x0 - z) / s).square().mean() < most


@torch.no_grad()
def test_words_and_drawings_are_heard(resident):
    net = resident.load("flora")
    z = net.encode(images.to_tensor([example("sunflower")]))
    x, s = z + 5 * gaussian(z.shape[1:], [generator(2)]), 5.0
    error = {}
    for text in ("an orange sunflower", "a purple passion flower"):
        error[text] = float((net.denoiser([Conditioning(net.embed([text]))])(x, s) - z).square().mean())
    assert error["an orange sunflower"] < error["a purple passion flower"]


@torch.no_grad()
def test_four_steps_follow_a_drawing(resident):
    """Colours of the result are nearer to its own strokes than to another drawing's."""
    net = resident.load("flora")
    photos = [example(n) for n in ("sunflower", "rose")]
    paints = [Image.fromarray(strokes_of(np.asarray(p))) for p in photos]
    lines = [Image.fromarray(sketch_of(np.asarray(p))).convert("RGB") for p in photos]
    strokes = net.encode(images.to_tensor(paints))
    row = Conditioning(net.embed([""]), concat_latents=torch.cat([net.encode(images.to_tensor(lines)), strokes], 1))
    sigmas = net.few_step_sigmas()
    x = strokes + sigmas[0] * gaussian(strokes.shape[1:], [generator(0), generator(1)])
    with net.resident.weights_for("live"):
        for step in sample(net.denoiser([row]), x, sigmas):
            x = step.x
    small = [np.asarray(p.resize((16, 16)), float) for p in (*images.to_pictures(net.decode(x)), *paints)]
    for i in (0, 1):
        assert np.abs(small[i] - small[2 + i]).mean() < 0.7 * np.abs(small[i] - small[3 - i]).mean()


def test_clip_tells_flowers_apart(resident):
    context = Context(resident)
    result(context.load("flora", ()))
    judge = context.clip("clip")
    pictures = [example("sunflower"), example("rose")]
    score = judge.score(pictures, "a photograph of an orange sunflower", "a photograph of a red rose")
    assert score[0] > 0 > score[1]


def test_a_morph_is_smooth_and_its_middle_is_neither_end(resident):
    request = InterpolateRequest(
        example("rose-22325299158"), example("daisy-2520369272"), prompt="a red rose", prompt_b="a pink daisy", frames=5
    )
    blocks = [np.asarray(f.resize((32, 32)), float) for f in done(resident, request).frames]
    whole = np.abs(blocks[0] - blocks[-1]).mean()
    steps = [np.abs(a - b).mean() for a, b in pairwise(blocks)]
    assert max(steps) < 0.8 * whole
    fade = (blocks[0] + blocks[-1]) / 2
    assert np.abs(blocks[2] - fade).mean() > 4  # it is no cross-fade


def test_bfloat16_and_float32_make_the_same_picture(resident):
    request = InterpolateRequest(example("rose-22325299158"), example("daisy-2520369272"), frames=3, steps=12)
    fast, exact = (done(ModelManager("cpu", t), request).frames[1] for t in (torch.bfloat16, torch.float32))
    assert np.abs(np.asarray(fast, float) - np.asarray(exact, float)).mean() < 4  # of 255


def test_fitting_the_words_helps(resident):
    net = resident.load("flora")
    x = images.to_tensor([example("rose-22325299158"), example("daisy-2520369272")])
    with torch.no_grad():
        z, start = net.encode(x), net.embed(["", "", ""])

    def loss(words):
        total = 0.0
        for i in range(8):
            noise = gaussian(z.shape[1:], [generator(5, i)] * 2)
            s = net.schedule.sigmas(200)[70 + 8 * i]
            with torch.no_grad():
                x0 = net.denoiser([Conditioning(words[:2])])(z + s * noise, s)
            total += float(((x0 - z) / s).square().mean())
        return total

    steps = invert_text(net, x, start, 25, 0.02, 1.0, seed=1)
    assert loss(result(steps)) < loss(start)


def test_diffusers_own_classes_load_it():
    from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel

    assert UNet2DConditionModel.from_pretrained(FLORA / "unet").config.in_channels == 12
    assert AutoencoderDC.from_pretrained(FLORA / "vae").config.latent_channels == 4
    assert DDIMScheduler.from_pretrained(FLORA / "scheduler").config.prediction_type == "epsilon"
    assert Image.open(FLORA / "sheets/unconditional.jpg").width == 8 * 192


def test_morph_knows_its_pictures_by_their_loras_and_takes_even_steps(resident, tmp_path):
    ends = (example("rose-22325299158"), example("daisy-2520369272"))
    small = {"frames": 9, "steps": 12, "lora_steps": 15}
    asked = {"whole": {}, "uneven": {"reschedule": False}, "no LoRA": {"lora": "none"}}
    cache = Cache(tmp_path)
    ways = {n: done(resident, MorphRequest(ends, **small | kw), cache).quality for n, kw in asked.items()}
    assert ways["whole"]["variance"] < ways["uneven"]["variance"]
    assert ways["whole"]["ends"] < ways["no LoRA"]["ends"]
