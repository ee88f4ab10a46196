"""What keyboards and screen readers find: axe on every tab, light and dark, and what is done without a mouse."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT, studio_over
from looker import Looker, made, opened
from playwright.sync_api import expect
from test_easel import LONG, Job, says, show_tab, stroke, until

from engine.requests import DrawRequest, EditRequest

pytest_plugins = ["looker"]
EXAMPLES = ROOT / "assets/examples"
PICTURES = sorted(EXAMPLES.glob("*.webp"))[:3]
DARK = "on => document.body.classList.toggle('dark', on)"
# Gradio's own, with what is wrong with it there; everything else on the page is ours, or mended by us.
GRADIOS: dict[str, str] = {}


class Everybody(Looker):
    def submit(self, request):
        if not isinstance(request, DrawRequest | EditRequest):
            return super().submit(request)
        self.jobs.append(Job(self, request))
        return self.jobs[-1]


@pytest.fixture(scope="module")
def looker():
    with studio_over(Everybody()) as looker:
        yield looker


def sound(page, what):
    """Nothing serious is wrong with what is seen now, light and dark."""
    out = []
    page.add_style_tag(content="* { transition: none !important; }")  # colours on their way are none
    for dark in (False, True):
        page.evaluate(DARK, dark)
        context = {"exclude": [[s] for s in GRADIOS]} if GRADIOS else None
        found = Axe().run(page, context, {"resultTypes": ["violations"]}).response["violations"]
        for v in found:
            if v["impact"] in ("serious", "critical"):
                nodes = [f"{n['target']} {(n['any'] or n['all'] or n['none'])[0]['message']}" for n in v["nodes"]]
                out += [f"{what}, {'dark' if dark else 'light'}: {v['id']}", *nodes]
    page.evaluate(DARK, False)
    assert not out, "\n".join(out)


def unfold(page, tab):
    """Everything that folds in a tab is open."""
    for fold in page.locator(f"#{tab}-make >> xpath=ancestor::*[@role='tabpanel']").locator("button.label-wrap").all():
        if fold.is_visible() and "open" not in (fold.get_attribute("class") or ""):
            fold.evaluate("e => e.click()")  # what folds above it moves it


def test_films_have_no_serious_fault(page, looker):
    for tab in ("Interpolate", "Morph"):
        name = tab.lower()
        page.get_by_role("tab", name=tab).click()
        page.locator(f"#{name}-examples button").first.click()
        if name == "morph":
            expect(page.locator("#morph-timeline .grip")).to_have_count(2, timeout=LONG)
            page.locator("#morph-timeline .timing").click()
            made(page, looker, "morph")
        unfold(page, name)
        sound(page, tab)
    page.locator("#morph-timeline .joint:not([hidden]) .put").first.click()
    box = opened(page)
    box.get_by_role("button", name="Add a pair").click()
    box.get_by_role("button", name="Show what moves").click()
    expect(box.locator("svg g path").first).to_be_visible(timeout=LONG)
    expect(box.locator(".legend")).to_contain_text("Arrows lead from where a part is in picture 1")
    sound(page, "points")


def test_canvases_have_no_serious_fault(page, looker):
    for tab in ("Draw", "Edit"):
        box, name = show_tab(page, tab), tab.lower()
        stroke(page, box, (60, 60), (120, 90))
        page.locator(f"#{name}-make").click()
        says(page, name, "A picture of")
        unfold(page, name)
        sound(page, tab)


def test_the_page_is_used_without_a_mouse(page, looker):
    page.emulate_media(reduced_motion="no-preference")
    page.set_input_files("#interpolate-more input[type=file]", PICTURES)
    for side, picture in zip("ab", PICTURES, strict=False):
        page.set_input_files(f"#interpolate-{side} input[type=file]", picture)
        expect(page.locator(f"#interpolate-{side} img")).to_be_visible(timeout=LONG)
    # ? lists all keys, wherever they are; the focus comes back. Whoever writes a question mark writes one.
    words = page.get_by_label("In words").first
    words.press("?")
    expect(words).to_have_value("?")
    tab = page.get_by_role("tab", name="Interpolate")
    tab.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    for where in ("Everywhere", "The film", "Pictures in a row", "Points", "Skeletons"):
        expect(keys.get_by_role("heading", name=where, exact=True)).to_be_visible()
    sound(page, "keys")
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    expect(tab).to_be_focused()
    # Ctrl+Enter makes while words are written; then the film plays and is gone through.
    before = len(looker.jobs)
    words.press("Control+Enter")
    until(page, lambda: len(looker.jobs) > before)
    assert looker.jobs[-1].request.prompt == "?"
    says(page, "interpolate", "frames of")
    expect(page.locator("#help .voice")).to_contain_text("frames of", timeout=LONG)
    play, scrub = page.locator("#interpolate-player .play"), page.locator("#interpolate-player .scrub")
    expect(play).to_have_attribute("aria-label", "Pause", timeout=LONG)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    expect(play).to_have_attribute("aria-label", "Play")
    for key, at in (("Home", "0"), ("ArrowRight", "1"), ("ArrowRight", "2"), ("ArrowLeft", "1"), ("ArrowLeft", "0")):
        page.keyboard.press(key)
        expect(scrub).to_have_value(at)
    # Pictures are put in order, and it is said where they are.
    grips = page.locator("#interpolate-more .grip")
    expect(grips).to_have_count(3, timeout=LONG)
    last = grips.nth(2).locator("img").get_attribute("src")
    grips.nth(2).press("ArrowLeft")
    expect(page.locator("#help .voice")).to_have_text("Picture 4 of 5")
    assert grips.nth(1).locator("img").get_attribute("src") == last
    expect(grips.nth(1)).to_be_focused()
    # What Gradio shows as a sign has a name, and fields tell what their method calls them.
    expect(page.get_by_role("button", name="Swap both pictures")).to_be_visible()
    unfold(page, "interpolate")
    expect(page.locator("#interpolate-guidance")).to_have_attribute("title", re.compile("CFG"), timeout=LONG)
