"""SDXL as artists have it: folders and single files, in full and half precision; what is none is named."""

import shutil

import pytest
import torch
from checkpoints import changed, halved, refused, single
from safetensors.torch import load_file, save_file
from test_loading import same

from engine.checkpoints import kinds
from engine.checkpoints.load import read
from engine.checkpoints.predicts import kind
from engine.checkpoints.resolve import resolve
from engine.checkpoints.shapes import DEEPEST, FIRST

NAME = "diffusion_pytorch_model.safetensors"
WORDS = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def test_a_folder_has_two_text_encoders_and_says_what_an_empty_negative_is(xl, tmp_path):
    parts = read(xl, torch.float32, "xl")
    assert type(parts.text_encoder_2).__name__ == "CLIPTextModelWithProjection" and parts.zero_negative
    assert parts.tokenizer("a").input_ids == parts.tokenizer_2("a").input_ids
    assert parts.tokenizer_2.pad_token == "!" != parts.tokenizer.pad_token
    choice = resolve(str(xl))
    assert choice.family == "sdxl" and choice.size() > sum(
        p.stat().st_size for p in xl.glob("*_encoder*/*.safetensors")
    )
    other = shutil.copytree(xl, tmp_path / "other")
    changed(other / "model_index.json", force_zeros_for_empty_prompt=False)
    assert not read(other, torch.float32, "other").zero_negative
    same(parts, read(halved(xl, tmp_path / "half"), torch.float32, "half"))


def test_a_single_file_is_the_folder_it_was_made_from(xl, tmp_path):
    file = single(xl, tmp_path / "mine.safetensors")
    other = read(file, torch.float32, "mine")
    same(read(xl, torch.float32, "xl"), other)
    assert other.folder == file.with_suffix("") and resolve(str(file)).family == "sdxl"


@pytest.mark.parametrize(
    ("head", "part", "lacks"),
    [
        ("conditioner.embedders.0", "text_encoder", "a text encoder"),
        ("conditioner.embedders.1", "text_encoder_2", "its second text encoder"),
        ("first_stage_model", "vae", "a VAE"),
    ],
)
def test_a_part_that_is_missing_is_named(xl, tmp_path, head, part, lacks):
    file, whole = single(xl, tmp_path / "one.safetensors"), read(xl, torch.float32, "xl")
    save_file({n: t for n, t in load_file(file).items() if not n.startswith(head)}, file)
    assert refused(file) == f"model one.safetensors must be a whole network, got one without {lacks}"
    for other in (part, "text_encoder"):
        shutil.copytree(xl / other, file.with_suffix("") / other, dirs_exist_ok=True)
    same(whole, read(file, torch.float32, "one"))
    folder = shutil.copytree(xl, tmp_path / "net")
    shutil.rmtree(folder / part)
    assert refused(folder).endswith(f"got none of {part}") and "must have the folders unet, vae" in refused(folder)


def test_what_is_no_sdxl_of_ours_is_named_before_weights_are_read(xl, tmp_path):
    for i, (file, values, why) in enumerate(
        (
            ("unet/config.json", {"cross_attention_dim": 1280}, "SDXL's refiner"),
            ("unet/config.json", {"in_channels": 9}, "a network for inpainting"),
            ("vae/config.json", {"scaling_factor": 0.18215}, "one with the VAE of Stable Diffusion 1 or 2"),
            ("vae/config.json", {"latent_channels": 16}, "one whose VAE has latents of another size"),
            ("text_encoder_2/config.json", {"architectures": ["T5EncoderModel"]}, "one with another text encoder"),
        )
    ):
        folder = shutil.copytree(xl, tmp_path / f"net{i}", ignore=shutil.ignore_patterns("*.safetensors"))
        changed(folder / file, **values)
        assert refused(folder).startswith(
            f"model net{i} must be of the kind of Stable Diffusion 1, 2, XL or flora, got {why}"
        )


def stub(file, inputs=4, width=2048, about=None, without=(), **more):
    """A file of an SDXL network's few telling tensors."""
    heads = ("first_stage_model.x", "conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.x", DEEPEST)
    tensors = {n: torch.zeros(1) for n in heads if n not in without} | more
    save_file(tensors | {FIRST: torch.zeros(8, inputs, 3, 3), WORDS: torch.zeros(8, width)}, file, about)
    return file


def test_a_file_says_what_it_is_by_its_header(tmp_path):
    file, one = tmp_path / "net.safetensors", torch.zeros(1)
    latents = {"model.diffusion_model.out.2.weight": torch.zeros(4, 8, 3, 3)}
    latents |= {"first_stage_model.decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)}
    for how, why in (
        ({"width": 1280}, "got SDXL's refiner"),
        ({"conditioner.embedders.0.model.x": one}, "got SDXL's refiner"),
        ({"inputs": 9}, "got a network for inpainting"),
        ({"edm_vpred.sigma_max": one}, "got a network with EDM's noise"),
        (latents, "got one whose VAE has latents of another size"),
        ({"without": [DEEPEST]}, "got a smaller kin of SDXL; put its configs into"),
        ({"without": ["conditioner.embedders.1.model.x"]}, "got one without its second text encoder"),
    ):
        assert why in refused(stub(file, **how))
    assert resolve(str(stub(file))).family == "sdxl" and not resolve(str(file)).needs()
    for name in ("DreamXL_Turbo_v2", "juggernautXL-Lightning"):
        assert resolve(str(stub(tmp_path / f"{name}.safetensors"))).family == "sdxl-turbo"


def test_what_pony_illustrious_and_noobai_predict_is_told_by_marks_metadata_or_name(tmp_path):
    none = torch.zeros(0)
    for name, how, said in (
        ("pony", {}, ("epsilon", False)),
        ("noob", {"v_pred": none, "ztsnr": none}, ("v_prediction", True)),
        ("illustrious-v_pred", {}, ("v_prediction", False)),
        ("kohya", {"about": {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "1"}}, ("v_prediction", True)),
        ("spec", {"about": {"modelspec.prediction_type": "v"}}, ("v_prediction", False)),
    ):
        file = stub(tmp_path / f"{name}.safetensors", **how)
        assert kind(file, kinds.check(file, ())) == ("sdxl", *said, 0), name


@torch.no_grad()
def test_in_half_precision_the_vae_does_not_overflow(xl, tmp_path):
    """SDXL's own works in full precision where the fixed one is not here; that one comes first."""
    wide, exact = read(xl, torch.float16, "xl").vae, read(xl, torch.float32, "xl").vae.half().float()
    assert wide.dtype == torch.float32 and read(xl, torch.bfloat16, "xl").vae.dtype == torch.bfloat16
    x, z = torch.rand(1, 3, 64, 64).half(), torch.randn(1, 4, 8, 8).half()
    assert torch.allclose(wide.encode(x).latent_dist.mode(), exact.encode(x.float()).latent_dist.mode(), atol=1e-6)
    assert torch.allclose(wide.decode(z).sample, exact.decode(z.float()).sample, atol=1e-6)
    wide.enable_tiling()
    assert wide.decode(torch.randn(1, 4, 96, 96).half()).sample.dtype == torch.float32
    fixed = shutil.copytree(xl / "vae", tmp_path / "fixed")
    changed(fixed / "config.json", force_upcast=False)
    save_file({n: t + 0.5 for n, t in load_file(xl / "vae" / NAME).items()}, fixed / NAME)
    found = read(xl, torch.float16, "xl", fixed).vae
    assert found.dtype == torch.float16 and not torch.allclose(
        found.decoder.conv_out.bias.float(), exact.decoder.conv_out.bias
    )
    other = shutil.copytree(xl, tmp_path / "other")
    changed(other / "vae" / "config.json", force_upcast=False)
    assert read(other, torch.float16, "other", fixed).vae.dtype == torch.float16
