"""The tabs Draw and Edit: what they make of what is on the canvas, and both in Chromium as an artist uses them."""

import json
import re
import time
from contextlib import contextmanager
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import ROOT, picture
from PIL import Image
from playwright.sync_api import expect
from test_live import Jobs, finished, said

from engine.requests import Cancelled, Done, DrawRequest, EditRequest, EngineError, Frame, Progress, fields_of, settle
from engine.vision import video
from morph_ui.components.canvas import Drawing
from morph_ui.panels import show
from morph_ui.panels.gallery import Gallery, pass_on
from morph_ui.session import Session
from morph_ui.tabs import draw, edit

LONG = 90_000
PHOTO = ROOT / "assets/examples/daisy-107592979.webp"


def layer(box=(8, 8, 24, 24)):
    out = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    out.paste((200, 20, 20, 255), box)
    return out


# ------------------------------------------------------------------------------------- without a browser


@pytest.fixture
def ask(monkeypatch):
    """What a tab makes of a drawing, and of what its widgets send: floats for whole numbers, an empty seed."""
    for tab in (draw, edit):
        monkeypatch.setattr(tab, "read", lambda drawing: drawing)

    def ask(tab, drawing, **own):
        plain = {n: f.default for n, f in fields_of(tab.R).items()} | {"seed": None}
        plain = {n: float(v) if type(v) is int else v for n, v in plain.items()}
        form = SimpleNamespace(read=lambda values: tab.R(**settle(tab.R, values)))
        return tab.ask(form, Session(), plain | {"canvas": drawing} | own)[0]

    return ask


def test_the_canvas_becomes_a_request(ask):
    photo = picture(0, (64, 64))
    r = ask(draw, Drawing((64, 64), photo, layer(), layer(), layer()), count=3.0)
    assert r.count == 3 and isinstance(r.count, int) and r.mask.mode == "L" and 0 <= r.seed < 2**32
    painted = Drawing((64, 64), photo, None, layer())
    everywhere, around = (ask(edit, painted, where=w) for w in ("all", "paint"))
    assert everywhere.photo is None and everywhere.guide.getpixel((10, 10)) == (200, 20, 20)
    assert around.photo is photo and around.guide.mode == "RGBA"
    masked = ask(edit, Drawing((64, 64), photo, None, None, layer()), where="all")
    assert masked.mask.getpixel((10, 10)) == 255 and masked.photo is photo
    with pytest.raises(EngineError, match="canvas must hold a painting or a photograph, got only a mask"):
        ask(edit, Drawing(mask=layer()), where="all")
    with pytest.raises(EngineError, match="got nothing"):
        ask(edit, Drawing(), where="paint")


def test_bisecting_halves_what_is_left():
    bounds, tried = (0.0, 1.0), [0.5]
    for up in (True, False, True):
        bounds, strength = edit.halve(bounds, tried[-1], up)
        tried.append(strength)
    assert tried == [0.5, 0.75, 0.625, 0.688] and bounds == (0.625, 0.75)
    assert edit.halve((0.6, 0.7), 0.2, True) == ((0.2, 0.7), 0.45)
    assert edit.halve((0.6, 0.7), 0.9, True) == ((0.9, 1.0), 0.95)  # set by hand, outside


@pytest.fixture(scope="module")
def panel():
    with gr.Blocks(analytics_enabled=False):
        panel = Gallery("draw", "", "Edit", lambda done: "Fine")
        panel.join(gr.Button(), gr.Button(), gr.Number())
    return panel


def viewed(panel, updates):
    """What the viewer was sent last."""
    return json.loads([u[panel.screen] for u in updates if panel.screen in u][-1])


def test_results_are_shown_named_and_taken_and_a_failure_loses_none(panel):
    session, r = Session(), DrawRequest(sketch=layer(), strokes=layer(), sheet="sketch-stroke")
    p = picture(0, (32, 32))
    plan = r.settings() | {"plan": r.plan()}
    jobs = Jobs(*[Frame(i, p) for i in range(9)], Done((p,) * 9, plan, 1.0, 4))
    how = {"before": "data:image/jpeg;x", "labels": draw.name(r)}
    updates = list(show(jobs, session, r, panel, **how))
    value, last = viewed(panel, updates), updates[-1]
    assert [c["label"] for c in value["cells"]][5] == "lines 1 · colours 2" and value["columns"] == 3
    assert not value["working"] and value["before"] == how["before"] and "9 pictures of 32 × 32" in said(updates)
    assert last[panel.png]["value"].endswith("-0.png") and last[panel.pngs]["visible"] and last[panel.make]["visible"]
    assert panel.choose(session, SimpleNamespace(index=4))[panel.png]["value"].endswith("-4.png")
    assert json.loads(pass_on(session, "edit"))["layers"]["photo"].startswith("data:image/png")
    failures = {
        "Memory must be larger": EngineError("memory must be larger"),
        "Something went wrong": RuntimeError("x"),
    }
    for words, failure in failures.items():
        updates = list(show(Jobs(failure), session, r, panel, labels=draw.name(r)))
        assert words in said(updates) and len(session.run.frames) == 9
        assert viewed(panel, updates)["cells"] == value["cells"]
    session.forget()


def test_a_ladder_keeps_what_was_tried_in_its_order_each_file_with_its_own_settings(panel):
    session = Session()
    for i, strength in enumerate((0.5, 0.75, 0.6)):
        r, keep = EditRequest(guide=picture(0), strength=strength), set(session.kept.frames)
        assert len(keep) == i
        done = Done((picture(i, (32, 32)),), r.settings() | {"plan": r.plan()}, 1.0, 4)
        how = {"keep": keep, "first": i, "labels": edit.name(r, i), "ladder": ("ours", (0.5, 0.75))}
        value = viewed(panel, list(show(Jobs(Frame(0, done.frames[0]), done), session, r, panel, **how)))
    assert [c["label"] for c in value["cells"]] == ["strength 0.5", "strength 0.6", "strength 0.75"]
    assert value["newest"] == 2 and value["cells"][1]["index"] == 2
    for i, strength in enumerate((0.5, 0.75, 0.6)):
        settings = video.read_settings(panel.choose(session, SimpleNamespace(index=i))[panel.png]["value"])
        assert settings["strength"] == strength and settings["method"] == "edit"
    # A stopped bisect leaves the ladder as it was.
    how |= {"keep": {0, 1, 2}, "first": 3, "ladder": ("other", (0.6, 0.75))}
    list(show(Jobs(Cancelled()), session, r, panel, **how))
    assert session.kept.ladder == ("ours", (0.5, 0.75)) and len(session.run.frames) == 3
    session.forget()


def test_a_run_that_is_superseded_leaves_the_newer_one_alone(panel):
    session, r, jobs = Session(), DrawRequest(sketch=layer()), Jobs(*finished())
    first, second = (show(jobs, session, r, panel) for _ in range(2))
    next(first)  # it has begun, and has not yet asked the worker
    next(second)
    assert said(list(first)) == "" and not jobs.asked
    assert "A picture" in said(list(second)) and len(jobs.asked) == 1
    session.forget()


# ------------------------------------------------------------------------------------------- in Chromium


class Painter:
    """A worker whose jobs take a moment and paint one colour; it notes them, and how many there were at once."""

    def __init__(self):
        self.jobs, self.running, self.most, self.steps = [], 0, 0, 16

    def submit(self, request, visitor=""):
        self.jobs.append(Job(self, request))
        return self.jobs[-1]


class Job:
    def __init__(self, painter, request):
        self.painter, self.request, self.cancelled = painter, request, False
        self.live = getattr(request, "sampler", "") == "live"

    def cancel(self):
        self.cancelled = True

    def __iter__(self):
        self.painter.running += 1
        self.painter.most = max(self.painter.most, self.painter.running)
        try:
            for i in range(2 if self.live else self.painter.steps):
                yield Progress(i / self.painter.steps, "painting")
                time.sleep(0.05)
                if self.cancelled:
                    raise Cancelled
            p = Image.new("RGB", (64, 64), "green" if self.live else "gold")
            yield Frame(0, p)
            settings = self.request.settings() | {"plan": self.request.plan()}
            yield Done((p,), settings, 0.1, 4, quality={"l2": 3000.0})
        finally:
            self.painter.running -= 1


@contextmanager
def opened(browser, url, tab):
    """A page with a tab of it open, and where its canvas lies."""
    page = browser.new_page(viewport={"width": 1320, "height": 1000})
    errors = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(url)
    yield page, show_tab(page, tab)
    assert errors == []
    page.close()


def show_tab(page, tab):
    page.get_by_role("tab", name=tab).click()
    expect(page.locator(f"#{tab.lower()}-canvas [data-ready]")).to_have_count(1, timeout=LONG)
    return page.locator(f"#{tab.lower()}-canvas .surface").bounding_box()


def stroke(page, box, *points, up=True):
    x, y = box["x"], box["y"]
    page.mouse.move(x + points[0][0], y + points[0][1])
    page.mouse.down()
    for px, py in points[1:]:
        page.mouse.move(x + px, y + py, steps=4)
    if up:
        page.mouse.up()


def says(page, tab, words):
    expect(page.locator(f"#{tab}-status")).to_contain_text(re.compile(words), timeout=LONG)


def settled(page, tab):
    expect(page.locator(f"#{tab}-make")).to_be_visible(timeout=LONG)


def until(page, happens):
    for _ in range(600):
        if happens():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")


@pytest.mark.slow
def test_draw_an_example_and_on_to_edit(browser, studio):
    with opened(browser, studio, "Draw") as (page, _):
        page.locator("#draw-viewer .example-badge button").click(timeout=LONG)
        page.locator("#draw-make").click()
        says(page, "draw", "must hold something drawn, got nothing")
        page.locator("#draw-examples button").nth(2).click()
        expect(page.locator("#draw-prompt textarea, #draw-prompt input")).to_have_value("a white daisy", timeout=LONG)
        page.locator("#draw-preset").get_by_text("draft").click()
        page.locator("#draw-make").click()
        says(page, "draw", "A picture of 256 × 256.*away from the drawing")
        settled(page, "draw")
        colour = page.evaluate("""() => {
          const c = document.createElement('canvas'), x = c.getContext('2d');
          c.width = c.height = 64;
          x.drawImage(document.querySelector('#draw-viewer .big'), 0, 0, 64, 64);
          return [...x.getImageData(32, 29, 1, 1).data];
        }""")
        assert colour[0] > 120 and colour[2] < 140, colour  # the daisy's yellow middle
        with page.expect_download() as got:
            page.locator("#draw-png").click()
        assert Image.open(got.value.path()).size == (256, 256)
        page.locator("#draw-viewer .compare").click()
        expect(page.locator("#draw-viewer .under")).to_be_visible()
        page.locator("#draw-onward").click()
        expect(page.get_by_role("tab", name="Edit")).to_have_attribute("aria-selected", "true", timeout=LONG)
        expect(page.locator("#edit-canvas .layer.photo")).to_be_visible(timeout=LONG)


@pytest.mark.slow
def test_live_follows_the_hand_and_rests(browser, painter):
    with opened(browser, painter.url, "Draw") as (page, box):
        live, jobs = page.locator("#draw-canvas [data-act=live]"), painter.jobs
        live.click()
        page.locator("#draw-canvas .layer[data-layer=strokes]").click()
        stroke(page, box, (100, 100), (300, 120), (280, 300), (120, 280))
        says(page, "draw", "A picture of 64 × 64")  # the hand rests: the full render
        assert jobs[0].live and not jobs[-1].live  # and before it the few steps
        few = [job.request for job in jobs if job.live]
        assert few[0].decoder == "light" and {r.decoder for r in few} <= {"light", "full"}  # a rest overtakes a still
        # Ten fast strokes: the newest wins, and the page comes to rest again, with the last of them.
        first = len(jobs)
        for i in range(10):
            stroke(page, box, (60 + 30 * i, 330), (70 + 30 * i, 380))
        until(page, lambda: not jobs[-1].live and not painter.running)
        drawn = jobs[-1].request.strokes.resize((int(box["width"]), int(box["height"])))
        assert all(drawn.getpixel((65 + 30 * i, 355))[3] for i in range(10))
        assert len(jobs) - first < 30 and painter.most == 1
        # Of the pictures in full the last one is kept in the history; what was sent on or taken stays beside it.
        kept = page.locator("#history .open output")
        expect(page.locator("#draw-viewer .stage.working")).to_have_count(0, timeout=LONG)
        expect(kept).to_have_text("1", timeout=LONG)
        page.locator("#draw-viewer .send").click()
        page.keyboard.press("Escape")
        stroke(page, box, (420, 100), (450, 300))
        expect(kept).to_have_text("2", timeout=LONG)
        # The hand goes on: the full render ends at once, and the new stroke is followed. So does a slider.
        slide, painter.steps = page.get_by_label("Realism").first.fill, 60  # time to come between, on a busy machine
        for y, go_on in ((60, lambda: stroke(page, box, (200, 60), (260, 60))), (90, lambda: slide("0.5"))):
            stroke(page, box, (300, y), (360, y))  # where nothing was: what changes nothing is not drawn again
            until(page, lambda: not jobs[-1].live and painter.running)
            whole, so_far = jobs[-1], len(jobs)
            go_on()
            until(page, lambda since=so_far: any(job.live for job in jobs[since:]))
            assert whole.cancelled and painter.most == 1
        assert jobs[-1].request.realism == 0.5
        # Stop ends the following; the drawing and the last picture stay.
        until(page, lambda: not jobs[-1].live and painter.running)
        page.locator("#draw-stop").click()
        settled(page, "draw")
        expect(live).to_have_attribute("aria-pressed", "false")
        expect(page.locator("#draw-viewer .big")).to_be_visible()
        painter.steps = 16
        # With Live off a slider changes nothing on the page.
        count = len(jobs)
        page.get_by_label("Realism").first.fill("0.4")
        page.wait_for_timeout(500)
        assert len(jobs) == count and not painter.running
        for width, height in ((390, 844), (844, 390), (1320, 1000)):  # the phone is turned in the middle
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(200)
        page.locator("#draw-make").click()
        says(page, "draw", "A picture of 64 × 64")
        # The drawing is kept in this browser: after a reload it can be had again.
        page.wait_for_timeout(2200)
        page.reload()
        show_tab(page, "Draw")
        page.locator("#draw-canvas [data-say=last]").click()
        expect(page.locator("#draw-canvas .say")).to_have_text("", timeout=LONG)
        page.locator("#draw-make").click()
        says(page, "draw", "A picture of 64 × 64")
        assert jobs[-1].request.strokes.tobytes() == jobs[count].request.strokes.tobytes()


@pytest.mark.slow
def test_edit_a_photograph_around_its_paint_and_bisect(browser, painter):
    with opened(browser, painter.url, "Edit") as (page, _):
        page.locator("#edit-viewer .example-badge button").click(timeout=LONG)
        page.locator("#edit-make").click()
        says(page, "edit", "must hold a painting or a photograph, got nothing")
        page.locator("#edit-canvas input[type=file]").first.set_input_files(PHOTO)
        expect(page.locator("#edit-canvas .layer.photo")).to_be_visible(timeout=LONG)
        expect(page.locator("#edit-canvas .layer.photo .name")).to_have_text("Photograph", timeout=LONG)
        box = page.locator("#edit-canvas .surface").bounding_box()  # it has the photograph's proportions now
        x, y = box["width"] / 2, box["height"] / 2
        stroke(page, box, (x, y), (x + 40, y + 10), (x + 20, y + 40), (x, y))
        page.locator("#edit-make").click()
        says(page, "edit", "A picture of .* away from what it was made from")
        settled(page, "edit")
        assert painter.jobs[-1].request.photo and painter.jobs[-1].request.guide.mode == "RGBA"
        for n, button in ((2, "realistic"), (3, "faithful")):
            page.locator(f"#edit-{button}").click()
            expect(page.locator("#edit-viewer .strip .cell")).to_have_count(n, timeout=LONG)
            settled(page, "edit")
        labels = page.locator("#edit-viewer .strip .cell span").all_inner_texts()
        assert labels == ["strength 0.5", "strength 0.625", "strength 0.75"]
        expect(page.get_by_label("number input for Strength")).to_have_value("0.625")
