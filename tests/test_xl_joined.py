"""What joins SDXL: LoRAs of every make, the catalogue's parts, controls and unions; what is for other networks."""

import copy
import inspect
import shutil

import pytest
import torch
from checkpoints import adapter, cached, changed, controlnet, halved, original, refused
from diffusers import ControlNetModel, ControlNetUnionModel, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from engine.checkpoints import controls
from engine.checkpoints.load import merge, read
from engine.checkpoints.manager import ModelManager
from engine.checkpoints.originals import originals
from engine.checkpoints.resolve import CATALOGUE, FAMILIES, resolve
from engine.requests import EngineError

TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


# ---------------------------------------------------------------------------------------------------------- LoRAs


def factors(module, names, seed):
    draw, out = torch.Generator().manual_seed(seed), {}
    for n in names:
        weight = module.get_submodule(n).weight
        a = torch.randn(2, *weight.shape[1:], generator=draw) / 4
        out[n] = a, torch.randn(len(weight), 2, *[1] * (weight.ndim - 2), generator=draw) / 4
    return out


UNET = (TO_K, "mid_block.attentions.0.proj_in", "down_blocks.1.resnets.0.conv1", "up_blocks.1.upsamplers.0.conv")
UNET += (
    "add_embedding.linear_1",
    "down_blocks.0.downsamplers.0.conv",
    "up_blocks.0.attentions.2.transformer_blocks.1.ff.net.2",
)
TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1")


def lora(parts, xl, make):
    """A LoRA for all three, as kohya writes it for SDXL ("kohya", by original names), as LCM-LoRA is ("flat"), or as
    diffusers does."""
    out = {}
    for head, flat, module, names in (
        ("unet.", "lora_unet_", parts.unet, UNET),
        ("text_encoder.", "lora_te1_", parts.text_encoder, TEXT),
        ("text_encoder_2.", "lora_te2_", parts.text_encoder_2.text_model, TEXT),
    ):
        for n, (down, up) in factors(module, names, 7).items():
            if make == "flat" and n.startswith("add_"):  # diffusers does not find it by that name
                continue
            said = original(n + ".", xl).rstrip(".") if make == "kohya" and head == "unet." else n
            said = said if head == "unet." else f"text_model.{said}"
            if make == "diffusers":
                out |= {f"{head}{said}.lora_A.weight": down, f"{head}{said}.lora_B.weight": up}
            else:
                said = flat + said.replace(".", "_")
                out |= {f"{said}.lora_down.weight": down, f"{said}.lora_up.weight": up}
                out |= {f"{said}.alpha": torch.tensor(1.0)}  # half the rank
    return out


@pytest.mark.parametrize("make", ["kohya", "flat", "diffusers"])
def test_loras_of_every_make_reach_all_three(xl, tmp_path, make):
    """The UNet becomes what diffusers makes of it; text encoders what the factors say (diffusers 0.42 leaves out the
    queries of kohya's names where they come with layers of the MLP)."""
    parts, theirs = read(xl, torch.float32, "xl"), read(xl, torch.float32, "xl")
    save_file(file := lora(parts, xl, make), path := tmp_path / "ink.safetensors")
    before = copy.deepcopy((parts.text_encoder, parts.text_encoder_2.text_model))
    assert not resolve(f"{xl} + {path}").needs()
    merge(parts, path, 0.7, "xl")
    own = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    pipe = StableDiffusionXLPipeline(**{n: getattr(theirs, n) for n in own})
    pipe.load_lora_weights(dict(file), adapter_name="one")
    pipe.fuse_lora(lora_scale=0.7)
    pipe.unload_lora_weights()
    ours, fused = parts.unet.state_dict(), pipe.unet.state_dict()
    assert ours.keys() == fused.keys() and all(torch.allclose(t, fused[k], atol=1e-5) for k, t in ours.items())
    scale = 0.7 if make == "diffusers" else 0.35
    for old, new in zip(before, (parts.text_encoder, parts.text_encoder_2.text_model), strict=True):
        for n, (down, up) in factors(old, TEXT, 7).items():
            change = new.get_submodule(n).weight - old.get_submodule(n).weight
            assert torch.allclose(change, scale * up @ down, atol=1e-6)


def test_every_layer_has_its_original_name(xl):
    """As `checkpoints.original`, by which diffusers reads the single file, has them."""
    unet = UNet2DConditionModel.from_pretrained(xl / "unet")
    names = originals(unet)
    assert len(names) == len(set(names.values())) > 150
    assert all(original(own + ".", xl) == old + "." for old, own in names.items())


def test_loras_of_other_networks_are_refused_before_anything_is_loaded(xl, tiny, tmp_path):
    parts = read(xl, torch.float32, "xl")
    save_file(lora(parts, xl, "kohya"), ink := tmp_path / "ink.safetensors")
    wide = {f"unet.{TO_K}.lora_A.weight": torch.zeros(2, 2048), f"unet.{TO_K}.lora_B.weight": torch.zeros(32, 2)}
    save_file(wide, plain := tmp_path / "plain.safetensors")
    narrow = {f"unet.{TO_K}.lora_A.weight": torch.zeros(2, 768), f"unet.{TO_K}.lora_B.weight": torch.zeros(32, 2)}
    save_file(narrow, old := tmp_path / "old.safetensors")
    for network, own, file, other in (
        (tiny, "tiny", ink, "SDXL"),
        ("sd15", "sd15", ink, "SDXL"),
        ("sd15", "sd15", plain, "SDXL"),
        (xl, "xl", old, "Stable Diffusion 1"),
        ("sdxl", "sdxl", old, "Stable Diffusion 1"),
        ("sdxl-turbo", "sdxl-turbo", old, "Stable Diffusion 1"),
    ):
        assert refused(f"{network} + {file}") == f"LoRA {file.name} must be for {own}, got one for {other}"
    assert "sdxl" in [n for n, _ in resolve(f"sdxl + {plain}").needs()]
    assert (
        refused("sd15 + lightning")
        == "LoRA must be for sd15, got SDXL-Lightning's LoRA for four steps, which is for other networks"
    )
    assert refused("sdxl + smooth") == "LoRA must be for sdxl, got Smooth Diffusion LoRA, which is for other networks"


# ---------------------------------------------------------------------------------- the catalogue and what joins it


def test_lightning_on_sdxl_is_a_network_of_few_steps():
    needs = [n for n, _ in resolve("sdxl-lightning").needs()]
    lightning, preview, vae = (FAMILIES["sdxl"][k].about for k in ("lightning", "preview", "vae"))
    assert needs == ["sdxl-lightning", preview, vae, lightning]
    assert [resolve(n).family for n in ("sdxl", "sdxl + lightning", "sdxl + lightning:-1")] == [
        "sdxl",
        "sdxl-turbo",
        "sdxl",
    ]
    assert CATALOGUE["sdxl"].can == ("text", "sketch", "pose")
    assert [[n for n, _ in resolve(name).needs(("live",)) if "LCM" in n] for name in ("sdxl", "sdxl-turbo")] == [
        ["LCM-LoRA (SDXL)"],
        [],
    ]


def test_an_entry_loads_from_the_cache_with_its_controls(xl, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    entry, extras = CATALOGUE["sdxl"], FAMILIES["sdxl"]
    cached(tmp_path / "hub", entry.source, halved(xl, tmp_path / "half"))
    for what in ("sketch", "pose", "canny", "tile"):
        cached(tmp_path / "hub", extras[what].source, controlnet(xl, what, folder=tmp_path / what))
    cached(tmp_path / "hub", extras["preview"].source, xl / "vae")
    resident = ModelManager("cpu", torch.float32).load("sdxl", ("sketch", "pose", "canny", "tile")).resident
    assert resident.family == "sdxl" and all(map(resident.has, ("sketch", "pose", "canny", "tile")))


def test_a_control_of_another_network_is_refused(xl, tiny, tmp_path):
    unets = {n: UNet2DConditionModel.from_pretrained(n / "unet") for n in (xl, tiny)}
    beside = controlnet(tiny, "sketch", folder=tmp_path / "sketch")
    changed(beside / "config.json", cross_attention_dim=768)
    for network, said in ((xl, "one for Stable Diffusion 1"), (tiny, "one for Stable Diffusion 1")):
        with pytest.raises(EngineError, match=f"^control for sketch must be for {network.name}, got {said}$"):
            controls.control(beside, torch.float32, unets[network], "sketch", str(network))
    net = shutil.copytree(tiny, tmp_path / "net")
    changed(adapter(net, "stroke") / "config.json", adapter_type="full_adapter_xl")
    with pytest.raises(EngineError, match=r"^control for stroke must be for tiny, got one for SDXL$"):
        controls.control(net / "stroke", torch.float32, unets[tiny], "stroke", str(tiny))
    changed(net / "stroke" / "config.json", adapter_type="full_adapter", channels=[8, 8, 8, 8])
    with pytest.raises(EngineError, match=r"^control for stroke must be for xl, got one for Stable Diffusion 1 or 2$"):
        controls.control(net / "stroke", torch.float32, unets[xl], "stroke", str(xl))


@torch.no_grad()
@pytest.mark.parametrize("said", ["ControlNetUnionModel", "ControlNetModel"])
def test_a_union_is_one_control_for_each_kind_it_sees(xl, tmp_path, said):
    unet = UNet2DConditionModel.from_pretrained(xl / "unet")
    alone = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    torch.manual_seed(3)
    shape = {k: v for k, v in alone.config.items() if k in inspect.signature(ControlNetUnionModel).parameters}
    union = ControlNetUnionModel(
        **shape | {"num_control_type": 6, "num_trans_channel": 16, "num_trans_head": 2, "num_proj_channel": 16}
    )
    for p in union.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    union.save_pretrained(tmp_path / "union")
    changed(tmp_path / "union" / "config.json", _class_name=said)
    x, picture = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 64, 64)
    words = {"encoder_hidden_states": torch.randn(2, 5, 48)}
    words |= {"added_cond_kwargs": {"text_embeds": torch.randn(2, 32), "time_ids": torch.ones(2, 6)}}
    found = {}
    for what, row in (("pose", 0), ("sketch", 2), ("canny", 3)):
        own = controls.control(tmp_path / "union", torch.float32, unet, what, "xl").eval()
        down, mid = own(x, torch.tensor([9, 500]), controlnet_cond=picture, return_dict=False, **words)
        tells = torch.eye(6)[[row, row]]
        expected = union.eval()(
            x, torch.tensor([9, 500]), controlnet_cond=[picture], control_type=tells, control_type_idx=[row], **words
        )
        assert torch.allclose(mid, expected.mid_block_res_sample, atol=1e-6)
        found[what] = mid
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(down, expected.down_block_res_samples, strict=True))
    assert not torch.allclose(found["pose"], found["canny"], atol=1e-3)
    for what in ("stroke", "tile"):
        with pytest.raises(
            EngineError, match=f"control for {what} must see such pictures, got a union that sees others"
        ):
            controls.control(tmp_path / "union", torch.float32, unet, what, "xl")
