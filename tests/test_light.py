"""What a local edit makes takes the photograph's light: gain and offset on the band at the seam."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import done, picture
from pictures import block
from PIL import Image

from engine.methods.edit import SAME
from engine.requests import DrawRequest, EditRequest
from engine.requests.settings import Settings
from engine.vision.compositing import FEW, GAINS, match, paste

PHOTO = np.asarray(picture(3, (96, 96)))
NOTHING = np.zeros((96, 96), bool)


def hole(*box):
    mask = np.zeros((96, 96), np.float32)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def lit(gain, offset):
    """The photograph in another light, where no channel is cut off."""
    return (80 + 0.3 * PHOTO), gain * (80 + 0.3 * PHOTO) + np.array(offset)


def test_a_gain_and_an_offset_are_taken_back_whatever_is_new_within():
    photo, made = lit(np.array([1.2, 0.9, 1.05]), (-12, 9, 4))
    new, painted = made.copy(), NOTHING.copy()
    new[40:56, 40:56], painted[38:58, 38:58] = (240, 30, 90), True
    found = match(new, photo, hole(20, 20, 76, 76), painted)
    assert np.abs(found - photo)[~painted].max() < 0.01
    gain, mean = 1 / np.array([1.2, 0.9, 1.05]), np.array((-12, 9, 4))
    assert np.allclose(found[48, 48], (gain * ((240, 30, 90) - mean)).clip(0, 255), atol=0.1)


def test_gains_are_bounded_and_flat_bands_have_none():
    photo, made = lit(1, 0)
    mask = hole(20, 20, 76, 76)
    for factor, kept in ((0.2, GAINS[1]), (3.0, GAINS[0])):
        mean = made.mean((0, 1))
        found = match(factor * (made - mean) + mean, photo, mask, NOTHING)
        band = mask > 0
        assert np.allclose(found[band].std(0), factor * kept * made[band].std(0), rtol=0.01)
    grey = np.full_like(made, 90)
    assert np.allclose(match(grey, grey + 20, mask, NOTHING), grey + 20)


def test_what_is_of_another_colour_at_the_seam_stays():
    """A red flower made blue on purpose is not made red again: the band outside counts, where all is as it was."""
    photo, _ = lit(1, 0)
    blue, mask = photo.copy(), hole(20, 20, 76, 76)
    blue[mask > 0] = photo[mask > 0] * (0.05, 0.6, 1) + (0, 0, 98)
    outside = blue.copy()
    outside[mask == 0] += 5
    assert np.abs(blue - photo)[mask > 0].max(1).min() > 96
    assert np.abs(match(blue, photo, mask, NOTHING) - blue).max() < 3
    assert np.abs(match(outside, photo, mask, NOTHING) - blue + 5)[mask > 0].max() < 3


@pytest.mark.parametrize(("was", "now"), [((200, 60, 80), (235, 140, 160)), ((120, 120, 120), (87, 151, 86))])
def test_a_part_recoloured_on_purpose_keeps_its_new_colour(was, now):
    rng = np.random.default_rng(0)
    photo = np.full((96, 96, 3), (40, 90, 40), np.float32) + rng.normal(0, 6, (96, 96, 1))
    photo[20:76, 20:76] = np.float32(was) + rng.normal(0, 6, (56, 56, 1))
    made, mask = photo.copy(), hole(20, 20, 76, 76)
    made[20:76, 20:76] += np.float32(now) - np.float32(was)
    got = match(made, photo, mask, NOTHING)[30:66, 30:66].mean((0, 1))
    assert np.abs(got - now).max() <= 21 and np.abs(got - was).max() > 12


@pytest.mark.parametrize(
    ("mask", "changes"),
    [
        (np.ones((96, 96), np.float32), False),  # nothing is kept: there is no seam
        (hole(48, 48, 49, 49), True),  # one pixel: by the band outside
        (np.zeros((96, 96), np.float32), False),
        (hole(0, 0, 96, 90), True),
        (hole(20, 20, 76, 76) * 0.4, True),  # soft masks have their seam where they begin
        (np.tile(np.linspace(0, 1, 96, dtype=np.float32), (96, 1)), True),
    ],
)
def test_odd_masks_and_the_rest_to_the_last_bit(mask, changes):
    photo, made = (block.clip(0, 255).astype(np.uint8) for block in lit(1.1, 6))
    pictures = [Image.fromarray(made)] * 2
    bare, found = (np.asarray(paste(pictures, photo, mask, 4, p)[1]) for p in (None, NOTHING))
    assert (found[mask == 0] == photo[mask == 0]).all()
    assert bool((bare != found).any()) == changes
    assert np.abs(found.astype(int) - photo).mean() <= np.abs(bare.astype(int) - photo).mean()


def test_too_few_pixels_change_nothing():
    photo, made = lit(1.1, 6)
    far = made.copy()
    far[...] = 255  # nothing agrees, but in a corner of too few pixels
    far[:4, :4] = made[:4, :4]
    assert FEW > 4 * 4
    assert np.allclose(match(far, photo, hole(0, 0, 30, 96), NOTHING), far)


def ask(tiny, **own):
    photo, mask = picture(5, (64, 64)), Image.new("L", (64, 64))
    mask.paste(255, (12, 12, 52, 52))
    return EditRequest(photo, photo=photo, mask=mask, steps=6, strength=0.3, model=str(tiny), size=64, **own)


def step(frame, request):
    """The mean step of colour at the seam, beyond the photograph's own."""
    made, photo = (p.astype(float) for p in block([frame, request.photo]))
    return np.abs((made - photo)[20:44, 20:44].mean((0, 1)))


def test_edits_have_it_and_a_box_takes_it_off(models, tiny):
    request = ask(tiny)
    assert request.match and not EditRequest.presets["paper"]["match"]
    with_it, without = (done(models, replace(request, match=m)).frames[0] for m in (True, False))
    photo, mask = np.asarray(request.photo), np.asarray(request.mask)
    for frame in (with_it, without):
        assert (np.asarray(frame)[mask == 0] == photo[mask == 0]).all()
    assert step(with_it, request).sum() < step(without, request).sum()
    whole = [done(models, replace(request, mask=None, match=m)).frames[0].tobytes() for m in (True, False)]
    assert whole[0] == whole[1]  # nothing is composited
    assert not np.subtract(*block([done(models, replace(request, strength=0.0)).frames[0], request.photo])).any()


def test_a_guide_of_another_program_is_the_photograph_where_it_is_nearly_that(models, tiny):
    request, draw = ask(tiny), np.random.default_rng(0)
    near = np.asarray(request.guide).astype(int) + draw.integers(-SAME, SAME + 1, (64, 64, 3))
    guide = Image.fromarray(near.clip(0, 255).astype(np.uint8))
    frames = [done(models, replace(request, guide=guide, match=m)).frames[0] for m in (True, False)]
    assert step(frames[0], request).sum() < step(frames[1], request).sum()


def test_drawings_over_a_photograph_have_it(models, tmp_path):
    from conftest import make_network

    net = make_network(tmp_path / "net", extra=8)
    lines = Image.new("RGBA", (64, 64))
    lines.paste((0, 0, 0, 255), (30, 30, 34, 34))
    request = DrawRequest(lines, photo=picture(5, (64, 64)), around=20, steps=4, model=str(net), size=64)
    with_it, without = (np.asarray(done(models, replace(request, match=m)).frames[0]) for m in (True, False))
    assert (with_it != without).any() and (with_it[0] == without[0]).all()


def test_settings_of_files_from_before_give_the_same_picture_again():
    import gradio as gr

    from morph_ui.form import Form

    with gr.Blocks():
        form = Form(EditRequest, Settings(), gr.Column())
    box = form.widgets["match"]
    assert box.value and [form.load(s)[box] for s in ({}, {"match": True}, {"match": False})] == [False, True, False]
