"""Words with weights and LoRAs among them: how they are read, what an encoder makes of them, what a job does."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import done, make_network, picture
from test_library import TO_K, lora

from engine.checkpoints.manager import ModelManager
from engine.checkpoints.resolve import resolve
from engine.context import Context
from engine.diffusion.words import FLAT, weigh
from engine.jobs.fetch import fetch
from engine.methods.interpolate import embed
from engine.requests import EditRequest, EngineError, InterpolateRequest, MorphRequest
from engine.requests.phrases import MOST, plain, spoken, weighted
from engine.requests.settings import Settings
from engine.vision import images

GUIDE = picture(1, (64, 64))
LESS = pytest.approx(1 / 1.1)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a (red rose:1.3) tall", [("a ", 1), ("red rose", 1.3), (" tall", 1)]),
        ("(red)", [("red", 1.1)]),
        ("((red))", [("red", 1.21)]),
        ("[less]", [("less", LESS)]),
        ("(a (b:1.5) c:2)", [("a ", 2), ("b", 3), (" c", 2)]),
        ("(a (b):1.3)", [("a ", 1.3), ("b", 1.43)]),
        ("[(a)] b", [("a b", 1)]),
        ("(red:1,3)", [("red", 1.3)]),  # as half of Europe writes it
        ("(red: .5 )", [("red", 0.5)]),
        ("(red:-1)", [("red", -1)]),
        (r"a \(red\) \[rose\] \\", [("a (red) [rose] \\", 1)]),
        (r"a\b \(:", [(r"a\b (:", 1)]),
        (r"(a\))", [("a)", 1.1)]),
        ("a :) b ;(", [("a :) b ;(", 1)]),
        ("((a)", [("(", 1), ("a", 1.1)]),
        ("(a [b) c]", [("a [b", 1.1), (" c]", 1)]),
        ("(born in:1984)", [("born in:1984", 1.1)]),
        ("(16:9:2)", [("16:9", 2)]),
        ("[a:0.5]", [("a:0.5", LESS)]),
        ("", []),
        ("()(:3)", []),
    ],
)
def test_brackets_weigh(text, parts):
    assert weighted(text) == parts and plain(text) == "".join(part for part, _ in parts)


def test_anything_can_be_read():
    """Of any string: parts of other weights than their neighbours', within bounds, of no letters that it has not; the
    same without brackets and backslashes."""
    draw = random.Random(7)
    letters = ["(", ")", "[", "]", "\\", ":", "1.3", ".", "−", "-2", "9" * 30, "a", "é ", "\n", "<lora:x>", "日", "\0"]
    for _ in range(3000):
        text = "".join(draw.choice(letters) for _ in range(draw.randrange(25)))
        parts = weighted(text)
        assert all(p and abs(w) <= MOST for p, w in parts) and all(a != b for (_, a), (_, b) in pairwise(parts))
        rest = iter(text)
        assert all(c in rest for c in plain(text)), text
        if not set(text) & set("()[]\\"):
            assert parts == ([(text, 1.0)] if text else [])
    assert weighted("(" * 9999 + "a" + ")" * 9999) == [("a", MOST)]
    assert weighted("[" * 9999 + "a") == [("[" * 9999 + "a", 1.0)]


def test_weights_scale_and_the_mean_comes_back():
    draw = torch.Generator().manual_seed(0)
    z, w = torch.randn(3, 5, 4, generator=draw) + 1, torch.ones(3, 5)
    w[0, 1:3], w[1, 2] = 1.3, -30.0
    z[2] -= z[2].mean()
    w[2, 1] = 0.5
    out = weigh(z, w)
    first = z[0] * w[0][:, None]
    assert torch.allclose(out[0], first * z[0].mean() / first.mean()) and torch.allclose(out[0].mean(), z[0].mean())
    assert torch.equal(out[1], z[1] * w[1][:, None])  # turned over: no factor brings that back
    assert torch.equal(out[2], z[2] * w[2][:, None]) and z[2].mean().abs() < FLAT  # there is no mean
    assert torch.equal(weigh(z, torch.ones(3, 5)), z)


@pytest.fixture(scope="module")
def networks(tiny, xl, tmp_path_factory):
    """A tiny one and SDXL's two encoders; and the tiny one whose tokens have a mean, as Stable Diffusion's."""
    models = ModelManager("cpu", torch.float32)
    meant = models.load(str(make_network(tmp_path_factory.mktemp("meant") / "net")))
    meant.resident.text_encoder.final_layer_norm.bias.data += 0.5
    return {"tiny": models.load(str(tiny)), "xl": models.load(str(xl)), "meant": meant}


@torch.no_grad()
@pytest.mark.parametrize("which", ["tiny", "xl", "meant"])
def test_every_network_weighs_its_own_tokens(networks, which):
    model = networks[which]
    old, new = model.embed(["a red o", "xy"]), model.embed(["a (red:1.5) o", "[xy]"])
    weights = torch.ones(2, model.max_tokens)  # (the tiny tokenizer has a token a letter)
    weights[0, 2:5], weights[1, 1:3] = 1.5, 1 / 1.1
    widths = [encoder.config.hidden_size for encoder in model.resident.texts]
    for z, own in zip(new.embeds.split(widths, 2), old.embeds.split(widths, 2), strict=True):
        expected = weigh(own, weights)
        assert torch.allclose(z, expected, atol=1e-5) and not torch.allclose(z, own, atol=1e-2)
    means = [t.embeds.mean((1, 2)) for t in (old, new)]
    assert which != "meant" or torch.allclose(*means)
    assert old.pooled is None or torch.equal(new.pooled, old.pooled)


@torch.no_grad()
@pytest.mark.parametrize("which", ["tiny", "xl"])
def test_a_weight_of_one_changes_no_bit_nor_does_company(networks, which):
    model, texts = networks[which], ["a red o", "xy", "a" * 40]
    old = model.embed(texts)
    one = model.embed(["a (red:1) o", "[(xy)]", "a" * 20 + "(" + "a" * 20 + ":1.0)"])
    assert all(torch.equal(a, b) for a, b in zip(old.tensors, one.tensors, strict=True))
    mixed = model.embed(["a red o", "(xy:2)", "a" * 40])
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(old.tensors, mixed.tensors, strict=True))
    assert not torch.equal(old.embeds[1], mixed.embeds[1])


@torch.no_grad()
def test_what_is_too_long_is_left_out_as_ever(networks):
    model = networks["tiny"]
    assert torch.equal(model.embed(["b" * 22 + " (c:2)"]).embeds, model.embed(["b" * 22 + " c"]).embeds)
    long = model.embed(["(" + "b" * 30 + ":2)"]).embeds
    assert long.shape == (1, 24, 32) and torch.allclose(long[:, 1:23], 2 * model.embed(["b" * 30]).embeds[:, 1:23])
    assert model.unread(["(" + "b" * 30 + ":2)"]) == model.unread(["b" * 30]) and model.unread(["(b:2)"]) == []


@torch.no_grad()
def test_an_empty_negative_in_brackets_is_still_an_empty_one(networks):
    words = networks["xl"].embed(["a"], ["", "()"])
    assert not words[1:].embeds.any() and not words[1:].pooled.any() and words[:1].embeds.any()


@pytest.mark.parametrize(
    "own", [{"prompt": "(a:3) b"}, {"negative": "(a:3) b"}, {"prompt": "a", "negative": "[[[[[b]]]]] c"}]
)
def test_jobs_weigh_words_and_what_is_not_wanted(models, tiny, own):
    request = EditRequest(GUIDE, strength=0.5, steps=4, model=str(tiny))
    weighed, bare = (
        done(models, replace(request, **{n: f(t) for n, t in own.items()})).frames[0] for f in (str, plain)
    )
    assert weighed.tobytes() != bare.tobytes()


def test_morph_weighs_a_pictures_own_words(models, tiny):
    ends = (GUIDE, picture(2, (64, 64)))
    request = MorphRequest(ends, frames=3, steps=4, lora="none", exact_ends=False, model=str(tiny), prompt="a")
    made = [done(models, replace(request, prompts=("", w))).frames for w in ("b", "(b:1)", "(b:4)")]
    same, other = ([a.tobytes() == b.tobytes() for a, b in zip(made[0], m, strict=True)] for m in made[1:])
    assert all(same) and not all(other)


def test_words_that_are_fitted_begin_with_their_weights(models, tiny):
    context = Context(models)
    list(context.load(str(tiny), ()))
    r = InterpolateRequest(GUIDE, picture(2, (64, 64)), invert_steps=1, invert_rate=1e-6, model=str(tiny))
    texts, ends = ["(a:3)", "b", ""], [GUIDE, r.b]
    steps = embed(context, r, [images.to_pictures(images.to_tensor([p]))[0] for p in ends], texts)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        fitted = end.value
    assert torch.allclose(fitted.embeds, context.model.embed(texts[:2], texts[2:]).embeds, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------- LoRAs


def test_loras_among_the_words_stand_behind_the_network():
    r = EditRequest(GUIDE, prompt="a <lora:ink:0.8> (rose:1.2)<LORA:smooth>", negative="<lyco:ink:0.8>x", model="sd15")
    own = spoken(r)
    assert (own.prompt, own.negative, own.model) == ("a (rose:1.2)", "x", "sd15 + ink:0.8 + smooth")
    m = MorphRequest((GUIDE, GUIDE), prompts=("<lora:ink:-1>", "a daisy"), prompt="a rose", model="sd15 + smooth:0.2")
    own = spoken(m)
    assert own.words() == ["a rose", "a daisy"] and own.model == "sd15 + smooth:0.2 + ink:-1"
    for text in ("a rose", "<lora:>", "<lora:ink", "< lora:ink>", "a < b > c <3"):
        assert spoken(r2 := replace(r, prompt=text, negative="")) is r2
    with pytest.raises(
        EngineError, match=r"^strength of ink must be the same in all the words of a job, got 1 and .5$"
    ):
        spoken(replace(r, prompt="<lora:/my/own/ink> <lora:/my/own/ink:.5>", negative=""))


def test_files_tell_the_words_as_they_were_written_but_no_folders():
    r = EditRequest(GUIDE, prompt="a <lora:/home/me/ink.safetensors:0.8> (b)", model="sd15")
    assert r.settings()["prompt"] == "a <lora:ink.safetensors:0.8> (b)"
    m = MorphRequest((GUIDE, GUIDE), prompts=("<lora:C:\\own\\ink:0.5>", "b"))
    assert m.settings()["prompts"] == ("<lora:ink:0.5>", "b")


def test_a_lora_among_the_words_is_one_beside_the_network(tiny, tmp_path):
    one = make_network(tmp_path / "one", attends=(0,))
    lora(tmp_path / "ink.safetensors", 32, TO_K.replace("down_blocks.1", "down_blocks.0"), 16)
    models = ModelManager("cpu", torch.float32, paths=(), folders=[str(tmp_path)])
    request = EditRequest(GUIDE, strength=0.5, steps=4, prompt="a", model=one.name)
    beside = done(models, replace(request, model="one + ink:2"))
    among = done(models, replace(request, prompt="a <lora:ink:2>"))
    none = [done(models, replace(request, prompt=f"a{end}")).frames[0] for end in ("", " <lora:ink:0>")]
    assert among.frames[0].tobytes() == beside.frames[0].tobytes() != none[0].tobytes()
    assert none[0].tobytes() == none[1].tobytes()  # a strength of 0 is none
    again = {n: among.settings[n] for n in ("prompt", "model", "seed", "steps", "strength")}
    assert again["prompt"] == "a <lora:ink:2>" and again["model"] == "one"
    assert done(models, EditRequest(GUIDE, **again)).frames[0].tobytes() == among.frames[0].tobytes()


def test_unknown_loras_are_told_what_there_is(tmp_path):
    for name in ("ink", "inca", "rose", "rosy", "tulip", "oil"):
        lora(tmp_path / f"{name}.safetensors")
    settings, few = Settings(models=str(tmp_path), paths=()), Settings(models=str(tmp_path))
    for text, own, why in (
        ("<lora:inkk:0.8>", settings, "got 'inkk'; did you mean ink.safetensors[?]$"),
        ("<lora:inkk:0.8>", few, "got 'inkk', which is not there; did you mean ink.safetensors[?]$"),
        ("<lora:inkk>", few, r"^LoRA must be one of lightning, smooth, ink.safetensors, .* … \(6 of your own\) or a"),
        ("<lora:zzz>", Settings(), "^LoRA must be one of lightning, smooth or a .* got 'zzz', which is not there$"),
        ("<lora:ink:9>", few, "strength of ink.safetensors must be a number from -4 to 4, got 9"),
        ("<lora:ink:0.8:0.6>", few, "got 'ink:0.8'"),
        ("<lora:sd15>", few, "which is a network"),
    ):
        with pytest.raises(EngineError, match=why):
            list(fetch(EditRequest(GUIDE, prompt=text, model="flora"), own))
    assert resolve("sd15 + rose:-0.5", (), (str(tmp_path),)).loras[-1][1] == -0.5
