"""The embedded network, end to end."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from PIL import Image

from engine.checkpoints.manager import ModelManager
from engine.context import Context
from engine.diffusion.guidance import Conditioning
from engine.diffusion.sampling import gaussian, generator, invert, sample
from engine.diffusion.textual_inversion import invert_text
from engine.jobs.cache import Cache
from engine.jobs.run import run
from engine.requests import DrawRequest, InterpolateRequest, MatchRequest, MorphRequest, result
from engine.vision import images
from engine.vision.drawing import sketch_of, strokes_of

pytestmark = pytest.mark.slow
FLORA = ROOT / "assets/models/flora"


def example(name):
    return images.read(next((ROOT / "assets/examples").glob(f"{name}*.webp")))


ENDS = example("rose-22325299158"), example("daisy-2520369272")


@pytest.fixture(scope="module")
def resident():
    return ModelManager("cpu")


@pytest.fixture(scope="module")
def flora(resident):
    return resident.load("flora")


def last(models, request, cache=None):
    return [*run(Context(models, cache), request)][-1]


def test_files_are_small_enough_for_a_public_host_and_come_with_their_figures():
    files = list(FLORA.rglob("*.safetensors"))
    assert len(files) == 6 and all(f.stat().st_size < 95e6 for f in files)
    card = (FLORA / "README.md").read_text()
    assert all(word in card for word in ("PSNR", "KID", "FID", "CC BY 2.0", "ICVGIP 2008"))
    assert Image.open(FLORA / "sheets/unconditional.jpg").width == 8 * 192


def test_diffusers_own_classes_load_it_and_it_serves_all_tabs(flora):
    assert UNet2DConditionModel.from_pretrained(FLORA / "unet").config.in_channels == 12
    assert AutoencoderDC.from_pretrained(FLORA / "vae").config.latent_channels == 4
    assert DDIMScheduler.from_pretrained(FLORA / "scheduler").config.prediction_type == "v_prediction"
    assert flora.schedule.zero_terminal_snr and flora.sees_drawings and flora.size == 256 and flora.resident.has("live")


@torch.no_grad()
def test_copies_look_like_their_originals(flora):
    x = images.to_tensor([example(n) for n in ("rose", "daisy", "sunflower")])
    mse = ((flora.decode(flora.encode(x)).clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
    assert (-10 * torch.log10(mse)).min() > 21


@torch.no_grad()
def test_pictures_come_back_from_pure_noise(flora):
    z = flora.encode(images.to_tensor([p.resize((128, 128)) for p in ENDS]))
    denoise, sigmas = flora.denoiser([Conditioning(flora.embed([""]))]), flora.schedule.sigmas(50)
    *_, noise = invert(denoise, z, sigmas[::-1])
    assert float(noise.x.std() / sigmas[0]) == pytest.approx(1, abs=0.15)
    *_, again = sample(denoise, noise.x, sigmas)
    assert (again.x - z).square().mean().sqrt() < 0.04 * z.std()


def test_the_more_realism_the_farther_from_the_strokes(resident):
    photo = example("sunflower").resize((128, 128))
    lines, paint = sketch_of(np.asarray(photo)), Image.fromarray(strokes_of(np.asarray(photo))).convert("RGBA")
    ink = Image.merge("RGBA", [*Image.new("RGB", photo.size).split(), Image.fromarray(255 - lines)])
    asked = {"sketch": ink, "strokes": paint, "steps": 8, "size": 128}
    far = [last(resident, DrawRequest(**asked, realism=r)).quality["colours"] for r in (0.0, 0.5, 1.0)]
    assert far == sorted(far) and far[0] < 0.5 * far[2]


@torch.no_grad()
def test_it_sees_noise_for_what_it_is(flora):
    """Of a photograph under noise it knows far more than that guessing the mean, 0, would."""
    z = flora.encode(images.to_tensor(ENDS))
    eps = gaussian(z.shape[1:], [generator(0), generator(1)])
    denoise = flora.denoiser([Conditioning(flora.embed([""]))])
    for s, most in ((3.0, 0.1), (1.0, 0.35), (0.5, 0.7)):
        assert ((denoise(z + s * eps, s) - z) / s).square().mean() < most  # of the noise


@torch.no_grad()
def test_words_are_heard(flora):
    z, s = flora.encode(images.to_tensor([example("sunflower")])), 5.0
    x = z + s * gaussian(z.shape[1:], [generator(2)])
    right, wrong = (
        float((flora.denoiser([Conditioning(flora.embed([text]))])(x, s) - z).square().mean())
        for text in ("an orange sunflower", "a purple passion flower")
    )
    assert right < wrong


@torch.no_grad()
def test_four_steps_follow_a_drawing(flora):
    """Colours of the result are nearer to its own strokes than to another drawing's."""
    photos = [np.asarray(example(n)) for n in ("sunflower", "rose")]
    paints = [Image.fromarray(strokes_of(p)) for p in photos]
    lines = [Image.fromarray(sketch_of(p)).convert("RGB") for p in photos]
    strokes = flora.encode(images.to_tensor(paints))
    row = Conditioning(flora.embed([""]), concat_latents=torch.cat([flora.encode(images.to_tensor(lines)), strokes], 1))
    sigmas = flora.few_step_sigmas()
    x = sigmas[0] * gaussian(strokes.shape[1:], [generator(0), generator(1)])
    with flora.resident.weights_for("live"):
        for step in sample(flora.denoiser([row]), x, sigmas):
            x = step.x
    small = [np.asarray(p.resize((16, 16)), float) for p in (*images.to_pictures(flora.decode(x)), *paints)]
    for i in (0, 1):
        assert np.abs(small[i] - small[2 + i]).mean() < 0.7 * np.abs(small[i] - small[3 - i]).mean()


def test_clip_tells_flowers_apart(resident):
    context = Context(resident)
    result(context.load("flora", ()))
    pictures = [example("sunflower"), example("rose")]
    texts = "a photograph of an orange sunflower", "a photograph of a red rose"
    score = context.clip("clip").score(pictures, *texts)
    assert score[0] > 0 > score[1]


def test_a_morph_is_smooth_and_its_middle_is_neither_end(resident):
    done = last(resident, InterpolateRequest(*ENDS, prompt="a red rose", prompt_b="a pink daisy", frames=5, size=128))
    blocks = [np.asarray(f.resize((32, 32)), float) for f in done.frames]
    steps, whole = [np.abs(a - b).mean() for a, b in pairwise(blocks)], np.abs(blocks[0] - blocks[-1]).mean()
    assert max(steps) < 0.8 * whole
    assert np.abs(blocks[2] - (blocks[0] + blocks[-1]) / 2).mean() > 4  # it is no cross-fade


def test_bfloat16_and_float32_make_the_same_picture():
    request = InterpolateRequest(*ENDS, frames=3, steps=8, size=128)
    fast, exact = (
        np.asarray(last(ModelManager("cpu", dtype), request).frames[1], float)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert np.abs(fast - exact).mean() < 4  # of 255


def test_fitting_the_words_helps(flora):
    x = images.to_tensor([p.resize((128, 128)) for p in ENDS])
    with torch.no_grad():
        z, start = flora.encode(x), flora.embed(["", "", ""])

    @torch.no_grad()
    def loss(embeds):
        total, denoise = 0.0, flora.denoiser([Conditioning(embeds[:2])])
        for i, s in enumerate(flora.schedule.sigmas(200)[70:130:8]):
            noise = gaussian(z.shape[1:], [generator(5, i)] * 2)
            total += float(((denoise(z + s * noise, s) - z) / s).square().mean())
        return total

    assert loss(result(invert_text(flora, x, start, 15, 0.02, 1.0, seed=1))) < loss(start)


def test_morph_keeps_its_pictures_with_or_without_loras_and_takes_even_steps(resident, tmp_path):
    asked = {"whole": {}, "uneven": {"reschedule": False}, "no LoRA": {"lora": "none"}}
    small, cache = {"frames": 5, "steps": 6, "lora_steps": 8, "size": 128}, Cache(tmp_path)
    ways = {n: last(resident, MorphRequest(ENDS, **small | kw), cache).quality for n, kw in asked.items()}
    assert ways["whole"]["variance"] < ways["uneven"]["variance"]
    assert ways["whole"]["ends"] < 1.05 * ways["no LoRA"]["ends"]  # inversion alone comes back as near


def test_its_features_find_the_parts_that_two_readers_marked(resident):
    """Two daisies a fifth of the frame apart (tests/points.json, the fifth pair): the arrow beside each part shows the
    way to it."""
    marks = json.loads((ROOT / "tests/points.json").read_text())["pairs"][4]
    a, b = (images.read(ROOT / "assets" / marks[side]) for side in "ab")
    found = last(resident, MatchRequest(a, b, align="automatic", model="flora")).settings["arrows"]
    for x0, y0, x1, y1 in marks["first"]:
        near = min(found, key=lambda arrow: (arrow[0] - x0) ** 2 + (arrow[1] - y0) ** 2)
        there = x0 + near[2] - near[0], y0 + near[3] - near[1]
        assert np.hypot(there[0] - x1, there[1] - y1) < 0.1 < np.hypot(x0 - x1, y0 - y1)
