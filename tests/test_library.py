"""The artist's own folders: what lies in trees like A1111's and ComfyUI's, by which names, and what appears in them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from checkpoints import single
from conftest import ROOT, done, make_network, picture
from safetensors.torch import save_file

from engine.checkpoints import library
from engine.checkpoints.library import found, place
from engine.checkpoints.manager import ModelManager
from engine.checkpoints.resolve import resolve
from engine.checkpoints.shapes import FIRST
from engine.requests import EditRequest, EngineError
from engine.requests.settings import Settings

OLD = 1e9  # a time long ago
WORDS = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
TO_K = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def network(file, words=768, inputs=4):
    """A single file of the shape of Stable Diffusion 1, as far as its header says; its numbers are noise of ones."""
    shapes = {FIRST: (8, inputs, 3, 3), WORDS: (8, words), "first_stage_model.x": (4,), "cond_stage_model.x": (4,)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: torch.ones(s) for n, s in shapes.items()}, file)
    return file


def lora(file, width=768, head=TO_K, wide=32):
    file.parent.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, width, generator=draw), torch.randn(wide, 2, generator=draw)
    save_file({f"{head}.lora_A.weight": a, f"{head}.lora_B.weight": b}, file)
    return file


@pytest.fixture
def tree(tmp_path, tiny):
    """Both trees in one folder, with what else lies in them."""
    network(tmp_path / "models/Stable-diffusion/photo.safetensors")
    network(tmp_path / "models/Stable-diffusion/old/drawn.safetensors", 1024)
    lora(tmp_path / "models/Lora/people/ink.safetensors")
    network(tmp_path / "checkpoints/Photo.safetensors")
    lora(tmp_path / "loras/wide.safetensors", 1024)
    shutil.copytree(tiny, tmp_path / "diffusers/v1.5 own")
    for other in ("models/VAE", "controlnet", "embeddings", ".hidden"):
        network(tmp_path / other / "no.safetensors")
    picture(1).save(tmp_path / "models/Stable-diffusion/photo.preview.png")
    picture(2).save(tmp_path / "models/Lora/people/ink.jpg")
    picture(3).save(tmp_path / "diffusers/v1.5 own.webp")
    return tmp_path


def names(*folders):
    return [own.name for own in found([str(f) for f in folders])]


def test_networks_and_loras_of_both_trees_with_family_size_and_picture(tree):
    own = {o.name: o for o in found([str(tree)])}
    networks = ["drawn.safetensors", "Photo.safetensors", "photo.safetensors", "v1.5 own"]
    assert sorted(own) == sorted([*networks, "ink.safetensors", "wide.safetensors"])
    assert [o.name for o in own.values() if o.lora] == ["ink.safetensors", "wide.safetensors"]
    assert own["photo.safetensors"].of == own["ink.safetensors"].of == "Stable Diffusion 1"
    assert own["drawn.safetensors"].of == own["wide.safetensors"].of == "Stable Diffusion 2"
    assert own["photo.safetensors"].size == own["photo.safetensors"].path.stat().st_size
    weights = sum(f.stat().st_size for f in (tree / "diffusers").rglob("*.safetensors"))
    assert own["v1.5 own"].size == weights > 0
    seen = {n: o.picture and o.picture.name for n, o in own.items()}
    assert {n: p for n, p in seen.items() if p} == {
        "photo.safetensors": "photo.preview.png",
        "ink.safetensors": "ink.jpg",
        "v1.5 own": "v1.5 own.webp",
    }
    assert not any(o.why for o in own.values())
    assert own["photo.safetensors"].label == "photo.safetensors · Stable Diffusion 1 · 0.1 MB"


def test_a_name_is_enough_with_its_ending_or_without(tree):
    folders = (str(tree),)
    for name in ("photo", "photo.safetensors", "Stable-diffusion/photo", f"{tree.name}/models/Stable-diffusion/photo"):
        assert place(name, folders) == tree / "models/Stable-diffusion/photo.safetensors"
    assert resolve("v1.5 own", (), folders).base == tree / "diffusers/v1.5 own"  # (a public page names nothing else)
    for text, strength in (("photo + ink:0.5", 0.5), ("photo · Stable Diffusion 1 + people/ink.safetensors", 1.0)):
        choice = resolve(text, (), folders)
        assert choice.base.name == "photo.safetensors" and not choice.needs()[2:]
        assert choice.loras == ((tree / "models/Lora/people/ink.safetensors", strength),)
    assert "/" not in resolve("photo + ink:0.5", (), folders).name  # what is shown of it names no folder
    for name in ("hoto", "../photo", str(tree / "checkpoints/Photo.safetensors"), "v1", "no", "no.safetensors"):
        with pytest.raises(EngineError, match="model must be one of flora"):
            resolve(name, (), folders)
    with pytest.raises(EngineError, match="LoRA must be one of"):
        resolve("photo + nothing:0.5", (), folders)
    with pytest.raises(EngineError, match=r"LoRA wide.safetensors must be for photo, got one for Stable Diffusion 2"):
        resolve("photo + wide", (), folders).needs()


def test_of_two_of_one_name_each_has_a_longer_one(tree):
    network(tree / "more/photo.safetensors")
    network(tree / "sd15.safetensors").rename(tree / "sd15")  # no ending: nothing
    shutil.copytree(tree / "diffusers/v1.5 own", tree / "diffusers/sd21")
    own = names(tree)
    assert {"Stable-diffusion/photo.safetensors", "more/photo.safetensors", "diffusers/sd21"} <= {*own}
    assert "photo.safetensors" not in own and "sd21" not in own and "sd15" not in own
    assert resolve("sd21", None, (str(tree),)).entry and not resolve("diffusers/sd21", None, (str(tree),)).entry
    with pytest.raises(
        EngineError, match=r"got photo, which (more|Stable-diffusion)/photo.safetensors and .*are called"
    ):
        resolve("photo", (), (str(tree),))


def test_a_file_appears_when_all_of_it_is_there(tree, tmp_path):
    late, whole = tmp_path / "late.safetensors", network(tmp_path.parent / "whole.safetensors").read_bytes()
    for here in (b"", whole[:5], whole[:-9], whole[:-8] + bytes(8), whole[: -library.END] + bytes(library.END)):
        late.write_bytes(here)
        assert ("late.safetensors" in names(tmp_path)) == (here == whole[:-8] + bytes(8)), len(here)
    os.utime(late, (OLD, OLD))
    assert "late.safetensors" in names(tmp_path)  # long ago: it is what it is
    late.write_bytes(whole)
    assert "late.safetensors" in names(tmp_path)
    late.unlink()
    assert "late.safetensors" not in names(tmp_path)


def test_a_folder_appears_when_all_of_it_is_there(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "net", copy_function=shutil.copy)  # files of now
    weights = (tmp_path / "net/vae/diffusion_pytorch_model.safetensors").rename(tmp_path / "net/later")
    assert names(tmp_path) == []
    weights.rename(tmp_path / "net/vae/diffusion_pytorch_model.safetensors")
    assert names(tmp_path) == ["net"]


def test_what_cannot_be_used_says_why(tmp_path):
    network(tmp_path / "paint.safetensors", inputs=9)
    network(tmp_path / "a + b.safetensors")
    lora(tmp_path / "flux.safetensors", head="lora_unet_double_blocks_0_img_attn_qkv")
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "paint.safetensors").read_bytes()[:-9])
    save_file({"encoder.conv_in.weight": torch.ones(2)}, tmp_path / "vae.safetensors")
    for f in tmp_path.iterdir():
        os.utime(f, (OLD, OLD))
    why = {o.path.stem: o.why for o in found([str(tmp_path)])}
    for stem, sentence in {
        "paint": "model paint.safetensors must be of the kind of .*, got a network for inpainting",
        "a + b": "name of a . b.safetensors must be without ' . '",
        "flux": "LoRA flux.safetensors must be a LoRA for .*, got one for FLUX",
        "old": "model must be a .safetensors file or a folder, got old.ckpt, which may run code",
        "half": "model half.safetensors must be a whole safetensors file, got [0-9]+% of it",
        "vae": "model vae.safetensors must be a whole network, got a VAE alone",
    }.items():
        assert library.re.search(sentence, why.pop(stem)), stem
    assert not why


def test_trees_that_lead_into_themselves_or_may_not_be_looked_into(tree):
    (tree / "loras/again").symlink_to(tree)
    (tree / "gone.safetensors").symlink_to(tree / "nothing")
    (tree / "elsewhere").symlink_to(tree / "checkpoints")
    deep = tree
    for n in range(library.DEEP + 2):
        deep = deep / f"d{n}"
    network(deep / "deep.safetensors")
    if sys.platform == "linux":
        network(tree / os.fsdecode(b"\xff.safetensors"))
    before = names(tree / "models", tree / "checkpoints", tree / "loras", tree / "diffusers")
    assert sorted(names(tree)) == sorted(before) and len(before) == 6
    assert names(tree, tree / "models", tree / "nothing") == names(tree)


def test_headers_are_read_once(tree, monkeypatch):
    found([str(tree)])
    monkeypatch.setattr(library, "_look", lambda place: pytest.fail(f"{place} was read again"))
    assert len(found([str(tree)])) == 6


def test_a_job_with_a_network_and_a_lora_by_their_names(tiny, tmp_path):
    (tmp_path / "models").mkdir()
    single(make_network(tmp_path / "aside/net", attends=(0,)), tmp_path / "models/one.safetensors")
    lora(tmp_path / "models/ink.safetensors", 32, TO_K.replace("down_blocks.1", "down_blocks.0"), 16)
    assert names(tmp_path / "models") == ["one.safetensors", "ink.safetensors"]
    models = ModelManager("cpu", torch.float32, paths=(), folders=[str(tmp_path / "models")])
    request = EditRequest(picture(1, (64, 64)), strength=0.5, steps=4, model="one")
    plain, inked = (done(models, library.replace(request, model=n)) for n in ("one", "one + ink:2"))
    assert plain.settings["model"] == "one" and plain.frames[0].tobytes() != inked.frames[0].tobytes()


def test_the_folder_comes_from_the_command_line_or_the_environment(tree, tmp_path):
    both = f"{tree / 'models'}{os.pathsep}{tree / 'loras'}"
    assert Settings.read(None, {"CHRYSALIS_MODELS": both}).folders == (str(tree / "models"), str(tree / "loras"))
    assert Settings().folders == ()
    for folder, why in ((tree / "none", "is not there"), (tree / "checkpoints/Photo.safetensors", "is a file")):
        with pytest.raises(EngineError, match=f"models must be a folder, got '{folder}', which {why}"):
            Settings(models=str(folder))


def test_the_command_line_knows_it(tree, tmp_path):
    def engine(*words, **env):
        command = [sys.executable, "-m", "engine", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | env)

    listed = engine("models", CHRYSALIS_MODELS=str(tree))
    assert "photo.safetensors · Stable Diffusion 1 · 0.1 MB · network" in listed.stdout, listed.stderr
    assert "ink.safetensors · Stable Diffusion 1 · 0.1 MB · LoRA" in listed.stdout
    picture(1, (64, 64)).save(tmp_path / "g.png")
    made = engine(
        "edit", "--models", tree, tmp_path / "g.png", "--model", "v1.5 own", "--strength", "0.2", "--steps", "2"
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.splitlines()[-1])["model"] == "v1.5 own"
