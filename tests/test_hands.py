"""Hands, files and browsers as they are: palms, other keyboards, turned pictures, plain http, reloads."""

import base64
import io
import re
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from playwright.sync_api import expect
from test_easel import LONG, opened, settled, show_tab, stroke, until

pytestmark = pytest.mark.slow
ROSE, DAISY = (ROOT / "assets/examples" / f for f in ("rose-22325299158.webp", "daisy-2520369272.webp"))


# A drop or a paste of files, as a browser makes it: (name, type, base64) each, on the element of a selector.
GIVE = """([kind, target, files]) => {
  const data = new DataTransfer();
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)), paste = kind === 'paste';
  for (const [name, type, text] of files) data.items.add(new File([bytes(text)], name, { type }));
  const how = { bubbles: true, cancelable: true, [paste ? 'clipboardData' : 'dataTransfer']: data };
  document.querySelector(target).dispatchEvent(new (paste ? ClipboardEvent : DragEvent)(kind, how)); }"""
KEY = """([target, key, code, more]) => document.querySelector(target).dispatchEvent(
  new KeyboardEvent('keydown', { key, code, bubbles: true, cancelable: true, ...more }))"""


def give(page, kind, target, *files):
    sent = [[name, kind_, base64.b64encode(block).decode()] for name, kind_, block in files]
    page.evaluate(GIVE, [kind, target, sent])


def key(page, tab, key, code="", **more):
    page.evaluate(KEY, [f"#{tab}-canvas .surface", key, code, more])


def flat(colour, size=(64, 48), kind="PNG", **how):
    block = io.BytesIO()
    Image.new("RGB", size, colour).save(block, kind, **how)
    return block.getvalue()


def halves(kind="PNG", size=(96, 64), **how):
    """Red above, blue below as stored; ``orientation=6`` lies on its side: red is to be on the right."""
    picture = Image.new("RGB", size, (30, 30, 220))
    picture.paste((220, 30, 30), (0, 0, size[0], size[1] // 2))
    if "orientation" in how:
        exif = Image.Exif()
        exif[0x0112] = how.pop("orientation")
        how["exif"] = exif
    block = io.BytesIO()
    picture.save(block, kind, **how)
    return block.getvalue()


def seen(page, selector, *points):
    """The colours of an <img> or a <canvas>, at fractions of its width and height."""
    return page.evaluate(
        """([selector, points]) => {
          const from = document.querySelector(selector), c = document.createElement('canvas'), g = c.getContext('2d');
          c.width = from.naturalWidth || from.width; c.height = from.naturalHeight || from.height;
          g.drawImage(from, 0, 0);
          return points.map(([x, y]) => [...g.getImageData(x * c.width, y * c.height, 1, 1).data].slice(0, 3)); }""",
        [selector, points],
    )


def touch(cdp, kind, *points):
    at = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
    cdp.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at})


def pen(cdp, *points):
    kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
    for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
        how = {"button": "left", "buttons": 1, "clickCount": 1, "pointerType": "pen", "force": 0.9}
        cdp.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y} | how)


def drawn(page, painter, tab="draw"):
    """What the job is given when Make is pressed now."""
    before = len(painter.jobs)
    page.locator(f"#{tab}-make").click()
    for _ in range(200):
        page.wait_for_timeout(50)
        if len(painter.jobs) > before:
            settled(page, tab)
            return painter.jobs[-1].request
    return None


def test_a_palm_before_the_pen_loses_no_stroke(browser, painter):
    with opened(browser, painter.url, "Draw") as (page, box):
        x, y, k, cdp = box["x"], box["y"], 512 / box["width"], page.context.new_cdp_session(page)
        touch(cdp, "Start", (x + 300, y + 400))
        page.wait_for_timeout(500)  # the palm rests
        pen(cdp, (x + 60, y + 60), (x + 200, y + 80), (x + 300, y + 60))
        touch(cdp, "End")
        left, _, right, bottom = drawn(page, painter).sketch.getchannel("A").getbbox()
        assert abs(left - 60 * k) < 8 and abs(right - 300 * k) < 8 and bottom < 100 * k  # the pen's alone


def test_keys_of_other_layouts(browser, painter):
    with opened(browser, painter.url, "Draw") as (page, box):
        size, undo = page.locator("#draw-canvas input.size"), page.locator("#draw-canvas [data-act=undo]")
        eraser = page.locator("#draw-canvas [data-tool=eraser]")
        stroke(page, box, (100, 100), (200, 150))
        size.evaluate("i => { i.value = 40; i.dispatchEvent(new Event('input', { bubbles: true })); }")
        for bracket, code, more, after in (
            ("]", "Digit9", {"ctrlKey": True, "altKey": True, "modifierAltGraph": True}, "46"),  # AltGr on Windows
            ("[", "Digit8", {"modifierAltGraph": True}, "39"),  # on Linux
            ("]", "Digit6", {"altKey": True}, "45"),  # Option on a Mac
            ("ъ", "BracketRight", {}, "52"),
            ("х", "BracketLeft", {}, "44"),
        ):
            key(page, "draw", bracket, code, **more)
            assert size.input_value() == after, bracket
        expect(undo).to_be_enabled()
        key(page, "draw", "я", "KeyZ", ctrlKey=True)
        expect(undo).to_be_disabled()
        key(page, "draw", "Я", "KeyZ", ctrlKey=True, shiftKey=True)
        expect(undo).to_be_enabled()
        key(page, "draw", "z", "KeyY", ctrlKey=True)  # a German Z
        expect(undo).to_be_disabled()
        key(page, "draw", "€", "KeyE", modifierAltGraph=True)  # types a sign
        expect(eraser).to_have_attribute("aria-pressed", "false")
        key(page, "draw", "у", "KeyE")
        expect(eraser).to_have_attribute("aria-pressed", "true")


def test_a_turned_picture_is_upright_on_both_sides(browser, painter):
    with opened(browser, painter.url, "Edit") as (page, _):
        for kind in ("WEBP", "JPEG", "PNG", "TIFF"):
            name = f"t.{kind.lower()}"
            give(page, "drop", "#edit-canvas .surface", (name, f"image/{kind.lower()}", halves(kind, orientation=6)))
            expect(page.locator("#edit-canvas .layer.photo")).to_be_visible(timeout=LONG)
            page.wait_for_timeout(300)  # it is painted in the next frame
            (left, right) = seen(page, "#edit-canvas .surface canvas", (0.45, 0.5), (0.55, 0.5))
            assert left[2] > 150 > 90 > left[0] and right[0] > 150 > 90 > right[2], (kind, left, right)
            made = drawn(page, painter, "edit").guide
            assert made.width < made.height and made.getpixel((9, 9))[2] > 150, kind
            page.locator("#edit-canvas [data-act=new]").click()


def test_from_and_to_take_several_files_a_paste_and_each_other(browser, painter):
    with opened(browser, painter.url, "Draw") as (page, _):
        page.get_by_role("tab", name="Interpolate").click()
        a, b = page.locator("#interpolate-a img"), page.locator("#interpolate-b img")
        red, blue = (("red.png", "image/png", flat("red")), ("blue.png", "image/png", flat("blue")))

        def become(*wanted):
            until(page, lambda: all(page.locator(f"#interpolate-{s} img").count() for s in "ab"))
            until(page, lambda: tuple(seen(page, f"#interpolate-{s} img", (0.5, 0.5))[0] for s in "ab") == wanted)

        give(page, "paste", "body", red)
        expect(a).to_be_visible(timeout=LONG)
        give(page, "paste", "body", blue)
        become([255, 0, 0], [0, 0, 255])
        a.drag_to(b)
        become([0, 0, 255], [255, 0, 0])
        give(page, "drop", "#interpolate-a", red, blue)
        become([255, 0, 0], [0, 0, 255])
        give(page, "drop", "#interpolate-b", ("turned.webp", "image/webp", halves("WEBP", orientation=6)))
        until(page, lambda: b.evaluate("i => i.naturalWidth < i.naturalHeight"))


@pytest.mark.parametrize("apart", [0, 5])
def test_a_picture_that_comes_while_the_other_is_on_its_way(browser, painter, apart):
    page = browser.new_page(viewport={"width": 1320, "height": 1000})
    page.goto(painter.url)
    page.wait_for_function("!!document.querySelector('#interpolate-hands .trouble')")
    give(
        page, "drop", "#interpolate-a", ("r.png", "image/png", flat((220, 9, 9))), ("b.png", "image/png", flat("blue"))
    )
    page.wait_for_function("window.chrysalisPair?.interpolate?.a && window.chrysalisPair.interpolate.b", timeout=LONG)
    put = "{ detail: { tab: 'interpolate', put } }"
    swapped = page.evaluate(
        f"""async apart => {{
      const {{ a, b }} = window.chrysalisPair.interpolate, now = {{ a: b.path, b: a.path }};
      for (const [side, path] of Object.entries(now)) {{
        const put = {{ [side]: path }};
        window.dispatchEvent(new CustomEvent('chrysalis-put', {put}));
        if (apart) await new Promise(done => setTimeout(done, apart));
      }}
      return now; }}""",
        apart,
    )
    name = "path => path.split('/').pop()"
    there = f"now => 'ab'.split('').every(s => ({name})(window.chrysalisPair.interpolate[s].path) === ({name})(now[s]))"
    page.wait_for_function(there, arg=swapped, timeout=20_000)
    page.close()


def test_plain_http(browser, painter):
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(painter.url.replace("127.0.0.1", "studio.test"))
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    assert page.evaluate("isSecureContext") is False
    for name, there in (("Upload file", True), ("Capture from camera", False), ("Paste from clipboard", False)):
        button = page.locator(f"#interpolate-a button[aria-label='{name}']")
        expect(button).to_be_visible(timeout=LONG) if there else expect(button).to_be_hidden(timeout=LONG)
    page.wait_for_function("!!document.querySelector('#interpolate-hands .trouble')")
    give(page, "paste", "body", ("red.png", "image/png", flat("red")))
    expect(page.locator("#interpolate-a img")).to_be_visible(timeout=LONG)
    assert errors == []
    page.close()


NOISE = """() => {
  const read = CanvasRenderingContext2D.prototype.getImageData;
  CanvasRenderingContext2D.prototype.getImageData = function (...a) {
    const d = read.apply(this, a);
    for (let i = 0; i < d.data.length; i++) d.data[i] = Math.random() * 256;
    return d; }; }"""


def test_a_browser_that_falsifies_canvases(browser, painter):
    page = browser.new_page(viewport={"width": 1320, "height": 1000})
    page.add_init_script(f"({NOISE})()")
    page.goto(painter.url)
    box = show_tab(page, "Draw")
    expect(page.locator("#draw-canvas .altered")).to_contain_text("alters what is read", timeout=LONG)
    look = "document.querySelector('#draw-canvas .surface canvas').toDataURL()"
    page.wait_for_timeout(300)
    stroke(page, box, (100, 100), (200, 150))
    page.wait_for_timeout(300)
    before = page.evaluate(look)
    stroke(page, box, (100, 300), (200, 350))
    page.locator("#draw-canvas [data-act=undo]").click()
    page.mouse.move(5, 5)
    page.wait_for_timeout(300)
    assert page.evaluate(look) == before
    show_tab(page, "Edit")
    expect(page.locator("#edit-canvas .altered")).to_have_text("")  # it is said once
    page.close()


def test_two_tabs_keep_two_drawings(browser, painter):
    context = browser.new_context(viewport={"width": 1320, "height": 1000})
    context.set_default_timeout(LONG)
    pages = [context.new_page() for _ in range(2)]
    for i, page in enumerate(pages):
        page.goto(painter.url)
        box = show_tab(page, "Draw")
        stroke(page, box, (100, 100 + 200 * i), (300, 100 + 200 * i))
        page.wait_for_timeout(2600)
    for i, page in enumerate(pages):
        page.reload()
        show_tab(page, "Draw")
        page.locator("#draw-canvas [data-say=last]").click()
        expect(page.locator("#draw-canvas [data-act=undo]")).to_be_enabled(timeout=LONG)
        top = drawn(page, painter).sketch.getchannel("A").getbbox()[1]
        assert abs(top - (100 + 200 * i) * 512 / box["width"]) < 20, i
    context.close()


def test_a_reload_says_which_pictures_are_gone(browser, painter):
    """As after a day, or when the studio was started anew; the others come back."""
    page = browser.new_page(viewport={"width": 1320, "height": 1000})
    page.goto(painter.url)
    page.wait_for_function("!!document.querySelector('#interpolate-hands .trouble')")
    red, blue = (("red.png", "image/png", flat((220, 9, 9))), ("blue.png", "image/png", flat((9, 9, 221))))
    give(page, "drop", "#interpolate-a", red, blue)
    for side in "ab":
        expect(page.locator(f"#interpolate-{side} img")).to_be_visible(timeout=LONG)
    page.get_by_role("tab", name="Morph").click()
    give(page, "drop", "#morph-timeline .keys", red, blue)
    expect(page.locator("#morph-timeline .key:not(.coming)")).to_have_count(2, timeout=LONG)
    page.locator("#morph-timeline .key input").last.fill("a blue one")
    kept = page.evaluate("Object.values(sessionStorage).join()")
    path = next(p for p in re.findall(r'"(/[^"]+\.png)"', kept) if p.endswith("blue.png"))
    Path(path).unlink()
    page.reload()
    expect(page.locator("#interpolate-hands .trouble")).to_have_text(
        "The picture of To is no longer kept here; drop it again.", timeout=LONG
    )
    page.get_by_role("tab", name="Interpolate").click()  # the reload has found the tab that was open
    expect(page.locator("#interpolate-a img")).to_be_visible(timeout=LONG)
    page.get_by_role("tab", name="Morph").click()
    expect(page.locator("#morph-timeline .trouble")).to_contain_text("1 of 2 pictures is no longer kept", timeout=LONG)
    expect(page.locator("#morph-timeline .key")).to_have_count(1)
    give(page, "drop", "#morph-timeline .keys", ("blue.png", "image/png", flat((9, 9, 222))))
    expect(page.locator("#morph-timeline .key input").last).to_have_value("a blue one", timeout=LONG)
    page.close()
