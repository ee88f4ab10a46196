"""Maps from points: exact, without folds; and what moves along them."""

import pytest
import torch

from engine.diffusion import transport, warp
from engine.requests import EngineError
from engine.requests.points import check

SIZE = (16, 16)


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def points(*values):
    return torch.tensor(values, dtype=torch.float64)


def seen(w, places):
    """Determinants by differences of the map itself, between places (h, w, 2)."""
    f = w(places.flatten(0, 1)).unflatten(0, places.shape[:2])
    x, y = (f[:-1, 1:] - f[:-1, :-1]), (f[1:, :-1] - f[:-1, :-1])
    return x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]


def test_the_identity_changes_nothing_to_the_bit():
    z = rows(2, 4, *SIZE)
    for given in (points(), points((0.3, 0.4, 0.3, 0.4)), points((0.3, 0.4, 0.3, 0.4), (0.7, 0.2, 0.7, 0.2))):
        w = warp.of_points(given.reshape(-1, 4), SIZE)
        assert w.still
        places, trust = w.look(SIZE, 0.5, 0.0, 1.0)
        assert all(torch.equal(transport.moved(z, p[None], trust), z) for p in places)
    w = warp.of_points(points((0.2, 0.2, 0.4, 0.3)), SIZE)
    (at, _), _ = w.look(SIZE, 0.0, 0.0, 1.0)
    assert torch.equal(transport.moved(z, at[None]), z)  # the first picture at the first place


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_points_go_where_they_are_put(n):
    """Whatever their number; two keep the shapes of things, one also their size."""
    draw = torch.Generator().manual_seed(n)
    start = torch.rand(n, 2, generator=draw).double() * 0.8 + 0.1
    end = start + (torch.rand(n, 2, generator=draw).double() - 0.5) * 0.06
    w = warp.of_points(torch.cat([start, end], 1), SIZE)
    assert w.share == 1 and (w(start) - end).abs().max() < 1e-9
    linear = w.affine[:2]
    if n == 1:
        assert torch.equal(linear, torch.eye(2).double()) and w.bend is None
    if n == 2:
        assert torch.allclose(linear @ linear.T, torch.det(linear) * torch.eye(2).double()) and w.bend is None


def test_a_similarity_keeps_shapes_in_frames_that_are_not_square():
    w = warp.of_points(points((0.25, 0.5, 0.5, 0.25), (0.75, 0.5, 0.5, 0.75)), (8, 16))
    side = points((16.0, 8.0))[0]
    p, q = points((0.4, 0.4), (0.5, 0.4)), points((0.4, 0.4), (0.4, 0.6))
    lengths = [((w(r)[0] - w(r)[1]) * side).norm() for r in (p, q)]
    assert torch.allclose(*lengths)  # both were as long


def test_no_random_points_fold_the_map():
    draw, accepted, whole = torch.Generator().manual_seed(0), 0, 0
    fine = warp.centres((40, 40))
    for _ in range(1000):
        start = torch.rand(5, 2, generator=draw).double()
        end = (start + (torch.rand(5, 2, generator=draw).double() - 0.5) * 0.2).clamp(0, 1)
        given = torch.cat([start, end], 1)
        try:
            check((tuple(map(tuple, given.tolist())),), 1, 2)
        except EngineError:
            continue
        w = warp.of_points(given, SIZE)
        accepted, whole = accepted + 1, whole + (w.share == 1)
        assert seen(w, fine).min() > 0
        if w.share == 1:
            assert (w(start) - end).abs().max() < 1e-6
    assert accepted >= 900 and whole >= 700


def test_every_cell_of_a_frame_comes_from_where_it_was():
    w = warp.of_points(points((0.3, 0.3, 0.5, 0.35), (0.7, 0.4, 0.75, 0.6), (0.4, 0.8, 0.3, 0.7)), SIZE)
    for u in (0.2, 0.5, 0.8, 1.0):
        (p, q), _ = w.look(SIZE, u, 0.0, 1.0)
        assert torch.allclose((1 - u) * p + u * q, warp.centres(SIZE), atol=1e-6)


def test_a_shift_by_whole_cells_is_exact():
    z = rows(1, 4, *SIZE)
    w = warp.of_points(points((0.25, 0.25, 0.5, 0.25)), SIZE)  # four of sixteen cells to the right
    (p, q), _ = w.look(SIZE, 0.5, 0.0, 1.0)
    assert torch.allclose(transport.moved(z, p[None])[..., 2:], z[..., :-2], atol=1e-5)
    assert torch.allclose(transport.moved(z, q[None])[..., :-2], z[..., 2:], atol=1e-5)


def test_fine_structure_goes_along_as_far_as_it_is_trusted():
    z = rows(1, 4, *SIZE)
    (p,), _ = warp.of_points(points((0.25, 0.25, 0.5, 0.25)), SIZE).look(SIZE, 1.0, 0.0)
    low, none, some = transport.band(z), torch.zeros(1, 1, *SIZE), torch.full((1, 1, *SIZE), 0.3)
    shifted = transport.bring(low, p[None])
    assert torch.allclose(transport.moved(z, p[None], none), shifted + z - low, atol=1e-6)
    whole = transport.moved(z, p[None], 1 - none)
    assert torch.allclose(whole, transport.moved(z, p[None]), atol=1e-6)
    assert torch.allclose(transport.moved(z, p[None], some), 0.3 * whole + 0.7 * (shifted + z - low), atol=1e-5)


def test_noise_that_moves_stays_white():
    """Both bands keep their deviation, wherever it lies between cells and where it grows; beyond the frame it is what
    it was."""
    z = rows(1, 4, 32, 32)
    grown = points((0.35, 0.35, 0.2, 0.2), (0.65, 0.65, 0.8, 0.8))
    for given in (points((0.2, 0.2, 0.35, 0.27)), points((0.3, 0.3, 0.35, 0.32), (0.7, 0.7, 0.65, 0.68)), grown):
        (p, q), _ = warp.of_points(given, (32, 32)).look((32, 32), 0.5, 0.0, 1.0)
        for places in (p, q):
            moved = transport.moved_noise(z, places[None])
            assert float(moved.std()) == pytest.approx(float(z.std()), rel=0.02)
            assert float(transport.band(moved).std()) == pytest.approx(float(transport.band(z).std()), rel=0.15)
    still = warp.centres((32, 32))
    assert torch.equal(transport.moved_noise(z, still[None]), z)
    assert torch.equal(transport.moved_noise(z, still[None] + 2), z)
