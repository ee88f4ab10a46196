"""The one door: colours by the profile, depth by the mode, turns of every format, sentences for what stays closed."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from conftest import picture
from PIL import Image, ImageCms, ImageDraw
from pillow_heif import register_heif_opener

from engine.requests import DrawRequest, EngineError, InterpolateRequest, MorphRequest
from engine.vision import images
from engine.vision.drawing import ink_of
from engine.vision.reading import NOTE, opened

register_heif_opener()


def saved(image, format_, **kw):
    block = io.BytesIO()
    image.save(block, format_, **kw)
    return block.getvalue()


def turn(n):
    exif = Image.Exif()
    exif[274] = n
    return exif


def profile(name, gamma, primaries):
    """A matrix profile's bytes: an RGB space by its gamma and its primaries in XYZ (D50)."""

    def s15(v):
        return struct.pack(">i", round(v * 65536))

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = name.encode()
    desc = b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78)
    tags = {b"desc": desc, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": xyz(s15, (0.9642, 1, 0.8249))}
    tags |= {n: xyz(s15, p) for n, p in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, block in tags.items():
        table += tag + struct.pack(">II", at + len(body), len(block))
        body += block + bytes(-len(block) % 4)
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + s15(0.9642) + s15(1) + s15(0.8249)
    return head.ljust(128, b"\0") + table + body


def xyz(s15, values):
    return b"XYZ " + bytes(4) + b"".join(map(s15, values))


P3 = profile("Display P3", 2.2, ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)))


def test_colours_are_those_of_the_profile():
    srgb, own = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(P3))
    want = Image.new("RGB", (32, 32), (230, 40, 40))
    stored = ImageCms.profileToProfile(want, srgb, own, outputMode="RGB")
    assert max(abs(a - b) for a, b in zip(stored.getpixel((5, 5)), (230, 40, 40), strict=True)) > 10
    for kind in ("PNG", "TIFF", "WEBP", "JPEG"):
        how = {"lossless": True} if kind == "WEBP" else {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
        read = images.read(saved(stored, kind, icc_profile=P3, **how))
        assert np.abs(np.asarray(read, int) - (230, 40, 40)).max() <= 3 and not read.info
        layer = images.layer(saved(stored, kind, icc_profile=P3, **how), "strokes", "strokes")
        assert np.abs(np.asarray(layer, int) - (230, 40, 40, 255)).max() <= 3
    clear = stored.convert("RGBA")
    clear.putalpha(128)
    assert np.abs(np.asarray(opened(saved(clear, "PNG", icc_profile=P3)), int) - (230, 40, 40, 128)).max() <= 3
    few = saved(stored.quantize(4), "PNG", icc_profile=P3)
    assert np.abs(np.asarray(opened(few), int) - (230, 40, 40)).max() <= 3


@pytest.mark.parametrize("icc", [b"nonsense" * 30, P3[:200], b""])
def test_a_broken_profile_is_none(icc):
    assert (
        images.read(saved(Image.new("RGB", (32, 32), (230, 40, 40)), "PNG", icc_profile=icc)).getpixel((5, 5))[1] == 40
    )


def test_depth_is_scaled_by_the_mode():
    def grey(block):
        return np.asarray(opened(block))[..., 0]

    for top in (200, 300):  # and never by the largest value that a picture happens to hold
        ramp = np.tile(np.linspace(0, top, 32).astype(np.uint16), (32, 1))
        assert np.array_equal(grey(saved(Image.fromarray(ramp), "PNG")), np.rint(ramp / 257))
    ramp = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    assert np.abs(grey(saved(Image.fromarray(ramp), "TIFF")) - 255 * ramp).max() <= 0.51
    assert grey(saved(Image.fromarray(ramp * 0.1), "TIFF")).max() in (25, 26)
    assert grey(saved(Image.fromarray(ramp * 1.0005), "TIFF")).max() == 255
    ramp[3, 3] = np.nan
    for wrong, match in (
        (ramp, "must hold numbers, got some that are none"),
        (
            np.tile(np.linspace(0, 255, 32, dtype=np.float32), (32, 1)),
            "values from 0 to 1, got 0 to 255; save it with 8",
        ),
        (np.full((32, 32), 200000, np.int32), "must say what is white, got whole numbers of 32 bits"),
        (np.full((32, 32), 200, np.int32), "must say what is white, got whole numbers of 32 bits"),
    ):
        with pytest.raises(EngineError, match=match):
            opened(saved(Image.fromarray(wrong), "TIFF"))


def tiff(values):
    done, block = cv2.imencode(".tiff", values)
    assert done
    return block.tobytes()


def test_tiffs_of_floats_have_their_colours():
    ramp = np.stack([np.tile(np.linspace(0, top, 32), (32, 1)) for top in (0.25, 0.5, 1)], 2)  # blue, green, red
    want = np.rint(255 * ramp[..., ::-1])
    for kind in (np.float32, np.float64):
        assert np.abs(np.asarray(opened(tiff(ramp.astype(kind))), int) - want).max() <= 1
    bright = opened(tiff((2 * ramp).astype(np.float32)), "picture 2")
    assert np.abs(np.asarray(bright, int) - np.minimum(255, 2 * want)).max() <= 2
    assert bright.info == {NOTE: "picture 2 has 17 % of its values beyond 1, shown as 1"}
    with pytest.raises(EngineError, match="values from 0 to 1, got 0 to 255"):
        opened(tiff((255 * ramp).astype(np.float32)))


def test_whole_numbers_have_the_white_of_their_kind():
    ramp = np.tile(np.linspace(0, 1, 32), (32, 1))
    signed = saved(Image.fromarray((32767 * ramp).astype(np.uint16)), "TIFF", tiffinfo={339: 2})
    inverse = saved(Image.fromarray((65535 * ramp).astype(np.uint16)), "TIFF", tiffinfo={262: 0})
    for block, want in ((signed, ramp), (inverse, 1 - ramp)):
        assert np.abs(np.asarray(opened(block), float)[..., 0] - 255 * want).max() <= 1
    planes = saved(Image.fromarray((65535 * ramp).astype(np.uint16)), "TIFF", tiffinfo={284: 2})
    with pytest.raises(EngineError, match="a TIFF of 1 × 16-bit numbers in separate planes; save it with 8 or 16 bits"):
        opened(planes)


def chunked(image, *chunks):
    block = saved(image, "PNG")
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return block[:33] + b"".join(parts) + block[33:]


def test_a_png_names_its_colours():
    p3 = Image.new("RGB", (32, 32), (212, 61, 52))
    assert np.abs(np.asarray(opened(chunked(p3, (b"cICP", bytes([12, 13, 0, 1])))), int) - (230, 40, 40)).max() <= 3
    assert opened(chunked(p3, (b"cICP", bytes([2, 2, 0, 1])))).getpixel((5, 5)) == (212, 61, 52)
    adobe = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    own = profile("Adobe", 2.2, ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)))
    image = Image.new("RGB", (32, 32), (183, 176, 89))
    want = np.asarray(opened(saved(image, "PNG", icc_profile=own)), int)
    named = chunked(image, (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", struct.pack(">8I", *adobe)))
    assert np.abs(np.asarray(opened(named), int) - want).max() <= 3 < np.abs(want - (183, 176, 89)).max()


def test_a_grey_profile_counts_with_alpha_and_in_a_palette():
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 256) + bytes(2)  # linear light
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I", 2) + b"kTRC" + struct.pack(">II", 156, 16) + b"wtpt" + struct.pack(">II", 172, 20)
    head = struct.pack(">I4sI4s4s4s", 192, bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    icc = (head.ljust(68, b"\0") + white[8:]).ljust(128, b"\0") + tags + curve + white
    grey = Image.new("L", (32, 32), 128)
    for image in (grey, grey.convert("LA"), grey.quantize(2)):
        assert abs(opened(saved(image, "PNG", icc_profile=icc)).getpixel((5, 5))[0] - 188) <= 3


def test_what_lies_in_the_way_is_a_sentence(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    cases = {tmp_path: "is a folder", tmp_path / "pipe.png": "is a device", tmp_path / ("x" * 300): "has a longer name"}
    cases |= {tmp_path / "a\0b": "has letters", tmp_path / "pipe.png" / "x.png": "is not there"}
    for path, said in cases.items():
        with pytest.raises(EngineError, match=f"picture must be a picture file, got .*, which {said}"):
            opened(path)
    (tmp_path / "a.png").write_bytes(b"8BPS")
    with pytest.raises(EngineError) as e:
        opened(tmp_path / "a.png", "a.png")
    assert str(e.value).count("a.png") == 1 and "a Photoshop file; save it there as PNG" in str(e.value)
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    with pytest.raises(EngineError, match=r"got a.png, which may not be read"):
        opened(tmp_path / "a.png")
    with pytest.raises(EngineError, match="which is cut short; send or copy it again"):
        opened(saved(picture(0, (400, 400)), "JPEG")[:-2000])


def test_every_format_is_turned_by_exif_and_broken_exif_is_none():
    p = Image.new("RGB", (60, 30), "red")
    p.paste("blue", (0, 0, 20, 30))
    for kind in ("JPEG", "WEBP", "PNG", "AVIF"):
        for read in (images.read, lambda b: images.layer(b, "strokes", "strokes")):
            turned = read(saved(p, kind, exif=turn(6)))
            assert turned.size == (30, 60) and turned.getpixel((15, 5))[2] > 200
    assert opened(saved(p, "TIFF", tiffinfo={274: 6})).size == (30, 60)
    for broken in (b"garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0"):
        for kind in ("JPEG", "WEBP", "PNG"):
            assert opened(saved(p, kind, exif=broken)).size == (60, 30)
    for n in (0, 9, 65535):
        assert opened(saved(p, "WEBP", exif=turn(n))).size == (60, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_a_picture_is_turned_once(kind):
    upright = Image.new("RGB", (64, 48), "white")
    upright.paste("red", (0, 0, 24, 16))
    upright.paste("blue", (40, 32, 64, 48))
    way = (
        None,
        "FLIP_LEFT_RIGHT",
        "ROTATE_180",
        "FLIP_TOP_BOTTOM",
        "TRANSPOSE",
        "ROTATE_90",
        "TRANSVERSE",
        "ROTATE_270",
    )
    for n, back in enumerate(way, 1):
        stored = upright.transpose(Image.Transpose[back]) if back else upright
        how = {"tiffinfo": {274: n}} if kind == "TIFF" else {"exif": turn(n).tobytes(), "quality": 95}
        found = opened(saved(stored, kind, **how))
        assert found.size == (64, 48) and np.abs(np.asarray(found, int) - np.asarray(upright, int)).mean() < 12, n


def test_a_phone_s_photograph_is_decoded_at_a_fraction():
    assert opened(saved(Image.new("L", (8064, 6048), 90), "JPEG")).size == (4032, 3024)


def test_heic_opens_and_an_animation_gives_its_first_picture_with_a_word():
    p, second = Image.new("RGB", (64, 48), (200, 60, 40)), Image.new("RGB", (64, 48), "blue")
    assert np.abs(np.asarray(images.read(saved(p, "HEIF", quality=95)), int) - (200, 60, 40)).max() < 8
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        found = images.read(saved(p, kind, save_all=True, append_images=[second]), "picture 2")
        assert found.getpixel((5, 5))[0] > 190 and found.info == {NOTE: "picture 2 has 2 pictures; the first is used"}


@pytest.mark.parametrize(
    "file, block, said",
    [
        ("a.psd", b"8BPS\0\1" + bytes(40), "a Photoshop file; save it there as PNG"),
        ("a.jpg", b"%PDF-1.7 ", "a PDF; save the page as PNG"),
        ("a.svg", b"<?xml version='1.0'?>\n<!-- x -->\n<svg xmlns=''/>", "an SVG drawing; save it as PNG"),
        ("a.cr3", b"\0\0\0\x18ftypcrx ", "a camera's RAW file; save it as JPEG"),
        ("a.NEF", b"unknown", "a camera's RAW file"),
        ("a.dng", saved(Image.new("RGB", (64, 48)), "TIFF"), "a camera's RAW file"),
        ("a.tif", saved(Image.new("RGB", (64, 48)), "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "a camera's RAW file"),
        ("a.jxl", b"\xff\x0a" + bytes(30), "a JPEG XL; save it as PNG or JPEG"),
        ("a.png", b"", "which is empty"),
        ("a.jpeg", b"\n<!DOCTYPE html><html><svg>", "a web page"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("a.mov", b"\0\0\0\x14ftypqt  ", "a film"),
        ("a.kra", b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/x-krita", "a file of a drawing program"),
        ("a.zip", b"PK\x03\x04" + bytes(60), "an archive"),
        ("a.heic", saved(Image.new("RGB", (64, 48)), "HEIF")[:200], "which is broken"),
        ("a.txt", b"hello", "which is none"),
    ],
)
def test_what_stays_closed_is_named_with_what_to_do(file, block, said, tmp_path):
    (tmp_path / file).write_bytes(block)
    with pytest.raises(EngineError) as e:
        images.read(tmp_path / file, "picture 3")
    assert str(e.value).startswith("picture 3 must be a ") and f"got {file}, " in str(e.value) and said in str(e.value)


def test_a_mask_s_alpha_counts_only_where_it_says_something():
    def share(image):
        found = images.layer(saved(image, "PNG"), "mask", "mask")
        return round(float(np.asarray(found).mean() / 255), 2), found.info[NOTE]

    plain = Image.new("RGBA", (64, 64), "black")
    plain.paste("white", (0, 0, 32, 16))
    one, hole, photo, paint = (
        plain.copy(),
        plain.copy(),
        picture(3, (64, 64)).convert("RGBA"),
        Image.new("RGBA", (64, 64)),
    )
    one.putpixel((60, 60), (0, 0, 0, 254))
    hole.paste((0, 0, 0, 0), (40, 40, 60, 60))
    photo.paste((0, 0, 0, 0), (40, 40, 60, 60))
    paint.paste((255, 0, 0, 255), (0, 0, 20, 20))
    for image in (plain, one, hole):
        assert share(image) == (0.12, "mask: the white part may change, 12 % of the picture")
    assert share(photo) == (0.1, "mask: the clear part may change, 10 % of the picture")
    assert share(paint) == (0.1, "mask: the painted part may change, 10 % of the picture")
    jpeg = images.layer(saved(plain.convert("RGB"), "JPEG", quality=60), "mask", "mask")
    assert np.asarray(jpeg)[40:].max() == 0 and np.asarray(jpeg)[:8, :24].min() == 255


def test_a_colour_is_a_mask_and_so_is_what_was_painted_here():
    for ground in ("black", "white"):
        image = Image.new("RGB", (64, 64), ground)
        image.paste((214, 36, 159), (0, 0, 32, 16))
        found = images.layer(saved(image, "PNG"), "mask", "mask")
        assert found.getpixel((5, 5)) == 255 and found.getpixel((50, 50)) == 0
        assert found.info[NOTE] == "mask: the coloured part may change, 12 % of the picture"
    grey = Image.effect_noise((64, 64), 90).convert("RGBA")
    grey.paste((0, 0, 0, 0), (0, 0, 32, 16))
    assert "the clear part may change, 12 %" in images.layer(saved(grey, "PNG"), "mask", "mask").info[NOTE]
    painted = Image.new("L", (64, 64))
    painted.paste(255, (0, 0, 32, 16))
    photo, strokes = Image.new("RGB", (64, 64)), Image.new("RGBA", (64, 64), "red")
    said = images.notes(DrawRequest(strokes=strokes, photo=photo, mask=painted), (64, 64))
    assert said == ["Mask: the painted part may change, 12 % of the picture"]


def drawn(side=350):
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).ellipse((100, 60, 240, 200), outline=255, width=4)
    ImageDraw.Draw(image).line((170, 200, 170, 320), fill=255, width=4)
    return np.asarray(image) > 0


def inked(block):
    return np.asarray(images.layer(Image.fromarray(block.clip(0, 255).astype(np.uint8)), "s", "sketch").getchannel("A"))


@pytest.mark.parametrize("table", [25, 60])
def test_the_table_under_a_drawing_is_no_ink(table):
    line, rng = drawn(), np.random.default_rng(0)
    y, x = np.mgrid[:350, :350] / 350
    away = (x + 0.1 * y < 0.12) | (y - 0.05 * x > 0.93)
    sheet = np.where(line, 80, 215) * (1 - 0.25 * x - 0.1 * y) * (1 - 0.3 / (1 + np.exp((0.6 - y) * 40)))
    ink = inked(np.where(away, table, sheet)[..., None] * (1, 0.9, 0.75) + 4 * rng.normal(size=(350, 350, 3)))
    assert ink[line & ~away].mean() > 190 and ink[~line].mean() < 1
    assert inked(np.where(y > 0.75, 0, 255)[..., None] * np.ones(3))[300:].min() == 255  # drawn on a computer


def test_every_pencil_is_ink_and_the_paper_s_own_lines_are_none():
    line, rng = drawn(), np.random.default_rng(0)
    for pen in ((0, 0, 0), (245, 220, 60), (220, 70, 50), (215, 215, 210)):
        ink = inked(np.where(line[..., None], pen, (250, 248, 240)) + 1.5 * rng.normal(size=(350, 350, 3)))
        assert ink[line].mean() > 180 and ink[~line].mean() < 1
    ruled = np.where((np.arange(350) % 25 == 0)[:, None, None], (170, 190, 225), (240, 240, 240)) * np.ones((1, 350, 1))
    for paper in (ruled, np.minimum(ruled, ruled.transpose(1, 0, 2))):
        ink = inked(np.where(line[..., None], 60, paper) + 2 * rng.normal(size=(350, 350, 3)))
        assert ink[line].mean() > 180 and ink[~line].mean() < 1


def test_ink_is_what_is_drawn_whatever_the_paper():
    image = Image.new("L", (256, 256))
    ImageDraw.Draw(image).ellipse((60, 60, 190, 200), outline=255, width=4)
    ImageDraw.Draw(image).line((10, 30, 240, 220), fill=255, width=3)
    line, rng = np.asarray(image) > 0, np.random.default_rng(0)
    y, x = np.mgrid[:256, :256] / 256
    photo, shadow = 200 * (1 - 0.5 * x - 0.2 * y), np.where(y + 0.3 * x > 0.7, 0.7, 1) * 210
    papers = [(255, 0, 0), (180, 20, 0), (100, 0, 0), (180, 40, 6), (photo, photo * 0.55, 4), (shadow, shadow * 0.5, 4)]
    for paper, pen, noise in (*papers, (0, 255, 0), (40, 220, 5)):
        grey = np.where(line, pen, paper) + noise * rng.normal(size=line.shape)
        ink, turned = ink_of(grey.clip(0, 255).astype(np.uint8))
        assert ink[line].mean() > 220 and ink[~line].mean() < 3 and turned is bool(np.mean(paper) < 50)
    solid = np.full((256, 256), 255, np.uint8)
    solid[60:200, 80:200] = 0
    assert np.array_equal(ink_of(solid)[0], 255 - solid)


def test_a_sketch_says_what_was_understood_of_it():
    white = Image.new("L", (64, 64))
    ImageDraw.Draw(white).line((0, 32, 64, 32), fill=255, width=4)
    found = images.layer(saved(white, "PNG"), "sketch", "sketch")
    assert found.getpixel((30, 32)) == (0, 0, 0, 255) and found.getpixel((30, 3))[3] == 0
    assert found.info[NOTE] == "sketch: it is mostly dark, so its light lines are taken for ink"
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.paste((255, 255, 255, 255), (0, 30, 64, 34))
    found = images.layer(saved(clear, "PNG"), "sketch", "sketch")
    assert found.getpixel((30, 32)) == (0, 0, 0, 255) and "light lines" in found.info[NOTE]


def test_what_frames_leave_out_is_said():
    tall, square = Image.new("RGB", (200, 9000)), Image.new("RGB", (300, 300))
    size = images.frame_size(tall, "fit", 256, 64)
    assert size == (64, 192)
    said = images.notes(MorphRequest((tall, square), size=250), size)
    assert said[0].startswith("Size is 192, not 250") and said[1:] == [
        "Of picture 1 the middle 7 % is shown; the shape “square, all of it” (fit pad) shows it whole",
        "Of picture 2 the middle 33 % is shown; the shape “square, all of it” (fit pad) shows it whole",
    ]
    assert not images.notes(MorphRequest((tall, square), fit="crop"), (256, 256))
    layer = Image.new("RGBA", (300, 300), "red")
    assert images.notes(DrawRequest(strokes=layer, photo=tall), (256, 256)) == ["Of photo the middle 2 % is shown"]
    wide = Image.new("RGB", (1200, 90))
    assert images.notes(InterpolateRequest(square, wide), (256, 256)) == [
        "Of picture B the middle 8 % is shown; the shape “square, all of it” (fit pad) shows it whole"
    ]
