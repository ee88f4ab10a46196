"""DiSS on a tiny network that sees drawings: the laws of its guidance and of its realism, masks, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_network, picture
from PIL import Image, ImageDraw

from engine.diffusion.model import Row
from engine.diffusion.sampling import flow
from engine.jobs.run import run
from engine.methods.draw import Drawing
from engine.requests import DRAW_PRESETS, SHEETS, Done, DrawRequest, EngineError, Frame, Progress
from engine.vision import compositing as rendering
from engine.vision import images
from engine.vision.drawing import lowpass


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return str(make_network(tmp_path_factory.mktemp("networks") / "seeing", extra=8))


def lines(seed=0):
    layer = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(layer).ellipse((10 + seed, 10, 50, 50), outline=(0, 0, 0, 255), width=3)
    return layer


def colours(seed=0):
    return picture(seed, (64, 64)).convert("RGBA")


def spot(box=(16, 16, 40, 40), colour=(220, 40, 40, 255)):
    layer = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    layer.paste(colour, box)
    return layer


def ask(model, **kw):
    return DrawRequest(**{"sketch": lines(), "strokes": colours(), "model": model, "size": 64, "steps": 6} | kw)


def made(models, request):
    done = list(run(models, request))[-1]
    assert isinstance(done, Done)
    return done


def setup(models, request):
    """The drawing as the method prepares it, the parts of its guidance, and a noisy picture."""
    net = models.load(request.model)
    size = images.frame_size(request.drawn, "fit", 64, net.multiple)
    layers = [rendering.paint(p, size) if p else None for p in (request.sketch, request.strokes)]
    drawing = Drawing(models, net, request, size, *layers)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 3
    return net, drawing, x


def slope(models, request):
    net, drawing, x = setup(models, request)
    with torch.no_grad():
        return net.field(drawing.rows([{"seed": 0}]))(x, 3.0)


def alone(models, request, sketch, strokes):
    net, drawing, x = setup(models, request)
    null = net.null((8, 8))
    seen = torch.cat([drawing.z_sketch if sketch else null, drawing.z_strokes if strokes else null], 1)
    with torch.no_grad():
        return net.field([Row(net.embed([""]), 1.0, seen)])(x, 3.0)


@pytest.mark.parametrize("combine", ["sum", "joint"])
def test_scales_of_0_and_1_are_the_networks_themselves(models, seeing, combine):
    for s1, s2 in ((0, 0), (1, 0), (0, 1)):
        r = ask(seeing, sketch_scale=float(s1), stroke_scale=float(s2), combine=combine)
        assert torch.allclose(slope(models, r), alone(models, r, s1, s2), atol=1e-4), (s1, s2)
    r = ask(seeing, combine="joint")
    assert torch.allclose(slope(models, r), alone(models, r, 1, 1), atol=1e-4)
    assert not torch.allclose(slope(models, r), alone(models, r, 0, 0), atol=1e-3)


def test_the_guidance_is_linear_in_its_scales(models, seeing):
    at = {(a, b): slope(models, ask(seeing, sketch_scale=a, stroke_scale=b, combine="sum"))
          for a in (0.0, 1.0, 2.5) for b in (0.0, 1.0, 2.5)}  # fmt: skip
    by_hand = at[0.0, 0.0] + 2.5 * (at[1.0, 0.0] - at[0.0, 0.0]) + 2.5 * (at[0.0, 1.0] - at[0.0, 0.0])
    assert torch.allclose(at[2.5, 2.5], by_hand, atol=1e-4)
    joint = {(a, b): slope(models, ask(seeing, sketch_scale=a, stroke_scale=b)) for a in (0.0, 1.0, 2.0)
             for b in (0.0, 1.0, 2.0)}  # fmt: skip
    for b in (0.0, 1.0, 2.0):  # linear in each of the two
        assert torch.allclose(joint[2.0, b] - joint[1.0, b], joint[1.0, b] - joint[0.0, b], atol=1e-4)


def test_words_add_classifier_free_guidance(models, seeing):
    plain, twice = (slope(models, ask(seeing, prompt="a rose", guidance=g)) for g in (1.0, 3.0))
    net, drawing, x = setup(models, ask(seeing))
    seen = torch.cat([drawing.z_sketch, drawing.z_strokes], 1)
    with torch.no_grad():
        c, u = (net.field([Row(net.embed([t]), 1.0, seen)])(x, 3.0) for t in ("a rose", ""))
    assert torch.allclose(plain, c, atol=1e-4) and torch.allclose(twice, u + 3 * (c - u), atol=1e-4)


def test_whole_numbers_from_a_slider_are_scales_too(models, seeing):
    whole, real = (slope(models, ask(seeing, prompt="a rose", guidance=2.5, sketch_scale=one, stroke_scale=one))
                   for one in (1, 1.0))  # fmt: skip
    assert torch.equal(whole, real)


def test_the_rows_go_as_one_batch(models, seeing):
    net, batches = models.load(seeing), []
    hook = net.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    try:
        done = made(models, ask(seeing, combine="sum", count=2))
    finally:
        hook.remove()
    assert batches == [6] * 6 and done.evaluations == 36  # three rows of two pictures, at six steps


def test_where_nothing_is_painted_strokes_say_nothing(models, seeing):
    loud = spot()
    block = np.asarray(loud).copy()
    block[block[..., 3] == 0, :3] = (0, 255, 0)  # colours under alpha 0
    quiet, other = made(models, ask(seeing, strokes=loud)), made(models, ask(seeing, strokes=Image.fromarray(block)))
    assert quiet.frames[0].tobytes() == other.frames[0].tobytes()
    _, drawing, _ = setup(models, ask(seeing, strokes=loud))
    weights = [r.weight for r in drawing.rows([{"seed": 0}])]
    assert all(torch.is_tensor(w) and w.shape == (1, 1, 8, 8) for w in weights)
    both = weights[-1]
    assert float(both[0, 0, 3, 3]) == 1 and float(both[0, 0, 7, 7]) == 0
    assert torch.allclose(sum(weights), torch.ones(1, 1, 8, 8))  # all rows together are one network


@pytest.mark.parametrize("refine", ["clean", "noised"])
def test_realism_0_keeps_the_drawing_and_the_distance_grows(models, seeing, refine):
    far = []
    for realism in (0.0, 0.5, 1.0):
        r = ask(seeing, realism=realism, refine=refine, free=0.0, steps=12)
        _, drawing, _ = setup(models, r)
        part = [{"seed": 0}]
        with torch.no_grad():
            events = drawing.walk(part)
            while True:
                try:
                    next(events)
                except StopIteration as end:
                    z = end.value
                    break
        far.append(float((lowpass(z, 8) - lowpass(drawing.z_strokes, 8)).square().mean().sqrt()))
        if realism == 1 and refine == "clean":  # even then the one colour of the whole is the drawing's
            assert torch.allclose(lowpass(z, 1), lowpass(drawing.z_strokes, 1), atol=1e-2)
    assert far[0] < far[1] < far[2] and far[0] < (1e-3 if refine == "clean" else 0.3 * far[2]), far


def test_refinement_off_is_the_plain_walk(models, seeing):
    r = ask(seeing, refine="off", eta=0.0, realism=0.0)
    net, drawing, _ = setup(models, r)
    with torch.no_grad():
        x = rendering.colourless(rendering.fresh(net, (4, 8, 8), [(0, 0)])(), net.below(1.0, 6)[0], drawing.where)
        x = x + drawing.where * drawing.z_strokes
        for state in flow(net.field(drawing.rows([{"seed": 0}])), x, net.below(1.0, 6)):
            x = state.x
    by_hand = images.to_pictures(net.decode(x))[0]
    assert np.abs(np.asarray(by_hand, int) - np.asarray(made(models, r).frames[0], int)).max() <= 1


def test_a_batch_of_seeds_is_what_each_is_alone(models, seeing):
    three, one = made(models, ask(seeing, count=3)), made(models, ask(seeing))
    assert np.abs(np.asarray(three.frames[0], int) - np.asarray(one.frames[0], int)).max() <= 1
    assert len({f.tobytes() for f in three.frames}) == 3
    third = made(models, ask(seeing, seed=2)).frames[0]  # the next seeds, so any of them can be made alone
    assert np.abs(np.asarray(three.frames[2], int) - np.asarray(third, int)).max() <= 1
    again = made(models, ask(seeing, count=3))
    assert [f.tobytes() for f in again.frames] == [f.tobytes() for f in three.frames]


@pytest.mark.parametrize("sheet", SHEETS)
def test_sheets_vary_the_scales_alone(models, seeing, sheet):
    r = ask(seeing, sheet=sheet, steps=3, realism=1.0)
    events = list(run(models, r))
    frames = [e.index for e in events if isinstance(e, Frame)]
    assert frames == list(range(r.total)) and r.total == {"none": 1, "ladder": 6}.get(sheet, 9)
    assert r.columns == (0 if sheet in ("none", "ladder") else 3)
    fractions = [e.fraction for e in events if isinstance(e, Progress)]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    done = events[-1]
    for i, own in enumerate(r.plan()):
        if i in (0, r.total // 2, r.total - 1):
            change = {k: v for k, v in own.items() if k != "seed"}
            single = made(models, replace(r, sheet="none", **change)).frames[0]
            assert np.abs(np.asarray(single, int) - np.asarray(done.frames[i], int)).max() <= 1, own


def test_a_local_edit_keeps_the_rest_to_the_last_bit(models, seeing):
    photo = picture(7, (64, 64))
    for request in (ask(seeing, strokes=spot(), sketch=None, photo=photo, around=4),
                    ask(seeing, strokes=spot(), photo=photo, mask=_mask((8, 8, 48, 48)))):  # fmt: skip
        out = np.asarray(made(models, request).frames[0], int)
        away = np.abs(out - np.asarray(photo, int)).max(2)
        assert (away[:4] == 0).all() and (away[52:] == 0).all() and (away[:, 52:] == 0).all()
        assert away[20:36, 20:36].mean() > 1


def _mask(box):
    mask = Image.new("L", (64, 64))
    mask.paste(255, box)
    return mask


@pytest.mark.parametrize("given", [{"strokes": None}, {"sketch": None}, {"sketch": lines(3), "strokes": spot()}])
def test_only_lines_only_colours_and_both_unaligned(models, seeing, given):
    done = made(models, ask(seeing, **given))
    assert done.frames[0].size == (64, 64)
    assert set(done.quality) == {n for n, k in (("lines", "sketch"), ("colours", "strokes")) if given.get(k, 1)}


def test_presets_are_requests(models, seeing):
    for values in DRAW_PRESETS.values():
        ask(seeing, **values)


empty = Image.new("RGBA", (64, 64), (255, 0, 0, 0))


@pytest.mark.parametrize(("change", "words"), [
    ({"sketch": None, "strokes": None}, "sketch or strokes must hold something drawn, got nothing"),
    ({"sketch": empty, "strokes": empty}, "got nothing"),
    ({"sketch": None, "strokes": None, "mask": _mask((0, 0, 9, 9))}, "got mask"),
    ({"sketch": None, "strokes": None, "mask": _mask((0, 0, 9, 9)), "photo": picture(0)}, "got photo and mask"),
    ({"mask": _mask((0, 0, 9, 9))}, "mask must come with a photo"),
    ({"mask": _mask((0, 0, 0, 0)), "photo": picture(0)}, "mask must cover something, got nothing"),
    ({"strokes": colours().resize((64, 32))}, "strokes must have the proportions of sketch, 64 × 64, got 64 × 32"),
    ({"sketch": lines().convert("RGB")}, "sketch must be a picture of mode RGBA, got RGB"),
    ({"realism": 2.0}, "realism must be a number from 0 to 1, got 2"),
    ({"realism": float("nan")}, "realism must be"),
    ({"sketch_scale": -1.0}, "sketch_scale must be"),
    ({"steps": 2.5}, "steps must be a whole number"),
    ({"sheet": "all"}, "sheet must be one of"),
    ({"sheet": "ladder", "count": 2}, "count must be 1 with a sheet"),
    ({"sheet": "stroke-realism", "strokes": None}, "sheet must vary what the drawing has"),
    ({"sheet": "ladder", "refine": "off"}, "realism needs colours, and refine on"),
    ({"sampler": "live", "eta": 0.5}, "eta must be 0 with the sampler live"),
    ({"prompt": None}, "prompt must be text"),
])  # fmt: skip
def test_bad_input_is_a_sentence(change, words):
    with pytest.raises(EngineError, match=words.replace("×", ".")):
        ask("flora", **change)


def test_an_empty_layer_is_none_and_another_size_of_the_same_shape_is_scaled(models, seeing):
    assert ask(seeing, sketch=empty).sketch is None
    made(models, ask(seeing, strokes=colours().resize((128, 128))))


def test_a_network_that_sees_no_drawings_is_refused(models, tiny):
    with pytest.raises(
        EngineError, match=r"model must see drawings by itself .flora. or have a control for sketch and stroke"
    ):
        made(models, ask(str(tiny)))


def test_few_steps_need_their_weights(models, seeing):
    with pytest.raises(EngineError, match="sampler must be ddim"):
        made(models, ask(seeing, sampler="live"))
