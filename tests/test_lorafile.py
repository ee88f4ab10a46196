"""LoRA files: diffusers and peft load ours, we load theirs and kohya's; what does not fit is refused with a reason."""

import copy
import json
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load, save, save_file

from engine.checkpoints.kinds import check_lora
from engine.checkpoints.load import merge, tensors
from engine.checkpoints.load import read as read_network
from engine.checkpoints.lora_files import FIRST_FLORA, fingerprint, read, write
from engine.checkpoints.shapes import FAMILY_OF
from engine.requests import EngineError

ATTENTION = re.compile(r"\.to_(q|k|v|out\.0)$")


@pytest.fixture(scope="module")
def unet(tiny):
    return UNet2DConditionModel.from_pretrained(tiny / "unet").eval()


@pytest.fixture(scope="module")
def factors(unet):
    draw, out = torch.Generator().manual_seed(5), {}
    for name, layer in unet.named_modules():
        if ATTENTION.search(name):
            a = torch.randn(1, 3, layer.in_features, generator=draw) / 3
            out[name] = a, torch.randn(1, layer.out_features, 3, generator=draw) / 3
    return out


def said(unet):
    draw = torch.Generator().manual_seed(0)
    x, words = torch.randn(2, unet.config.in_channels, 8, 8, generator=draw), torch.randn(2, 7, 32, generator=draw)
    with torch.no_grad():
        return unet(x, torch.tensor([10, 700]), words[..., : unet.config.cross_attention_dim]).sample


def added(unet, factors):
    """A copy with the LoRA in its weights."""
    unet = copy.deepcopy(unet)
    for name, (a, b) in factors.items():
        weight = unet.get_submodule(name).weight
        weight.data += (b[0] @ a[0]).reshape(weight.shape)
    return unet


def test_diffusers_and_peft_load_ours_and_it_comes_back(unet, factors, tmp_path):
    block, expected = write(factors, unet, "tiny", prompt="a rose"), said(added(unet, factors))
    assert not torch.allclose(said(unet), expected, atol=1e-2)
    (tmp_path / "lora.safetensors").write_bytes(block)
    theirs = copy.deepcopy(unet)
    theirs.load_lora_adapter(tmp_path, weight_name="lora.safetensors", prefix="unet")
    assert torch.allclose(said(theirs), expected, atol=1e-4)
    theirs = copy.deepcopy(unet)
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=3, target_modules=sorted(factors)), theirs)
    weights = {k.removeprefix("unet."): v for k, v in load(block).items()}
    assert not set_peft_model_state_dict(theirs, weights).unexpected_keys
    assert torch.allclose(said(theirs), expected, atol=1e-4)
    for source in (block, tmp_path / "lora.safetensors"):
        again, note = read(unet, source, "LoRA", "tiny")
        assert note == "" and set(again) == set(factors)
        assert all(torch.equal(p, q) for n in factors for p, q in zip(factors[n], again[n], strict=True))


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 2}}])
def test_what_diffusers_and_peft_write_is_read(unet, tmp_path, more):
    theirs = copy.deepcopy(unet)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False, **more)
    theirs.add_adapter(config)
    theirs.save_lora_adapter(tmp_path)
    found, _ = read(unet, next(tmp_path.glob("*.safetensors")), "LoRA", "tiny")
    assert all(n.endswith(("to_q", "to_v")) and a.shape[1] == 4 for n, (a, _) in found.items())
    assert torch.allclose(said(theirs), said(added(unet, found)), atol=1e-4)


def kohya(factors, alpha):
    out = {}
    for name, (a, b) in factors.items():
        flat = "lora_unet_" + name.replace(".", "_")
        out |= {f"{flat}.lora_down.weight": a[0], f"{flat}.lora_up.weight": b[0], f"{flat}.alpha": torch.tensor(alpha)}
    return out


def test_kohyas_names_and_alpha_and_ranks(unet, factors):
    tensors = kohya(factors, 1.5) | {"lora_te_text_model.x.alpha": torch.ones(())}
    first = next(iter(factors))
    flat = "lora_unet_" + first.replace(".", "_")
    tensors |= {
        f"{flat}.lora_down.weight": factors[first][0][0, :2],
        f"{flat}.lora_up.weight": factors[first][1][0, :, :2].contiguous(),
    }
    found, note = read(unet, save(tensors), "LoRA", "tiny")
    assert "text encoder" in note and set(found) == set(factors)
    for n, (a, b) in factors.items():
        if n != first:  # which has a rank of its own
            assert torch.equal(found[n][0], a) and torch.allclose(found[n][1], 0.5 * b)
    a, b = found[first]
    assert a.shape[1] == 2 and torch.allclose(
        b @ a, 0.75 * factors[first][1][..., :2] @ factors[first][0][:, :2], atol=1e-6
    )


def test_the_published_codes_names(unet, factors):
    """diffusers 0.17, which DiffMorpher used: <attention>.processor.to_q_lora.down.weight."""
    old = {}
    for name, (a, b) in factors.items():
        head, _, layer = name.removesuffix(".0").rpartition(".")
        old |= {f"unet.{head}.processor.{layer}_lora.{side}.weight": t[0] for side, t in (("down", a), ("up", b))}
    assert set(read(unet, save(old), "LoRA", "tiny")[0]) == set(factors)


def of_layer(unet, name, kernel):
    """kohya's LoRA for one layer, and what it adds."""
    weight, draw = unet.get_submodule(name).weight, torch.Generator().manual_seed(3)
    a = torch.randn(2, weight[0].numel(), generator=draw) / 8
    b = torch.randn(len(weight), 2, generator=draw) / 8
    flat = "lora_unet_" + name.replace(".", "_")
    down, up = (a.reshape(2, -1, kernel, kernel), b[..., None, None]) if kernel else (a, b)
    return {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}, (b @ a).reshape(weight.shape)


def test_layers_of_other_shapes(unet):
    """kohya's LoRAs also change 1 × 1 convolutions, and layers whose input is no sequence."""
    for name, kernel in (
        (
            "down_blocks.1.attentions.0.proj_in",
            1 if isinstance(unet.down_blocks[1].attentions[0].proj_in, torch.nn.Conv2d) else 0,
        ),
        ("down_blocks.1.resnets.0.time_emb_proj", 0),
        ("time_embedding.linear_1", 0),
    ):
        tensors, delta = of_layer(unet, name, kernel)
        (a, b) = read(unet, save(tensors), "LoRA", "tiny")[0][name]
        assert torch.allclose((b[0] @ a[0]).reshape(delta.shape), delta, atol=1e-6)


def test_a_network_takes_the_lora_of_all_its_parts(tiny, factors, tmp_path):
    """Against diffusers' own loading: UNet, 3 × 3 convolutions and text encoder, at a strength."""
    parts, file = read_network(tiny, torch.float32, "tiny"), kohya(factors, 1.5)
    draw, width, expected = torch.Generator().manual_seed(9), parts.text_encoder.config.hidden_size, {}
    for name in ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj"):
        a, b = torch.randn(2, width, generator=draw), torch.randn(width, 2, generator=draw)
        flat = "lora_te_text_model_" + name.replace(".", "_")
        file |= {f"{flat}.lora_down.weight": a, f"{flat}.lora_up.weight": b, f"{flat}.alpha": torch.tensor(1.0)}
        expected[name] = parts.text_encoder.get_submodule(name).weight + 0.35 * b @ a
    convolution, delta = of_layer(parts.unet, "down_blocks.1.resnets.0.conv1", 3)
    save_file(file | convolution, tmp_path / "all.safetensors")
    expected_conv = parts.unet.down_blocks[1].resnets[0].conv1.weight + 0.7 * delta
    theirs = read_network(tiny, torch.float32, "tiny")
    pipe = StableDiffusionPipeline(
        theirs.vae,
        theirs.text_encoder,
        theirs.tokenizer,
        theirs.unet,
        theirs.scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.load_lora_weights(dict(file), adapter_name="one")
    pipe.fuse_lora(lora_scale=0.7)
    plain = copy.deepcopy(parts.unet)
    changed = tensors(SimpleNamespace(unet=plain, name="tiny"), tmp_path / "all.safetensors")
    merge(parts, tmp_path / "all.safetensors", 0.7, "tiny")
    for name, weight in expected.items():
        assert torch.allclose(parts.text_encoder.get_submodule(name).weight, weight, atol=1e-5)
    assert torch.allclose(parts.unet.down_blocks[1].resnets[0].conv1.weight, expected_conv, atol=1e-6)
    assert len(changed) == len(factors) + 1
    for n, whole in changed.items():
        own, before = parts.unet.get_parameter(n), plain.get_parameter(n)
        assert torch.allclose(own - before, 0.7 * (whole - before), atol=1e-6)
    parts.unet.down_blocks[1].resnets[0].conv1.weight.data -= 0.7 * delta
    assert torch.allclose(said(parts.unet), said(theirs.unet), atol=1e-4)
    words = torch.tensor([[1, 2, 3]])
    assert torch.allclose(parts.text_encoder(words)[0], theirs.text_encoder(words)[0], atol=1e-4)


def wrong_size(unet):
    name, layer = next((n, m) for n, m in unet.named_modules() if ATTENTION.search(n))
    return {
        f"unet.{name}.lora_A.weight": torch.zeros(2, layer.in_features + 8),
        f"unet.{name}.lora_B.weight": torch.zeros(layer.out_features, 2),
    }


ANY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = "lora_unet_" + ANY.replace(".", "_")


def pair(head, down="lora_down.weight", up="lora_up.weight", width=32, times=1.0):
    draw = torch.Generator().manual_seed(6)
    return {f"{head}.{down}": times * torch.randn(2, width, generator=draw), f"{head}.{up}": torch.ones(32, 2) / 9}


def refusals(unet):
    """Files by name, and what is said of each, wherever it is used."""
    for_other = "must be a LoRA for Stable Diffusion 1, 2, XL or flora, got "
    hada, words = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ANY.replace("attn1.to_q", "attn2.to_k")
    return {
        "size": (
            wrong_size(unet),
            r"must be for tiny, got one of other widths \(40 and 32 instead of 32 and 32",
        ),
        "sd15": (pair(words, width=768), "must be for tiny, got one for Stable Diffusion 1"),
        "odd": (pair(words, width=100), "must be for tiny, got one for words 100 wide"),
        "layer": (pair("unet.mid.no"), "must be for tiny, got one for the layer mid.no, which it does not have"),
        "other": ({"some.weight": torch.zeros(2)}, "must be a LoRA, got one with some.weight"),
        "network": (
            {"model.diffusion_model.input_blocks.1.x": torch.zeros(2)},
            "must be a LoRA, got a whole network",
        ),
        "inversion": ({"emb_params": torch.zeros(2, 8)}, "must be a LoRA, got a textual inversion"),
        "words": (
            {"lora_te_x.alpha": torch.zeros(())},
            "must be a LoRA for a UNet, got one for the text",
        ),
        "none": ({}, "must be a LoRA for a UNet, got one without any layer"),
        "half": (dict(list(wrong_size(unet).items())[:1]), "must hold both factors of every layer"),
        "flat": ({k: v[0] for k, v in wrong_size(unet).items()}, "must be made of matrices, got numbers in a row"),
        "loha": ({f"{FLAT}.{k}": torch.zeros(2, 2) for k in hada}, for_other + "a LoHa"),
        "lokr": ({f"{FLAT}.lokr_w{i}": torch.zeros(2, 2) for i in (1, 2)}, for_other + "a LoKr"),
        "oft": ({f"{FLAT}.oft_blocks": torch.zeros(2, 2, 2)}, for_other + "an OFT"),
        "sdxl": (
            pair("lora_te2_text_model_encoder_layers_0_mlp_fc1") | pair(FLAT),
            "must be for tiny, got one for SDXL",
        ),
        "deep": (pair(ANY.replace("blocks.0.attn1", "blocks.3.attn1")), "must be for tiny, got one for SDXL"),
        "flux": (pair("transformer.single_transformer_blocks.0.attn.to_q"), for_other + "one for FLUX"),
        "nan": (pair(FLAT, times=float("nan")), "must hold finite numbers, got others in down_blocks_1"),
        "inf": (pair(FLAT, times=float("inf")), "must hold finite numbers, got others in down_blocks_1"),
        "huge": (pair(FLAT, times=1e30), f"must leave something of tiny, got changes of {ANY} far beyond its weights"),
        "large": (pair(FLAT, times=1e5), "must leave something of tiny"),
    }


KINDS = (
    "size sd15 odd layer other network inversion words none half flat loha lokr oft sdxl deep flux nan inf huge large"
)


@pytest.mark.parametrize("kind", KINDS.split())
def test_what_does_not_fit_is_refused_with_the_reason_and_alike_everywhere(unet, tiny, kind, tmp_path):
    tensors, sentence = refusals(unet)[kind]
    save_file(tensors, file := tmp_path / "it.safetensors")
    for use in (
        lambda: read(unet, file.read_bytes(), "LoRA it.safetensors", "/nets/tiny + /loras/it.safetensors"),
        lambda: merge(read_network(tiny, torch.float32, "tiny"), file, 1.0, "/nets/tiny + /loras/it.safetensors"),
    ):
        with pytest.raises(EngineError) as e:
            use()
        assert re.search("^LoRA it.safetensors " + sentence, str(e.value)) and len(str(e.value)) < 200


def test_dora_is_what_peft_makes_of_it(unet, tmp_path):
    """Linear layers and convolutions; kohya's magnitudes of outputs are the same, and those of inputs by definition."""
    theirs = copy.deepcopy(unet)
    names = ["to_q", "to_v", "conv1"]
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=names, init_lora_weights=False, use_dora=True))
    for n, p in theirs.named_parameters():
        if "magnitude" in n:
            p.data *= 1 + 0.3 * torch.rand(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    theirs.save_lora_adapter(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    found, _ = read(unet, file, "LoRA", "tiny")
    assert torch.allclose(said(theirs), said(added(unet, found)), atol=1e-4)
    kohyas = {}
    for k, t in load(file.read_bytes()).items():
        layer, _, end = k.removeprefix("unet.").partition(".lora_")
        flat, end = "lora_unet_" + layer.replace(".", "_"), end.removesuffix(".weight")
        kohyas |= {f"{flat}.alpha": torch.tensor(2.0)}
        weight = unet.get_submodule(layer).weight
        column = t.reshape(len(weight), *[1] * (weight.ndim - 1)) if end == "magnitude_vector" else t
        kohyas[
            f"{flat}.{'dora_scale' if end[0] == 'm' else 'lora_down.weight' if end == 'A' else 'lora_up.weight'}"
        ] = column
    again, _ = read(unet, save(kohyas), "LoRA", "tiny")
    assert all(torch.allclose(b @ a, again[n][1] @ again[n][0], atol=1e-5) for n, (a, b) in found.items())
    weight, rows = unet.get_submodule(ANY).weight, pair(FLAT)
    scale = 2 * weight.norm(dim=0, keepdim=True)  # of inputs
    a, b = read(unet, save(rows | {f"{FLAT}.dora_scale": scale}), "LoRA", "tiny")[0][ANY]
    v = weight + rows[f"{FLAT}.lora_up.weight"] @ rows[f"{FLAT}.lora_down.weight"]
    assert torch.allclose(weight + b[0] @ a[0], v / v.norm(dim=0, keepdim=True) * scale, atol=1e-5)


def test_a_convolution_taken_apart_is_put_together(unet):
    """LoCon's ``lora_mid``: 1 × 1, the kernel between ranks, 1 × 1."""
    name, draw = "down_blocks.1.resnets.0.conv1", torch.Generator().manual_seed(8)
    weight = unet.get_submodule(name).weight
    down, up = torch.randn(2, weight.shape[1], 1, 1, generator=draw), torch.randn(len(weight), 2, 1, 1, generator=draw)
    mid, flat = torch.randn(2, 2, 3, 3, generator=draw), "lora_unet_" + name.replace(".", "_")
    file = {f"{flat}.lora_{n}.weight": t for n, t in (("down", down), ("mid", mid), ("up", up))}
    a, b = read(unet, save(file), "LoRA", "tiny")[0][name]
    x, conv = torch.randn(1, weight.shape[1], 6, 6, generator=draw), torch.nn.functional.conv2d
    expected = conv(conv(conv(x, down), mid, padding=1), up)
    assert torch.allclose(conv(x, (b[0] @ a[0]).view(weight.shape), padding=1), expected, atol=1e-4)


def of_base(block, **change):
    """The same file, with something else said of its base; None: nothing."""
    about = {"model": "tiny", "base": "0123456789abcdef"} | change
    own = {"chrysalis": json.dumps({k: v for k, v in about.items() if v is not None})}
    return save(load(block), own)


def test_a_fingerprint_is_a_networks_own_in_every_precision_and_under_any_lora(unet, factors):
    own = fingerprint(unet)
    assert fingerprint(added(unet, factors)) == own
    assert {fingerprint(copy.deepcopy(unet).to(d)) for d in (torch.bfloat16, torch.float16, torch.float64)} == {own}
    trained = copy.deepcopy(unet)
    trained.mid_block.resnets[0].norm1.bias.data[3] = -trained.mid_block.resnets[0].norm1.bias.data[3] - 1e-6
    assert fingerprint(trained) != own


def test_a_lora_of_another_network_of_these_shapes_is_refused(unet, factors, tiny, tmp_path):
    block, why = write(factors, unet, "tiny"), "must be fitted to tiny as it is here, got one fitted to"
    assert read(unet, block, "LoRA", "tiny")[1] == ""
    assert read(unet, of_base(block, model="old", base=None), "LoRA", "tiny")[1] == ""  # ours of earlier, of any other
    for change, got in (
        ({}, r"tiny of other weights \(0123456789abcdef\); fit it again"),
        ({"model": "flora", "base": None}, "the first flora; fit it again"),
        ({"model": "flora + /a/b.safetensors:0.5", "base": None}, "the first flora"),
        ({"base": FIRST_FLORA}, "the first flora"),
        ({"base": 7}, "tiny of other weights"),
    ):
        (tmp_path / "other.safetensors").write_bytes(other := of_base(block, **change))
        with pytest.raises(EngineError, match=f"^LoRA {why} {got}"):
            read(unet, other, "LoRA", "tiny")
        with pytest.raises(EngineError, match=f"^LoRA other.safetensors {why} {got}"):
            merge(read_network(tiny, torch.float32, "tiny"), tmp_path / "other.safetensors", 1.0, "tiny")


def test_stable_diffusions_kin_take_each_others_loras_with_a_word(unet, factors, monkeypatch):
    """They descend from one network, and a fine-tuned one has another fingerprint."""
    monkeypatch.setitem(FAMILY_OF, unet.config.cross_attention_dim, "sd1")
    found, note = read(unet, of_base(write(factors, unet, "x"), model="sd15"), "LoRA", "mine")
    assert set(found) == set(factors) and "fitted to another network than mine (sd15)" in note


@pytest.mark.slow
def test_a_lora_of_the_first_flora_is_not_for_this_one():
    """Their shapes are equal: nothing but the fingerprint tells them apart."""
    flora = UNet2DConditionModel.from_pretrained(ROOT / "assets/models/flora/unet")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    width = flora.get_submodule(layer).in_features
    block = write({layer: (torch.zeros(1, 2, width), torch.zeros(1, width, 2))}, flora, "flora")
    assert read(flora, block, "LoRA", "flora")[1] == "" and fingerprint(flora) != FIRST_FLORA
    with pytest.raises(EngineError, match="must be fitted to flora as it is here, got one fitted to the first flora"):
        read(flora, of_base(block, model="flora", base=None), "LoRA", "flora")


def test_what_is_no_safetensors_file_is_refused(unet, tmp_path):
    whole = save({"x": torch.zeros(300)})
    for block, got in (
        (b"", "an empty file; download it again"),
        (b"a text", "a text in its place"),
        (b"\xc3\xa4\0 bytes", "9 bytes of something else"),
        (whole[:20], "only its first 20 bytes"),
        (whole[: int(0.6 * len(whole))], "60% of it; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>" + b" " * 99, "a web page in its place"),
        (b"PK\x03\x04" + b"\0" * 99, "a pickle or a zip under another name"),
    ):
        with pytest.raises(EngineError, match=f"^LoRA must be a .*safetensors file, got {got}"):
            read(unet, block, "LoRA", "tiny")
        (tmp_path / "ink.safetensors").write_bytes(block)
        with pytest.raises(EngineError, match=f"^LoRA ink.safetensors must be a .*safetensors file, got {got}"):
            check_lora(tmp_path / "ink.safetensors", "LoRA ink.safetensors")
