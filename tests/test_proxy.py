"""The studio under a path of a proxy that strips it, in Chromium from both addresses; and what --root-path may be."""

import re
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import ROOT, studio_over
from looker import Drawn
from playwright.sync_api import expect
from proxy import behind
from test_easel import LONG, Painter, show_tab, stroke, until
from test_easel import Job as Painted

from engine.requests import EngineError, InterpolateRequest
from engine.requests.settings import Settings

PREFIX = "/studio"
ROSE = ROOT / "assets/examples/rose-22325299158.webp"
DAISY = ROOT / "assets/examples/daisy-2520369272.webp"


@pytest.mark.parametrize("path", ["/studio", "/a/b-c/d_1", "/~me/st.udio", ""])
def test_a_path_is_taken_from_the_command_line_or_the_environment(path):
    assert Settings(root_path=path).root_path == path
    assert Settings.read(None, {"CHRYSALIS_ROOT_PATH": path}).root_path == path


@pytest.mark.parametrize(
    "path",
    ["studio", "/", "/studio/", "//x", "/a/../b", "/.", "/a b", "/a?b", "https://x/studio", "/é", "/a\n", "/%2e"],
)
def test_nonsense_is_refused(path):
    with pytest.raises(EngineError, match=r"^root_path must be a path as /studio, without / at its end, got '"):
        Settings(root_path=path)


class Hand(Painter):
    """Films get a frame for every place, drawings a colour."""

    def submit(self, request):
        self.jobs.append((Drawn if isinstance(request, InterpolateRequest) else Painted)(self, request))
        return self.jobs[-1]


@pytest.fixture(scope="module")
def studio_there():
    with studio_over(Hand(), root_path=PREFIX) as worker:
        yield worker


def test_the_addresses_in_the_page_are_those_of_the_visitor(studio_there):
    own = f"http://127.0.0.1:{urlsplit(studio_there.url).port}"
    tls = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "art.example"}
    with behind(own, PREFIX) as (proxied, _), behind(own, PREFIX, **tls) as (secure, _):
        for asked, root in (
            (proxied, proxied),  # without a slash at its end, as people type it
            (f"{proxied}/", proxied),
            (f"{own}/", own + PREFIX),
            (f"{own}{PREFIX}", own + PREFIX),
            (f"{secure}/", "https://art.example/studio"),
        ):
            page = httpx.get(asked, follow_redirects=True)
            assert page.status_code == 200 and page.url.path.endswith("/")
            assert re.search(r'"root":"([^"]*)"', page.text)[1] == root


@pytest.mark.slow
@pytest.mark.parametrize("way", ["proxied", "direct"])
def test_frames_downloads_uploads_and_strokes(browser, studio_there, way):
    own = f"http://127.0.0.1:{urlsplit(studio_there.url).port}"
    with behind(own, PREFIX) as (proxied, strays):
        page, here = browser.new_page(viewport={"width": 1320, "height": 900}), proxied if way == "proxied" else own
        asked, failed, errors = [], [], []
        page.on("request", lambda r: asked.append(r.url) if r.url.startswith("http") else None)
        page.on("response", lambda r: failed.append((r.status, r.url)) if r.status >= 400 else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(here, timeout=LONG)
        expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
        for box, file in (("#interpolate-a", ROSE), ("#interpolate-b", DAISY)):  # uploads
            page.set_input_files(f"{box} input[type=file]", file)
            expect(page.locator(f"{box} img")).to_be_visible(timeout=LONG)
        page.locator("#interpolate-make").click()  # the job's events, and its frames
        expect(page.locator("#interpolate-status")).to_contain_text("frames of", timeout=LONG)
        frames = page.locator("#interpolate-player img[src*='file=']")
        until(page, lambda: frames.count() and frames.evaluate_all("all => all.every(i => i.naturalWidth)"))
        with page.expect_download() as got:
            page.locator("#interpolate-mp4").click()
        assert got.value.path().stat().st_size > 1000
        box, jobs = show_tab(page, "Draw"), studio_there.jobs
        page.locator("#draw-canvas [data-act=live]").click()
        stroke(page, box, (100, 100), (200, 120), (180, 200))
        until(page, lambda: jobs[-1].request.method == "draw" and not jobs[-1].live and not studio_there.running)
        expect(page.locator("#draw-viewer .big")).to_be_visible(timeout=LONG)
        page.close()
    assert errors == [] and failed == [] and {*strays} <= {"/favicon.ico"}  # which browsers ask for by themselves
    assert all(a.startswith(here) for a in asked)
