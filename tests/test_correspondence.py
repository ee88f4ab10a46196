"""The network's own match of two pictures: a shifted copy is found, and what cannot be found moves nothing."""

import pytest
import torch

from engine.diffusion import correspondence as c
from engine.diffusion import warp

GRID = (16, 16)


def fields(seed=0):
    """Features (1, 24, 20, 20) of something smooth, larger than a picture."""
    x = torch.randn(1, 24, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(x, (20, 20), mode="bicubic")


def test_a_shifted_copy_is_matched_within_a_cell():
    whole = fields()
    a, b = (c.described([whole[..., :16, s : s + 16]], GRID)[0] for s in (3, 0))  # b's are three cells to the right
    match = c.matched(a, b, GRID)
    inner = (match.weights > 0).reshape(GRID)[:, :12]
    there = match.places.reshape(16, 16, 2)
    apart = (there - warp.centres(GRID) - torch.tensor([3 / 16, 0]).double())[:, :12]
    assert inner.double().mean() > 0.6 and (apart * 16)[inner].norm(dim=-1).max() < 1.0
    f = c.regular(match, GRID, (16, 16))
    assert ((f(warp.centres(GRID).flatten(0, 1)).reshape(16, 16, 2) - warp.centres(GRID))[:, 2:12] * 16)[..., 0].sub(
        3
    ).abs().max() < 1
    assert f.least(warp.between(GRID)) >= warp.LEAST


def test_the_same_picture_moves_next_to_nothing():
    a = c.described([fields()[..., :16, :16]], GRID)[0]
    f = c.regular(c.matched(a, a, GRID), GRID, (16, 16))
    assert (f(warp.between(GRID)) - warp.between(GRID)).abs().max() < 0.25 / 16


def test_few_matches_move_nothing():
    a = c.described([fields()[..., :16, 3:19]], GRID)[0], c.described([fields()[..., :16, :16]], GRID)[0]
    match = c.matched(*a, GRID)
    some = torch.arange(256) % 20 == 0
    f = c.regular(c.Match(match.places, torch.where(some, match.weights, 0.0)), GRID, (16, 16))
    assert f.still and not f.trust.any() and not c.regular(match, GRID, (16, 16)).still


def test_points_count_fully_on_top_of_a_match():
    whole = fields()
    a, b = (c.described([whole[..., :16, s : s + 16]], GRID)[0] for s in (3, 0))
    base = c.regular(c.matched(a, b, GRID), GRID, (16, 16))
    given = torch.tensor([[0.3, 0.3, 0.4, 0.35], [0.6, 0.7, 0.8, 0.7]], dtype=torch.float64)
    f = warp.of_points(given, (16, 16), base)
    assert f.share == 1 and (f(given[:, :2]) - given[:, 2:]).abs().max() < 1e-9
    assert (f(given[:, :2]) - base(given[:, :2])).abs().max() > 0.01


def test_sinkhorns_plan_has_even_marginals():
    plan = c.sinkhorn(torch.rand(6, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(plan.sum(0), torch.full((6,), 1 / 6)) and torch.allclose(plan.sum(1), torch.full((6,), 1 / 6))


@pytest.mark.parametrize("blocks", [(-1,), (-4, -3), (-3, -2)])
def test_features_leave_the_network_as_it_was(models, tiny, blocks):
    """Of any number of blocks; of each picture by itself."""
    net = models.load(str(tiny))
    with torch.no_grad():
        z = torch.randn(3, 4, 8, 6, generator=torch.Generator().manual_seed(0))
        words = net.embed(["a", "b", "a"])
    found = c.features(net, z, words, blocks=blocks)
    assert [len(f) for f in found] == [3] * len(blocks) and not any(u._forward_hooks for u in net.unet.up_blocks)
    alone = c.features(net, z[1:2], words[1:2], blocks=blocks)
    assert all(torch.allclose(f[1:2], g, atol=1e-5) for f, g in zip(found, alone, strict=True))
    assert c.described(found, c.grid_of((8, 6))).shape[:2] == (3, 48)
