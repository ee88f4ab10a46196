"""*Enlarge*: the laws of the method, and it as a command, as an API and on the page."""

import json
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from conftest import ROOT, picture
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect
from test_cli import engine

from engine.jobs.run import run
from engine.jobs.zerogpu import LEAST, MOST, seconds
from engine.requests import Done, EngineError, EnlargeRequest, Frame, Preview, Progress, result
from engine.vision import sources, video
from engine.vision.enlarge import Enlarger, busiest, detail, enlarge, tiles
from engine.vision.sources import read_all

FLOWER = ROOT / "assets/examples/daisy-2520369272.webp"


@pytest.fixture(scope="module")
def net():
    return Enlarger(torch.device("cpu"))


@pytest.fixture(scope="module")
def flower():
    return Image.open(FLOWER).convert("RGB").crop((80, 80, 160, 144))


def larger(net, p, scale, **how):
    return result(enlarge(net, p, scale, **how))


def off(a, b):
    return np.abs(np.asarray(a, float) - np.asarray(b, float))


@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_leave_no_seams(net, flower, scale):
    """A tile sees as far as the network does, so the picture in tiles is the picture in one."""
    assert len(tiles(*flower.size, tile=20)) == 12
    assert off(larger(net, flower, scale), larger(net, flower, scale, tile=20)).max() <= 1


@pytest.mark.parametrize("size", [(17, 16), (51, 33), (300, 20)])
def test_sizes_are_exact_and_every_pixel_is_covered_once(net, size):
    for scale in (2, 4):
        assert larger(net, picture(1, size), scale).size == (size[0] * scale, size[1] * scale)
    seen = np.zeros(size[::-1], int)
    for x0, y0, x1, y1 in tiles(*size, tile=16):
        seen[y0:y1, x0:x1] += 1
    assert (seen == 1).all()


def test_the_picture_has_the_last_word_and_edges_are_crisper(net, flower):
    """Reduced again a result is the picture, nearer than half a level of 255; its slopes are steeper than Lanczos'."""
    fine = larger(net, flower, 4)
    assert off(fine.resize(flower.size, Image.Resampling.LANCZOS), flower).mean() < 0.5
    plain = flower.resize(fine.size, Image.Resampling.LANCZOS)
    steep = [np.abs(np.diff(np.asarray(p, float), axis=0)).mean() for p in (fine, plain)]
    assert steep[0] > 1.1 * steep[1]


def test_grey_stays_grey_and_alpha_stays_alpha(net, flower):
    grey = np.asarray(larger(net, flower.convert("L").convert("RGB"), 2))
    assert (grey == grey[..., :1]).all()
    layer = flower.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(flower.size).point(lambda a: max(a, 1)))
    fine = larger(net, layer, 2)
    assert fine.mode == "RGBA" and off(fine.convert("RGB"), larger(net, flower, 2)).max() == 0
    assert off(fine.getchannel("A").resize(flower.size), layer.getchannel("A")).max() <= 6
    flat = larger(net, Image.new("RGB", (24, 24), (200, 30, 90)), 4)
    seams = off(flat, np.full((96, 96, 3), (200, 30, 90)))
    assert seams[16:-16, 16:-16].max() <= 1 and seams.max() <= 12


@pytest.mark.parametrize("hidden", [(0, 0, 0), (0, 255, 0)])
def test_what_alpha_hides_colours_no_edge(net, hidden):
    """A red disc on nothing: whatever colour the clear pixels have, every pixel that is seen stays red."""
    y, x = np.mgrid[:48, :48]
    disc = np.hypot(y - 23.5, x - 23.5) < 15
    block = np.where(disc[..., None], (200, 30, 40, 255), (*hidden, 0)).astype(np.uint8)
    fine = np.asarray(larger(net, Image.fromarray(block), 2))
    seen = fine[..., 3] > 8
    assert np.abs(fine[seen][:, :3].astype(int) - (200, 30, 40)).max() <= 12
    half = np.asarray(detail(net, Image.fromarray(block), 2))[:, :96]  # before and after, on white
    assert (half[0, 0] == 255).all() and half[..., 0].min() >= 188


def test_a_detail_is_where_most_changes():
    p = Image.new("RGB", (100, 80), "white")
    p.paste(picture(3, (20, 20)), (70, 50))
    x0, y0, x1, y1 = busiest(p, 32)
    assert (x1 - x0, y1 - y0) == (32, 32) and x0 <= 70 and y0 <= 50 and x1 >= 90 and y1 >= 70
    assert busiest(Image.new("RGB", (20, 18)), 64) == (0, 0, 20, 18)


def test_what_cannot_be_is_refused_in_a_sentence():
    p = picture(0, (32, 32))
    for given, words in (
        ({"pictures": (p,), "scale": 3}, "scale must be one of 2, 4, got 3"),
        ({"pictures": ()}, "pictures must be 1 to 600, got none"),
        ({"pictures": (p, p.convert("L"))}, "picture 2 must be a picture of mode RGB or RGBA, got L"),
        ({"pictures": (Image.new("RGB", (4000, 3000)),), "scale": 2}, "picture 1 must have at most 40 megapixels"),
        ({"pictures": (p, Image.new("RGB", (20, 1)))}, "picture 2 must be at least 16 × 16 pixels, got 20 × 1"),
        (
            {"pictures": (p, *[Image.new("RGB", (3000, 3000))] * 67)},
            "at most 600 megapixels together.* with picture 68",
        ),
    ):
        with pytest.raises(EngineError, match=words):
            EnlargeRequest(**given)


def test_a_job_shows_a_detail_first_and_keeps_no_frames(models):
    from engine.context import Context

    given = tuple(picture(i, (20, 16)) for i in range(3))
    events = list(run(Context(models), EnlargeRequest(given, 4)))
    first = next(i for i, e in enumerate(events) if isinstance(e, Preview))
    frames = [e for e in events if isinstance(e, Frame)]
    assert first < events.index(frames[0]) and [f.index for f in frames] == [0, 1, 2]
    assert {f.picture.size for f in frames} == {(80, 64)}
    shares = [e.fraction for e in events if isinstance(e, Progress)]
    assert shares == sorted(shares) and shares[-1] == 1
    assert isinstance(events[-1], Done) and events[-1].frames == () and events[-1].settings["scale"] == 4


def test_films_folders_zips_and_alpha_are_read(tmp_path):
    frames = [picture(i, (33, 20)) for i in range(3)]
    video.save_mp4(frames, tmp_path / "a.mp4", {"method": "morph"}, fps=12)
    video.save_zip(frames, tmp_path / "a.zip", {"method": "morph"})
    video.save_frames(frames, tmp_path / "a", {"method": "morph"})
    clear = Image.new("RGBA", (20, 20), (9, 9, 9, 7))
    clear.save(tmp_path / "clear.png")
    read = read_all([tmp_path / "a.mp4"])
    assert (len(read.pictures), read.pictures[0].size, read.rate, read.settings) == (
        3,
        (34, 20),
        12,
        {"method": "morph"},
    )
    for place in ("a.zip", "a"):
        assert [p.tobytes() for p in read_all([tmp_path / place]).pictures] == [p.tobytes() for p in frames]
    assert read_all([tmp_path / "a"]).kept(EnlargeRequest(tuple(frames), 4)) == {
        "method": "morph",
        "frame": 0,
        "enlarged": 4,
    }
    clear = read_all([tmp_path / "clear.png"])
    assert clear.pictures[0].mode == "RGBA" and clear.kept(EnlargeRequest(tuple(frames)))["method"] == "enlarge"
    (tmp_path / "none").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    for name, words in (
        ("none", "folder must hold pictures"),
        ("broken.mp4", "must be a whole video"),
        ("gone", "not"),
    ):
        with pytest.raises(EngineError, match=words):
            read_all([tmp_path / name])


def test_no_more_is_read_than_can_be_enlarged(tmp_path, monkeypatch):
    """The count goes across all sources, and what comes after the first that is too much is never opened."""
    monkeypatch.setattr("engine.requests.enlarge.MOST", 5)
    video.save_mp4([picture(i, (32, 20)) for i in range(4)], tmp_path / "a.mp4", {})
    assert len(read_all([tmp_path / "a.mp4"]).pictures) == 4
    opened, shown = [], sources._shown
    monkeypatch.setattr(sources, "_shown", lambda *a: (opened.append(1), shown(*a))[1])
    with pytest.raises(EngineError, match="pictures must be 1 to 5, got more"):
        read_all([tmp_path / "a.mp4"] * 3)
    assert len(opened) == 6
    monkeypatch.setattr("engine.requests.enlarge.LARGEST", 0.002)
    with pytest.raises(EngineError, match=r"picture 1 must have at most 0\.002 megapixels when it is enlarged"):
        read_all([tmp_path / "a.mp4"], 4)
    assert len(opened) == 7
    with pytest.raises(EngineError, match="scale must be one of 2, 4, got 3"):
        read_all([tmp_path / "a.mp4"], 3)


def test_names_are_in_the_order_of_people_and_hidden_files_are_none(tmp_path):
    order = ["1.png", "2.png", "10.png", "A3.png", "a20.png"]
    for place in (tmp_path / "a", tmp_path / "a/__MACOSX"):
        place.mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        for i, name in reversed(list(enumerate(order))):
            picture(i, (20, 20)).save(tmp_path / "a" / name)
            (tmp_path / "a" / f"._{name}").write_bytes(b"a fork")
            z.write(tmp_path / "a" / name, f"film/{name}")
            z.writestr(f"__MACOSX/film/._{name}", b"a fork")
    for place in ("a", "a.zip"):
        found = read_all([tmp_path / place]).pictures
        assert [p.tobytes() for p in found] == [picture(i, (20, 20)).tobytes() for i in range(5)]


def test_long_pictures_are_read_as_they_are(tmp_path):
    """No network draws more than 4096 pixels a side, but this one."""
    p = picture(0, (4200, 20))
    p.save(tmp_path / "long.png")
    Image.new("RGB", (6000, 4000)).save(tmp_path / "photo.jpg")
    assert read_all([tmp_path / "long.png"]).pictures[0].tobytes() == p.tobytes()
    with pytest.raises(EngineError, match=r"picture 1 must have .* got 96 \(6000 × 4000, ×2\)"):
        read_all([tmp_path / "photo.jpg"])
    p.save(tmp_path / "two.tif", save_all=True, append_images=[p])
    assert read_all([tmp_path / "two.tif"]).notes == ["picture 1 has 2 pictures; the first is used"]


def test_broken_and_locked_zips_are_refused_in_a_sentence(tmp_path):
    picture(0, (20, 20)).save(tmp_path / "a.png")
    for name in ("broken", "locked", "empty"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as z:
            if name == "empty":
                z.writestr("a.txt", "no picture")
            else:
                z.write(tmp_path / "a.png", "a.png")
    block = bytearray((tmp_path / "broken.zip").read_bytes())
    block[60] ^= 255
    (tmp_path / "broken.zip").write_bytes(block)
    block = bytearray((tmp_path / "locked.zip").read_bytes())
    block[6] |= 1  # in the local header, and in the directory
    block[block.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(block)
    for name, words in (("broken", "must be whole"), ("locked", "no password"), ("empty", "zip must hold pictures")):
        with pytest.raises(EngineError, match=f"{words}.*{name}.zip"):
            read_all([tmp_path / f"{name}.zip"])


def test_the_sound_of_a_film_is_said_to_be_left_out(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as film:
        seen, heard = film.add_stream("libx264", rate=10), film.add_stream("aac", rate=16000)
        seen.width, seen.height, seen.pix_fmt = 32, 32, "yuv420p"
        film.mux(seen.encode(av.VideoFrame.from_image(picture(0, (32, 32)))))
        film.mux(seen.encode())
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        quiet.sample_rate = 16000
        film.mux(heard.encode(quiet))
        film.mux(heard.encode())
    assert read_all([tmp_path / "a.mov"]).notes == ["the sound of a.mov is left out"]


def test_nothing_is_written_over_what_is_enlarged(tmp_path):
    from engine.jobs.enlarge import apart, kind_of

    (tmp_path / "a").mkdir()
    for name in ("a/0000.png", "photo.png"):
        picture(0, (20, 20)).save(tmp_path / name)
    for place, given in (("photo.png", "photo.png"), ("a", "a"), ("a/0000.png", "a"), ("a", "a/0000.png")):
        with pytest.raises(EngineError, match="out must be another place than what is enlarged"):
            apart("out", tmp_path / place, [tmp_path / given])
    apart("out", tmp_path, [tmp_path / "photo.png"])  # 0000.png beside it
    apart("out", tmp_path / "a/film.mp4", [tmp_path / "a"])
    kinds = {"c.PNG": ".png", "frames.v2": "", "frames": "", "c.mp4": ".mp4", "c.zip": ".zip", "c.jpg/": ""}
    assert {name: kind_of(name) for name in kinds} == kinds
    for name in ("c.jpg", "c.gif", "c.webm"):
        with pytest.raises(EngineError, match=f"out must be a .png, a .mp4, a .zip or a folder, got '{name}'"):
            kind_of(name)


def test_zerogpu_is_asked_for_what_pictures_of_that_size_take():
    small, large = (EnlargeRequest((Image.new("RGB", (n, n)),) * 9, 4) for n in (64, 1000))
    assert seconds(small) == LEAST < seconds(large) < MOST


@pytest.mark.slow
def test_the_command(tmp_path):
    small = picture(2, (24, 20))
    video.save_png(small, tmp_path / "a.png", {"method": "edit", "seed": 3})
    done = engine(
        "enlarge", tmp_path / "a.png", "--scale", 4, "--out", tmp_path / "b.png", "--preview", tmp_path / "d.png"
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["pictures"], last["size"], last["scale"]) == (1, [96, 80], 4)
    assert Image.open(tmp_path / "b.png").size == (96, 80) and Image.open(tmp_path / "d.png").height == 80
    assert video.read_settings(tmp_path / "b.png") | {"seed": 3, "enlarged": 4} == video.read_settings(
        tmp_path / "b.png"
    )
    video.save_mp4([picture(i, (32, 20)) for i in range(3)], tmp_path / "a.mp4", {"method": "morph"}, fps=12)
    assert engine("enlarge", tmp_path / "a.mp4", "--out", tmp_path / "b.mp4").returncode == 0
    with av.open(str(tmp_path / "b.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (64, 40, Fraction(12))
        assert sum(1 for _ in film.decode(stream)) == 3
    large = picture(0, (40, 40))
    large.save(tmp_path / "large.png")
    done = engine("enlarge", tmp_path / "a.png", tmp_path / "large.png", "--out", tmp_path / "c.mp4")
    assert done.returncode == 2 and "out must be a folder or a .zip for pictures of different sizes" in done.stderr
    assert engine("enlarge", tmp_path / "a.mp4", "--out", tmp_path / "frames").returncode == 0
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"{i:04d}.png" for i in range(3)]
    for args, words in (
        (("a.png", "--scale", "3", "--out", "c.png"), "scale must be one of 2, 4, got 3"),
        (("a.mp4", "--out", "c.png"), "out must be a folder, a .zip or a .mp4 for 3 pictures"),
        (("gone.png", "--out", "c.png"), "which is not there"),
        (("a.mp4", "--fps", "0", "--out", "c.mp4"), "fps must be from 1 to 60, got 0"),
        (("a.png", "--out", "a.png"), "out must be another place"),
        (("a.png", "--preview", "d.jpg", "--out", "c.png"), "preview must be"),
    ):
        done = engine("enlarge", tmp_path / args[0], *args[1:-1], tmp_path / args[-1])
        assert done.returncode == 2 and words in done.stderr


@pytest.mark.slow
def test_the_api(studio, tmp_path):
    for i in range(2):
        picture(i, (24, 20)).save(tmp_path / f"{i}.png")
    given = [handle_file(tmp_path / f"{i}.png") for i in range(2)]
    client = Client(studio, verbose=False)
    film, pngs, detail, report = client.predict(given, scale=4, api_name="/enlarge")
    assert [Image.open(p).size for p in pngs] == [(96, 80)] * 2 and Image.open(detail).height == 80
    assert report["scale"] == 4 and read_all([film]).pictures[0].size == (96, 80)
    picture(5, (20, 24)).save(tmp_path / "other.png")
    video.save_png(picture(0, (24, 20)), tmp_path / "own.png", {"method": "edit", "seed": 3})
    two = [handle_file(tmp_path / name) for name in ("own.png", "other.png")]
    film, pngs, _, _ = client.predict(two, api_name="/enlarge")
    assert film is None and [Image.open(p).size for p in pngs] == [(48, 40), (40, 48)]
    assert video.read_settings(pngs[0]) == {"method": "edit", "seed": 3, "frame": 0, "enlarged": 2}
    film, pngs, _, _ = client.predict(given[:1], api_name="/enlarge")
    assert film is None and Image.open(pngs[0]).size == (48, 40)
    with pytest.raises(AppError, match="Scale must be one of 2, 4, got 3"):
        client.predict(given, scale=3, api_name="/enlarge")


@pytest.mark.slow
def test_a_film_on_the_page(browser, studio, tmp_path):
    """A ready film ×2: nothing before there is a film, a detail, the larger film beside the old one."""
    page = browser.new_page(viewport={"width": 1320, "height": 900})
    page.goto(studio)
    twice = page.locator("#interpolate-enlarge-2")
    page.click("#interpolate-player .example-badge button", timeout=120_000)
    expect(twice).to_be_disabled(timeout=60_000)
    page.click("#interpolate-examples button >> nth=0")
    expect(twice).to_be_enabled(timeout=60_000)
    old = page.locator("#interpolate-player .cell img").first.get_attribute("src")
    twice.click()
    expect(page.locator("#interpolate-detail img")).to_be_visible(timeout=120_000)
    page.click("#interpolate-stop")
    expect(page.locator("#interpolate-status")).to_contain_text("Stopped", timeout=60_000)
    twice.click()
    expect(page.locator("#interpolate-status")).to_contain_text("of 512 × 512", timeout=240_000)
    with page.expect_download() as taken:
        page.locator("#interpolate-larger-png").click()
    with zipfile.ZipFile(taken.value.path()) as z:
        assert Image.open(z.open("0000.png")).size == (512, 512)
    assert video.read_settings(taken.value.path())["enlarged"] == 2
    expect(page.locator("#interpolate-larger-mp4")).to_be_visible()
    assert page.locator("#interpolate-player .cell img").first.get_attribute("src") == old
    page.close()
