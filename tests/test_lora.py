"""LoRAs fitted in one batch and mixed per row, against merged weights, separate fits and the identity of §6.1."""

import copy

import pytest
import torch

from engine.diffusion import lora
from engine.diffusion.guidance import Conditioning
from engine.diffusion.lora import LoraStack, attach, blank, fit, targets
from engine.diffusion.plain import Denoising
from engine.diffusion.words import Words
from engine.requests import EngineError


@pytest.fixture(scope="module")
def model(tiny, models):
    return models.load(str(tiny))


def random_stack(model, count=2, rank=3):
    draw, factors = torch.Generator().manual_seed(0), {}
    for name, layer in targets(model.unet).items():
        a = 0.3 * torch.randn(count, rank, layer.in_features, generator=draw)
        factors[name] = a, 0.3 * torch.randn(count, layer.out_features, rank, generator=draw)
    return LoraStack(factors)


def rows(n=3):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(n, 4, 8, 8, generator=draw), Words(torch.randn(n, 24, 32, generator=draw))


@torch.no_grad()
@pytest.mark.parametrize("form", ["sum", "factors"])
def test_a_mix_per_row_is_what_merging_for_each_row_gives(model, form, monkeypatch):
    stack, (x, embeds), s = random_stack(model), rows(), torch.full((3,), 1.5)
    weights = torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]])
    with attach(model, stack, form):
        together = model.eps(x, s, [Conditioning(embeds, lora_weights=weights)])
    plain = model.unet
    for i, (p, q) in enumerate(weights.tolist()):
        merged = copy.deepcopy(plain)
        for name, (a, b) in stack.factors.items():
            total = p * b[0] @ a[0] + q * b[1] @ a[1]
            factors = (p * b[0] + q * b[1]) @ (p * a[0] + q * a[1])
            merged.get_submodule(name).weight.data += total if form == "sum" else factors
        monkeypatch.setitem(model.resident._plain, "unet", Denoising(merged))
        alone = model.eps(x[i : i + 1], s[:1], [Conditioning(embeds[i : i + 1])])
        assert torch.allclose(together[i : i + 1], alone, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["conv_in", "down_blocks.0.downsamplers.0.conv", "down_blocks.1.resnets.0.conv1"])
def test_convolutions_carry_a_mix_too(model, name, monkeypatch):
    """Of any kernel and stride, as LoCon files have them."""
    layer, draw, (x, embeds) = model.unet.get_submodule(name), torch.Generator().manual_seed(4), rows()
    a = 0.2 * torch.randn(2, 3, layer.weight[0].numel(), generator=draw)
    b = 0.2 * torch.randn(2, layer.out_channels, 3, generator=draw)
    weights, s = torch.tensor([[0.3, 0.7]] * 3), torch.full((3,), 1.5)
    with attach(model, LoraStack({name: (a, b)})):
        together = model.eps(x, s, [Conditioning(embeds, lora_weights=weights)])
    merged = copy.deepcopy(model.unet)
    merged.get_submodule(name).weight.data += (0.3 * b[0] @ a[0] + 0.7 * b[1] @ a[1]).view(layer.weight.shape)
    monkeypatch.setitem(model.resident._plain, "unet", Denoising(merged))
    assert torch.allclose(together, model.eps(x, s, [Conditioning(embeds)]), atol=2e-5)


def test_the_two_mixes_differ_by_what_is_written():
    """ΔW_factors = ΔW_sum − α(1−α)(B₀−B₁)(A₀−A₁) (methods.md §6.1)."""
    draw = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, *s, generator=draw, dtype=torch.float64) for s in ((3, 8), (5, 3)))
    for w in (0.0, 0.3, 1.0):
        total = (1 - w) * b[0] @ a[0] + w * b[1] @ a[1]
        factors = ((1 - w) * b[0] + w * b[1]) @ ((1 - w) * a[0] + w * a[1])
        assert torch.allclose(factors, total - w * (1 - w) * (b[0] - b[1]) @ (a[0] - a[1]))


@torch.no_grad()
def test_a_blank_stack_changes_nothing_and_no_hook_stays(model):
    (x, embeds), s, both = rows(), torch.tensor([0.5, 1.0, 4.0]), torch.ones(1, 2)
    plain = model.eps(x, s, [Conditioning(embeds)])
    with attach(model, blank(model, 2, 4)):
        assert torch.equal(model.eps(x, s, [Conditioning(embeds, lora_weights=both)]), plain)
    with attach(model, random_stack(model)):
        assert torch.equal(model.eps(x, s, [Conditioning(embeds)]), plain)  # rows without weights carry none
        assert not torch.allclose(model.eps(x, s, [Conditioning(embeds, lora_weights=both)]), plain)
    assert not any(m._forward_hooks for m in targets(model.unet).values())


def fitted(steps):
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return end.value, seen


def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), Words(torch.zeros(1, 24, 32))


def test_what_one_picture_learns_does_not_reach_another(model):
    z, embeds = latents()
    both, _ = fitted(fit(model, z[[0, 0]], embeds, 6, 3, 1e-2, patience=0))
    other, _ = fitted(fit(model, z, embeds, 6, 3, 1e-2, patience=0))
    for name, pair in both.factors.items():
        assert all(torch.allclose(p[0], q[0], atol=1e-5) for p, q in zip(pair, other.factors[name], strict=True))
    assert any(not torch.allclose(both.factors[n][1][1], other.factors[n][1][1], atol=1e-4) for n in both.factors)


def test_a_picture_that_is_done_does_not_change_the_other(model, monkeypatch):
    """One is known soon; the other goes on, as if it were alone."""
    monkeypatch.setattr(lora, "CHECK", 4)
    z, embeds = latents()
    z[1] *= 0.1
    both, steps = fitted(fit(model, z, embeds, 40, 3, 2e-2))
    alone = [fitted(fit(model, z[k : k + 1], embeds, 40, 3, 2e-2)) for k in (0, 1)]
    assert len({len(own) for _, own in alone}) == 2 and len(steps) == max(len(own) for _, own in alone)
    for k, (stack, _) in enumerate(alone):
        for name, (_, b) in stack.factors.items():
            assert torch.allclose(both.factors[name][1][k], b[0], atol=2e-3)


def test_fitting_lowers_the_error_and_stops_when_it_no_longer_does(model, monkeypatch):
    monkeypatch.setattr(lora, "CHECK", 5)
    z, embeds = (t[:1] for t in latents())
    stack, steps = fitted(fit(model, z, embeds, 30, 4, 4e-2, patience=0))
    assert [step.done for step in steps] == [*range(1, 31)]

    @torch.no_grad()
    def error(weights):
        s = torch.linspace(0.1, 10, 64)
        eps = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(9))
        with attach(model, stack):
            found = model.eps(z + s.view(-1, 1, 1, 1) * eps, s, [Conditioning(embeds, lora_weights=weights)])
        return float((found - eps).square().mean())

    # Only the attention of a random network can learn here: most of its error stays.
    assert error(torch.ones(1, 1)) < 0.95 * error(torch.zeros(1, 1))
    _, early = fitted(fit(model, z, embeds, 400, 4, 1e-7))
    assert len(early) < 30  # a rate that teaches nothing: no use in going on
    assert sum(step.gained for step in early) == 400  # which the progress bar is told


def test_a_lack_of_memory_splits_the_batch_and_teaches_the_same(model, monkeypatch):
    z, embeds = latents()
    calm, _ = fitted(fit(model, z, embeds, 3, 3, 1e-2, patience=0))
    forward, most = model.unet.forward, []

    def greedy(sample, *args, **kw):
        most.append(len(sample))
        if len(sample) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kw)

    monkeypatch.setattr(model.unet, "forward", greedy)
    monkeypatch.setattr(model, "room", type(model.room)(model.device))
    tight, _ = fitted(fit(model, z, embeds, 3, 3, 1e-2, patience=0))
    assert most[:3] == [8, 4, 2] and "ran out" in model.room.trouble
    for name, pair in calm.factors.items():
        assert all(torch.allclose(p, q, atol=1e-4) for p, q in zip(pair, tight.factors[name], strict=True))


def test_a_fit_that_goes_astray_is_a_sentence(model):
    z, embeds = latents()
    with pytest.raises(EngineError, match=r"lora_rate must be smaller for .*, got 1e\+30: the fit went astray"):
        fitted(fit(model, z, embeds, 3, 3, 1e30, patience=0))


def test_stacks_join_part_and_flatten(model):
    stack = random_stack(model, count=3)
    for again in (
        LoraStack.join([stack.only(i) for i in range(3)]),
        LoraStack.unflatten(stack.flatten(), torch.device("cpu")),
    ):
        assert again.count == 3 and again.factors.keys() == stack.factors.keys()
        for name, pair in stack.factors.items():
            assert all(map(torch.equal, pair, again.factors[name]))


def test_stacks_of_other_ranks_and_layers_join_with_zeros():
    def random(*shape):
        return torch.randn(1, *shape, generator=torch.Generator().manual_seed(sum(shape)))

    one, other = LoraStack({"x": (random(2, 5), random(4, 2))}), LoraStack({"y": (random(3, 6), random(7, 3))})
    both = LoraStack.join([one, other])
    assert [t.shape for t in both.factors["x"]] == [(2, 2, 5), (2, 4, 2)]  # each layer of its own rank
    for name, k, own in (("x", 0, one), ("y", 1, other)):
        (a, b), (c, d) = both.factors[name], own.factors[name]
        assert torch.allclose(b[k] @ a[k], d[0] @ c[0]) and not b[1 - k].any() and not a[1 - k].any()


def test_a_lora_of_another_network_is_refused(model):
    stack = LoraStack({"mid.nothing.to_q": (torch.zeros(1, 2, 3), torch.zeros(1, 3, 2))})
    match = r"LoRA must fit .* the layer mid\.nothing\.to_q, which it does not have"
    with pytest.raises(EngineError, match=match), attach(model, stack):
        pass


def test_every_attention_is_fitted_and_nothing_else(model):
    found = targets(model.unet)
    assert all(any(f"attn{k}." in n for k in (1, 2)) for n in found) and len(found) % 8 == 0
