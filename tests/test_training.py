"""What the training stands on: measures in closed form, words from looks, batches, the LoRA that the engine reads."""

import json
import random

import numpy as np
import pytest
import torch
from conftest import events, make_network, picture
from diffusers import UNet2DConditionModel

from engine.checkpoints.manager import ModelManager
from engine.diffusion.guidance import Conditioning
from engine.requests import EngineError, Frame, InterpolateRequest, Progress
from training.data import Look, caption, colour_name, look
from training.distil import adapted, save, target_of
from training.loop import Trainer
from training.measures import fid, kid
from training.unet import drop, pick_batch


def test_kid_and_fid_are_zero_for_the_same_and_known_for_a_shift():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4000, 8))
    assert abs(kid(x, y)) < 0.02 and abs(fid(x, y)) < 0.1
    assert abs(fid(x, y + 2) - 8 * 4) < 1  # equal covariances: the squared distance of the means
    # E k(x, y) of (x·y/d + 1)³ for a mean m on one side only is 1 + 3·E(x·y/d)²; with m on both it is more: KID rises.
    assert kid(x, y + 0.5) > 5 * abs(kid(x, y))


def test_kid_is_unbiased_by_the_number_of_samples():
    rng = np.random.default_rng(1)
    small = [kid(*rng.normal(size=(2, 30, 8))) for _ in range(200)]
    assert abs(np.mean(small)) < 3 * np.std(small) / 200**0.5


def test_words_follow_what_is_seen():
    assert colour_name(1, 0.9, 0.1) == "yellow" and colour_name(0.8, 0.1, 0.1) == "red"
    picture = np.full((256, 256, 3), (30, 90, 20), np.uint8)
    picture[64:192, 64:192] = (240, 220, 20)
    seen = look(picture)
    assert seen.flower == "yellow" and "green" in seen.ground
    texts = [caption("rose", Look("red", "dark", False), random.Random(i)) for i in range(200)]
    assert 5 < texts.count("") < 40 and sum("red" in t for t in texts) > 100


def test_batches_are_of_one_size_with_the_asked_shares():
    sizes = {"photo": 32, "half": 16, "half-mirrored": 16, "quarter": 8, "quarter-mirrored": 8}
    z = {k: torch.zeros(50, 4, s, s) for k, s in sizes.items()}
    rng, sides = np.random.default_rng(0), []
    for _ in range(300):
        pick, x = pick_batch(z, (0.5, 0.3), 4, np.arange(50), rng)
        assert len(set(pick)) == len(pick) == len(x) == 4 * 32 // x.shape[-1]
        sides.append(x.shape[-1])
    assert abs(sides.count(8) / 300 - 0.5) < 0.1 and abs(sides.count(16) / 300 - 0.3) < 0.1


def test_drops_take_conditions_away_as_often_as_said():
    torch.manual_seed(0)
    phi, given = torch.zeros(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1)
    (a, b), free = drop([given, given], phi)
    assert torch.equal(free, (a + b).flatten() == 0)
    assert abs(float(free.float().mean()) - (0.4 + 0.6 * 0.09)) < 0.03
    assert abs(float(a.mean()) - 0.6 * 0.7) < 0.03


@pytest.fixture
def live(tmp_path, monkeypatch):
    """A tiny network with a LoRA in peft's format beside it, as the distillation saves it."""
    folder = make_network(tmp_path / "net")
    monkeypatch.setattr("training.distil.FLORA", folder)
    torch.manual_seed(1)
    net = adapted(UNet2DConditionModel.from_pretrained(folder / "unet"), 4)
    for p in net.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.05)
    x, t, e = torch.randn(2, 4, 8, 8), torch.tensor([500, 500]), torch.randn(2, 24, 32)
    with torch.no_grad():
        out = net(x, t, e).sample
    save(net)
    return folder, x, e, out


@torch.no_grad()
def test_the_engine_walks_with_the_distilled_weights_and_leaves_no_trace(live):
    folder, x, e, truth = live
    net = ModelManager("cpu", torch.float32).load(str(folder))
    s = net.schedule.training[500].expand(2)

    def eps():
        return net.eps(x * (1 + float(s[0]) ** 2) ** 0.5, s, [Conditioning(e)])

    plain = eps()
    with net.resident.weights_for("live"):
        few = eps()
    assert (few - truth).abs().mean() < 0.01 * (plain - truth).abs().mean() + 0.01  # peft's own forward; LoRA in bf16
    assert torch.equal(eps(), plain)
    with pytest.raises(RuntimeError, match="stop"), net.resident.weights_for("live"):
        raise RuntimeError("stop")
    assert torch.equal(eps(), plain)


def test_a_live_morph_takes_few_steps(live):
    """Five frames: no more than four evaluations each, with a row for guidance; and progress that adds up."""
    request = InterpolateRequest(
        picture(0), picture(1), model=str(live[0]), frames=5, steps=24, size=64, sampler="live", guidance=1.0
    )
    seen = events(ModelManager("cpu", torch.float32), request)
    fractions = [e.fraction for e in seen if isinstance(e, Progress)]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert sorted(e.index for e in seen if isinstance(e, Frame)) == [0, 1, 2, 3, 4]
    assert 0 < seen[-1].evaluations <= 3 * 4


def test_a_live_walk_has_at_most_four_steps(tiny, models):
    net = models.load(str(tiny))
    assert len(net.few_step_sigmas()) == 5 and net.few_step_sigmas()[-1] == 0
    for t in (998, 700, 500, 260, 100, 3):
        top = float(net.schedule.training[t])
        down = net.few_step_sigmas(top)
        assert down == sorted(down, reverse=True) and len(down) <= 5 and down[0] == top
    with pytest.raises(EngineError, match=r"sampler must be ddim .* no few-step LoRA, got 'live'"):
        net.resident.weights_for("live")


def test_a_perfect_teacher_is_already_its_student():
    """One point is all there is: the straight step of any level lands where the teacher's path does, so the target is
    the teacher's own slope, inside a part and at its lower end."""
    x0 = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    sigmas = torch.tensor([[9.0, 3.0, 0.5], [5.0, 1.5, 0.0], [1.5, 1.5, 0.0]], dtype=torch.float64)
    s, s2, s_low = sigmas.view(3, -1, 1, 1, 1)
    x = x0 + s * torch.randn(3, 4, 2, 2, dtype=torch.float64)
    slope = (x - x0) / s
    x2 = x + (s2 - s) * slope
    rest = torch.where(s2 > 0, (x2 - x0) / s2.clamp(min=1e-9), 0)
    assert torch.allclose(target_of(x, slope, rest, s, s2, s_low), slope)
    other = target_of(x, slope, rest + 1, s, s2, s_low)  # what the student does below counts inside a part only
    assert not torch.allclose(other[0], slope[0]) and torch.allclose(other[1:], slope[1:])


def test_a_training_resumes_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.WORK", tmp_path)
    torch.manual_seed(0)

    def trainer():
        return Trainer("toy", {"toy": torch.nn.Linear(3, 1)}, torch.device("cpu"), 0.01, 1000, 100)

    a = trainer()
    for _ in range(5):
        a.step(a.modules["toy"](torch.ones(4, 3)).square().mean(), 4)
    a.save()
    a.log(loss=1.0)
    b = trainer()
    assert b.samples == 20 and all(torch.equal(p, q) for p, q in zip(a.params, b.params, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(a.ema, b.ema, strict=True))
    assert json.loads((tmp_path / "toy.jsonl").read_text())["samples"] == 20
