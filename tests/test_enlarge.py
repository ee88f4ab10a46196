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
from engine.requests import Done, EngineError, EnlargeRequest, Frame, Preview, Progress
from engine.vision import video
from engine.vision.enlarge import Enlarger, busiest, enlarge, tiles

FLOWER = ROOT / "assets/examples/daisy-2520369272.webp"


@pytest.fixture(scope="module")
def net():
    return Enlarger(torch.device("cpu"))


@pytest.fixture(scope="module")
def flower():
    return Image.open(FLOWER).convert("RGB").crop((80, 80, 160, 144))


def larger(net, p, scale, **how):
    steps = enlarge(net, p, scale, **how)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


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
    assert off(fine.resize(flower.size, Image.Resampling.LANCZOS), flower).mean() < 1.0
    plain = flower.resize(fine.size, Image.Resampling.LANCZOS)
    steep = [np.abs(np.diff(np.asarray(p, float), axis=0)).mean() for p in (fine, plain)]
    assert steep[0] > 1.1 * steep[1]


def test_grey_stays_grey_and_alpha_stays_alpha(net, flower):
    grey = np.asarray(larger(net, flower.convert("L").convert("RGB"), 2))
    assert (grey == grey[..., :1]).all()
    layer = flower.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(flower.size))
    fine = larger(net, layer, 2)
    assert fine.mode == "RGBA" and off(fine.convert("RGB"), larger(net, flower, 2)).max() == 0
    assert off(fine.getchannel("A").resize(flower.size), layer.getchannel("A")).max() <= 6
    flat = larger(net, Image.new("RGB", (24, 24), (200, 30, 90)), 4)
    assert off(flat, np.full((96, 96, 3), (200, 30, 90))).max() <= 12


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
    read, rate = video.read_all([tmp_path / "a.mp4"])
    assert (len(read), read[0].size, rate) == (3, (34, 20), 12)
    for place in ("a.zip", "a"):
        assert [p.tobytes() for p in video.read_all([tmp_path / place])[0]] == [p.tobytes() for p in frames]
    assert video.read_all([tmp_path / "clear.png"])[0][0].mode == "RGBA"
    (tmp_path / "none").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    for name, words in (
        ("none", "folder must hold pictures"),
        ("broken.mp4", "must be a whole video"),
        ("gone", "not"),
    ):
        with pytest.raises(EngineError, match=words):
            video.read_all([tmp_path / name])


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
    assert engine("enlarge", tmp_path / "a.mp4", "--out", tmp_path / "frames").returncode == 0
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"{i:04d}.png" for i in range(3)]
    for args, words in (
        (("a.png", "--scale", "3", "--out", "c.png"), "scale must be one of 2, 4, got 3"),
        (("a.mp4", "--out", "c.png"), "out must be a folder, a .zip or a .mp4 for 3 pictures"),
        (("gone.png", "--out", "c.png"), "which is not there"),
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
    assert report["scale"] == 4 and video.read_all([film])[0][0].size == (96, 80)
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
    expect(twice).to_be_disabled(timeout=120_000)
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
