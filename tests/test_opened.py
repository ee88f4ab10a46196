"""Uploads are opened once, for the page and for every reader: upright, sRGB, one picture, without metadata."""

import errno
import json
import os
from pathlib import Path, PureWindowsPath

import pytest
from conftest import picture
from gradio.utils import get_upload_folder
from PIL import Image

from engine.vision import images
from morph_ui.components.opened import opened
from morph_ui.components.pair import paths
from morph_ui.session import address


@pytest.fixture
def put():
    folder = Path(get_upload_folder()) / "opened-test"
    folder.mkdir(parents=True, exist_ok=True)

    def put(name, image, **how):
        image.save(folder / name, **how)
        return folder / name

    yield put
    for path in folder.iterdir():
        path.unlink()


def exif(**tags):
    out = Image.Exif()
    out[0x0112], out[0x010F] = tags.get("turn", 1), "a camera"
    out.get_ifd(0x8825)[1] = "N"  # where it was taken
    return out


def test_what_is_plain_stays_as_it_is(put):
    for name in ("a.png", "a.jpg", "a.webp"):
        path = put(name, picture(1))
        before = path.read_bytes()
        got = opened({"path": str(path)})
        assert got["path"] == str(path) and not got["note"] and path.read_bytes() == before


@pytest.mark.parametrize("name", ["t.webp", "t.jpg", "t.png", "t.tiff"])
def test_a_turned_picture_lies_as_it_was_meant_and_tells_no_place(put, name):
    path = put(name, picture(1), exif=exif(turn=6))
    meant = images.read(path)
    got = opened({"path": str(path)})
    path = Path(got["path"])
    assert meant.size == (64, 80) and path.suffix in (".webp", ".jpg", ".png")  # as browsers know it
    with Image.open(path) as file:
        assert file.size == (64, 80) and not file.getexif() and b"a camera" not in path.read_bytes()
    assert images.read(path).tobytes() == meant.tobytes()
    again = path.read_bytes()
    opened({"path": str(path)})
    assert path.read_bytes() == again


def test_what_browsers_show_otherwise_is_written_as_we_read_it(put):
    frames = [picture(i) for i in range(3)]
    how = {"save_all": True, "append_images": frames[1:], "duration": 100}
    for path, note in (
        (put("c.jpg", picture(1).convert("CMYK")), ""),
        (put("a.png", picture(1).convert("RGBA")), ""),
        (put("m.gif", frames[0], **how), "m.gif has 3 pictures; the first is used."),
        (put("m.webp", frames[0], **how), "m.webp has 3 pictures; the first is used."),
    ):
        meant = images.read(path)
        assert opened({"path": str(path)})["note"] == note
        with Image.open(path) as file:
            assert file.mode == "RGB" and getattr(file, "n_frames", 1) == 1
            assert file.convert("RGB").tobytes() == meant.tobytes()


def test_what_is_clear_stays_clear(put):
    """As a patch it would be a white box otherwise."""
    clear = picture(1).convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 20, 20))
    for name in ("s.png", "s.webp", "s.tiff"):
        with Image.open(opened({"path": str(put(name, clear))})["path"]) as file:
            assert file.mode == "RGBA" and file.getchannel("A").getextrema() == (0, 255)


def test_what_is_no_upload_or_no_picture(put):
    broken = put("b.png", picture(1))
    broken.write_bytes(b"nothing of the kind")
    for path, words in (
        ("/etc/passwd", "uploaded here, got passwd"),
        (f"{get_upload_folder()}/../../etc/passwd", "must be uploaded here"),
        (f"{get_upload_folder()}/gone.png", "must be dropped again, got gone.png"),
        (str(broken), "got b.png, which is none."),
        (None, "must be an upload"),
    ):
        assert words in opened({"path": path})["error"]
    assert "must be an upload" in opened("x")["error"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_cannot_be_kept_says_why_and_leaves_nothing(put, monkeypatch, code):
    """A full disk is no picture that is gone."""

    def full(*args, **how):
        raise OSError(code, os.strerror(code))

    path = put("t.tiff", picture(1))
    before = path.read_bytes()
    monkeypatch.setattr(Image.Image, "save", full)
    error = opened({"path": str(path)})["error"]
    assert error == f"Picture must be kept while it is used, got t.tiff: {os.strerror(code)}."
    assert [p.name for p in path.parent.iterdir()] == ["t.tiff"] and path.read_bytes() == before


def test_names_that_can_be_no_file(put):
    there = Path(get_upload_folder())
    (there / "opened-test" / "loop.png").symlink_to(there / "opened-test" / "loop.png")
    for name, words in (
        (f"{there}/{'a' * 300}.png", "has a longer name than files can have"),
        (f"{there}/a\0.png", "has letters that no file name has"),
        (f"{there}/a\ud800.png", "has letters that no file name has"),
        (f"{there}/opened-test/loop.png", "is a link to itself"),
        (f"{there}/opened-test", "is a folder"),
    ):
        error = opened({"path": name})["error"]
        assert words in error and "must be dropped again" in error
        error.encode()  # it is sent


def test_addresses_are_those_of_every_system():
    assert address(PureWindowsPath("C:\\a b\\ü#.png")) == "gradio_api/file=C:/a%20b/%C3%BC%23.png"


def test_the_pair_believes_nothing(put):
    path = str(put("p.png", picture(1)))
    assert paths(json.dumps({"a": path, "b": "/etc/passwd"})) == {}
    assert paths(json.dumps({"b": path, "n": 3})) == {"b": path}
    for text in (None, "", "[1]", "no json", "5", '{"a": 5}'):
        assert paths(text) == {}
