"""Some hundreds of kinds of bad input: each is answered by one sentence, without a traceback, and the next job runs.

A group of kinds is a function that gives rows (what it is, what is to be refused). A row is tried by every door that
takes such a thing: what the page's handlers call, what the API calls, and the command line, all in this process."""

import base64
import contextlib
import io
import json
import math
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import gradio as gr
import pytest
import torch
from conftest import done, picture
from gradio.utils import get_upload_folder
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save

import engine.__main__ as cli
from engine.checkpoints.resolve import resolve
from engine.requests import (
    DrawRequest,
    EditRequest,
    EngineError,
    EnlargeRequest,
    InterpolateRequest,
    MorphRequest,
    fields_of,
    settle,
)
from engine.requests.errors import shown
from engine.requests.finish import finish_of
from engine.vision import sources
from morph_ui import api
from morph_ui.components import canvas, opened, points, skeleton, timeline
from morph_ui.panels.status import sentence
from morph_ui.tabs import interpolate, morph, poses, read_settings

A = picture(0, (64, 64))
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with sound pictures, inside the uploads, so that every door takes what lies there."""
    folder = Path(get_upload_folder()) / "bad-input"
    folder.mkdir(parents=True, exist_ok=True)
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


# ---- pictures


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


def plain_pictures():
    jpeg, tiff = coded("JPEG"), coded("TIFF")
    kinds = {
        "empty.png": b"",
        "text.png": b"no picture",
        "page.jpg": b"<!DOCTYPE html><html>",
        "a.svg": b"<svg xmlns='x'/>",
    }
    kinds |= {
        "bomb.svg": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "b">]><svg>&a;</svg>',
        "z.svgz": b"\x1f\x8b\x08" + b"x" * 40,
    }
    kinds |= {
        "a.pdf": b"%PDF-1.7 x",
        "a.psd": b"8BPS\0\1" + bytes(99),
        "a.eps": b"%!PS-Adobe",
        "a.exr": b"v/1\x01" + bytes(99),
    }
    kinds |= {
        "a.hdr": b"#?RADIANCE\n",
        "a.jxl": b"\xff\x0a" + bytes(99),
        "a.xcf": b"gimp xcf v011" + bytes(99),
        "a.dcm": bytes(128) + b"DICM",
    }
    kinds |= {
        "a.raf": b"FUJIFILMCCD" + bytes(99),
        "a.cr3": b"\0\0\0\x18ftypcrx " + bytes(99),
        "a.mp4.png": b"\0\0\0\x18ftypisom" + bytes(99),
    }
    kinds |= {
        "a.webm.png": b"\x1aE\xdf\xa3" + bytes(99),
        "a.zip.png": b"PK\x03\x04" + bytes(99),
        "a.rar.png": b"Rar!\x1a\x07" + bytes(99),
    }
    kinds |= {
        "a.7z.png": b"7z\xbc\xaf\x27\x1c" + bytes(99),
        "lfs.png": b"version https://git-lfs.github.com/spec/v1\n",
        "elf.png": b"\x7fELF" + bytes(99),
    }
    kinds |= {
        "cut.png": png()[:200],
        "cut.jpg": jpeg[:200],
        "cut.webp": coded("WEBP")[:60],
        "cut.gif": coded("GIF")[:40],
        "cut.tif": tiff[:300],
    }
    kinds |= {
        "head.png": png()[:33],
        "crc.png": png()[:20] + b"\xff" + png()[21:],
        "noise.png": b"\x89PNG\r\n\x1a\n" + os.urandom(500),
    }
    kinds |= {
        "noise.jpg": b"\xff\xd8\xff\xe0" + os.urandom(500),
        "noise.gif": b"GIF89a" + os.urandom(300),
        "noise.avif": b"\0\0\0\x1cftypavif" + os.urandom(99),
    }
    kinds |= {
        "noise.heic": b"\0\0\0\x18ftypheic" + os.urandom(99),
        "noise.webp": b"RIFF\x40\0\0\0WEBPVP8 " + os.urandom(60),
        "noise.tif": b"II*\0\x08\0\0\0" + os.urandom(99),
    }
    kinds |= {
        "noise.bmp": b"BM" + os.urandom(99),
        "noise.ico": b"\0\0\1\0\1\0" + os.urandom(99),
        "noise.tga": os.urandom(99),
        "noise.dds": b"DDS |" + bytes(130),
    }
    kinds |= {
        "wide.png": headed(30_000, 1),
        "tall.png": headed(1, 30_000),
        "thin.png": png(Image.new("RGB", (30_000, 15))),
        "tiny.png": png(A.resize((15, 15))),
    }
    kinds |= {
        "huge.png": headed(60_000, 60_000),
        "large.png": headed(20_000, 20_000, chunk(b"IDAT", zlib.compress(bytes(999)))),
        "most.png": headed(2**31 - 1, 2**31 - 1),
    }
    kinds |= {
        "huge.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
        "huge.ppm": b"P6 99999 99999 255 x",
    }
    kinds |= {
        "huge.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0)
    }
    kinds |= {
        "zero.png": headed(0, 64),
        "negative.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, -5, 64, 1, 24, 0, 0, 0, 0, 0, 0),
    }
    return kinds | {
        "text bomb.png": headed(
            64, 64, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000))), chunk(b"IEND", b"")
        )
    }


def test_pictures(here):
    rows = []
    places = files(here, plain_pictures())
    os.mkfifo(here / "pipe.png")
    (here / "loop.png").symlink_to(here / "loop.png")
    (here / "gone.png").symlink_to(here / "nowhere")
    odd = {"a folder": here, "nothing there": here / "no.png", "a pipe": here / "pipe.png", "a loop": here / "loop.png"}
    odd |= {"a link to nothing": here / "gone.png", "a long name": here / ("a" * 300 + ".png")}
    for name, path in [*places, *odd.items()]:
        rows.append((f"page {name}", lambda p=path: opened.opened({"path": str(p)})))
        rows.append(
            (f"api {name}", lambda p=path: api.open_pictures(EditRequest, {"guide": p, "photo": None, "mask": None}))
        )
        rows.append((f"command {name}", lambda p=path: command("edit", p, "--out", "x.png")))
    names = (
        "/etc/passwd",
        "/dev/zero",
        f"{here}/../../x.png",
        "file:///etc/passwd",
        "\\\\host\\x.png",
        "//host/x.png",
        "",
        None,
        5,
        [],
        {},
    )
    names = (
        *names,
        "a\0.png",
        "a\ud800.png",
        "~/x.png",
        "http://x/y.png",
        "data:image/png;base64,xx",
        "/proc/self/mem",
    )
    rows += [(f"name {n!r}", lambda n=n: opened.opened({"path": n})) for n in names]
    rows += [(f"asked {a!r}", lambda a=a: opened.opened(a)) for a in (None, 5, "x", [], [{"path": "x"}])]
    rows += [(f"points {a!r}", lambda a=a: points.shown(a)) for a in (None, {"path": "/etc/passwd"}, {"path": 5}, "x")]
    check(rows)


# ---- films and zips


def zipped(**inside):
    with zipfile.ZipFile(block := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in inside.items():
            z.writestr(name.replace("__", "."), data)
    return block.getvalue()


def test_films_and_zips(here):
    many = zipped(a__png=png())
    at = many.rindex(b"PK\x05\x06")
    listing = many[:at] + many[at : at + 12] + struct.pack("<I", 2**31) + many[at + 16 :]
    kinds = {
        "list.mp4": b"#EXTM3U\nhttp://127.0.0.1/x.ts\n",
        "talk.mp4": b"v=0\nm=video 5004 RTP/AVP 96\n",
        "empty.mp4": b"",
    }
    kinds |= {
        "concat.mov": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "noise.mp4": b"\0\0\0\x18ftypisom" + os.urandom(500),
        "text.webm": b"x",
    }
    kinds |= {
        "noise.mkv": b"\x1aE\xdf\xa3" + os.urandom(300),
        "noise.avi": b"RIFF\0\0\0\0AVI " + os.urandom(300),
        "huge.gif": plain_pictures()["huge.gif"],
    }
    kinds |= {
        "none.zip": zipped(),
        "text.zip": zipped(a__txt="x"),
        "broken.zip": zipped(a__png=png())[:-30] + b"x",
        "in.zip": zipped(a__png=b"no"),
    }
    kinds |= {
        "zip.zip": zipped(a__zip=zipped(b__png=png())),
        "out.zip": zipped(**{"../../a__png": b"x"}),
        "list.zip": listing,
        "bomb.zip": zipped(a__png=headed(60_000, 60_000)),
    }
    rows = []
    for name, path in files(here, kinds):
        rows.append((f"enlarge {name}", lambda p=path: sources.read_all([p])))
        rows.append((f"command {name}", lambda p=path: command("film", p, "--out", "x.mp4")))
    rows += [
        (f"scale {shown(s)}", lambda s=s: sources.read_all(["a.png"], s))
        for s in (3, 0, -2, 10**5000, math.nan, None, "x", [2])
    ]
    rows += [
        (f"pictures {i}", lambda p=p: EnlargeRequest(p))
        for i, p in enumerate(((), None, 5, (A.resize((8, 8)),), (A.resize((9999, 1999)),)))
    ]
    check(rows)


# ---- settings in files


def test_settings(here):
    own = InterpolateRequest(A, A).settings() | {"keyframes": 2}
    text = {
        "no JSON": "x",
        "a list": "[]",
        "null": "null",
        "a number": "5",
        "deep": DEEP,
        "deep object": '{"a":' * 50_000,
        "no method": "{}",
    }
    text |= {
        "long": json.dumps(own | {"x": "y" * 2_000_000}),
        "digits": '{"method": "interpolate", "seed": ' + "9" * 9999 + "}",
    }
    changed = {
        "method": ["morph", "x" * 99_999, 5, None, "<b>"],
        "frames": ["9", 4, None, [9], 1e9, True],
        "steps": ["x", 9.5, -1, {}],
    }
    changed |= {
        "prompt": [5, None, ["a"], "\ud800", "x" * 99_999, "a\0"],
        "prompts": [5, "x", [5], [None], {"a": 1}, ["x"] * 999],
    }
    changed |= {
        "seeds": ["x", [1.5], [True], ["x"]],
        "points": [5, "x", [[5]], [[[1, 2]]], [[[0, 0, 9, 9]]], {}],
        "picks": [5, [5], [[1]], [[1, "x"]], [None]],
    }
    changed |= {
        "pose_a": [5, [], {}],
        "model": [5, None, "x" * 99_999],
        "low": ["x", math.nan, math.inf, -1],
        "align": ["x", None, 5],
        "keyframes": ["x", 0, 1e9, 10**9, None],
    }
    changed |= {
        "film": [5, "x", [], {"duration": "x"}, {"holds": "x"}, {"fps": -1}, {"nonsense": 1}, {"trim": "9"}],
        "seed": [-5, 2**64, 1.5, "x"],
    }
    text |= {
        f"{n} {str(v)[:20]!r} {i}": json.dumps(own | {n: v}) for n, all_ in changed.items() for i, v in enumerate(all_)
    }
    rows = []
    for i, (name, said) in enumerate(text.items()):
        info = PngInfo()
        info.add_itxt("chrysalis", said)
        (here / f"s{i}.png").write_bytes(png(pnginfo=info))
        rows.append((name, lambda i=i: read_settings("interpolate", str(here / f"s{i}.png"))))
    bomb = headed(
        64, 64, chunk(b"iTXt", b"chrysalis\0\1\0\0\0" + zlib.compress(bytes(90_000_000))), chunk(b"IEND", b"")
    )
    kinds = {
        "bomb.png": bomb,
        "huge.png": headed(60_000, 60_000),
        "none.png": png(),
        "empty.mp4": b"",
        "list.mp4": b"#EXTM3U\n",
        "none.zip": zipped(),
    }
    kinds |= {
        "big.zip": zipped(settings__json=" " * 2_000_000),
        "list.zip": zipped(settings__json="[]"),
        "wide.zip": zipped(settings__json="{}".encode("utf-16")),
    }
    rows += [(name, lambda p=path: read_settings("interpolate", str(p))) for name, path in files(here, kinds)]
    check(rows)


# ---- LoRAs


def laid(tensors, **about):
    return save(tensors, about or None)


def described(text, after=b""):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(text)) + text + after


def lora_files():
    down, up = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", "unet.x.lora_B.weight"
    one = {down: torch.zeros(2, 8)}
    good = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    kinds = {
        "empty": b"",
        "page": b"<!doctype html>",
        "json": b'{"error": 1}',
        "text": b"no LoRA",
        "pickle": pickle.dumps({}),
        "zip": b"PK\x03\x04" + bytes(99),
    }
    kinds |= {
        "picture": png(),
        "cut": laid(one)[:60],
        "more": laid(one) + b"x",
        "long header": struct.pack("<Q", 2**62) + b"{" * 99,
        "pointer": b"version https://git-lfs",
    }
    kinds |= {
        "no json": described(b"{x" + b" " * 99),
        "list": described([1] * 99),
        "deep": described(b'{"a":' + b"[" * 90_000),
        "no offsets": described({down: {"dtype": "F32", "shape": [1]}}),
    }
    kinds |= {
        "negative": described({down: good | {"data_offsets": [-4, 0]}}),
        "backward": described({down: good | {"data_offsets": [4, 0]}}, bytes(4)),
    }
    kinds |= {
        "overlap": described({down: good, up: good}, bytes(4)),
        "dtype": described({down: good | {"dtype": "X"}}, bytes(4)),
        "shape": described({down: good | {"shape": [9]}}, bytes(4)),
    }
    kinds |= {
        "huge shape": described({down: good | {"shape": [2**62]}}, bytes(4)),
        "float shape": described({down: good | {"shape": [1.5]}}, bytes(4)),
        "long name": described({"a" * 999: good}, bytes(4)),
    }
    kinds |= {
        "metadata": described({"__metadata__": {"a": 5}, down: good}, bytes(4)),
        "nothing": laid({}),
        "strange": laid({"a.weight": torch.zeros(2)}),
    }
    kinds |= {
        "words only": laid({"text_encoder.x.lora_A.weight": torch.zeros(2, 8)}),
        "rank 0": laid({down: torch.zeros(0, 8)}),
        "row": laid({down: torch.zeros(8)}),
    }
    kinds |= {
        "loha": laid({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}),
        "lokr": laid({"lora_unet_x.lokr_w1": torch.zeros(2, 2)}),
        "oft": laid({"lora_unet_x.oft_blocks": torch.zeros(2, 2)}),
    }
    kinds |= {
        "flux": laid({"lora_unet_double_blocks_0_img.lora_down.weight": torch.zeros(2, 2)}),
        "network": laid({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}),
    }
    kinds |= {
        "vae": laid({"first_stage_model.encoder.conv_in.weight": torch.zeros(2, 2)}),
        "diff": laid({"lora_unet_x.diff": torch.zeros(2, 2)}),
        "embedding": laid({"emb_params": torch.zeros(2, 2)}),
    }
    return {f"{name}.safetensors": block for name, block in kinds.items()}


def test_loras(here):
    rows = []
    for name, path in files(here, lora_files()):
        rows.append((f"api {name}", lambda p=path: morph.read_loras([str(p)], 2)))
        rows.append((f"zip {name}", lambda p=path: morph.read_loras([str(inside(here, p))], 2)))
        rows.append((f"network {name}", lambda p=path: resolve(f"flora + {p}").needs()))
        rows.append(
            (f"command {name}", lambda p=path: command("morph", "a.png", "b.png", "--loras", p, "-", "--out", "x.mp4"))
        )
    kinds = {
        "none.zip": zipped(),
        "text.zip": zipped(a__txt="x"),
        "cut.zip": zipped(a__safetensors=b"x" * 999)[:-40] + b"PK\x05\x06" + bytes(18),
    }
    rows += [(n, lambda p=p: morph.read_loras([str(p)], 2)) for n, p in files(here, kinds)]
    check(rows)


def inside(here, path):
    """The file in a zip of its own."""
    (out := here / f"{path.stem}.lora.zip").write_bytes(zipped(**{f"{path.stem}__safetensors": path.read_bytes()}))
    return out


# ---- checkpoints and their names


def test_checkpoints(here, tiny):
    (here / "empty folder").mkdir(exist_ok=True)
    (here / "half").mkdir(exist_ok=True)
    (here / "half" / "model_index.json").write_text(DEEP)
    for name, block in {"old.ckpt": b"x", "old.pt": b"x", "notes.txt": b"x", **lora_files()}.items():
        (here / name).write_bytes(block)
    names = [
        "",
        " ",
        "nonsense",
        "sd99",
        "/nowhere",
        "/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "..",
        "/",
        "~",
        "+",
        " + ",
        "flora + ",
        "flora + x",
    ]
    names += [
        "flora + smooth:9",
        "flora + smooth:abc",
        "flora + smooth:nan",
        "flora + smooth:1e9",
        "smooth",
        "smooth + flora",
        "flora + flora",
        "a\0b",
        "a\ud800b",
    ]
    names += [
        "x" * 9_000,
        "flora" + " + smooth" * 17,
        "http://x/y",
        "https://huggingface.co/a/b",
        "file:///etc/passwd",
        "\\\\host\\share",
        "//host/share",
        "C:\\x",
        "*",
        "%s",
        "${HOME}",
    ]
    names += [
        str(here / n)
        for n in ("empty folder", "half", "old.ckpt", "old.pt", "notes.txt", "a.png", "pipe.png", "loop.png")
    ]
    names += [str(here / n) for n in lora_files()] + [
        f"flora + {here / n}" for n in ("old.ckpt", "old.pt", "notes.txt", "a.png", "half")
    ]
    rows = [(f"{i} {n[:60]!r}", lambda n=n: resolve(n).needs()) for i, n in enumerate(names)]
    rows += [
        (f"visitor {n[:60]!r}", lambda n=n: resolve(n, ()))
        for n in (str(tiny), f"{tiny}/../{tiny.name}", "/etc/passwd", "/", "~", "../..", "\\\\h\\s")
    ]
    check(rows)


# ---- what is drawn


def drawn(**own):
    return {"width": 64, "height": 64, "turn": 1, "phase": "change", "layers": {}} | own


def url(block):
    return canvas.HEAD + base64.b64encode(block).decode()


def test_drawings_and_masks(here):
    whole = png(Image.new("RGBA", (64, 64), "red"))
    values = [
        5,
        "x",
        [1],
        DEEP,
        drawn(width=0),
        drawn(width=15),
        drawn(height=10**6),
        drawn(width="64"),
        drawn(width=64.0),
        drawn(width=None),
        drawn(width=True),
        drawn(height=math.nan),
    ]
    values += [
        drawn(layers=v)
        for v in (
            5,
            "x",
            [1],
            {"x": "y"},
            {"photo": url(whole)},
            {"sketch": 5},
            {"sketch": "x"},
            {"sketch": ["x"]},
            {"sketch": {"a": 1}},
        )
    ]
    blocks = [
        b"",
        b"x",
        whole[:60],
        headed(64, 64),
        headed(60_000, 60_000),
        png(A.resize((64, 32))),
        coded("JPEG"),
        b"<svg/>",
        os.urandom(99),
        headed(64, 64, chunk(b"IDAT", b"x")),
    ]
    values += [drawn(layers={n: url(b)}) for n in canvas.LAYERS for b in blocks[1:]]
    values += [drawn(layers={"sketch": canvas.HEAD + t}) for t in ("!", "ä", "A" * 22_000_000, "====")]
    values += [
        drawn(photo=p)
        for p in (
            5,
            "x",
            {"path": 5},
            {"path": ""},
            {"path": "/etc/passwd"},
            {"path": "/dev/zero"},
            {"path": "http://x"},
            {"a": 1},
            {"path": str(here / "text.png")},
        )
    ]
    rows = [(f"canvas {i} {str(v)[:60]!r}", lambda v=v: canvas.read(v)) for i, v in enumerate(values)]
    asked = [
        None,
        5,
        [],
        {},
        drawn(path="/etc/passwd", coarseness=0.5),
        drawn(path=str(here / "a.png"), coarseness="x"),
        drawn(path=str(here / "a.png"), coarseness=math.nan),
    ]
    asked += [drawn(path=str(here / "a.png"), coarseness=0.5, kind=k) for k in ("x", 5, [], "hed", None)]
    rows += [(f"photograph {i}", lambda a=a: canvas.from_photograph(a)) for i, a in enumerate(asked)]
    shapes = {
        "sketch": (A, Image.new("RGBA", (64, 64)), 5),
        "mask": (Image.new("L", (64, 64)), Image.new("L", (64, 9), 9), A, 5),
        "photo": (5, Image.new("L", (64, 64))),
    }
    paint = Image.new("RGBA", (64, 64), "red")
    rows += [
        (f"draw {n} {i}", lambda n=n, v=v: DrawRequest(**{"strokes": None if n == "sketch" else paint, n: v}))
        for n, all_ in shapes.items()
        for i, v in enumerate(all_)
    ]
    text = {
        "none.png": None,
        "list.png": "[]",
        "deep.png": DEEP,
        "odd.png": '{"layers": {"sketch": 5}}',
        "bare.png": "{}",
        "cut.png": '{"layers": {"sketch": {"png": "data:x;base64,xx", "visible": true, "opacity": 1}}}',
    }
    text |= {
        "opacity.png": '{"layers": {"sketch": {"png": "", "visible": true, "opacity": "x"}}}',
        "photo.png": '{"layers": {}, "photo": 5}',
    }
    for name, said in text.items():
        info = PngInfo()
        if said is not None:
            info.add_itxt("chrysalis-drawing", said)
        (here / f"drawing {name}").write_bytes(png(pnginfo=info))
        rows.append(
            (f"file {name}", lambda n=name: command("draw", "--drawing", here / f"drawing {n}", "--out", "x.png"))
        )
    rows += [
        (f"mask {n}", lambda n=n: command("edit", "a.png", "--mask", here / n, "--out", "x.png"))
        for n in ("text.png", "cut.png", "wide.png", "a.svg")
    ]
    check(rows)


# ---- bodies, points, the timeline


def test_keypoints(here):
    body = {"pose_keypoints_2d": [0.5, 0.5, 1] * 18}
    values = [
        "",
        "x",
        "5",
        "null",
        "[]",
        "[1, 2]",
        "{}",
        DEEP,
        '{"people":' * 50_000,
        {"people": 5},
        {"people": [5]},
        {"people": [{}]},
        {"people": [body] * 65},
    ]
    values += [
        {"people": [{"pose_keypoints_2d": v}]}
        for v in (5, "x", [], [1] * 53, ["x"] * 54, [None] * 54, [True] * 54, [1e9] * 54, [[1]] * 54)
    ]
    values += [
        '{"people": [{"pose_keypoints_2d": [' + ",".join([n] * 54) + "]}]}"
        for n in ("NaN", "Infinity", "1e999", "9" * 4000)
    ]
    values += [
        {"people": [{"pose_keypoints_2d": [100, 100, 1] * 18}], "canvas_width": w, "canvas_height": 64}
        for w in (0, -1, "x", None, math.nan)
    ]
    rows, size = [], (64, 64)
    for i, v in enumerate(values):
        (path := here / f"k{i}.json").write_text(v if isinstance(v, str) else json.dumps(v))
        rows.append((f"page {i} {str(v)[:40]!r}", lambda p=path: poses.keypoints(str(p), size)))
    (here / "big.json").write_bytes(b" " * (2 << 20))
    (here / "bytes.json").write_bytes(b"\xff\xfe\x00")
    rows += [(n, lambda n=n: poses.keypoints(str(here / n), size)) for n in ("big.json", "bytes.json")]
    sides = [
        "x",
        5,
        "[]",
        '{"sides": 5}',
        '{"sides": [5]}',
        '{"sides": [{"people": 5}]}',
        '{"sides": [{"people": [[[1]]], "width": 1, "height": 1}]}',
        DEEP,
    ]
    sides += [
        json.dumps({"sides": [{"people": [[[v, 0]] * 18], "width": 9, "height": 9}]})
        for v in ("x", None, [1], 1e99, math.nan)
    ]
    sides += [
        json.dumps({"sides": [{"people": [[[0, 0]] * 18], "width": v, "height": 9}]})
        for v in ("x", None, math.inf, [1])
    ]
    rows += [(f"skeletons {i} {str(v)[:40]!r}", lambda v=v: skeleton.poses_of(v)) for i, v in enumerate(sides)]
    rows += [
        (f"command {n}", lambda n=n: command("interpolate", "a.png", "b.png", "--pose", "given", "--pose-a", n))
        for n in ("no.json", "/dev/zero", str(here))
    ]
    check(rows)


def test_points_and_the_timeline(here):
    value = [
        "x",
        "5",
        "[]",
        "null ",
        DEEP,
        '{"items": 5}',
        '{"items": [5]}',
        '{"coming": "x"}',
        '{"coming": 2}',
        '{"items": [{}]}',
        5,
        [1],
        {"items": []},
    ]
    value += [
        json.dumps({"items": [{"path": p}]})
        for p in ("/etc/passwd", "../../x.png", "http://x", "\\\\h\\x", "x" * 9_999, 5, "a\0")
    ]
    rows = [(f"pictures {i} {str(v)[:40]!r}", lambda v=v: timeline.keyframes(v)) for i, v in enumerate(value)]
    rows += [
        (f"{f.__name__} {v!r}", lambda f=f, v=v: f(v))
        for f in (timeline.points, timeline.timing)
        for v in ("x", "5", '{"points": 5, "holds": 5}')
    ]
    rows += [
        (f"seeds {v!r}", lambda v=v: timeline.seeds(v, 7))
        for v in ("x", '{"seeds": 5}', '{"seeds": {"of": 7, "ways": 5}}')
    ]
    lists = [
        5,
        "x",
        "[",
        DEEP,
        [5],
        [[5]],
        [["x"]],
        [[[1, 2]]],
        [[[0, 0, 9, 9]]],
        [[[0, 0, "x", 0]]],
        [[[math.nan] * 4]],
        [[[0, 0, 0, 0]] * 2],
        [[[0.1] * 4]] * 9,
        [[[0.1 * (i % 9)] * 4 for i in range(200)]],
    ]
    lists += [[[[0, 0, 1, 1], [1, 1, 0, 0]]], {"a": 1}, None, [None], ["x"], '{"x": 1}', '{"points": 5}']
    rows += [
        (f"points {i} {str(v)[:40]!r}", lambda v=v: InterpolateRequest(A, A, points=v))
        for i, v in enumerate(lists)
        if v is not None
    ]
    for i, v in enumerate(
        ("x", "5", "{}", DEEP, '{"points": 5}', '{"points": [], "pictures": ["x"]}', '{"points": [[[0, 0, 9, 9]]]}')
    ):
        (here / f"p{i}.json").write_text(v)
        rows.append(
            (f"file {i}", lambda i=i: command("interpolate", "a.png", "b.png", "--points", here / f"p{i}.json"))
        )
    check(rows)


# ---- numbers, words, names


NUMBERS = (
    "x",
    "",
    "1,000",
    "1_000",
    "0x10",
    "1e999",
    "nan",
    "-5",
    "9" * 500,
    "9" * 90_000 + "x",
    "٣x",
    "1 2",
    "true",
    "½",
    "--",
)
LOOSE = (None, True, [], [5], {}, math.nan, math.inf, -math.inf, 10**5000, 1e308, "\0", b"5")


def test_numbers(here):
    rows, plain = (
        [],
        {n: f.default for n, f in fields_of(MorphRequest).items()} | {"pictures": [str(here / "a.png")] * 2},
    )
    for name in ("steps", "frames", "attention", "size", "fix"):
        for i, v in enumerate((*NUMBERS, *LOOSE)):
            rows.append((f"api {name} {i} {shown(v, 20)}", lambda n=name, v=v: morph.call(plain | {n: v})))
        for i, v in enumerate(NUMBERS):
            rows.append(
                (f"command {name} {i} {v[:20]}", lambda n=name, v=v: command("morph", "a.png", "b.png", f"--{n}={v}"))
            )
    for name in ("duration", "fps", "hold", "durations", "trim"):
        for i, v in enumerate(
            (
                "x",
                "nan",
                "-5",
                "1e9",
                "9" * 90_000 + "x",
                "1;x",
                "a,b",
                "400",
                math.nan,
                10**400,
                {},
                [{}],
                True,
                "9" * 5000,
            )
        ):
            rows.append((f"film {name} {i} {str(v)[:20]!r}", lambda n=name, v=v: finish_of({n: v})))
    for v in ("x", "1:2:3", "1", ":", "1:x", "-1:2", "0:1", "99:1", "1.5:2"):
        rows.append((f"pick {v}", lambda v=v: command("interpolate", "a.png", "b.png", f"--pick={v}")))
    for v in ("x", "-5", 1.5, "5000000000", True, "9" * 5000, [1]):
        rows.append((f"seed {str(v)[:9]!r}", lambda v=v: EditRequest(A, **settle(EditRequest, {"seed": v}))))
    check(rows)


def test_words_and_names(here):
    rows = []
    for name in ("prompt", "negative", "rank_for", "pose_rescue", "model"):
        for v in (None, 5, [], b"x", "\ud800", "a\0b", "x" * 20_000, {"a": 1}, True):
            rows.append((f"{name} {str(v)[:9]!r}", lambda n=name, v=v: InterpolateRequest(A, A, **{n: v})))
    for v in (5, {"a": 1}, [5], [None], ["x"] * 3, ["\ud800"], ["x" * 20_000], [b"x"], True):
        rows.append(
            (
                f"prompts {str(v)[:9]!r}",
                lambda v=v: InterpolateRequest(A, A, **settle(InterpolateRequest, {"prompts": v})),
            )
        )
    rows += [
        (f"choice {v!r}"[:40], lambda v=v: InterpolateRequest(A, A, scheme=v))
        for v in ("`x`", "<b>", "", None, 5, [], "x" * 9_999, "BRANCH")
    ]
    rows += [
        (f"field {n!r}", lambda n=n: settle(EditRequest, {n: 1}))
        for n in ("nonsense", "__class__", "plan", "", "x" * 999, "a\nb")
    ]
    outs = (
        "x.avi",
        "x",
        "",
        ".",
        "/",
        "/dev/null/x.mp4",
        "http://x/y.mp4",
        "s3://x/y.mp4",
        "a\0.mp4",
        "a" * 300 + ".mp4",
        "x.mp4/",
        "a.png/x.mp4",
        "loop.png/x.mp4",
    )
    rows += [(f"out {n[:20]!r}", lambda n=n: command("interpolate", "a.png", "b.png", "--out", n)) for n in outs]
    rows += [
        (f"frames-dir {n!r}", lambda n=n: command("interpolate", "a.png", "b.png", "--frames-dir", n))
        for n in ("a.png", "/dev/null", "", "http://x")
    ]
    rows += [
        (f"zip {n!r}", lambda n=n: command("interpolate", "a.png", "b.png", "--zip", n))
        for n in ("x.png", ".", "", "ftp://x.zip")
    ]
    for name in ("nonsense", "flora:nonsense", "clip,x"):
        rows.append((f"fetch {name}", lambda n=name: command("models", "--fetch", n)))
    for args in ([], ["morph"], ["edit", "a.png", "--nonsense", "1"], ["edit", "a.png", "--preset", "x"], ["x"]):
        assert answer(lambda a=args: command(*a))  # argparse's own words
    rows += [
        (f"pictures {i}", lambda v=v: interpolate.call({"a": None, "b": None, "more": None} | v))
        for i, v in enumerate(({}, {"a": here / "a.png"}, {"more": ["x"] * 99}))
    ]
    check(rows)
