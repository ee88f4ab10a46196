"""What the page makes of the timeline and of LoRA files: the browser is not believed."""

import json
import os
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import picture
from gradio.utils import get_upload_folder

from engine.requests import EngineError, MorphRequest
from morph_ui.morph import EXAMPLES, asked, called, keyframes, loaded, loras_of


@pytest.fixture
def upload():
    folder = Path(get_upload_folder()) / "chrysalis-test"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "p.png"
    picture(0).save(path)
    yield path
    path.unlink()


def line(*paths, **more):
    return json.dumps({"items": [{"path": str(p), "words": f"w{i}"} for i, p in enumerate(paths)]} | more)


def values(**own):
    return {f.name: f.default for f in fields(MorphRequest) if f.name not in ("pictures", "prompts", "loras")} | {
        "pictures": None, "loras": None} | own  # fmt: skip


def test_uploads_and_examples_make_a_request(upload):
    example = next(EXAMPLES.glob("*.webp"))
    os.utime(upload, (1, 1))
    request = asked(values(pictures=line(upload, example), seed=None, frames=9.0))
    assert request.words() == ["w0", "w1"] and request.frames == 9 and 0 <= request.seed < 2**32
    assert upload.stat().st_mtime > 1e9  # it is in use: Gradio deletes by age


@pytest.mark.parametrize(
    "pictures",
    [line("/etc/passwd", "/etc/passwd"), line("/etc/../etc/hostname", "x"), ["/etc/passwd", "/etc/passwd"],
     {"items": [{"path": "/etc/passwd"}] * 2}, json.dumps({"items": [{"path": "/etc/passwd\0"}] * 2})],
)  # fmt: skip
def test_no_other_file_of_the_server_is_read(pictures):
    with pytest.raises(EngineError, match=r"must be uploaded here|must be a timeline"):
        asked(values(pictures=pictures))


@pytest.mark.parametrize("text", ["[1, 2]", "no json", '{"items": 5}', '{"items": [3]}', '{"coming": "x"}', "5"])
def test_what_is_no_timeline(text):
    with pytest.raises(EngineError, match="pictures must be a timeline"):
        keyframes(text)


def test_uploads_on_their_way_and_uploads_gone(upload):
    with pytest.raises(EngineError, match="must all have arrived, got 2 still being sent"):
        keyframes(line(upload, coming=2))
    with pytest.raises(EngineError, match="picture 2 must be dropped again"):
        keyframes(line(upload, upload.with_name("gone.png")))
    assert keyframes(None) == keyframes("") == keyframes('{"items": []}') == []


def test_too_few_and_too_many_are_refused_before_they_are_read(upload):
    for n in (0, 1, 13, 5000):
        with pytest.raises(EngineError, match="pictures must be 2 to 12"):
            called(values(pictures=["/nowhere"] * n, prompts=""))


def test_loras_find_their_pictures_by_their_names(tmp_path):
    for name in ("lora-2.safetensors", "mine.safetensors", "lora-10.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    paths = [str(tmp_path / n) for n in ("lora-10.safetensors", "mine.safetensors", "lora-2.safetensors")]
    assert loras_of(paths, 12) == (b"mine.safetensors", b"lora-2.safetensors", *[b""] * 7, b"lora-10.safetensors")
    assert loras_of(paths[2:], 3) == (b"", b"lora-2.safetensors") and loras_of([], 3) == ()
    with zipfile.ZipFile(tmp_path / "loras.zip", "w") as z:
        z.writestr("lora-2.safetensors", b"two")
        z.writestr("notes.txt", b"no LoRA")
    assert loras_of([str(tmp_path / "loras.zip")], 2) == (b"", b"two")
    with pytest.raises(EngineError, match="loras must be at most 2 files, one a picture, got 3"):
        loras_of(paths, 2)


def test_settings_that_were_changed_by_hand(tmp_path):
    from engine.vision.video import save_png

    for settings, sentence in (
        ({"method": "morph", "prompts": 5}, "must be as they were written here"),
        ({"method": "interpolate"}, "must be of Morph, got those of Interpolate"),
    ):
        save_png(picture(0), tmp_path / "s.png", settings)
        assert sentence in loaded(["steps"])(str(tmp_path / "s.png"))[-1]
    save_png(picture(0), tmp_path / "s.png", {"method": "morph", "prompts": ["a"], "keyframes": 3, "steps": 9})
    words, loras, preset, steps, note = loaded(["steps"])(str(tmp_path / "s.png"))
    assert json.loads(words)["words"][:3] == ["a", "", ""] and (loras, preset, steps) == (None, None, 9)
    assert "The same 3 pictures" in note
