"""Checkpoints as artists have them: single files, half precision, LoRAs; the shapes of Stable Diffusion 1 and 2."""

import json

import pytest
import torch
from checkpoints import halved, single
from conftest import make_network
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.tiny import schedule
from engine.checkpoints.load import FIRST, WORDS, _kind, _prediction, read
from engine.checkpoints.resolve import resolve
from engine.checkpoints.shapes import ZERO_SNR, skeleton
from engine.diffusion.schedule import Schedule
from engine.requests import EngineError


def same(a, b, atol=0.0):
    """Whether two networks have the same weights, configs of their schedules and tokens."""
    for x, y in ((a.unet, b.unet), (a.vae, b.vae), (a.text_encoder, b.text_encoder)):
        ours, theirs = x.state_dict(), y.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(t, theirs[n], rtol=0, atol=atol) for n, t in ours.items())
    assert a.scheduler.config == b.scheduler.config
    assert a.tokenizer("a rose").input_ids == b.tokenizer("a rose").input_ids


@pytest.mark.parametrize(("prediction", "openclip"), [("epsilon", False), ("v_prediction", True)])
def test_a_single_file_is_the_folder_it_was_made_from(tmp_path, prediction, openclip):
    folder = make_network(tmp_path / "whole", prediction)
    file = single(folder, tmp_path / "mine.safetensors", openclip)
    one, other = read(folder, torch.float32, "one"), read(file, torch.float32, "other")
    assert other.scheduler.config.prediction_type == prediction and other.folder == file.with_suffix("")
    same(one, other)


def test_half_precision_files_serve_where_no_others_are(tmp_path, tiny):
    same(read(tiny, torch.float32, "one"), read(halved(tiny, tmp_path / "half"), torch.float32, "half"))


@pytest.mark.parametrize(
    ("family", "unet", "text"), [("sd1", 859_520_964, 123_060_480), ("sd2", 865_910_724, 340_387_840)]
)
def test_the_shapes_are_the_published_ones(tmp_path, family, unet, text):
    """Numbers of parameters as the hub's pages list them; the tokenizer is CLIP's, by what it is known to give."""
    folder = skeleton(tmp_path / family, family)
    with torch.device("meta"):
        parts = (
            UNet2DConditionModel.from_config(json.loads((folder / "unet/config.json").read_text())),
            AutoencoderKL.from_config(json.loads((folder / "vae/config.json").read_text())),
            CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
        )
    assert [sum(p.numel() for p in m.parameters()) for m in parts] == [unet, 83_653_863, text]
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    padded = tokenizer("a", padding="max_length", max_length=4).input_ids
    assert padded == [49406, 320, 49407, 49407 if family == "sd1" else 0]


def test_a_file_says_its_kind_by_the_shapes_of_its_tensors(tmp_path):
    def file(name, channels=4, width=768, **more):
        tensors = {FIRST: torch.zeros(8, channels, 3, 3), WORDS: torch.zeros(8, width)} | more
        save_file(tensors, tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    assert [resolve(str(file("a", width=w))).family for w in (768, 1024, 40)] == ["sd1", "sd2", ""]
    assert resolve(str(file("my-Turbo", width=1024))).family == "turbo"
    for path, why in (
        (file("inpaint", channels=9), "for inpainting"),
        (file("odd", width=40), "40 wide"),
        (file("xl", **{"conditioner.embedders.0.x": torch.zeros(1)}), "SDXL"),
        (file("lora", **{"lora_unet_x.lora_up.weight": torch.zeros(1)}), "is a LoRA"),
    ):
        with pytest.raises(EngineError, match=f"must be a whole Stable Diffusion 1 or 2 checkpoint.*{why}"):
            read(path, torch.float32, str(path))
    (tmp_path / "junk.safetensors").write_bytes(b"no tensors at all")
    for path in (file("stub"), tmp_path / "junk.safetensors"):
        with pytest.raises(EngineError, match="must be whole"):
            read(path, torch.float32, str(path))
    with pytest.raises(EngineError, match=r"must have the folders .*, got none of unet, vae"):
        read(tmp_path, torch.float32, "empty")


def test_what_a_single_file_predicts(tmp_path):
    (tmp_path / "custom.yaml").write_text('model:\n  params:\n    parameterization: "v" # as in 2.1\n')
    (tmp_path / "old.yaml").write_text("model:\n  params:\n    base: 1\n")
    cases = {
        ("custom", "sd1"): "v_prediction",
        ("old", "sd2"): "epsilon",
        ("ink", "sd1"): "epsilon",
        ("v2-1_768", "sd2"): "v_prediction",
        ("v2-1_512-base", "sd2"): "epsilon",
    }
    for (name, family), expected in cases.items():
        assert _prediction(tmp_path / f"{name}.safetensors", family, {}) == expected, name
    assert _prediction(tmp_path / "ink.safetensors", "sd1", {"modelspec.prediction_type": "v"}) == "v_prediction"


@torch.no_grad()
def test_zero_terminal_snr_of_a_single_file(tmp_path):
    """Its marks are ComfyUI's empty tensors or kohya's metadata; a folder of configs beside it says it by itself."""
    first = {FIRST: torch.zeros(8, 4, 3, 3), WORDS: torch.zeros(8, 768)}
    marks, kohya = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, {"ss_zero_terminal_snr": "True"}
    found = []
    for more, about in (({}, {}), ({"v_pred": marks["v_pred"]}, {}), (marks, {}), ({}, kohya)):
        save_file(first | more, tmp_path / "of.safetensors", about)
        found.append(_kind(tmp_path / "of.safetensors"))
    assert [f[1:] for f in found] == [("epsilon", 0), ("v_prediction", 0), ("v_prediction", 1), ("epsilon", 1)]
    scheduler = DDIMScheduler.from_pretrained(skeleton(tmp_path / "shape", *found[2]) / "scheduler")
    scheduler.set_timesteps(5)
    assert scheduler.timesteps[0] == 999 and scheduler.alphas_cumprod[-1] == 0
    assert scheduler.config.prediction_type == "v_prediction"
    folder = make_network(tmp_path / "whole")
    schedule(**ZERO_SNR, prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    file = single(folder, tmp_path / "mine.safetensors")
    save_file(load_file(file) | marks, file)
    one, other = read(folder, torch.float32, "one"), read(file, torch.float32, "other")
    assert Schedule(other.scheduler, "mine").zero_terminal_snr
    same(one, other)


def test_names_that_are_none(tiny, tmp_path):
    for name, why in (
        (f"{tiny} + nothing", "must be one of smooth or a .safetensors file, got 'nothing'"),
        (f"{tiny} + smooth:9", "must be a number from -4 to 4, got 9"),
        (str(tmp_path / "gone"), "diffusers network or a .safetensors file, got '.*gone"),
    ):
        with pytest.raises(EngineError, match=why):
            resolve(name)
