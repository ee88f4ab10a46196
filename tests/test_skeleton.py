"""The skeletons in Chromium, moved by mouse, finger and keys; and what Python makes of what they send."""

import itertools
import json
import queue

import gradio as gr
import pytest
from conftest import ROOT
from PIL import Image
from playwright.sync_api import expect

from engine.requests import EngineError
from engine.vision.keypoints import pose, skeleton
from morph_ui.components.skeleton import poses_of, skeletons, value_of

ROSE, DAISY = (ROOT / "assets/examples" / f for f in ("rose-22325299158.webp", "daisy-2520369272.webp"))
SOON = 20_000
SIZE = {"width": 900, "height": 900}
FACTS = skeleton.describe()
NAMES, LIMBS, COLOURS = FACTS["joints"], FACTS["limbs"], FACTS["colours"]
NECK, ELBOW, WRIST, ANKLE = (NAMES.index(n) for n in ("neck", "left elbow", "left wrist", "left ankle"))
ANNA = [
    [0.5, 0.14],
    [0.5, 0.25],
    [0.4, 0.25],
    [0.36, 0.4],
    [0.34, 0.54],
    [0.6, 0.25],
    [0.66, 0.4],
    [0.7, 0.53],
    [0.44, 0.55],
    [0.43, 0.74],
    [0.42, 0.93],
    [0.56, 0.55],
    [0.57, 0.74],
    [0.58, 0.93],
    [0.48, 0.12],
    [0.52, 0.12],
    [0.46, 0.13],
    [0.54, 0.13],
]
BERT = [[round(x + 0.05, 2), round(y - 0.02, 2)] for x, y in ANNA[:ANKLE]] + [None] + ANNA[ANKLE + 1 :]
TURNS = itertools.count()
HEARD = {n: queue.Queue() for n in ("input", "change")}


def picture(path, size):
    with Image.open(path) as p:
        return p.convert("RGB").resize(size)


def text(people):
    """People as OpenPose's JSON."""
    joints = [tuple(at and tuple(at) for at in person) for person in people]
    return pose.write(tuple(map(pose.Person, joints)), (1, 1)) if people else ""


def people(value):
    """The people on both sides of what the page sends, joints rounded as it rounds them."""
    return tuple(
        [[at and [round(v, 5) for v in at] for at in p.joints] for p in (pose.read(t) if t else ())]
        for t in poses_of(value)
    )


def found(a=(ANNA,), b=(BERT,)):
    return value_of([picture(ROSE, (400, 600)), picture(DAISY, (640, 480))], [text(a), text(b)])


@pytest.fixture(scope="module")
def site():
    with gr.Blocks(analytics_enabled=False) as page:
        given = gr.Textbox(elem_id="given", label="given", max_lines=1)
        put, hide = gr.Button("set", elem_id="set"), gr.Checkbox(True, label="seen")
        poses = skeletons("t")
        gr.HTML("<p style='height: 900px'>below</p>")
        put.click(lambda text: text or None, given, poses, show_progress="hidden")
        hide.change(lambda on: gr.update(visible=on), hide, poses, show_progress="hidden")
        for kind in HEARD:
            getattr(poses, kind)(HEARD[kind].put, poses, None, trigger_mode="multiple", show_progress="hidden")
    _, url, _ = page.queue(default_concurrency_limit=1).launch(
        prevent_thread_lock=True, quiet=True, run_history=False, ssr_mode=False, server_name="127.0.0.1"
    )
    yield url
    page.close()


class Poses:
    """The widget of a fresh page."""

    def __init__(self, page):
        self.page, self.root = page, page.locator("#t-skeletons")

    def set(self, value, joints):
        """Python sets the value; waits until so many joints are drawn, and until Gradio has told of it."""
        value = value and json.dumps(json.loads(value) | {"turn": next(TURNS)})  # the same twice would be no change
        self.page.locator("#given textarea, #given input").first.fill(value)
        self.page.click("#set")
        expect(self.root.locator(".joint")).to_have_count(joints, timeout=SOON)
        while (HEARD["change"].get(timeout=20) or "") != value:
            pass

    def joint(self, s, k, p=0):
        return self.root.locator(f"[data-key='{s}.{p}.{k}']")

    def xy(self, s, x, y):
        """Fractions of a picture → pixels of the screen."""
        box = self.root.locator(".side svg").nth(s).bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def at(self, s, k, p=0):
        """Where a joint is drawn, as fractions of the picture that is seen under it."""
        dot = self.joint(s, k, p).locator(".dot").bounding_box()
        box = self.root.locator(".side img").nth(s).bounding_box()
        return [(dot[a] + dot[n] / 2 - box[a]) / box[n] for a, n in (("x", "width"), ("y", "height"))]

    def drag(self, s, start, *way):
        self.page.mouse.move(*self.xy(s, *start))
        self.page.mouse.down()
        for point in way:
            self.page.mouse.move(*self.xy(s, *point), steps=4)
        self.page.mouse.up()

    def told(self):
        """What Python hears of the person's next change."""
        return people(HEARD["input"].get(timeout=20))


@pytest.fixture(scope="module")
def visit(browser, site):
    """One page for all: a load of it takes seconds."""
    page = browser.new_page(viewport=SIZE, has_touch=True)
    errors, outside = [], []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text) if "js_on_load" in m.text or "callback" in m.text else None)
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith((site, "data:", "blob:")) else None)
    page.goto(site)
    expect(page.locator("#t-skeletons .empty")).to_be_visible(timeout=SOON)
    yield page
    assert errors == [] and outside == []
    page.close()


@pytest.fixture(params=[pytest.param("", id="chromium", marks=pytest.mark.slow)])
def c(visit):
    visit.set_viewport_size(SIZE)
    poses = Poses(visit)
    poses.set(found((), ()), 0)  # whatever the test before has left comes before this
    for q in HEARD.values():
        q.queue.clear()
    return poses


def close(a, b, tolerance=0.004):
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def test_without_pictures_there_is_a_sentence_and_nothing_else(c):
    c.set("", 0)
    expect(c.root).to_have_text(
        "Find the people in both pictures, or open a pose from a file; then drag any joint to where it belongs.",
        use_inner_text=True,
    )
    expect(c.root.locator("button:visible, svg:visible")).to_have_count(0)
    c.set(found(), 35)
    expect(c.root.locator(".empty")).to_be_hidden()
    c.set("", 0)
    expect(c.root.locator(".empty")).to_be_visible()
    expect(c.root.locator("button:visible, svg:visible")).to_have_count(0)


def test_what_python_sets_is_drawn_where_it_lies_and_is_no_change_of_the_person(c):
    c.set(found(), 18 + 17)
    assert c.root.locator(".side >> nth=0 >> line").count() == 17
    assert c.root.locator(".side >> nth=1 >> line").count() == 16  # the one to the ankle is missing
    for s, person in enumerate((ANNA, BERT)):
        assert all(close(c.at(s, k), xy) for k, xy in enumerate(person) if xy)
        img, svg = (c.root.locator(f".side {part}").nth(s).bounding_box() for part in ("img", "svg"))
        assert img == svg and abs(img["width"] / img["height"] - (2 / 3, 4 / 3)[s]) < 0.01
    lines = c.root.locator(".side >> nth=0 >> line").evaluate_all(
        "all => all.map(l => [l.getAttribute('stroke'), ...['x1', 'y1', 'x2', 'y2'].map(a => +l.getAttribute(a)),"
        " getComputedStyle(l).opacity])"
    )
    for (a, b), (r, g, bl), line in zip(LIMBS, COLOURS, lines, strict=False):
        ends = [v * side for xy in (ANNA[a], ANNA[b]) for v, side in zip(xy, (400, 600), strict=True)]
        assert line[0] == f"rgb({r} {g} {bl})" and close(line[1:5], ends) and line[5] == "0.6"
    c.set(found((ANNA, BERT), (BERT, ANNA)), 2 * 35)
    assert HEARD["input"].empty() and HEARD["change"].empty()  # what was heard of above is Python's own


def test_a_drag_moves_one_joint_and_is_told_when_it_ends(c):
    c.set(found(), 35)
    c.drag(0, ANNA[WRIST], (0.6, 0.7), (0.85, 0.6))
    a, b = c.told()
    assert close(a[0][WRIST], (0.85, 0.6)) and b == [BERT]
    assert [j for k, j in enumerate(a[0]) if k != WRIST] == [j for k, j in enumerate(ANNA) if k != WRIST]
    assert close(c.at(0, WRIST), (0.85, 0.6))
    limb = c.root.locator(".side >> nth=0 >> line").nth(LIMBS.index([ELBOW, WRIST]))
    end = [float(limb.get_attribute(n)) for n in ("x2", "y2")]
    assert close(end, (a[0][WRIST][0] * 400, a[0][WRIST][1] * 600))
    c.drag(1, BERT[ELBOW], (1.4, -0.3))  # off the picture: it stays on its edge
    a, b = c.told()
    assert b[0][ELBOW] == [1, 0] and close(a[0][WRIST], (0.85, 0.6))
    c.page.mouse.click(*c.xy(0, *ANNA[NECK]))  # a click is no change
    expect(c.joint(0, NECK)).to_be_focused()
    assert HEARD["input"].empty()


def test_beside_the_dot_is_still_the_joint_and_the_nearest_is_meant(c):
    c.set(found(), 35)
    x, y = c.xy(0, *ANNA[ANKLE])
    c.page.mouse.move(x + 10, y)
    expect(c.root.locator(".side >> nth=0 >> .name")).to_have_text("left ankle")
    c.page.mouse.down()
    c.page.mouse.move(x + 10, y - 50, steps=3)
    c.page.mouse.up()
    box = c.root.locator(".side svg").nth(0).bounding_box()
    assert close(
        c.told()[0][0][ANKLE], (ANNA[ANKLE][0], ANNA[ANKLE][1] - 50 / box["height"])
    )  # as far as the hand went
    for k in (0, 14, 15, 16, 17):  # on a face their targets lie over each other
        c.page.mouse.move(*c.xy(0, *ANNA[k]))
        expect(c.root.locator(".side >> nth=0 >> .name")).to_have_text(NAMES[k])
        expect(c.root.locator(".side >> nth=0 >> .name")).to_have_class("name seen")


def test_a_finger_drags_a_joint_and_the_page_stays(c):
    c.set(found(), 35)
    cdp = c.page.context.new_cdp_session(c.page)

    def touch(kind, *points):
        at = [dict(zip("xy", c.xy(0, *p), strict=True)) for p in points]
        cdp.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at})

    before = c.page.evaluate("scrollY")
    touch("Start", ANNA[WRIST])
    for y in (0.5, 0.45, 0.4, 0.3, 0.2):
        touch("Move", (0.75, y))
    touch("End")
    assert close(c.told()[0][0][WRIST], (0.75, 0.2)) and c.page.evaluate("scrollY") == before
    assert HEARD["input"].empty()


def test_arrow_keys_delete_bring_back_and_undo(c):
    c.set(found(), 35)
    wrist = c.joint(1, WRIST)
    expect(wrist).to_have_attribute("aria-label", "left wrist, person 1, To")
    wrist.focus()
    x, y = 0.75, 0.51  # where it is
    c.page.keyboard.press("ArrowRight")
    assert close(c.told()[1][0][WRIST], (x + 0.01, y), 1e-4)
    c.page.keyboard.press("Shift+ArrowUp")
    assert close(c.told()[1][0][WRIST], (x + 0.01, y - 0.002), 1e-4)
    c.page.keyboard.press("Delete")
    a, b = c.told()
    assert b[0][WRIST] is None and a == [ANNA]
    expect(c.joint(0, WRIST)).to_have_class("joint hollow")
    back = c.root.get_by_role("button", name="Bring back left wrist, person 1, To")
    expect(back).to_be_focused()
    back.press("Enter")
    again = c.told()[1][0]
    assert 0.02 < abs(again[WRIST][1] - again[ELBOW][1]) < 0.3  # below its one neighbour, not on it
    expect(c.joint(1, WRIST)).to_be_focused()
    for expected in (None, (x + 0.01, y - 0.002), (x + 0.01, y), (x, y)):
        c.page.keyboard.press("Control+z")
        at = c.told()[1][0][WRIST]
        assert at is None if expected is None else close(at, expected, 1e-4)
    c.page.keyboard.press("Control+z")  # nothing is left to undo
    assert close(c.at(1, WRIST), BERT[WRIST]) and HEARD["input"].empty()


def test_a_joint_comes_back_between_its_neighbours_or_in_the_middle(c):
    value = json.loads(found())
    value["sides"][1]["people"] = [[None] * 18]
    c.set(json.dumps(value), 18)
    c.root.get_by_role("button", name="Bring back left elbow, person 1, To").click()
    assert c.told()[1][0][ELBOW] == [0.5, 0.5]
    c.joint(0, ELBOW).focus()
    c.page.keyboard.press("Delete")
    c.told()
    c.root.get_by_role("button", name="Bring back left elbow, person 1, From").click()
    shoulder, wrist = ANNA[5], ANNA[WRIST]
    assert close(c.told()[0][0][ELBOW], [(a + b) / 2 for a, b in zip(shoulder, wrist, strict=True)], 1e-4)


def test_people_come_and_go_and_what_the_other_side_lacks_is_hollow(c):
    c.set(found(), 35)
    hollow = c.root.locator(".hollow")
    expect(hollow).to_have_count(1)
    expect(c.joint(0, ANKLE)).to_have_class("joint hollow")
    c.root.get_by_role("button", name="Add a person, To").click()
    figure = c.told()[1][1]
    assert all(0 < v < 1 for joint in figure for v in joint) and figure[ANKLE][1] - figure[0][1] > 0.6
    assert figure[4][0] < figure[NECK][0] < figure[WRIST][0]  # it faces us
    expect(hollow).to_have_count(1 + 18)
    c.root.get_by_role("button", name="Remove person 1, To").click()
    assert c.told() == ([ANNA], [figure])
    expect(hollow).to_have_count(0)
    c.root.get_by_role("button", name="undo").click()
    assert c.told() == ([ANNA], [BERT, figure])
    c.joint(1, 0, 1).focus()
    c.root.get_by_role("button", name="remove nose").click()  # without a keyboard
    assert c.told()[1][1][0] is None


def test_what_is_sent_is_small_and_the_pictures_stay(c):
    c.set(found(), 35)
    c.joint(0, WRIST).focus()
    c.page.keyboard.press("ArrowLeft")
    sent = HEARD["input"].get(timeout=20)
    assert len(sent) < 3000 and "src" not in json.loads(sent)["sides"][0]
    pictures = [i.get_attribute("src") for i in c.root.locator(".side img").all()]
    assert all(p.startswith("data:image/jpeg;base64,") for p in pictures)
    assert HEARD["change"].get(timeout=20) == sent
    bare = json.dumps({"sides": [{"width": 400, "height": 600, "people": [ANNA]}, {"src": "", "people": []}]})
    c.set(bare, 18)
    assert c.root.locator(".side img").nth(0).get_attribute("src") == pictures[0]
    expect(c.root.locator(".side:visible")).to_have_count(1)
    c.page.get_by_label("seen").uncheck()
    expect(c.root).to_be_hidden(timeout=SOON)
    c.page.get_by_label("seen").check()
    expect(c.joint(0, WRIST)).to_be_visible(timeout=SOON)
    assert c.root.locator(".side img").nth(0).get_attribute("src") == pictures[0]
    assert close(c.at(0, WRIST), ANNA[WRIST])


def test_on_a_narrow_screen_the_sides_lie_below_each_other(c):
    c.page.set_viewport_size({"width": 390, "height": 800})
    c.set(found(), 35)
    a, b = (c.root.locator(".side").nth(s).bounding_box() for s in (0, 1))
    assert b["y"] >= a["y"] + a["height"] and c.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert close(c.at(1, WRIST), BERT[WRIST])


def sent(*sides, **more):
    return json.dumps({"sides": [{"width": 9, "height": 9, "people": s} for s in sides]} | more)


@pytest.mark.parametrize(
    "value, sentence",
    [
        ("no json", "skeletons must be what the page sends"),
        ("[1]", "skeletons must be what"),
        ("[" * 99999, "skeletons must be what"),
        ("{}", "skeletons must be what"),
        (sent([], [], sides=[1, 2]), "skeletons must be what"),
        (sent(None, []), "skeletons must be what"),
        (sent([], [ANNA[:17]]), "a person must have 18 joints, got 17"),
        (sent([], [5]), "skeletons must be what"),
        (sent([[[0.5, float("nan")], *ANNA[1:]]], []), "must be two fractions of the picture"),
        (sent([[[0.5], *ANNA[1:]]], []), "skeletons must be what"),
        (sent([["ab", *ANNA[1:]]], []), "skeletons must be what"),
    ],
    ids=lambda v: v[:24],
)
def test_what_python_refuses(value, sentence):
    with pytest.raises(EngineError, match=sentence):
        poses_of(value)


def test_what_python_sends_and_accepts():
    assert poses_of(None) == poses_of("") == ["", ""]
    assert people(sent([ANNA, BERT], [])) == ([ANNA, BERT], [])
    assert len(people(sent([], [ANNA] * 65))[1]) == 64
    outside = text([[[-0.5, 1.5], None, *ANNA[2:]]])
    seen = json.loads(value_of([Image.new("RGBA", (2000, 1000)), None], [outside, ""]))["sides"]
    assert seen[0]["people"][0][:3] == [[0, 1], None, ANNA[2]]
    assert [seen[0][n] for n in ("width", "height")] == [2000, 1000]
    assert seen[1] == {"src": "", "width": 0, "height": 0, "people": []}
    assert people(found()) == ([ANNA], [BERT])
