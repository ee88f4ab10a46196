"""What every request may hold: one declaration a field, and what is made of it."""

import math
import pickle
import re
from argparse import ArgumentParser
from pathlib import Path

import pytest
from conftest import ROOT, picture
from PIL import Image

from engine.requests import (
    METHODS,
    DrawRequest,
    EditRequest,
    EngineError,
    InterpolateRequest,
    MorphRequest,
    PoseRequest,
    fields_of,
    make,
    number,
    pictures_of,
    settle,
)
from engine.requests.finish import Finish
from engine.requests.plainly import plainly
from engine.requests.settings import Settings, document, options

A, B = picture(0), picture(1)
LINES = Image.new("RGBA", (64, 64), "black")
GIVEN = {
    "interpolate": {"a": A, "b": B},
    "morph": {"pictures": (A, B)},
    "draw": {"sketch": LINES},
    "edit": {"guide": A},
    "enlarge": {"pictures": (A,)},
    "pose": {"pictures": (A,)},
}


def wrong_values():
    """For every field of every method something that it may not hold."""
    for method, request in METHODS.items():
        for f in fields_of(request).values():
            if f.spec.choices:
                values = ["nonsense", None]
            elif f.type in (int, float):
                values = [f.spec.low - 1, f.spec.high + 1, math.nan, math.inf, None, "much", True, 10**400]
                values += [f.spec.low + 0.5, float(f.spec.low)] if f.type is int else []
            elif f.type is not tuple:
                values = [None, 3]
            else:
                values = [(3,) * 13] if f.name in ("prompts", "loras") else [((0, 1),), ((9, 1),)]
            yield from ((method, f.name, v) for v in values)


@pytest.mark.parametrize(("method", "name", "value"), wrong_values())
def test_refusals_name_the_field_what_was_expected_and_what_came(method, name, value):
    with pytest.raises(EngineError) as error:
        METHODS[method](**GIVEN[method] | {name: value})
    assert str(error.value).startswith(name) and "must" in str(error.value) and "got" in str(error.value)


def test_every_field_is_said_to_be_something_and_every_preset_is_a_request():
    for method, request in METHODS.items():
        made = request(**GIVEN[method])
        left_out = {"decoder"}  # where it is the usual one
        assert set(made.settings()) - {"keyframes"} == {"method", *fields_of(request)} - left_out
        assert made.method == method
        for f in (fields_of(request) | pictures_of(request)).values():
            assert f.spec.help and (f.spec.label or f.spec.group == "hidden" or f.spec.layer), f.name
        for values in request.presets.values():
            request(**GIVEN[method] | values)
        assert not request.presets or request.preset in request.presets


JARGON = re.compile("DDIM|DDPM|CFG|CLIP|LPIPS|DIFT|AdaIN|LoRA|latent|denois|lerp|diffusion|inversion|ControlNet|[ληβ]")


def test_what_artists_read_has_no_terms_of_the_method():
    """They are in `Spec.term`, which the page has in tooltips. Files are called LoRAs everywhere."""
    for request in (*METHODS.values(), Finish):
        for f in fields_of(request).values():
            read = [f.spec.label, f.spec.help, *(str(label) for label, _ in f.spec.labels)]
            words = " ".join(read).replace("Stable Diffusion", "")
            found = JARGON.findall(words) if f.name not in ("model", "loras") else []
            assert not found or f.spec.group == "hidden", (f.name, found)
            assert all(part in f.spec.about for part in (f.spec.label, f.spec.help, f.spec.term))


@pytest.mark.parametrize(
    ("given", "name", "page"),
    [
        (
            {"low": 0.7, "high": 0.3},
            "low must not be above high",
            "“Wander at least” must not be above “Wander at most”",
        ),
        ({"guidance": 30}, "guidance must be a number", "“Follow the words” must be a number from 0 to 20, got 30."),
        ({"steps": 1}, "steps must be a whole number", "Steps must be a whole number from 4 to 500, got 1."),
        ({"scheme": "did", "sampler": "live"}, "sampler must be ddim for the scheme did, got 'live'", "got “quick”."),
        ({"scheme": "`x`"}, "scheme must be one of", "“Way of mixing” must be one of"),
    ],
)
def test_a_page_calls_fields_as_it_shows_them(given, name, page):
    with pytest.raises(EngineError) as error:
        InterpolateRequest(A, B, **given)
    again = pickle.loads(pickle.dumps(error.value))  # as it comes from another process
    assert name in str(again) and page in plainly(again) and "`" not in str(again) + plainly(again)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: InterpolateRequest(A, None), "picture B must be a picture, got nothing"),
        (lambda: InterpolateRequest(A, B, low=0.7, high=0.3), "low must not be above high, got low 0.7 and high 0.3"),
        (
            lambda: InterpolateRequest(A, B, scheme="did", sampler="live"),
            "sampler must be ddim for the scheme did, got 'live'",
        ),
        (lambda: InterpolateRequest(A, B, pose="given"), "pose_a or pose_b must hold keypoints for the pose given"),
        (lambda: InterpolateRequest(A, B, frames=4), "frames must be one of 3, 5, 9, 17, 33, 65, 129, got 4"),
        (lambda: MorphRequest((A,)), "pictures must be 2 to 12, got 1"),
        (lambda: MorphRequest((A, None)), "picture 2 must be a picture, got nothing"),
        (lambda: PoseRequest(()), "pictures must be 1 to 2, got none"),
        (lambda: DrawRequest(LINES, mask=Image.new("L", (64, 64), 9)), "mask must come with a photo"),
        (lambda: DrawRequest(A), "sketch must be a picture of mode RGBA, got RGB"),
        (lambda: DrawRequest(LINES, Image.new("RGBA", (64, 32), "red")), "strokes must have the proportions of sketch"),
        (lambda: EditRequest(None), "guide must be a picture, got nothing"),
        (lambda: EditRequest(Image.new("RGBA", (8, 8))), "guide must hold something painted, got an empty layer"),
        (lambda: EditRequest(A, mask=Image.new("L", A.size)), "mask must cover something, got nothing"),
    ],
)
def test_sentences(make, sentence):
    with pytest.raises(EngineError) as error:
        make()
    assert str(error.value).startswith(sentence)


def test_requests_travel():
    request = InterpolateRequest(A, B, prompt="a rose", picks=((4, 1),))
    again = pickle.loads(pickle.dumps(request))
    assert again.settings() == request.settings() and again.a.tobytes() == A.tobytes()


def test_loose_values_are_settled():
    settled = settle(InterpolateRequest, {"a": A, "steps": 30.0, "low": 1, "seed": None, "picks": [[1, 2]]})
    assert settled["steps"] == 30 and type(settled["steps"]) is int and settled["picks"] == ((1, 2),)
    assert 0 <= settled["seed"] < 2**32 and settled["a"] is A
    assert settle(MorphRequest, {"prompts": "a rose\na daisy", "loras": None, "seed": 3}) == {
        "prompts": ("a rose", "a daisy"),
        "loras": (),
        "seed": 3,
    }
    assert settle(InterpolateRequest, {"steps": 9.5, "frames": None})["steps"] == 9.5  # the request refuses it
    for seed in (None, "", -1, -1.0, "-1"):
        assert 0 <= settle(EditRequest, {"seed": seed})["seed"] < 2**32
    assert settle(EditRequest, {"steps": "50", "strength": "0,7", "seed": "7e3"}) == {
        "steps": 50,
        "strength": 0.7,
        "seed": 7000,
    }
    with pytest.raises(EngineError, match="settings must be fields of edit, got speed"):
        settle(EditRequest, {"speed": 3})


def test_numbers_as_people_write_them():
    for text, value in {"7": 7, " 7.5 ": 7.5, "0,7": 0.7, ",5": 0.5, "7e3": 7000.0, "-1": -1, "0,125": 0.125}.items():
        assert number(text) == value and type(number(text)) is type(value)
    for text, value in {"−1": -1, "+7": 7, "7.": 7.0, "1E3": 1000.0, "٣": 3, "0,700": 0.7, "1.000": 1.0}.items():
        assert number(text) == value
    for text in (
        "much",
        "1,000",
        "-12,500",
        "1,2,3",
        "1.000,5",
        "1,000.5",
        "1_000",
        "1 000",
        "1'000",
        "7e",
        "-",
        ".",
        "",
    ):
        assert number(text) == text
    for text in ("nan", "inf", "0x10", "1e", "7 8", "9" * 5000):
        assert number(text) == text
    assert number("1.000", whole=True) == "1.000" and number("10.0", whole=True) == 10
    with pytest.raises(EngineError, match=r"seed must be a whole number from 0 to 4294967295, got 7\.5$"):
        EditRequest(A, **settle(EditRequest, {"seed": "7.5"}))
    for text in ("1,000", "1.000", "1_000"):
        with pytest.raises(EngineError, match=f"steps must be a whole number from 2 to 1000, got {text}$"):
            EditRequest(A, **settle(EditRequest, {"steps": text}))


def test_half_characters_are_refused():
    """As ``$'a \\xff rose'`` gives them on the command line, and JSON with half a pair."""
    for make_it in (
        lambda: InterpolateRequest(A, B, prompt="a \udcff rose"),
        lambda: MorphRequest((A, B), prompts=("", "\ud83c rose")),
        lambda: EditRequest(A, negative="a\0b"),
    ):
        with pytest.raises(EngineError, match=r"^(prompt|prompts|negative) must be text in UTF-8, got ") as e:
            make_it()
        str(e.value).encode()


def test_what_is_asked_for_counts_more_than_a_preset():
    presets = InterpolateRequest.presets
    did = make(InterpolateRequest, presets["instant"], {"a": A, "b": B, "scheme": "did", "seed": 3})
    assert (did.sampler, did.guidance, did.scheme) == ("ddim", 1.0, "did")
    mixed = make(InterpolateRequest, presets["instant"], {"a": A, "b": B, "scheme": "interpolate"})
    assert mixed.wants == () and mixed.sampler == "live"  # which it does not use
    paper = make(MorphRequest, MorphRequest.presets["paper"], {"pictures": (A, B), "loras": (b"x",)})
    assert paper.form == "sum" and paper.steps == 50
    with pytest.raises(EngineError, match="sampler must be ddim for the scheme did"):
        make(InterpolateRequest, {}, {"a": A, "b": B, "scheme": "did", "sampler": "live"})


def read(words, environ):
    parser = ArgumentParser()
    options(parser, [f for n, f in fields_of(Settings).items() if n not in ("paths", "cache", "cache_gb")])
    return Settings.read(parser.parse_args(words), environ)


def test_settings_come_from_the_command_line_and_else_from_the_environment():
    assert read([], {}) == Settings.read(None, {}) == Settings()
    environ = {
        "PORT": "81",
        "CHRYSALIS_MODEL": "sd15",
        "CHRYSALIS_MEMORY_GB": "6",
        "CHRYSALIS_CACHE": "/c",
        "CHRYSALIS_CACHE_GB": "0.5",
        "GRADIO_SERVER_NAME": "::1",
    }
    settings = read(["--port", "82", "--memory", "0"], environ)
    assert settings == Settings("::1", 82, "auto", "sd15", 0.0, 1, "", None, Path("/c"), 0.5)


def test_a_page_for_others_names_no_files_but_in_the_folders_that_are_listed():
    assert read([], {"HOST": "0.0.0.0"}).paths == () == read([], {"SPACE_ID": "x"}).paths
    assert read(["--host", "0.0.0.0"], {"CHRYSALIS_PATHS": "/a:/b"}).paths == ("/a", "/b")
    assert read([], {"CHRYSALIS_PATHS": ""}).paths == ()
    assert Settings.read(None, {"HOST": "0.0.0.0"}).paths is None  # the command line is nobody's page


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"PORT": "x"}, "PORT must be a number, got 'x'"),
        ({"PORT": "7_860"}, "PORT must be a number, got '7_860'"),
        ({"PORT": "7.860"}, "PORT must be a number, got '7.860'"),
        ({"CHRYSALIS_MEMORY_GB": "-1"}, "memory must be a number of at least 0, got -1"),
        ({"CHRYSALIS_CACHE_GB": "plenty"}, "CHRYSALIS_CACHE_GB must be a number, got 'plenty'"),
    ],
)
def test_settings_that_cannot_be(environ, sentence):
    with pytest.raises(EngineError, match=sentence):
        Settings.read(None, environ)


def test_the_document_of_the_settings_is_made_of_these_declarations():
    made = document([*METHODS.values(), Finish, Settings]) + "\n"
    assert (ROOT / "docs/settings.md").read_text() == made, "python -m engine settings > docs/settings.md"
