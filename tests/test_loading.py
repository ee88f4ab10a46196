"""Checkpoints as artists have them: single files, half precision, LoRAs; the shapes of Stable Diffusion 1, 2 and XL."""

import json
import shutil

import pytest
import torch
from checkpoints import halved, single
from conftest import make_network
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.tiny import schedule
from engine.checkpoints import kinds
from engine.checkpoints.load import read
from engine.checkpoints.predicts import kind, prediction
from engine.checkpoints.resolve import resolve
from engine.checkpoints.shapes import FIRST, ZERO_SNR, skeleton
from engine.diffusion.schedule import Schedule
from engine.requests import EngineError

WORDS = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"


def same(a, b, atol=0.0):
    """Whether two networks have the same weights, configs of their schedules and tokens."""
    assert (a.text_encoder_2 is None) == (b.text_encoder_2 is None) and a.zero_negative == b.zero_negative
    for x, y in ((getattr(a, n), getattr(b, n)) for n in kinds.MODULES if getattr(a, n) is not None):
        ours, theirs = x.state_dict(), y.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(t, theirs[n], rtol=0, atol=atol) for n, t in ours.items())
    assert a.scheduler.config == b.scheduler.config
    for x, y in ((a.tokenizer, b.tokenizer), (a.tokenizer_2, b.tokenizer_2)):
        assert x is y is None or x("a rose", padding="max_length") == y("a rose", padding="max_length")


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
    ("family", "unet", "text"),
    [
        ("sd1", 859_520_964, 123_060_480),
        ("sd2", 865_910_724, 340_387_840),
        ("sdxl", 2_567_463_684, 123_060_480),
    ],
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
    assert padded == [49406, 320, 49407, 0 if family == "sd2" else 49407]
    if family == "sdxl":
        with torch.device("meta"):
            second = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / "text_encoder_2"))
        assert sum(p.numel() for p in second.parameters()) == 694_659_840
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
        assert tokenizer("a", padding="max_length", max_length=4).input_ids == [49406, 320, 49407, 0]


ONE = torch.zeros(1)
PARTS = {"first_stage_model.x": ONE, "cond_stage_model.x": ONE}


def stub(path, channels=4, width=768, without=(), about=None, **more):
    """A file of a network's few telling tensors."""
    tensors = (
        {FIRST: torch.zeros(8, channels, 3, 3), WORDS.format(4 if width > 1024 else 1): torch.zeros(8, width)}
        | PARTS
        | more
    )
    save_file({n: t.clone() for n, t in tensors.items() if n not in without}, path, about)
    return path


def test_a_file_says_its_kind_by_the_names_and_shapes_of_its_tensors(tmp_path):
    file, net = tmp_path / "net.safetensors", (FIRST, WORDS.format(1), *PARTS)
    for width, channels, family in ((768, 4, "sd1"), (1024, 4, "sd2"), (192, 12, "flora"), (40, 4, ""), (768, 9, "")):
        assert resolve(str(stub(file, channels, width))).family == family
    assert resolve(str(stub(tmp_path / "my-Turbo.safetensors", width=1024))).family == "turbo"
    for how, why in (
        ({"channels": 9}, "got a network for inpainting"),
        ({"channels": 5}, "got a network guided by depth"),
        ({"channels": 7}, "got a network that enlarges"),
        ({"channels": 8}, "got one that takes a picture beside the noise, as InstructPix2Pix does"),
        ({"width": 1280}, "got SDXL's refiner"),
        ({"width": 40}, "got words 40 wide"),
        ({"model.diffusion_model.joint_blocks.0.x": ONE}, "got a Stable Diffusion 3 network"),
        ({"double_blocks.0.img_attn.x": ONE, "without": net}, "got a FLUX network"),
        (
            {"lora_unet_x.lora_up.weight": ONE, "without": net},
            "got a LoRA: name it after one, as in 'sd15 [+] .*/net",
        ),
        ({"control_model.input_blocks.0.x": ONE, "without": net}, "got a ControlNet"),
        ({"without": [n for n in net if n[0] == "m"]}, "got a file without a UNet"),
        ({"without": net, "model_ema.decay": ONE}, r"got averaged weights \(EMA\) alone"),
        ({"without": net, "decoder.conv_in.weight": ONE}, "got a VAE alone"),
        ({"without": net, "down_blocks.0.x": ONE}, "got a UNet alone"),
        ({"without": net, "text_model.x": ONE}, "got a CLIP alone"),
        ({"without": net, "emb_params": ONE}, "got a textual inversion"),
        ({"without": ["first_stage_model.x"]}, "got one without a VAE"),
        ({"without": ["cond_stage_model.x"]}, "got one without a text encoder"),
    ):
        with pytest.raises(EngineError, match=f"^model net.safetensors must be .*{why}") as e:
            read(stub(file, **how), torch.float32, str(file))
        assert str(e.value).count(str(tmp_path)) <= 1
    with pytest.raises(EngineError, match=r"^model net.safetensors must be whole, got parts that cannot be read") as e:
        read(stub(file), torch.float32, str(file))
    assert "from_single_file" not in str(e.value)
    with pytest.raises(EngineError, match=r"must have the folders .*, got none of unet, vae"):
        read(tmp_path, torch.float32, "empty")


def test_a_folder_says_its_kind_by_its_configs(tmp_path, tiny):
    def change(file, **values):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    unet = "unet/config.json"
    for i, (file, values, why) in enumerate(
        (
            (unet, {"cross_attention_dim": 1280}, "SDXL's refiner"),
            (unet, {"addition_embed_type": "text_time"}, "one with the VAE of Stable Diffusion 1 or 2"),
            ("vae/config.json", {"scaling_factor": 0.13025}, "one with SDXL's VAE"),
            (
                "scheduler/scheduler_config.json",
                {"_class_name": "EDMDPMSolverMultistepScheduler"},
                "a network with EDM",
            ),
            (unet, {"in_channels": 8}, "one that takes a picture beside the noise, as InstructPix2Pix does"),
            (unet, {"in_channels": 5}, "a network guided by depth"),
            (unet, {"class_embed_type": "projection"}, "an unCLIP network"),
            (unet, {"_class_name": "UNetSpatioTemporalConditionModel"}, "a network for films"),
            (
                "text_encoder/config.json",
                {"architectures": ["T5Encoder"]},
                "one with another text encoder than CLIP's",
            ),
            ("vae/config.json", {"latent_channels": 16}, "one whose VAE has latents of another size"),
        )
    ):
        folder = shutil.copytree(tiny, tmp_path / f"net{i}")
        change(file, **values)
        with pytest.raises(EngineError, match=f"^model net{i} must be of the kind of Stable .*, got {why}"):
            read(folder, torch.float32, str(folder))
    folder = shutil.copytree(tiny, tmp_path / "flux")
    shutil.rmtree(folder / "unet")
    (folder / "transformer").mkdir()
    with pytest.raises(EngineError, match=r"^model flux must be of the kind of Stable .*, got a transformer$"):
        resolve(str(folder))


WHOLE = "must be a whole safetensors file, got"


def test_files_that_are_not_whole_are_told_apart(tmp_path, tiny):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"
    inside = shutil.copytree(tiny, tmp_path / "net") / "unet" / "diffusion_pytorch_model.safetensors"
    alone, weights = tmp_path / "mine.safetensors", inside.read_bytes()
    for block, why in (
        (pointer, f"{WHOLE} a Git LFS pointer in its place; fetch the file itself with 'git lfs pull'"),
        (b"<!DOCTYPE html>\n<html>" + b" " * 999, f"{WHOLE} a web page in its place; download it again"),
        (b"", f"{WHOLE} an empty file; download it again"),
        (weights[: int(0.6 * len(weights))], f"{WHOLE} 60% of it; download it again"),
        (weights[:500], f"{WHOLE} only its first 500 bytes; download it again"),
        (b"PK\x03\x04" + b"\0" * 999, f"{WHOLE} a pickle or a zip under another name"),
        (b"no tensors at all", f"{WHOLE} a text in its place ('no tensors at all'); download it again"),
    ):
        for file, place, name in (
            (inside, tmp_path / "net", f"model file net/unet/{inside.name}"),
            (alone, alone, "model mine.safetensors"),
        ):
            file.write_bytes(block)
            with pytest.raises(EngineError) as e:
                read(place, torch.float32, str(place))
            assert str(e.value).startswith(f"{name} {why}")
    inside.write_bytes(weights)
    (tmp_path / "net" / "vae" / "config.json").write_bytes(pointer)
    with pytest.raises(EngineError, match=r"^model file net/vae/config.json must be settings in JSON, got a Git LFS"):
        read(tmp_path / "net", torch.float32, "net")


def test_what_a_single_file_predicts(tmp_path):
    (tmp_path / "custom.yaml").write_text('model:\n  params:\n    parameterization: "v" # as in 2.1\n')
    (tmp_path / "flow.yaml").write_text("model: {params: {parameterization: v, base: 1}}")
    (tmp_path / "short.yml").write_text('parameterization: "v"')
    (tmp_path / "wide.yaml").write_bytes("model:\n  params:\n    parameterization: v\n".encode("utf-16"))
    (tmp_path / "bare.yaml").write_bytes("a:\n  parameterization: v\n".encode("utf-16-le"))
    (tmp_path / "no.yaml").write_text("model:\n  # parameterization: v\n  params: {parameterization: eps}\n")
    (tmp_path / "old.yaml").write_text("model:\n  params:\n    base: 1\n")
    cases = {
        **{(n, "sd1"): "v_prediction" for n in ("custom", "flow", "short", "wide", "bare")},
        ("no", "sd1"): "epsilon",
        ("old", "sd2"): "epsilon",
        ("ink", "sd1"): "epsilon",
        ("v2-1_768", "sd2"): "v_prediction",
        ("v2-1_512-base", "sd2"): "epsilon",
        ("noobaiXL_vPred10", "sdxl"): "v_prediction",
        ("illustrious", "sdxl"): "epsilon",
        ("sdxl_lightning_1step_x0", "sdxl"): "sample",
    }
    for (name, family), expected in cases.items():
        assert prediction(tmp_path / f"{name}.safetensors", family, {}) == expected, name
    for about in ({"modelspec.prediction_type": "v"}, {"ss_v_parameterization": "True"}):
        assert prediction(tmp_path / "ink.safetensors", "sd1", about) == "v_prediction"
    assert prediction(tmp_path / "v2-1.safetensors", "sd2", {"ss_v_parameterization": "False"}) == "epsilon"
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(EngineError, match=r"^bad.yaml beside the model must be YAML"):
        prediction(tmp_path / "bad.safetensors", "sd1", {})


@torch.no_grad()
def test_zero_terminal_snr_of_a_single_file(tmp_path):
    """Its marks are ComfyUI's empty tensors or kohya's metadata; a folder of configs beside it says it by itself."""
    first = {FIRST: torch.zeros(8, 4, 3, 3), WORDS.format(1): torch.zeros(8, 768), **{n: torch.zeros(1) for n in PARTS}}
    marks, kohya = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, {"ss_zero_terminal_snr": "True"}
    found = []
    for more, about in (({}, {}), ({"v_pred": marks["v_pred"]}, {}), (marks, {}), ({}, kohya)):
        save_file(first | more, tmp_path / "of.safetensors", about)
        file = tmp_path / "of.safetensors"
        found.append(kind(file, kinds.check(file, ()))[:3])
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
    shutil.copytree(tiny, tmp_path / "roses")
    (tmp_path / "old.ckpt").write_bytes(b"x")
    stub(tmp_path / "ink.safetensors")
    for name, why in (
        (
            f"{tiny} + nothing",
            "LoRA must be one of lightning, smooth or a .safetensors file, got 'nothing', which is not there$",
        ),
        (f"{tiny} + smoth", "got 'smoth', which is not there; did you mean smooth[?]"),
        (f"{tiny} + {tmp_path}/inc.safetensors", "which is not there; did you mean ink.safetensors[?]"),
        (f"{tiny} + {tmp_path}/old.ckpt", "which may run code when it is read; convert it to .safetensors"),
        (f"{tiny} + smooth:9", "must be a number from -4 to 4, got 9"),
        ("sd51", "got 'sd51', which is not there; did you mean sd15[?]"),
        ("Flora", "did you mean flora[?]"),
        ("nonsense", "got 'nonsense', which is not there$"),
        (str(tmp_path / "rose"), "got '.*/rose', which is not there; did you mean roses[?]"),
        (str(tmp_path / "old.ckpt"), "got old.ckpt, which may run code when it is read; convert it to .safetensors"),
        (str(tmp_path), "a folder without one"),
        ("x" * 5000, "^model must be"),
        ("a\0b", "^model must be"),
        ("~nobody-of-that-name/x", "which is not there"),
    ):
        with pytest.raises(EngineError, match=why):
            resolve(name)
    with pytest.raises(EngineError) as e:  # elsewhere nothing is told of what is there
        resolve(str(tmp_path / "rose"), ["/open"])
    assert "there" not in str(e.value) and "roses" not in str(e.value)


def test_names_as_people_copy_them(tmp_path, monkeypatch):
    file, lora = stub(tmp_path / "Mine.SAFETENSORS"), stub(tmp_path / "my ink.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (f'"{file}"', f" '{file}' ", f"“{file}”", "~/Mine.SAFETENSORS"):
        assert resolve(name).base == file and resolve(name).name == str(file)
        assert resolve(f'{name} + "{lora}":0.5').loras == ((lora, 0.5),)
    assert resolve(f'"{file} + {lora}:0.5"').loras == ((lora, 0.5),)
    assert kinds.family(file) == "sd1"
