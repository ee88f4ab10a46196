"""Four steps: where the teacher's path leads, a LoRA that the engine reads, a judge whose pull reaches the student."""

from itertools import pairwise

import torch
from conftest import make_network

from engine.checkpoints.manager import ModelManager
from engine.diffusion.schedule import FEW_STEPS
from training import few_steps
from training.angles import angles, at, noised, turn, velocity_to, walk
from training.network import scheduler

PHI = angles(scheduler().alphas_cumprod)
PARTS = [(torch.tensor([high]), torch.tensor([low])) for high, low in zip(FEW_STEPS, (*FEW_STEPS[1:], 0), strict=True)]


def times(high, low, steps):
    return [torch.lerp(low.float(), high.float(), 1 - k / steps) for k in range(steps + 1)]


def test_one_point_is_reached_by_any_path_and_by_the_one_step():
    x0, noise = torch.randn(2, 1, 4, 2, 2)
    for high, low in PARTS:
        a, b = at(PHI, high), at(PHI, low)
        x, truth = (a.cos() * x0 + a.sin() * noise).float(), b.cos() * x0 + b.sin() * noise

        def predict(x, t):
            c = at(PHI, t)
            return (x * c.cos() - x0) / c.sin()

        landed = walk(predict, x, times(high, low, 3), PHI)
        assert torch.allclose(landed, truth.float(), atol=1e-5)
        v = velocity_to(x, landed, a, b)
        assert torch.allclose(v, (a.cos() * noise - a.sin() * x0).float(), atol=1e-4)
        assert torch.allclose(turn(x, v, a, b), landed, atol=1e-5)


def test_a_walk_of_three_is_nearer_to_the_path_than_three_ddim_steps():
    """Of N(m, s²) everything is known: x0's mean is linear in x, and a path keeps its place in the distribution."""
    m, s = 0.7, 0.4
    for high, low in PARTS:
        a, b = at(PHI, high), at(PHI, low)
        x = torch.randn(64, 1, 1, 1, dtype=torch.float64)

        def wide(c):
            return ((c.cos() * s) ** 2 + c.sin() ** 2).sqrt()

        def predict(x, t):
            c = at(PHI, t)
            mean = m + c.cos() * s * s / wide(c) ** 2 * (x - c.cos() * m)
            return (x * c.cos() - mean) / c.sin()

        truth, own = b.cos() * m + wide(b) * x, a.cos() * m + wide(a) * x
        ddim = own
        marks = times(high, low, 3)
        for t, then in pairwise(marks):
            ddim = turn(ddim, predict(ddim, t), at(PHI, t), at(PHI, then))
        error = (walk(predict, own, marks, PHI) - truth).abs().mean()
        assert error < (0.5 if high in (749, 499) else 0.95) * (ddim - truth).abs().mean()


def test_more_noise_gives_the_higher_level():
    torch.manual_seed(0)
    a, b = at(PHI, torch.tensor([249])), at(PHI, torch.tensor([600]))
    x = noised(torch.full((1, 1, 200, 200), 2.0), at(PHI, torch.tensor([0])), a)
    y = noised(x, a, b)
    assert abs(y.mean() - 2 * b.cos()) < 0.02 and abs(y.std() - b.sin()) < 0.02
    assert abs(noised(x, a, at(PHI, torch.tensor([999]))).mean()) < 0.02  # nothing is left of it


@torch.no_grad()
def test_the_engine_walks_with_the_saved_weights_and_leaves_no_trace(tmp_path, monkeypatch):
    folder = make_network(tmp_path / "net", "v_prediction", extra=8)
    monkeypatch.setattr(few_steps, "FLORA", folder)
    torch.manual_seed(0)
    d = few_steps.Distillation()
    for average in d.weights.averages[few_steps.AVERAGE]:
        average.copy_(0.05 * torch.randn_like(average))
    x, t, e = torch.randn(2, 12, 8, 8), torch.tensor([500, 500]), torch.randn(2, 24, 32)
    d.weights.show(few_steps.AVERAGE)
    truth = d.student(x.to(few_steps.BF16), t, e.to(few_steps.BF16)).sample
    d.save(folder / "live")
    assert {p.name for p in (folder / "live").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert str(tmp_path) not in (folder / "live" / "adapter_config.json").read_text()
    own = ModelManager("cpu", torch.float32).load(str(folder))
    unet = own.resident.unet
    plain = unet(x, t, e).sample
    with own.resident.weights_for("live"):
        few = unet(x, t, e).sample
    assert (few - truth).abs().mean() < 0.05 * (plain - truth).abs().mean()  # all of it is in bf16
    assert torch.equal(unet(x, t, e).sample, plain)


def batch(d, n=8):
    """Rows on which photographs are flat and everything else is noise."""
    t, low = torch.full((n,), 249.0), torch.zeros(n)
    clean = torch.randn(n, 4, 1, 1).expand(-1, -1, 8, 8)
    x = noised(clean, at(d.phi, low), at(d.phi, t))
    embeds, drawings = torch.randn(n, 24, 32).to(few_steps.BF16), torch.zeros(n, 8, 8, 8)
    free = torch.arange(n) % 2 == 0
    return {"x": x, "t": t, "low": low, "clean": clean, "drawings": drawings, "embeds": embeds, "free": free}


def test_student_and_judge_learn_and_go_on_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(few_steps, "FLORA", make_network(tmp_path / "net", "v_prediction", extra=8))
    torch.manual_seed(0)
    d, losses = few_steps.Distillation(), []
    empty = torch.randn(1, 24, 32).to(few_steps.BF16)
    teacher = [p.clone() for p in d.teacher.parameters()]
    for n in range(30):
        r = batch(d)
        landed, told = d.step(r, empty)
        d.weights.step(1e-3, 8, 8 * n)
        losses.append(float(told["judge"].detach()))
    assert landed.shape == r["x"].shape and torch.isfinite(landed).all()
    assert sum(losses[-5:]) < 0.96 * sum(losses[:5])  # flat and noise are told apart
    assert all(torch.equal(p, q) for p, q in zip(teacher, d.teacher.parameters(), strict=True))
    x = r["x"].clone().requires_grad_(True)
    praise, _ = d.judged(r, x)
    (pull,) = torch.autograd.grad(praise, x)
    assert (pull.flatten(1).norm(dim=1) > 0).all()  # every row hears the judge

    other = few_steps.Distillation()
    other.load(d.state())
    assert other.adversary.edge == d.adversary.edge
    assert all(torch.equal(p, q) for p, q in zip(d.student.parameters(), other.student.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(*(o.adversary.judge.parameters() for o in (d, other)), strict=True))
