"""The perceptual distance over the resident network's features."""

import pytest
import torch

from engine.perceptual import distance


@pytest.fixture(scope="module")
def net(tiny, models):
    return models.load(str(tiny))


def pictures(n, seed=0):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_it_is_a_distance(net):
    x, y = pictures(3), pictures(3, 1)
    assert torch.allclose(distance(net, x, x), torch.zeros(3), atol=1e-6)
    assert torch.allclose(distance(net, x, y), distance(net, y, x), atol=1e-6)
    assert (distance(net, x, y) > 0).all()


@torch.no_grad()
def test_it_grows_along_a_fade(net):
    a, b = pictures(1), pictures(1, 1)
    steps = torch.cat([distance(net, a, a + (b - a) * w) for w in (0.1, 0.3, 0.6, 1.0)])
    assert (steps.diff() > 0).all()


@torch.no_grad()
def test_chunks_do_not_change_it(net):
    x, y, kept = pictures(5), pictures(5, 1), net.batch
    whole = distance(net, x, y)
    net.batch = 2
    try:
        assert torch.allclose(distance(net, x, y), whole, atol=1e-5)
    finally:
        net.batch = kept
