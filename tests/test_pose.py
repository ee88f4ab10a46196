"""Keypoints against closed forms, the fitted picture, controlnet-aux, and ONNX networks whose answers are known."""

import json
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from engine.requests import EngineError
from engine.vision import images
from engine.vision.keypoints import detectors, pose, skeleton
from engine.vision.keypoints.pose import Person


def person(seed=0, missing=(), low=0.0, high=1.0):
    at = np.random.default_rng(seed).uniform(low, high, (18, 2)).tolist()
    return Person(tuple(None if i in missing else tuple(p) for i, p in enumerate(at)))


def block(x, y, side):
    """A person whose box is a square with its top left at (x, y)."""
    corners = [(x, y), (x + side, y), (x, y + side), (x + side, y + side)]
    return Person(tuple(corners[i % 4] for i in range(18)))


def same(a, b, within=1e-9):
    assert [j is None for j in a.joints] == [j is None for j in b.joints]
    assert np.allclose(a.seen, b.seen, atol=within, rtol=0)


# ------------------------------------------------------------------------------------------------ people and files


def test_a_person_has_18_joints_that_are_numbers():
    for joints in [(None,) * 17, ((float("nan"), 0.5),) * 18, ((float("inf"), 0.5),) * 18, ((0.1,),) * 18]:
        with pytest.raises(EngineError):
            Person(joints)
    assert Person((None,) * 18).box == (0, 0, 0, 0)
    assert hash(person(1)) == hash(person(1)) and person(1) != person(2)


def test_the_skeleton_is_plain_json():
    found = skeleton.describe()
    assert json.loads(json.dumps(found)) == found
    assert [len(found[n]) for n in ("joints", "colours", "limbs", "limb_colours")] == [18, 18, 17, 17]
    assert found["joints"][found["limbs"][3][1]] == "right wrist" and found["colours"][6] == [0, 255, 0]
    assert {j for pair in found["limbs"] for j in pair} == set(range(18))  # a tree that reaches every joint


@pytest.mark.parametrize("size", [(512, 512), (640, 384), (333, 777)])
def test_json_goes_round(size):
    people = (person(1), person(2, (0, 14, 17)), person(3, low=-0.5, high=1.5))
    for a, b in zip(pose.read(pose.write(people, size)), people, strict=True):
        same(a, b)
    assert pose.read(pose.write((), size)) == ()


def body(rows):
    return {"pose_keypoints_2d": [v for r in rows for v in r]}


def test_pixels_fractions_and_missing_joints():
    rows = [[64.0 * i, 10.0 * i, 1.0 if i else 0] for i in range(18)]
    text = json.dumps({"people": [body(rows)], "canvas_width": 640, "canvas_height": 200})
    (found,) = pose.read(text)
    assert found.joints[0] is None and found.joints[5] == (0.5, 0.25)
    assert pose.read(f"[{text}]") == (found,) and pose.read(text.encode()) == (found,)
    bare = json.dumps({"people": [body(rows)], "version": 1.3})  # OpenPose itself writes no canvas
    assert pose.read(bare, size=(640, 200)) == (found,)
    with pytest.raises(EngineError, match="canvas_width"):
        pose.read(bare)
    parts = json.dumps({"people": [body([[0.1 * (i % 10), 0.05 * i, 0.4] for i in range(18)])]})
    assert pose.read(parts)[0].joints[3] == pytest.approx((0.3, 0.15))
    assert pose.read(parts, size=(640, 200)) == pose.read(parts)  # fractions are no pixels
    outside = json.dumps({"people": [body([[1.5, -0.2, 1]] * 18)]})
    assert pose.read(outside, size=(640, 200))[0].joints[0] == (1.5, -0.2)
    small = json.dumps({"people": [body([[1.5, 1, 1]] * 18)], "canvas_width": 3, "canvas_height": 4})
    assert pose.read(small)[0].joints[0] == (0.5, 0.25)
    nobody = json.dumps({"people": [body([[5, 5, 0]] * 18)], "canvas_width": 10, "canvas_height": 10})
    assert pose.read(nobody) == ()


def test_the_25_drop_to_the_18():
    arms = ["right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"]
    legs = ["right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"]
    order = ["nose", "neck", *arms, "mid hip", *legs, "right eye", "left eye", "right ear", "left ear", *["foot"] * 6]
    text = json.dumps({"people": [body([[i, 2 * i, 1] for i in range(25)])], "canvas_width": 100, "canvas_height": 100})
    (found,) = pose.read(text)
    assert found.joints == tuple((order.index(j) / 100, order.index(j) / 50) for j in pose.JOINTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[{}, {}]",
        "3",
        "null",
        '{"people": 4}',
        '{"people": [3]}',
        '{"people": [{}]}',
        b"\xff\xfe\xfa",
        '{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}',
        '{"people": [{"pose_keypoints_2d": null}]}',
        "[" * 100000,
        json.dumps({"people": [body([["a", 1, 1]] * 18)]}),
        json.dumps({"people": [body([[True, 1, 1]] * 18)]}),
        json.dumps({"people": [body([[float("nan"), 1, 1]] * 18)]}),
        json.dumps({"people": [body([[5, 1, 1]] * 18)]}).replace("5", "1e999"),
        json.dumps({"people": [body([[5, 1, 1]] * 18)]}).replace("5", "1" + "0" * 400),
        json.dumps({"people": [body([[5, 1, 1]] * 18)]}).replace("5", "1" + "0" * 5000),
        json.dumps({"people": [body([[5, 1, 1]] * 18)], "canvas_width": 0, "canvas_height": 9}),
        json.dumps({"people": [body([[5, 1, 1]] * 18)], "canvas_width": 9}),
        json.dumps({"people": [body([[5000, 1, 1]] * 18)], "canvas_width": 1, "canvas_height": 1}),
        json.dumps({"people": [body([[0, 0, 0]] * 18)] * 65}),
    ],
)
def test_refusals_name_what_is_wrong(text):
    with pytest.raises(EngineError) as e:
        pose.read(text, "pose A")
    assert " must " in str(e.value) and ", got " in str(e.value) and len(str(e.value)) < 240


# ------------------------------------------------------------------------------------------------ framing


@pytest.mark.parametrize("fit", ["fit", "crop", "pad"])
@pytest.mark.parametrize(
    ("size", "frame"), [((400, 300), (256, 256)), ((611, 207), (320, 192)), ((256, 256), (192, 320))]
)
def test_joints_follow_the_picture_into_its_frame(fit, size, frame):
    """A white square around each joint on black is found after fitting where `framed` says."""
    w, h = size
    marks = [(0.5, 0.5), (0.44, 0.55), (0.56, 0.42), (0.47, 0.61)]
    if fit == "pad":
        marks += [(0.1, 0.12), (0.9, 0.86)]
    for x, y in marks:
        px, py = round(x * w), round(y * h)
        picture = Image.new("RGB", size)
        picture.paste("white", (px - 8, py - 8, px + 8, py + 8))
        (moved,) = pose.frame((Person(((px / w, py / h),) * 18),), size, frame, fit)
        light = np.asarray(images.fit_frame(picture, frame, fit).convert("L"), float)
        if fit == "pad":
            light[light < 100] = 0  # the blurred ground; and a little of the mark's edge, hence the wider tolerance
        ys, xs = np.mgrid[: frame[1], : frame[0]] + 0.5
        found = (light * xs).sum() / light.sum(), (light * ys).sum() / light.sum()
        at = np.array(moved.seen[0]) * frame
        assert found == pytest.approx(tuple(at), abs=0.1 + 0.3 * (fit == "pad"))


def test_framing_in_closed_form():
    (p,) = pose.frame((Person(((0.0, 0.5),) * 17 + (None,)),), (300, 100), (100, 100), "crop")
    assert p.joints[0] == pytest.approx((-1.0, 0.5)) and p.joints[17] is None  # cut off, so outside
    (p,) = pose.frame((Person(((0.0, 0.0),) * 18),), (300, 100), (100, 100), "pad")
    assert p.joints[0] == pytest.approx((0, 0.33))
    assert pose.frame((person(),), (64, 64), (64, 64), "pad") == (person(),)


# ------------------------------------------------------------------------------------------------ matching, the way


def test_the_largest_of_each_side():
    a, b = (block(0, 0, 0.2), block(0.5, 0.5, 0.4)), (block(0.1, 0.1, 0.5), block(0.8, 0.1, 0.1), block(0, 0, 0.3))
    assert pose.match(a, b) == [(a[1], b[0])] == pose.match(a, b, "largest")
    assert pose.match(a, ()) == pose.match((), b, "all") == pose.match((), ()) == []
    assert pose.match((Person((None,) * 18),), b) == []


def test_all_are_matched_by_place_and_size():
    a = block(0, 0.4, 0.2), block(0.4, 0.4, 0.2), block(0.8, 0.4, 0.2)
    b = block(0.75, 0.45, 0.2), block(0.05, 0.35, 0.2)
    assert pose.match(a, b, "all") == [(a[0], b[1]), (a[2], b[0])]
    assert pose.match(b, a, "all") == [(b[0], a[2]), (b[1], a[0])]
    assert pose.match(a, tuple(reversed(a)), "all") == [(p, p) for p in a]
    big, small = block(0.2, 0.2, 0.6), block(0.4, 0.4, 0.2)  # one centre, two sizes
    aside, far = block(0.45, 0.4, 0.2), block(0.25, 0.2, 0.6)  # each is nearer to the centre of the other size
    assert pose.match((small, far), (big, aside), "all") == [(small, aside), (far, big)]


def test_the_assignment_is_the_best_of_all():
    from itertools import permutations

    a, b = [person(i) for i in range(4)], [person(10 + i) for i in range(4)]
    cost = [[pose.distance(p, q) for q in b] for p in a]
    best = min(permutations(range(4)), key=lambda order: sum(cost[i][j] for i, j in enumerate(order)))
    assert pose.match(tuple(a), tuple(b), "all") == [(a[i], b[j]) for i, j in enumerate(best)]


def test_between_is_linear_and_leaves_out_what_one_side_lacks():
    a, b = person(1, (0, 3)), person(2, (3, 9))
    for t in (0.0, 0.3, 1.0):
        m = pose.person_at(a, b, t)
        assert [i for i, j in enumerate(m.joints) if j is None] == [0, 3, 9]
        want = [(1 - t) * np.array(a.joints[i]) + t * np.array(b.joints[i]) for i in range(18) if i not in (0, 3, 9)]
        assert np.allclose(m.seen, want)
    zero = Person(((0.0, 0.0),) * 18)  # a joint in the corner is seen
    assert pose.person_at(zero, zero, 0.5) == zero


def test_along():
    a, b = (block(0, 0, 0.2), block(0.6, 0.6, 0.4)), (block(0.2, 0.4, 0.4),)
    assert pose.people_at(a, b, 0.5) == (pose.person_at(a[1], b[0], 0.5),)
    assert len(pose.people_at(a, a, 0.5, "all")) == 2
    assert (
        pose.people_at(a, (), 0.9) == (a[1],)
        and pose.people_at((), a, 0.1, "all") == a
        and pose.people_at((), (), 0.5) == ()
    )
    upper, lower = person(1, range(9, 18)), person(2, range(9))
    assert pose.people_at((upper,), (lower,), 0.5) == ()  # they share no joint


def test_scale_along_the_way():
    both = [pose.scale_at(t, 1.5) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert both == pytest.approx([1, 1.25, 1.5, 1.25, 1])
    only_a = [pose.scale_at(t, 1.5, (True, False)) for t in (0, 0.25, 0.5, 1)]
    assert only_a == pytest.approx([1, 0.75 * 1.25, 0.75, 0])
    assert pose.scale_at(0.75, 1.5, (False, True)) == pytest.approx(only_a[1])
    assert pose.scale_at(0.5, 1.5, (False, False)) == 0


# ------------------------------------------------------------------------------------------------ the drawn skeleton


@pytest.fixture(scope="module")
def aux():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlnet_aux.open_pose import body, util
    return body, util


@pytest.mark.parametrize("size", [(512, 512), (640, 384), (256, 448), (101, 67)])
def test_pixels_are_those_of_controlnet_aux(aux, size):
    body, util = aux
    for seed in range(8):
        rng = np.random.default_rng(seed)
        wide = (0.0, 1.0) if seed < 4 else (-0.3, 1.3)
        people = [person(100 + 3 * seed + i, rng.choice(18, seed % 6, False), *wide) for i in range(1 + seed % 3)]
        people.append(person(seed, (), 0.4, 0.45))  # short limbs
        canvas = np.zeros((size[1], size[0], 3), np.uint8)
        for p in people:
            canvas = util.draw_bodypose(canvas, [j and body.Keypoint(*j) for j in p.joints])
        ours = np.asarray(skeleton.draw(tuple(people), size))
        assert ours.shape == canvas.shape and (ours == canvas).all()
        assert ours.any()


def test_far_joints_draw_nothing_and_break_nothing():
    assert not np.asarray(skeleton.draw((Person(((999.0, -999.0),) * 18),), (64, 64))).any()
    far = Person(((0.5, 0.5), (990.0, 0.5)) + (None,) * 16)
    assert np.asarray(skeleton.draw((far,), (64, 64)))[32, 48].any()  # the limb leaves the picture
    assert not np.asarray(skeleton.draw((), (64, 64))).any()


# ------------------------------------------------------------------------------------------------ detection


def save(path, nodes, inputs, outputs, constants):
    onnx = pytest.importorskip("onnx", reason="the package onnx builds the small networks of these tests")
    from onnx import TensorProto, helper, numpy_helper

    def values(shapes):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    graph = helper.make_graph(
        [helper.make_node(op, i, o, **kw) for op, i, o, kw in nodes],
        "g",
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def make_finder(path, rows, side=64):
    """A YOLOX of 84 rows over a square of 64 pixels. ``rows``: number → (x, y, w, h in the square, object, person).

    Where the square's top left pixel has more blue than red nothing is found: so the order of colours counts.
    """
    out = np.full((1, 84, 85), -1.0, np.float32)
    out[..., 4:] = 0
    for n, (x, y, w, h, thing, human) in rows.items():
        stride, first = (8, 0) if n < 64 else (16, 64) if n < 80 else (32, 80)
        i, j = (n - first) % (side // stride), (n - first) // (side // stride)
        out[0, n, :6] = x / stride - i, y / stride - j, np.log(w / stride), np.log(h / stride), thing, human
    nodes = [
        ("Slice", ["x", "zero", "one", "axis"], ["blue"], {}),
        ("Slice", ["x", "two", "three", "axis"], ["red"], {}),
        ("ReduceMax", ["blue"], ["b"], {"keepdims": 0}),
        ("ReduceMax", ["red"], ["r"], {"keepdims": 0}),
        ("LessOrEqual", ["b", "r"], ["right"], {}),
        ("Cast", ["right"], ["f"], {"to": 1}),
        ("Mul", ["rows", "f"], ["out"], {}),
    ]
    corner = {
        "zero": np.array([0, 0, 0]),
        "one": np.array([1, 1, 1]),
        "two": np.array([2, 0, 0]),
        "three": np.array([3, 1, 1]),
        "axis": np.array([1, 2, 3]),
    }
    save(path, nodes, {"x": [1, 3, side, side]}, {"out": [1, 84, 85]}, corner | {"rows": out})


def make_poser(path, w=48, h=64, faint=1.0):
    """A pose network that truly looks: joint k is where channel k mod 3 (red, green, blue) is brightest.

    The rows over y are ``faint`` times as high as those over x.
    """
    channels = np.arange(133) % 3
    nodes = []
    for way in "xy":
        nodes += [
            ("ReduceMax", ["x", f"axis{way}"], [f"m{way}"], {"keepdims": 0}),
            ("Gather", [f"m{way}", "channels"], [f"g{way}"], {"axis": 1}),
            ("Unsqueeze", [f"g{way}", "last"], [f"u{way}"], {}),
            ("Tile", [f"u{way}", "twice"], [f"t{way}"], {}),
            ("Reshape", [f"t{way}", f"shape{way}"], [f"r{way}"], {}),
            ("Mul", [f"r{way}", f"height{way}"], [f"simcc_{way}"], {}),
        ]
    constants = {
        "channels": channels,
        "last": np.array([3]),
        "twice": np.array([1, 1, 1, 2]),
        "axisx": np.array([2]),  # rows away, columns stay
        "axisy": np.array([3]),
        "shapex": np.array([1, 133, 2 * w]),
        "shapey": np.array([1, 133, 2 * h]),
        "heightx": np.float32(1),
        "heighty": np.float32(faint),
    }
    save(path, nodes, {"x": [1, 3, h, w]}, {"simcc_x": [1, 133, 2 * w], "simcc_y": [1, 133, 2 * h]}, constants)


@pytest.fixture
def networks(tmp_path):
    """Finds one box, twice (the second is a copy a little off), a second person, something else, and a doubtful one.

    The picture is 320 × 240, so the square of 64 shows it at a fifth.
    """
    rows = {
        9: (16, 20, 16, 24, 0.9, 1.0),
        10: (17, 20, 16, 24, 0.8, 1.0),
        66: (48, 24, 20, 40, 1.0, 0.6),
        81: (30, 30, 10, 10, 1.0, 0.2),
    }
    make_finder(tmp_path / "yolox_l.onnx", rows)
    make_poser(tmp_path / "dw-ll_ucoco_384.onnx")
    return tmp_path


def test_boxes_are_decoded_and_those_that_say_the_same_are_one(networks):
    session = detectors._session(networks / "yolox_l.onnx", "cpu")
    reddish = np.full((240, 320, 3), (50, 20, 10), np.uint8)
    found = detectors.boxes(session, reddish)
    want = np.array([[8, 8, 24, 32], [38, 4, 58, 44]]) * 5
    assert np.allclose(found, want, atol=1e-3)
    assert not len(detectors.boxes(session, reddish[..., ::-1]))  # YOLOX is given blue first
    assert np.allclose(detectors.boxes(session, reddish[:120, :160]), want / 2, atol=1e-3)  # enlarged at twice that


def test_marks_are_found_where_they_are(networks):
    """Red, green and blue marks in two people's boxes, at full size: picture → box → crop → SimCC → picture."""
    marks = {0: [(75, 60), (255, 90)], 1: [(95, 130), (220, 150)], 2: [(60, 110), (240, 60)]}
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[0, 0] = 0
    for channel, places in marks.items():
        for x, y in places:
            pixels[y - 4 : y + 5, x - 4 : x + 5, channel] = 255
    detector = detectors.Detector("dwpose", sorted(networks.glob("*.onnx"), reverse=True))
    people = detector.people(Image.fromarray(pixels))
    assert len(people) == 2
    assert detector.bytes == sum(f.stat().st_size for f in networks.glob("*.onnx"))
    coco = {
        "nose": 0,
        "left eye": 1,
        "right eye": 2,
        "left ear": 3,
        "right ear": 4,
        "left shoulder": 5,
        "right shoulder": 6,
        "left elbow": 7,
        "right elbow": 8,
        "left wrist": 9,
        "right wrist": 10,
        "left hip": 11,
        "right hip": 12,
        "left knee": 13,
        "right knee": 14,
        "left ankle": 15,
        "right ankle": 16,
    }
    for n, found in enumerate(people):
        for name, at in zip(pose.JOINTS, found.seen, strict=True):
            x, y = np.mean([marks[c][n] for c in (2, 0)], 0) if name == "neck" else marks[coco[name] % 3][n]
            # the maximum is the first of a mark of 9 pixels; a crop's pixel is 2 to 4 of the picture's
            assert (at[0] * 320, at[1] * 240) == pytest.approx((x - 2, y - 2), abs=4.5)


def test_coordinates_of_a_crop_in_closed_form(networks):
    """One white pixel, in a box that the crop shows at scale 1 but between its pixels."""
    session = detectors._session(networks / "dw-ll_ucoco_384.onnx", "cpu")
    pixels = np.zeros((200, 200, 3), np.uint8)
    pixels[77, 91] = 255
    box = np.array([80, 60, 80 + 48 / 1.25, 60 + 64 / 1.25])  # 48 × 64 with the margin
    found = detectors.keypoints(session, pixels, box)
    assert found.shape == (133, 3)
    left, top = 80 - 48 * 0.1, 60 - 64 * 0.1  # the margin on each side
    cells = (found[:, :2] - (left, top)) * 2  # places in the SimCC rows: whole numbers, the first of each doubled pixel
    assert np.allclose(cells, cells.round()) and (cells.round() % 2 == 0).all()
    assert np.allclose(cells[0] / 2, np.round([91 - left, 77 - top]))  # bilinear: the nearer pixel is the brighter
    fx, fy = (91 - left) % 1, (77 - top) % 1
    bright = 255 * max(fx, 1 - fx) * max(fy, 1 - fy)
    want = (bright - np.array(detectors.MEAN)) / detectors.STD  # red, green, blue
    assert np.allclose(found[:3, 2], want, atol=0.1)  # OpenCV's weights are of 1/32 pixel
    make_poser(networks / "faint.onnx", faint=0.5)
    fainter = detectors.keypoints(detectors._session(networks / "faint.onnx", "cpu"), pixels, box)
    assert np.allclose(fainter[:3, 2], np.minimum(found[:3, 2], found[:3, 2] / 2), atol=1e-5)


def test_nothing_in_sight_gives_nobody(networks):
    make_finder(networks / "yolox_l.onnx", {})
    detector = detectors.Detector("dwpose", sorted(networks.glob("*.onnx"), reverse=True))
    assert detector.people(Image.new("RGB", (100, 80))) == ()  # the whole picture was looked at, and no joint was sure
    pixels = np.zeros((80, 300, 3), np.uint8)
    pixels[36:52, 270:286] = 255
    (found,) = detector.people(Image.fromarray(pixels))
    assert found.joints[0] == pytest.approx((278 / 300, 44 / 80), abs=0.1)


def test_the_neck_is_seen_where_both_shoulders_are():
    rows = np.random.default_rng(5).uniform(0.4, 1, (3, 133, 3))
    rows[1, 6, 2] = 0.29
    found = detectors.body18(rows)
    assert np.allclose(found[:, 1, :2], rows[:, 5:7, :2].mean(1)) and (found[:, 1, 2] > 0.3).tolist() == [
        True,
        False,
        True,
    ]
    assert (found[:, 0] == rows[:, 0]).all() and found.shape == (3, 18, 3)


def test_openpose_loads_its_own_class(tmp_path, aux):
    import torch

    with torch.device("meta"):
        shapes = aux[0].bodypose_model().state_dict()
    file = tmp_path / "body_pose_model.pth"
    torch.save({k.split(".", 1)[1]: torch.zeros(v.shape) for k, v in shapes.items()}, file)
    detector = detectors.Detector("openpose", [file])
    assert detector.bytes == file.stat().st_size > 2e8
    assert detector.people(Image.new("RGB", (64, 64))) == ()  # maps of zeros
    file.write_bytes(b"not weights")
    with pytest.raises(EngineError, match=r"body_pose_model\.pth must be"):
        detectors.Detector("openpose", [file])


def test_openpose_reads_its_maps(monkeypatch, tmp_path, aux):
    """The weights' file holds the answer: a network that gives it, read by OpenPose's own reader of maps."""
    import torch

    shown = Person(
        tuple(
            (0.5 + 0.06 * (x - 3), 0.1 + 0.12 * y)
            for x, y in [
                (3, 1),
                (3, 2),
                (1, 2),
                (1, 3),
                (1, 4),
                (5, 2),
                (5, 3),
                (5, 4),
                (2, 5),
                (2, 6),
                (2, 7),
                (4, 5),
                (4, 6),
                (4, 7),
                (2, 0),
                (4, 0),
                (1, 1),
                (5, 1),
            ]
        )
    )
    shown = Person((*shown.joints[:10], None, *shown.joints[11:]))  # the right ankle is out of sight
    ys, xs = (np.mgrid[:23, :23] + 0.5) / 23  # 512 pixels at 184 / 512, in cells of 8
    heat, ways = np.zeros((1, 19, 23, 23), np.float32), np.zeros((1, 38, 23, 23), np.float32)
    for i, at in enumerate(shown.joints):
        if at:
            heat[0, i] = np.exp(-((xs - at[0]) ** 2 + (ys - at[1]) ** 2) / 2 / 0.05**2)
    firsts = [12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36]  # of each limb's two maps
    for (i, k), n in zip(skeleton.LIMBS, firsts, strict=True):
        p, q = shown.joints[i], shown.joints[k]
        if p and q:
            ways[0, n : n + 2] = ((np.array(q) - p) / np.hypot(*(np.array(q) - p)))[:, None, None]

    class Maps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Module()
            for name, value in (("ways", ways), ("heat", heat)):
                self.inner.register_buffer(name, torch.zeros(value.shape))
            self.seen = torch.nn.Parameter(torch.zeros(()))

        def state_dict(self, *args, **kw):
            return {k: v for k, v in super().state_dict(*args, **kw).items() if k != "seen"}

        def load_state_dict(self, state):
            return super().load_state_dict(state | {"seen": torch.zeros(())})

        def forward(self, x):
            assert x.shape == (1, 3, 184, 184) and x[0, 0].mean() < x[0, 2].mean()  # blue first
            return self.inner.ways, self.inner.heat

    monkeypatch.setattr(aux[0], "bodypose_model", Maps)
    torch.save({"ways": torch.tensor(ways), "heat": torch.tensor(heat)}, tmp_path / "body_pose_model.pth")
    (found,) = detectors.Detector("openpose", [tmp_path / "body_pose_model.pth"]).people(
        Image.new("RGB", (300, 300), "red")
    )
    same(found, shown, 0.012)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    files = [tmp_path / "yolox_l.onnx", tmp_path / "dw-ll_ucoco_384.onnx"]
    with pytest.raises(EngineError, match=r"got none named yolox_l\.onnx, dw-ll_ucoco_384\.onnx"):
        detectors.Detector("dwpose", files)
    with pytest.raises(EngineError, match="one of dwpose, openpose, got 'best'"):
        detectors.Detector("best", files)
    for file in files:
        file.write_bytes(b"no network")
    with pytest.raises(EngineError, match="whole ONNX file"):
        detectors.Detector("dwpose", files)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="pip install onnxruntime"):
        detectors.Detector("dwpose", files)
