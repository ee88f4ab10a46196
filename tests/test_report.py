"""The report: its measures in closed form, all its parts on tiny floras, and that it goes on where it was."""

import json

import cv2
import numpy as np
import pytest
from conftest import picture
from PIL import Image

from benchmarks.tiny import make_flora
from engine.vision.drawing import sketch_of
from training import figures, measures, report, samples


@pytest.fixture(scope="module")
def photos():
    """Pictures with edges of every strength, as photographs have."""
    rng, out = np.random.default_rng(0), []
    for _ in range(4):
        octaves = [rng.normal(0, 60 / 1.4**k, (2 ** (k + 2), 2 ** (k + 2), 3)) for k in range(6)]
        whole = sum(cv2.resize(o, (128, 128), interpolation=cv2.INTER_CUBIC) for o in octaves)
        out.append((128 + whole).clip(0, 255).astype(np.uint8))
    return np.stack(out)


def blurred(photos, noise):
    soft = np.stack([cv2.GaussianBlur(p, (0, 0), 2.5) for p in photos]).astype(np.float32)
    return (soft + np.random.default_rng(1).normal(0, noise, soft.shape)).clip(0, 255).round().astype(np.uint8)


def test_noise_over_a_blur_has_slopes_but_not_the_photographs_own(photos):
    soft, noisy = blurred(photos, 0), blurred(photos, 14)
    assert measures.slope_ratio(photos, photos) == measures.slope_regression(photos, photos) == 1
    assert measures.slope_ratio(photos, soft) < 0.5 < measures.slope_ratio(photos, noisy) / 1.5
    true = measures.slope_regression(photos, soft)
    assert true < 0.4 and measures.slope_regression(photos, noisy) == pytest.approx(true, abs=0.03)


def test_regression_of_slopes_is_the_share_of_the_contrast(photos):
    half = (128 + (photos.astype(np.float32) - 128) / 2).round().astype(np.uint8)
    assert measures.slope_regression(photos, half) == pytest.approx(0.5, abs=0.01)
    other = np.roll(photos, 1, 0)
    assert abs(measures.slope_regression(photos, other)) < 0.1 and measures.slope_ratio(photos, other) > 0.8


def test_a_picture_has_no_end_of_psnr_with_itself(photos):
    assert measures.psnr(photos, photos) == pytest.approx(100)
    assert measures.psnr(photos, photos ^ 1) == pytest.approx(48.13, abs=0.01)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The report of a tiny flora on ten pictures; Inception is a handful of means here."""
    folder = make_flora(tmp_path_factory.mktemp("floras") / "flora")
    root = tmp_path_factory.mktemp("photographs")
    lines = ["file,label,source,split"]
    for i in range(10):
        picture(i, (64, 64)).save(root / f"f-{i}_a.png")
        lines.append(f"f-{i}_a.png,kind {i},{('flower_photos', 'oxford102')[i % 2]},val")
    (root / "index.csv").write_text("\n".join(lines))
    patch = pytest.MonkeyPatch()
    for name in ("training.data", "training.figures", "training.report"):
        patch.setattr(f"{name}.WORK", root / "work")
    patch.setattr("training.data.ROOT", root)
    patch.setattr("training.data.SIDE", 64)
    patch.setattr(
        measures, "inception_features", lambda p, d: p.reshape(len(p), 4, -1, 3).mean(2).reshape(len(p), 12) / 255
    )
    patch.setattr(figures, "PICTURES", 10)
    patch.setattr(figures, "PAIRS", 10)
    patch.setattr(figures, "REFERENCE", 10)
    patch.setattr(figures, "VALUES", (0.0, 1.0))
    patch.setattr(figures, "DRAWINGS", 2)
    patch.setattr(samples, "STEPS", 3)
    patch.setitem(samples.MorphRequest.presets, "draft", {"steps": 4, "lora_steps": 2})
    patch.setitem(samples.DrawRequest.presets, "draft", {"steps": 4})
    yield figures.Bench(folder, folder / "sheets", quick=True)
    patch.undo()


def test_only_pictures_that_may_be_shown_are_on_sheets(bench):
    assert {bench.rows[i].source for i in bench.shown} == {"flower_photos"}


def test_a_whole_report_gives_numbers_sheets_and_a_card(bench, monkeypatch):
    """Every figure that the card's text names is one that a part gives, or it could not be written."""
    monkeypatch.setattr(report, "FLORA", bench.folder)
    (bench.folder / "training.json").write_text(json.dumps({"network": {"samples": 9000, "minutes": 12.4}}))
    found = report.report(bench.folder, quick=True)
    assert set(found) == set(report.PARTS) and json.loads((bench.folder / "measures.json").read_text())["quick"]
    assert all(np.isfinite(v) for own in found.values() for v in own.values()), found
    assert {f"kid_{n}" for n in ("morph", "interpolate", "fade")} < set(found["ways"]) and found["ways"][
        "pictures"
    ] == 6
    assert found["few"]["slopes_fifty"] == 1 and "kid_live" in found["few"] and found["speed"]["ms_live"] > 0
    text = (bench.folder / "README.md").read_text()
    assert "network 9,000 pictures in 12 minutes" in text and "gne?id=2)" in text and "gne?id=3)" not in text
    for name in text.split("(sheets/")[1:]:
        assert (bench.folder / "sheets" / name.split(")")[0]).is_file(), name
    with Image.open(bench.folder / "sheets" / "sliders.jpg") as sheet:
        assert sheet.size == (len(figures.VALUES) * 192, 3 * 192)


def test_the_first_generation_is_measured_by_the_same_code(bench, tmp_path):
    old = figures.Bench(make_flora(tmp_path / "flora", generation=1), tmp_path / "sheets", quick=True)
    assert old.net.schedule.prediction == "epsilon" != bench.net.schedule.prediction
    for part in ("words", "drawn", "renoised", "few", "inversion"):
        found = report.PARTS[part](old)
        assert found and all(np.isfinite(v) for v in found.values()), found


def test_what_is_kept_is_not_made_again_and_other_weights_are_measured_anew(bench, monkeypatch):
    calls = []

    def part(b):
        calls.append(b.folder)
        return {"figure": 0.123456}

    monkeypatch.setattr(report, "PARTS", {"first": part, "second": part})
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setitem(report.PARTS, "second", lambda b: (_ for _ in ()).throw(KeyboardInterrupt()))
        report.report(bench.folder, True)
    assert len(calls) == 1
    found = report.report(bench.folder, True)
    assert len(calls) == 2 and found["first"]["figure"] == 0.12346
    assert report.report(bench.folder, True) == found and len(calls) == 2
    report.report(bench.folder, False)  # the whole report's figures are others
    assert len(calls) == 4
    live = bench.folder / "live" / "adapter_model.safetensors"
    kept = live.read_bytes()
    monkeypatch.setitem(report.BESIDE, "second", ("live",))
    before = report.kept(bench.folder, True, "first"), report.kept(bench.folder, True, "second")
    live.write_bytes(kept + b"\0")
    assert report.kept(bench.folder, True, "first") == before[0]
    assert report.kept(bench.folder, True, "second") != before[1]
    live.write_bytes(kept)


def test_both_floras_stand_in_one_table():
    before, now = {"words": {"kid_words": 0.1455}}, {"words": {"kid_words": 0.052}, "speed": {"ms_live": 239.0}}
    lines = report.table(now, before).splitlines()
    assert "| words | kid_words | 0.1455 | 0.052 |" in lines and "| speed | ms_live | – | 239 |" in lines


def test_a_drawing_is_followed_by_what_the_sliders_act_on(models, bench):
    found = samples.follow(models, str(bench.folder), np.asarray(picture(3, (64, 64))), (0.0, 1.0))
    assert set(found) == {"realism", "sketch_scale", "stroke_scale"}
    assert all(len(p) == len(d) == 2 for p, d in found.values())
    assert found["stroke_scale"][1][0] != found["stroke_scale"][1][1]


def test_strangers_are_pictures_of_one_size():
    block = samples.strangers(64)
    assert block.shape[1:] == (64, 64, 3) and len(block) >= 4
    assert len({p.tobytes() for p in block}) == len(block) and all(sketch_of(p).std() > 1 for p in block)
