"""Machines as they are: their encodings, folders that others own, names of files, what leaves with a result."""

import ast
import contextlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ROOT, picture, started
from PIL import Image

import engine.__main__ as cli
from engine.checkpoints import lora_files
from engine.checkpoints.resolve import resolve
from engine.jobs.enlarge import kind_of
from engine.requests import Done, DrawRequest, EditRequest, EngineError, InterpolateRequest, MorphRequest
from engine.requests.files import (
    destination,
    frames_folder,
    lies,
    named,
    own_folder,
    split_network,
    typed,
    unreadable,
    uploads,
)
from engine.requests.terminal import plain
from engine.vision import sources, video
from morph_ui import session as visit

OURS = [ROOT / "app.py", *(p for place in ("engine", "morph_ui", "training") for p in (ROOT / place).rglob("*.py"))]
TEXT = {"read_text", "write_text"}
MADE = InterpolateRequest(picture(0), picture(1), seed=7)


# ---- encodings


def bare_calls(path: Path) -> list[str]:
    """Calls that read or write text as the machine happens to."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        opens = isinstance(node.func, ast.Name) or not node.args or (bool(words) and set(words[0]) <= set("rwax+t"))
        owner = ast.unparse(node.func).rpartition(".")[0]
        text = name == "open" and opens and "b" not in "".join(words) and owner not in ("Image", "av")
        if text or name in TEXT:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_text_is_read_and_written_as_utf8():
    assert [place for file in OURS for place in bare_calls(file)] == []


PAGE = """
import warnings
warnings.filterwarnings("error", category=EncodingWarning, module=r"(engine|morph_ui|training|app)\\b")
from engine.requests.settings import Settings
from morph_ui import build
from types import SimpleNamespace
build(SimpleNamespace(submit=None), Settings(model="flora"))
print("built")
"""


@pytest.mark.slow
def test_the_page_is_built_where_letters_are_ascii():
    env = os.environ | {"PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-X", "warn_default_encoding", "-c", PAGE]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=300)
    assert done.returncode == 0 and b"built" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cp1252", "ascii", "cp437"])
def test_help_is_spelt_where_letters_lack(name):
    env = os.environ | {"PYTHONIOENCODING": name, "PYTHONUTF8": "0"}
    for words in (["morph", "--help"], ["draw", "--help"], ["settings"]):
        done = subprocess.run([sys.executable, "-m", "engine", *words], cwd=ROOT, env=env, capture_output=True)
        assert done.returncode == 0, done.stderr
        if words == ["morph", "--help"]:
            assert "lambda" in done.stdout.decode(name) or "λ" in done.stdout.decode(name)


# ---- a shared machine


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A folder for what passes of which nothing is known yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_everybody_has_a_folder_of_their_own(fresh):
    for name in ("chrysalis", "gradio"):  # another user's
        (fresh / name).write_text("no folder of ours", encoding="utf8")
    folder = own_folder()
    assert folder.parent == fresh and folder.name not in ("chrysalis", "gradio") and folder == own_folder()
    assert os.name == "nt" or folder.stat().st_mode & 0o777 == 0o700
    assert visit.visits().is_relative_to(folder)


@pytest.mark.parametrize("how", ["file", "link", "owner"])
def test_a_folder_that_is_anothers_is_left_alone(fresh, how, tmp_path_factory):
    if how == "owner" and os.getuid() != 0:
        pytest.skip("only root gives folders away")
    taken = own_folder()
    taken.rmdir()
    if how == "file":
        taken.write_text("mine", encoding="utf8")
    elif how == "link":
        taken.symlink_to(tmp_path_factory.mktemp("elsewhere"))
    else:
        taken.mkdir()
        os.chown(taken, 65534, 65534)
    other = own_folder()
    assert other != taken and other.is_dir() and other.parent == fresh and not any(other.iterdir())
    assert how != "file" or taken.read_text(encoding="utf8") == "mine"
    other.rmdir()  # the system cleared up, and there is another where it was
    assert own_folder() == other and other.is_dir()
    other.rmdir()
    other.write_text("mine", encoding="utf8")
    assert (third := own_folder()).is_dir() and third == own_folder() and third not in (taken, other)


def test_studios_of_one_person_do_not_share_uploads(fresh, monkeypatch):
    """Files lie there by what they hold, and whoever closes deletes those that were sent to it."""
    places = []
    for _ in range(2):
        monkeypatch.delenv("GRADIO_TEMP_DIR")
        places.append(uploads())
        assert uploads() == places[-1] and places[-1].is_relative_to(own_folder())
    assert places[0] != places[1]
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(fresh / "chosen"))
    assert uploads() == fresh / "chosen"


def test_no_folder_at_all_is_a_sentence(fresh, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(fresh / "gone"))
    with pytest.raises(EngineError, match="TMPDIR must be a folder with room that can be written, got"):
        own_folder()


@pytest.mark.slow
def test_the_studio_says_at_the_start_that_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    env = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "file")}
    command = [sys.executable, "app.py", "--device", "cpu", "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "folder for pictures must be one that can be written" in done.stderr
    assert "Traceback" not in done.stderr


# ---- what people type


@pytest.mark.parametrize("wrap", ["{}", "'{}'", '"{}"', " {} ", "“{}”", "file://{}"])
def test_paths_as_people_paste_them(wrap, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (net := tmp_path / "My Nets.SAFETENSORS").write_bytes(b"")
    (ink := tmp_path / "ink.SafeTensors").write_bytes(b"")
    given = str(net).replace(" ", "%20") if wrap.startswith("file") else str(net)
    assert resolve(wrap.format(given)).base == net
    choice = resolve(f"{wrap.format(given)} + {wrap.format(ink)}:0.5")
    assert choice.base == net and choice.loras == ((ink, 0.5),)
    if not wrap.startswith("file"):
        assert resolve(wrap.format("~/My Nets.SAFETENSORS")).base == net
        assert resolve(f"flora + {wrap.format('~/ink.SafeTensors:-1')}").loras == ((ink, -1.0),)
        assert resolve(wrap.format("~/ink.SafeTensors"), (str(tmp_path),)).base == ink
        with pytest.raises(EngineError, match="model must be") as refused:  # and the folder's name is not told
            resolve(wrap.format("~/ink.SafeTensors"), ("/elsewhere",))
        assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('"/x/a.safetensors" + "/x/b.safetensors"', ["/x/a.safetensors", "/x/b.safetensors"]),
        ('"/x/a b.safetensors + smooth:0.5"', ["/x/a b.safetensors", "smooth:0.5"]),
        ("flora + “/x/i k.safetensors”:0,8 + 'smooth:-1'", ["flora", "/x/i k.safetensors:0,8", "smooth:-1"]),
        ("'/x/it's.safetensors' + smooth", ["/x/it's.safetensors", "smooth"]),
        ("'/x/it's.safetensors + smooth'", ["/x/it's.safetensors", "smooth"]),
        ('"C:\\x y\\a.safetensors":0.8  +  D:\\b', ["C:\\x y\\a.safetensors:0.8", "D:\\b"]),
        ("„/x/a b“ + »/x/c«:2", ["/x/a b", "/x/c:2"]),
        ("~/a + '~/b':2", ["/home/me/a", "/home/me/b:2"]),
        ("file:///x/a%20b#c:0.5 + FILE://localhost/x/d", ["/x/a b#c:0.5", "/x/d"]),
        ("~a\0/x + ~\ud800", ["~a\0/x", "~\ud800"]),
        ('""', [""]),
        ('"', ['"']),
    ],
)
def test_a_network_is_split_before_its_quotes_are_taken_off(text, parts, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert split_network(text) == parts
    assert "/" not in named(text) and named(named(text)) == named(text)


# ---- what lies at a path


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Places that people name by mistake, by what is said of them. Rights are played: root has all of them."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "gone link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for name in ("shut", "mine"):
        (tmp_path / name).mkdir()
    picture(0).save(tmp_path / "secret.png")
    real, allowed = os.stat, os.access

    def stat(path, *args, **how):
        if "shut/" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **how)

    def access(path, mode, **how):
        return not os.fspath(path).endswith(("shut", "secret.png")) and allowed(path, mode, **how)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "access", access)
    return {
        str(tmp_path / "no.png"): "is not there",
        str(tmp_path / "file" / "a.png"): "is not there",
        str(tmp_path / "gone link"): "is a link to what is not there",
        str(tmp_path / "loop"): "is a link to itself",
        str(tmp_path / "loop" / "a.png"): "is a link to itself",
        str(tmp_path / "shut" / "a.png"): "may not be looked into",
        str(tmp_path / "secret.png"): "may not be read",
        str(tmp_path / f"{'я' * 128}.png"): "has a longer name than files can have",
        str(tmp_path / "no" / f"{'a' * 256}.png"): "has a longer name than files can have",
        str(tmp_path / "a\0.png"): "has letters that no file name has",
        str(tmp_path / "a\ud800.png"): "has letters that no file name has",
        str(tmp_path / "pipe"): "is a device",
        "/dev/zero": "is a device",
        str(tmp_path / "mine"): "is a folder",
        str(tmp_path / "shut"): "may not be looked into",
        "": "is not there",
    }


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_what_lies_at_a_path(odd, tmp_path):
    assert {path: unreadable(path) for path in odd} == odd
    assert lies(tmp_path / "file") == ("file", "") and lies(tmp_path / "mine") == ("folder", "")
    assert lies(tmp_path / "pipe") == ("device", "") and lies(tmp_path / "shut")[0] == "folder"


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_files_in_odd_places_are_refused(odd, made):
    for path, why in odd.items():
        asked = [(*PAIR, "--pose-a", path), ("morph", "a.png", "b.png", "--loras", path, "-")]
        asked += [("enlarge", path, "--out", "new.png")] if why != "is a folder" else []
        for args in asked:
            code, out, err, worked = made(*args)
            assert code == 2 and f"which {why}" in err and "Traceback" not in err and not out and not worked, args


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_results_in_odd_places_are_refused_before_the_work(odd, made, tmp_path):
    (tmp_path / "shut" / "here").write_bytes(b"")
    places = [
        "file/m",
        "gone link",
        "loop",
        "loop/m",
        "shut/m",
        "shut/here/m",
        "я" * 130,
        f"no/{'a' * 256}",
        "a\0",
        "\ud800",
    ]
    before = sorted(tmp_path.rglob("*"))
    for option, ending in {"--out": ".mp4", "--zip": ".zip", "--frames-dir": ""}.items():
        for name in places:
            place = tmp_path / (name if "link" in name or name == "loop" else f"{name}{ending}")
            if ending and place.suffix != ending:
                continue
            code, out, err, worked = made(*PAIR, option, place)
            assert code == 2 and f"{option[2:]} must be " in err and not out and not worked, (option, name, err)
    for name in ("shut", "pipe", "file"):
        assert made(*PAIR, "--frames-dir", tmp_path / name)[0] == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["aux.mp4", "NUL/m.mp4", "take:2.mp4", "a?.mp4", "com1.x.mp4", "a /m.mp4"])
def test_names_that_windows_has_not(made, name, monkeypatch):
    if os.name != "nt":
        assert destination("out", name, ".mp4") == Path(name)
    monkeypatch.setattr("engine.requests.files.WINDOWS", True)
    code, _, err, worked = made(*PAIR, "--out", name)
    assert code == 2 and not worked and "out must be a name that Windows has, got" in err
    assert destination("out", "auxiliary/console.mp4", ".mp4")


def test_a_drive_that_is_not_there(monkeypatch):
    monkeypatch.setattr("engine.requests.files.lies", lambda path: ("", "is not there"))
    with pytest.raises(EngineError, match=r"out must be where you may write, got '/z/m.mp4': / is not there"):
        destination("out", "/z/m.mp4", ".mp4")


# ---- what leaves with a result


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("flora", "flora"),
        ("sd15 + /home/me/ink.safetensors:0.8 + smooth", "sd15 + ink.safetensors:0.8 + smooth"),
        ("/home/me/nets/mine/", "mine"),
        ('"C:\\Users\\me\\a b.safetensors" + "/x/y.safetensors":0.5', "a b.safetensors + y.safetensors:0.5"),
        ("~/me + you.safetensors", "me + you.safetensors"),
    ],
)
def test_files_name_networks_and_no_folders(network, name, tmp_path):
    assert named(network) == name == named(name)
    a, layer = picture(0), picture(0).convert("RGBA")
    asked = (InterpolateRequest(a, a, model=network), MorphRequest((a, a), model=network))
    for request in (*asked, EditRequest(a, model=network), DrawRequest(layer, model=network)):
        settings = request.settings()
        assert settings["model"] == name and request.model == network
        video.save_png(a, tmp_path / "a.png", settings)
        video.save_mp4([a, a], tmp_path / "a.mp4", settings)
        video.save_zip([a, a], tmp_path / "a.zip", settings)
        for kind in ("png", "mp4", "zip"):
            block = (tmp_path / f"a.{kind}").read_bytes()
            assert b"/home/me" not in block and b"Users" not in block
            assert video.read_settings(tmp_path / f"a.{kind}")["model"] == name


def test_loras_name_no_folders():
    import torch

    unet = torch.nn.Linear(2, 2)
    block = lora_files.write({"a": (torch.ones(1, 1, 2), torch.ones(1, 2, 1))}, unet, "/home/me/mine.safetensors")
    assert b"mine.safetensors" in block and b"/home" not in block


def test_pictures_leave_without_what_their_files_told(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif.get_ifd(0x8825)[1] = "a camera", "N"
    for kind, how in (("JPEG", {"comment": b"at home"}), ("PNG", {}), ("WEBP", {})):
        picture(0).save(tmp_path / "a", kind, exif=exif, icc_profile=b"a profile of the camera", **how)
        with Image.open(tmp_path / "a") as opened:
            opened.load()
            video.save_png(opened, tmp_path / "b.png", {"method": "edit"})
            own = visit.Session()
            own.folder = tmp_path
            own.save(visit.Run(MADE, 1), 0, opened.convert("RGB"))
            blocks = (
                (tmp_path / "b.png").read_bytes(),
                (tmp_path / "1/chrysalis-interpolate-seed7-frame1.jpg").read_bytes(),
            )
            assert opened.info.get("exif") or kind == "PNG"  # the picture itself is as it was
        for block in (*blocks, visit.inline(opened).encode()):
            assert not [w for w in (b"a camera", b"at home", b"a profile", b"GPS") if w in block], kind
        with Image.open(tmp_path / "b.png") as saved:
            assert set(saved.info) == {"chrysalis"} and not saved.getexif()


# ---- outputs


@pytest.fixture
def made(monkeypatch, tmp_path):
    """The command line without the work: (exit code, stdout, stderr, whether it worked)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in "ab":
        picture(0).save(f"{name}.png")

    def run(*args):
        worked = []

        def work(args, request):
            worked.append(request)
            return Done(tuple(picture(i) for i in range(request.total)), request.settings(), 1.0, 1)

        monkeypatch.setattr(cli, "work", work)
        monkeypatch.setattr(sys, "argv", ["engine", *map(str, args)])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main()
        return code, out.getvalue(), err.getvalue(), bool(worked)

    return run


PAIR = ("interpolate", "a.png", "b.png", "--frames", "3")
EDIT = ("edit", "a.png", "--strength", "0.5")


@pytest.mark.parametrize("name", ["take:2.mp4", "50%d.mp4", "M.MP4", "a b/c#d.mp4", "~/m.mp4", "file:x.mp4", "m.m4v"])
def test_films_of_any_name(made, name, tmp_path):
    code, out, err, _ = made(*PAIR, "--out", name)
    assert code == 0 and not err and json.loads(out.splitlines()[-1])["frames"] == 3
    path = Path(typed(name))
    assert video.read_settings(path)["frames"] == 3 and path.read_bytes()[4:8] == b"ftyp" and not Path("~").exists()
    assert len(sources.read_all([path]).pictures) == 3


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            (*PAIR, "--out", "m.jpg"),
            "out must be a file name that ends in .mp4 or .m4v or .webm or .webp or .gif or .zip, got 'm.jpg'",
        ),
        ((*PAIR, "--out", "m.avi"), "out must be a file name that ends in .mp4"),
        ((*PAIR, "--out", "m.gif", "--smooth", "--fps", "60"), "fps must be from 1 to 50 in GIF, got 60"),
        ((*PAIR, "--out", "m.mp4", "--duration", "600"), "duration must be a number from 0 to 300, got 600"),
        ((*PAIR, "--out", "m.mp4", "--trim", "49,51"), "trim must leave at least two frames of 3, got '49,51'"),
        ((*PAIR, "--out", "m"), "out must be a file name that ends in .mp4"),
        (
            (*PAIR, "--out", ""),
            "out must be a file name that ends in .mp4 or .m4v or .webm or .webp or .gif or .zip, got ''",
        ),
        ((*PAIR, "--out", "new/"), "out must be a file name that ends in .mp4"),
        ((*PAIR, "--out", "http://x/m.mp4"), "out must be a place on this machine"),
        (
            (*PAIR, "--out", "a.png/m.mp4"),
            "out must be where you may write, got 'a.png/m.mp4': a.png does not allow it",
        ),
        ((*PAIR, "--zip", "z.tar"), "zip must be a file name that ends in .zip, got 'z.tar'"),
        ((*PAIR, "--frames-dir", "a.png"), "frames-dir must be a folder, got 'a.png', which is none"),
        ((*PAIR, "--frames-dir", ""), "frames-dir must be a folder, got ''"),
        (("morph", "a.png", "b.png", "--lora-dir", "a.png"), "lora-dir must be a folder, got 'a.png'"),
        ((*EDIT, "--out", "p.jpg"), "out must be a file name that ends in .png, got 'p.jpg'"),
        ((*EDIT, "--out", "p.mp4"), "out must be a file name that ends in .png, got 'p.mp4'"),
        *(
            (
                ("enlarge", "a.png", "--out", n),
                f"out must be a .png, a .mp4, a .zip or a folder, got '{n}'; end a folder",
            )
            for n in (
                "p.jpg",
                "large.wmv",
                "large.webm",
                "large.FLV",
                "large.tar",
                "large.7z",
                "large.psd",
                "large.m4a",
            )
        ),
        (("pose", "a.png", "--json", "p.png"), "json must be a file name that ends in .json, got 'p.png'"),
        (("enlarge", "a.png", "--out", "p.png", "--preview", "d.xyz"), "preview must be a file name that ends in .png"),
    ],
)
def test_other_formats_are_refused_before_the_work(made, args, sentence):
    before = sorted(Path().rglob("*"))
    code, out, err, worked = made(*args)
    assert code == 2 and sentence in err and not out and not worked
    assert sorted(Path().rglob("*")) == before


def test_frames_never_mix_with_those_of_before(made):
    assert made(*PAIR[:-1], "5", "--frames-dir", "f")[0] == 0
    code, _, err, worked = made(*PAIR, "--frames-dir", "f")
    assert code == 2 and not worked and len(list(Path("f").iterdir())) == 5
    assert "frames-dir must be a new folder, or hold at most 3 frames, got 5 in 'f'" in err
    assert made(*PAIR[:-1], "5", "--frames-dir", "f")[0] == 0  # the same again
    code, _, err, _ = made("enlarge", "a.png", "b.png", "--out", "f")
    assert code == 2 and "out must be a new folder, or hold at most 2 frames, got 5 in 'f'" in err
    Path("f/notes.png").write_bytes(b"")
    assert frames_folder("out", "f", 5) == Path("f")


def test_names_without_an_ending_are_folders(tmp_path):
    (tmp_path / "large.mp4").mkdir()
    for name in ("large", "large.v2", "large.2024", "large.wmv/", f"{tmp_path}/large.mp4", ".large"):
        assert kind_of(name) == "", name
    assert [kind_of(f"m{e}") for e in (".MP4", ".m4v", ".zip", ".png")] == [".mp4", ".m4v", ".zip", ".png"]


def test_reports_are_json_for_everyone():
    report = {"length": math.nan, "more": {"ends": math.inf}, "model": "ü\udcff", "seed": 7, "size": [1, 2]}
    line, no = plain(report), lambda name: pytest.fail(f"{name} is no JSON")
    assert json.loads(line, parse_constant=no)["more"] == {"ends": None} and line.isascii() and "\n" not in line


def test_json_comes_last_whatever_fails(made, monkeypatch):
    def fail(*args, **how):
        raise RuntimeError("the codec is gone")

    monkeypatch.setattr("engine.vision.film.Film.writing", fail)
    code, out, err, _ = made(*PAIR, "--out", "m.mp4", "--frames-dir", "f")
    assert code == 1 and json.loads(out.splitlines()[-1])["frames"] == 3 and len(list(Path("f").iterdir())) == 3
    assert "the result must be written to m.mp4, got the codec is gone" in err


@pytest.mark.skipif(not hasattr(os, "getuid") or not os.path.exists("/dev/full"), reason="POSIX devices")
def test_devices_may_be_named():
    assert destination("out", "/dev/null", ".png") == Path("/dev/null")
    with pytest.raises(EngineError, match="must be a folder"):
        destination("frames-dir", "/dev/null")


# ---- colours of films


@pytest.mark.parametrize("side", [64, 768])
def test_films_say_how_their_colours_are_stored(side, tmp_path):
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (230, 40, 40), (20, 90, 200), (255, 255, 255)):
        video.save_mp4([Image.new("RGB", (side, side), colour)] * 2, path := tmp_path / "m.mp4", {})
        with av.open(str(path)) as film:
            of = film.streams.video[0].codec_context
            assert (of.colorspace, of.color_primaries, of.color_trc, of.color_range) == (1, 1, 1, 1)
            y, u, v = (plane[side // 4, side // 4] for plane in planes(next(film.decode(video=0))))
        shown = np.asarray(sources.read_all([path]).pictures[0])[side // 2, side // 2].astype(int)
        assert np.abs(shown - colour).max() <= 3
        assert np.abs(shown_709(y, u, v) - colour).max() <= 3  # a player's own sums


def planes(frame):
    block = frame.to_ndarray(format="yuv420p")
    h, w = frame.height, frame.width
    return block[:h], block[h : h + h // 4].reshape(h // 2, w // 2), block[h + h // 4 :].reshape(h // 2, w // 2)


def shown_709(y, u, v):
    y, u, v = (float(y) - 16) / 219, (float(u) - 128) / 224, (float(v) - 128) / 224
    return 255 * np.clip([y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u], 0, 1)


def test_films_of_others_are_shown_as_players_do(tmp_path):
    """Upright; and BT.709 where they are large and say nothing."""
    half = np.zeros((64, 96, 3), np.uint8)
    half[:, :48] = 255, 0, 0
    film_of(tmp_path / "turned.mp4", half, turn=90)
    turned = np.asarray(sources.read_all([tmp_path / "turned.mp4"]).pictures[0])
    assert turned.shape == (96, 64, 3) and turned[80, 32, 0] > 200 and turned[16, 32, 0] < 60
    for side, space in ((768, "ITU709"), (64, "ITU601")):
        film_of(tmp_path / "silent.mp4", np.full((side, side, 3), (255, 0, 0), np.uint8), dst_colorspace=space)
        shown = np.asarray(sources.read_all([tmp_path / "silent.mp4"]).pictures[0])
        assert np.abs(shown[8, 8].astype(int) - (255, 0, 0)).max() < 5


def film_of(path, block, turn=0, **how):
    """Another program's film, which does not say how its colours are stored."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = *block.shape[:2], "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(block, format="rgb24").reformat(format="yuv420p", **how)
            frame.colorspace = 2
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


def test_zips_and_folders_as_they_come(tmp_path):
    block = io.BytesIO()
    picture(0).save(block, "PNG")
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as z:
        z.writestr("a/B.PNG", block.getvalue())
        z.writestr("__MACOSX/a/._B.PNG", b"Finder")
    assert len(sources.read_all([tmp_path / "m.zip"]).pictures) == 1
    whole = bytearray((tmp_path / "m.zip").read_bytes())
    whole[60] ^= 255
    (tmp_path / "broken.zip").write_bytes(whole)
    with pytest.raises(EngineError, match="zip must be whole and have no password, got 'broken"):
        sources.read_all([tmp_path / "broken.zip"])


# ---- addresses


def test_addresses_of_frames_are_quoted(tmp_path):
    own = visit.Session()
    own.folder = tmp_path / "a #1%20 b?ü"
    own.folder.mkdir()
    address = own.save(visit.Run(MADE, 3), 0, picture(0))
    assert address.endswith(
        "/a%20%231%2520%20b%3F%C3%BC/3/chrysalis-interpolate-seed7-frame1.jpg"
    ) and address.startswith("gradio_api/file=/")


@pytest.mark.slow
def test_frames_are_served_from_any_folder(tmp_path):
    """What the studio itself serves, where TMPDIR has letters that addresses give a meaning."""
    import urllib.request
    from urllib.parse import quote

    odd = tmp_path / "a #1%20 b"
    odd.mkdir()
    with started("--device", "cpu", TMPDIR=str(odd), GRADIO_TEMP_DIR="") as address:
        folder = next(odd.glob("chrysalis-*")) / "visits" / "secret"
        folder.mkdir()
        picture(0).save(folder / "0-0000.jpg")
        where = quote(f"{folder.as_posix()}/0-0000.jpg", safe="/:")
        assert urllib.request.urlopen(f"{address}/gradio_api/file={where}", timeout=20).status == 200


@pytest.mark.skipif(shutil.which("make") is None, reason="the Makefile's own")
@pytest.mark.parametrize(("answers", "code"), [("exit 0", 0), ("echo unreachable >&2; exit 1", 2), (None, 2)])
def test_advisories_that_cannot_be_asked_for_do_not_pass(tmp_path, answers, code):
    """Holes, no network, and no network to install what asks."""
    audit, command = (
        tmp_path / "pip-audit",
        ["make", "-o", ".venv/installed", "advisories", f"AUDIT={tmp_path}/pip-audit"],
    )
    if answers:
        audit.write_text(f"#!/bin/sh\n{answers}\n")
        audit.chmod(0o700)
    done = subprocess.run([*command, "PYTHON=false"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert (" must be " in done.stderr and "got " in done.stderr) == bool(code) and "Traceback" not in done.stderr
