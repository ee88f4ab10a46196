"""What a page, a program or the command line may send beside files (drawings, bodies, points, numbers, words, names):
each is answered as in test_bad_files.py."""

import base64
import json
import math
import os

from badly import (  # noqa: F401
    DEEP,
    A,
    answer,
    check,
    chunk,
    coded,
    command,
    files,
    headed,
    next_job,
    place,
    plain_pictures,
    png,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine.requests import DrawRequest, EditRequest, InterpolateRequest, MorphRequest, fields_of, settle
from engine.requests.errors import shown
from engine.requests.finish import finish_of
from morph_ui.components import canvas, skeleton, timeline
from morph_ui.tabs import interpolate, morph, poses

# fmt: off


# ---- what is drawn


def drawn(**own):
    return {"width": 64, "height": 64, "turn": 1, "phase": "change", "layers": {}} | own


def url(block):
    return canvas.HEAD + base64.b64encode(block).decode()


def test_drawings_and_masks(here):
    whole = png(Image.new("RGBA", (64, 64), "red"))
    values = [5, "x", [1], DEEP, drawn(width=0), drawn(width=15), drawn(height=10**6), drawn(width="64"),
        drawn(width=64.0), drawn(width=None), drawn(width=True), drawn(height=math.nan)]
    values += [drawn(layers=v) for v in (5, "x", [1], {"x": "y"}, {"photo": url(whole)}, {"sketch": 5},
        {"sketch": "x"}, {"sketch": ["x"]}, {"sketch": {"a": 1}})]
    blocks = [b"", b"x", whole[:60], headed(64, 64), headed(60_000, 60_000), png(A.resize((64, 32))), coded("JPEG"),
        b"<svg/>", os.urandom(99), headed(64, 64, chunk(b"IDAT", b"x"))]
    values += [drawn(layers={n: url(b)}) for n in canvas.LAYERS for b in blocks[1:]]
    values += [drawn(layers={"sketch": canvas.HEAD + t}) for t in ("!", "ä", "A" * 22_000_000, "====")]
    values += [drawn(photo=p) for p in (5, "x", {"path": 5}, {"path": ""}, {"path": "/etc/passwd"},
        {"path": "/dev/zero"}, {"path": "http://x"}, {"a": 1}, {"path": str(here / "text.png")})]
    rows = [(f"canvas {i} {str(v)[:60]!r}", lambda v=v: canvas.read(v)) for i, v in enumerate(values)]
    asked = [None, 5, [], {}, drawn(path="/etc/passwd", coarseness=0.5),
        drawn(path=str(here / "a.png"), coarseness="x"), drawn(path=str(here / "a.png"), coarseness=math.nan)]
    asked += [drawn(path=str(here / "a.png"), coarseness=0.5, kind=k) for k in ("x", 5, [], "hed", None)]
    rows += [(f"photograph {i}", lambda a=a: canvas.from_photograph(a)) for i, a in enumerate(asked)]
    shapes = {"sketch": (A, Image.new("RGBA", (64, 64)), 5),
        "mask": (Image.new("L", (64, 64)), Image.new("L", (64, 9), 9), A, 5), "photo": (5, Image.new("L", (64, 64)))}
    paint = Image.new("RGBA", (64, 64), "red")
    rows += [(f"draw {n} {i}", lambda n=n, v=v: DrawRequest(**{"strokes": None if n == "sketch" else paint, n: v}))
        for n, all_ in shapes.items() for i, v in enumerate(all_)]
    text = {"none.png": None, "list.png": "[]", "deep.png": DEEP, "odd.png": '{"layers": {"sketch": 5}}',
        "bare.png": "{}",
        "cut.png": '{"layers": {"sketch": {"png": "data:x;base64,xx", "visible": true, "opacity": 1}}}',
        "opacity.png": '{"layers": {"sketch": {"png": "", "visible": true, "opacity": "x"}}}',
        "photo.png": '{"layers": {}, "photo": 5}'}
    for name, said in text.items():
        info = PngInfo()
        if said is not None:
            info.add_itxt("chrysalis-drawing", said)
        (here / f"drawing {name}").write_bytes(png(pnginfo=info))
        rows.append((f"file {name}", lambda n=name: command("draw", "--drawing", here / f"drawing {n}", "--out",
            "x.png")))
    masks = {n: plain_pictures()[n] for n in ("text.png", "cut.png", "wide.png", "a.svg")}
    rows += [(f"mask {n}", lambda n=n: command("edit", "a.png", "--mask", here / n, "--out", "x.png"))
        for n, _ in files(here, masks)]
    check(rows)


# ---- bodies, points, the timeline


def test_keypoints(here):
    body = {"pose_keypoints_2d": [0.5, 0.5, 1] * 18}
    values = ["", "x", "5", "null", "[]", "[1, 2]", "{}", DEEP, '{"people":' * 50_000, {"people": 5}, {"people": [5]},
        {"people": [{}]}, {"people": [body] * 65}]
    values += [{"people": [{"pose_keypoints_2d": v}]}
        for v in (5, "x", [], [1] * 53, ["x"] * 54, [None] * 54, [True] * 54, [1e9] * 54, [[1]] * 54)]
    values += ['{"people": [{"pose_keypoints_2d": [' + ",".join([n] * 54) + "]}]}"
        for n in ("NaN", "Infinity", "1e999", "9" * 4000)]
    values += [{"people": [{"pose_keypoints_2d": [100, 100, 1] * 18}], "canvas_width": w, "canvas_height": 64}
        for w in (0, -1, "x", None, math.nan)]
    rows, size = [], (64, 64)
    for i, v in enumerate(values):
        (path := here / f"k{i}.json").write_text(v if isinstance(v, str) else json.dumps(v))
        rows.append((f"page {i} {str(v)[:40]!r}", lambda p=path: poses.keypoints(str(p), size)))
    (here / "big.json").write_bytes(b" " * (2 << 20))
    (here / "bytes.json").write_bytes(b"\xff\xfe\x00")
    rows += [(n, lambda n=n: poses.keypoints(str(here / n), size)) for n in ("big.json", "bytes.json")]
    sides = ["x", 5, "[]", '{"sides": 5}', '{"sides": [5]}', '{"sides": [{"people": 5}]}',
        '{"sides": [{"people": [[[1]]], "width": 1, "height": 1}]}', DEEP]
    sides += [json.dumps({"sides": [{"people": [[[v, 0]] * 18], "width": 9, "height": 9}]})
        for v in ("x", None, [1], 1e99, math.nan)]
    sides += [json.dumps({"sides": [{"people": [[[0, 0]] * 18], "width": v, "height": 9}]})
        for v in ("x", None, math.inf, [1])]
    rows += [(f"skeletons {i} {str(v)[:40]!r}", lambda v=v: skeleton.poses_of(v)) for i, v in enumerate(sides)]
    rows += [(f"command {n}", lambda n=n: command("interpolate", "a.png", "b.png", "--pose", "given", "--pose-a", n))
        for n in ("no.json", "/dev/zero", str(here))]
    check(rows)


def test_points_and_the_timeline(here):
    value = ["x", "5", "[]", "null ", DEEP, '{"items": 5}', '{"items": [5]}', '{"coming": "x"}', '{"coming": 2}',
        '{"items": [{}]}', 5, [1], {"items": []}]
    value += [json.dumps({"items": [{"path": p}]})
        for p in ("/etc/passwd", "../../x.png", "http://x", "\\\\h\\x", "x" * 9_999, 5, "a\0")]
    rows = [(f"pictures {i} {str(v)[:40]!r}", lambda v=v: timeline.keyframes(v)) for i, v in enumerate(value)]
    rows += [(f"{f.__name__} {v!r}", lambda f=f, v=v: f(v)) for f in (timeline.points, timeline.timing)
        for v in ("x", "5", '{"points": 5, "holds": 5}')]
    rows += [(f"seeds {v!r}", lambda v=v: timeline.seeds(v, 7))
        for v in ("x", '{"seeds": 5}', '{"seeds": {"of": 7, "ways": 5}}')]
    lists = [5, "x", "[", DEEP, [5], [[5]], [["x"]], [[[1, 2]]], [[[0, 0, 9, 9]]], [[[0, 0, "x", 0]]],
        [[[math.nan] * 4]], [[[0, 0, 0, 0]] * 2], [[[0.1] * 4]] * 9, [[[0.1 * (i % 9)] * 4 for i in range(200)]]]
    lists += [[[[0, 0, 1, 1], [1, 1, 0, 0]]], {"a": 1}, None, [None], ["x"], '{"x": 1}', '{"points": 5}']
    rows += [(f"points {i} {str(v)[:40]!r}", lambda v=v: InterpolateRequest(A, A, points=v))
        for i, v in enumerate(lists) if v is not None]
    for i, v in enumerate(("x", "5", "{}", DEEP, '{"points": 5}', '{"points": [], "pictures": ["x"]}',
        '{"points": [[[0, 0, 9, 9]]]}')):
        (here / f"p{i}.json").write_text(v)
        rows.append((f"file {i}", lambda i=i: command("interpolate", "a.png", "b.png", "--points",
            here / f"p{i}.json")))
    check(rows)


# ---- numbers, words, names


NUMBERS = ("x", "", "1,000", "1_000", "0x10", "1e999", "nan", "-5", "9" * 500, "9" * 90_000 + "x", "٣x", "1 2",
    "true", "½", "--")
LOOSE = (None, True, [], [5], {}, math.nan, math.inf, -math.inf, 10**5000, 1e308, "\0", b"5")


def test_numbers(here):
    rows, plain = [], {n: f.default for n, f in fields_of(MorphRequest).items()}
    plain |= {"pictures": [str(here / "a.png")] * 2}
    for name in ("steps", "frames", "attention", "size", "fix"):
        for i, v in enumerate((*NUMBERS, *LOOSE)):
            rows.append((f"api {name} {i} {shown(v, 20)}", lambda n=name, v=v: morph.call(plain | {n: v})))
        for i, v in enumerate(NUMBERS):
            rows.append((f"command {name} {i} {v[:20]}",
                lambda n=name, v=v: command("morph", "a.png", "b.png", f"--{n}={v}")))
    for name in ("duration", "fps", "hold", "durations", "trim"):
        for i, v in enumerate(("x", "nan", "-5", "1e9", "9" * 90_000 + "x", "1;x", "a,b", "400", math.nan, 10**400,
            {}, [{}], True, "9" * 5000)):
            rows.append((f"film {name} {i} {str(v)[:20]!r}", lambda n=name, v=v: finish_of({n: v})))
    for v in ("x", "1:2:3", "1", ":", "1:x", "-1:2", "0:1", "99:1", "1.5:2"):
        rows.append((f"pick {v}", lambda v=v: command("interpolate", "a.png", "b.png", f"--pick={v}")))
    for v in ("x", "-5", 1.5, "5000000000", True, "9" * 5000, [1]):
        rows.append((f"seed {str(v)[:9]!r}", lambda v=v: EditRequest(A, **settle(EditRequest, {"seed": v}))))
    check(rows)


def test_words_and_names(here):
    rows = []
    for name in ("prompt", "negative", "rank_for", "pose_rescue", "model"):
        for v in (None, 5, [], b"x", "\ud800", "a\0b", "x" * 20_000, {"a": 1}, True):
            rows.append((f"{name} {str(v)[:9]!r}", lambda n=name, v=v: InterpolateRequest(A, A, **{n: v})))
    for v in (5, {"a": 1}, [5], [None], ["x"] * 3, ["\ud800"], ["x" * 20_000], [b"x"], True):
        rows.append((f"prompts {str(v)[:9]!r}",
            lambda v=v: InterpolateRequest(A, A, **settle(InterpolateRequest, {"prompts": v}))))
    rows += [(f"choice {v!r}"[:40], lambda v=v: InterpolateRequest(A, A, scheme=v))
        for v in ("`x`", "<b>", "", None, 5, [], "x" * 9_999, "BRANCH")]
    rows += [(f"field {n!r}", lambda n=n: settle(EditRequest, {n: 1}))
        for n in ("nonsense", "__class__", "plan", "", "x" * 999, "a\nb")]
    outs = ("x.avi", "x", "", ".", "/", "/dev/null/x.mp4", "http://x/y.mp4", "s3://x/y.mp4", "a\0.mp4",
        "a" * 300 + ".mp4", "x.mp4/", "a.png/x.mp4", "loop.png/x.mp4")
    rows += [(f"out {n[:20]!r}", lambda n=n: command("interpolate", "a.png", "b.png", "--out", n)) for n in outs]
    rows += [(f"frames-dir {n!r}", lambda n=n: command("interpolate", "a.png", "b.png", "--frames-dir", n))
        for n in ("a.png", "/dev/null", "", "http://x")]
    rows += [(f"zip {n!r}", lambda n=n: command("interpolate", "a.png", "b.png", "--zip", n))
        for n in ("x.png", ".", "", "ftp://x.zip")]
    for name in ("nonsense", "flora:nonsense", "clip,x"):
        rows.append((f"fetch {name}", lambda n=name: command("models", "--fetch", n)))
    for args in ([], ["morph"], ["edit", "a.png", "--nonsense", "1"], ["edit", "a.png", "--preset", "x"], ["x"]):
        assert answer(lambda a=args: command(*a))  # argparse's own words
    rows += [(f"pictures {i}", lambda v=v: interpolate.call({"a": None, "b": None, "more": None} | v))
        for i, v in enumerate(({}, {"a": here / "a.png"}, {"more": ["x"] * 99}))]
    check(rows)
