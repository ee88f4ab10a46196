"""Low-pass, masks, layers and drawing files: against closed forms and plain facts."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from engine.requests import EngineError
from engine.vision import images
from engine.vision.compositing import latent_grid, paint, paste, region, scale, without_coarse
from engine.vision.drawing import (
    faithfulness,
    feather,
    grow,
    ilvr,
    lowpass,
    refine_size,
    sketch_of,
    spread,
    strokes_of,
)


def test_the_size_of_the_low_pass_is_the_published_one():
    assert [refine_size(512, realism) for realism in (0, 0.5, 1)] == [64, 32, 1]
    assert [refine_size(512, realism, 16) for realism in (0, 0.5, 1)] == [80, 48, 17]


def test_the_low_pass_keeps_means_and_flat_pictures_and_drops_the_rest():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one = lowpass(x, 1)
    assert torch.allclose(one, one[..., :1, :1].expand_as(x)) and float(one.abs().max()) < 0.2
    assert torch.equal(lowpass(x, 32), x) and torch.equal(lowpass(x, 99), x)
    flat = torch.full((1, 1, 32, 16), 0.7)
    assert torch.allclose(lowpass(flat, 4), flat)
    energies = [float(lowpass(x, n).var()) for n in (1, 4, 8, 16, 32)]
    assert energies == sorted(energies)


def test_ilvr_replaces_the_low_pass_and_only_where_it_may():
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 4, 32, 32, generator=rng) for _ in range(2))
    whole = torch.ones(1, 1, 32, 32)
    out = ilvr(x, y, [1, 32], whole)
    assert torch.allclose(lowpass(out, 1)[0], lowpass(y, 1)[0], atol=1e-5)
    assert float((out - x)[0].flatten(1).std(1).max()) < 1e-5  # and nothing else has changed
    assert torch.allclose(out[1], y[1], atol=1e-5)
    half = whole.clone()
    half[..., 16:] = 0
    out = ilvr(x, y, [4, 4], half)
    assert torch.equal(out[..., 16:], x[..., 16:])
    # What lies outside must not leak in: another y there changes nothing.
    other = torch.where(half > 0, y, y + 100)
    assert torch.allclose(out, ilvr(x, other, [4, 4], half))
    # Nor may what lies inside fade towards the edge.
    assert torch.allclose(ilvr(x, x + 1, [4, 4], half), x + half, atol=1e-4)


def test_colours_are_carried_on_without_being_changed():
    colour = np.zeros((40, 60, 3), np.uint8)
    alpha = np.zeros((40, 60), np.float32)
    colour[10:20, 10:20], alpha[10:20, 10:20] = (200, 30, 40), 1
    out = spread(colour, alpha)
    assert np.abs(out.astype(int) - (200, 30, 40)).max() <= 1
    assert (spread(colour, np.zeros_like(alpha)) == 128).all()
    two = alpha.copy()
    colour[10:20, 40:50], two[10:20, 40:50] = (0, 0, 250), 1
    out = spread(colour, two).astype(int)
    assert (out[two > 0] == colour[two > 0]).all() and out[15, 5, 0] > out[15, 55, 0]


def test_regions_grow_outwards_and_feathers_inwards():
    alpha = np.zeros((64, 64), np.float32)
    alpha[30:34, 30:34] = 0.5
    around = grow(alpha, 10)
    assert set(np.unique(around)) == {0, 1} and around[31, 21] == 1 and around[31, 15] == 0
    assert not grow(np.zeros_like(alpha), 10).any()
    soft = feather(around, 4)
    assert (soft[around == 0] == 0).all() and soft[31, 31] == 1 and 0 < soft[31, 20:22].min() < 1
    assert (feather(np.ones((8, 8), np.float32), 4) == 1).all() and (feather(around, 0)[around > 0] == 1).all()


def test_how_a_drawing_is_followed_is_zero_for_itself_and_grows():
    photo = np.asarray(picture(3, (64, 64)))
    lines, paint_ = sketch_of(photo), strokes_of(photo)
    own, other = faithfulness(photo, lines, photo), faithfulness(np.asarray(picture(4, (64, 64))), 255 - lines, paint_)
    assert own == {"lines": 0, "colours": 0} and other["colours"] > 5 and other["lines"] > 0.5
    half = np.zeros((64, 64), np.float32)
    half[:, :32] = 1
    wrong = photo.copy()
    wrong[:, 32:] = 255 - wrong[:, 32:]
    assert faithfulness(wrong, None, photo, half) == {"colours": 0}


def test_layers_mean_what_people_mean():
    dark = Image.new("L", (40, 40), 255)
    ImageDraw.Draw(dark).line((0, 20, 40, 20), fill=0, width=4)
    lines = images.layer(dark, "sketch", "sketch")
    assert lines.mode == "RGBA" and lines.getpixel((5, 20))[3] == 255 and lines.getpixel((5, 5))[3] == 0
    whole = images.layer(dark.convert("RGB"), "strokes", "strokes")
    assert whole.getchannel("A").getextrema() == (255, 255)
    assert images.layer(dark, "mask", "mask").getpixel((5, 5)) == 255
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    clear.putpixel((3, 3), (9, 9, 9, 128))
    assert images.layer(clear, "mask", "mask").getpixel((3, 3)) == 128
    assert images.layer(clear, "sketch", "sketch").getpixel((3, 3)) == (9, 9, 9, 128)
    deep = Image.fromarray(np.full((40, 40), 129 * 257, np.uint16))
    assert images.layer(deep, "guide", "strokes").getpixel((1, 1)) == (129, 129, 129, 255)
    with pytest.raises(EngineError, match="sketch must be a picture"):
        images.layer(b"no picture", "sketch", "sketch")


def test_colours_do_not_fade_into_what_is_transparent():
    layer = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    layer.paste((200, 0, 0, 255), (0, 0, 31, 64))
    small = paint(layer, (16, 16))
    assert (small.colour[small.alpha > 0] == (200, 0, 0)).all() and small.alpha[0, 7] == pytest.approx(0.75, abs=0.01)
    mask = Image.new("L", (64, 64), 1)
    assert not scale(mask, (16, 16)).any()  # the rounding of a soft brush paints nothing
    assert region(None, [small.alpha], 2, (16, 16))[0, 9] == 1


def test_layers_lie_where_the_photograph_has_them():
    """Frames are of whole cells, so other proportions are cropped: layer, mask and photograph alike."""
    photo, layer = Image.new("RGB", (512, 341)), Image.new("RGBA", (512, 341), (0, 0, 0, 0))
    photo.paste((255, 255, 255), (60, 40, 90, 300))
    layer.paste((255, 255, 255, 255), (60, 40, 90, 300))
    framed = np.asarray(images.fit_frame(photo, (256, 192), "fit"))[..., 0] / 255
    for own in (paint(layer, (256, 192)).alpha, scale(layer.getchannel("A"), (256, 192))):
        assert np.abs(own - framed).mean() < 0.01
    with pytest.raises(EngineError, match="mask must cover something at 16 × 16, got nothing that would be seen"):
        region(Image.new("L", (64, 64), 2), [], 0, (16, 16))


def test_noise_keeps_its_detail_at_every_size_and_loses_its_coarse_part():
    for side in (8, 16, 32, 64):
        noise = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
        out = without_coarse(noise, 14.6)
        assert 11 < float(out.std()) < 15
        assert float(lowpass(out, side // 8).std()) < 0.4 * float(lowpass(14.6 * noise, side // 8).std())
        under_paint = without_coarse(noise, 14.6, torch.ones(1, 1, side, side))
        assert torch.allclose(under_paint, (noise - noise.mean((2, 3), keepdim=True)) * (1 + 14.6**2) ** 0.5)


def test_masks_on_the_latents_grid_and_back_on_the_photograph():
    mask = np.zeros((16, 16), np.float32)
    mask[:4, :8] = 1
    assert latent_grid(mask, 8).tolist() == [[[[0.5, 0], [0, 0]]]]
    assert latent_grid(mask, 8, most=True).tolist() == [[[[1, 0], [0, 0]]]]
    photo, made = np.full((16, 16, 3), 7, np.uint8), Image.new("RGB", (16, 16), (200, 100, 0))
    out = np.asarray(paste([made], photo, mask, 2)[0])
    assert (out[mask == 0] == 7).all() and (out[:3, :6] != 7).any() and tuple(out[0, 0]) == (200, 100, 0)


def saved(**change):
    block = io.BytesIO()
    Image.new("RGBA", (32, 32), (200, 10, 10, 255)).save(block, "PNG")
    url = "data:image/png;base64," + base64.b64encode(block.getvalue()).decode()
    layers = {
        "sketch": {"png": url, "visible": True, "opacity": 1},
        "strokes": {"png": url, "visible": True, "opacity": 0.5},
        "mask": {"png": url, "visible": False, "opacity": 1},
    }
    return {"version": 1, "width": 32, "height": 32, "layers": layers, "photo": ""} | change


def test_a_drawing_of_the_canvas_is_read_with_its_layers(tmp_path):
    def write(text):
        info = PngInfo()
        info.add_text("chrysalis-drawing", text)
        Image.new("RGB", (32, 32)).save(tmp_path / "d.png", pnginfo=info)
        return tmp_path / "d.png"

    found = images.drawing(write(json.dumps(saved())))
    assert set(found) == {"sketch", "strokes"} and found["strokes"].getpixel((3, 3))[3] in (127, 128)
    whole = saved(layers={"mask": saved()["layers"]["sketch"]})
    assert images.drawing(write(json.dumps(whole)))["mask"].getextrema() == (255, 255)  # painted all over, in red
    photo = saved()["layers"]["sketch"]["png"]
    assert images.drawing(write(json.dumps(saved(photo=photo))))["photo"].mode == "RGB"
    for text in ("no json", "[]", json.dumps(saved(layers={"sketch": 5})), json.dumps(saved(photo="base64,!"))):
        with pytest.raises(EngineError, match="drawing must hold whole layers"):
            images.drawing(write(text))
    Image.new("RGB", (32, 32)).save(tmp_path / "other.png")
    with pytest.raises(EngineError, match="must be a PNG saved by the canvas"):
        images.drawing(tmp_path / "other.png")
