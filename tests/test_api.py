"""The served studio through gradio_client: stable names, two visitors at once, errors as sentences, cancel."""

import threading
import time

import pytest
from conftest import picture
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from engine import video

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for i in (0, 1):
        picture(i, (96, 96)).save(folder / f"{i}.png")
    return handle_file(folder / "0.png"), handle_file(folder / "1.png")


def test_the_api_is_named_and_documented(studio):
    info = Client(studio, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert list(info) == ["/interpolate"]
    names = [p["parameter_name"] for p in info["/interpolate"]["parameters"]]
    assert names[:4] == ["a", "b", "prompt", "prompt_b"] and {
        "frames",
        "low",
        "high",
        "seed",
        "scheme",
        "model",
    } <= set(names)
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


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"frames": 4}, "Value: 4 is not in the list of choices"),
        ({"steps": 2}, "less than minimum value 4|Steps must be"),
        ({"low": 0.9}, "Low must not be above high"),
        ({"model": "nonsense"}, "Model must be one of flora"),
    ],
)
def test_errors_are_sentences(studio, pair, wrong, sentence):
    with pytest.raises((AppError, ValueError), match=sentence):
        Client(studio, verbose=False).predict(*pair, **wrong, api_name="/interpolate")


def test_a_text_file_named_png_is_refused_in_a_sentence(studio, pair, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(AppError, match=r"Picture A .*must be a picture"):
        Client(studio, verbose=False).predict(handle_file(tmp_path / "notes.png"), pair[1], api_name="/interpolate")


def test_cancel_frees_the_device_for_the_next(studio, pair, tiny):
    client = Client(studio, verbose=False)
    long = client.submit(*pair, frames=33, steps=250, model=str(tiny), api_name="/interpolate")
    for update in long:
        if update[2] and "progress" in (update[2] or {}):
            break
    begun = time.monotonic()
    long.cancel()
    _, _, report = Client(studio, verbose=False).predict(
        *pair, frames=3, steps=4, model=str(tiny), scheme="interpolate", api_name="/interpolate"
    )
    assert report["frames"] == 3
    assert time.monotonic() - begun < 60  # the long one alone would take far longer
