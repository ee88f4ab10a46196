"""The canvas in Chromium, drawn on with a mouse, a pen and fingers; and what Python makes of what it sends."""

import base64
import io
import json
import queue
import time
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from conftest import ROOT
from gradio.utils import get_upload_folder
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from engine.requests import EngineError
from engine.vision.images import NOTE
from morph_ui.components.canvas import beside, canvas, from_photograph, phase_of, read

ROSE = ROOT / "assets/examples/rose-22325299158.webp"
HEARD = {n: queue.Queue() for n in ("make", "live", "wake", "change")}


@pytest.fixture(scope="module")
def site():
    def hear(kind):
        return lambda value: HEARD[kind].put((value, time.monotonic()))

    def woken(event: gr.EventData):
        HEARD["wake"].put((event.turn, time.monotonic()))

    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs():
        for tab, layers in (("draw", ("sketch", "strokes", "mask")), ("edit", ("strokes", "mask"))):
            with gr.Tab(tab):
                drawing = canvas(tab, layers, live=tab == "draw")
                make = gr.Button("make", elem_id=f"{tab}-make")
                gr.Textbox(label="words")
            # Each press is heard, however soon it follows the last.
            make.click(hear("make"), drawing, None, trigger_mode="multiple", show_progress="hidden")
            if tab == "draw":
                drawing.wake(woken, None, None, show_progress="hidden")
                for kind in ("live", "change"):
                    getattr(drawing, kind)(hear(kind), drawing, None, trigger_mode="multiple", show_progress="hidden")
    _, url, _ = page.queue(default_concurrency_limit=1).launch(
        prevent_thread_lock=True, quiet=True, run_history=False, ssr_mode=False, server_name="127.0.0.1"
    )
    yield url
    page.close()


class Canvas:
    """The Draw canvas of a fresh page, in the document's own pixels."""

    def __init__(self, page):
        self.page, self.cdp, self.now = page, page.context.new_cdp_session(page), 0.0
        self.root = page.locator("#draw-canvas [data-ready]")

    def xy(self, x, y):
        box = self.root.locator(".surface").bounding_box()
        k = min(box["width"] / 512, box["height"] / 512)
        return box["x"] + box["width"] / 2 + (x - 256) * k, box["y"] + box["height"] / 2 + (y - 256) * k

    def drag(self, *points, up=True):
        mouse = self.page.mouse
        mouse.move(*self.xy(*points[0]))
        mouse.down()
        for p in points[1:]:
            mouse.move(*self.xy(*p), steps=6)
        if up:
            mouse.up()

    def pen(self, y, force):
        for kind, x in (("mousePressed", 100), ("mouseMoved", 250), ("mouseMoved", 400), ("mouseReleased", 400)):
            px, py = self.xy(x, y)
            how = {"button": "left", "buttons": 1, "clickCount": 1, "pointerType": "pen", "force": force}
            self.cdp.send("Input.dispatchMouseEvent", {"type": kind, "x": px, "y": py} | how)

    def touch(self, kind, *points):
        at = [dict(zip("xy", self.xy(*p), strict=True)) | {"id": i} for i, p in enumerate(points)]
        # The fingers' own clock, for this one may stand still on a busy machine.
        self.now = max(time.time(), self.now + 1) if kind == "Start" and len(points) == 1 else self.now + 0.02
        self.cdp.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at, "timestamp": self.now})

    def set(self, name, value):
        self.root.locator(f"input.{name}").evaluate(
            "(i, v) => { i.value = v; i.dispatchEvent(new Event('input', { bubbles: true })); }", str(value)
        )

    def act(self, name):
        self.root.locator(f"[data-act={name}]").click()

    def tool(self, name):
        self.root.locator(f"[data-tool={name}]").click()

    def layer(self, name, part=".name"):
        if part == ".clear":
            self.more(name)
        self.root.locator(f".layer[data-layer={name}] {part}").click()

    def more(self, name):
        """Opens what folds in a layer's row."""
        self.root.locator(f".layer[data-layer={name}] summary").click()

    def slide(self, name, value):
        """Moves a slider and lets it go."""
        self.set(name, value)
        self.root.locator(f"input.{name}").dispatch_event("change")

    def click(self, x, y, *modifiers):
        for key in modifiers:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.xy(x, y))
        for key in modifiers:
            self.page.keyboard.up(key)

    def key(self, press):
        """A key that is pressed where the pointer is: over the canvas."""
        self.root.locator(".surface").hover()
        self.page.keyboard.press(press)

    def masked(self):
        """The mask that Python reads, (H, W) 0 … 255."""
        mask = self.made().mask
        return np.zeros((512, 512), int) if mask is None else np.asarray(mask.getchannel("A"), int)

    def drop(self, path):
        self.root.locator("input.pick-file").set_input_files(path)

    def made(self):
        """What Python reads when Make is pressed now."""
        self.page.locator("#draw-make").click()
        return read(HEARD["make"].get(timeout=20)[0])

    def photographed(self):
        """Waits until the photograph is there."""
        expect(self.root.locator(".layer.photo")).to_be_visible(timeout=20_000)
        expect(self.root.locator(".layer.photo .name")).to_have_text("Photograph", timeout=20_000)


@pytest.fixture(params=[pytest.param("", id="chromium", marks=pytest.mark.slow)])
def c(browser, site):
    page = browser.new_page(viewport={"width": 700, "height": 1000}, has_touch=True)
    errors = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(site)
    expect(page.locator("#draw-canvas [data-ready]")).to_be_visible(timeout=60_000)
    for q in HEARD.values():
        q.queue.clear()
    yield Canvas(page)
    assert errors == []
    page.close()


def painted(layer):
    return 0 if layer is None else sum(layer.getchannel("A").point(lambda a: a > 0).histogram()[1:])


def thick(layer, x):
    return sum(a > 127 for a in layer.getchannel("A").crop((x, 0, x + 1, layer.height)).tobytes())


def test_strokes_keys_fills_and_masks(c):
    assert c.made().sketch is None
    c.layer("strokes")
    c.set("colour", "#3f62c9")
    c.set("size", 20)
    c.set("opacity", 0.5)
    c.drag((100, 200), (400, 200), (100, 200))  # over itself: its opacity does not add up
    seen = c.made()
    assert seen.size == (512, 512) and seen.sketch is None and seen.mask is None
    assert all(abs(a - b) <= 2 for a, b in zip(seen.strokes.getpixel((250, 200)), (0x3F, 0x62, 0xC9, 128), strict=True))
    assert 19 <= thick(seen.strokes.point(lambda a: min(255, 2 * a)), 250) <= 21
    c.page.keyboard.press("Control+z")
    assert c.made().strokes is None
    c.act("redo")
    c.act("undo")
    for press in ("Control+Shift+Z", "Control+z", "Control+y"):
        c.page.keyboard.press(press)
    assert c.made().strokes.tobytes() == seen.strokes.tobytes()
    c.tool("eraser")
    c.set("opacity", 1)
    c.drag((250, 150), (250, 250))
    rubbed = c.made().strokes
    assert rubbed.getpixel((250, 200))[3] == 0 and rubbed.getpixel((150, 200)) == seen.strokes.getpixel((150, 200))
    c.act("new")
    assert c.made().strokes is None
    c.act("undo")
    assert c.made().strokes.tobytes() == rubbed.tobytes()
    c.act("new")
    keys(c)
    c.act("new")
    fills(c)
    c.act("new")
    c.layer("mask")
    c.tool("brush")
    c.set("opacity", 0.4)
    c.set("size", 100)
    c.drag((200, 256), (300, 256))
    seen = c.made()
    alpha = seen.mask.getchannel("A")
    assert seen.sketch is None and abs(alpha.getpixel((250, 256)) - 102) <= 2 and alpha.getpixel((50, 50)) == 0


def keys(c):
    """Keys act on the canvas unless words are typed."""
    c.layer("sketch")
    c.tool("brush")
    c.set("size", 40)
    c.drag((100, 100), (110, 100))
    c.page.keyboard.press("]")
    assert c.root.locator("input.size").input_value() == "46"
    c.page.keyboard.press("[")
    assert c.root.locator("input.size").input_value() == "39"
    c.page.keyboard.press("e")
    expect(c.root.locator("[data-tool=eraser]")).to_have_attribute("aria-pressed", "true")
    c.page.get_by_label("words").first.click()
    c.page.keyboard.type("b[")
    c.page.keyboard.press("Control+z")
    expect(c.root.locator("[data-tool=eraser]")).to_have_attribute("aria-pressed", "true")
    assert c.root.locator("input.size").input_value() == "39" and painted(c.made().sketch) > 0


def fills(c):
    """A fill is bounded by a line, and the eyedropper finds it."""
    c.tool("brush")
    c.set("size", 6)
    c.drag((150, 150), (350, 150), (350, 350), (150, 350), (150, 150))
    c.layer("strokes")
    c.set("colour", "#f7d038")
    c.tool("fill")
    c.page.mouse.click(*c.xy(250, 250))
    seen = c.made()
    fill = seen.strokes
    assert fill.getpixel((250, 250)) == (0xF7, 0xD0, 0x38, 255) and fill.getpixel((50, 50))[3] == 0
    assert 190 * 190 < painted(fill) < 204 * 204
    c.set("colour", "#000000")
    c.tool("pick")
    c.page.mouse.click(*c.xy(250, 250))
    assert c.root.locator("input.colour").input_value() == "#f7d038"
    c.layer("sketch", ".eye")  # what is hidden bounds nothing and is not sent
    hidden = c.made()
    assert hidden.sketch is None and hidden.strokes is not None
    c.layer("sketch", ".eye")
    assert c.made().sketch.tobytes() == seen.sketch.tobytes()
    slider = c.root.locator(".layer[data-layer=strokes] input")
    slider.evaluate("i => { i.value = .5; for (const n of ['input', 'change']) i.dispatchEvent(new Event(n)); }")
    assert abs(c.made().strokes.getpixel((250, 250))[3] - 128) <= 1
    c.layer("strokes", ".clear")
    assert c.made().strokes is None


def test_fingers_zoom_until_a_pen_presses_and_then_draw_no_more(c):
    c.touch("Start", (200, 250))
    c.touch("Move", (190, 250))
    c.touch("Start", (190, 250), (300, 250))
    for d in range(10, 110, 10):
        c.touch("Move", (190 - d, 250), (300 + d, 250))
    c.touch("End")
    assert c.made().sketch is None
    c.set("size", 10)
    c.drag((206, 256), (306, 256))
    left, _, right, _ = c.made().sketch.getchannel("A").getbbox()
    assert 40 <= right - left <= 52  # 100 + 10 before; the fingers went from 110 apart to 310
    c.act("fit")
    c.act("new")
    c.set("size", 40)
    c.touch("Start", (100, 400))
    c.touch("Move", (250, 400))
    c.touch("Move", (400, 400))
    c.touch("End")
    c.pen(100, 0.1)
    c.pen(200, 1)
    seen = c.made().sketch
    light, full, finger = (thick(seen.crop((0, y, 512, y + 80)), 250) for y in (60, 160, 360))
    assert 4 <= light <= 9 and 38 <= full <= 42 and 38 <= finger <= 42
    c.touch("Start", (250, 300))
    c.touch("Move", (260, 310))
    c.touch("End")
    assert c.made().sketch.tobytes() == seen.tobytes()


TEN = """async points => {
  const s = document.querySelector('#draw-canvas .surface'), t = performance.now();
  const how = { pointerId: 1, pointerType: 'mouse', buttons: 1, bubbles: true };
  const go = (n, x, y) => s.dispatchEvent(new PointerEvent(n, { ...how, clientX: x, clientY: y }));
  for (const [i, [a, b, x, y]] of points.entries()) {
    go('pointerdown', a, b); go('pointermove', (a + x) / 2, b); go('pointermove', x, y); go('pointerup', x, y);
    await new Promise(ok => setTimeout(ok, Math.max(0, t + 60 * (i + 1) - performance.now())));
  }
  return performance.now() - t; }"""


def test_ten_fast_strokes_arrive_and_nothing_is_lost_when_the_page_changes(c):
    points = [[*c.xy(60, 40 * i), *c.xy(440, 40 * i)] for i in range(1, 11)]
    c.page.evaluate(TEN, points)
    alpha = c.made().sketch.getchannel("A")
    assert [alpha.getpixel((x, 40 * i)) for i in range(1, 11) for x in (62, 250, 438)] == [255] * 30  # to their ends
    c.root.locator("[data-act=undo]").evaluate("b => { for (let i = 0; i < 10; i++) b.click(); }")
    assert c.made().sketch is None
    c.drag((100, 100), (400, 400))
    before = c.made().sketch.tobytes()
    c.page.get_by_role("tab", name="edit").click()
    expect(c.page.locator("#edit-canvas .surface")).to_be_visible()
    c.page.keyboard.press("Control+z")  # is for the canvas that is seen
    c.page.set_viewport_size({"width": 390, "height": 800})
    c.page.get_by_role("tab", name="draw").click()
    assert c.made().sketch.tobytes() == before
    c.page.evaluate("scrollTo(0, 0)")
    c.drag((100, 300), (200, 300), up=False)
    c.page.set_viewport_size({"width": 800, "height": 390})  # turned, with the pen down
    c.page.mouse.up()
    after = c.made().sketch
    assert after.getpixel((150, 300))[3] == 255 and after.getpixel((250, 250))[3] == 255


def test_a_photograph_becomes_lines_and_a_saved_drawing_opens_again(c, tmp_path):
    for name, words in (("a.kra", "save it there as PNG"), ("b.png", "got one that is none")):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        c.drop(tmp_path / name)
        expect(c.root.locator(".say")).to_contain_text(words)
    assert c.made().photo is None
    with Image.open(ROSE) as rose:
        ratio, exif = rose.width / rose.height, Image.Exif()
        exif[0x010F] = "a camera"  # as a place would be, which nobody means to give away
        rose.convert("RGB").save(tmp_path / "rose.png", exif=exif)
    c.drop(tmp_path / "rose.png")
    c.photographed()
    seen = c.made()
    w, h = seen.size
    assert seen.photo.size >= (w, h) and max(w, h) == 512 and abs(w / h - ratio) < 0.01 and seen.sketch is None
    c.more("photo")
    c.act("fromphoto")
    expect(c.root.locator(".say")).to_have_text("", timeout=20_000)
    seen = c.made()
    alpha = seen.sketch.getchannel("A").histogram()
    assert sum(alpha[128:]) > 500 and alpha[0] > w * h / 3 and seen.sketch.getpixel((0, 0))[:3] == (0, 0, 0)
    assert seen.strokes.getchannel("A").getextrema() == (255, 255) and 4 <= len(seen.strokes.getcolors()) <= 24
    c.act("undo")
    assert c.made().sketch is None
    c.more("photo")
    c.root.locator("select.kind").select_option("lineart")
    c.act("fromphoto")
    expect(c.root.locator(".say")).to_contain_text(
        "python -m engine models --fetch lineart brings them.", timeout=20_000
    )
    c.drag((150, 150), (350, 300))
    c.layer("strokes")
    c.set("opacity", 0.37)
    c.drag((150, 300), (350, 150))
    c.layer("mask")
    c.drag((200, 200), (300, 200))
    c.layer("mask", ".eye")
    before = c.made()
    with c.page.expect_download() as download:
        c.act("save")
    download.value.save_as(tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as saved:
        saved.load()
        carried = json.loads(saved.info["chrysalis-drawing"])
        assert saved.size == before.size and carried["layers"]["mask"]["visible"] is False
    told = base64.b64decode(carried["photo"].partition(",")[2])
    assert b"a camera" not in told and b"a camera" not in (tmp_path / "d.png").read_bytes()
    c.act("new")
    assert c.made() == read(value(*before.size))
    c.drop(tmp_path / "d.png")
    c.photographed()
    after = c.made()
    for name in ("photo", "sketch", "strokes"):
        assert getattr(after, name).tobytes() == getattr(before, name).tobytes(), name
    assert after.mask is None
    c.layer("mask", ".eye")
    assert painted(c.made().mask) > 0
    elsewhere(c)


def elsewhere(c):
    """Drawings from the page, a patch, and shapes."""
    url = "data:image/png;base64," + base64.b64encode(png((256, 128), (9, 8, 7, 255))).decode()
    given = {"strokes": url, "mask": url, "photo": url}
    c.root.evaluate("(e, detail) => e.dispatchEvent(new CustomEvent('chrysalis-open', { detail }))", given)
    expect(c.root.locator("select.shape")).to_have_value("")
    c.photographed()
    seen = c.made()
    assert seen.size == (512, 256) == seen.photo.size and seen.strokes.getpixel((100, 100)) == (9, 8, 7, 255)
    assert seen.mask.getpixel((5, 5)) == (0xD6, 0x24, 0x9F, 255)  # a mask has one colour
    for name in ("strokes", "mask"):
        c.layer(name, ".clear")
    c.drop(ROSE)
    c.root.locator("[data-say=patch]").click()
    c.drag((256, 256), (256, 300))  # into place
    c.page.keyboard.press("Enter")
    assert 0 < painted(c.made().strokes) < 0.9 * 512 * 256
    c.root.locator("select.shape").select_option(label="square")
    square = c.made()
    assert square.size == (512, 512) and square.photo.width == square.photo.height
    assert square.photo.info[NOTE] == "of the photograph the middle 50 % is shown"
    c.act("undo")
    assert c.made().size == (512, 256)


def overlap(mask, shape):
    """Intersection over union of a mask and a shape that is known."""
    return np.minimum(mask, shape).sum() / np.maximum(mask, shape).sum()


def test_a_click_chooses_a_part_and_the_mask_is_turned_grown_and_softened(c):
    shapes = Image.new("RGBA", (512, 512))
    pen = ImageDraw.Draw(shapes)
    pen.ellipse((70, 70, 230, 230), (217, 47, 69, 255))
    pen.ellipse((130, 130, 170, 170), (247, 208, 56, 255))  # a flower has a middle
    pen.rectangle((300, 280, 440, 420), (63, 98, 201, 255))
    block = io.BytesIO()
    shapes.save(block, "PNG")
    given = {"strokes": "data:image/png;base64," + base64.b64encode(block.getvalue()).decode()}
    c.root.evaluate("(e, detail) => e.dispatchEvent(new CustomEvent('chrysalis-open', { detail }))", given)
    expect(c.root.locator("[data-act=undo]")).to_be_enabled()
    y, x = np.mgrid[:512, :512]
    disc, square = (
        255 * (np.hypot(x - 150, y - 150) <= 80.5),
        255 * ((x >= 300) & (x <= 440) & (y >= 280) & (y <= 420)),
    )
    ground = 255 - disc - square
    c.page.keyboard.press("s")
    c.click(150, 100)
    flower = c.masked()
    assert overlap(flower, disc) > 0.98 and np.minimum(flower, ground).sum() < 255 * 600
    c.click(480, 60)  # a new one in its place: the ground
    assert overlap(c.masked(), ground) > 0.98
    c.act("undo")
    assert (c.masked() == flower).all()
    c.click(370, 350, "Shift")
    both = c.masked()
    assert overlap(both, disc + square) > 0.98
    c.click(150, 100, "Alt")
    assert overlap(c.masked(), square) > 0.97
    c.root.locator("[data-mode=add]").click()  # as fingers do it
    c.click(150, 150)
    assert overlap(c.masked(), disc + square) > 0.97
    c.root.locator("[data-mode=sub]").click()
    c.click(370, 350)
    assert overlap(c.masked(), disc) > 0.97
    c.root.locator("[data-mode=new]").click()
    c.click(150, 150)
    whole = c.masked()
    assert overlap(whole, disc) > 0.97
    c.key(",")  # less than that: the middle alone, in the place of the whole
    assert overlap(c.masked(), 255 * (np.hypot(x - 150, y - 150) <= 20.5)) > 0.9
    c.key(".")
    assert (c.masked() == whole).all()
    c.key("Shift+I")
    assert (c.masked() == 255 - whole).all()
    c.act("undo")
    for by in (12, -12):
        c.slide("grow", by)
        grown = c.masked()
        assert overlap(grown, 255 * (np.hypot(x - 150, y - 150) <= 80.5 + by)) > 0.98, by
        c.act("undo")  # one step
    look = "s => s.getContext('2d').getImageData(236 / 512 * s.width, 150 / 512 * s.height, 1, 1).data[1]"
    green = c.root.locator(".surface canvas").evaluate(look)
    c.set("feather", 20)  # seen while it is moved
    c.page.wait_for_timeout(200)
    assert c.root.locator(".surface canvas").evaluate(look) < green - 10
    c.slide("feather", 30)
    soft = c.masked()[150]
    assert soft[150] == 255 and soft[150 + 128] == 0 and (np.diff(soft[150:300]) <= 0).all()
    assert 110 < soft[230] < 145 and len(set(soft[215:246])) > 20
    c.slide("grow", 10)  # what is soft stays soft
    assert c.masked()[150, 240] == pytest.approx(soft[230], abs=12)
    for _ in range(2):
        c.act("undo")
    assert (c.masked() == whole).all() and c.root.locator("input.feather").input_value() == "0"
    ropes(c, x, y)


def ropes(c, x, y):
    """What a line encloses is filled: of a mask in its place, of a layer beside what is there."""
    c.key("l")
    triangle = Image.new("L", (512, 512))
    ImageDraw.Draw(triangle).polygon(((300, 60), (460, 60), (460, 220)), 255)
    triangle = np.asarray(triangle, int)
    c.drag((300, 60), (460, 60), (460, 220))
    assert overlap(c.masked(), triangle) > 0.97
    c.page.keyboard.down("Alt")
    c.drag((400, 40), (480, 40), (480, 240), (400, 240))
    c.page.keyboard.up("Alt")
    assert overlap(c.masked(), triangle * (x < 400)) > 0.93
    before = c.made().strokes
    c.layer("strokes")
    c.set("colour", "#8c5bb5")
    c.drag((300, 60), (460, 60), (460, 220))
    after = c.made().strokes
    assert after.getpixel((440, 100)) == (0x8C, 0x5B, 0xB5, 255) and after.getpixel((370, 350)) == (63, 98, 201, 255)
    c.act("undo")
    assert c.made().strokes.tobytes() == before.tobytes()
    c.key("s")
    surface = c.root.locator(".surface")
    surface.focus()
    for key in ("ArrowUp", *["Shift+ArrowUp"] * 4, *["Shift+ArrowLeft"] * 4, "Enter"):  # to (128, 128) by keys alone
        c.page.keyboard.press(key)
    assert overlap(c.masked(), 255 * (np.hypot(x - 150, y - 150) <= 80.5)) > 0.97
    told = c.page.evaluate("window.chrysalisKeys.filter(k => k.where === 'Canvas')")
    assert len(told) == 1 and ["L", "lasso"] in told[0]["keys"]
    for tool in c.root.locator("[data-tool]").all():
        assert tool.get_attribute("aria-label") and tool.get_attribute("aria-pressed") in ("true", "false")
    c.key("b")  # what paints goes back to the layer of before
    expect(c.root.locator(".layer.active")).to_have_attribute("data-layer", "strokes")
    colours = c.root.get_by_role("radiogroup", name="Colour")
    colours.get_by_role("radio", name="rose").focus()
    c.page.keyboard.press("ArrowRight")
    expect(colours.get_by_role("radio", name="pink")).to_have_attribute("aria-checked", "true")
    assert c.root.locator("input.colour").input_value() == "#f48fb0"


def test_live_during_a_stroke_and_rest_after_it(c):
    def heard(*phases):
        """All that is heard until a phase comes."""
        out = [HEARD["live"].get(timeout=20)[0]]
        while phase_of(out[-1])[1] not in phases:
            out.append(HEARD["live"].get(timeout=20)[0])
        return out

    c.act("live")
    assert [phase_of(v)[1] for v in heard("rest")] == ["live", "still", "rest"]
    HEARD["wake"].queue.clear()
    c.drag((100, 100), (300, 100), up=False)
    assert HEARD["wake"].get(timeout=20)[0] > 0  # which ends the picture in full
    sent = heard("still")[-1]  # the pen is still, on the paper
    during, (turn, _) = read(sent), phase_of(sent)
    assert turn > 0 and during.size == (256, 256) and painted(during.sketch) > 0
    c.page.mouse.move(*c.xy(400, 300), steps=4)
    assert HEARD["wake"].get(timeout=20)[0] > turn
    sent = heard("live")[-1]
    assert phase_of(sent)[0] > turn and read(sent).size == (256, 256)
    c.page.mouse.up()
    assert c.made().size == (512, 512)  # Make pressed at once sees all of it
    c.page.evaluate(beside("draw", "make"))  # and ends the waiting
    HEARD["live"].queue.clear()
    c.page.wait_for_timeout(1500)
    assert HEARD["live"].empty()
    c.drag((100, 200), (110, 200))
    *moved, sent, rest = heard("rest")
    assert phase_of(sent)[1] == "still"
    assert (
        moved[-1] | {"phase": "still"} == sent
    )  # the same drawing to the last bit, so that it need not be drawn again
    assert phase_of(rest)[0] == phase_of(sent)[0] and read(rest).size == (512, 512)
    c.page.evaluate(beside("draw", "stop"))
    c.page.wait_for_timeout(200)
    HEARD["live"].queue.clear()
    c.drag((100, 200), (300, 200), (100, 300))
    c.page.wait_for_timeout(1500)
    assert HEARD["live"].empty()


def png(size, colour=(1, 2, 3, 255)):
    block = io.BytesIO()
    Image.new("RGBA", size, colour).save(block, "PNG")
    return block.getvalue()


def value(width=64, height=48, layer=None, **more):
    layers = {} if layer is None else {"sketch": "data:image/png;base64," + base64.b64encode(layer).decode()}
    return {"turn": 1, "phase": "change", "width": width, "height": height, "photo": None, "layers": layers} | more


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("no object", "drawing must be what the canvas sends"),
        ([1], "drawing must be"),
        (value(width=64.5), "width must be a whole number"),
        (value(height=4096), "height must be .* to 2048, got 4096"),
        (value(width=True), "width must be"),
        (value(layers=3), "layers must be"),
        (value(layers={"x": "y"}), "layers must be"),
        (value(layers={"sketch": "http://x"}), "sketch must be a PNG as a data URL"),
        (value(layer=b"GIF89a"), "whole PNG"),
        (value(layer=png((64, 48))[:60]), "whole PNG"),
        (value(layer=png((32, 24))), "64 × 48 pixels, got 32 × 24"),
        (value(layer=png((32, 32)), phase="live"), "64 × 48 pixels"),
        (value(layer=png((128, 96)), phase="live"), "64 × 48 pixels"),
        (value(layer=b"x" * 17_000_000), "at most 16 MB"),
        (value(photo="x"), "photograph must be an upload"),
        (value(photo={"path": "/etc/passwd"}), "uploaded here, got passwd"),
        (value(photo={"path": ""}), "must have arrived"),
        (value(photo={"path": get_upload_folder() + "/../../etc/passwd"}), "must be uploaded here"),
        (value(photo={"path": get_upload_folder() + "/gone.png"}), "must be dropped again"),
    ],
    ids=lambda v: v[:24] if isinstance(v, str) else "sent",
)
def test_what_python_refuses(text, sentence):
    with pytest.raises(EngineError, match=sentence):
        read(text)


def test_lines_by_networks_whose_weights_are_here(monkeypatch, tmp_path):
    folder = Path(get_upload_folder()) / "canvas-test"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), "red").save(folder / "p.png")
    asked = {"path": str(folder / "p.png"), "coarseness": 0.4, "width": 64, "height": 48}
    seen = []

    def lines(photo, kind, files):
        seen.append((kind, [f.name for f in files]))
        return np.full(photo.shape[:2], 55, np.uint8)

    monkeypatch.setattr("engine.vision.annotators.lines", lines)
    assert "brings them" in from_photograph(asked | {"kind": "hed"})["error"] and not seen
    monkeypatch.setattr("engine.checkpoints.hub.where", lambda source: tmp_path)
    for kind, names in (("scribble", ["ControlNetHED.pth"]), ("lineart", ["sk_model.pth", "sk_model2.pth"])):
        drawn = from_photograph(asked | {"kind": kind})
        assert seen.pop() == (kind, names)
        layers = {n: drawn[n] for n in ("sketch", "strokes")}
        assert read(value(layers=layers)).sketch.getpixel((9, 9)) == (0, 0, 0, 200)
    monkeypatch.undo()
    for kind in ("charcoal", ["hed"], None):
        assert "lines must be one of" in from_photograph(asked | {"kind": kind})["error"]


def test_what_python_accepts():
    assert read(None) == read("") and read("").size == (512, 512) and read("").photo is None
    seen = read(value(layer=png((64, 48))))
    assert seen.sketch.getpixel((5, 5)) == (1, 2, 3, 255) and seen.strokes is None and seen.size == (64, 48)
    assert read(value(layer=png((64, 48), (9, 9, 9, 0)))).sketch is None
    assert read(value(layer=png((32, 25)), phase="live")).size == (32, 25)
    path = Path(get_upload_folder()) / "canvas-test" / "p.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (400, 100), "red").save(path)
    assert read(value(photo={"path": str(path)})).photo.size == (133, 100)
    path.unlink()
