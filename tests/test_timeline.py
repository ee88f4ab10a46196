"""What the page makes of the timeline and of LoRA files: the browser is not believed."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import picture
from gradio.utils import get_upload_folder
from safetensors.torch import save

from engine.requests import EngineError, MorphRequest, fields_of
from engine.vision.video import save_png
from morph_ui.components.shelf import EXAMPLES
from morph_ui.components.timeline import keyframes, timed, timing
from morph_ui.session import Session
from morph_ui.tabs import read_settings
from morph_ui.tabs.morph import ask, call, read_loras, remember


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
    return {n: f.default for n, f in fields_of(MorphRequest).items()} | {"pictures": None, "loras": None} | own


def test_uploads_and_examples_make_a_request(upload):
    example = next(EXAMPLES.glob("*.webp"))
    os.utime(upload, (1, 1))
    request, _ = ask(Session(), values(pictures=line(upload, example), seed=None, frames=9.0))
    assert request.words() == ["w0", "w1"] and request.frames == 9 and 0 <= request.seed < 2**32
    assert upload.stat().st_mtime > 1e9  # it is in use: Gradio deletes by age


@pytest.mark.parametrize(
    "pictures",
    [
        line("/etc/passwd", "/etc/passwd"),
        line("/etc/../etc/hostname", "x"),
        ["/etc/passwd", "/etc/passwd"],
        {"items": [{"path": "/etc/passwd"}] * 2},
        json.dumps({"items": [{"path": "/etc/passwd\0"}] * 2}),
    ],
)
def test_no_other_file_of_the_server_is_read(pictures):
    with pytest.raises(EngineError, match=r"must be uploaded here|must be a timeline"):
        ask(Session(), values(pictures=pictures))


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
            call(values(pictures=["/nowhere"] * n, prompts=""))


def test_loras_find_their_pictures_by_their_names(tmp_path):
    ends = ("lora_A.weight", "lora_B.weight")
    ten, mine, two = (save({f"unet.{n}.{e}": torch.zeros(1, 1) for e in ends}) for n in ("ten", "mine", "two"))
    for name, block in (("lora-2", two), ("mine", mine), ("lora-10", ten)):
        (tmp_path / f"{name}.safetensors").write_bytes(block)
    paths = [str(tmp_path / f"{n}.safetensors") for n in ("lora-10", "mine", "lora-2")]
    assert read_loras(paths, 12) == (mine, two, *[b""] * 7, ten)
    assert read_loras(paths[2:], 3) == (b"", two) and read_loras([], 3) == ()
    with zipfile.ZipFile(tmp_path / "loras.zip", "w") as z:
        z.writestr("lora-2.safetensors", two)
        z.writestr("notes.txt", b"no LoRA")
    assert read_loras([str(tmp_path / "loras.zip")], 2) == (b"", two)
    with pytest.raises(EngineError, match="loras must be at most 2 files, one a picture, got 3"):
        read_loras(paths, 2)
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as z:
        z.writestr("notes.txt", b"no LoRA")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name, why in (("none.zip", "got none.zip with none in it"), ("empty.safetensors", "got an empty file")):
        with pytest.raises(EngineError, match=why):
            read_loras([str(tmp_path / name)], 2)


def test_settings_back(tmp_path):
    save_png(picture(0), tmp_path / "s.png", {"method": "interpolate"})
    with pytest.raises(EngineError, match=r"must be of Morph, got those of Interpolate"):
        read_settings("morph", tmp_path / "s.png")
    note, line = remember({"prompts": ["a"], "keyframes": 3, "steps": 9})
    assert json.loads(line)["words"][:3] == ["a", "", ""] and "The same 3 pictures" in note
    with pytest.raises(EngineError, match="as they were written here"):
        remember({"prompts": 5})


def test_times_of_pictures_and_ways_make_a_finish(upload):
    sent = line(upload, upload, upload, holds=["", "1,5", ""], times=["", "0.5"])
    assert timing(sent) == {"holds": (None, 1.5, None), "durations": (None, 0.5)}
    assert timing(line(upload, holds=["", ""], times=[])) == timing(None) == {"holds": (), "durations": ()}
    session = Session()
    ask(session, values(pictures=sent))
    assert session.finish.holds == (None, 1.5, None) and session.finish.there_and_back
    with pytest.raises(EngineError, match="hold must be numbers from 0 to 60, one a picture, got soon"):
        ask(session, values(pictures=line(upload, upload, holds=["soon"])))
    with pytest.raises(EngineError, match="pictures must be a timeline"):
        timing('{"holds": "x"}')
    found = {"film": {"holds": [0, 2], "durations": [1]}}
    assert timed(found) == {"holds": [0, 2], "times": [1]} and timed({}) == {"holds": [], "times": []}
    assert json.loads(remember({"prompts": [], "keyframes": 2} | found)[1])["holds"] == [0, 2]


def test_a_zip_that_cannot_be_read_is_a_sentence(tmp_path):
    with zipfile.ZipFile(path := tmp_path / "loras.zip", "w") as z:
        z.writestr("a.safetensors", b"0123456789" * 9)
    whole = bytearray(path.read_bytes())
    broken = whole.replace(b"0123456789", b"0123456780", 1)  # its sum is wrong
    locked = bytearray(whole)
    locked[6] |= 1
    locked[whole.index(b"PK\x01\x02") + 8] |= 1
    for block in (broken, locked):
        path.write_bytes(block)
        with pytest.raises(EngineError, match="loras must be in a zip that can be read, got"):
            read_loras([str(path)], 2)
