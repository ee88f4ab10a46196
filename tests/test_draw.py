"""DiSS on a tiny network that sees drawings: the laws of its guidance and realism, seeds, sheets, local edits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import controlnet, sdxl
from conftest import done, make_network, picture
from pictures import block, distance
from PIL import Image, ImageDraw

from engine.context import Context
from engine.diffusion.guidance import Conditioning
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.sampling import gaussian, generator, sample
from engine.methods import draw as draw_module
from engine.methods.draw import encode, guidance
from engine.methods.realism import strengths
from engine.requests import SHEETS, DrawRequest, EditRequest, EngineError, result
from engine.vision import compositing, images
from engine.vision.drawing import lowpass

ONE = [{"seed": 0}]  # a plan of one picture


def lines(seed=0):
    layer = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(layer).ellipse((10 + seed, 10, 50, 50), outline="black", width=3)
    return layer


def spot():
    layer = Image.new("RGBA", (64, 64))
    layer.paste((220, 40, 40, 255), (16, 16, 40, 40))
    return layer


def mask(box):
    out = Image.new("L", (64, 64))
    out.paste(255, box)
    return out


COLOURS = picture(0, (64, 64)).convert("RGBA")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return str(make_network(tmp_path_factory.mktemp("networks") / "seeing", extra=8))


@pytest.fixture
def ask(seeing):
    usual = {"sketch": lines(), "strokes": COLOURS, "model": seeing, "size": 64, "steps": 6}
    return lambda **own: DrawRequest(**usual | own)


@pytest.fixture
def prepare(models):
    """The network, the drawing as it takes it, and the rows of its guidance."""

    def prepare(request):
        context = Context(models)
        model = result(context.load(request.model, ()))
        with torch.no_grad():
            drawing = encode(context, compositing.compose(request, (64, 64)))
            rows = guidance(model, request, drawing, context.embed(request.prompt, request.negative), ONE)
        return model, drawing, rows

    return prepare


@pytest.fixture
def see(prepare):
    """The clean picture that a network has in mind of one noisy picture: guided, or in a single row of its own."""
    x = 3 * gaussian((4, 8, 8), [generator(1)])

    @torch.no_grad()
    def see(request, alone="", words=""):
        model, drawing, rows = prepare(request)
        if alone:
            null = model.null_latent((8, 8))
            shown = (drawing.sketch if "s" in alone else null), (drawing.strokes if "c" in alone else null)
            rows = [Conditioning(model.embed([words]), concat_latents=torch.cat(shown, 1))]
        return model.denoiser(rows)(x, 3.0)

    return see


def close(a, b):
    return torch.allclose(a, b, atol=3e-4)


@pytest.mark.parametrize("combine", ["sum", "joint"])
def test_scales_of_0_and_1_are_the_networks_themselves(ask, see, combine):
    for s1, s2, alone in ((0, 0, "-"), (1, 0, "s"), (0, 1, "c"), (1, 1, "sc")):
        r = ask(sketch_scale=s1, stroke_scale=s2, combine=combine)  # whole numbers, as a slider gives them
        assert close(see(r), see(r, alone)) == (alone != "sc" or combine == "joint"), alone


def test_the_guidance_is_linear_in_its_scales(ask, see):
    def at(s1, s2, combine):
        return see(ask(sketch_scale=s1, stroke_scale=s2, combine=combine))

    none, sketch, strokes = (at(*s, "sum") for s in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)))
    assert close(at(2.5, 2.5, "sum"), none + 2.5 * (sketch - none) + 2.5 * (strokes - none))
    for s2 in (0.0, 2.0):  # jointly it is in each of the two
        one, two, three = (at(s1, s2, "joint") for s1 in (0.0, 1.0, 2.0))
        assert close(three - two, two - one)


def test_words_add_classifier_free_guidance(ask, see):
    c, u = (see(ask(), "sc", words) for words in ("a rose", ""))
    assert close(see(ask(prompt="a rose", guidance=1.0)), c) and not close(c, u)
    assert close(see(ask(prompt="a rose", guidance=3.0)), u + 3 * (c - u))


def test_the_rows_go_as_one_batch(models, ask):
    request, batches = ask(combine="sum", count=2), []
    unet = models.load(request.model).unet
    hook = unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    try:
        done(models, request)
    finally:
        hook.remove()
    assert batches == [6] * 6  # three rows of two pictures, at six steps


def test_where_nothing_is_painted_strokes_say_nothing(models, ask, prepare):
    loud = np.asarray(spot()).copy()
    loud[loud[..., 3] == 0, :3] = (0, 255, 0)  # colours under alpha 0
    quiet, other = (done(models, ask(strokes=s)).frames for s in (spot(), Image.fromarray(loud)))
    assert distance(block(quiet), block(other)) == 0
    _, drawing, rows = prepare(ask(strokes=spot()))
    assert [float(drawing.painted(torch.tensor(0.5))[0, 0, i, i]) for i in (3, 7)] == [0.5, 0]
    weights = [row.weight for row in rows]
    assert [float(weights[-1][0, 0, i, i]) for i in (3, 7)] == [1, 0]  # of the row that sees both
    assert torch.allclose(sum(weights), torch.ones(1, 1, 8, 8))  # all rows together are one network


@pytest.mark.parametrize("refine", ["clean", "noised"])
def test_realism_0_keeps_the_drawing_and_the_distance_grows(models, ask, prepare, refine, monkeypatch):
    ends, decode = [], LatentDiffusion.decode
    monkeypatch.setattr(LatentDiffusion, "decode", lambda model, z: ends.append(z) or decode(model, z))
    for realism in (0.0, 0.5, 1.0):
        done(models, ask(realism=realism, refine=refine, free=0.0, steps=12))
    strokes = prepare(ask())[1].strokes
    far = [float((lowpass(z, 8) - lowpass(strokes, 8)).square().mean().sqrt()) for z in ends]
    assert far[0] < far[1] < far[2] and far[0] < (1e-3 if refine == "clean" else 0.3 * far[2]), far
    if refine == "clean":  # even with full realism the one colour of the whole is the drawing's
        assert torch.allclose(lowpass(ends[2], 1), lowpass(strokes, 1), atol=1e-2)


def test_refinement_off_is_the_plain_walk(models, ask, prepare):
    r = ask(refine="off", eta=0.0, realism=0.0)
    model, drawing, rows = prepare(r)
    sigmas = model.schedule.sigmas_from_strength(1.0, 6)
    with torch.no_grad():
        x = compositing.without_coarse(gaussian((4, 8, 8), [generator(0, 0)]), sigmas[0], drawing.where)
        *_, last = sample(model.denoiser(rows), x + drawing.where * drawing.strokes, sigmas)
        by_hand = images.to_pictures(model.decode(last.x))
    assert distance(block(by_hand), block(done(models, r).frames)) < 0.01


def test_a_batch_of_seeds_is_what_each_is_alone(models, ask):
    three = block(done(models, ask(count=3)).frames)
    alone = block([done(models, ask(seed=s)).frames[0] for s in (0, 1, 2)])  # the next seeds
    assert distance(three, alone) < 0.01 and len({f.tobytes() for f in three}) == 3


@pytest.mark.parametrize("sheet", [s for s in SHEETS if s != "none"])
def test_sheets_vary_the_scales_alone(models, ask, sheet):
    r = ask(sheet=sheet, steps=3, realism=1.0)
    frames = done(models, r).frames
    assert len(frames) == len(r.plan()) == r.total == (6 if sheet == "ladder" else 9)
    assert r.columns == (0 if sheet == "ladder" else 3)
    for i in (0, r.total - 1):
        own = {name: value for name, value in r.plan()[i].items() if name != "seed"}
        single = done(models, replace(r, sheet="none", **own)).frames
        assert distance(block(single), block(frames[i : i + 1])) < 0.01, own


@pytest.mark.parametrize("given", [{"sketch": None, "around": 4}, {"mask": mask((8, 8, 48, 48))}])
def test_a_local_edit_keeps_the_rest_to_the_last_bit(models, ask, given):
    photo = picture(7, (64, 64))
    found = done(models, ask(strokes=spot(), photo=photo, **given)).frames[0]
    away = np.abs(np.subtract(*block([found, photo]), dtype=int))
    assert not away[:4].any() and not away[52:].any() and not away[:, 52:].any() and away[20:36, 20:36].mean() > 1


@pytest.mark.parametrize("given", [{"strokes": None}, {"sketch": None}, {"sketch": lines(3), "strokes": spot()}])
def test_lines_alone_colours_alone_or_both_unaligned_are_measured(models, ask, given):
    layers = {"lines": given.get("sketch", 1), "colours": given.get("strokes", 1)}
    assert set(done(models, ask(steps=2, **given)).quality) == {name for name, layer in layers.items() if layer}


def test_an_empty_layer_is_none_and_another_size_of_the_same_shape_is_scaled(ask):
    assert ask(sketch=Image.new("RGBA", (64, 64))).sketch is None
    large = compositing.compose(ask(strokes=spot().resize((128, 128), Image.Resampling.NEAREST)), (64, 64))
    assert np.abs(large.alpha - compositing.compose(ask(strokes=spot()), (64, 64)).alpha).mean() < 0.02


def test_what_a_network_lacks_is_a_sentence(models, ask, tiny):
    lines = r"model must see drawings by itself .flora. or have a control for lines, got .*, which has neither"
    with pytest.raises(EngineError, match=lines):
        done(models, ask(model=str(tiny)))
    with pytest.raises(EngineError, match=r"sampler must be ddim for .*, which has no few-step LoRA, got 'live'"):
        done(models, ask(sampler="live"))


@pytest.fixture
def colours(ask, tiny):
    """Drawings in colours alone for a network that can be shown none: they are what it begins with."""
    return lambda **own: ask(**{"sketch": None, "model": str(tiny), "steps": 8} | own)


def test_without_a_control_for_colours_they_are_what_the_walk_begins_with(models, colours, tiny):
    """Where all is painted that is SDEdit at the strength of realism; a scale of 2 is realism twice."""
    for given, strength in (({"realism": 0.5}, 0.5), ({"realism": 0.5, "stroke_scale": 2.0}, 0.25)):
        guide = COLOURS.convert("RGB")
        edited = EditRequest(guide, strength=strength, steps=8, size=64, model=str(tiny), guidance=3.0)
        drawn = done(models, colours(**given))
        assert distance(block(drawn.frames), block(done(models, edited).frames)) == 0
        assert drawn.evaluations == 8 * strength  # no step is walked of which nothing would stay


def test_realism_says_how_far_the_end_is_from_the_colours(models, colours, prepare, monkeypatch):
    ends, decode = [], LatentDiffusion.decode
    monkeypatch.setattr(LatentDiffusion, "decode", lambda model, z: ends.append(z) or decode(model, z))
    for realism in (0.0, 0.5, 1.0):
        done(models, colours(realism=realism, steps=24))
    strokes = prepare(colours())[1].strokes
    far = [float((z - strokes).square().mean().sqrt()) for z in ends]
    assert far[0] < 0.5 * far[1] < 0.5 * far[2], far


def test_a_scale_of_0_leaves_the_colours_out(models, colours):
    none, other = (
        done(models, colours(stroke_scale=0.0, strokes=picture(n, (64, 64)).convert("RGBA"))).frames for n in (0, 5)
    )
    assert distance(block(none), block(other)) == 0 < distance(block(none), block(done(models, colours()).frames))


def test_each_place_begins_at_its_own_strength(models, colours, prepare, monkeypatch):
    seen, walk = [], draw_module.walk
    monkeypatch.setattr(draw_module, "walk", lambda f, x, s, *more: seen.append((x, s)) or walk(f, x, s, *more))
    request = colours(strokes=spot(), realism=0.25)
    done(models, request)
    model, drawing, _ = prepare(request)
    (x, sigmas), noise = seen[0], gaussian((4, 8, 8), [generator(0, 0)])
    assert sigmas == model.schedule.sigmas_from_strength(1.0, 8)
    assert torch.equal(x[..., 3, 3], (drawing.strokes + sigmas[0] * noise)[..., 3, 3])
    assert torch.equal(x[..., 7, 7], ((1 + sigmas[0] ** 2) ** 0.5 * noise)[..., 7, 7])
    found = strengths(model, replace(request, realism=0.0), drawing, ONE)
    assert float(found[0, 0, 3, 3]) == 1 / 8 and float(found[0, 0, 7, 7]) == 1  # a step at least


def test_a_row_of_a_sheet_begins_as_it_would_alone(models, colours):
    for given in ({"strokes": spot()}, {}):
        sheet = done(models, colours(sheet="stroke-realism", **given)).frames
        alone = done(models, colours(stroke_scale=2.0, realism=0.5, **given)).frames[0]
        assert distance(block([alone]), block([sheet[7]])) < 0.01, given


def test_lines_by_a_control_and_colours_at_the_start(models, ask, tmp_path):
    network = make_network(tmp_path / "lines")
    controlnet(network, "sketch")
    found = done(models, ask(model=str(network), realism=0.5, strokes=spot()))
    assert found.evaluations == 6 and set(found.quality) == {"lines", "colours"}  # a row a step, which sees the lines
    other = done(models, ask(model=str(network), realism=0.5, strokes=spot(), sketch=lines(5)))
    assert distance(block(found.frames), block(other.frames)) > 0


def test_a_photograph_stays_where_nothing_was_painted_though_the_network_sees_no_lines(models, colours):
    photo = picture(7, (64, 64))
    found = done(models, colours(strokes=spot(), photo=photo, around=4)).frames[0]
    away = np.abs(np.subtract(*block([found, photo]), dtype=int))
    assert not away[:8].any() and not away[52:].any() and away[20:36, 20:36].mean() > 1


def test_a_tile_control_holds_on_to_the_colours_as_realism_does_not(models, colours, tmp_path):
    network = make_network(tmp_path / "tiled", attends=(0,))
    plain = [done(models, colours(model=str(network), realism=v)).frames for v in (0.5, 1.0)]
    controlnet(network, "tile")
    tiled = [done(models, colours(model=f"{network}/", realism=v)).frames for v in (0.5, 1.0)]  # loaded anew
    assert distance(block(plain[0]), block(tiled[0])) > 0 == distance(block(plain[1]), block(tiled[1]))


def test_stable_diffusion_xl_draws_lines_by_a_control_and_begins_with_the_colours(models, ask, tmp_path):
    network = sdxl(tmp_path / "xl")
    for kind in ("sketch", "tile"):  # (else the catalogue's would be fetched)
        controlnet(network, kind)
    near, far, other = (
        done(models, ask(model=str(network), realism=v, steps=4, sketch=lines(n))).frames
        for v, n in ((0.25, 0), (0.75, 0), (0.75, 5))
    )
    assert distance(block(near), block(far)) > 0 and distance(block(far), block(other)) > 0
