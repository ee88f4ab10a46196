"""Files that are none, or broken, or bombs: each is answered by one sentence, and the next job runs.

A group of kinds is a function that gives rows (what it is, what is to be refused). A row is tried by every door that
takes such a thing: what the page's handlers call, what the API calls, and the command line, all in this process."""

import json
import math
import os
import pickle
import struct
import zlib

import torch
from badly import (  # noqa: F401
    DEEP,
    A,
    answer,
    check,
    chunk,
    command,
    files,
    headed,
    next_job,
    place,
    plain_pictures,
    png,
    zipped,
)
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save

from engine.checkpoints.resolve import resolve
from engine.requests import EditRequest, EnlargeRequest, InterpolateRequest
from engine.requests.errors import shown
from engine.vision import sources
from morph_ui import api
from morph_ui.components import opened, points
from morph_ui.tabs import morph, read_settings

# fmt: off


def test_pictures(here):
    rows = []
    places = files(here, plain_pictures())
    (here / "gone.png").symlink_to(here / "nowhere")
    odd = {"a folder": here, "nothing there": here / "no.png", "a pipe": here / "pipe.png", "a loop": here / "loop.png"}
    odd |= {"a link to nothing": here / "gone.png", "a long name": here / ("a" * 300 + ".png")}
    for name, path in [*places, *odd.items()]:
        rows.append((f"page {name}", lambda p=path: opened.opened({"path": str(p)})))
        rows.append((f"api {name}", lambda p=path: api.open_pictures(EditRequest, {"guide": p, "photo": None,
            "mask": None})))
        rows.append((f"command {name}", lambda p=path: command("edit", p, "--out", "x.png")))
    names = ("/etc/passwd", "/dev/zero", f"{here}/../../x.png", "file:///etc/passwd", "\\\\host\\x.png",
        "//host/x.png", "", None, 5, [], {})
    names = (*names, "a\0.png", "a\ud800.png", "~/x.png", "http://x/y.png", "data:image/png;base64,xx",
        "/proc/self/mem")
    rows += [(f"name {n!r}", lambda n=n: opened.opened({"path": n})) for n in names]
    rows += [(f"asked {a!r}", lambda a=a: opened.opened(a)) for a in (None, 5, "x", [], [{"path": "x"}])]
    rows += [(f"points {a!r}", lambda a=a: points.shown(a)) for a in (None, {"path": "/etc/passwd"}, {"path": 5}, "x")]
    check(rows)


# ---- films and zips


def test_films_and_zips(here):
    many = zipped(a__png=png())
    at = many.rindex(b"PK\x05\x06")
    listing = many[:at] + many[at : at + 12] + struct.pack("<I", 2**31) + many[at + 16 :]
    kinds = {"list.mp4": b"#EXTM3U\nhttp://127.0.0.1/x.ts\n", "talk.mp4": b"v=0\nm=video 5004 RTP/AVP 96\n",
        "empty.mp4": b"", "concat.mov": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "noise.mp4": b"\0\0\0\x18ftypisom" + os.urandom(500), "text.webm": b"x",
        "noise.mkv": b"\x1aE\xdf\xa3" + os.urandom(300), "noise.avi": b"RIFF\0\0\0\0AVI " + os.urandom(300),
        "huge.gif": plain_pictures()["huge.gif"], "none.zip": zipped(), "text.zip": zipped(a__txt="x"),
        "broken.zip": zipped(a__png=png())[:-30] + b"x", "in.zip": zipped(a__png=b"no"),
        "zip.zip": zipped(a__zip=zipped(b__png=png())), "out.zip": zipped(**{"../../a__png": b"x"}),
        "list.zip": listing, "bomb.zip": zipped(a__png=headed(60_000, 60_000))}
    rows = []
    for name, path in files(here, kinds):
        rows.append((f"enlarge {name}", lambda p=path: sources.read_all([p])))
        rows.append((f"command {name}", lambda p=path: command("film", p, "--out", "x.mp4")))
    rows += [(f"scale {shown(s)}", lambda s=s: sources.read_all(["a.png"], s))
        for s in (3, 0, -2, 10**5000, math.nan, None, "x", [2])]
    rows += [(f"pictures {i}", lambda p=p: EnlargeRequest(p))
        for i, p in enumerate(((), None, 5, (A.resize((8, 8)),), (A.resize((9999, 1999)),)))]
    check(rows)


# ---- settings in files


def test_settings(here):
    own = InterpolateRequest(A, A).settings() | {"keyframes": 2}
    text = {"no JSON": "x", "a list": "[]", "null": "null", "a number": "5", "deep": DEEP,
        "deep object": '{"a":' * 50_000, "no method": "{}", "long": json.dumps(own | {"x": "y" * 2_000_000}),
        "digits": '{"method": "interpolate", "seed": ' + "9" * 9999 + "}"}
    changed = {"method": ["morph", "x" * 99_999, 5, None, "<b>"], "frames": ["9", 4, None, [9], 1e9, True],
        "steps": ["x", 9.5, -1, {}], "prompt": [5, None, ["a"], "\ud800", "x" * 99_999, "a\0"],
        "prompts": [5, "x", [5], [None], {"a": 1}, ["x"] * 999], "seeds": ["x", [1.5], [True], ["x"]],
        "points": [5, "x", [[5]], [[[1, 2]]], [[[0, 0, 9, 9]]], {}], "picks": [5, [5], [[1]], [[1, "x"]], [None]],
        "pose_a": [5, [], {}], "model": [5, None, "x" * 99_999], "low": ["x", math.nan, math.inf, -1],
        "align": ["x", None, 5], "keyframes": ["x", 0, 1e9, 10**9, None],
        "film": [5, "x", [], {"duration": "x"}, {"holds": "x"}, {"fps": -1}, {"nonsense": 1}, {"trim": "9"}],
        "seed": [-5, 2**64, 1.5, "x"]}
    text |= {f"{n} {str(v)[:20]!r} {i}": json.dumps(own | {n: v}) for n, all_ in changed.items()
        for i, v in enumerate(all_)}
    rows = []
    for i, (name, said) in enumerate(text.items()):
        info = PngInfo()
        info.add_itxt("chrysalis", said)
        (here / f"s{i}.png").write_bytes(png(pnginfo=info))
        rows.append((name, lambda i=i: read_settings("interpolate", str(here / f"s{i}.png"))))
    bomb = headed(64, 64, chunk(b"iTXt", b"chrysalis\0\1\0\0\0" + zlib.compress(bytes(90_000_000))),
        chunk(b"IEND", b""))
    kinds = {"bomb.png": bomb, "huge.png": headed(60_000, 60_000), "none.png": png(), "empty.mp4": b"",
        "list.mp4": b"#EXTM3U\n", "none.zip": zipped(), "big.zip": zipped(settings__json=" " * 2_000_000),
        "list.zip": zipped(settings__json="[]"), "wide.zip": zipped(settings__json="{}".encode("utf-16"))}
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
    kinds = {"empty": b"", "page": b"<!doctype html>", "json": b'{"error": 1}', "text": b"no LoRA",
        "pickle": pickle.dumps({}), "zip": b"PK\x03\x04" + bytes(99), "picture": png(), "cut": laid(one)[:60],
        "more": laid(one) + b"x", "long header": struct.pack("<Q", 2**62) + b"{" * 99,
        "pointer": b"version https://git-lfs", "no json": described(b"{x" + b" " * 99), "list": described([1] * 99),
        "deep": described(b'{"a":' + b"[" * 90_000), "no offsets": described({down: {"dtype": "F32", "shape": [1]}}),
        "negative": described({down: good | {"data_offsets": [-4, 0]}}),
        "backward": described({down: good | {"data_offsets": [4, 0]}}, bytes(4)),
        "overlap": described({down: good, up: good}, bytes(4)),
        "dtype": described({down: good | {"dtype": "X"}}, bytes(4)),
        "shape": described({down: good | {"shape": [9]}}, bytes(4)),
        "huge shape": described({down: good | {"shape": [2**62]}}, bytes(4)),
        "float shape": described({down: good | {"shape": [1.5]}}, bytes(4)),
        "long name": described({"a" * 999: good}, bytes(4)),
        "metadata": described({"__metadata__": {"a": 5}, down: good}, bytes(4)), "nothing": laid({}),
        "strange": laid({"a.weight": torch.zeros(2)}),
        "words only": laid({"text_encoder.x.lora_A.weight": torch.zeros(2, 8)}),
        "rank 0": laid({down: torch.zeros(0, 8)}), "row": laid({down: torch.zeros(8)}),
        "loha": laid({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}),
        "lokr": laid({"lora_unet_x.lokr_w1": torch.zeros(2, 2)}),
        "oft": laid({"lora_unet_x.oft_blocks": torch.zeros(2, 2)}),
        "flux": laid({"lora_unet_double_blocks_0_img.lora_down.weight": torch.zeros(2, 2)}),
        "network": laid({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}),
        "vae": laid({"first_stage_model.encoder.conv_in.weight": torch.zeros(2, 2)}),
        "diff": laid({"lora_unet_x.diff": torch.zeros(2, 2)}), "embedding": laid({"emb_params": torch.zeros(2, 2)})}
    return {f"{name}.safetensors": block for name, block in kinds.items()}


def test_loras(here):
    rows = []
    for name, path in files(here, lora_files()):
        rows.append((f"api {name}", lambda p=path: morph.read_loras([str(p)], 2)))
        rows.append((f"zip {name}", lambda p=path: morph.read_loras([str(inside(here, p))], 2)))
        rows.append((f"network {name}", lambda p=path: resolve(f"flora + {p}").needs()))
        rows.append((f"command {name}", lambda p=path: command("morph", "a.png", "b.png", "--loras", p, "-", "--out",
            "x.mp4")))
    kinds = {"none.zip": zipped(), "text.zip": zipped(a__txt="x"),
        "cut.zip": zipped(a__safetensors=b"x" * 999)[:-40] + b"PK\x05\x06" + bytes(18),
        "many.zip": zipped(**{f"{n}__safetensors": b"" for n in range(9)}),
        "bomb.zip": zipped(a__safetensors=bytes(20_000_000))}
    rows += [(n, lambda p=p: morph.read_loras([str(p)], 2)) for n, p in files(here, kinds)]
    check(rows)
    assert "at most 8 MB in a zip of that size, got 20 MB of 0.0 in bomb.zip" in answer(rows[-1][1])  # not unpacked


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
    names = ["", " ", "nonsense", "sd99", "/nowhere", "/etc/passwd", "/dev/zero", "/dev/stdin", "..", "/", "~", "+",
        " + ", "flora + ", "flora + x"]
    names += ["flora + smooth:9", "flora + smooth:abc", "flora + smooth:nan", "flora + smooth:1e9", "smooth",
        "smooth + flora", "flora + flora", "a\0b", "a\ud800b"]
    names += ["x" * 9_000, "flora" + " + smooth" * 17, "http://x/y", "https://huggingface.co/a/b",
        "file:///etc/passwd", "\\\\host\\share", "//host/share", "C:\\x", "*", "%s", "${HOME}"]
    names += [str(here / n) for n in ("empty folder", "half", "old.ckpt", "old.pt", "notes.txt", "a.png", "pipe.png",
        "loop.png")]
    names += [str(here / n) for n in lora_files()]
    names += [f"flora + {here / n}" for n in ("old.ckpt", "old.pt", "notes.txt", "a.png", "half")]
    rows = [(f"{i} {n[:60]!r}", lambda n=n: resolve(n).needs()) for i, n in enumerate(names)]
    rows += [(f"visitor {n[:60]!r}", lambda n=n: resolve(n, ()))
        for n in (str(tiny), f"{tiny}/../{tiny.name}", "/etc/passwd", "/", "~", "../..", "\\\\h\\s")]
    check(rows)
