"""LoRA files: diffusers and peft load ours, we load theirs and kohya's; what does not fit is refused with a reason."""

import copy
import re

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load, save, save_file
from test_lora import random_bank, rows

from engine.checkpoints.lora_files import from_bytes, to_bytes
from engine.diffusion.lora import Bank, attached, targets
from engine.diffusion.model import Row
from engine.requests import EngineError


@pytest.fixture(scope="module")
def net(tiny, models):
    return models.load(str(tiny))


@pytest.fixture(scope="module")
def bank(net):
    return random_bank(net, count=1)


def ours(net, bank):
    """What the network says with the LoRA attached."""
    x, words = rows(net)
    with torch.no_grad(), attached(net, bank):
        return net.noise_in(x, torch.full((3,), 1.5), [Row(words, mix=torch.ones(1, 1))])


def theirs(net, unet):
    x, words = rows(net)
    own, net.unet = net.unet, unet
    try:
        with torch.no_grad():
            return net.noise_in(x, torch.full((3,), 1.5), [Row(words)])
    finally:
        net.unet = own


def test_diffusers_loads_ours(net, bank, tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(to_bytes(bank, {}))
    unet = copy.deepcopy(net.unet)
    unet.load_lora_adapter(tmp_path, weight_name="lora.safetensors", prefix="unet")
    assert torch.allclose(theirs(net, unet), ours(net, bank), atol=1e-4)
    assert not torch.allclose(theirs(net, net.unet), ours(net, bank), atol=1e-2)


def test_peft_loads_ours(net, bank):
    weights = {k.removeprefix("unet."): v for k, v in load(to_bytes(bank, {})).items()}
    unet = copy.deepcopy(net.unet)
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=3, target_modules=sorted(bank.factors)), unet)
    found = set_peft_model_state_dict(unet, weights)
    assert not found.unexpected_keys
    assert torch.allclose(theirs(net, unet), ours(net, bank), atol=1e-4)


def test_ours_comes_back(net, bank):
    again, note = from_bytes(net, to_bytes(bank, {"prompt": "a rose"}))
    assert note == "" and again.rank == 3
    assert all(torch.equal(p, q) for n in bank.factors for p, q in zip(bank.factors[n], again.factors[n], strict=True))


def test_what_diffusers_and_peft_write_is_read(net, tmp_path):
    unet = copy.deepcopy(net.unet)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False))
    unet.save_lora_adapter(tmp_path)
    block = next(tmp_path.glob("*.safetensors")).read_bytes()
    found, _ = from_bytes(net, block)
    assert found.rank == 4 and all(n.endswith(("to_q", "to_v")) for n in found.factors)
    assert torch.allclose(theirs(net, unet), ours(net, found), atol=1e-4)


def kohya(bank, alpha):
    out = {}
    for name, (a, b) in bank.factors.items():
        flat = "lora_unet_" + name.replace(".", "_")
        out |= {f"{flat}.lora_down.weight": a[0], f"{flat}.lora_up.weight": b[0], f"{flat}.alpha": torch.tensor(alpha)}
    return out


def test_kohyas_names_and_alpha(net, bank):
    found, note = from_bytes(net, save(kohya(bank, 1.5) | {"lora_te_text_model.x.alpha": torch.ones(())}))
    assert "text encoder" in note and set(found.factors) == set(bank.factors)
    for n, (a, b) in bank.factors.items():
        assert torch.equal(found.factors[n][0], a) and torch.allclose(found.factors[n][1], 0.5 * b)


def test_layers_of_other_shapes(net):
    """kohya's LoRAs also change 1 × 1 convolutions, and layers whose input is no sequence."""
    draw, tensors, expected = torch.Generator().manual_seed(3), {}, copy.deepcopy(net.unet)
    for name in (
        "down_blocks.1.attentions.0.proj_in",
        "down_blocks.1.resnets.0.time_emb_proj",
        "time_embedding.linear_1",
    ):
        layer = net.unet.get_submodule(name)
        out, inner = layer.weight.shape[:2]
        a, b = torch.randn(2, inner, generator=draw) / 4, torch.randn(out, 2, generator=draw) / 4
        shape = (1, 1) if layer.weight.ndim == 4 else ()
        flat = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{flat}.lora_down.weight": a.reshape(2, inner, *shape),
                    f"{flat}.lora_up.weight": b.reshape(out, 2, *shape)}  # fmt: skip
        expected.get_submodule(name).weight.data += (b @ a).reshape(layer.weight.shape)
    found, _ = from_bytes(net, save(tensors))
    assert torch.allclose(theirs(net, expected), ours(net, found), atol=1e-4)


def test_the_published_codes_names(net, bank):
    """diffusers 0.17, which DiffMorpher used: <attention>.processor.to_q_lora.down.weight."""
    old = {}
    for name, (a, b) in bank.factors.items():
        head, _, layer = name.removesuffix(".0").rpartition(".")
        old |= {f"unet.{head}.processor.{layer}_lora.{side}.weight": t[0] for side, t in (("down", a), ("up", b))}
    found, _ = from_bytes(net, save(old))
    assert set(found.factors) == set(bank.factors)


def test_banks_of_other_layers_and_ranks_join(net, bank):
    few = Bank({n: (a[:, :2], b[:, :, :2]) for n, (a, b) in list(bank.factors.items())[:3]})
    both = Bank.joined([bank, few])
    assert (both.count, both.rank) == (2, 3)
    x, words = rows(net)
    with torch.no_grad(), attached(net, both):
        second = net.noise_in(x, torch.full((3,), 1.5), [Row(words, mix=torch.tensor([[0.0, 1.0]]))])
    assert torch.allclose(second, ours(net, few), atol=1e-5)


def wrong_size(net):
    name, layer = next(iter(targets(net.unet).items()))
    return {f"unet.{name}.lora_A.weight": torch.zeros(2, layer.in_features + 8),
            f"unet.{name}.lora_B.weight": torch.zeros(layer.out_features, 2)}  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (wrong_size, r"must fit .*, whose layer .* has 32 inputs and 32 outputs, got 40 and 32"),
        (lambda net: {"unet.mid.nothing.to_q.lora_A.weight": torch.zeros(2, 8)}, r"which .* does not have"),
        (lambda net: {"some.weight": torch.zeros(2)}, "must hold lora_A and lora_B weights, got some.weight"),
        (lambda net: {"lora_te_x.alpha": torch.zeros(())}, "must hold weights for a UNet, got a text encoder only"),
        (lambda net: {"unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3),
                      "unet.conv_in.lora_B.weight": torch.zeros(16, 2, 1, 1)}, "linear layers, got one for the Conv2d"),
        (lambda net: dict(list(wrong_size(net).items())[:1]), "must hold both factors of every layer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason(net, tensors, sentence, tmp_path):
    with pytest.raises(EngineError) as e:
        from_bytes(net, save(tensors(net)), "LoRA of picture 2")
    assert re.search("^LoRA of picture 2 .*" + sentence, str(e.value))


def test_what_is_no_safetensors_file_is_refused(net, tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    for block in (b"", b"a text", (tmp_path / "x.safetensors").read_bytes()[:20]):
        with pytest.raises(EngineError, match="must be a safetensors file"):
            from_bytes(net, block)
