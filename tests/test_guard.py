"""Nobody gets in: what is sent, what is served, which files and addresses a visitor can name, and the password."""

import http.server
import json
import os
import pickle
import shutil
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch
from conftest import picture, studio_over
from diffusers import T2IAdapter
from gradio.utils import get_upload_folder
from test_easel import Painter

import app
from engine.checkpoints import load
from engine.checkpoints.resolve import resolve
from engine.requests import EngineError
from engine.requests.settings import Settings
from engine.vision.annotators import lines
from engine.vision.keypoints.detectors import STARTS
from morph_ui import guard, tries
from morph_ui.session import Session, visits

HTML = b"<html><script>alert(document.domain)</script></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'


@pytest.fixture(scope="module")
def studio_here():
    with studio_over(Painter()) as worker:
        worker.api = f"{worker.url.rstrip('/')}/gradio_api"
        yield worker


def put(api, name, block, **how):
    answer = httpx.post(f"{api}/upload", files={"files": (name, block)}, **how)
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def called(api, name, **values):
    """What a call of the API ends in: its last event, and what it says."""
    begun = httpx.post(f"{api}/call/v2/{name}", json=values)
    if begun.status_code != 200:
        return "error", begun.text
    lines = httpx.get(f"{api}/call/{name}/{begun.json()['event_id']}", timeout=60).text.splitlines()
    said = [line.partition(": ")[2] for line in lines if line]
    return said[-2], said[-1]


def file_of(path, **own):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}} | own


# ---- what is served


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("page.html", HTML),
        ("page.xhtml", HTML),
        ("drawing.svg", SVG),
        ("notes.txt", HTML),
        ("data.json", HTML),
        ("page.xml", SVG),
        ("paper.pdf", b"%PDF-1.4 " + HTML),
        ("page.mhtml", HTML),
        ("script.js", b"alert(1)"),
        ("noending", HTML),
    ],
)
def test_what_could_run_in_a_browser_is_saved_by_it(studio_here, name, block):
    """By Gradio alone notes.txt and data.json were shown, nothing forbade to guess their kinds, and a range's answer
    repeated the visitor's own headers, the cookie among them."""
    path = put(studio_here.api, name, block)
    for more in ({}, {"Range": "bytes=0-9", "Cookie": "access-token=secret", "X-Mine": "secret"}):
        got = httpx.get(f"{studio_here.api}/file={path}", headers=more)
        said = got.headers
        assert said["content-type"] == "application/octet-stream" and said["x-content-type-options"] == "nosniff"
        assert said["content-disposition"].startswith("attachment") and "sandbox" in said["content-security-policy"]
        assert "secret" not in str(said) and got.content == (block[:10] if more else block)


def test_pictures_are_shown_and_are_nothing_else(studio_here, tmp_path):
    """A polyglot (a picture that is a page, or an archive) is a picture."""
    for name, kind in (("p.png", "image/png"), ("p.gif", "image/gif"), ("p.jpg", "image/jpeg")):
        picture(1).save(tmp_path / name)
        path = put(studio_here.api, name, (tmp_path / name).read_bytes() + HTML + b"PK\x05\x06" + bytes(18))
        said = httpx.get(f"{studio_here.api}/file={path}").headers
        assert said["content-type"] == kind and said["x-content-type-options"] == "nosniff"


def test_a_visitor_names_only_what_is_the_studios_own(studio_here, tmp_path):
    secret, folder = tmp_path / "secret.png", Path(get_upload_folder())
    picture(1).save(secret)
    (folder / "way-out").mkdir(parents=True, exist_ok=True)
    for name, target in (("link.png", secret), ("zero.png", "/dev/zero")):
        (folder / "way-out" / name).unlink(missing_ok=True)
        (folder / "way-out" / name).symlink_to(target)
    mine = Session().path("x.png")
    names = ["/etc/passwd", secret, f"{folder}/../../../../etc/passwd", f"{folder}/%2e%2e/%2e%2e/etc/passwd"]
    names += [folder / "way-out" / n for n in ("link.png", "zero.png")] + [folder, visits(), mine.parent, "README.md"]
    names += ["/dev/zero", "/dev/stdin", "/proc/self/environ", "/proc/self/mem", "app.py", "", ".", "~/.ssh/id_rsa"]
    names += [
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "//host/share/x.png",
        "\\\\host\\share\\x.png",
        "/etc/passwd%00.png",
    ]
    names += [f"http://127.0.0.1:{urlsplit(studio_here.url).port}/config", "https://example.org/x.png", "ftp://h/x"]
    names += ["http:%2f%2fexample.org/x", "data:text/html,x", "concat:/etc/passwd", "/etc/passwd%00.png"]
    for name in names:
        got = httpx.get(f"{studio_here.api}/file={name}", timeout=20)
        assert got.status_code in (403, 404, 422), (name, got.status_code)
        assert b"root:" not in got.content and b"\x89PNG" not in got.content
    for way in ("proxy=http://example.org/x", "proxy=x", "file/etc/passwd"):
        assert httpx.get(f"{studio_here.api}/{way}").status_code in (403, 404)


def test_names_of_visits_and_uploads_cannot_be_guessed(studio_here):
    sessions = [Session() for _ in range(3)]
    folders = [s.path("x").parent for s in sessions]
    assert len({f.name for f in folders}) == 3 and all(len(f.name) >= 22 for f in folders)  # 128 bits
    assert os.name == "nt" or all(f.stat().st_mode & 0o077 == 0 for f in (*folders, visits().parent))
    first, second = (put(studio_here.api, "same.png", os.urandom(64)) for _ in range(2))
    assert (
        len(Path(first).parent.name) == 64 and Path(first).parent != Path(second).parent
    )  # the digest of what is in it
    for s in sessions:
        s.forget()


# ---- what is asked for


def test_files_of_requests_are_uploads(studio_here, tmp_path):
    """No address is fetched: Gradio would bring what lies there, however long it is."""
    secret, hits = tmp_path / "secret.png", []
    picture(1).save(secret)

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, folder = f"http://127.0.0.1:{server.server_port}/x.png", get_upload_folder()
    os.mkfifo(pipe := Path(put(studio_here.api, "a.bin", os.urandom(9))).parent / "pipe.png")
    given = [file_of(p) for p in (secret, "/dev/zero", f"{folder}/../x.png", address, pipe)]
    given += [{"path": str(secret)}, file_of("x.png", url=str(secret)), file_of(secret, is_stream=True)]
    for guide in given:
        kind, said = called(studio_here.api, "edit", guide=guide)
        assert kind == "error" and "Traceback" not in said, (guide, said)
    for guide in given[:4]:
        assert called(studio_here.api, "enlarge", pictures=[guide])[0] == "error", guide
    assert "address of elsewhere" in called(studio_here.api, "edit", guide=file_of(address))[1]
    assert not hits and not studio_here.jobs
    server.shutdown()
    pipe.unlink()


# ---- how much is sent


def asked(url, head, body=b""):
    """The answer to a request that is not as long as it says."""
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), 20) as s:
        s.sendall(head.replace(b"\n", b"\r\n") + body)
        s.settimeout(20)
        return b"".join(iter(lambda: s.recv(4096), b"")).decode("latin1")


def test_what_is_too_much_is_refused_before_it_comes(studio_here, monkeypatch):
    for way, most in (("upload", guard.UPLOAD), ("queue/join", guard.BODY), ("call/edit", guard.BODY)):
        head = f"POST /gradio_api/{way} HTTP/1.1\nHost: x\nContent-Length: {most + 1}\n\n".encode()
        answer = asked(studio_here.url, head)
        assert " 413 " in answer.splitlines()[0] and "must be at most" in answer
    monkeypatch.setattr(guard, "BODY", 5000)  # what comes in parts says no length
    before = len(studio_here.jobs)
    got = httpx.post(f"{studio_here.api}/call/edit", content=iter([b'{"data": "'] + [b"x" * 1000] * 9))
    assert got.status_code >= 400 and len(studio_here.jobs) == before
    monkeypatch.setattr(guard, "ROOM", 10**18)
    got = httpx.post(f"{studio_here.api}/upload", files={"files": ("a.png", b"x")})
    assert got.status_code == 507 and "GB free for what is sent" in got.text
    monkeypatch.undo()
    assert put(studio_here.api, "a.png", b"x")


def test_an_upload_that_is_broken_off_leaves_nothing(studio_here):
    folder = Path(get_upload_folder())
    part = b'--b\nContent-Disposition: form-data; name="files"; filename="a.png"\n\n'.replace(b"\n", b"\r\n")
    head = b"POST /gradio_api/upload HTTP/1.1\nHost: x\nContent-Length: 99999\n"
    head += b"Content-Type: multipart/form-data; boundary=b\n\n"
    with socket.create_connection((urlsplit(studio_here.url).hostname, urlsplit(studio_here.url).port), 20) as s:
        s.sendall(head.replace(b"\n", b"\r\n") + part + b"x" * 5000)
        until = time.monotonic() + 20
        while not (halves := [p for p in folder.glob("tmp*") if p.is_file()]) and time.monotonic() < until:
            time.sleep(0.05)
    assert halves
    for p in halves:
        os.utime(p, (0, 0))
    put(studio_here.api, "a.png", b"x")
    assert not any(p.exists() for p in halves)


def test_json_of_any_depth_is_answered(studio_here):
    for body in (b"[" * 100_000, b'{"data": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", b"\xff\xfe", b"", b"null"):
        got = httpx.post(f"{studio_here.api}/call/edit", content=body, headers={"Content-Type": "application/json"})
        assert got.status_code < 600 and b"Traceback" not in got.content
    assert json.loads(httpx.get(f"{studio_here.url}config").content)["title"] == "Chrysalis"


# ---- pickles


class Evil:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_no_pickle_runs_and_none_is_read_but_the_catalogues(tiny, tmp_path, monkeypatch):
    ran, net = tmp_path / "ran", shutil.copytree(tiny, tmp_path / "net")
    evil, unet = pickle.dumps(Evil(ran)), net / "unet"
    for ending in ("bin", "fp16.bin"):
        for weights in unet.glob("diffusion*"):
            weights.unlink()
        (unet / f"diffusion_pytorch_model.{ending}").write_bytes(evil)
        for read in (lambda: resolve(str(net)).needs(), lambda: load.read(net, torch.float32, "net")):
            with pytest.raises(
                EngineError, match=r"must have .safetensors in the folder unet, got .*bin, which may run"
            ):
                read()
    for name, kind in (("ControlNetHED.pth", "hed"), ("sk_model.pth", "lineart")):
        (tmp_path / name).write_bytes(evil)
        with pytest.raises(EngineError, match="must be weights of"):
            lines(np.zeros((64, 64, 3), np.uint8), kind, [tmp_path / name] * (1 + (kind == "lineart")))
    (tmp_path / "body_pose_model.pth").write_bytes(evil)
    with pytest.raises(EngineError, match="must be OpenPose's weights"):
        STARTS["openpose"]([tmp_path / "body_pose_model.pth"], "cpu")
    monkeypatch.setattr("engine.checkpoints.hub.cache", lambda: tmp_path)  # one of the catalogue's own
    listed = tmp_path / "models--TencentARC--t2iadapter_color_sd14v1" / "snapshots" / "x"
    listed.mkdir(parents=True)
    (listed / "config.json").write_text('{"_class_name": "T2IAdapter"}')
    (listed / "diffusion_pytorch_model.bin").write_bytes(evil)
    with pytest.raises(EngineError, match="must be whole, got parts that cannot be read"):  # by torch: weights_only
        load.module(listed, torch.float32)
    torch.save(T2IAdapter(3, [8, 8], 1, 8, "full_adapter").state_dict(), listed / "diffusion_pytorch_model.bin")
    own = {"channels": [8, 8], "num_res_blocks": 1, "downscale_factor": 8, "adapter_type": "full_adapter"}
    (listed / "config.json").write_text(json.dumps({"_class_name": "T2IAdapter", "in_channels": 3} | own))
    assert load.module(listed, torch.float32).config.in_channels == 3
    assert not ran.exists()


# ---- a password


@pytest.mark.parametrize(
    ("text", "block", "sentence"),
    [
        ("me", None, "auth must be USER:FILE, a name and a file that holds the password, got 'me'"),
        (":{}", b"long enough", "auth must be USER:FILE, a name"),
        ("me:", None, "auth must be USER:FILE, a name"),
        ("me:{}", None, "which is not there"),
        ("me:/dev/zero", None, "which is a device"),
        ("me:/", None, "which is a folder"),
        ("me:{}", b"", "password must be one line of 8 to 1000 letters, got an empty file"),
        ("me:{}", b"\n\n", "got an empty file"),
        ("me:{}", b"short", "got another"),
        ("me:{}", b"first line\nsecond line", "got several lines"),
        ("me:{}", b"x" * 5000, "got another"),
        ("me:{}", b"\xff\xfe\x00\xd8", "auth must name a file of text in UTF-8"),
    ],
)
def test_a_password_that_is_none_is_a_sentence_at_the_start(text, block, sentence, tmp_path, monkeypatch):
    if block is not None:
        (tmp_path / "word").write_bytes(block)
    given = text.format(tmp_path / "word")
    with pytest.raises(EngineError) as error:
        Settings(auth=given)
    assert sentence in str(error.value) and "long enough" not in str(error.value)
    monkeypatch.setattr("sys.argv", ["app.py", "--auth", given])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert str(stopped.value.code).startswith("error: ") and sentence in str(stopped.value.code)


def test_nothing_is_had_without_the_password(tmp_path, studio_here):
    (tmp_path / "word").write_text("a rose is a rose\n", encoding="utf8")
    login = Settings.read(None, {"CHRYSALIS_AUTH": f"me:{tmp_path / 'word'}"}).login
    assert login == ("me", "a rose is a rose")
    kept = put(studio_here.api, "a.png", os.urandom(99))
    with studio_over(Painter(), auth=login) as closed:
        api = f"{closed.url}gradio_api"
        for way in ("config", "gradio_api/info", f"gradio_api/file={kept}", "gradio_api/queue/data?session_hash=x"):
            assert httpx.get(f"{closed.url}{way}").status_code == 401, way
        for way in ("upload", "queue/join", "call/edit", "call/v2/edit", "run/edit", "component_server"):
            assert httpx.post(f"{api}/{way}", json={}).status_code == 401, way
        assert "interpolate-make" not in httpx.get(closed.url).text
        login = f"{closed.url}login"
        for name, word in (("me", "a rose"), ("you", "a rose is a rose"), ("me", ""), ("", "")):
            got = httpx.post(login, data={"username": name, "password": word})
            assert got.status_code in (400, 422), (name, word)
        with httpx.Client(base_url=closed.url) as visitor:
            assert visitor.post("login", data={"username": "me", "password": "a rose is a rose"}).status_code == 200
            assert visitor.get("config").status_code == 200 and "interpolate-make" in visitor.get("").text
            for _ in range(tries.AT_ONCE - 2):  # two were wrong, and two no tries
                assert visitor.post("login", data={"username": "me", "password": "a daisy"}).status_code == 400
        right = {"username": "me", "password": "a rose is a rose"}
        late = httpx.post(login, data=right)
        assert late.status_code == 429 and 0 < int(late.headers["retry-after"]) <= tries.EVERY
        assert "must be tried again in" in late.text and tries.NOTE in httpx.get(closed.url).text
        others = httpx.HTTPTransport(local_address="127.0.0.2")  # another address, who knows the password
        with httpx.Client(transport=others) as other:
            assert other.post(login, data=right).status_code == 200
        assert not closed.jobs


def test_wrong_passwords_are_forgiven_in_time_and_address_by_address():
    now = [0.0]
    own = tries.Tries(lambda: now[0])
    for _ in range(3):  # whoever knows it may come as often as he likes
        for _ in range(2 * tries.AT_ONCE):
            assert own.begin("10.0.0.1") == 0
            own.right("10.0.0.1")
    assert [own.begin("10.0.0.2") for _ in range(tries.AT_ONCE + 2)] == [0] * tries.AT_ONCE + [tries.EVERY] * 2
    now[0] += tries.EVERY
    assert [own.begin("::ffff:10.0.0.2") for _ in range(2)] == [0, tries.EVERY] and own.begin("10.0.0.1") == 0
    now[0] += 1000 * tries.EVERY
    same = [f"2001:db8::{n:x}" for n in range(tries.AT_ONCE)]
    assert not any(map(own.begin, same)) and own.begin("2001:db8::ffff") and not own.begin("2001:db8:0:1::1")
    for n in range(3 * tries.ADDRESSES):
        own.begin(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(own._until) == tries.ADDRESSES


def test_nothing_is_asked_for_past_the_queue(studio_here):
    """Such a call would give the first word of an answer, and nobody the rest."""
    before = len(studio_here.jobs)
    for way in ("run/edit", "api/edit"):
        answer = httpx.post(f"{studio_here.api}/{way}", json={"data": [None] * 30, "session_hash": "me"})
        assert answer.status_code == 404 and "join the queue" in answer.text
    assert len(studio_here.jobs) == before
