"""Interpolate through more than two pictures: ways one by one, remembered one by one, refusals as sentences."""

from dataclasses import replace

import pytest
from conftest import done, events, picture
from pictures import block

from engine.__main__ import parser, request_of
from engine.checkpoints.manager import Memo
from engine.jobs.plan import plan
from engine.requests import EngineError, Frame, InterpolateRequest, settle

A, B, C, D = (picture(i) for i in range(4))


@pytest.fixture
def ask(tiny):
    small = {"a": A, "b": B, "model": str(tiny), "frames": 5, "steps": 8, "size": 64}
    return lambda **own: InterpolateRequest(**small | own)


def test_a_way_of_several_is_each_way_by_itself(models, ask):
    models.memo = Memo()
    said = events(models, ask(more=(C,), prompts=("a", "b", "c"), seeds=(3, 4), reseeds=((5, 9),)))
    frames = {e.index: e.picture for e in said if isinstance(e, Frame)}
    assert list(frames)[:3] == [0, 4, 8] and sorted(frames) == list(range(9))
    assert block([frames[i] for i in range(9)]).tobytes() == block(said[-1].frames).tobytes()
    models.memo = Memo()
    one = done(models, ask(prompt="a", prompt_b="b", seed=3)).frames
    two = done(models, ask(a=B, b=C, prompt="b", prompt_b="c", seed=4, reseeds=((1, 9),))).frames
    assert block(said[-1].frames).tobytes() == block((*one, *two[1:])).tobytes()
    settings = said[-1].settings
    assert settings["keyframes"] == 3 and settings["seeds"] == (3, 4) and settings["reseeds"] == ((5, 9),)
    assert "keyframes" not in done(models, ask(scheme="interpolate")).settings


def test_only_the_way_with_another_seed_is_made_again(models, ask):
    models.memo = Memo()
    first = done(models, ask(more=(C, D)))
    again = done(models, ask(more=(C, D), seeds=(0, 99)))
    changed = [i for i in range(13) if first.frames[i].tobytes() != again.frames[i].tobytes()]
    assert changed == [5, 6, 7] and again.evaluations == first.evaluations // 3
    assert done(models, ask()).evaluations == 0  # and the first way is the same as between its two pictures alone


def test_the_work_is_counted_a_way_at_a_time(models, ask):
    two, four = ask(), ask(more=(C, D))
    assert plan(four).steps == 3 * plan(two).steps and plan(four).pictures == 3 * plan(two).pictures
    assert four.total == 13 and four.words() == ["", "", "", ""]


def test_what_ways_share_and_what_they_have_of_their_own(ask):
    r = ask(
        more=(C,),
        prompt="x",
        prompt_b="y",
        prompts=("", "", "z"),
        seed=5,
        seeds=(7,),
        points=((), ((0.1, 0.2, 0.3, 0.4),)),
    )
    one, two = replace(r, align="points").ways()
    assert (one.a, one.b, two.a, two.b) == (A, B, B, C) and one.more == two.more == ()
    assert (one.prompt, one.prompt_b, two.prompt, two.prompt_b) == ("x", "y", "y", "z")
    assert (one.seed, two.seed) == (7, 5) and one.points == ((),) and two.points == (((0.1, 0.2, 0.3, 0.4),),)
    assert two.align == "points" and two.total == 5


@pytest.mark.parametrize(
    "own, sentence",
    [
        ({"more": (C,) * 11}, "more must be 0 to 10, got 11"),
        ({"more": (C,), "pose": "dwpose"}, "pose must be off for more than two pictures, got 'dwpose'"),
        ({"seeds": (1, 2)}, "seeds must be at most 1, one a way from picture to picture, got 2"),
        ({"seeds": ("x",)}, "seeds must be whole numbers from 0 to 4294967295, got x"),
        ({"seeds": (1.5,)}, "seeds must be whole numbers"),
        ({"seeds": (float("nan"),)}, "seeds must be whole numbers"),
        ({"seeds": (-1,)}, "seeds must be whole numbers"),
        ({"prompts": ("a", "b", "c")}, "prompts must be at most 2 texts, one a picture, got 3"),
        ({"more": (C,), "picks": ((4, 0),)}, "picks must be pairs of an inner frame"),
        ({"more": (C,), "reseeds": ((8, 0),)}, "reseeds must be pairs of an inner frame"),
        ({"more": (C,) * 4, "frames": 129}, "frames must be at most 600 in all, got 641 of 5 ways"),
        ({"more": (C,), "points": ((), (), ())}, "points must be for at most 2 ways"),
        ({"more": (C,), "points": ((), ((0.1, 0.2, 0.3, 4),))}, "of the way from picture 2 to 3"),
    ],
)
def test_refusals(ask, own, sentence):
    with pytest.raises(EngineError, match=sentence.replace("(", r"\(")):
        ask(**own)


def test_seeds_from_a_page_and_from_a_file():
    assert InterpolateRequest(A, B, more=(C,), **settle(InterpolateRequest, {"seeds": "3\n4.0"})).seeds == (3, 4)
    assert InterpolateRequest(A, B, more=(C,), **settle(InterpolateRequest, {"seeds": [3.0]})).seeds == (3,)


def test_the_command_line_takes_pictures_in_a_row(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    r = request_of(parser().parse_args(["interpolate", *paths, "--seeds", "1", "2", "3", "--prompts", "a", "b"]))
    assert len(r.more) == 2 and r.seeds == (1, 2, 3) and r.words() == ["a", "b", "", ""] and r.total == 25
    assert request_of(parser().parse_args(["interpolate", *paths[:2], "--seed", "1"])).more == ()
    (tmp_path / "bad.png").write_text("none")
    with pytest.raises(EngineError, match="picture 3 must be a picture"):
        request_of(parser().parse_args(["interpolate", *paths[:2], str(tmp_path / "bad.png")]))
