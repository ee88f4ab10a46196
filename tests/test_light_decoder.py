"""The light decoder beside a network: how it is loaded, what shows through it, and that nothing is computed twice."""

import logging
import re
from dataclasses import replace

import pytest
import torch
from conftest import done, make_network, picture
from diffusers import AutoencoderTiny, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.tiny import make_few_steps
from engine.checkpoints.manager import Memo, ModelManager
from engine.diffusion.residency import Resident
from engine.requests import DrawRequest, EngineError

FILE = "diffusion_pytorch_model.safetensors"


def make_light(folder, **own):
    torch.manual_seed(0)
    plain = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    AutoencoderTiny(**plain | own).to(torch.bfloat16).save_pretrained(folder / "light")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    folder = make_network(tmp_path_factory.mktemp("networks") / "seeing", extra=8)
    make_few_steps(UNet2DConditionModel.from_pretrained(folder / "unet"), folder)
    make_light(folder)
    return str(folder)


@pytest.fixture
def plain(tmp_path):
    return make_network(tmp_path / "plain")


def cut_off(folder):
    make_light(folder)
    file = folder / "light" / FILE
    file.write_bytes(file.read_bytes()[:-99])


def without_a_weight(folder):
    make_light(folder)
    own = load_file(folder / "light" / FILE)
    own.pop("decoder.layers.0.bias")
    save_file(own, folder / "light" / FILE)


def of_another_class(folder):
    make_light(folder)
    config = folder / "light" / "config.json"
    config.write_text(config.read_text().replace("AutoencoderTiny", "AutoencoderKL"))


def of_nothing_but_noise(folder):
    make_light(folder)
    own = load_file(folder / "light" / FILE)
    save_file(own | {"decoder.layers.0.bias": own["decoder.layers.0.bias"] * float("nan")}, folder / "light" / FILE)


def of_other_channels(folder):
    make_light(folder, latent_channels=16)


def of_another_size(folder):
    wide = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    make_light(folder, num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3, **wide)


BROKEN = {
    cut_off: "must be a whole safetensors file",
    without_a_weight: "must have all its weights, got none of decoder.layers.0.bias",
    of_another_class: "must be an AutoencoderTiny, got AutoencoderKL",
    of_nothing_but_noise: "must hold numbers up to 65504, got nan",
    of_other_channels: "got parts that cannot be read or do not belong together",
    of_another_size: "must make 8 × 8 pixels of a latent, got .8, 8. of 2 × 2",
}


def test_a_networks_own_is_loaded_on_a_processor_in_what_it_computes_in(seeing, tiny):
    own = ModelManager("cpu", torch.float32).load(seeing).resident
    assert isinstance(own.light, AutoencoderTiny) and not own.light.training
    assert {(p.dtype, p.requires_grad) for p in own.light.parameters()} == {(torch.float32, False)}
    assert own.light in own.modules()["unet"]  # which has a plan for its memory
    assert ModelManager("cpu", torch.float32).load(str(tiny)).resident.light is None


@pytest.mark.parametrize("broken", BROKEN, ids=lambda f: f.__name__)
def test_one_that_cannot_be_used_is_left_with_a_sentence(plain, caplog, broken):
    broken(plain)
    with caplog.at_level(logging.WARNING):
        model = ModelManager("cpu", torch.float32).load(str(plain))
    (said,) = [r.getMessage() for r in caplog.records if "decoder" in r.getMessage()]
    assert re.search(BROKEN[broken], said) and said.endswith("; the whole decoder shows everything")
    z = torch.randn(1, 4, 8, 8)
    assert model.resident.light is None and torch.equal(model.look(z), model.decode(z))


# ----------------------------------------------------------------------------------------------- in live drawing


def layer(*box, colour=(220, 40, 40, 255)):
    out = Image.new("RGBA", (64, 64))
    out.paste(colour, box)
    return out


@pytest.fixture
def ask(seeing):
    usual = {"sketch": layer(30, 8, 34, 56, colour=(0, 0, 0, 255)), "strokes": picture(0, (64, 64)).convert("RGBA")}
    live = DrawRequest.presets["live"] | {"model": seeing, "size": 64, "decoder": "light"}
    return lambda **own: DrawRequest(**usual | live | own)


@pytest.fixture
def asked(models, monkeypatch):
    """Rows of plain calls of a network by part, every call one number."""
    models.memo, calls, run = Memo(), [], Resident.run
    monkeypatch.setattr(
        Resident, "run", lambda own, part, *given: calls.append((part, len(given[0]))) or run(own, part, *given)
    )

    def asked(request):
        calls.clear()
        found, rows = done(models, request), {}
        for part, n in calls:
            rows.setdefault(part, []).append(n)
        return found, rows

    return asked


def test_live_shows_through_it_and_when_it_is_still_only_decodes_again(ask, asked, models):
    light, rows = asked(ask())
    assert rows == {"text 0": [2], "encode": [2, 1], "unet": [1, 1], "look": [1]}  # (and Φ, once)
    whole, rows = asked(ask(decoder="full"))
    assert rows == {"decode": [1]} and whole.evaluations == 0
    models.memo = Memo()
    anew, rows = asked(ask(decoder="full"))
    assert rows["unet"] == [1, 1] and anew.evaluations == 2
    assert anew.frames[0].tobytes() == whole.frames[0].tobytes() != light.frames[0].tobytes()


def test_what_did_not_change_is_not_computed_again(ask, asked):
    asked(ask())
    moved = picture(1, (64, 64)).convert("RGBA")
    assert asked(ask(strokes=moved))[1] == {"encode": [1], "unet": [1, 1], "look": [1]}
    both = ask(strokes=picture(2, (64, 64)).convert("RGBA"), sketch=layer(8, 8, 40, 12, colour=(0, 0, 0, 255)))
    assert asked(both)[1] == {"encode": [2], "unet": [1, 1], "look": [1]}
    assert asked(replace(both, realism=0.2))[1] == {"unet": [1, 1], "look": [1]}
    # Rows of guidance that weigh something: of what is not painted one more, and none of what is left out.
    assert asked(ask(strokes=layer(8, 8, 40, 40)))[1]["unet"] == [2, 2]
    assert asked(ask(stroke_scale=0.0))[1]["unet"] == asked(ask(sketch_scale=0.0))[1]["unet"] == [1, 1]
    assert asked(ask(sketch_scale=2.0))[1]["unet"] == [2, 2]


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 1}, {"prompt": "a rose"}, {"sketch": None}, {"count": 2}])
def test_another_drawing_is_drawn(ask, asked, change):
    asked(ask())
    assert "unet" in asked(ask(decoder="full", **change))[1]


def test_with_all_the_steps_nothing_is_kept_and_a_network_without_it_shows_through_the_whole(ask, asked, tmp_path):
    slow = ask(sampler="ddim", steps=2)
    assert asked(slow)[1]["unet"] == asked(replace(slow, decoder="full"))[1]["unet"]
    folder = make_network(tmp_path / "bare", extra=8)
    make_few_steps(UNet2DConditionModel.from_pretrained(folder / "unet"), folder)
    bare = ask(model=str(folder))
    found, rows = asked(bare)
    assert (
        rows["decode"] == [1]
        and found.frames[0].tobytes() == asked(replace(bare, decoder="full"))[0].frames[0].tobytes()
    )


def test_settings_say_it_where_it_is_not_the_usual_one(ask):
    assert ask().settings()["decoder"] == "light" and "decoder" not in ask(decoder="full").settings()
    with pytest.raises(EngineError, match="decoder must be one of full, light, got 'tiny'"):
        ask(decoder="tiny")
