"""The menu of networks in Chromium, over a hub on loopback: sizes, terms, a download stopped and gone on; poses."""

import shutil

import pytest
from checkpoints import controlnet, halved
from conftest import make_network, started
from fakehub import FakeHub
from playwright.sync_api import expect
from test_page import DAISY, ROSE

from engine.checkpoints.resolve import CATALOGUE, FAMILIES
from engine.requests.settings import Settings
from engine.vision import video
from engine.vision.keypoints import pose
from morph_ui import networks

pytestmark = pytest.mark.slow
WAIT = 60_000


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Tiny networks under the names of Stable Diffusion 1.5 and what belongs to it."""
    base = tmp_path_factory.mktemp("hub")
    whole = make_network(base / "whole", attends=(0,))
    half = halved(whole, base / "half")
    with FakeHub(base / "repos") as hub:

        def put(source, folder):
            shutil.copytree(folder, base / "repos" / source.repos[0])

        put(CATALOGUE["sd15"].source, half)
        put(FAMILIES["sd1"]["pose"].source, controlnet(whole, "pose"))
        put(FAMILIES["sd1"]["preview"].source, whole / "vae")
        yield hub


@pytest.fixture(scope="module")
def page(hub, browser, tmp_path_factory):
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path_factory.mktemp("cache"))}
    with started(**env) as address:
        page = browser.new_page(viewport={"width": 1320, "height": 1000})
        page.errors = []
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.goto(address)
        expect(page.locator("#interpolate-make")).to_be_visible(timeout=WAIT)
        page.click("#interpolate-advanced > button")  # More
        for box, file in (("#interpolate-a", ROSE), ("#interpolate-b", DAISY)):
            page.set_input_files(f"{box} input[type=file]", file)
            expect(page.locator(f"{box} img")).to_be_visible(timeout=WAIT)
        yield page
        assert page.errors == []
        page.close()


def choose(page, label):
    page.locator("#interpolate-network input").click()
    page.get_by_role("option", name=label, exact=False).first.click()


def status(page):
    return page.locator("#interpolate-status")


def test_the_menu_says_what_is_here_and_what_would_be_fetched(page):
    page.locator("#interpolate-network input").click()
    expect(page.get_by_role("option", name="flora · here")).to_be_visible(timeout=WAIT)
    expect(page.get_by_role("option", name="sd15 · 2.1 GB to fetch")).to_be_visible(timeout=WAIT)
    page.get_by_role("option", name="sd15 · 2.1 GB to fetch").click()
    note = page.locator("#interpolate-network-note")
    expect(note).to_contain_text("CreativeML OpenRAIL-M", timeout=WAIT)
    expect(note).to_contain_text("The first job with it fetches sd15, quick previews")
    expect(page.locator("#interpolate-advanced input[aria-label*='Follow the words']").first).to_have_value("7.5")


def test_a_download_is_stopped_and_goes_on_where_it_was(page, hub):
    name = "unet/diffusion_pytorch_model.fp16.safetensors"
    hub.stall[name] = 600_000
    page.locator("#interpolate-make").click()
    assert hub.stalled.wait(60)
    expect(status(page)).to_contain_text("fetching sd15", timeout=WAIT)
    page.locator("#interpolate-stop").click()
    expect(status(page)).to_contain_text("Stopped", timeout=WAIT)
    hub.release.set()
    hub.stall.clear()
    page.locator("#interpolate-make").click()
    expect(status(page)).to_contain_text("9 frames", timeout=WAIT)
    assert hub.gets("/" + name).count(0) == 1, "it began from nothing again"
    expect(page.locator("#interpolate-network-note")).not_to_contain_text("fetches", timeout=WAIT)
    page.locator("#interpolate-network input").click()
    expect(page.get_by_role("option", name="sd15 · here")).to_be_visible(timeout=WAIT)
    page.keyboard.press("Escape")


def test_keypoints_from_files_are_shown_dragged_and_steer(page, tmp_path):
    """Both files, a joint moved by hand, a run on the network with a control for poses, another picture."""
    for box, file in (("#interpolate-a", ROSE), ("#interpolate-b", DAISY)):
        page.set_input_files(f"{box} input[type=file]", file)
        expect(page.locator(f"{box} img")).to_be_visible(timeout=WAIT)
    joints = tuple((0.3 + 0.02 * i, 0.2 + 0.03 * i) for i in range(18))
    file = tmp_path / "people.json"
    file.write_text(pose.write((pose.Person(joints),), (320, 240)))
    page.locator("#interpolate-poses > button").click()
    for side, name in zip("ab", ("From", "To"), strict=True):
        upload(page, side, file)
        expect(status(page)).to_contain_text(f"one person in {name}", timeout=WAIT)
    joint = page.locator("#interpolate-skeletons svg").first.locator(".joint")
    expect(joint).to_have_count(18, timeout=WAIT)
    choose(page, "sd15")
    joint.nth(4).focus()
    page.keyboard.press("ArrowRight")  # one hundredth of the picture
    page.keyboard.press("Tab")
    expect(page.locator("#interpolate-pose input")).to_have_value("as the skeletons below say", timeout=WAIT)
    page.locator("#interpolate-make").click()
    expect(status(page)).to_contain_text("9 frames", timeout=WAIT)
    with page.expect_download() as download:
        page.locator("#interpolate-zip").click()
    settings = video.read_settings(download.value.path())
    moved = pose.read(settings["pose_a"])[0].joints
    assert settings["pose"] == "given" and moved[4][0] == pytest.approx(joints[4][0] + 0.01, abs=2e-3)
    assert moved[5] == pytest.approx(joints[5], abs=2e-3)
    page.set_input_files(
        "#interpolate-a input[type=file]", DAISY
    )  # another picture: its keypoints go, the other's stay
    expect(page.locator("#interpolate-skeletons svg").first.locator(".joint")).to_have_count(0, timeout=WAIT)
    expect(page.locator("#interpolate-skeletons svg").nth(1).locator(".joint")).to_have_count(18, timeout=WAIT)


def upload(page, side, file):
    with page.expect_file_chooser() as chooser:
        page.locator(f"#interpolate-keypoints-{side}").click()
    chooser.value.set_files(file)


def test_the_note_of_a_name_that_is_none():
    anywhere = Settings()
    assert "must be one of flora" in networks.describe("nonsense", anywhere)
    assert "free for any use" in networks.describe("flora", anywhere)
    assert "2.1 GB" in networks.describe("sd15", anywhere)  # with TAESD


def test_a_public_page_opens_no_files_but_those_of_its_folders(tiny, tmp_path):
    for name in (str(tiny), f"flora + {tiny}/unet/diffusion_pytorch_model.safetensors"):
        assert "must be one of" in networks.describe(name, Settings(paths=()))
    some = Settings(paths=(str(tmp_path), str(tiny.parent)))
    assert "Of your own" in networks.describe(str(tiny), some)
    assert "must be one of" in networks.describe(f"{tiny.parent}/../../etc", some)


def test_a_networks_loras_are_added_and_taken_away():
    assert networks.toggled("sd15", "ink") == "sd15 + ink"
    assert networks.toggled("sd15 + ink:0.5 + a", "ink") == "sd15 + a" and networks.toggled("sd15 + a", "a") == "sd15"


def test_the_page_says_how_colours_come_in_where_a_network_can_be_shown_none(tiny):
    drawing, bare = ("sketch", "stroke", "tile"), networks.describe(str(tiny), Settings(), ())
    assert "It can be shown no colours: Draw begins with them" in networks.describe(str(tiny), Settings(), drawing)
    for name, wants in (("flora", drawing), ("sd15", drawing)):
        assert "shown no" not in networks.describe(name, Settings(), wants) + bare
