"""Films, zips and PNGs play anywhere and keep their settings."""

import zipfile

import av
import numpy as np
import pytest
from conftest import picture
from PIL import Image

from engine.requests import EngineError, Frame, Progress
from engine.vision import video

SETTINGS = {"method": "interpolate", "seed": 7, "prompt": "eine rote Rose – „schön“"}
FRAMES = [picture(i, (63, 41)) for i in range(5)]


def test_film_plays_everywhere_and_keeps_its_settings(tmp_path):
    path = tmp_path / "m.mp4"
    video.save_mp4(FRAMES, path, SETTINGS, fps=8)
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (64, 42)
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
    assert len(frames) == 5
    for shown, meant in zip(frames, FRAMES, strict=True):
        assert np.abs(shown[:41, :63].astype(int) - np.asarray(meant)).mean() < 8
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # faststart
    assert video.read_settings(path) == SETTINGS


def test_there_and_back_does_not_double_the_ends(tmp_path):
    assert video.path_of(4, True) == [0, 1, 2, 3, 2, 1]
    assert video.path_of(2, True) == [0, 1]
    video.save_mp4(FRAMES, tmp_path / "m.mp4", SETTINGS, there_and_back=True, hold=2)
    with av.open(str(tmp_path / "m.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 8 + 4


def test_png_and_zip_keep_their_settings(tmp_path):
    video.save_frames(FRAMES, tmp_path / "frames", SETTINGS)
    names = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert names == [f"{i:04d}.png" for i in range(5)]
    assert Image.open(tmp_path / "frames/0003.png").tobytes() == FRAMES[3].tobytes()
    assert video.read_settings(tmp_path / "frames/0003.png") == SETTINGS | {"frame": 3}
    video.save_zip(FRAMES, tmp_path / "m.zip", SETTINGS)
    assert video.read_settings(tmp_path / "m.zip") == SETTINGS
    with zipfile.ZipFile(tmp_path / "m.zip") as z:
        assert len(z.namelist()) == 6


def test_other_files_hold_no_settings(tmp_path):
    picture().save(tmp_path / "plain.png")
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "empty.zip").write_bytes(b"")
    block = bytearray()
    video.save_zip(FRAMES, tmp_path / "bad.zip", SETTINGS)
    block[:] = (tmp_path / "bad.zip").read_bytes()
    place = block.rindex(b'"seed"', 0, block.rindex(b"PK\x01\x02"))
    block[place + 9] ^= 1  # the checksum no longer holds
    (tmp_path / "bad.zip").write_bytes(block)
    for name in ("bad.zip", "plain.png", "broken.mp4", "empty.zip", "gone.png"):
        with pytest.raises(EngineError, match=f"settings must be inside .* got {name}, which holds none"):
            video.read_settings(tmp_path / name)


def test_fps_has_bounds(tmp_path):
    with pytest.raises(EngineError, match="fps must be"):
        video.save_mp4(FRAMES, tmp_path / "m.mp4", SETTINGS, fps=0)


def test_films_have_one_size_and_rates_are_held(tmp_path):
    with pytest.raises(EngineError, match="frames of a film must have one size, got 63 × 41 and 20 × 30"):
        video.save_mp4([*FRAMES, picture(0, (20, 30))], tmp_path / "m.mp4", SETTINGS)
    assert not (tmp_path / "m.mp4").exists()
    assert [video.steady(rate) for rate in (0, 0.5, 12.5, 100)] == [8, 1, 12.5, 60]


def test_a_film_that_is_given_up_leaves_nothing(tmp_path):
    writing = video.writing_mp4(FRAMES, tmp_path / "m.mp4", SETTINGS)
    assert [next(writing), next(writing)] == [0, 0.2]
    writing.close()
    assert not list(tmp_path.iterdir())


def test_stored_pictures_go_into_a_zip_as_they_are(tmp_path):
    made = video.Stored(tmp_path / "frames")
    events = [Progress(0.5, "enlarging"), *(Frame(i, p) for i, p in enumerate(FRAMES))]
    assert list(made.fill(events, SETTINGS)) == events
    assert [p.tobytes() for p in made] == [p.tobytes() for p in FRAMES]
    video.save_zip(made, tmp_path / "m.zip", SETTINGS)
    assert video.read_settings(tmp_path / "m.zip") == SETTINGS
    with zipfile.ZipFile(tmp_path / "m.zip") as z:
        assert z.read("0003.png") == made.path(3).read_bytes() and len(z.namelist()) == 6
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    sheet = video.side_by_side([clear, clear.convert("RGB")], gap=2)  # what is clear is white, as it is seen
    assert sheet.size == (18, 8) and dict(map(reversed, sheet.getcolors())) == {(255, 0, 0): 64, (255,) * 3: 80}
