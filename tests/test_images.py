"""Whatever people drop becomes an upright RGB picture in a frame, or a sentence."""

import io
import struct

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from engine.requests import EngineError
from engine.vision import images
from engine.vision.reading import LONGEST


def saved(image, format_, **kw):
    block = io.BytesIO()
    image.save(block, format_, **kw)
    return block.getvalue()


def test_pixels_go_round():
    p = picture(3, (40, 24))
    x = images.to_tensor([p, p])
    assert x.shape == (2, 3, 24, 40) and x.min() >= -1 and x.max() <= 1
    assert images.to_pictures(x)[1].tobytes() == p.tobytes()
    assert np.asarray(images.to_pictures(torch.full((1, 3, 1, 1), 7.0))[0]).max() == 255  # clamped


def test_exif_turns_are_applied():
    p = Image.new("RGB", (60, 30), "red")
    exif = Image.Exif()
    exif[274] = 6
    assert images.read(saved(p, "JPEG", exif=exif)).size == (30, 60)


def test_alpha_lies_on_white():
    p = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert images.read(saved(p, "PNG")).getpixel((3, 3)) == (255, 255, 255)
    palette = p.convert("RGB").quantize(4)
    assert images.read(saved(palette, "PNG", transparency=0)).mode == "RGB"


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "LA"])
def test_other_modes_become_rgb(mode):
    block = saved(picture(1, (32, 32)).convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert images.read(block).mode == "RGB"


def test_sixteen_bits_keep_their_tones():
    ramp = np.tile(np.linspace(0, 65535, 64, dtype=np.uint16), (32, 1))
    out = np.asarray(images.read(saved(Image.fromarray(ramp), "PNG")))
    assert out.min() == 0 and out.max() == 255 and 120 < out[0, 32, 0] < 136


def test_an_animation_gives_its_first_picture():
    gif = saved(
        Image.new("RGB", (32, 32), "blue"), "GIF", save_all=True, append_images=[Image.new("RGB", (32, 32), "red")]
    )
    assert images.read(gif).getpixel((5, 5)) == (0, 0, 255)


def test_refusals(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("this is no picture")
    with pytest.raises(EngineError, match=r"picture A must be a picture .*notes.png, which is none"):
        images.read(text, "picture A")
    whole = saved(picture(0, (400, 400)), "JPEG")
    with pytest.raises(EngineError, match="must be a whole picture file"):
        images.read(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match="at least 16 × 16 pixels, got 1 × 1"):
        images.read(Image.new("RGB", (1, 1)))
    with pytest.raises(EngineError, match=r"at most 100 megapixels, got 120 \(12000 × 10000\)"):
        images.read(saved(Image.new("1", (12000, 10000)), "PNG", compress_level=1))
    huge = bytearray(whole)
    at = huge.index(b"\xff\xc0") + 5  # where a JPEG says its size
    huge[at : at + 4] = struct.pack(">HH", 16384, 16384)
    with pytest.raises(EngineError, match=r"at most 250 megapixels, got 268 \(16384 × 16384\)"):
        images.read(bytes(huge))
    with pytest.raises(EngineError, match="at most 100 megapixels"):
        images.read(saved(Image.new("1", (23000, 23000)), "PNG", compress_level=1))
    with pytest.raises(EngineError, match="which is not there"):
        images.read(tmp_path / "gone.png")


def test_a_large_photograph_is_read_smaller():
    assert max(images.read(saved(Image.new("RGB", (6000, 1000)), "JPEG")).size) <= LONGEST


def test_frames_are_never_squashed():
    wide = picture(2, (300, 100))
    assert images.frame_size(wide, "fit", 256, 8) == (256, 88)
    assert images.frame_size(wide, "crop", 256, 64) == (256, 256)
    assert images.frame_size(picture(2, (1000, 20)), "fit", 256, 8) == (256, 88)
    assert images.frame_size(picture(2, (100, 300)), "fit", 250, 8) == (80, 248)
    assert images.frame_size(picture(2, (100, 100)), "fit", 250, 64) == (256, 256)  # the nearest
    assert images.frame_size(wide, "fit", 256, 64) == (192, 64)  # 3 : 1, and not 4 : 1
    circle = Image.new("RGB", (300, 100), "white")
    circle.paste((0, 0, 0), (140, 40, 160, 60))  # a square in the middle stays a square
    for fit in ("crop", "pad"):
        out = np.asarray(images.fit_frame(circle, (96, 96), fit).convert("L")) < 90
        ys, xs = np.nonzero(out)
        assert abs(np.ptp(ys) - np.ptp(xs)) <= 2 and len(ys) > 9


def test_digest_is_of_the_content():
    p = picture(4)
    assert images.digest(p) == images.digest(p.copy()) != images.digest(picture(5))
