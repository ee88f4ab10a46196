"""The page in Chromium, as an artist uses it: drop two pictures, watch, stop, play, reload the settings."""

import base64
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from gradio_client import Client, handle_file
from playwright.sync_api import expect

from engine.vision import video

pytestmark = pytest.mark.slow
ROSE, DAISY = (ROOT / "assets/examples" / f for f in ("rose-22325299158.webp", "daisy-2520369272.webp"))
LONG = 300_000


@pytest.fixture
def page(browser, studio):
    """A fresh visit. What it asks of other hosts, and every error of its scripts, is kept on it."""
    page = browser.new_page(viewport={"width": 1320, "height": 900})
    page.outside, page.errors = [], []
    page.on(
        "request", lambda r: page.outside.append(r.url) if not r.url.startswith((studio, "data:", "blob:")) else None
    )
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.goto(studio)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    yield page
    assert page.errors == []
    page.close()


def drop(page, a=ROSE, b=DAISY):
    for box, file in (("#interpolate-a", a), ("#interpolate-b", b)):
        page.set_input_files(f"{box} input[type=file]", file)
        expect(page.locator(f"{box} img")).to_be_visible(timeout=LONG)


def finished(page):
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)


def cells(page, state):
    return page.locator(f"#interpolate-player .cell[data-state={state}]")


def test_nothing_is_asked_of_anyone_else(page):
    page.click("#interpolate-advanced button")
    page.wait_for_load_state("load")
    assert page.outside == []


def test_drop_two_pictures_and_watch_one_become_the_other(page, tmp_path):
    drop(page)
    page.click("#interpolate-make")
    expect(cells(page, "done")).not_to_have_count(0, timeout=LONG)  # the ends are there at once
    expect(page.locator("#interpolate-stop")).to_be_visible()
    expect(page.locator("#interpolate-status .bar")).to_be_visible(timeout=LONG)
    finished(page)
    expect(cells(page, "done")).to_have_count(9)
    expect(page.locator("#interpolate-status")).to_contain_text("9 frames of 256 × 256")
    loaded = "imgs => imgs.every(i => i.complete && i.naturalWidth === 256)"
    page.wait_for_function(
        f"() => ({loaded})([...document.querySelectorAll('#interpolate-player .cell img')])", timeout=LONG
    )
    sources = page.eval_on_selector_all("#interpolate-player .cell img", "imgs => imgs.map(i => i.src)")
    assert len(set(sources)) == 9
    # It plays by itself, and the scrubber follows.
    expect(page.locator("#interpolate-player .play")).to_have_attribute("aria-label", "Pause")
    page.wait_for_function("() => +document.querySelector('#interpolate-player .scrub').value > 2", timeout=LONG)
    # The whole picture is seen, with its own proportions.
    fit = page.eval_on_selector("#interpolate-player .big", "i => getComputedStyle(i).objectFit")
    assert fit == "contain"
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
    # And its settings come back.
    seed = page.get_by_label("Seed", exact=True)
    seed.fill("123")
    seed.blur()
    page.set_input_files("input:has(+ #interpolate-load)", film)
    expect(seed).to_have_value("7", timeout=LONG)
    expect(page.locator("#interpolate-status")).to_contain_text("Settings of", timeout=LONG)


def test_an_example_a_swap_and_a_dice(page):
    page.click("#interpolate-examples button >> nth=0")
    expect(page.locator("#interpolate-a img")).to_be_visible(timeout=LONG)
    expect(page.get_by_label("In words")).to_have_value("a red rose", timeout=LONG)
    before = page.locator("#interpolate-a img").get_attribute("src")
    page.click("#interpolate-swap")
    expect(page.locator("#interpolate-a img")).not_to_have_attribute("src", before, timeout=LONG)
    seed = page.get_by_label("Seed", exact=True)
    page.click("#interpolate-dice")
    expect(seed).not_to_have_value("7", timeout=LONG)


def set_steps(page, n):
    box = page.get_by_label("Steps").first
    box.fill(str(n))
    box.press("Enter")


def test_stop_keeps_what_is_finished_and_the_next_job_runs(page):
    drop(page)
    set_steps(page, 500)
    page.click("#interpolate-make")
    page.wait_for_selector("#interpolate-player .cell[data-state=forming]", timeout=LONG)
    page.click("#interpolate-stop")
    expect(page.locator("#interpolate-status")).to_contain_text("Stopped", timeout=LONG)
    finished(page)
    assert cells(page, "forming").count() == 0 and 2 <= cells(page, "done").count() < 9
    set_steps(page, 4)
    page.click("#interpolate-make")
    expect(page.locator("#interpolate-status")).to_contain_text("9 frames", timeout=LONG)


def test_a_preset_sets_its_fields_in_the_browser(page):
    """At once: Make pressed right after it must not run with the last values."""
    steps = page.get_by_label("Steps").first
    page.route("**/queue/join*", lambda route: route.abort())  # no word to the studio
    for name, value in (("paper", "200"), ("instant", "24")):
        page.get_by_role("radio", name=name).first.check()
        expect(steps).to_have_value(value, timeout=LONG)
    page.unroute("**/queue/join*")


PIXELS = """async () => Promise.all([...document.querySelectorAll('#interpolate-player .cell img')].map(async i => {
    const block = new Uint8Array(await (await fetch(i.src)).arrayBuffer()); return block.join(); }))"""


def test_one_frame_made_again(page):
    drop(page)
    set_steps(page, 8)
    page.click("#interpolate-make")
    expect(page.locator("#interpolate-status")).to_contain_text("9 frames", timeout=LONG)
    before = page.evaluate(PIXELS)
    page.click("#interpolate-player .cell >> nth=6")
    page.click("#interpolate-again", timeout=LONG)
    expect(cells(page, "done")).not_to_have_count(9, timeout=LONG)
    expect(page.locator("#interpolate-status")).to_contain_text("9 frames", timeout=LONG)
    after = page.evaluate(PIXELS)
    assert [i for i in range(9) if before[i] != after[i]] == [5, 6, 7]


def test_no_picture_and_a_broken_one_get_a_sentence(page, tmp_path):
    page.click("#interpolate-make")
    expect(page.locator("#interpolate-status")).to_contain_text(
        "Picture A (From) must be a picture, got nothing", timeout=LONG
    )
    broken = tmp_path / "cut.jpg"
    broken.write_bytes(ROSE.read_bytes()[:500])
    page.set_input_files("#interpolate-a input[type=file]", broken)
    page.set_input_files("#interpolate-b input[type=file]", DAISY)
    expect(page.locator("#interpolate-b img")).to_be_visible(timeout=LONG)
    page.click("#interpolate-make")
    expect(page.locator("#interpolate-status")).to_contain_text("must be a", timeout=LONG)
    expect(page.locator("#interpolate-status .problem")).to_be_visible()
    expect(page.locator("#interpolate-make")).to_be_visible()


def test_a_closed_tab_frees_the_device(browser, studio):
    """The tab's job alone would take many minutes; the next has to be let in before its time is up."""
    page = browser.new_page()
    page.goto(studio)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    drop(page)
    set_steps(page, 500)
    page.get_by_role("combobox", name="Frames", exact=True).click()
    page.get_by_role("option", name="129").click()
    page.click("#interpolate-make")
    page.wait_for_selector("#interpolate-player .cell[data-state=forming]", timeout=LONG)
    page.close()
    short = Client(studio, verbose=False).submit(
        handle_file(ROSE), handle_file(DAISY), frames=3, scheme="interpolate", api_name="/interpolate"
    )
    assert short.result(timeout=60)[2]["frames"] == 3


def test_it_fits_a_phone(browser, studio):
    page = browser.new_page(viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    page.goto(studio)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    order = [
        page.locator(s).first.bounding_box()["y"]
        for s in ("#interpolate-pair", "#interpolate-make", "#interpolate-player", "#interpolate-settings")
    ]
    assert order == sorted(order)  # the picture comes before the small print
    page.get_by_role("tab", name="Morph").click()
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY])
    expect(keys(page)).to_have_count(2, timeout=LONG)
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    page.locator("#morph-timeline .key .right").nth(0).click()  # a finger has buttons
    order = [page.locator(s).first.bounding_box()["y"] for s in ("#morph-timeline", "#morph-make", "#morph-player")]
    assert order == sorted(order)
    page.close()


def keys(page):
    return page.locator("#morph-timeline .key:not(.coming)")


def words(page):
    return page.eval_on_selector_all("#morph-timeline .key input", "inputs => inputs.map(i => i.value)")


@pytest.fixture
def morph(page):
    page.get_by_role("tab", name="Morph").click()
    expect(page.locator("#morph-make")).to_be_visible(timeout=LONG)
    return page


def quick(page, steps=5):
    box = page.locator("#morph-make").locator("xpath=ancestor::*[contains(@class,'left')]").get_by_label("Steps").first
    box.fill(str(steps))
    box.press("Enter")


def test_a_timeline_of_pictures(morph):
    """Add, words, reorder by drag and by keys, remove, paste."""
    page, field = morph, "#morph-timeline input[type=file]"
    page.set_input_files(field, [ROSE, DAISY])
    expect(keys(page)).to_have_count(2, timeout=LONG)
    for i, text in enumerate(("rose", "daisy")):
        page.locator("#morph-timeline .key input").nth(i).fill(text)
    page.evaluate(
        """async () => { const dot = new OffscreenCanvas(20, 20); dot.getContext('2d').fillRect(0, 0, 20, 20);
           const png = await dot.convertToBlob();
           const data = new DataTransfer(); data.items.add(new File([png], 'p.png', { type: 'image/png' }));
           document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data })); }"""
    )
    expect(keys(page)).to_have_count(3, timeout=LONG)
    page.locator("#morph-timeline .key input").nth(2).fill("dot")
    boxes = [page.locator("#morph-timeline .key .pic").nth(i).bounding_box() for i in (0, 2)]
    page.mouse.move(boxes[1]["x"] + 50, boxes[1]["y"] + 50)
    page.mouse.down()
    page.mouse.move(boxes[0]["x"] + 50, boxes[0]["y"] + 50, steps=12)
    page.mouse.up()
    assert words(page) == ["dot", "rose", "daisy"]
    page.locator("#morph-timeline .key .grip").nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert words(page) == ["rose", "dot", "daisy"]
    page.locator("#morph-timeline .key .off").nth(1).click()
    assert words(page) == ["rose", "daisy"]
    page.get_by_role("button", name="Put mine back").click()
    assert words(page) == ["rose", "dot", "daisy"]
    page.locator("#morph-timeline .key .off").nth(1).click()
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
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def test_pictures_still_being_sent_are_waited_for(morph):
    """Typing goes on while they are, and Make says so."""
    page = morph
    page.set_input_files("#morph-timeline input[type=file]", [ROSE])
    expect(keys(page)).to_have_count(1, timeout=LONG)
    held = []
    page.route("**/upload*", lambda route: held.append(route))
    page.locator("#morph-timeline .key input").nth(0).focus()
    page.set_input_files("#morph-timeline input[type=file]", [DAISY])
    expect(page.locator("#morph-timeline .key.coming")).to_have_count(1, timeout=LONG)
    assert page.evaluate("document.querySelector('.key.coming .pic').getAnimations().length") == 1
    assert page.evaluate("document.activeElement.matches('#morph-timeline .key input')")
    page.click("#morph-make")
    expect(page.locator("#morph-status")).to_contain_text("got 1 still being sent", timeout=LONG)
    for route in held:
        route.continue_()
    expect(keys(page)).to_have_count(2, timeout=LONG)


def test_morph_through_two_pictures(morph, tmp_path):
    page = morph
    page.click("#morph-make")
    expect(page.locator("#morph-status")).to_contain_text("Pictures must be 2 to 12, got none", timeout=LONG)
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY])
    expect(keys(page)).to_have_count(2, timeout=LONG)
    page.locator("#morph-timeline .key input").nth(1).fill("a pink daisy")
    quick(page)
    page.click("#morph-make")
    expect(page.locator("#morph-player .cell[data-state=forming]")).not_to_have_count(0, timeout=LONG)
    expect(page.locator("#morph-status")).to_contain_text("fitting LoRAs", timeout=LONG)
    page.click("#morph-stop")
    expect(page.locator("#morph-status")).to_contain_text("Stopped", timeout=LONG)
    expect(page.locator("#morph-make")).to_be_visible(timeout=LONG)
    page.click("#morph-make")
    expect(page.locator("#morph-status")).to_contain_text("16 frames of 256 × 256", timeout=LONG)
    expect(page.locator("#morph-status")).to_contain_text("as long as a cross-fade")
    expect(page.locator("#morph-player .cell[data-state=done]")).to_have_count(16)
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
    expect(page.locator("#morph-status")).to_contain_text("The same 2 pictures make it again", timeout=LONG)
    steps = (
        page.locator("#morph-make").locator("xpath=ancestor::*[contains(@class,'left')]").get_by_label("Steps").first
    )
    expect(steps).to_have_value("5")
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY])
    expect(keys(page)).to_have_count(2, timeout=LONG)
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
