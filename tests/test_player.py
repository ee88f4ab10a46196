"""The film's boxes in Chromium: the player follows them, and the files are as it shows."""

import zipfile

import av
import pytest
from PIL import Image
from playwright.sync_api import expect

from engine.vision import video

pytestmark = pytest.mark.slow
LONG = 120_000
PLAYER = "#interpolate-player"


@pytest.fixture
def page(browser, studio):
    """A visit with a film of nine frames, made earlier."""
    page = browser.new_page(viewport={"width": 1320, "height": 1000}, reduced_motion="no-preference")
    errors = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(studio)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    page.click("#interpolate-examples button >> nth=0", timeout=LONG)
    expect(page.locator(f"{PLAYER} .cell[data-state=done]")).to_have_count(9, timeout=LONG)
    page.click("#interpolate-finish > button", timeout=LONG)
    expect(page.locator("#interpolate-duration input")).to_be_visible(timeout=LONG)
    yield page
    assert errors == []
    page.close()


def lasts(page, seconds):
    expect(page.locator(f"{PLAYER} .long")).to_have_text(f"{seconds} s", timeout=LONG)


def fill(page, name, value):
    box = page.locator(f"#interpolate-{name} input, #interpolate-{name} textarea").first
    box.fill(str(value), timeout=LONG)
    box.blur()


def taken(page, button, folder):
    with page.expect_download(timeout=LONG) as download:
        page.click(f"#interpolate-{button}", timeout=LONG)
    download.value.save_as(path := folder / download.value.suggested_filename)
    return path


def length(path):
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        return stream.frames, float(stream.frames / stream.average_rate)


def test_the_player_and_the_files_follow_every_box(page, tmp_path):
    expect(page.locator(f"{PLAYER} .play")).to_have_attribute("aria-label", "Pause", timeout=LONG)  # it plays
    lasts(page, "2")  # there and back, eight a second
    assert length(taken(page, "mp4", tmp_path)) == (16, 2)
    with zipfile.ZipFile(taken(page, "zip", tmp_path)) as z:
        assert len(z.namelist()) == 9 + 1
    page.uncheck("#interpolate-back input")
    lasts(page, "1.13")
    fill(page, "fps", 18)
    lasts(page, "0.5")
    fill(page, "fps", 0)
    fill(page, "trim", "25,75")
    lasts(page, "0.63")
    fill(page, "trim", "75,25")
    expect(page.locator("#interpolate-status")).to_contain_text("“Part” must be two percentages", timeout=LONG)
    lasts(page, "0.63")  # it stays
    fill(page, "trim", "")
    fill(page, "hold", 1)
    lasts(page, "3.13")
    page.check("#interpolate-ease input")
    fill(page, "duration", 4)
    lasts(page, "4")
    frames, seconds = length(path := taken(page, "mp4", tmp_path))
    assert seconds == pytest.approx(4) and frames > 9 and video.read_settings(path)["seed"] == 7
    # Another format, which comes when it is asked for.
    page.locator("#interpolate-format input").click(timeout=LONG)
    page.get_by_role("option", name="GIF").click(timeout=LONG)
    with Image.open(path := taken(page, "save", tmp_path)) as gif:
        assert path.suffix == ".gif" and gif.n_frames == 9 and gif.info["duration"] > 1000


def test_a_smoother_film_is_filled_and_shown(page, tmp_path):
    fill(page, "duration", 2)
    fill(page, "fps", 24)
    expect(page.locator("#interpolate-status")).to_contain_text("“Frames a second” must be left out", timeout=LONG)
    page.check("#interpolate-smooth input")
    between = f"document.querySelector('{PLAYER} .big').src"
    page.wait_for_function(f"() => /[0-9]-[0-9]+[.][0-9]+[.]jpg$/.test({between})", timeout=LONG)
    lasts(page, "2")
    assert length(taken(page, "mp4", tmp_path)) == (48, 2)
