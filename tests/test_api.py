"""The served studio through gradio_client: stable names, two visitors at once, errors as sentences, cancel."""

import threading
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, picture
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from engine.vision import video

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for i in (0, 1):
        picture(i, (96, 96)).save(folder / f"{i}.png")
    return handle_file(folder / "0.png"), handle_file(folder / "1.png")


def test_the_api_is_named_and_documented(studio):
    info = Client(studio, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert list(info) == ["/interpolate", "/morph", "/draw", "/edit", "/enlarge", "/film"]
    names = [p["parameter_name"] for p in info["/interpolate"]["parameters"]]
    assert names[:4] == ["a", "b", "prompt", "prompt_b"] and {
        "frames",
        "low",
        "high",
        "seed",
        "scheme",
        "model",
    } <= set(names)
    morph = [p["parameter_name"] for p in info["/morph"]["parameters"]]
    assert morph[:3] == ["pictures", "prompts", "loras"] and {"attention", "loop", "lora_steps"} <= set(morph)
    optional = [p["parameter_name"] for p in info["/interpolate"]["parameters"] if p["parameter_has_default"]]
    assert set(names) - set(optional) <= {"a", "b"}


def test_two_visitors_at_once_get_their_own_work(studio, pair, tiny):
    results = {}

    def visit(seed):
        client = Client(studio, verbose=False)
        film, pngs, report = client.predict(
            *pair, seed=seed, frames=5, steps=8, model=str(tiny), api_name="/interpolate"
        )
        results[seed] = (video.read_settings(film), video.read_settings(pngs), report)

    visits = [threading.Thread(target=visit, args=(seed,)) for seed in (11, 22)]
    for v in visits:
        v.start()
    for v in visits:
        v.join(300)
    for seed in (11, 22):
        film, pngs, report = results[seed]
        assert film["seed"] == pngs["seed"] == report["seed"] == seed and report["unet_evaluations"] > 0


def test_errors_are_sentences(studio, pair, tmp_path):
    client, drawings = Client(studio, verbose=False), ROOT / "assets/examples/drawings"
    (tmp_path / "notes.png").write_text("no picture")
    notes, sketch = handle_file(tmp_path / "notes.png"), handle_file(drawings / "own-daisy-sketch.png")
    for name, pictures, wrong, sentence in (
        ("interpolate", pair, {"frames": 4}, "Frames must be"),
        ("interpolate", pair, {"steps": 2}, "Steps must be a whole number from 4 to 500, got 2"),
        ("interpolate", pair, {"seed": 1.5}, "Seed must be a whole number"),
        ("interpolate", pair, {"low": 0.9}, "Low must not be above high"),
        ("interpolate", pair, {"fit": "squash"}, "Fit must be one of fit, crop, pad"),
        ("interpolate", pair, {"model": "nonsense"}, "Model must be one of flora"),
        ("interpolate", (notes, pair[1]), {}, r"Picture A .*must be a picture"),
        ("morph", [list(pair[:1])], {}, "Pictures must be 2 to 12, got 1"),
        ("morph", [list(pair)], {"attention": 3}, "Attention must be a number from 0 to 1"),
        ("morph", [list(pair)], {"loop": True, "frames": 2}, "Frames must be a whole number from 3 to 65"),
        ("draw", [sketch], {"realism": 2}, "Realism must be a number from 0 to 1, got 2"),
        ("draw", [], {}, "Sketch or strokes must hold something drawn, got nothing"),
        ("edit", pair[:1], {"strength": -1}, "Strength must be a number from 0 to 1"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(*pictures, **wrong, api_name=f"/{name}")


def test_cancel_frees_the_device_for_the_next(studio, pair, tiny):
    """The first job alone would take many minutes; the second has to be let in before its time is up."""
    client = Client(studio, verbose=False)
    endless = {"frames": 129, "steps": 500, "candidates": 16, "size": 512, "low": 0.9, "high": 1.0}
    long = client.submit(*pair, **endless, model=str(tiny), api_name="/interpolate")
    for update in long:
        if (update[2] or {}).get("progress"):
            break
    long.cancel()
    short = Client(studio, verbose=False).submit(
        *pair, frames=3, model=str(tiny), scheme="interpolate", api_name="/interpolate"
    )
    assert short.result(timeout=60)[2]["frames"] == 3


def test_morph(studio, pair, tiny):
    client = Client(studio, verbose=False)
    small = {"frames": 4, "steps": 5, "lora_steps": 2, "model": str(tiny), "seed": 9}
    film, pngs, report, loras = client.predict([*pair, pair[0]], prompts="a rose\na daisy", **small, api_name="/morph")
    assert video.read_settings(film)["method"] == "morph" and video.read_settings(pngs)["prompts"] == [
        "a rose",
        "a daisy",
    ]
    assert report["keyframes"] == 3 and report["quality"]["length"] > 0 and report["seed"] == 9
    with zipfile.ZipFile(loras) as z:
        assert z.namelist() == [f"lora-{i}.safetensors" for i in (1, 2, 3)]
        files = z.extract("lora-1.safetensors", Path(loras).parent)
    again = client.predict(list(pair), loras=[handle_file(files)], **small, api_name="/morph")
    assert again[2]["loras"][0]
    with zipfile.ZipFile(again[3]) as z:
        assert z.namelist() == ["lora-2.safetensors"]  # the first was brought along


def test_film(studio, tmp_path):
    """Frames that are there, as another film; what cannot be is a sentence."""
    client, settings = Client(studio, verbose=False), {"method": "interpolate", "seed": 4}
    video.save_zip([picture(i, (64, 48)) for i in range(5)], tmp_path / "m.zip", settings)
    frames = [handle_file(tmp_path / "m.zip")]
    film, report = client.predict(frames, duration=2, hold=0.5, format="gif", api_name="/film")
    assert video.read_settings(film)["seed"] == 4 and Image.open(film).n_frames == 5
    assert (report["seconds"], report["drawn"], report["format"], report["notes"]) == (2.0, 5, "gif", [])
    for wrong, sentence in (
        ({"duration": 600}, "Duration must be a number from 0 to 300, got 600"),
        ({"format": "avi"}, "Format must be one of mp4, webm, webp, gif, zip, got 'avi'"),
        ({"trim": "80,20"}, "Trim must be two percentages"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(frames, **wrong, api_name="/film")


def test_draw_and_edit(studio, pair, tiny):
    client, drawings = Client(studio, verbose=False), ROOT / "assets/examples/drawings"
    sketch, strokes = (handle_file(drawings / f"own-daisy-{n}.png") for n in ("sketch", "strokes"))
    pictures, report = client.predict(sketch=sketch, strokes=strokes, steps=4, count=2, seed=5, api_name="/draw")
    assert len(pictures) == 2 and report["seed"] == 5 and report["quality"]["lines"] < 0.2
    assert video.read_settings(pictures[1])["frame"] == 1
    pictures, report = client.predict(guide=pair[0], strength=0.4, steps=6, model=str(tiny), api_name="/edit")
    assert len(pictures) == 1 and report["method"] == "edit" and report["unet_evaluations"] > 0
