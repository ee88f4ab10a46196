"""Parts that move, in both methods on a tiny network; what points may be, and what is said of them."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import done, picture
from pictures import block, distance

from engine.__main__ import parser, request_of
from engine.context import Context
from engine.jobs.plan import plan
from engine.methods import align
from engine.requests import EngineError, InterpolateRequest, MorphRequest, result, settle
from engine.requests import points as p
from engine.vision.images import digest

A, B, C = (picture(i) for i in range(3))
SOME = ((0.3, 0.3, 0.5, 0.4), (0.7, 0.6, 0.8, 0.7), (0.2, 0.8, 0.3, 0.7))


@pytest.fixture
def ask(tiny):
    small = {"model": str(tiny), "frames": 5, "steps": 6, "size": 64}

    def ask(method, *pictures, **own):
        if method == "interpolate":
            return InterpolateRequest(A, B, **small | own)
        return MorphRequest(pictures or (A, B), **small | {"lora": "none", "reschedule": False} | own)

    return ask


def far(a, b):
    return max(distance(block([x]), block([y])) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("method", ["interpolate", "morph"])
def test_what_stays_changes_nothing_to_the_bit(models, ask, method):
    """Points that stay where they are, none at all, or align off beside points that move."""
    plain = done(models, ask(method))
    stay = tuple((x, y, x, y) for x, y, *_ in SOME)
    for own in ({"points": (stay,)}, {"points": ()}, {"points": (SOME,), "align": "off"}):
        assert far(done(models, ask(method, **{"align": "points"} | own)).frames, plain.frames) == 0


@pytest.mark.parametrize("method", ["interpolate", "morph"])
def test_parts_move_on_the_way_and_the_ends_stay(models, ask, method):
    plain = done(models, ask(method)).frames
    for how in ("points", "automatic"):
        made = done(models, ask(method, align=how, points=(SOME,))).frames
        assert far([made[0], made[-1]], [plain[0], plain[-1]]) == 0
        assert far(made[1:-1], plain[1:-1]) > 1


def test_the_aligned_middle_of_a_shifted_copy_equals_the_shifted_half(models, ask, monkeypatch):
    """Without diffusion, in latents: moved by 4 cells of 8, the middle is the first moved by 2."""
    r = ask("interpolate", scheme="interpolate", frames=3, align="points", points=((((0.25, 0.5, 0.75, 0.5)),),))
    context = Context(models, None)
    result(context.load(r.model, ()))
    z = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    both = torch.cat([z[..., 4:12], z[..., :8]])  # the second's parts are four cells to the right
    found = result(align.find(context, r, (A.resize((64, 64)), B.resize((64, 64))), [(0, 1)], both, both))
    middle = [found.bring(both[i : i + 1], 0, stands, 0.5) for i, stands in ((0, 0.0), (1, 1.0))]
    want = z[..., 2:10]
    assert torch.allclose(middle[0][..., 2:], want[..., 2:], atol=1e-5)
    assert torch.allclose(middle[1][..., :-2], want[..., :-2], atol=1e-5)


def test_the_way_has_no_jump_in_the_middle(ask):
    size = (8, 8)
    own = align.Alignment(size, [align.warp.of_points(torch.tensor(SOME), size)])
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    near = [own.bring(z, 0, 0.0, u) for u in (0.499, 0.5, 0.501, 0.6)]
    steps = [(a - b).abs().max() for a, b in pairwise(near)]
    assert max(steps[:2]) < 0.1 * steps[2] < 1


def test_every_joint_has_points_of_its_own_and_a_loop_one_more(models, ask):
    r = ask("morph", A, B, C, loop=True, align="points", points=((), (), SOME))
    made, plain = done(models, r), done(models, replace(r, points=()))
    assert far(made.frames[:9], plain.frames[:9]) < 1e-9 < far(made.frames[9:], plain.frames[9:])
    assert [n for n in made.notes if "picture 3 to 1" in n] == [] and len(made.notes) == 2
    with pytest.raises(EngineError, match="at most 2 ways"):
        replace(r, loop=False)


def test_points_of_given_pictures_become_points_of_the_frame():
    """As pictures are fitted: cropped at the centre, or padded; what is cut away is left out."""
    wide = picture(0, (200, 100))
    crop = align.in_frame([(0.5, 0.5, 0.25, 0.0), (0.1, 0.5, 0.5, 0.5)], wide, wide, (64, 64), "crop")
    assert torch.allclose(crop, torch.tensor([[0.5, 0.5, 0.0, 0.0]]).double())
    pad = align.in_frame([(0.0, 0.0, 1.0, 1.0)], wide, wide, (64, 64), "pad")
    assert torch.allclose(pad, torch.tensor([[0.0, 0.25, 1.0, 0.75]]).double())


def test_what_of_the_points_is_not_followed_is_said(models, ask):
    one = done(models, ask("interpolate", align="points", points=((SOME[0],),)))
    assert one.notes == ("the one point from picture 1 to 2 moves the picture as a whole",)
    none = done(models, ask("interpolate", align="points"))
    assert none.notes == ("from picture 1 to 2 there are no points, so nothing moves there",)
    off = done(models, ask("interpolate", points=(SOME,)))
    assert off.notes == ("the points move nothing while Move parts (align) is off",)
    cut = ask("interpolate", align="points", points=(((0.01, 0.5, 0.5, 0.5), *SOME),), fit="crop")
    assert done(models, cut).notes == ("1 of 4 points from picture 1 to 2 lie in what the frame leaves out",)


def test_points_come_back_from_settings_text_and_files(ask):
    r = ask("interpolate", points=[[list(q) for q in SOME]])
    assert r.points == (SOME,) == ask("interpolate", points=SOME).points
    kept = json.loads(json.dumps(r.settings()))["points"]
    assert settle(InterpolateRequest, {"points": kept})["points"] and ask("interpolate", points=kept).points == (SOME,)
    assert ask("interpolate", points=tuple(json.dumps(kept).splitlines())).points == (SOME,)
    text = json.dumps({"points": kept, "pictures": [digest(A), digest(B)]})
    assert p.read(text, [digest(A), digest(B)]) == (SOME,)
    with pytest.raises(EngineError, match="picture 2 is another one"):
        p.read(text, [digest(A), digest(C)])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([(0.5, 0.5, 1.2, 0.5)], "from 0 to 1, got 0.5, 0.5, 1.2, 0.5 as point 1 of the way from picture 1 to 2"),
        ([(0.5, float("nan"), 0.2, 0.5)], "from 0 to 1"),
        ([(0.5, 0.5, 0.2)], "four numbers"),
        ([[(0.5, "0.5", 0.2, 0.1)]], "four numbers"),
        ([(0.2, 0.5, 0.8, 0.5), (0.8, 0.5, 0.2, 0.5)], "points 1 and 2 of the way from picture 1 to 2 must not cross"),
        ([(0.2, 0.2, 0.3, 0.3), (0.1, 0.5, 0.5, 0.5), (0.6, 0.5, 0.5, 0.5)], "points 2 and 3 .* lie apart"),
        ([SOME, SOME], "at most 1 ways"),
        ([[(0.5, 0.5, 0.5, 0.5)] * 101], "at most 100"),
        (7, "a list a joint"),
        ([7], "a list a joint"),
        ("{", "must be JSON"),
        ('{"dots": []}', "one without"),
    ],
)
def test_a_sentence_refuses_what_points_cannot_be(ask, value, said):
    with pytest.raises(EngineError, match=said):
        ask("interpolate", points=value)


def test_tables_other_rows_do_not_move(ask):
    with pytest.raises(EngineError, match="align must be off for the scheme did, got 'points'"):
        ask("interpolate", scheme="did", align="points")


def test_the_looking_is_part_of_the_cost(ask):
    for method, looked in (("interpolate", 16), ("morph", 16)):
        for own in ({}, {"guidance": 1.0} if method == "interpolate" else {}):
            a, b = (plan(ask(method, **own, align=how)) for how in ("automatic", "points"))
            assert a.steps * a.rows - b.steps * b.rows == looked


def test_the_command_line_reads_a_file_of_points(tmp_path):
    """Which are followed unless it says otherwise, and refused on other pictures."""
    for name, q in (("a", A), ("b", B), ("c", C)):
        q.save(tmp_path / f"{name}.png")
    file = tmp_path / "points.json"
    file.write_text(json.dumps({"points": [SOME], "pictures": [digest(A), digest(B)]}), encoding="utf8")

    def read(verb, second, *more):
        pair = [str(tmp_path / f"{n}.png") for n in ("a", second)]
        return request_of(parser().parse_args([verb, *pair, "--points", str(file), *more]))

    for verb in ("interpolate", "morph"):
        assert (read(verb, "b").align, read(verb, "b").points) == ("points", (SOME,))
        assert read(verb, "b", "--align", "automatic").align == "automatic"
        with pytest.raises(EngineError, match="picture 2 is another one"):
            read(verb, "c")
    file.unlink()
    with pytest.raises(EngineError, match="points must be a file, got"):
        read("morph", "b")
