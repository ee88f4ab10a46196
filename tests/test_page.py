"""The page in Chromium, as an artist uses it: drop pictures, watch, stop, play, reload the settings.

A load of the page takes seconds, so one visit proves several things.
"""

import base64
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from playwright.sync_api import expect

from engine.vision import video

pytestmark = pytest.mark.slow
ROSE, DAISY = (ROOT / "assets/examples" / f for f in ("rose-22325299158.webp", "daisy-2520369272.webp"))
LONG = 120_000


@pytest.fixture
def page(browser, studio):
    """A fresh visit. What it asks of other hosts, and every error of its scripts, is kept on it."""
    page = browser.new_page(viewport={"width": 1320, "height": 900})
    outside, errors = [], []
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith((studio, "data:", "blob:")) else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(studio)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    page.click("#interpolate-advanced > button")  # More
    yield page
    assert errors == [] and outside == []  # nothing is asked of anyone else
    page.close()


def says(page, words, tab="interpolate"):
    expect(page.locator(f"#{tab}-status")).to_contain_text(words, timeout=LONG)


def ready(page, tab="interpolate"):
    expect(page.locator(f"#{tab}-make")).to_be_visible(timeout=LONG)


def drop(page, a=ROSE, b=DAISY):
    for box, file in (("#interpolate-a", a), ("#interpolate-b", b)):
        page.set_input_files(f"{box} input[type=file]", file)
        expect(page.locator(f"{box} img")).to_be_visible(timeout=LONG)


def cells(page, state, tab="interpolate"):
    return page.locator(f"#{tab}-player .cell[data-state={state}]")


def test_numbers_are_taken_as_they_are_written(page):
    drop(page)
    boxes = ("#interpolate-act", "#interpolate-guidance", "#interpolate-steps")
    seed, guidance, steps = (page.locator(f"{box} input[type=number]").first for box in boxes)
    guidance.fill("")
    guidance.press_sequentially("0,7")
    assert guidance.input_value() == "0.7"
    for written, got in (("7.5", "7.5"), ("85e-1", "8.5"), ("-2", "-2")):
        seed.fill("")
        seed.press_sequentially(written)
        page.click("#interpolate-make")
        says(page, f"Seed must be a whole number from 0 to 4294967295, got {got}.")
        ready(page)
    assert guidance.input_value() == "0.7"
    two, half = "must be one number, got what may be two", "must be a number, got one that is not finished."
    for box, name, written, wrong in (
        (seed, "Seed", "7e", half),
        (guidance, "Follow the words", "-", half),
        (seed, "Seed", "1,000", two),
        (seed, "Seed", "1.000", two),
        (guidance, "Follow the words", "7,125", two),
        (guidance, "Follow the words", "1,000,000", two),
        (guidance, "Follow the words", "1,2,3", two),
        (seed, "Seed", "1.2.3", two),
        (seed, "Seed", "0x10", "must be a number, got 0x"),
        (steps, "Steps", "5e", half),
    ):
        page.locator("#interpolate-status .status").evaluate("e => { e.firstChild.textContent = ''; }")
        before = box.input_value()
        box.fill("")
        box.press_sequentially(written)
        page.click("#interpolate-make")
        says(page, f"{name} {wrong}")
        assert page.locator("#interpolate-stop").count() == 0  # nothing is made with what was there before
        box.fill(before)
        expect(page.locator("#interpolate-status")).not_to_contain_text(name)


def fill(page, field, value):
    box = page.locator(f"#{field} input:not([type=range])").first
    box.fill(str(value))
    box.press("Enter")


PIXELS = """async () => Promise.all([...document.querySelectorAll('#interpolate-player .cell img')].map(async i => {
    const block = new Uint8Array(await (await fetch(i.src)).arrayBuffer()); return block.join(); }))"""


def test_before_the_first_run(page, tmp_path):
    """Sentences for what is missing or broken; an example, a swap, a dice; a preset."""
    page.locator(".example-badge button").click(timeout=LONG)  # the example is put away
    page.click("#interpolate-make")
    says(page, "Picture A (From) must be a picture, got nothing")
    broken = tmp_path / "cut.jpg"
    broken.write_bytes(ROSE.read_bytes()[:500])
    page.set_input_files("#interpolate-a input[type=file]", broken)
    expect(page.locator("#interpolate-hands")).to_contain_text("one that is broken", timeout=LONG)
    page.set_input_files("#interpolate-b input[type=file]", DAISY)
    expect(page.locator("#interpolate-b img")).to_be_visible(timeout=LONG)
    page.click("#interpolate-make")
    says(page, "Picture A (From) must be a picture, got nothing")
    expect(page.locator("#interpolate-status .problem")).to_be_visible()
    ready(page)
    # An example brings its words, and what was made of it earlier.
    page.click("#interpolate-examples button >> nth=0")
    expect(page.get_by_label("In words").first).to_have_value("a red rose", timeout=LONG)
    says(page, "Made earlier with flora")
    expect(cells(page, "done")).to_have_count(9)
    picture = page.locator("#interpolate-a img")
    before = picture.get_attribute("src")
    page.click("#interpolate-swap")
    expect(picture).not_to_have_attribute("src", before, timeout=LONG)
    page.click("#interpolate-dice")
    expect(page.get_by_label("Seed", exact=True).first).not_to_have_value("7", timeout=LONG)
    # A preset sets its fields in the browser: Make pressed right after it must not run with the last values.
    page.route("**/queue/join*", lambda route: route.abort())  # no word to the studio
    for name, value in (("paper", "200"), ("instant", "24")):
        page.get_by_role("radio", name=name).first.check()
        expect(page.locator("#interpolate-steps input[type=number]")).to_have_value(value, timeout=LONG)
    page.unroute("**/queue/join*")


def test_watch_one_become_the_other_and_make_a_frame_again(page, tmp_path):
    page.emulate_media(reduced_motion="no-preference")
    drop(page)
    fill(page, "interpolate-steps", 10)
    page.click("#interpolate-make")
    expect(cells(page, "done")).not_to_have_count(0, timeout=LONG)  # the ends are there at once
    expect(page.locator("#interpolate-stop")).to_be_visible()
    expect(page.locator("#interpolate-status .bar")).to_be_visible(timeout=LONG)
    says(page, "9 frames of 256 × 256")
    ready(page)
    expect(cells(page, "done")).to_have_count(9)
    loaded = "i => i.complete && i.naturalWidth === 256"
    pictures = "[...document.querySelectorAll('#interpolate-player .cell img')]"
    page.wait_for_function(f"() => {pictures}.every({loaded})", timeout=LONG)
    assert len(set(page.evaluate(f"() => {pictures}.map(i => i.src)"))) == 9
    # It plays by itself, and the scrubber follows. The whole picture is seen, with its own proportions.
    expect(page.locator("#interpolate-player .play")).to_have_attribute("aria-label", "Pause")
    page.wait_for_function("() => +document.querySelector('#interpolate-player .scrub').value > 2", timeout=LONG)
    assert page.eval_on_selector("#interpolate-player .big", "i => getComputedStyle(i).objectFit") == "contain"
    with page.expect_download() as download:
        page.click("#interpolate-mp4")
    film = tmp_path / "film.mp4"
    download.value.save_as(film)
    settings = video.read_settings(film)
    assert settings["seed"] == 7 and settings["frames"] == 9
    # Every browser plays it: this one does.
    seconds = page.evaluate(
        """b64 => new Promise((ok, no) => { const v = document.createElement('video'); v.muted = true;
           v.src = 'data:video/mp4;base64,' + b64; document.body.append(v); v.onerror = () => no(v.error.message);
           v.ontimeupdate = () => v.currentTime > 0.2 && ok(v.duration); v.play(); })""",
        base64.b64encode(film.read_bytes()).decode(),
    )
    assert 1.9 < seconds < 2.1  # sixteen frames, there and back, at eight a second
    # One frame made again, with what descends from it.
    before = page.evaluate(PIXELS)
    page.click("#interpolate-player .cell >> nth=6")
    page.click("#interpolate-again", timeout=LONG)
    expect(cells(page, "done")).not_to_have_count(9, timeout=LONG)
    says(page, "9 frames")
    after = page.evaluate(PIXELS)
    assert [i for i in range(9) if before[i] != after[i]] == [5, 6, 7]
    # Settings come back.
    seed = page.get_by_label("Seed", exact=True).first
    seed.fill("123")
    seed.blur()
    page.set_input_files("input:has(+ #interpolate-load)", film)
    expect(seed).to_have_value("7", timeout=LONG)
    says(page, "Settings of")


def test_stop_keeps_what_is_finished(page):
    """A closed tab frees the device after a minute: test_history, test_lasting."""
    drop(page)
    fill(page, "interpolate-steps", 500)
    page.click("#interpolate-make")
    page.wait_for_selector("#interpolate-player .cell[data-state=forming]", timeout=LONG)
    page.click("#interpolate-stop")
    says(page, "Stopped")
    ready(page)
    assert cells(page, "forming").count() == 0 and 2 <= cells(page, "done").count() < 9


def test_it_fits_a_phone(browser, studio):
    page = browser.new_page(viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    page.goto(studio)
    ready(page)

    def fits(*places):
        """The picture comes before the small print, and nothing is wider than the screen."""
        order = [page.locator(s).first.bounding_box()["y"] for s in places]
        assert order == sorted(order) and page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")

    fits("#interpolate-pair", "#interpolate-make", "#interpolate-player", "#interpolate-settings")
    page.get_by_role("tab", name="Morph").click()
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY])
    expect(keys(page)).to_have_count(2, timeout=LONG)
    page.locator("#morph-timeline .key .right").nth(0).click()  # a finger has buttons
    fits("#morph-timeline", "#morph-make", "#morph-player")
    page.close()


def keys(page):
    return page.locator("#morph-timeline .key:not(.coming)")


def words(page):
    return page.eval_on_selector_all("#morph-timeline .key input", "inputs => inputs.map(i => i.value)")


def test_a_timeline_of_pictures(page):
    """Add, words, reorder by drag and by keys, remove, paste; what is still being sent is waited for."""
    page.get_by_role("tab", name="Morph").click()
    field, line = "#morph-timeline input[type=file]", page.locator("#morph-timeline")
    page.set_input_files(field, [ROSE, DAISY])
    expect(keys(page)).to_have_count(2, timeout=LONG)
    for i, text in enumerate(("rose", "daisy")):
        line.locator(".key input").nth(i).fill(text)
    page.evaluate(
        """async () => { const dot = new OffscreenCanvas(20, 20); dot.getContext('2d').fillRect(0, 0, 20, 20);
           const png = await dot.convertToBlob();
           const data = new DataTransfer(); data.items.add(new File([png], 'p.png', { type: 'image/png' }));
           document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data })); }"""
    )
    expect(keys(page)).to_have_count(3, timeout=LONG)
    line.locator(".key input").nth(2).fill("dot")
    boxes = [line.locator(".key .pic").nth(i).bounding_box() for i in (0, 2)]
    page.mouse.move(boxes[1]["x"] + 50, boxes[1]["y"] + 50)
    page.mouse.down()
    page.mouse.move(boxes[0]["x"] + 50, boxes[0]["y"] + 50, steps=12)
    page.mouse.up()
    assert words(page) == ["dot", "rose", "daisy"]
    line.locator(".key .grip").nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert words(page) == ["rose", "dot", "daisy"]
    line.locator(".key .off").nth(1).click()
    assert words(page) == ["rose", "daisy"]
    page.get_by_role("button", name="Put mine back").click()
    assert words(page) == ["rose", "dot", "daisy"]
    line.locator(".key .off").nth(1).click()
    # An example takes their place, and they come back.
    page.click("#morph-examples button >> nth=1")
    expect(keys(page)).to_have_count(4, timeout=LONG)
    page.get_by_role("button", name="Put mine back").click()
    expect(keys(page)).to_have_count(2)
    # Text with a picture beside it, pasted where one types, stays text.
    page.evaluate(
        """() => { const data = new DataTransfer(); data.setData('text/plain', 'x');
           data.items.add(new File([new Uint8Array(9)], 'p.png', { type: 'image/png' }));
           document.querySelector('#morph-timeline .key input').dispatchEvent(
             new ClipboardEvent('paste', { clipboardData: data, bubbles: true })); }"""
    )
    expect(keys(page)).to_have_count(2)
    # Typing goes on while a picture is being sent, and Make says so.
    held = []
    page.route("**/upload*", lambda route: held.append(route))
    line.locator(".key input").nth(0).focus()
    page.set_input_files(field, [DAISY])
    expect(line.locator(".key.coming")).to_have_count(1, timeout=LONG)
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate("document.querySelector('.key.coming .pic').getAnimations().length") == 1
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate("document.querySelector('.key.coming .pic').getAnimations().length") == 0
    assert page.evaluate("document.activeElement.matches('#morph-timeline .key input')")
    page.click("#morph-make")
    says(page, "got 1 still being sent", "morph")
    for route in held:
        route.continue_()
    expect(keys(page)).to_have_count(3, timeout=LONG)
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def test_morph_through_two_pictures(page, tmp_path, tiny):
    page.get_by_role("tab", name="Morph").click()
    page.locator("#morph-player .example-badge button").click(timeout=LONG)
    page.click("#morph-make")
    says(page, "Pictures must be 2 to 12, got none", "morph")
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY])
    expect(keys(page)).to_have_count(2, timeout=LONG)
    page.locator("#morph-timeline .key input").nth(1).fill("a pink daisy")
    page.click("#morph-advanced > button")
    for field, value in (("network", tiny), ("steps", 5), ("lora-steps", 1000), ("lora-patience", 0)):
        fill(page, f"morph-{field}", value)
    page.click("#morph-make")
    expect(cells(page, "forming", "morph")).not_to_have_count(0, timeout=LONG)
    says(page, "learning your pictures", "morph")
    page.click("#morph-stop")
    says(page, "Stopped", "morph")
    ready(page, "morph")
    fill(page, "morph-lora-steps", 4)
    page.click("#morph-make")
    says(page, "16 frames of 64 × 64", "morph")
    says(page, "as much as a cross-fade", "morph")
    expect(cells(page, "done", "morph")).to_have_count(16)
    saved = {}
    for name in ("mp4", "files"):
        with page.expect_download() as download:
            page.click(f"#morph-{name}")
        saved[name] = tmp_path / f"{name}-{download.value.suggested_filename}"
        download.value.save_as(saved[name])
    assert video.read_settings(saved["mp4"])["prompts"] == ["", "a pink daisy"]
    with zipfile.ZipFile(saved["files"]) as z:
        assert z.namelist() == ["lora-1.safetensors", "lora-2.safetensors"]
    # Settings come back, words under their pictures too.
    page.reload()
    page.get_by_role("tab", name="Morph").click()
    page.set_input_files("input:has(+ #morph-load)", saved["mp4"])
    says(page, "The same 2 pictures make it again", "morph")
    page.click("#morph-advanced > button")
    expect(page.locator("#morph-steps input[type=number]")).to_have_value("5")
    expect(keys(page)).to_have_count(2, timeout=LONG)  # which are there again
    assert words(page) == ["", "a pink daisy"]


CUT = """
import fcntl, os, socket, struct, subprocess, sys, threading, urllib.request
s = socket.socket()
fcntl.ioctl(s, 0x8914, struct.pack("16sH14s", b"lo", 1, b""))  # the loopback of a namespace with no other network
app = subprocess.Popen([sys.executable, "app.py", "--port", "7999"])
try:
    for _ in range(400):
        try:
            page = urllib.request.urlopen("http://127.0.0.1:7999", timeout=5).read()
            break
        except OSError:
            assert app.poll() is None
            threading.Event().wait(0.3)
    assert b"Chrysalis" in page
    few = ["--frames", "3", "--steps", "4"]
    done = subprocess.run([sys.executable, "-m", "engine", "interpolate", *sys.argv[1:], *few])
    assert done.returncode == 0
    print("all is well without a network")
finally:
    app.terminate()
"""


def test_with_the_network_cut():
    allowed = subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0
    if not allowed:
        pytest.skip("this machine does not let us cut the network off (unshare -n)")
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", CUT, ROSE, DAISY], cwd=ROOT, capture_output=True, text=True
    )
    assert "all is well without a network" in done.stdout, done.stdout + done.stderr
