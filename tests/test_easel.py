"""The tabs Draw and Edit: what they make of the canvas's value, and both in Chromium as an artist uses them."""

import base64
import io
import json
import re
from dataclasses import fields
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import ROOT, picture
from PIL import Image
from playwright.sync_api import TimeoutError, expect

from engine.requests import Cancelled, Done, DrawRequest, EditRequest, EngineError, Frame, Progress
from engine.vision import video
from morph_ui import edit, live
from morph_ui.board import passed_on
from morph_ui.components.canvas import Drawing
from morph_ui.easel import UPDATES, Easel, choose, shown, stream

LONG = 90_000
PHOTO = ROOT / "assets/examples/daisy-107592979.webp"


def values(request, **own):
    """What the widgets send: floats for whole numbers, an empty seed."""
    plain = {f.name: f.default for f in fields(request) if f.name not in request.LAYERS}
    return {k: float(v) if isinstance(v, int) else v for k, v in plain.items()} | {"seed": None} | own


def layer(box=(8, 8, 24, 24)):
    out = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    out.paste((200, 20, 20, 255), box)
    return out


# ------------------------------------------------------------------------------------- without a browser


def test_the_canvas_becomes_a_request():
    photo = picture(0, (64, 64))
    r = live.request_of(Drawing((64, 64), photo, layer(), layer(), layer()), values(DrawRequest, count=3.0))
    assert r.count == 3 and isinstance(r.count, int) and r.mask.mode == "L" and 0 <= r.seed < 2**32
    everywhere, around = (edit.request_of(Drawing((64, 64), photo, None, layer()), values(EditRequest, where=w))
                          for w in ("all", "paint"))  # fmt: skip
    assert everywhere.photo is None and everywhere.guide.getpixel((10, 10)) == (200, 20, 20)
    assert around.photo is photo and around.guide.mode == "RGBA"
    masked = edit.request_of(Drawing((64, 64), photo, None, None, layer()), values(EditRequest, where="all"))
    assert masked.mask.getpixel((10, 10)) == 255 and masked.photo is photo
    with pytest.raises(EngineError, match="canvas must hold a painting or a photograph, got only a mask"):
        edit.request_of(Drawing(mask=layer()), values(EditRequest, where="all"))
    with pytest.raises(EngineError, match="got nothing"):
        edit.request_of(Drawing(), values(EditRequest, where="paint"))


def test_bisecting_halves_what_is_left():
    bounds, tried = (0.0, 1.0), [0.5]
    for up in (True, False, True):
        bounds, strength = edit.halfway(bounds, tried[-1], up)
        tried.append(strength)
    assert tried == [0.5, 0.75, 0.625, 0.688] and bounds == (0.625, 0.75)
    assert edit.halfway((0.6, 0.7), 0.2, True) == ((0.2, 0.7), 0.45)
    assert edit.halfway((0.6, 0.7), 0.9, True) == ((0.9, 1.0), 0.95)  # set by hand, outside


class Jobs:
    """Gives every job the same events; an exception among them is raised."""

    def __init__(self, *events):
        self.events = events

    def submit(self, request):
        return self

    def cancel(self):
        pass

    def __iter__(self):
        for e in self.events:
            if isinstance(e, Exception):
                raise e
            yield e


def finished(*pictures):
    frames = [Frame(i, p) for i, p in enumerate(pictures)]
    return [Progress(0.5, "drawing"), *frames, Done(tuple(pictures), {"method": "draw", "seed": 3}, 1.0, 4)]


def test_results_are_shown_named_and_taken_and_a_failure_loses_none():
    session, r = Easel(), DrawRequest(sketch=layer(), strokes=layer(), sheet="sketch-stroke")
    pictures = [picture(i, (32, 32)) for i in range(9)]
    updates = list(stream(Jobs(*finished(*pictures)), session, r, pictures[0], live.named(r), None, lambda d: ["Fine"]))
    last = updates[-1]
    value = json.loads(last[0])
    assert [c["label"] for c in value["cells"]][5] == "lines 1 · colours 2" and value["columns"] == 3
    assert not value["working"] and value["before"].startswith("data:image/jpeg") and "9 pictures" in last[1]
    assert last[5]["value"].endswith("-0.png") and last[6]["visible"] and last[3]["visible"]
    assert choose(session, SimpleNamespace(index=4))["value"].endswith("-4.png")
    assert json.loads(passed_on(session, "edit"))["layers"]["photo"].startswith("data:image/png")
    for failure, words in ((EngineError("memory must be larger, got little"), "Memory must be larger"),
                           (RuntimeError("x"), "Something went wrong")):  # fmt: skip
        end = list(stream(Jobs(failure), session, r, None, live.named(r), None, lambda d: []))[-1]
        assert words in end[1] and len(session.frames) == 9 and json.loads(end[0])["before"] == value["before"]
    session.forget()


def test_a_ladder_keeps_what_was_tried_in_its_order():
    session = Easel()
    for i, strength in enumerate((0.5, 0.75, 0.6)):
        r = EditRequest(guide=picture(0), strength=strength)
        keep = set(session.frames)
        assert len(keep) == i
        updates = stream(Jobs(*finished(picture(i, (32, 32)))), session, r, None, edit.named(r, i), keep, lambda d: [])
        value = json.loads(list(updates)[-1][0])
    assert [c["label"] for c in value["cells"]] == ["strength 0.5", "strength 0.6", "strength 0.75"]
    assert value["newest"] == 2 and json.loads(shown(session))["cells"][1]["index"] == 2
    session.forget()


def sent(strokes=None, follow=True, small=True, turn=1):
    block = io.BytesIO()
    if strokes:
        strokes.save(block, "PNG")
    url = "data:image/png;base64," + base64.b64encode(block.getvalue()).decode() if strokes else ""
    value = {"width": 64, "height": 64, "photo": None, "layers": {"strokes": url}, "live": small, "turn": turn}
    return json.dumps(value | {"following": follow}, separators=(",", ":"))


def test_live_drawing_is_quiet_unless_it_is_asked_for_and_something_is_drawn():
    """Every handler must yield: Gradio empties the outputs of one that does not."""
    session, names, rest = Easel(), ["canvas", *values(DrawRequest)], values(DrawRequest).values()
    nothing = Jobs(AssertionError("must not run"))
    for value in (None, "", sent(), sent(layer(), follow=False)):
        assert list(live.following(nothing, names)(session, value, *rest)) == [[gr.skip()] * UPDATES]
        for updates in live.fresh(nothing, names, rested=True)(session, value, *rest):
            assert updates == [gr.skip()] * UPDATES
    session.doing = "make"  # which must not be ended by a stroke
    assert list(live.following(nothing, names)(session, sent(layer()), *rest)) == [[gr.skip()] * UPDATES]


def test_live_then_rest_then_a_late_live_event():
    session, names, rest = Easel(), ["canvas", *values(DrawRequest)], values(DrawRequest, seed=3.0).values()
    small, whole = picture(1, (32, 32)), picture(2, (64, 64))
    last = list(live.following(Jobs(*finished(small)), names)(session, sent(layer()), *rest))[-1]
    assert (
        "live" in last[1] and not last[5]["interactive"] and json.loads(last[0])["cells"][0]["src"].startswith("data")
    )
    value = sent(layer(), small=False)
    last = list(live.fresh(Jobs(*finished(whole)), names, rested=True)(session, value, *rest))[-1]
    assert "A picture of 64 × 64" in last[1] and last[5]["interactive"] and session.doing == ""
    # A live event that waited its turn reads the same drawing: what is drawn in full already is not drawn again.
    late = list(live.following(Jobs(AssertionError("must not run")), names)(session, value, *rest))
    assert late == [[gr.skip()] * UPDATES]
    # And a rest that waited while the hand went on is of an older drawing.
    session.turn = 9
    old = list(
        live.fresh(Jobs(AssertionError("must not run")), names, rested=True)(session, sent(layer(), turn=8), *rest)
    )
    assert all(u == [gr.skip()] * UPDATES for u in old)


def test_a_run_that_is_superseded_leaves_the_newer_one_alone():
    session, r = Easel(), DrawRequest(sketch=layer())
    jobs = Jobs(*finished(picture(0, (32, 32))))
    first = stream(jobs, session, r, None, live.named(r), None, lambda d: [])
    next(first)  # it has begun, and has not yet asked the worker
    second = stream(jobs, session, r, None, live.named(r), None, lambda d: [])
    next(second)
    asked = []
    jobs.submit = lambda request: asked.append(request) or jobs
    assert list(first) == [[gr.skip()] * UPDATES] and not asked
    assert "A picture" in list(second)[-1][1] and len(asked) == 1


def test_every_file_carries_its_own_settings():
    session = Easel()
    for i, strength in enumerate((0.5, 0.75)):
        r, keep = EditRequest(guide=picture(0), strength=strength), set(session.frames)
        done = Done((picture(i, (32, 32)),), r.settings() | {"plan": r.plan()}, 1.0, 4)
        list(stream(Jobs(Frame(0, done.frames[0]), done), session, r, None, edit.named(r, i), keep, lambda d: []))
    for i, strength in enumerate((0.5, 0.75)):
        settings = video.read_settings(choose(session, SimpleNamespace(index=i))["value"])
        assert settings["strength"] == strength and settings["method"] == "edit"
    # A stopped bisect leaves the ladder as it was.
    session.basis, session.bounds = "ours", (0.5, 0.75)
    session.keep()
    list(stream(Jobs(Cancelled()), session, r, None, edit.named(r, 2), {0, 1}, lambda d: [], ("other", (0.6, 0.75))))
    assert session.basis == "ours" and session.bounds == (0.5, 0.75) and len(session.frames) == 2
    session.forget()


# ------------------------------------------------------------------------------------------- in Chromium


@pytest.fixture
def page(browser, studio):
    page = browser.new_page(viewport={"width": 1320, "height": 1000})
    page.errors = []
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.goto(studio)
    yield page
    assert page.errors == []
    page.close()


def opened(page, tab):
    page.get_by_role("tab", name=tab).click()
    expect(page.locator(f"#{tab.lower()}-canvas [data-ready], #{tab.lower()}-canvas[data-ready]")).to_have_count(
        1, timeout=LONG
    )
    return page.locator(f"#{tab.lower()}-canvas .surface").bounding_box()


def stroke(page, box, *points):
    x, y = box["x"], box["y"]
    page.mouse.move(x + points[0][0], y + points[0][1])
    page.mouse.down()
    for px, py in points[1:]:
        page.mouse.move(x + px, y + py, steps=4)
    page.mouse.up()


def says(page, tab, words):
    expect(page.locator(f"#{tab}-status")).to_contain_text(re.compile(words), timeout=LONG)


def settled(page, tab):
    expect(page.locator(f"#{tab}-make")).to_be_visible(timeout=LONG)


@pytest.mark.slow
def test_draw_an_example_a_sheet_and_on_to_edit(page):
    opened(page, "Draw")
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
    expect(page.locator("#edit-canvas .layer[data-layer=photo]")).to_be_visible(timeout=LONG)
    page.get_by_role("tab", name="Draw").click()  # nothing was lost meanwhile
    page.locator("#draw-make").click()
    says(page, "draw", "A picture of 256 × 256")


def said(page):
    """All that the status line has said since it was last asked."""
    return page.evaluate("() => (window.said || []).splice(0).join('|')")


@pytest.mark.slow
def test_live_follows_the_hand_and_rests(page):
    box = opened(page, "Draw")
    page.evaluate("""() => { window.said = []; const line = document.querySelector('#draw-status');
      new MutationObserver(() => window.said.push(line.innerText)).observe(line, { subtree: true, childList: true,
        characterData: true }); }""")
    page.locator("#draw-preset").get_by_text("draft").click()
    page.locator("#draw-canvas [data-act=live]").click()
    page.locator("#draw-canvas .layer[data-layer=strokes]").click()
    stroke(page, box, (100, 100), (300, 120), (280, 300), (120, 280))
    says(page, "draw", "A picture of 256 × 256")  # the hand rests: the full render
    assert re.search(r"live · \d", said(page))  # and before it the few steps
    # Ten fast strokes: the page comes to rest again, with the last of them.
    for i in range(10):
        stroke(page, box, (60 + 30 * i, 330), (70 + 30 * i, 380))
    expect(page.locator("#draw-viewer .stage")).to_have_class(re.compile("working"), timeout=LONG)
    expect(page.locator("#draw-viewer .stage")).not_to_have_class(re.compile("working"), timeout=LONG)
    says(page, "draw", "A picture of 256 × 256")
    assert re.search(r"live · \d", said(page))
    # Stop ends the following; the drawing and the last picture stay. It is there for moments only: it may take a few.
    for i in range(6):
        stroke(page, box, (200, 60 + 20 * i), (260, 60 + 20 * i))
        try:
            press = "() => { const b = document.querySelector('#draw-stop'); b && b.click(); return !!b; }"
            page.wait_for_function(press, polling=20, timeout=10_000)
            break
        except TimeoutError:
            assert i < 5, "Stop never came"
    settled(page, "draw")
    expect(page.locator("#draw-canvas [data-act=live]")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#draw-viewer .big")).to_be_visible()
    # With Live off a slider changes nothing on the page.
    page.get_by_label("Realism").first.fill("0.5")
    page.wait_for_timeout(800)
    expect(page.locator("#draw-make")).to_have_text("Make")
    for width, height in ((390, 844), (844, 390)):  # the phone is turned in the middle
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(400)
    page.set_viewport_size({"width": 1320, "height": 1000})
    page.locator("#draw-make").click()
    says(page, "draw", "A picture of 256 × 256")
    # The drawing is kept in this browser: after a reload it can be had again.
    page.wait_for_timeout(2500)
    page.reload()
    opened(page, "Draw")
    page.locator("#draw-canvas [data-say=last]").click()
    expect(page.locator("#draw-canvas .say")).to_have_text("", timeout=LONG)
    page.locator("#draw-make").click()
    says(page, "draw", "A picture of 256 × 256")


@pytest.mark.slow
def test_edit_a_photograph_around_its_paint_and_bisect(page):
    box = opened(page, "Edit")
    page.locator("#edit-make").click()
    says(page, "edit", "must hold a painting or a photograph, got nothing")
    page.locator("#edit-canvas input[type=file]").first.set_input_files(PHOTO)
    expect(page.locator("#edit-canvas .layer[data-layer=photo]")).to_be_visible(timeout=LONG)
    page.locator("#edit-preset").get_by_text("draft").click()
    page.wait_for_timeout(1500)
    stroke(page, box, (380, 80), (420, 90), (400, 120), (380, 90))
    page.locator("#edit-make").click()
    says(page, "edit", "A picture of .* away from what it was made from")
    settled(page, "edit")
    page.locator("#edit-realistic").click()
    expect(page.locator("#edit-viewer .strip .cell")).to_have_count(2, timeout=LONG)
    settled(page, "edit")
    page.locator("#edit-faithful").click()
    expect(page.locator("#edit-viewer .strip .cell")).to_have_count(3, timeout=LONG)
    settled(page, "edit")
    labels = page.locator("#edit-viewer .strip .cell span").all_inner_texts()
    assert labels == ["strength 0.5", "strength 0.625", "strength 0.75"]
    expect(page.get_by_label("number input for Strength")).to_have_value("0.625")
