"""LoRAs fitted in one batch and mixed per row, against merged weights, separate fits and the identity of §6.1."""

import copy

import pytest
import torch
from torch.nn.functional import linear

from engine.diffusion.lora import Bank, attached, blank, fit, targets
from engine.diffusion.model import Row
from engine.requests import EngineError


@pytest.fixture(scope="module")
def net(tiny, models):
    return models.load(str(tiny))


def random_bank(net, count=2, rank=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Bank({n: (0.3 * torch.randn(count, rank, m.in_features, generator=draw),
                     0.3 * torch.randn(count, m.out_features, rank, generator=draw))
                 for n, m in targets(net.unet).items()})  # fmt: skip


def merged(net, deltas):
    """The naive way: a copy of the UNet with the deltas added to its weights."""
    unet = copy.deepcopy(net.unet)
    for name, delta in deltas.items():
        unet.get_submodule(name).weight.data += delta
    return unet


def rows(net, n=3):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(n, 4, 8, 8, generator=draw), torch.randn(n, 24, 32, generator=draw)


@torch.no_grad()
@pytest.mark.parametrize("form", ["sum", "factors"])
def test_a_mix_per_row_is_what_merging_for_each_row_gives(net, form):
    bank, (x, words) = random_bank(net), rows(net)
    mixes = torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]])
    with attached(net, bank, form):
        together = net.noise_in(x, torch.full((3,), 1.5), [Row(words, mix=mixes)])
    for i, (p, q) in enumerate(mixes.tolist()):
        deltas = {}
        for name, (a, b) in bank.factors.items():
            if form == "sum":
                deltas[name] = p * b[0] @ a[0] + q * b[1] @ a[1]
            else:
                deltas[name] = (p * b[0] + q * b[1]) @ (p * a[0] + q * a[1])
        own, net.unet = net.unet, merged(net, deltas)
        try:
            alone = net.noise_in(x[i : i + 1], torch.tensor([1.5]), [Row(words[i : i + 1])])
        finally:
            net.unet = own
        assert torch.allclose(together[i : i + 1], alone, atol=2e-5)


def test_the_two_mixes_differ_by_what_is_written():
    """ΔW_factors = ΔW_sum − α(1−α)(B₀−B₁)(A₀−A₁) (methods.md §6.1)."""
    draw = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, *s, generator=draw, dtype=torch.float64) for s in ((3, 8), (5, 3)))
    for w in (0.0, 0.3, 1.0):
        total = (1 - w) * b[0] @ a[0] + w * b[1] @ a[1]
        factors = ((1 - w) * b[0] + w * b[1]) @ ((1 - w) * a[0] + w * a[1])
        assert torch.allclose(factors, total - w * (1 - w) * (b[0] - b[1]) @ (a[0] - a[1]))


@torch.no_grad()
def test_a_blank_bank_changes_nothing_and_no_hook_stays(net):
    x, words = rows(net)
    s, plain = torch.tensor([0.5, 1.0, 4.0]), None
    plain = net.noise_in(x, s, [Row(words)])
    with attached(net, blank(net, 2, 4)):
        assert torch.equal(net.noise_in(x, s, [Row(words, mix=torch.ones(1, 2))]), plain)
    with attached(net, random_bank(net)):
        assert torch.equal(net.noise_in(x, s, [Row(words)]), plain)  # rows without a mix carry none
        assert not torch.allclose(net.noise_in(x, s, [Row(words, mix=torch.ones(1, 2))]), plain)
    assert not any(m._forward_hooks for m in targets(net.unet).values())


@torch.no_grad()
def test_rows_at_sigmas_of_their_own(net):
    x, words = rows(net)
    s = torch.tensor([0.3, 1.1, 7.0])
    together = net.noise_in(x, s, [Row(words)])
    for i in range(3):
        alone = net.field([Row(words[i : i + 1])])(x[i : i + 1], float(s[i]))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def run(steps):
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return end.value, events


def test_fitting_two_pictures_at_once_is_fitting_each(net):
    z, words = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.zeros(2, 24, 32)
    both, _ = run(fit(net, torch.cat([z[:1], z[:1]]), words, 6, 3, 1e-2, patience=0))
    # The same picture twice, with noise of their own: what the second learns must not reach the first.
    other, _ = run(fit(net, torch.cat([z[:1], z[1:]]), words, 6, 3, 1e-2, patience=0))
    for name in both.factors:
        assert torch.allclose(both.factors[name][0][0], other.factors[name][0][0], atol=1e-5)
        assert torch.allclose(both.factors[name][1][0], other.factors[name][1][0], atol=1e-5)
    assert any(not torch.allclose(both.factors[n][1][1], other.factors[n][1][1], atol=1e-4) for n in both.factors)


def test_a_picture_that_is_done_does_not_change_the_other(net):
    """One is known soon; the other goes on, as if it were alone."""
    z, words = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.zeros(1, 24, 32)
    z[1] *= 0.1
    both, events = run(fit(net, z, words, 120, 3, 2e-2, patience=0.01))
    alone = [run(fit(net, z[k : k + 1], words, 120, 3, 2e-2, patience=0.01)) for k in (0, 1)]
    assert len({len(e) for _, e in alone}) == 2 and len(events) == max(len(e) for _, e in alone)
    for k, (bank, _) in enumerate(alone):
        for name in bank.factors:
            assert torch.allclose(both.factors[name][1][k], bank.factors[name][1][0], atol=2e-3)


def test_fitting_lowers_the_error_and_stops_when_it_no_longer_does(net):
    z, words = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.zeros(1, 24, 32)
    bank, events = run(fit(net, z, words, 60, 4, 2e-2, patience=0))
    assert len(events) == 61 and events[-1].fraction == 1

    @torch.no_grad()
    def error(mix):
        s = torch.linspace(0.1, 10, 64)
        eps = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(9))
        with attached(net, bank):
            d = net.noise_in(z + s.view(-1, 1, 1, 1) * eps, s, [Row(words, mix=mix)])
        return float((d - eps).square().mean())

    # Only the attention of a random network can learn here: most of its error stays.
    assert error(torch.ones(1, 1)) < 0.95 * error(torch.zeros(1, 1))
    _, early = run(fit(net, z, words, 400, 4, 1e-7, patience=0.01))
    assert len(early) < 60  # a rate that teaches nothing: no use in going on


def test_banks_join_and_part(net):
    bank = random_bank(net, count=3)
    again = Bank.joined([bank.only(i) for i in range(3)])
    assert again.count == 3 and again.rank == 3
    assert all(torch.equal(p, q) for n in bank.factors for p, q in zip(bank.factors[n], again.factors[n], strict=True))


def test_a_lora_of_another_network_is_refused(net):
    bank = Bank({"mid.nothing.to_q": (torch.zeros(1, 2, 3), torch.zeros(1, 3, 2))})
    match = r"LoRA must fit .* the layer mid\.nothing\.to_q, which it does not have"
    with pytest.raises(EngineError, match=match), attached(net, bank):
        pass


def test_linear_layers_are_what_is_meant(net):
    found = targets(net.unet)
    assert all(any(f"attn{k}." in n for k in (1, 2)) for n in found) and len(found) % 8 == 0
    layer = next(iter(found.values()))
    x = torch.randn(2, layer.in_features)
    assert torch.equal(layer(x), linear(x, layer.weight, layer.bias))
