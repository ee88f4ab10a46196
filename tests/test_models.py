"""The resident networks, on tiny checkpoints of the real classes in the real folder format."""

import pytest
import torch
from conftest import make_network
from diffusers import DDIMScheduler

from engine.checkpoints.manager import Memo, Models
from engine.diffusion.model import Row, guided
from engine.diffusion.sampling import flow
from engine.requests import EngineError


@pytest.fixture(scope="module")
def net(tiny, models):
    return models.load(str(tiny))


def latents(n=2, size=8, seed=0):
    return torch.randn(n, 4, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_sizes_come_from_the_configs(net):
    assert (net.factor, net.channels, net.extra, net.size, net.multiple) == (8, 4, 0, 64, 16)
    x = torch.rand(3, 3, 32, 48) * 2 - 1
    z = net.encode(x)
    assert z.shape == (3, 4, 4, 6) and net.decode(z).shape == x.shape


@torch.no_grad()
def test_levels_fall_to_zero_and_timesteps_are_their_inverse(net):
    levels = net.levels(20)
    assert len(levels) == 21 and levels[-1] == 0 and levels == sorted(levels, reverse=True)
    net.scheduler.set_timesteps(20)
    assert [net.timestep(s) for s in levels[:-1]] == net.scheduler.timesteps.tolist()
    assert 500 < net.timestep(float((net.sigmas[500] * net.sigmas[501]) ** 0.5)) < 501
    assert len(net.levels(1000)) == 1001


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_the_whole_walk_is_diffusers_ddim(tmp_path, prediction):
    net = Models("cpu", torch.float32).load(str(make_network(tmp_path / "net", prediction)))
    embeds = net.embed(["a rose", "tulip"])
    scheduler = DDIMScheduler.from_config(net.scheduler.config, set_alpha_to_one=True)
    scheduler.set_timesteps(6)
    theirs = latents()
    levels = net.levels(6)
    x = theirs * (1 + levels[0] ** 2) ** 0.5
    for t in scheduler.timesteps:
        theirs = scheduler.step(net.unet(theirs, t, encoder_hidden_states=embeds).sample, t, theirs).prev_sample
    for state in flow(net.field([Row(embeds)]), x, levels):
        x = state.x
    assert torch.allclose(x, theirs, atol=1e-3)


@torch.no_grad()
def test_guidance_is_u_plus_g_times_c_minus_u(net):
    cond, uncond = net.embed(["a rose"]), net.embed([""])
    x, s = latents(), 2.0
    c, u = (net.field([Row(e)])(x, s) for e in (cond, uncond))
    for g in (0.0, 2.5):
        assert torch.allclose(net.field(guided(cond, uncond, g))(x, s), u + g * (c - u), atol=1e-4)
    before = net.evaluations
    net.field(guided(cond, uncond, 1.0))(x, s)
    assert net.evaluations - before == 2  # no unconditional rows when guidance is off


@torch.no_grad()
def test_chunks_do_not_change_the_picture(net):
    embeds = net.embed(["a rose"])
    x = latents(7)
    whole = net.field(guided(embeds, net.embed([""]), 3.0))(x, 1.5)
    batch, net.batch = net.batch, 3
    try:
        assert torch.allclose(net.field(guided(embeds, net.embed([""]), 3.0))(x, 1.5), whole, atol=1e-4)
    finally:
        net.batch = batch


@torch.no_grad()
def test_when_memory_runs_out_the_chunk_is_halved_and_then_a_sentence(net):
    asked = []

    def greedy(limit):
        def fn(rows):
            asked.append(len(rows))
            if len(rows) > limit:
                raise torch.OutOfMemoryError("out of memory")
            return rows * 2

        return fn

    batch = net.batch
    try:
        assert torch.equal(net.chunked(greedy(3), latents(10)), latents(10) * 2)
        assert max(asked) == 10 and net.room <= 3 and net.batch == batch
        with pytest.raises(EngineError, match="must hold one picture"):
            net.chunked(greedy(0), latents(4))
        with pytest.raises(RuntimeError, match="a bug"):
            net.chunked(lambda rows: (_ for _ in ()).throw(RuntimeError("a bug")), latents(1))
    finally:
        net.room = 2**16


@torch.no_grad()
def test_concatenated_conditions_and_the_missing_one(tmp_path):
    net = Models("cpu", torch.float32).load(str(make_network(tmp_path / "net", extra=8)))
    embeds, x = net.embed(["a rose"]), latents()
    null = net.null((8, 8))
    assert torch.allclose(null, net.encode(torch.zeros(1, 3, 64, 64)), atol=1e-5)
    free = net.field([Row(embeds)])(x, 1.0)
    assert torch.allclose(free, net.field([Row(embeds, conditions=torch.cat([null, null], 1))])(x, 1.0), atol=1e-5)
    drawn = net.field([Row(embeds, conditions=torch.cat([latents(1, seed=3), null], 1))])(x, 1.0)
    assert not torch.allclose(free, drawn, atol=1e-3)


@torch.no_grad()
def test_the_previewer_is_the_best_linear_look(net):
    colours = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = torch.nn.functional.interpolate(colours, scale_factor=8)
    z = torch.cat([colours, latents(2)[:, :1]], 1)  # colours, as latents hold them, and noise
    seen = net.previewer(z, x)(z)
    assert seen.shape == (2, 3, 32, 32)
    small = torch.nn.functional.avg_pool2d(seen, 4)
    assert (small - colours).abs().mean() < 0.35 * colours.abs().mean()


def test_long_prompts_are_cut_and_counted(net):
    assert net.overlong("a rose") == 0
    assert net.overlong("rose " * 40) > 100
    with torch.no_grad():
        assert net.embed(["rose " * 500]).shape[1] == net.words


def test_unknown_and_incomplete_networks(tmp_path, models):
    with pytest.raises(EngineError, match=r"model must be one of flora.* got 'nonsense'"):
        models.load("nonsense")
    broken = make_network(tmp_path / "net")
    for file in (broken / "vae").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(EngineError, match="must be whole"):
        models.load(str(broken))
    for file in (broken / "scheduler").iterdir():
        file.unlink()
    (broken / "scheduler").rmdir()
    with pytest.raises(EngineError, match="got none of scheduler"):
        models.load(str(broken))


def test_the_memo_is_bounded():
    memo = Memo(limit=100)
    for i in range(10):
        memo.put(i, i, 30)
    assert memo.size <= 100 and memo.get(9) == 9 and memo.get(0) is None
    memo.put("huge", 1, 1000)
    assert memo.get("huge") == 1 and memo.get(9) is None
