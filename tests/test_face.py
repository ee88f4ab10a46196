"""What one sees first: every tab opens with its example, which goes; and a tab lies in one screen."""

import json

import gradio as gr
import numpy as np
import pytest
from conftest import ROOT
from looker import looker, made  # noqa: F401, a fixture
from playwright.sync_api import expect
from shots import PHONE, SIZES, TABS, show
from test_easel import LONG, show_tab, stroke, until

from engine.requests.settings import Settings
from morph_ui.form import Form
from morph_ui.session import Session
from morph_ui.tabs import draw, edit, first, interpolate, morph
from training import examples

MODULES = {"interpolate": interpolate, "morph": morph, "draw": draw, "edit": edit}
ROSE = ROOT / "assets/examples/rose-22325299158.webp"
# What a tab is about.
SEEN = {
    "interpolate": ("#{0}-a", "#{0}-b", "#{0}-more", "#{0}-low", "#{0}-high", "#{0}-preset", "#{0}-mp4"),
    "morph": ("#{0}-timeline .keys", "#{0}-tier", "#{0}-frames", "#{0}-preset", "#{0}-mp4"),
    "draw": ("#{0}-canvas", "#{0}-realism", "#{0}-sketch-scale", "#{0}-stroke-scale", "#{0}-preset", "#{0}-png"),
    "edit": ("#{0}-canvas", "#{0}-strength", "#{0}-faithful", "#{0}-realistic", "#{0}-png"),
}
INPUTS = {
    "interpolate": ("a", "b", "skeletons"),
    "morph": ("pictures",),
    "draw": ("canvas",),
    "edit": ("canvas", "where"),
}
RESULT = ":is(#{0}-player, #{0}-viewer) .stage"
ALIKE = (
    "#{0}-prompt",
    "#{0}-make",
    "#{0}-act .seed",
    "#{0}-dice",
    "#{0}-status",
    RESULT,
    ":is(#{0}-player, #{0}-viewer) .deck",
)


# ------------------------------------------------------------------------------------- without a browser


@pytest.mark.parametrize("tab", MODULES)
def test_make_asks_for_the_example_that_is_in_its_place(tab):
    """The page's own widgets with the words that the example brings, and nothing brought."""
    found = first.first(tab)
    assert found is not None, f"{tab} has no example; run python -m training.examples"
    with gr.Blocks():
        form = Form(MODULES[tab].R, Settings(), seed=first.SEEDS[tab])
    values = {n: w.value for n, w in form.widgets.items()} | found.words | {"example": "there"}
    values |= dict.fromkeys(INPUTS[tab])
    own = () if tab == "morph" else (form,)
    asked, _ = MODULES[tab].ask(*own, Session(), values)
    assert asked == found.request and asked.settings() == found.request.settings()
    assert len(found.done.frames) == asked.total and {f.size for f in found.done.frames} == {(256, 256)}
    shades = [np.asarray(f, np.float32).std() for f in found.done.frames]
    assert min(shades) > 20  # pictures, not grounds


@pytest.mark.parametrize("tab", MODULES)
def test_without_its_pictures_a_tab_is_empty(tab, tmp_path, monkeypatch):
    """The studio starts all the same; ``__wrapped__``: what was found before stays."""
    place, name = (first.made, "MADE") if tab == "interpolate" else (first, "FOLDER")
    settings = (getattr(place, name) / "settings.json").read_bytes()
    monkeypatch.setattr(place, name, tmp_path)
    assert first.first.__wrapped__(tab) is None
    (tmp_path / "settings.json").write_bytes(settings)
    assert first.first.__wrapped__(tab) is None
    (tmp_path / f"{tab}.webp").write_bytes(b"RIFF")
    assert first.first.__wrapped__(tab) is None


def test_the_examples_are_small():
    for file in first.FOLDER.iterdir():
        assert file.stat().st_size < 2e5, file
    assert {f.name for f in first.FOLDER.iterdir()} == {"morph.webp", "draw.webp", "edit.webp", "settings.json"}


@pytest.mark.slow
def test_they_are_as_old_as_the_weights():
    kept = json.loads((first.FOLDER / "settings.json").read_text(encoding="utf8"))
    assert kept["weights"] == examples.weights(), (
        "flora's weights have changed since the examples were made; run python -m training.examples, look at them and "
        "commit assets/examples/first"
    )


# ------------------------------------------------------------------------------------------- in Chromium


@pytest.fixture
def visit(browser, looker):  # noqa: F811
    """A fresh page of a size."""
    pages, errors = [], []

    def visit(size="laptop", **how):
        width, height = SIZES[size]
        pages.append(page := browser.new_page(viewport={"width": width, "height": height}, **how))
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(looker.url)
        return page

    yield visit
    assert errors == []
    for page in pages:
        page.close()


def box(page, selector):
    found = page.locator(selector).first.bounding_box()
    assert found, f"{selector} is not seen"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("size", ["laptop", "small"])
def test_a_tab_lies_in_one_screen(visit, size):
    page, (width, height) = visit(size), SIZES[size]
    for tab in TABS:
        show(page, tab)
        name, outside = tab.lower(), []
        for selector in SEEN[name] + ALIKE:
            b = box(page, selector.format(name))
            if b["x"] < 0 or b["y"] < 0 or b["x"] + b["width"] > width or b["y"] + b["height"] > height:
                outside.append((selector.format(name), b))
        assert outside == [] and page.evaluate("document.documentElement.scrollHeight") == height
        stage = box(page, RESULT.format(name))
        assert stage["height"] > 300  # what is made is seen well
        assert page.locator(f"#{name}-advanced").is_visible()
        if name in ("interpolate", "morph"):  # so it does with frames that stand upright, and a line of two rows
            page.locator(f"#{name}-player .stage").evaluate("s => s.parentElement.style.setProperty('--ratio', 0.66)")
            page.locator(f"#{name}-status .status span").evaluate("s => { s.textContent = 'long words '.repeat(15); }")
            fold = box(page, f"#{name}-finish")
            assert fold["y"] + fold["height"] <= height and page.locator(f"#{name}-player .cell img").count()


@pytest.mark.slow
def test_on_a_phone_input_make_and_result_follow_each_other(visit):
    page = visit("phone", **PHONE)
    for tab in TABS:
        show(page, tab)
        name = tab.lower()
        first_of = SEEN[name][0].format(name)
        tops = [box(page, s)["y"] for s in (first_of, f"#{name}-make", RESULT.format(name), f"#{name}-advanced")]
        assert tops == sorted(tops), (tab, tops)
        assert page.evaluate("document.documentElement.scrollWidth") == SIZES["phone"][0]
        if f"#{name}-canvas" == first_of.split()[0]:  # who has no wheel can look closer as well
            assert page.locator(f"{first_of.split()[0]} [data-act=zoomin]").is_visible()
        for where in (f"#{name}-act button", ".take button:visible", ".deck button:visible", ".example-badge:visible"):
            for target in page.locator(where).all():
                if target.is_visible():
                    b = target.bounding_box()
                    assert b["height"] >= 39.5 and b["width"] >= 39.5, (where, b)


@pytest.mark.slow
def test_an_example_moves_is_made_here_and_goes_when_pictures_come(visit, looker):  # noqa: F811
    page = visit()
    where = page.locator("#interpolate-player .where")
    expect(where).to_have_text("1 / 9", timeout=LONG)
    expect(page.locator("#interpolate-player .play")).to_have_attribute("aria-label", "Play")  # still, as was wished
    page.reload()
    page.emulate_media(reduced_motion="no-preference")
    show(page, "Interpolate")
    where, words = page.locator("#interpolate-player .where"), page.locator("#interpolate-prompt textarea")
    place = where.inner_text()
    until(page, lambda: where.inner_text() != place)  # it plays, and nobody has clicked
    expect(page.locator("#interpolate-status")).to_contain_text("An example, made earlier with flora")
    expect(page.locator("#interpolate-pair .ghost")).to_have_count(2)
    expect(words).to_have_value("a red rose")
    expect(page.locator("#interpolate-mp4")).to_be_enabled()
    request = made(page, looker, "interpolate")
    assert request == first.first("interpolate").request
    expect(page.locator(".example-badge:visible")).to_have_count(0)  # it is the visitor's now
    expect(page.locator("#interpolate-pair .ghost")).to_have_count(2)
    page.set_input_files("#interpolate-a input[type=file]", ROSE)
    expect(page.locator("#interpolate-pair .ghost")).to_have_count(0, timeout=LONG)
    expect(words).to_have_value("", timeout=LONG)
    expect(page.locator("#interpolate-player .cell")).to_have_count(9)  # what was made stays
    page.locator("#interpolate-make").click()
    expect(page.locator("#interpolate-status")).to_contain_text("must be a picture, got nothing", timeout=LONG)
    # A page that brings the visit's own picture back shows no example over it.
    page.reload()
    expect(page.locator("#interpolate-a img")).to_be_visible(timeout=LONG)
    page.wait_for_timeout(500)
    expect(page.locator("#interpolate-pair .ghost")).to_have_count(0)


@pytest.mark.slow
def test_an_example_goes_with_a_picture_a_stroke_or_a_word(visit, looker):  # noqa: F811
    page = visit()
    show(page, "Morph")
    assert made(page, looker, "morph").pictures == first.first("morph").request.pictures
    page.locator("#morph-timeline input[type=file]").first.set_input_files(ROSE)
    expect(page.locator("#morph-timeline .ghost")).to_have_count(0, timeout=LONG)
    # On the canvas: a stroke comes on an empty one, and what was shown is gone.
    show(page, "Draw")
    b = show_tab(page, "Draw")
    stroke(page, b, (120, 120), (200, 180))
    expect(page.locator("#draw-canvas .ghost")).to_have_count(0)
    expect(page.locator("#draw-viewer .stage")).not_to_have_class("stage has", timeout=LONG)
    expect(page.locator("#draw-png")).to_be_disabled(timeout=LONG)
    jobs = len(looker.jobs)
    page.locator("#draw-make").click()
    until(page, lambda: len(looker.jobs) > jobs)
    assert looker.jobs[-1].request.strokes is None and looker.jobs[-1].request.prompt == ""
    # It is put away, or put on the canvas to go on with.
    show(page, "Edit")
    page.locator("#edit-canvas .ghost button").click()
    expect(page.locator("#edit-canvas .layer.photo")).to_be_visible(timeout=LONG)
    expect(page.locator(".example-badge:visible")).to_have_count(0)
    page.locator("#edit-canvas [data-act=new]").click()
    page.locator("#edit-make").click()
    expect(page.locator("#edit-status")).to_contain_text("got nothing", timeout=LONG)
