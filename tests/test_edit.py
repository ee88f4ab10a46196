"""SDEdit on a tiny network: what strength, masks, rounds and noise must do."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from engine.diffusion.model import Row
from engine.diffusion.sampling import flow
from engine.jobs.run import run
from engine.requests import EDIT_PRESETS, Done, EditRequest, EngineError, Progress
from engine.vision import compositing as rendering
from engine.vision import images

GUIDE = picture(2, (64, 64))


def ask(tiny, **kw):
    return EditRequest(**{"guide": GUIDE, "model": str(tiny), "size": 64, "steps": 10} | kw)


def made(models, request):
    done = list(run(models, request))[-1]
    assert isinstance(done, Done)
    return done


def block(picture_):
    return np.asarray(picture_, int)


def mask(box, value=255):
    out = Image.new("L", (64, 64))
    out.paste(value, box)
    return out


def test_strength_0_gives_the_guide_back_and_little_of_it_nearly_so(models, tiny):
    none = made(models, ask(tiny, strength=0.0))
    assert none.frames[0].tobytes() == GUIDE.tobytes() and none.evaluations == 0 and none.quality == {"l2": 0}
    net = models.load(str(tiny))
    with torch.no_grad():
        z = net.encode(images.to_tensor([GUIDE]))
        field, levels = net.field([Row(net.embed([""]))]), net.below(0.001, 10)
        for state in flow(field, z + levels[0] * torch.randn_like(z), levels):
            x = state.x
    assert float((x - z).abs().max()) < 0.3 and len(levels) == 2 and levels[0] < 0.06


def test_strength_1_forgets_the_guide(models, tiny):
    a, b = (made(models, ask(tiny, guide=picture(i, (64, 64)), strength=1.0)).frames[0] for i in (2, 3))
    assert a.tobytes() == b.tobytes()
    a, b = (made(models, ask(tiny, guide=picture(i, (64, 64)), strength=0.5)).frames[0] for i in (2, 3))
    assert a.tobytes() != b.tobytes()


def test_the_guide_is_noised_to_the_level_of_its_strength(models, tiny, monkeypatch):
    seen = {}

    def spy(net, field, x, levels, *rest):
        seen[round(levels[0], 6)] = x
        return walk(net, field, x, levels, *rest)

    walk = rendering.walk
    monkeypatch.setattr(rendering, "walk", spy)
    net = models.load(str(tiny))
    with torch.no_grad():
        z = net.encode(images.to_tensor([GUIDE]))
    for strength in (0.2, 0.5, 0.9):
        made(models, ask(tiny, strength=strength, count=16))
        s = float(net.sigmas[round(strength * 999)])
        noise = (seen[round(s, 6)] - z) / s
        assert float(noise.var()) == pytest.approx(1, abs=0.06) and float(noise.mean()) == pytest.approx(0, abs=0.06)


def test_a_mask_keeps_the_rest_to_the_last_bit(models, tiny):
    photo = picture(5, (64, 64))
    for noise in ("fresh", "frozen"):
        out = block(made(models, ask(tiny, photo=photo, mask=mask((16, 16, 48, 48)), noise=noise, feather=4)).frames[0])
        away = np.abs(out - block(photo)).max(2)
        away[16:48, 16:48] = 0
        assert not away.any()
        assert np.abs(out - block(photo))[24:40, 24:40].mean() > 1
    # Everything: the same as no mask. Only where it is soft does it matter how soft.
    every = made(models, ask(tiny, mask=mask((0, 0, 64, 64)))).frames[0]
    assert every.tobytes() == made(models, ask(tiny)).frames[0].tobytes()


def test_where_nothing_may_change_the_guide_is_the_photograph(models, tiny):
    """A guide painted outside of the mask too: nothing of it may come in, not even through the network."""
    photo, area = picture(5, (64, 64)), mask((0, 0, 32, 64))
    wild = photo.copy()
    wild.paste((255, 0, 255), (32, 0, 64, 64))
    a, b = (made(models, ask(tiny, guide=g, photo=photo, mask=area)).frames[0] for g in (photo, wild))
    assert a.tobytes() == b.tobytes()


def test_paint_over_a_photograph_may_change_it_around(models, tiny):
    photo, paint = picture(5, (64, 64)), Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    paint.paste((250, 20, 20, 255), (20, 20, 36, 36))
    narrow, wide = (made(models, ask(tiny, guide=paint, photo=photo, around=a, feather=0)).frames[0] for a in (2, 12))
    changed = [np.abs(block(p) - block(photo)).max(2) > 0 for p in (narrow, wide)]
    assert not changed[0][:17].any() and not changed[0][40:].any() and changed[1].sum() > changed[0].sum() > 200


def test_a_soft_mask_is_a_strength_for_every_place(models, tiny):
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1)))
    net, seen, decode = models.load(str(tiny)), [], type(models.load(str(tiny))).decode
    net.decode = lambda z: seen.append(z) or decode(net, z)
    try:
        made(models, ask(tiny, mask=ramp, strength=0.9, steps=40))
    finally:
        del net.decode
    with torch.no_grad():
        away = (seen[0] - net.encode(images.to_tensor([GUIDE]))).abs().mean((0, 1, 2))
    thirds = [float(away[i : i + 3].mean()) for i in (0, 2, 5)]
    assert thirds == sorted(thirds) and thirds[2] > 3 * thirds[0], away


def test_a_half_strong_mask_still_sees_the_paint(models, tiny, monkeypatch):
    """Where less than the whole strength is asked for, what is kept until then is the guide, not the photograph."""
    held = []

    def spy(step, z, free, noise):
        held.append(z)
        return step

    monkeypatch.setattr(sys.modules["engine.methods.edit"], "keeping", spy)  # the package has the function by that name
    painted = GUIDE.copy()
    painted.paste((255, 0, 0), (16, 16, 48, 48))
    made(models, ask(tiny, guide=painted, photo=GUIDE, mask=mask((16, 16, 48, 48), 128)))
    net = models.load(str(tiny))
    with torch.no_grad():
        assert torch.allclose(held[0], net.encode(images.to_tensor([painted])), atol=1e-5)


def test_one_round_is_one_run_and_more_go_on_from_it(models, tiny):
    one, two = (made(models, ask(tiny, repeats=k, strength=0.4)) for k in (1, 2))
    assert two.evaluations == 2 * one.evaluations
    assert one.frames[0].tobytes() == made(models, ask(tiny, strength=0.4)).frames[0].tobytes()
    assert one.frames[0].tobytes() != two.frames[0].tobytes()


def test_seeds_and_fresh_noise(models, tiny):
    several = made(models, ask(tiny, count=3, eta=1.0))
    assert len({f.tobytes() for f in several.frames}) == 3
    again = made(models, ask(tiny, count=3, eta=1.0))
    assert [f.tobytes() for f in again.frames] == [f.tobytes() for f in several.frames]
    alone = made(models, ask(tiny, eta=1.0)).frames[0]
    assert np.abs(block(alone) - block(several.frames[0])).max() <= 1
    assert made(models, ask(tiny, eta=0.0)).frames[0].tobytes() != alone.tobytes()
    area = mask((0, 0, 32, 64))
    fresh, frozen = (made(models, ask(tiny, mask=area, noise=n)).frames[0] for n in ("fresh", "frozen"))
    assert fresh.tobytes() != frozen.tobytes()


def test_progress_goes_up_once_and_ends(models, tiny):
    done = [e.fraction for e in run(models, ask(tiny, repeats=2, count=2)) if isinstance(e, Progress)]
    assert done == sorted(done) and done[-1] == 1 and len(done) > 10


def test_odd_sizes_and_photographs_of_other_proportions(models, tiny):
    done = made(models, ask(tiny, guide=picture(1, (97, 61)), photo=picture(2, (300, 50)), mask=mask((0, 0, 9, 9))
                            .resize((97, 61))))  # fmt: skip
    assert done.frames[0].size[0] == 64 and done.frames[0].size[1] in (32, 48)


clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))


@pytest.mark.parametrize(("change", "words"), [
    ({"guide": None}, "guide must be a picture, got nothing"),
    ({"guide": clear}, "guide must hold something painted, got an empty layer"),
    ({"guide": "x.png"}, "guide must be a picture, got str"),
    ({"strength": 2}, "strength must be a number from 0 to 1, got 2"),
    ({"strength": float("inf")}, "strength must be"),
    ({"mask": mask((0, 0, 0, 0))}, "mask must cover something, got nothing"),
    ({"mask": mask((0, 0, 9, 9)).resize((64, 16))}, "mask must have the proportions of guide"),
    ({"repeats": 0}, "repeats must be a whole number from 1 to 10, got 0"),
    ({"noise": "cold"}, "noise must be one of fresh, frozen"),
    ({"model": "nothing"}, None),
])  # fmt: skip
def test_bad_input_is_a_sentence(models, change, words):
    with pytest.raises(EngineError, match=words or "model must be one of"):
        made(models, ask("flora", **change))


def test_presets_are_requests(tiny):
    for values in EDIT_PRESETS.values():
        replace(ask(tiny), **values)
