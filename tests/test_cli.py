"""The command line, as a person runs it, on the embedded network."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from conftest import ROOT, picture
from PIL import Image

import engine.__main__ as cli
from engine.checkpoints.resolve import CATALOGUE
from engine.requests import METHODS, Done, fields_of
from engine.vision import video
from engine.vision.keypoints import pose

pytestmark = pytest.mark.slow


def process(*args):
    """In a process of its own."""
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "engine", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


def engine(*args):
    """In this process, which has imported all that takes long."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["engine", *map(str, args)])
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the client reads its variable once
        try:
            code = cli.main()
        except SystemExit as e:
            code = e.code
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for name, file in (("a", "rose-22325299158.webp"), ("b", "daisy-2520369272.webp")):
        Image.open(ROOT / "assets/examples" / file).convert("RGB").resize((200, 200)).save(folder / f"{name}.jpg")
    return folder / "a.jpg", folder / "b.jpg"


def test_interpolate(pair, tmp_path):
    args = ["interpolate", *pair, "--frames", 5, "--seed", 7, "--preset", "draft"]
    done = process(*args, "--out", tmp_path / "m.mp4", "--frames-dir", tmp_path / "frames", "--zip", tmp_path / "m.zip")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert set(last) == {"frames", "size", "seed", "seconds", "unet_evaluations", "model", "executor", "quality"}
    assert last["quality"]["ends"] == 0 and last["quality"]["length"] > 0
    assert (last["frames"], last["size"], last["seed"], last["model"]) == (5, [256, 256], 7, "flora")
    frames = sorted((tmp_path / "frames").iterdir())
    assert [f.name for f in frames] == [f"{i:04d}.png" for i in range(5)]
    for file in (*frames, tmp_path / "m.mp4", tmp_path / "m.zip"):
        assert video.read_settings(file)["seed"] == 7
    again = engine(*args, "--frames-dir", tmp_path / "again")
    assert again.returncode == 0
    for f in frames:
        assert Image.open(f).tobytes() == Image.open(tmp_path / "again" / f.name).tobytes()
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", tmp_path / "m.mp4"], capture_output=True, text=True
    )
    assert "codec_name=h264" in probe.stdout and "pix_fmt=yuv420p" in probe.stdout


def test_morph_its_loras_and_the_cache(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_CACHE", str(tmp_path / "cache"))
    fast = ["--frames", 4, "--steps", 6, "--lora-steps", 3, "--seed", 5]
    files = ["--out", tmp_path / "m.mp4", "--frames-dir", tmp_path / "frames", "--lora-dir", tmp_path / "loras"]
    done = engine("morph", *pair, pair[0], *fast, "--loop", "--prompts", "a rose", "a daisy", *files)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["frames"], last["size"], last["model"]) == (9, [256, 256], "flora")
    assert set(last["quality"]) == {"length", "variance", "ends", "fade_length", "fade_variance"}
    assert len(list((tmp_path / "frames").iterdir())) == 9
    assert video.read_settings(tmp_path / "m.mp4")["prompts"] == ["a rose", "a daisy"]
    # The third picture is the first without words of its own: a picture with other words is learnt anew.
    loras = sorted((tmp_path / "loras").iterdir())
    assert [f.name for f in loras] == [f"lora-{i}.safetensors" for i in (1, 2, 3)]
    listed = engine("cache").stdout
    assert listed.count("lora ") == listed.count("inversion ") == listed.count("features ") == 3
    again = engine("morph", *pair, *fast, "--prompts", "a rose", "a daisy", "--loras", "-", loras[1])
    assert again.returncode == 0, again.stderr
    assert "entries thrown away\n0 entries" in engine("cache", "--clear").stdout


def test_morph_refusals(pair, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    (tmp_path / "0.safetensors").write_bytes(b"")
    for args, sentence in (
        ([pair[0]], "pictures must be 2 to 12, got 1"),
        ([*pair, "--attention", "2"], "attention must be a number from 0 to 1, got 2"),
        ([*pair, "--loras", tmp_path / "no.safetensors"], "loras must be a file"),
        ([*pair, "--loras", tmp_path / "x.safetensors"], "LoRA x.safetensors must be a whole safetensors file"),
        (
            [*pair, "--loras", tmp_path / "0.safetensors"],
            "LoRA 0.safetensors must be a whole safetensors file",
        ),
        ([*pair, "--prompt", "a \udcff rose"], "prompt must be text in UTF-8, got"),
    ):
        done = engine("morph", *args)
        assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


def test_models():
    out = engine("models").stdout
    assert [line.split()[0] for line in out.splitlines()] == list(CATALOGUE)
    assert "present" in out.splitlines()[0] and "2.1 GB" in out.splitlines()[1]


def test_help_names_every_field():
    for method, request in METHODS.items():
        out = engine(method, "--help").stdout
        names = [n.replace("_", "-") for n in fields_of(request) if n not in ("picks", "reseeds")]
        assert not [n for n in names if f"--{n}" not in out]
        assert "--device" in out and ("--pick FRAME:N" in out) == (method == "interpolate")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--frames", "4"], "frames must be one of 3, 5, 9, 17, 33, 65, 129, got 4"),
        (["--low", "nan"], "low must be a number from 0 to 1, got nan"),
        (["--scheme", "magic"], "scheme must be one of branch, did"),
        (["--fps", "0"], "fps must be from 1 to 60"),
        (["--seed", "9" * 400], "seed must be a whole number from 0 to 4294967295, got 9"),
        (["--seed", "7.5"], "seed must be a whole number from 0 to 4294967295, got 7.5"),
        (["--high", "0,2"], "low must not be above high, got low 0.25 and high 0.2"),
        (["--steps", "7e3"], "steps must be a whole number from 4 to 500, got 7000"),
        (["--preset", "instant", "--scheme", "did", "--sampler", "live"], "sampler must be ddim for the scheme did"),
        (["--model", "nonsense"], "model must be one of flora"),
    ],
)
def test_refusals(pair, args, sentence):
    done = engine("interpolate", *pair, *args)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


def test_broken_files_and_full_disks(pair, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    done = engine("interpolate", tmp_path / "text.png", pair[1])
    assert done.returncode == 2 and "picture A must be a picture" in done.stderr
    picture(0, (32, 32)).save(tmp_path / "a.png")
    fast = ["--scheme", "interpolate", "--frames", 3]
    done = engine("interpolate", *pair, *fast, "--frames-dir", "/proc/no-room-here")
    assert done.returncode == 1 and "the result must be written to /proc/no-room-here" in done.stderr
    done = engine("interpolate", *pair, *fast, "--out", "/dev/full", "--frames-dir", tmp_path / "frames")
    assert done.returncode == 1 and "the result must be written to /dev/full" in done.stderr
    assert len(list((tmp_path / "frames").iterdir())) == 3  # what could be written was


DRAWINGS = ROOT / "assets/examples/drawings"


def test_draw(tmp_path):
    layers = ["--sketch", DRAWINGS / "own-daisy-sketch.png", "--strokes", DRAWINGS / "own-daisy-strokes.png"]
    done = engine("draw", *layers, "--steps", 6, "--seed", 3, "--out", tmp_path / "one.png")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["pictures"], last["size"], last["seed"], last["unet_evaluations"]) == (1, [256, 256], 3, 6)
    assert last["quality"]["lines"] < 0.1 and last["quality"]["colours"] < 30  # it follows the drawing
    assert video.read_settings(tmp_path / "one.png")["method"] == "draw"
    sheet = engine(
        "draw",
        *layers,
        "--steps",
        2,
        "--sheet",
        "sketch-realism",
        "--out",
        tmp_path / "sheet.png",
        "--frames-dir",
        tmp_path / "all",
        "--preset",
        "draft",
    )
    assert sheet.returncode == 0, sheet.stderr
    assert Image.open(tmp_path / "sheet.png").size == (768, 768) and len(list((tmp_path / "all").iterdir())) == 9


def test_draw_live_and_edit(tmp_path):
    """The few-step weights, words, and paint over a photograph."""
    done = engine(
        "draw",
        "--sketch",
        DRAWINGS / "own-tulips-sketch.png",
        "--prompt",
        "red tulips",
        "--preset",
        "live",
        "--count",
        2,
        "--zip",
        tmp_path / "two.zip",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["pictures"] == 2
    photo = ROOT / "assets/examples/rose-22325299158.webp"
    done = engine("edit", photo, "--strength", 0.3, "--steps", 10, "--out", tmp_path / "deep/e.png", "--count", 2)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "deep/e.png").size[0] == 2 * 256
    assert json.loads(done.stdout.splitlines()[-1])["quality"]["l2"] > 0


def test_draw_and_edit_refusals(pair, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    Image.new("L", (64, 64)).save(tmp_path / "black.png")
    picture(0, (64, 64)).save(tmp_path / "g.png")
    lines = DRAWINGS / "own-daisy-sketch.png"
    for args, sentence in (
        (["draw"], "sketch or strokes must hold something drawn, got nothing"),
        (["draw", "--sketch", tmp_path / "no.png"], "sketch must be a picture file, got no.png, which is not there"),
        (["draw", "--sketch", tmp_path / "broken.png"], "sketch must be a"),
        (
            ["draw", "--sketch", lines, "--strokes", tmp_path / "wide.png"],
            "strokes must have the proportions of sketch",
        ),
        (["draw", "--drawing", tmp_path / "g.png"], "drawing must be a PNG saved by the canvas, got 'g.png'"),
        (["draw", "--sketch", lines, "--realism", "2"], "realism must be a number from 0 to 1, got 2"),
        (["draw", "--sketch", lines, "--model", "sd15"], "model sd15 must be on this machine"),
        (["edit", tmp_path / "g.png", "--strength", "2"], "strength must be a number from 0 to 1, got 2"),
        (["edit", tmp_path / "g.png", "--mask", tmp_path / "black.png"], "mask must cover something, got nothing"),
        (["edit", tmp_path / "broken.png"], "guide must be a"),
    ):
        done = engine(*args)
        assert done.returncode == 2 and f"error: {sentence}" in done.stderr and "Traceback" not in done.stderr, args


def test_poses_and_networks_that_cannot_be_had_are_sentences(pair, tmp_path):
    (tmp_path / "a.json").write_text("no keypoints")
    posed = ["interpolate", *pair, "--pose", "given"]
    for args, sentence in (
        ([*posed, "--pose-a", tmp_path / "none.json"], "pose_a must be a file"),
        ([*posed, "--pose-a", tmp_path / "a.json"], "pose must be off for flora, which has no control for poses"),
        (["pose", *pair, "--json", tmp_path / "one.json"], "json must be 2 files, one a picture, got 1"),
        (["pose", pair[0]], "model DWPose must be on this machine while HF_HUB_OFFLINE is set"),
        (["models", "--fetch", "sd15:sketch"], "model sd15 must be on this machine while HF_HUB_OFFLINE is set"),
        (["models", "--fetch", "nothing"], "model must be one of flora, sd15"),
        (["edit", pair[0], "--device", "stone"], "device must be auto, cpu, cuda or mps, and be here, got 'stone'"),
    ):
        done = engine(*args)
        assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_pose_writes_keypoints_and_skeletons(pair, tmp_path, monkeypatch, capsys):
    """What it does with what was found; finding is test_pose's."""
    found = {"pose_a": pose.write((), (200, 200)), "pose_b": pose.write((), (200, 200))}
    done = Done((picture(0), picture(1)), {"method": "pose", **found}, 1.234, 0)
    monkeypatch.setattr(cli, "work", lambda args, request: done)
    files = [tmp_path / "deep/a.json", tmp_path / "b.json"]
    words = ["pose", *pair, "--json", *files, "--out", tmp_path / "s.png", "--detector", "openpose"]
    monkeypatch.setattr(sys, "argv", ["engine", *map(str, words)])
    assert cli.main() == 0
    assert json.loads(capsys.readouterr().out) == {"people": [0, 0], "seconds": 1.23}
    assert [f.read_text() for f in files] == list(found.values())
    assert Image.open(tmp_path / "s.png").size[0] == picture(0).width * 2


def test_the_studio_does_not_start_on_what_cannot_be():
    for args, sentence in (
        (["--workers", "0"], "workers must be a whole number of at least 1, got 0"),
        (["--device", "stone"], "device must be auto, cpu, cuda or mps"),
        (["--model", "nothing"], "model must be one of flora, sd15"),
    ):
        done = subprocess.run([sys.executable, "app.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr, done.stderr
