"""Ways between two points, and orders of frames, in closed form."""

import torch

from engine.diffusion.geometry import adain, lerp, noise_steps, slerp, tree


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_ends_are_the_ends():
    a, b = rows(3, 4, 5, 5), rows(3, 4, 5, 5) + 1
    for mix in (lerp, slerp):
        assert torch.allclose(mix(a, b, 0.0), a, atol=1e-5)
        assert torch.allclose(mix(a, b, 1.0), b, atol=1e-5)


def test_slerp_keeps_the_norm_of_unit_vectors_and_halves_the_angle():
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (rows(6, 32), rows(7, 32)[1:]))
    middle = slerp(a, b, 0.5)
    assert torch.allclose(middle.norm(dim=1), torch.ones(6), atol=1e-5)
    assert torch.allclose((middle * a).sum(1), (middle * b).sum(1), atol=1e-5)


def test_slerp_takes_a_weight_a_row():
    a, b = rows(2, 8), rows(2, 8).flip(1)
    both = slerp(a, b, torch.tensor([0.2, 0.7]))
    assert torch.allclose(both[1:], slerp(a[1:], b[1:], 0.7), atol=1e-6)


def test_slerp_of_parallel_rows_is_the_straight_line():
    a = rows(1, 16)
    assert torch.allclose(slerp(a, 3 * a, 0.5), 2 * a, atol=1e-5)
    assert torch.allclose(slerp(a, a, 0.3), a, atol=1e-6)
    assert slerp(0 * a, 0 * a, 0.5).isfinite().all()


def test_slerp_does_not_care_for_a_common_scale():
    a, b = rows(1, 16), rows(1, 16).flip(1)
    assert torch.allclose(slerp(5 * a, 5 * b, 0.4), 5 * slerp(a, b, 0.4), atol=1e-5)


def test_adain_hits_its_target():
    x, mean, std = rows(2, 3, 16, 16), torch.full((2, 3, 1, 1), 0.4), torch.full((2, 3, 1, 1), 2.0)
    out = adain(x, mean, std)
    assert torch.allclose(out.mean((2, 3)), mean[..., 0, 0], atol=1e-4)
    assert torch.allclose(out.std((2, 3), correction=0), std[..., 0, 0], atol=1e-3)


def test_tree_visits_every_inner_frame_once_after_its_parents():
    assert list(tree(9)) == [(4, [4]), (2, [2, 6]), (1, [1, 3, 5, 7])]
    for frames in (3, 5, 17, 65):
        made = {0, frames - 1}
        for d, level in tree(frames):
            for i in level:
                assert {i - d, i + d} <= made and i not in made
            made |= set(level)
        assert made == set(range(frames))


def test_noise_falls_from_coarse_to_fine():
    assert noise_steps(3, 200, 0.3, 0.55, "linear") == [110, 85, 60]
    convex, concave = (noise_steps(3, 200, 0.3, 0.55, s)[1] for s in ("convex", "concave"))
    assert convex < 85 < concave
    assert noise_steps(1, 20, 0.3, 0.55, "linear") == [11]
    assert noise_steps(2, 10, 0.0, 1.0, "linear") == [9, 1]
