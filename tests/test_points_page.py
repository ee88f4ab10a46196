"""Points on the page, in Chromium: nothing is lost."""

import pytest
from conftest import picture
from looker import calm, click, made, near, opened, put
from playwright.sync_api import expect
from test_easel import LONG, until
from test_points import DAISY, POINT, ROSE, WHITE, ask

from engine.vision.video import save_png

pytestmark = pytest.mark.slow
pytest_plugins = ["looker"]


def test_points_are_put_moved_removed_and_taken_back(page, looker):
    page.get_by_role("tab", name="Morph").click()
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY, WHITE])
    chips = page.locator("#morph-timeline .joint:not([hidden]) .put")
    expect(chips).to_have_count(2, timeout=LONG)
    chips.nth(1).click()
    box = opened(page)
    put(page, (0.2, 0.3, 0.3, 0.3), (0.7, 0.3, 0.8, 0.4), (0.5, 0.8, 0.5, 0.7))
    expect(box.locator(".pt")).to_have_count(6)
    # The second's own place in the second picture, dragged; then moved by keys, which are one change.
    dot, r = box.locator(".pt[data-s='1'][data-i='1']"), box.locator(".photo").nth(1).bounding_box()
    at = dot.bounding_box()
    page.mouse.move(at["x"] + 12, at["y"] + 12)
    page.mouse.down()
    page.mouse.move(r["x"] + 0.6 * r["width"], r["y"] + 0.5 * r["height"], steps=5)
    page.mouse.up()
    expect(dot).to_be_focused()
    expect(dot).to_have_accessible_name("Point 2 in picture 3, 60 % from the left, 50 % from the top")
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    expect(dot).to_have_accessible_name("Point 2 in picture 3, 62 % from the left, 50 % from the top")
    box.locator(".pt[data-s='0'][data-i='0']").focus()
    page.keyboard.press("Delete")
    expect(box.locator(".pt")).to_have_count(4)
    page.keyboard.press("Control+z")
    expect(box.locator(".pt")).to_have_count(6)
    box.get_by_role("button", name="Remove pair 1").click()
    # A pair that crosses another is told of at once; undo takes it away.
    put(page, (0.9, 0.3, 0.3, 0.5))
    expect(box.locator(".line")).to_contain_text("Points 1 and 3 must not cross", timeout=LONG)
    box.get_by_role("button", name="Undo").click()
    click(page, 0, 0.9, 0.9)  # half a pair is none, and Escape takes it away first
    expect(box.locator(".line")).to_contain_text("Now click the same part in picture 3")
    page.keyboard.press("Escape")
    expect(box.locator(".pt")).to_have_count(4)
    box.locator(".show").click()
    expect(box.locator("svg g")).to_have_count(2, timeout=LONG)
    expect(box.locator(".line")).to_contain_text("Seen")
    look = looker.jobs[-1].request
    near(look.points[0], (0.7, 0.3, 0.62, 0.502), (0.5, 0.8, 0.5, 0.7))
    page.keyboard.press("Escape")
    expect(chips.nth(1)).to_be_focused()
    expect(chips.nth(1)).to_have_text("• 2 points")
    request = made(page, looker, "morph")
    assert request.points[0] == () and request.align == "points"  # which they say by being there
    near(request.points[1], (0.7, 0.3, 0.62, 0.502), (0.5, 0.8, 0.5, 0.7))


def test_points_go_with_their_pictures_and_come_back_with_them(page, looker):
    page.get_by_role("tab", name="Morph").click()
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY, WHITE])
    line, chips = page.locator("#morph-timeline"), page.locator("#morph-timeline .joint:not([hidden]) .put")
    expect(chips).to_have_count(2, timeout=LONG)
    chips.first.click()
    opened(page)
    put(page, (0.2, 0.3, 0.4, 0.5))
    page.keyboard.press("Escape")
    grips = line.locator(".grip")
    grips.nth(0).focus()
    page.keyboard.press("ArrowRight")  # both are neighbours still, the other way round
    near(made(page, looker, "morph").points[0], (0.4, 0.5, 0.2, 0.3))
    grips.nth(1).press("ArrowRight")
    expect(line.locator(".trouble")).to_contain_text("1 point waits until the pictures are neighbours again")
    assert made(page, looker, "morph").points == ()
    grips.nth(2).press("ArrowLeft")
    expect(chips.first).to_have_text("• 1 point")
    line.locator(".off").nth(1).click()
    expect(line.locator(".trouble")).to_contain_text("1 point went with it.")
    page.get_by_role("button", name="Put mine back").click()
    near(made(page, looker, "morph").points[0], (0.4, 0.5, 0.2, 0.3))
    page.locator("#morph-loop input").check()
    expect(chips).to_have_count(3)
    chips.nth(2).click()
    expect(opened(page).locator(".head b")).to_have_text("picture 3 → picture 1")
    put(page, (0.5, 0.5, 0.6, 0.6))
    page.keyboard.press("Escape")
    request = made(page, looker, "morph")
    assert request.loop and len(request.points) == 3 and request.points[1] == ()
    page.reload()  # it is all there again
    page.get_by_role("tab", name="Morph").click()
    expect(chips.first).to_have_text("• 1 point", timeout=LONG)


def test_interpolate_goes_on_and_one_way_is_made_again(page, looker, tmp_path):
    picture(0, (96, 64)).save(wide := tmp_path / "wide.png")
    for side, file in (("a", wide), ("b", DAISY)):
        page.set_input_files(f"#interpolate-{side} input[type=file]", file)
        expect(page.locator(f"#interpolate-{side} img")).to_be_visible(timeout=LONG)
    more, heads = page.locator("#interpolate-more"), page.locator("#interpolate-more .lead .put")
    expect(heads.first).to_have_text("From → To: + points", timeout=LONG)
    page.set_input_files("#interpolate-more input[type=file]", [WHITE])
    expect(heads.nth(1)).to_have_text("To → 3: + points", timeout=LONG)
    more.locator(".key input").fill("a white daisy")
    heads.nth(0).click()
    box = opened(page)
    # What frames of the first picture's proportions leave out of the second is dark: a third of its height.
    expect(box.locator("h4")).to_have_text(["From", "To · what is dark lies outside of the frames"], timeout=LONG)
    whole, lit = (box.locator(s).last.bounding_box() for s in (".photo", ".cut b"))
    assert lit["height"] == pytest.approx(whole["height"] * 2 / 3, abs=2) and lit["width"] == pytest.approx(
        whole["width"], abs=2
    )
    put(page, (0.2, 0.3, 0.4, 0.5), (0.8, 0.3, 0.7, 0.5))
    page.locator("dialog.points[open] .done").click()
    request = made(page, looker, "interpolate")
    assert request.words() == ["", "", "a white daisy"] and request.total == 17 and request.align == "points"
    near(request.points[0], (0.2, 0.3, 0.4, 0.5), (0.8, 0.3, 0.7, 0.5))
    before = len(looker.jobs)
    page.get_by_role("button", name="Make the way from To to picture 3 again").click()
    until(page, lambda: len(looker.jobs) > before)
    own = looker.jobs[-1].request.seeds
    assert own[0] == 7 != own[1]
    calm(page, looker, "interpolate")
    assert made(page, looker, "interpolate").seeds == own  # it stays so
    page.locator("#interpolate-swap").click()
    until(page, lambda: heads.first.inner_text() == "From → To: • 2 points")
    near(made(page, looker, "interpolate").points[0], (0.4, 0.5, 0.2, 0.3), (0.7, 0.5, 0.8, 0.3))
    # Another picture: its points go, and come back with it.
    page.locator(
        "#interpolate-a button[aria-label='Clear'], #interpolate-a button[aria-label='Remove Image']"
    ).first.click()
    expect(more.locator(".trouble")).to_contain_text("2 points went with it.", timeout=LONG)
    page.get_by_role("button", name="Put mine back").click()
    expect(heads.first).to_have_text("From → To: • 2 points", timeout=LONG)
    expect(page.locator("#interpolate-a img")).to_be_visible(timeout=LONG)


def test_settings_of_a_file_bring_points_back_as_soon_as_their_pictures_are_there(page, looker, tmp_path):
    r = ask(WHITE, points=[[POINT], [POINT]], seeds={"of": 7, "ways": [3, 4]})
    save_png(picture(0), tmp_path / "s.png", r.settings())
    page.set_input_files("#interpolate-more input[type=file]", [WHITE])
    page.set_input_files("input:has(+ #interpolate-load)", tmp_path / "s.png")
    expect(page.locator("#interpolate-status")).to_contain_text("Drop the same 3 pictures", timeout=LONG)
    expect(page.locator("#interpolate-more .key input")).to_have_value("w0")
    for side, file in (("a", ROSE), ("b", DAISY)):
        page.set_input_files(f"#interpolate-{side} input[type=file]", file)
    heads = page.locator("#interpolate-more .lead .put")
    expect(heads.nth(0)).to_have_text("From → To: • 1 point", timeout=LONG)
    expect(heads.nth(1)).to_have_text("To → 3: • 1 point", timeout=LONG)
    request = made(page, looker, "interpolate")
    assert (request.points, request.seeds, request.words()) == (r.points, r.seeds, r.words())
