"""What was made in this browser, in Chromium: found again, used again, compared, taken away; and a reload in the middle
of a job."""

import json
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import picture, studio_over
from PIL import Image
from playwright.sync_api import expect
from test_easel import LONG, Painter, stroke, until
from test_points import DAISY, ROSE

from engine.requests import Cancelled, Done, Frame, Progress
from morph_ui.components import shelf
from morph_ui.panels import lasting
from morph_ui.tabs import made

pytestmark = pytest.mark.slow
FIRST = "#interpolate-player .cell[data-state=done]"


class Maker(Painter):
    """Its jobs give a picture for every place, the seed's; they wait after the first while they are held."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def submit(self, request, visitor=""):
        self.jobs.append(Made(self, request))
        return self.jobs[-1]


class Made:
    def __init__(self, maker, request):
        self.maker, self.request, self.cancelled, self.over = maker, request, False, False

    def cancel(self):
        self.cancelled = not self.over

    def __iter__(self):
        r, frames = self.request, []
        for i in range(r.total):
            own = tuple(picture(10 * r.seed + i + 100 * k, (48, 48)) for k in range(2))
            frames.append(Frame(i, own[0], own))
            yield frames[-1]
            while not self.maker.go.wait(0.1):
                if self.cancelled:
                    raise Cancelled
                yield Progress(0.3, "held")
        settings = r.settings() | ({"plan": r.plan()} if hasattr(r, "plan") else {})
        self.over = True
        yield Done(
            tuple(f.picture for f in frames), settings, 0.1, 4, quality={"l2": 1.0} if "plan" in settings else {}
        )


@pytest.fixture(scope="module")
def maker():
    with studio_over(Maker()) as maker:
        yield maker


@pytest.fixture
def visit(browser, maker):
    """Opens a page of one browser; ``before`` is run in it first."""
    how = {"viewport": {"width": 1366, "height": 768}, "reduced_motion": "reduce"}
    context, errors = browser.new_context(accept_downloads=True, **how), []
    context.set_default_timeout(LONG)

    def open_page(before=""):
        page = context.new_page()
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.add_init_script(before)
        page.goto(maker.url)
        expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
        return page

    yield open_page
    maker.go.set()
    assert errors == []
    context.close()


def fill(page, seed, words=""):
    for side, file in (("a", ROSE), ("b", DAISY)):
        own = page.locator(f"#interpolate-{side} [data-testid=image] img")
        if not own.count():
            page.set_input_files(f"#interpolate-{side} input[type=file]", file)
            expect(own).to_be_visible(timeout=LONG)
    if words:  # after the pictures: with them the example goes, and its words
        page.wait_for_timeout(700)
        page.get_by_label("In words").first.fill(words)
    page.get_by_label("Seed", exact=True).first.fill(str(seed))
    page.keyboard.press("Tab")
    page.wait_for_timeout(300)


def make(page, maker, seed, words=""):
    fill(page, seed, words)
    page.locator("#interpolate-make").click()
    until(page, lambda: maker.jobs and maker.jobs[-1].request.seed == seed and maker.jobs[-1].over)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    page.wait_for_timeout(700)  # Gradio hears no second click on a button whose first still runs


def items(page):
    return page.locator("#history .grid li")


def test_it_is_found_used_compared_taken_away_and_deleted(visit, maker):
    page = visit()
    make(page, maker, 3, "a crimson rose")
    make(page, maker, 4, "a pale daisy")
    src = page.locator("#interpolate-player .cell img").nth(4).get_attribute("src")
    page.click("#history .open")
    expect(items(page)).to_have_count(2, timeout=LONG)
    # After a reload, and in another tab, it is still there; nothing twice.
    page.reload()
    other = visit()
    for p in (page, other):
        p.click("#history .open")
        expect(items(p)).to_have_count(2, timeout=LONG)
    expect(items(page).first).to_contain_text("seed 4")
    find = page.get_by_label("Search the history")
    for asked, found in (("ROSE", 1), ("seed 4", 1), ("flora interpolate", 2), ("tulip", 0), ("", 2)):
        find.fill(asked)
        expect(items(page)).to_have_count(found)
    # Large, with its settings; the arrows go on to the next.
    page.locator("#history .thumb").last.click()
    large = page.locator("#history dialog.large")
    expect(large).to_contain_text("a crimson rose")
    page.wait_for_function("+document.querySelector('#history .scrub').value > 1")  # it plays
    large.locator(".scrub").fill("4")
    # One of its frames as an input, by keys alone.
    large.locator(".send").press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "/seed3-frame5/.test(document.querySelector('#interpolate-b [data-testid=image] img')?.src || '')"
    )
    expect(large).to_be_hidden()
    # Its settings, the same way as a file's.
    page.locator("#history .thumb").last.click()
    large.locator(".use").click()
    expect(page.locator("#interpolate-status")).to_contain_text("Settings of chrysalis-interpolate-seed3", timeout=LONG)
    expect(page.get_by_label("In words").first).to_have_value("a crimson rose", timeout=LONG)
    expect(page.get_by_label("Seed", exact=True).first).to_have_value("3")
    # Two of them, side by side and one over the other.
    page.locator("#history .thumb").last.click()
    large.locator(".compare").click()
    page.locator("#history .thumb").first.click()
    expect(large.locator("figcaption")).to_have_text(["Interpolate · seed 3", "Interpolate · seed 4"])
    large.locator(".way").click()
    large.locator(".part").fill("250")
    clip = page.locator("#history .second").evaluate("f => getComputedStyle(f).clipPath")
    assert clip.startswith("inset(0") and "25%" in clip
    page.keyboard.press("Escape")
    # Away with all of it: every frame, and the settings.
    with page.expect_download() as got:
        page.locator("#history .export").click()
    with zipfile.ZipFile(got.value.path()) as z:
        assert z.testzip() is None and len(z.namelist()) == 2 * 10
        frame = next(n for n in z.namelist() if n.endswith("/chrysalis-interpolate-seed4-frame5.jpg"))
        assert z.read(frame) == Path(unquote(src.partition("file=")[2])).read_bytes()
        settings = json.loads(z.read(frame.rsplit("/", 1)[0] + "/settings.json"))
        assert settings["seed"] == 4 and settings["prompt"] == "a pale daisy" and "film" in settings
    page.locator("#history .thumb").first.press("Delete")
    for p in (page, other):
        expect(items(p)).to_have_count(1, timeout=LONG)
    page.get_by_role("button", name="Undo").click()
    expect(items(page)).to_have_count(2)
    page.locator("#history .clear").click()
    page.get_by_role("button", name="Throw away").click()
    for p in (page, other):
        expect(items(p)).to_have_count(0, timeout=LONG)


def test_a_reload_in_the_middle_of_a_job_finds_it_again(visit, maker, monkeypatch):
    page = visit()
    maker.go.clear()
    fill(page, 8, "a blue iris")
    page.click("#interpolate-make")
    expect(page.locator(FIRST)).to_have_count(1, timeout=LONG)
    job = maker.jobs[-1]
    page.reload()
    expect(page.locator("#interpolate-stop")).to_be_visible(timeout=LONG)
    expect(page.locator("#interpolate-status")).to_contain_text("held", timeout=LONG)
    expect(page.locator(FIRST)).to_have_count(1)
    for side in "ab":
        expect(page.locator(f"#interpolate-{side} [data-testid=image] img")).to_be_visible(timeout=LONG)
    expect(page.get_by_label("In words").first).to_have_value("a blue iris")
    expect(page.get_by_label("Seed", exact=True).first).to_have_value("8")
    assert not job.cancelled and maker.jobs[-1] is job
    maker.go.set()
    expect(page.locator(FIRST)).to_have_count(9, timeout=LONG)
    expect(page.locator("#interpolate-status")).to_contain_text("9 frames of", timeout=LONG)
    expect(page.locator("#history .open output")).to_have_text("1", timeout=LONG)
    # A tab that is closed, and not opened again, frees the device.
    monkeypatch.setattr(lasting, "GRACE", 1.0)
    maker.go.clear()
    fill(page, 9)
    page.wait_for_timeout(700)
    page.click("#interpolate-make")
    expect(page.locator(FIRST)).to_have_count(1, timeout=LONG)
    job = maker.jobs[-1]
    page.close()
    for _ in range(600):
        if job.cancelled:
            break
        time.sleep(0.05)
    assert job.request.seed == 9 and job.cancelled


SMALL = "window.chrysalisRoom = 18_000;"  # one result of nine pictures as the page has them, and not two
PRIVATE = "IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); };"


def test_the_oldest_go_and_a_private_window_says_so(visit, maker):
    page = visit(SMALL)
    for seed in (21, 22, 23):
        make(page, maker, seed)
    page.click("#history .open")
    expect(items(page)).to_have_count(1, timeout=LONG)
    expect(items(page)).to_contain_text("seed 23")
    page.close()
    page = visit(PRIVATE)
    page.click("#history .open")
    expect(page.locator("#history .drawer")).to_contain_text("This window keeps no history")


def test_a_result_is_dragged_anywhere_and_saved_under_its_name(visit, maker):
    page = visit()
    make(page, maker, 5)
    page.locator("#interpolate-player .cell").nth(2).click()
    page.locator("#interpolate-player .big").drag_to(page.locator("#interpolate-a"))
    page.wait_for_function(
        "/seed5-frame3/.test(document.querySelector('#interpolate-a [data-testid=image] img')?.src || '')"
    )
    # A try that was not chosen goes on as well, and chosen it takes the frame's place.
    tries = page.locator("#interpolate-candidates")
    send = tries.get_by_role("button", name="Send try 2 to …")
    send.scroll_into_view_if_needed(timeout=LONG)
    page.wait_for_timeout(500)  # a page that scrolls closes menus
    send.click()
    page.get_by_role("menuitem", name="To", exact=True).click()
    page.wait_for_function(
        "/seed5-frame3-try2/.test(document.querySelector('#interpolate-b [data-testid=image] img')?.src || '')"
    )
    tries.get_by_role("button", name="Try 2", exact=True).click()
    until(page, lambda: maker.jobs[-1].request.picks == ((2, 1),) and maker.jobs[-1].over)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    # From the shelf comes the whole picture, not the small one that is seen.
    small, name = page.locator("#interpolate-examples img").first, made.pairs()[0]["a"]
    small.hover()
    expect(small).to_have_attribute("data-name", name, timeout=LONG)
    small.drag_to(page.locator("#interpolate-b"))
    page.wait_for_function(
        "([name, w]) => { const i = document.querySelector('#interpolate-b [data-testid=image] img');"
        "return i?.src.includes(name.split('.')[0]) && i.naturalWidth === w; }",
        arg=[name, Image.open(shelf.EXAMPLES / name).width],
    )
    page.locator("#interpolate-player .cell").nth(2).click()
    with page.expect_download() as got:
        page.locator("#interpolate-player .send").click()
        page.get_by_role("menuitem", name="Save").click()
    assert got.value.suggested_filename == "chrysalis-interpolate-seed5-frame3.jpg"
    # From the history, whose large picture comes, onto the canvas; and what is drawn over it loses nothing.
    page.get_by_role("tab", name="Draw").click()
    expect(page.locator("#draw-canvas [data-ready]")).to_have_count(1, timeout=LONG)
    page.click("#history .open")
    page.locator("#history .thumb img").first.drag_to(
        page.locator("#draw-canvas .surface"), target_position={"x": 90, "y": 90}
    )
    expect(page.locator("#draw-canvas .layer.photo")).to_be_visible(timeout=LONG)
    page.click("#history .drawer .close")
    stroke(page, page.locator("#draw-canvas .surface").bounding_box(), (60, 60), (120, 90))
    page.locator("#draw-make").click()
    expect(page.locator("#draw-status")).to_contain_text("A picture of 48 × 48", timeout=LONG)
    src = page.locator("#draw-viewer .big").get_attribute("src")
    with Image.open(unquote(src.partition("file=")[2])) as shown:
        own = picture(10 * maker.jobs[-1].request.seed, (48, 48))
        assert shown.format == "PNG" and shown.tobytes() == own.tobytes()
