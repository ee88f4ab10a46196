"""Points and times of ways on the page, in Chromium: nothing is lost, and the player shows what the file will be."""

import av
import pytest
from conftest import picture
from playwright.sync_api import expect
from test_easel import LONG, Job, Painter, until
from test_points import DAISY, POINT, RED, ROSE, WHITE, ask

from engine.requests import Done, Frame, MatchRequest, Progress
from engine.requests.settings import Settings
from engine.vision.video import save_png
from morph_ui import build, launch

pytestmark = pytest.mark.slow


class Looker(Painter):
    """What is asked for arrows gets one; films a frame for every place."""

    def submit(self, request):
        self.jobs.append((Arrows if isinstance(request, MatchRequest) else Drawn)(self, request))
        return self.jobs[-1]


class Arrows(Job):
    def __iter__(self):
        yield Progress(0.5, "looking")
        yield Done((), {"arrows": [[0.2, 0.2, 0.4, 0.3, 1.0]]}, 0.1, 0, notes=("seen",))


class Drawn(Job):
    over = False

    def cancel(self):
        self.over = True  # which comes after its end as well

    def __iter__(self):
        frames = [Frame(i, picture(i, (32, 32))) for i in range(self.request.total)]
        yield from frames
        yield Done(tuple(f.picture for f in frames), self.request.settings(), 0.1, 4)


@pytest.fixture(scope="module")
def looker():
    looker = Looker()
    page = build(looker, Settings())
    _, looker.url, _ = launch(page, prevent_thread_lock=True, server_name="127.0.0.1")
    yield looker
    page.close()


@pytest.fixture
def page(browser, looker):
    page, errors = browser.new_page(viewport={"width": 1366, "height": 768}), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(looker.url)
    expect(page.locator("#interpolate-make")).to_be_visible(timeout=LONG)
    yield page
    assert errors == []
    page.close()


def made(page, looker, name):
    """What the job is given when Make is pressed now, and the page is calm again."""
    before = len(looker.jobs)
    page.locator(f"#{name}-make").click()
    until(page, lambda: len(looker.jobs) > before)
    calm(page, looker, name)
    return looker.jobs[-1].request


def calm(page, looker, name):
    """Gradio hears no second click on a button whose first still runs."""
    until(page, lambda: looker.jobs[-1].over)
    expect(page.locator(f"#{name}-status")).to_contain_text("frames of", timeout=LONG)
    expect(page.locator(f"#{name}-make")).to_be_visible(timeout=LONG)
    page.wait_for_timeout(700)


def click(page, side, x, y):
    box = page.locator("dialog.points[open] .photo").nth(side).bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def put(page, *pairs):
    for x0, y0, x1, y1 in pairs:
        click(page, 0, x0, y0)
        click(page, 1, x1, y1)


def opened(page):
    """The window, once both pictures are in it."""
    expect(page.locator("dialog.points[open] .photo img[src]")).to_have_count(2, timeout=LONG)
    return page.locator("dialog.points[open]")


def near(got, *wanted):
    assert len(got) == len(wanted)
    for p, q in zip(got, wanted, strict=True):
        assert p == pytest.approx(q, abs=0.01)


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
    expect(box.locator(".line")).to_contain_text("seen")
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


def test_interpolate_goes_on_and_one_way_is_made_again(page, looker):
    for side, file in (("a", ROSE), ("b", DAISY)):
        page.set_input_files(f"#interpolate-{side} input[type=file]", file)
        expect(page.locator(f"#interpolate-{side} img")).to_be_visible(timeout=LONG)
    more, heads = page.locator("#interpolate-more"), page.locator("#interpolate-more .lead .put")
    expect(heads.first).to_have_text("From → To: + points", timeout=LONG)
    page.set_input_files("#interpolate-more input[type=file]", [WHITE])
    expect(heads.nth(1)).to_have_text("To → 3: + points", timeout=LONG)
    more.locator(".key input").fill("a white daisy")
    heads.nth(0).click()
    opened(page)
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


def test_a_picture_rests_and_a_way_is_quick_as_was_said(page, looker, tmp_path):
    page.get_by_role("tab", name="Morph").click()
    page.set_input_files("#morph-timeline input[type=file]", [ROSE, DAISY, WHITE, RED])
    line, lasts = page.locator("#morph-timeline"), page.locator("#morph-player .long")
    expect(line.locator(".joint:not([hidden])")).to_have_count(3, timeout=LONG)
    expect(line.locator(".times")).to_have_count(0)  # quiet
    page.locator("#morph-back input").uncheck()
    made(page, looker, "morph")
    expect(lasts).to_have_text("3.13 s", timeout=LONG)  # 25 frames, eight a second
    line.locator(".timing").click()
    hold, way = line.get_by_label("Seconds to hold picture 3"), line.get_by_label("Seconds from picture 3 to picture 4")
    expect(way).to_have_attribute("placeholder", "1.06")
    hold.fill("2,5")
    hold.blur()
    expect(lasts).to_have_text("5.63 s", timeout=LONG)
    way.fill("0.5")
    way.blur()
    expect(lasts).to_have_text("5.07 s", timeout=LONG)
    way.fill("soon")
    way.blur()
    expect(page.locator("#morph-status")).to_contain_text("Durations must be numbers from 0.01 to 300", timeout=LONG)
    way.fill("0.5")
    way.blur()
    with page.expect_download(timeout=LONG) as download:
        page.click("#morph-mp4")
    download.value.save_as(path := tmp_path / "m.mp4")
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert float(stream.frames / stream.average_rate) == pytest.approx(5.07, abs=0.02)
    line.locator(".timing").click()
    expect(line.locator(".timing")).to_have_text("timing · 2 set")
    expect(line.locator(".num").nth(2)).to_have_text("3 · 2,5 s")
    # It goes with its picture, and comes back with the page and from the file.
    line.locator(".grip").nth(2).press("ArrowLeft")
    expect(line.locator(".num").nth(1)).to_have_text("2 · 2,5 s")
    page.reload()
    page.get_by_role("tab", name="Morph").click()
    expect(line.locator(".num").nth(1)).to_have_text("2 · 2,5 s", timeout=LONG)
    page.set_input_files("input:has(+ #morph-load)", path)
    expect(line.locator(".num").nth(2)).to_have_text("3 · 2.5 s", timeout=LONG)
    expect(line.locator(".joint .put").nth(2)).to_have_text("+ points · 0.5 s")
    made(page, looker, "morph")
    expect(lasts).to_have_text("5.07 s", timeout=LONG)


def test_pictures_are_not_forgotten_where_the_studio_does_not_answer(page, looker):
    for side, file in (("a", ROSE), ("b", DAISY)):
        page.set_input_files(f"#interpolate-{side} input[type=file]", file)
        expect(page.locator(f"#interpolate-{side} img")).to_be_visible(timeout=LONG)
    page.set_input_files("#interpolate-more input[type=file]", [WHITE])
    expect(page.locator("#interpolate-more .joint:not([hidden])")).to_have_count(2, timeout=LONG)
    page.route("**/component_server*", lambda route: route.abort())
    page.reload()
    expect(page.locator("#interpolate-more .key img")).to_be_visible(timeout=LONG)
    expect(page.locator("#interpolate-hands .trouble")).to_contain_text("does not answer", timeout=LONG)
    page.unroute("**/component_server*")
    page.reload()
    for side in "ab":
        expect(page.locator(f"#interpolate-{side} img")).to_be_visible(timeout=LONG)
    expect(page.locator("#interpolate-more .joint:not([hidden])")).to_have_count(2, timeout=LONG)
