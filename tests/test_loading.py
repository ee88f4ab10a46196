"""Checkpoints as artists have them: single files, half precision, LoRAs; the shapes of Stable Diffusion 1 and 2."""

import json
import shutil

import pytest
import torch
from checkpoints import halved, single
from conftest import make_network
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.checkpoints import lora_files as lorafile
from engine.checkpoints.resolve import chosen
from engine.checkpoints.shapes import SHAPES, skeleton
from engine.diffusion import lora
from engine.diffusion.model import Row
from engine.requests import EngineError


def seen(net):
    """What a network makes of the same noise and words, and how it decodes that."""
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eps = net.field([Row(net.embed(["a rose", "tulip"]))])(x, 1.5)
        return torch.cat([eps.flatten(), net.decode(x).flatten(), net.encode(torch.rand(1, 3, 64, 64)).flatten() * 0])


@pytest.mark.parametrize(("prediction", "openclip"), [("epsilon", False), ("v_prediction", True)])
def test_a_single_file_is_the_folder_it_was_made_from(tmp_path, models, prediction, openclip):
    folder = make_network(tmp_path / "whole", prediction)
    file = single(folder, tmp_path / "mine.safetensors", openclip)
    one, other = models.load(str(folder)), models.load(str(file))
    assert other.prediction == prediction and other.words == one.words
    assert torch.allclose(seen(one), seen(other), atol=1e-5)


def test_half_precision_files_serve_where_no_others_are(tmp_path, models, tiny):
    net = models.load(str(halved(tiny, tmp_path / "half")))
    assert torch.equal(seen(net), seen(models.load(str(tiny))))


@pytest.mark.parametrize(("family", "unet", "text"), [("sd1", 859_520_964, 123_060_480),
                                                      ("sd2", 865_910_724, 340_387_840)])  # fmt: skip
def test_the_shapes_are_the_published_ones(tmp_path, family, unet, text):
    """Numbers of parameters as the hub's pages list them; the tokenizer is CLIP's, by what it is known to give."""
    folder = skeleton(tmp_path / family, family)
    with torch.device("meta"):
        parts = (UNet2DConditionModel.from_config(json.loads((folder / "unet/config.json").read_text())),
                 AutoencoderKL.from_config(json.loads((folder / "vae/config.json").read_text())),
                 CLIPTextModel(CLIPTextConfig(**SHAPES[family]["text_encoder"])))  # fmt: skip
    assert [sum(p.numel() for p in m.parameters()) for m in parts] == [unet, 83_653_863, text]
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    padded = tokenizer("a", padding="max_length", max_length=4).input_ids
    assert padded == [49406, 320, 49407, 49407 if family == "sd1" else 0]


def test_a_file_says_its_kind_by_the_shapes_of_its_tensors(tmp_path, models):
    start, words = "model.diffusion_model.input_blocks.0.0.weight", "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    words = f"model.diffusion_model.{words}.weight"

    def file(name, channels=4, width=768, **more):
        tensors = {start: torch.zeros(8, channels, 3, 3), words: torch.zeros(8, width)} | more
        save_file(tensors, tmp_path / f"{name}.safetensors")
        return str(tmp_path / f"{name}.safetensors")

    assert [chosen(file("a", width=w)).family for w in (768, 1024, 40)] == ["sd1", "sd2", ""]
    for path, why in (
        (file("inpaint", channels=9), "for inpainting"),
        (file("odd", width=40), "40 wide"),
        (file("xl", **{"conditioner.embedders.0.x": torch.zeros(1)}), "SDXL"),
        (file("lora", **{"lora_unet_x.lora_up.weight": torch.zeros(1)}), "is a LoRA"),
    ):
        with pytest.raises(EngineError, match=f"must be a whole Stable Diffusion 1 or 2 checkpoint.*{why}"):
            models.load(path)
    with pytest.raises(EngineError, match="must be whole"):
        models.load(file("stub"))
    (tmp_path / "junk.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(EngineError, match="must be whole"):
        models.load(str(tmp_path / "junk.safetensors"))


def test_what_a_single_file_predicts(tmp_path):
    from engine.checkpoints.load import _prediction

    (tmp_path / "custom.yaml").write_text('model:\n  params:\n    parameterization: "v" # as in 2.1\n')
    (tmp_path / "old.yaml").write_text("model:\n  params:\n    base: 1\n")
    cases = {("custom", "sd1"): "v_prediction", ("old", "sd2"): "epsilon", ("ink", "sd1"): "epsilon",
             ("v2-1_768", "sd2"): "v_prediction", ("v2-1_512-base", "sd2"): "epsilon"}  # fmt: skip
    for (name, family), expected in cases.items():
        assert _prediction(tmp_path / f"{name}.safetensors", family, {}) == expected, name
    assert _prediction(tmp_path / "ink.safetensors", "sd1", {"modelspec.prediction_type": "v"}) == "v_prediction"


@pytest.fixture(scope="module")
def drawn(tiny, models, tmp_path_factory):
    """A LoRA of random factors for the tiny network, as a file, and its factors."""
    net = models.load(str(tiny))
    bank = lora.blank(net, 1, 4)
    draw = torch.Generator().manual_seed(5)
    bank = lora.Bank({n: (a, torch.randn(b.shape, generator=draw) * 0.2) for n, (a, b) in bank.factors.items()})
    file = tmp_path_factory.mktemp("loras") / "ink.safetensors"
    file.write_bytes(lorafile.to_bytes(bank, {}))
    return bank, file


def test_a_lora_named_after_a_network_is_in_its_weights(tiny, models, drawn):
    bank, file = drawn
    own, inked = models.load(str(tiny)), models.load(f"{tiny} + {file}:0.5")
    x, words = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), own.embed(["a rose"])
    with torch.no_grad():
        free = own.field([Row(words)])(x, 1.5)
        with lora.attached(own, bank):
            expected = own.field([Row(words, mix=torch.full((2, 1), 0.5))])(x, 1.5)
        found = inked.field([Row(words)])(x, 1.5)
    assert not torch.allclose(free, expected, atol=1e-2)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not [n for n, _ in inked.unet.named_parameters() if "lora" in n]


def test_the_live_sampler_takes_a_few_step_lora_file_and_gives_the_weights_back(tiny, models, drawn):
    _, file = drawn
    net, merged = models.load(str(tiny)), models.load(f"{tiny} + {file}")
    assert not net.has("live")
    net.few = file
    try:
        before = seen(net)
        with net.sampler("live"):
            assert torch.allclose(seen(net), seen(merged), atol=1e-5)
        assert torch.equal(seen(net), before)
    finally:
        net.few, net._live = None, {}


def test_loras_that_do_not_fit_or_are_none(tmp_path, tiny, models, drawn):
    wrong = {k.replace("attn", "none"): v for k, v in load_file(drawn[1]).items()}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(EngineError, match=r"LoRA wrong\.safetensors must fit"):
        models.load(f"{tiny} + {tmp_path / 'wrong.safetensors'}")
    for name, why in ((f"{tiny} + nothing", "must be one of smooth or a .safetensors file, got 'nothing'"),
                      (f"{tiny} + {drawn[1]}:9", "must be a number from -4 to 4, got 9")):  # fmt: skip
        with pytest.raises(EngineError, match=why):
            chosen(name)


def test_a_folder_or_file_that_is_gone_is_named(tmp_path):
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    with pytest.raises(EngineError, match=r"a folder of a diffusers network or a .safetensors file, got '.*gone"):
        chosen(str(tmp_path / "gone"))
