"""Finished films: how long, how many frames, which colours, again and again; by second readers."""

import json
import shutil
import subprocess
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import ROOT, picture
from PIL import Image

import engine.__main__ as cli
from engine.requests import EngineError
from engine.requests.finish import ENDINGS, FORMATS, Finish, asked, finish_of
from engine.vision import film, gif, timeline, video
from engine.vision.film import Film, save

SETTINGS = {"method": "interpolate", "seed": 7, "prompt": "eine rote Rose – „schön“"}
FRAMES = [picture(i, (63, 41)) for i in range(5)]


def line(frames, keys=(), **how):
    return timeline.timeline(frames, Finish(**how), keys)


# ---- which frame when


def test_every_drawn_frame_is_shown_once_for_its_time():
    plain = line(5)
    assert plain.shots == tuple((i, 1) for i in range(5)) and plain.rate == 8
    assert line(16, duration=4).rate == 4 and line(16, fps=24).seconds == pytest.approx(16 / 24)
    assert [p for p, _ in line(4, there_and_back=True).shots] == [0, 1, 2, 3, 2, 1]
    assert [p for p, _ in line(8, (0, 4), loop=True, there_and_back=True).shots] == list(range(8))  # it closes itself


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("ease", [False, True])
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("hold", [0, 0.3, 1])
def test_the_whole_is_as_long_as_was_asked(smooth, ease, back, hold):
    for duration in (4, 7.3):
        made = line(16, smooth=smooth, ease=ease, there_and_back=back, hold=hold, duration=duration)
        assert made.seconds == pytest.approx(duration, abs=0.5 / 60)
        places = [p for p, _ in made.shots]
        assert places[0] == 0 and max(places) == 15 and (back or places == sorted({*places}))
        if not smooth:
            assert {*places} == {*range(16)}  # no drawn frame is left out
        counts = {p: c / float(made.rate) for p, c in made.shots}
        assert all(counts[p] >= hold for p in (0, 15))


def test_pictures_rest_and_the_way_is_slower_beside_them():
    made = line(9, (0, 4, 8), ease=True, hold=0.5)
    times = [c / float(made.rate) for _, c in made.shots]
    assert (
        times == times[::-1] and times[4] > times[3] + 0.5 and times[1] > times[2] - 1e-9 and times[3] > times[2] - 1e-9
    )
    smooth = line(9, (0, 4, 8), ease=True, hold=0.5, smooth=True, duration=3)
    held = [p for p, c in smooth.shots if c > 1]
    assert held == [0, 4, 8] and smooth.frames == 180 and smooth.rate == 60
    steps = np.diff([p for p, _ in smooth.shots])
    assert steps[0] < steps.max() / 5 and (steps > 0).all()
    settings = {"keyframes": 3, "frames": 5, "loop": False}
    assert timeline.keys_of(settings, 9) == [0, 4, 8] and timeline.keys_of(settings, 7) == [0, 6]
    loop = settings | {"loop": True}
    assert timeline.keys_of(loop, 12) == [0, 4, 8] and timeline.closes(loop, 12) and not timeline.closes(loop, 11)


def test_sixteen_frames_are_four_calm_seconds():
    made = line(16, duration=4, smooth=True)
    assert (made.frames, made.rate, made.seconds) == (240, 60, 4) and len(made.shots) == 240
    assert np.allclose(np.diff([p for p, _ in made.shots]), 15 / 239)
    closed = line(16, loop=True, duration=4, smooth=True)
    places = [p for p, _ in closed.shots]
    assert np.allclose(np.diff(places), 16 / 240) and places[-1] > 15  # on to the first


def test_a_part_of_the_way():
    assert [p for p, _ in line(16, trim="20,80").shots] == list(range(3, 13))
    smooth = [p for p, _ in line(9, trim="20 % – 80 %", smooth=True, duration=1).shots]
    assert smooth[0] == pytest.approx(1.6) and smooth[-1] == pytest.approx(6.4)
    assert Finish(trim="0;50").part == (0, 0.5) and finish_of({"trim": [12.5, 90]}).part == (0.125, 0.9)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"duration": 600}, "duration must be a number from 0 to 300, got 600"),
        ({"duration": float("nan")}, "duration must be a number from 0 to 300, got nan"),
        ({"duration": 4, "fps": 10}, "fps must be left out where a duration is given, unless smooth is on, got fps 10"),
        ({"fps": 0.5}, "fps must be from 1 to 60, got 0.5"),
        ({"fps": 61}, "fps must be a number from 0 to 60, got 61"),
        ({"fps": 60, "format": "gif", "smooth": True}, "fps must be from 1 to 50 in GIF, got 60"),
        ({"hold": -1}, "hold must be a number from 0 to 60, got -1"),
        ({"hold": 3, "duration": 4}, "hold must leave time to move, got 2 × 3 s in a film of 4 s"),
        ({"trim": "80,20"}, "trim must be two percentages from 0 to 100, the smaller first (20,80), got '80,20'"),
        ({"trim": "20"}, "trim must be two percentages"),
        ({"trim": "-5,50"}, "trim must be two percentages"),
        ({"trim": "nan,50"}, "trim must be two percentages"),
        ({"trim": "0,101"}, "trim must be two percentages"),
        ({"trim": "49,51"}, "trim must leave at least two frames of 5, got '49,51'"),
        ({"duration": 0.05}, "duration must be at least 0.0833 s for 5 frames (60 a second), got 0.05"),
        ({"format": "avi"}, "format must be one of mp4, webm, webp, gif, zip, got 'avi'"),
        ({"ease": "yes"}, "ease must be true or false, got 'yes'"),
    ],
)
def test_what_cannot_be_is_a_sentence_before_any_work(how, sentence):
    with pytest.raises(EngineError) as e:
        film.check(5, Finish(**how), {})
    assert sentence in str(e.value)


def test_long_and_large_films_are_refused(monkeypatch):
    with pytest.raises(EngineError, match="film must last at most 300 s, got 400 s"):
        line(400, fps=1)
    with pytest.raises(EngineError, match="frames of a film must be at least 2, got 1"):
        line(1)
    with pytest.raises(EngineError, match=r"film must have at most 20,000 megapixels in all its frames, got 301,990"):
        film.check(16, Finish(duration=300, smooth=True), {}, 4096)
    monkeypatch.setitem(film.ENCODERS, "webm", "libnothing")
    with pytest.raises(EngineError, match="format must be one that this machine can write, got WebM, for which FFmpeg"):
        Film(FRAMES, Finish(format="webm"), SETTINGS)
    with pytest.raises(EngineError, match="frames of a film must have one size, got 63 × 41 and 20 × 30"):
        save(Film([*FRAMES, picture(0, (20, 30))], Finish(format="gif"), SETTINGS), "never")


# ---- files


def probed(path):
    show = (
        "stream=codec_name,pix_fmt,width,height,color_space,color_primaries,color_transfer,color_range,nb_read_frames"
    )
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", f"{show},avg_frame_rate:format=duration"]
    out = subprocess.run([*command, "-of", "json", path], capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    return found["streams"][0] | {"seconds": float(found["format"]["duration"])}


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="no second reader")
@pytest.mark.parametrize(("form", "codec"), [("mp4", "h264"), ("webm", "vp9")])
@pytest.mark.parametrize("how", [{}, {"duration": 2, "smooth": True, "fps": 24}, {"hold": 0.5, "ease": True}])
def test_a_second_reader_finds_the_film_that_was_asked_for(tmp_path, form, codec, how):
    made = Film(FRAMES, Finish(format=form, there_and_back=True, **how), SETTINGS)
    save(made, path := tmp_path / f"m.{form}")
    found = probed(path)
    assert (found["codec_name"], found["pix_fmt"], found["width"], found["height"]) == (codec, "yuv420p", 64, 42)
    said = [found[f"color_{n}"] for n in ("space", "primaries", "transfer", "range")]
    assert said == ["bt709", "bt709", "bt709", "tv"]
    assert int(found["nb_read_frames"]) == made.line.frames and found["seconds"] == pytest.approx(
        made.line.seconds, abs=0.002
    )
    assert Fraction(found["avg_frame_rate"]) == made.line.rate
    assert video.read_settings(path) == SETTINGS | {"film": made.finish.told}
    with av.open(str(path)) as file:  # each shot is what the timeline says
        seen = [f.to_ndarray(format="rgb24")[:41, :63] for f in file.decode(video=0)]
    meant = [p for p, count in made._shots() for _ in range(count)]
    assert all(np.abs(a.astype(int) - np.asarray(b)).mean() < 8 for a, b in zip(seen, meant, strict=True))


@pytest.mark.parametrize(("form", "unit"), [("gif", 100), ("webp", 1000)])
@pytest.mark.parametrize("how", [{}, {"hold": 0.5, "ease": True, "duration": 3}, {"there_and_back": True, "fps": 7}])
def test_animations_play_again_and_again_for_as_long(tmp_path, form, unit, how):
    made = Film(FRAMES, Finish(format=form, **how), SETTINGS)
    save(made, path := tmp_path / f"m.{form}")
    with Image.open(path) as image:
        assert image.size == (63, 41) and image.info["loop"] == 0 and image.n_frames == len(made.line.shots)
        times = []
        for i, (place, _) in enumerate(made.line.shots):
            image.seek(i)
            image.load()
            times.append(image.info["duration"])
            assert psnr(image.convert("RGB"), FRAMES[int(place)]) > 25
    assert times == [n * 1000 / unit for _, n in made.line.lasting(unit)]
    assert sum(times) == pytest.approx(1000 * made.line.seconds, abs=1000 / unit)
    assert video.read_settings(path) == SETTINGS | {"film": made.finish.told}


def psnr(a, b):
    off = np.asarray(a, np.float32) - np.asarray(b, np.float32)
    return 10 * np.log10(255**2 / (np.square(off).mean() + 1e-9))


@pytest.mark.parametrize("example", ["00", "05", "06"])  # the usual, the largest, the most colourful
def test_a_gif_of_flowers_is_small_and_near(tmp_path, example):
    """Stored frames of flora's, there and back in part: sixteen of 256 × 256."""
    with Image.open(ROOT / f"assets/examples/made/{example}.webp") as sheet:
        whole = sheet.convert("RGB")
    w = whole.width // 9
    frames = [whole.crop((i * w, 0, (i + 1) * w, whole.height)) for i in range(9)]
    frames = [frames[i] for i in (*range(9), *range(7, 0, -1))]
    assert len(frames) == 16 and frames[0].size == (256, 256)
    save(Film(frames, Finish(format="gif"), SETTINGS), path := tmp_path / "m.gif")
    assert path.stat().st_size <= 700_000
    with Image.open(path) as image:
        for i, frame in enumerate(frames):
            image.seek(i)
            assert psnr(image.convert("RGB"), frame) >= 30


def test_what_does_not_change_costs_a_gif_nothing(tmp_path):
    many = [FRAMES[0]] * 16
    save(Film(many, Finish(format="gif"), SETTINGS), tmp_path / "still.gif")
    save(Film(many[:2], Finish(format="gif"), SETTINGS), tmp_path / "two.gif")
    sizes = [(tmp_path / f"{n}.gif").stat().st_size for n in ("still", "two")]
    assert sizes[0] - sizes[1] <= 14 * 30
    grey = [Image.new("RGB", (20, 10), (n, n, n)) for n in (10, 200)]  # fewer colours than a palette has
    save(Film(grey, Finish(format="gif"), {}), tmp_path / "grey.gif")
    with Image.open(tmp_path / "grey.gif") as image:
        image.seek(1)
        assert psnr(image.convert("RGB"), grey[1]) > 40
    assert len(gif.palette_of(grey).getcolors() or ()) == 1


def test_pngs_are_the_frames_of_the_film(tmp_path):
    made = Film(FRAMES, Finish(format="zip", there_and_back=True, hold=0.25), SETTINGS)
    save(made, tmp_path / "m.zip")
    with zipfile.ZipFile(tmp_path / "m.zip") as z:
        names = [n for n in z.namelist() if n.endswith(".png")]
        assert len(names) == made.line.frames == 8 + 2 * 2
        shown = [Image.open(z.open(n)).tobytes() for n in names]
    assert shown[:4] == [FRAMES[0].tobytes()] * 3 + [FRAMES[1].tobytes()]
    assert video.read_settings(tmp_path / "m.zip") == SETTINGS | {"film": {"hold": 0.25, "there_and_back": True}}


def test_clear_frames_stay_clear_in_webp(tmp_path):
    frames = [Image.new("RGBA", (32, 32), (255, 0, 0, 255 * (i == 1))) for i in range(3)]
    save(Film(frames, Finish(format="webp"), {}), tmp_path / "m.webp")
    with Image.open(tmp_path / "m.webp") as image:
        clear = []
        for i in range(3):
            image.seek(i)
            clear.append(image.convert("RGBA").getpixel((5, 5))[3])
    assert clear == [0, 255, 0]


def test_unlike_frames_are_left_as_drawn_and_it_is_said():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)) for _ in range(3)]
    made = Film([*noise[:2], noise[1]], Finish(smooth=True, duration=1, fps=12), {})
    seen = {p.tobytes() for p, _ in made._shots()}
    assert seen == {n.tobytes() for n in noise[:2]}  # nothing between the first two; nothing moves in the others
    assert made.notes == ["1 step is too large to be filled and stays as drawn (frames 1 to 2)"]


def test_a_film_that_is_given_up_leaves_nothing(tmp_path):
    for form in FORMATS:
        writing = Film(FRAMES, Finish(format=form), SETTINGS).writing(tmp_path / f"m.{form}")
        assert [next(writing), next(writing)] == [0, 0.2]
        writing.close()
    assert not list(tmp_path.iterdir())


# ---- the command line


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["engine", *map(str, args)])
    code = cli.main()
    out, err = capsys.readouterr()
    return code, out, err


def test_frames_that_are_there_become_another_film(tmp_path, monkeypatch, capsys):
    video.save_frames(FRAMES, tmp_path / "frames", SETTINGS)
    out = tmp_path / "new/m.gif"
    code, said, _ = run(
        monkeypatch, capsys, "film", tmp_path / "frames", "--duration", "2", "--hold", "0,5", "--out", out
    )
    report = json.loads(said.splitlines()[-1])
    assert code == 0 and (report["seconds"], report["drawn"], report["format"]) == (2.0, 5, "gif")
    assert video.read_settings(out)["seed"] == 7
    # A film keeps its speed, and its settings.
    video.save_mp4(FRAMES, tmp_path / "a.mp4", SETTINGS, fps=25)
    for more, frames in (((), 5), (("--smooth",), 12)):
        code, said, _ = run(monkeypatch, capsys, "film", tmp_path / "a.mp4", *more, "--out", tmp_path / "b.webm")
        report = json.loads(said.splitlines()[-1])
        assert code == 0 and report["seconds"] == 0.2 and report["frames"] == frames


def test_refusals_of_the_command_leave_everything(tmp_path, monkeypatch, capsys):
    video.save_frames(FRAMES[:2], tmp_path / "f", SETTINGS)
    picture(1, (30, 30)).save(tmp_path / "odd.png")
    for args, sentence in (
        (
            ("f", "--out", "m.avi"),
            "out must be a file name that ends in .mp4 or .m4v or .webm or .webp or .gif or .zip",
        ),
        (("f", "--out", "m.mp4", "--fps", "0"), "fps must be from 1 to 60, got 0"),
        (("f", "--out", "m.mp4", "--duration", "600"), "duration must be a number from 0 to 300, got 600"),
        (("f", "odd.png", "--out", "m.mp4"), "frames of a film must have one size, got 63 × 41 and 30 × 30"),
        (("odd.png", "--out", "m.mp4"), "frames of a film must be at least 2, got 1"),
        (("f", "--out", "f/0000.png"), "out must be a file name that ends in"),
        (("gone", "--out", "m.mp4"), "which is not there"),
    ):
        monkeypatch.chdir(tmp_path)
        code, out, err = run(monkeypatch, capsys, "film", *args)
        assert code == 2 and sentence in err and not out, err
    video.save_mp4(FRAMES, tmp_path / "a.mp4", SETTINGS)
    code, _, err = run(monkeypatch, capsys, "film", "a.mp4", "--out", "a.mp4")
    assert code == 2 and "out must be another file than what the film is made of" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "f", "odd.png"]


def test_the_format_is_the_files_ending():
    assert {asked({}, f"x{ending.upper()}").format for ending in ENDINGS} == {*FORMATS}
    assert finish_of({"format": ".GIF", "fps": "12,5", "duration": None, "trim": ""}).fps == 12.5
