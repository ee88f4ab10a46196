"""The studio over a worker that draws at once, for tests of the timeline in Chromium: a plugin of its fixtures."""

import pytest
from conftest import picture, studio_over
from playwright.sync_api import expect
from test_easel import LONG, Job, Painter, until

from engine.requests import Done, Frame, MatchRequest, Progress


class Looker(Painter):
    """What is asked for arrows gets one; films a frame for every place."""

    def submit(self, request, visitor=""):
        self.jobs.append((Arrows if isinstance(request, MatchRequest) else Drawn)(self, request))
        return self.jobs[-1]


class Arrows(Job):
    def __iter__(self):
        yield Progress(0.5, "looking")
        yield Done((), {"arrows": [[0.2, 0.2, 0.4, 0.3, 1.0]]}, 0.1, 0, notes=("seen",))


class Drawn(Job):
    over = False

    def cancel(self):
        self.over = True  # which comes after its end as well

    def __iter__(self):
        frames = [Frame(i, picture(i, (32, 32))) for i in range(self.request.total)]
        yield from frames
        yield Done(tuple(f.picture for f in frames), self.request.settings(), 0.1, 4)


@pytest.fixture(scope="module")
def looker():
    with studio_over(Looker()) as looker:
        yield looker


@pytest.fixture
def page(browser, looker):
    page, errors = browser.new_page(viewport={"width": 1366, "height": 768}), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(looker.url)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    yield page
    assert errors == []
    page.close()


def made(page, looker, name):
    """What the job is given when Make is pressed now, and the page is calm again."""
    before = len(looker.jobs)
    page.locator(f"#{name}-make").click()
    until(page, lambda: len(looker.jobs) > before)
    calm(page, looker, name)
    return looker.jobs[-1].request


def calm(page, looker, name):
    """Gradio hears no second click on a button whose first still runs."""
    until(page, lambda: looker.jobs[-1].over)
    expect(page.locator(f"#{name}-status")).to_contain_text("frames of", timeout=LONG)
    expect(page.locator(f"#{name}-make")).to_be_visible(timeout=LONG)
    page.wait_for_timeout(700)


def click(page, side, x, y):
    box = page.locator("dialog.points[open] .photo").nth(side).bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def put(page, *pairs):
    for x0, y0, x1, y1 in pairs:
        click(page, 0, x0, y0)
        click(page, 1, x1, y1)


def opened(page):
    """The window, once both pictures are in it."""
    expect(page.locator("dialog.points[open] .photo img[src]")).to_have_count(2, timeout=LONG)
    return page.locator("dialog.points[open]")


def near(got, *wanted):
    assert len(got) == len(wanted)
    for p, q in zip(got, wanted, strict=True):
        assert p == pytest.approx(q, abs=0.01)
