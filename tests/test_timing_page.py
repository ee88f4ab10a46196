"""Holds and times of the timeline, in Chromium: the player shows what the file will be, and nothing is forgotten."""

import av
import pytest
from looker import made
from playwright.sync_api import expect
from test_easel import LONG
from test_points import DAISY, RED, ROSE, WHITE

pytestmark = pytest.mark.slow
pytest_plugins = ["looker"]


def test_a_picture_rests_and_a_way_is_quick_as_was_said(page, looker, tmp_path):
    page.get_by_role("tab", name="Morph").click()
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY, WHITE, RED])
    line, lasts = page.locator("#morph-timeline"), page.locator("#morph-player .long")
    expect(line.locator(".joint:not([hidden])")).to_have_count(3, timeout=LONG)
    expect(line.locator(".times")).to_have_count(0)  # quiet
    page.locator("#morph-back input").uncheck()
    made(page, looker, "morph")
    expect(lasts).to_have_text("5.75 s", timeout=LONG)  # 46 frames, eight a second
    line.locator(".timing").click()
    hold, way = line.get_by_label("Seconds to hold picture 3"), line.get_by_label("Seconds from picture 3 to picture 4")
    expect(way).to_have_attribute("placeholder", "1.94")
    hold.fill("2,5")
    hold.blur()
    expect(lasts).to_have_text("8.25 s", timeout=LONG)
    way.fill("0.5")
    way.blur()
    expect(lasts).to_have_text("6.82 s", timeout=LONG)
    way.fill("soon")
    way.blur()
    expect(page.locator("#morph-status")).to_contain_text(
        "“Time of each way” must be numbers from 0.01 to 300", timeout=LONG
    )
    way.fill("0.5")
    way.blur()
    with page.expect_download(timeout=LONG) as download:
        page.click("#morph-mp4")
    download.value.save_as(path := tmp_path / "m.mp4")
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert float(stream.frames / stream.average_rate) == pytest.approx(6.82, abs=0.02)
    line.locator(".timing").click()
    expect(line.locator(".timing")).to_have_text("timing · 2 set")
    expect(line.locator(".num").nth(2)).to_have_text("3 · 2,5 s")
    # It goes with its picture, and comes back with the page and from the file.
    line.locator(".grip").nth(2).press("ArrowLeft")
    expect(line.locator(".num").nth(1)).to_have_text("2 · 2,5 s")
    page.reload()
    page.get_by_role("tab", name="Morph").click()
    expect(line.locator(".num").nth(1)).to_have_text("2 · 2,5 s", timeout=LONG)
    page.set_input_files("input:has(+ #morph-load)", path)
    expect(line.locator(".num").nth(2)).to_have_text("3 · 2.5 s", timeout=LONG)
    expect(line.locator(".joint .put").nth(2)).to_have_text("+ points · 0.5 s")
    made(page, looker, "morph")
    expect(lasts).to_have_text("6.82 s", timeout=LONG)


def test_pictures_are_not_forgotten_where_the_studio_does_not_answer(page, looker):
    for side, file in (("a", ROSE), ("b", DAISY)):
        page.set_input_files(f"#interpolate-{side} input[type=file]", file)
        expect(page.locator(f"#interpolate-{side} img")).to_be_visible(timeout=LONG)
    page.set_input_files("#interpolate-more input[type=file]", [WHITE])
    expect(page.locator("#interpolate-more .joint:not([hidden])")).to_have_count(2, timeout=LONG)
    page.route("**/component_server/", lambda route: route.abort())
    page.reload()
    expect(page.locator("#interpolate-more .key img")).to_be_visible(timeout=LONG)
    expect(page.locator("#interpolate-hands .trouble")).to_contain_text("does not answer", timeout=LONG)
    page.unroute("**/component_server/")
    page.reload()
    for side in "ab":
        expect(page.locator(f"#interpolate-{side} img")).to_be_visible(timeout=LONG)
    expect(page.locator("#interpolate-more .joint:not([hidden])")).to_have_count(2, timeout=LONG)
