"""Bad input, and how it is tried: what the tests of it share."""

import contextlib
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import gradio as gr
import pytest
from conftest import done, picture
from gradio.utils import get_upload_folder
from PIL import Image

import engine.__main__ as cli
from engine.requests import EditRequest, EngineError
from morph_ui.panels.status import sentence

A = picture(0, (64, 64))
DEEP = "[" * 100_000


@pytest.fixture(scope="module", name="here")
def place(tmp_path_factory):
    """A folder with sound pictures, inside the uploads, so that every door takes what lies there; a pipe and a loop."""
    folder = Path(get_upload_folder()) / tmp_path_factory.mktemp("bad").name
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for i, name in enumerate("ab"):
            picture(i, (64, 64)).save(f"{name}.png")
        yield folder


def begun(*args):
    raise AssertionError("it was not refused")


def command(*args):
    """What the command line refuses, as an EngineError; the work is not begun."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["engine", *map(str, args)])
        patch.setattr(cli, "work", begun)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main()
            except SystemExit as e:  # argparse's own
                code = e.code
    assert code == 2 and not out.getvalue() and "Traceback" not in err.getvalue(), err.getvalue()
    last = err.getvalue().strip().splitlines()[-1]
    raise EngineError(last.partition("error: ")[2].replace("argument --", "").replace(": invalid", " must be, got"))


def answer(act):
    """The sentence by which it is refused; what else is raised comes through."""
    try:
        got = act()
    except EngineError as e:
        return sentence(e, names=True)
    except gr.Error as e:
        return e.message
    return got["error"] if isinstance(got, dict) and "error" in got else f"NOT REFUSED: {str(got)[:80]}"


def check(rows):
    """Every row is refused in one line that says what must be and what came."""
    bad = []
    assert len({n for n, _ in rows}) == len(rows)
    for name, act in rows:
        try:
            said = answer(act)
            fine = " must " in said and "got " in said and "\n" not in said and len(said) < 700
            said.encode()
        except Exception as e:
            said, fine = f"{type(e).__name__}: {e}"[:200], False
        bad += [] if fine else [f"{name}: {said}"]
    assert not bad, "\n".join(bad)


def files(here, kinds):
    """The files of a table: name → bytes."""
    for name, block in kinds.items():
        (here / name).write_bytes(block)
    return [(name, here / name) for name in kinds]


@pytest.fixture(autouse=True)
def next_job(request, tiny, models):
    """Whatever was refused, the next job runs."""
    yield
    assert len(done(models, EditRequest(A, steps=2, size=64, model=str(tiny), strength=0.5)).frames) == 1


def png(image=A, **how):
    image.save(block := io.BytesIO(), "PNG", **how)
    return block.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def headed(w, h, *more):
    """A PNG that says it has so many pixels, and has none."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) + b"".join(more)


def coded(form, **how):
    A.save(block := io.BytesIO(), form, **how)
    return block.getvalue()


def zipped(**inside):
    with zipfile.ZipFile(block := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in inside.items():
            z.writestr(name.replace("__", "."), data)
    return block.getvalue()


# fmt: off


def plain_pictures():
    jpeg, tiff = coded("JPEG"), coded("TIFF")
    kinds = {"empty.png": b"", "text.png": b"no picture", "page.jpg": b"<!DOCTYPE html><html>",
        "a.svg": b"<svg xmlns='x'/>",
        "bomb.svg": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "b">]><svg>&a;</svg>',
        "z.svgz": b"\x1f\x8b\x08" + b"x" * 40, "a.pdf": b"%PDF-1.7 x", "a.psd": b"8BPS\0\1" + bytes(99),
        "a.eps": b"%!PS-Adobe", "a.exr": b"v/1\x01" + bytes(99), "a.hdr": b"#?RADIANCE\n",
        "a.jxl": b"\xff\x0a" + bytes(99), "a.xcf": b"gimp xcf v011" + bytes(99), "a.dcm": bytes(128) + b"DICM",
        "a.raf": b"FUJIFILMCCD" + bytes(99), "a.cr3": b"\0\0\0\x18ftypcrx " + bytes(99),
        "a.mp4.png": b"\0\0\0\x18ftypisom" + bytes(99), "a.webm.png": b"\x1aE\xdf\xa3" + bytes(99),
        "a.zip.png": b"PK\x03\x04" + bytes(99), "a.rar.png": b"Rar!\x1a\x07" + bytes(99),
        "a.7z.png": b"7z\xbc\xaf\x27\x1c" + bytes(99), "lfs.png": b"version https://git-lfs.github.com/spec/v1\n",
        "elf.png": b"\x7fELF" + bytes(99), "cut.png": png()[:200], "cut.jpg": jpeg[:200],
        "cut.webp": coded("WEBP")[:60], "cut.gif": coded("GIF")[:40], "cut.tif": tiff[:300], "head.png": png()[:33],
        "crc.png": png()[:20] + b"\xff" + png()[21:], "noise.png": b"\x89PNG\r\n\x1a\n" + os.urandom(500),
        "noise.jpg": b"\xff\xd8\xff\xe0" + os.urandom(500), "noise.gif": b"GIF89a" + os.urandom(300),
        "noise.avif": b"\0\0\0\x1cftypavif" + os.urandom(99), "noise.heic": b"\0\0\0\x18ftypheic" + os.urandom(99),
        "noise.webp": b"RIFF\x40\0\0\0WEBPVP8 " + os.urandom(60), "noise.tif": b"II*\0\x08\0\0\0" + os.urandom(99),
        "noise.bmp": b"BM" + os.urandom(99), "noise.ico": b"\0\0\1\0\1\0" + os.urandom(99),
        "noise.tga": os.urandom(99), "noise.dds": b"DDS |" + bytes(130), "wide.png": headed(30_000, 1),
        "tall.png": headed(1, 30_000), "thin.png": png(Image.new("RGB", (30_000, 15))),
        "tiny.png": png(A.resize((15, 15))), "huge.png": headed(60_000, 60_000),
        "large.png": headed(20_000, 20_000, chunk(b"IDAT", zlib.compress(bytes(999)))),
        "most.png": headed(2**31 - 1, 2**31 - 1),
        "huge.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
        "huge.ppm": b"P6 99999 99999 255 x", "zero.png": headed(0, 64),
        "huge.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "negative.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, -5, 64, 1, 24, 0, 0, 0, 0, 0, 0)}
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    return kinds | {"text bomb.png": headed(64, 64, text, chunk(b"IEND", b""))}
