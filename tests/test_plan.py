"""What a request is said to cost is what its method does, step by step."""

from dataclasses import replace

import pytest
from conftest import done, make_network, picture
from PIL import Image

from engine.diffusion.model import LatentDiffusion
from engine.jobs.plan import DECODE, FIT, plan, total
from engine.jobs.run import Bar
from engine.requests import Cost, DrawRequest, EditRequest, InterpolateRequest, LoadRequest, MorphRequest

A, B = picture(0, (64, 64)), picture(1, (64, 64))
LAYER = Image.new("RGBA", (64, 64), "teal")
LAYER.paste((0, 0, 0, 0), (0, 0, 32, 64))  # drawn in one half
WAY = InterpolateRequest(A, B, frames=5, steps=8, size=64)
MORPH = MorphRequest((A, B), frames=4, steps=6, lora_steps=3, lora_patience=0.0, size=64)
EDITED = EditRequest(A, steps=8, size=64)
DRAWN = DrawRequest(LAYER, LAYER, steps=3, size=64)
REQUESTS = [
    WAY,
    replace(WAY, guidance=1.0, low=0.2, high=0.9, schedule="convex", frames=9),
    replace(WAY, candidates=5, frames=9),
    replace(WAY, invert_steps=2),
    *(replace(WAY, scheme=s, frames=9) for s in ("did", "did-independent", "interpolate-denoise", "interpolate")),
    MORPH,
    replace(MORPH, pictures=(A, B, A.copy()), loop=True, lora="none", exact_ends=True),
    replace(MORPH, steps=12, frames=3, reschedule=False, lora_draws=1),
    EDITED,
    replace(EDITED, count=2, repeats=3, strength=0.3, prompt="a rose"),
    replace(EDITED, strength=0.0),
    replace(EDITED, prompt="a rose", guidance=1.0),
    DRAWN,
    replace(DRAWN, strokes=None, prompt="a rose", count=2),
    replace(DRAWN, sketch=None, combine="sum"),
    replace(DRAWN, photo=A),
    replace(DRAWN, sheet="sketch-stroke", prompt="a rose"),
]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A network that sees drawings beside the noise."""
    return make_network(tmp_path_factory.mktemp("networks") / "seeing", extra=8)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__.removesuffix("Request").lower())
def test_a_plan_is_what_the_method_does(tiny, seeing, models, monkeypatch, request_):
    model = str(seeing if isinstance(request_, DrawRequest) else tiny)
    cost, decoded, decode = plan(request_), 0, LatentDiffusion.decode

    def counted(self, z):
        nonlocal decoded
        decoded += len(z)
        return decode(self, z)

    monkeypatch.setattr(LatentDiffusion, "decode", counted)
    bars, advance = [], Bar.advance
    monkeypatch.setattr(Bar, "advance", lambda self, a: (bars.append(self), advance(self, a))[1])
    models.memo = type(models.memo)()
    assert done(models, replace(request_, model=model)).evaluations == cost.steps * cost.rows + cost.fits
    assert decoded == cost.pictures
    said = bars[-1].done if bars else 0  # all but the last decodings, after which there is nothing to say
    assert total(cost) - DECODE * cost.pictures <= said <= total(cost)


def test_steps_fits_and_pictures_are_weighed():
    assert total(Cost(10, 2, 4, 5)) == 20 + FIT * 4 + DECODE * 5
    assert plan(LoadRequest()) == Cost() and total(Cost()) == 0


def test_the_live_sampler_takes_at_most_four_steps():
    assert plan(replace(WAY, sampler="live")).steps == 3 * 4
    assert plan(replace(DRAWN, sampler="live", steps=2, count=3)).steps == 3 * 2
    assert plan(replace(DRAWN, sampler="live", steps=50)).steps == 4


def test_rows_of_drawings():
    """Joint guidance at scales of 1 needs the row that sees both, and that of the lines where nothing is painted."""
    assert plan(DRAWN) == Cost(3, 2, 0, 1, False)
    assert plan(replace(DRAWN, strokes=None)).rows == 1
    assert plan(replace(DRAWN, sketch=None)).rows == 2
    assert plan(replace(DRAWN, photo=A)).rows == 1  # which has colours everywhere
    assert plan(replace(DRAWN, combine="sum")).rows == 3
    assert plan(replace(DRAWN, sketch_scale=2.0, stroke_scale=2.0)).rows == 4
    assert plan(replace(DRAWN, prompt="a rose")).rows == 3
    assert plan(replace(DRAWN, prompt="a rose", guidance=1.0)).rows == 2
    assert plan(replace(DRAWN, sheet="sketch-stroke")) == Cost(27, 4, 0, 9, False)
    assert plan(replace(DRAWN, model="sd15 + smooth")).steered and not plan(replace(DRAWN, model="flora + a:1")).steered


def test_a_lora_that_is_brought_along_is_not_fitted():
    assert plan(MORPH).fits == 2 * 3 * 2
    assert plan(replace(MORPH, loras=(b"file",))).fits == 3 * 2
    assert plan(replace(MORPH, pictures=(A, A.copy()))).fits == 3 * 2
    assert plan(replace(MORPH, pictures=(A, A.copy()), prompts=("a rose", "a daisy"))).fits == 2 * 3 * 2
