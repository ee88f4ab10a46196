"""A flora of the first generation beside one of the second: each runs as its own configuration says, and nothing that
was learnt of one is used with the other. Their shapes are equal, so nothing else would tell."""

import json
import shutil

import pytest
import torch
from conftest import done, picture
from PIL import Image
from safetensors.torch import load, save

from benchmarks.tiny import make_flora
from engine.checkpoints.manager import ModelManager
from engine.checkpoints.resolve import CATALOGUE, resolve
from engine.jobs.cache import Cache
from engine.requests import DrawRequest, EditRequest, EngineError, InterpolateRequest, MorphRequest

A, B = picture(1, (64, 64)), picture(2, (64, 64))
SMALL = {"frames": 3, "steps": 4, "size": 64}
LEARNT = {"lora_steps": 2, "lora_rank": 2, "lora_rate": 0.05, "reschedule": False}


@pytest.fixture(scope="module")
def floras(tmp_path_factory):
    return {n: make_flora(tmp_path_factory.mktemp("floras") / str(n), n, seed=n) for n in (1, 2)}


def layer(colour):
    sheet = Image.new("RGBA", (64, 64))
    sheet.paste(colour, (16, 16, 48, 32))
    return sheet


@pytest.mark.parametrize("generation", [1, 2])
def test_every_method_runs_on_it(floras, generation, models):
    model = {"model": str(floras[generation])}
    schedule, words = models.load(model["model"]).schedule, {"prompt": "a rose", "prompt_b": "a daisy"}
    assert schedule.prediction == ("epsilon", "v_prediction")[generation - 1]
    assert schedule.zero_terminal_snr == (generation == 2)
    assert round(schedule.sigmas(4)[0]) == (4096 if generation == 2 else 4)  # trailing, and leading from t = 751
    drawing = {"sketch": layer("black"), "strokes": layer("red"), **model}
    requests = (
        InterpolateRequest(A, B, picker="clip", candidates=2, **words, **SMALL, **model),
        InterpolateRequest(A, B, sampler="live", guidance=1.0, **SMALL, **model),
        MorphRequest((A, B), **SMALL, **LEARNT, **model),
        DrawRequest(steps=4, **drawing),
        DrawRequest(**DrawRequest.presets["live"], **drawing),
        DrawRequest(photo=A, steps=4, **drawing),
        EditRequest(A, steps=4, strength=0.5, size=64, **model),
    )
    for request in requests:
        found = done(models, request)
        assert found.evaluations and all(f.getextrema() != ((0, 0),) * 3 for f in found.frames)


def test_a_flora_is_known_by_its_configuration_wherever_it_lies(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text(json.dumps({"cross_attention_dim": 192, "in_channels": 12}))
    choice = resolve(str(tmp_path))
    assert choice.family == "flora" and choice.lora_rate == CATALOGUE["flora"].lora_rate
    (tmp_path / "unet/config.json").write_text(json.dumps({"cross_attention_dim": 768, "in_channels": 4}))
    assert resolve(str(tmp_path)).lora_rate == CATALOGUE["sd15"].lora_rate == 1e-3


def test_what_was_learnt_of_the_first_is_not_used_with_the_second_of_its_name(floras, tmp_path):
    """As when an update puts the second in the first one's place."""
    place, cache = tmp_path / "flora", Cache(tmp_path / "cache")
    request = MorphRequest((A, B), **SMALL, **LEARNT, model=str(place))

    def made(generation, keep=cache):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(floras[generation], place)
        return done(ModelManager("cpu", torch.float32), request, keep)

    first, again, second = made(1), made(1), made(2)
    assert again.evaluations < first.evaluations == second.evaluations
    assert second.frames[1].tobytes() == made(2, None).frames[1].tobytes() != first.frames[1].tobytes()
    kinds = [item.kind for item in cache.items()]
    assert all(kinds.count(kind) == 4 for kind in ("lora", "inversion", "features"))
    own = ModelManager("cpu", torch.float32).load(str(place)).fingerprint
    shutil.copytree(floras[1] / "scheduler", place / "scheduler", dirs_exist_ok=True)
    assert ModelManager("cpu", torch.float32).load(str(place)).fingerprint != own  # it is of the noise, too


def test_a_lora_of_one_is_refused_with_the_other_however_it_is_given(floras, tmp_path, models):
    first, second = (str(floras[n]) for n in (1, 2))
    files = [*done(models, MorphRequest((A, B), **SMALL, **LEARNT, model=first)).files.values()]
    (tmp_path / "rose.safetensors").write_bytes(files[0])
    done(models, MorphRequest((A, B), loras=tuple(files), **SMALL, **LEARNT, model=first))
    # Its base is the network below, whatever lies on that.
    more = f"{first} + {tmp_path}/rose.safetensors:0.5"
    done(models, MorphRequest((A, B), loras=(files[0],), **SMALL, **LEARNT, model=more))
    why = "must be fitted to 2 as it is here, got one fitted to 1 of other weights .*fit it again"
    with pytest.raises(EngineError, match=f"^LoRA of picture 2 {why}"):
        done(models, MorphRequest((A, B), loras=(b"", files[1]), **SMALL, **LEARNT, model=second))
    with pytest.raises(EngineError, match=f"^LoRA rose.safetensors {why}"):
        models.load(f"{second} + {tmp_path}/rose.safetensors")
    (tmp_path / "other.safetensors").write_bytes(save(load(files[0])))  # says nothing, as those of other tools
    assert models.load(f"{second} + {tmp_path}/other.safetensors")
