"""Files of another kind, or not whole, are refused before anything is loaded; and only what is loaded counts."""

import gzip
import json
import shutil

import pytest
import torch
from checkpoints import single
from safetensors.torch import load, save_file

from engine.checkpoints import load as network
from engine.checkpoints.resolve import resolve
from engine.requests import EngineError

UNET = "unet/diffusion_pytorch_model.safetensors"
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = "lora_unet_" + LAYER.replace(".", "_")


def load_file(path):
    return load(path.read_bytes())  # not mapped: the file is written anew


def refused(name):
    with pytest.raises(EngineError) as e:
        resolve(str(name)).needs()
    return str(e.value)


@pytest.fixture
def net(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "net")


def relabelled(block, change):
    size = int.from_bytes(block[:8], "little")
    change(said := json.loads(block[8 : 8 + size]))
    text = json.dumps(said).encode()
    return len(text).to_bytes(8, "little") + text + block[8 + size :]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda b: gzip.compress(b"<!doctype html>" + 99 * b"x "), "a web page in its place"),
        (lambda b: b'{"error": "Repository not found"}', "a text in JSON in its place"),
        (lambda b: b"Entry not found", "a text in its place .'Entry not found'."),
        (lambda b: b[:8], "only its first 8 bytes"),
        (lambda b: (10**7).to_bytes(8, "little") + b[8:], "only its first"),
        (lambda b: b + b"abc", "3 bytes more than it says"),
        (lambda b: relabelled(b, lambda s: s["conv_in.bias"].update(dtype="F99")), "an unknown kind of numbers .F99."),
        (
            lambda b: relabelled(b, lambda s: s["conv_in.bias"].update(shape=[9])),
            "conv_in.bias of 64 bytes instead of 36",
        ),
        (lambda b: relabelled(b, lambda s: s.pop("conv_in.bias")), "leave holes"),
        *(
            (lambda b, odd=odd: relabelled(b, lambda s: s["conv_in.bias"].update(odd)), "of something else")
            for odd in (
                {"shape": [2000000, "a"]},
                {"shape": [10**30]},
                {"shape": [-16]},
                {"data_offsets": [0, float("inf")]},
                {"data_offsets": [0.0, 64.0]},
            )
        ),
        (lambda b: relabelled(b, lambda s: s.update({"a" * 501: s.pop("conv_in.bias")})), "of something else"),
    ],
)
def test_broken_weights_are_told_before_they_are_loaded(net, tmp_path, broken, why):
    block = broken((net / UNET).read_bytes())
    (net / UNET).write_bytes(block)
    (tmp_path / "one.safetensors").write_bytes(block)
    wanted = rf"must be a whole safetensors file, got .*{why}"
    for place, name in ((net, f"model file net/{UNET}"), (tmp_path / "one.safetensors", "model one.safetensors")):
        with pytest.raises(EngineError, match=f"^{name} {wanted}"):
            resolve(str(place)).needs()


@pytest.mark.parametrize(
    ("file", "block", "why"),
    [
        (
            "model_index.json",
            b"\xef\xbb\xbf{}",
            "model file net/model_index.json must be settings in JSON, got another enc",
        ),
        (
            "unet/config.json",
            "{}".encode("utf-16"),
            "model file net/unet/config.json .*another encoding; save it as UTF-8",
        ),
        ("unet/config.json", b'{"_class_name": "Foo"}', "got one with another UNet than Stable Diffusion's"),
        ("vae/config.json", b'{"_class_name": "Foo"}', "got one with another VAE than Stable Diffusion's"),
        ("scheduler/scheduler_config.json", None, "model net must have scheduler/scheduler_config.json, got none"),
        ("tokenizer/tokenizer.json", None, "must have tokenizer/vocab.json or tokenizer/tokenizer.json, got none"),
        (
            "tokenizer/tokenizer.json",
            b"version https://git-lfs",
            "model file net/tokenizer/tokenizer.json must be whole",
        ),
        (UNET, None, "model net must have weights in the folder unet, got none"),
    ],
)
def test_what_a_folder_lacks(net, file, block, why):
    if block is None:
        (net / file).unlink()
    else:
        (net / file).write_bytes(block)
    with pytest.raises(EngineError, match=why):
        resolve(str(net)).needs()


def test_only_the_weights_that_are_loaded_count(net):
    """Of full and half precision, pickles and shards: what is looked at is what diffusers is told to read."""
    unet, whole = net / "unet", load_file(net / UNET)
    for other in (".fp16.safetensors", ".non_ema.safetensors", ".bin"):
        (unet / f"diffusion_pytorch_model{other}").write_bytes(b"")
    network.read(net, torch.float32, "net")
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, name in enumerate(names):
        save_file({n: whole[n] for n in list(whole)[i::2]}, unet / name)
    index = {"metadata": {}, "weight_map": {n: names[i % 2] for i, n in enumerate(whole)}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (net / UNET).write_bytes(b"")  # diffusers takes the shards
    found = network.read(net, torch.float32, "net").unet.state_dict()
    assert all(torch.equal(found[n], t) for n, t in whole.items())
    (unet / names[1]).unlink()
    assert refused(net) == f"model net must have unet/{names[1]}, got none; download it again"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_numbers_of_which_only_noise_comes(net, value):
    tensors = load_file(net / UNET)
    tensors["conv_in.bias"][3] = value
    save_file(tensors, net / UNET)
    with pytest.raises(EngineError, match=r"^model net must hold numbers up to 65504, got .* in unet.conv_in.bias$"):
        network.read(net, torch.float32, "net")


@pytest.mark.parametrize(("head", "part"), [("first_stage", "vae"), ("cond_stage", "text_encoder")])
def test_a_part_that_a_file_lacks_may_lie_beside_it(net, tmp_path, head, part):
    file = single(net, tmp_path / "one.safetensors")
    save_file({n: t for n, t in load_file(file).items() if not n.startswith(head)}, file)
    assert "got one without a" in refused(file)
    shutil.copytree(net / part, file.with_suffix("") / part, dirs_exist_ok=True)
    found, whole = network.read(file, torch.float32, "one"), network.read(net, torch.float32, "net")
    ours, theirs = (getattr(p, part).state_dict() for p in (found, whole))
    assert all(torch.equal(ours[n], t) for n, t in theirs.items())


def lora(folder, head=f"unet.{LAYER}", rank=2, width=32, ends=("lora_A.weight", "lora_B.weight"), flat=False):
    folder.mkdir()
    draw = torch.Generator().manual_seed(3)
    a, b = torch.randn(rank, width, generator=draw) / 9, torch.randn(32, rank, generator=draw) / 9
    factors = (a.flatten(), b) if flat else (a, b)
    save_file(dict(zip((f"{head}.{e}" for e in ends), factors, strict=True)), folder / "adapter_model.safetensors")
    return folder, b @ a


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"rank": 0}, "must have a rank of at least 1, got no numbers in down_blocks"),
        (
            {"head": LAYER.replace("attn1.to_q", "attn2.to_k"), "width": 768},
            "must be for net, got one for Stable Diffusion 1",
        ),
        ({"head": "text_encoder.x"}, "must be a LoRA for a UNet, got one for the text encoder alone"),
        ({"ends": ("hada_w1_a", "hada_w1_b")}, "must be a LoRA for Stable Diffusion 1, 2, XL or flora, got a LoHa"),
        ({"ends": ("x", "y")}, "must be a LoRA, got a UNet alone"),
        ({"flat": True}, "must be made of matrices, got numbers in a row in down_blocks"),
    ],
)
def test_loras_are_refused_before_the_network_is_loaded(net, tmp_path, how, why):
    folder, _ = lora(tmp_path / "ink", **how)
    said = refused(f"{net} + {folder}/adapter_model.safetensors")
    assert said.startswith(f"LoRA adapter_model.safetensors {why}")


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (None, 1),
        ({"r": 2, "lora_alpha": 8}, 4),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"to_q": 2, "attn1.to_q": 6}}, 1),
        ({"lora_alpha": None}, 1),
        ({"lora_alpha": 8, "alpha_pattern": {"^.*\\.attn1\\.to_q$": 2}}, 1),
        ({"lora_alpha": "x"}, "settings of alpha cannot be read"),
        ({"lora_alpha": 10**400}, "settings of alpha cannot be read"),
        ({"alpha_pattern": {"(": 2}}, "settings of alpha cannot be read"),
        ({"alpha_pattern": {r"(\w|\w|\w\w)*!": 2}}, "settings of alpha cannot be read"),  # it would take for ever
    ],
)
def test_alpha_of_pefts_folders(net, tmp_path, config, scale):
    folder, delta = lora(tmp_path / "ink", f"base_model.model.{LAYER}")
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    parts, (file, _) = network.read(net, torch.float32, "net"), resolve(f"{net} + {folder}").loras[0]
    before = parts.unet.get_submodule(LAYER).weight.detach().clone()
    if isinstance(scale, str):
        with pytest.raises(EngineError, match=scale):
            network.merge(parts, file, 1.0, "net")
        return
    network.merge(parts, file, 1.0, "net")
    assert torch.allclose(parts.unet.get_submodule(LAYER).weight - before, scale * delta, atol=1e-5)


def test_what_may_have_been_meant(net, tmp_path):
    (tmp_path / "models--a--b" / "snapshots").mkdir(parents=True)
    shutil.copytree(net, tmp_path / "models--a--b" / "snapshots" / "0a1")
    for name, why in (
        ("runwayml/stable-diffusion-v1-5", "did you mean sd15[?]$"),
        (tmp_path / "nte", "did you mean net[?]$"),
        (tmp_path / "models--a--b", "did you mean snapshots/0a1 in it[?]$"),
        ("smooth", "^model must be a network, got a LoRA: name it after one"),
        (f"{net} + flora", "got 'flora', which is a network$"),
        ("flora + smooth", "^LoRA must be for flora, got Smooth Diffusion LoRA, which is for other networks$"),
        ("flora + smooth:x", "^strength of smooth must be a number from -4 to 4, got x$"),
    ):
        with pytest.raises(EngineError, match=why):
            resolve(str(name)).needs()
    assert resolve("sd15 + smooth:0,8").loras[0][1] == 0.8
