"""A hub on loopback that serves folders with as much of the protocol as our downloads need."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE = 100_000  # bytes from which a file is stored as LFS


class FakeHub:
    """Serves ``folder/OWNER/NAME`` as the repository OWNER/NAME at revision main; a context manager.

    ``asked``: (method, path, where the asked range starts or 0) of every request so far. ``gated``: repositories that
    list their files and refuse to give them. ``stall``: {file name: bytes after which it waits until ``release`` is
    set}; ``stalled`` is set when one waits. ``cut``: {file name: how many bytes
    each of the next answers gives before it breaks off}, by a reset of the connection where ``reset`` names the file.
    ``pace``: seconds between two pieces of 64 kB.
    ``ill``: file names that are answered with 500 unless asked for from the start. ``wrong``: file names whose bytes
    are sent changed. ``fail``: status to answer listings with. Large files are sent on to another host, as the hub
    does; ``told``: hosts that saw a token.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[tuple[str, str, int]] = []
        self.gated: set[str] = set()
        self.wrong: set[str] = set()
        self.stall: dict[str, int] = {}
        self.cut: dict[str, list[int]] = {}
        self.reset: set[str] = set()
        self.ill: set[str] = set()
        self.told: set[str] = set()
        self.fail, self.pace = 0, 0.0
        self.stalled, self.release = threading.Event(), threading.Event()

    def __enter__(self) -> FakeHub:
        hub = self

        class Bound(_Handler):
            pass

        Bound.hub = hub
        self.server = _Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, repo: str, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self.folder / repo / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def gets(self, name: str) -> list[int]:
        """Where each GET of a file so far started, those that were only sent on left aside."""
        mine = [a for a in self.asked if a[0] == "GET" and a[1].endswith(name)]
        return [start for _, path, start in mine if path.startswith("/cdn/") or not any("/cdn/" in m[1] for m in mine)]


def sums(content: bytes) -> dict[str, str]:
    """The checksums under which the hub knows a file: of its bytes, and git's of the blob."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"sha256": hashlib.sha256(content).hexdigest(), "git": git}


class _Server(ThreadingHTTPServer):
    def shutdown_request(self, request) -> None:
        self.close_request(request)  # without the farewell before it, which would hide a reset

    def handle_error(self, *_: object) -> None:
        pass  # a client that was stopped resets its connection


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.hub.asked.append((self.command, path, start))
        if "Authorization" in self.headers:
            self.hub.told.add(self.headers["Host"].split(":")[0])
        parts = path.strip("/").split("/")
        try:
            if parts[:2] == ["api", "models"]:
                self._listing("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
            elif parts[2:3] == ["resolve"]:
                self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), start)
            elif parts[0] == "cdn":
                self._content("/".join(parts[1:3]), "/".join(parts[3:]), start)
            else:
                self._refuse(404, "RepoNotFound")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client was stopped

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}")

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _listing(self, repo: str, revision: str) -> None:
        root = self.hub.folder / repo
        if self.hub.fail:
            return self._refuse(self.hub.fail, "")
        if not root.is_dir():
            return self._refuse(401, "RepoNotFound")  # what the hub says to those it does not know
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        siblings = []
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            content = path.read_bytes()
            s = {"rfilename": path.relative_to(root).as_posix(), "size": len(content), "blobId": sums(content)["git"]}
            if len(content) >= LARGE:
                s["lfs"] = {"size": len(content), "sha256": sums(content)["sha256"], "pointerSize": 134}
            siblings.append(s)
        body = json.dumps({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}).encode()
        self._answer(200, {"Content-Type": "application/json"}, body)

    def _file(self, repo: str, revision: str, name: str, start: int) -> None:
        path = self.hub.folder / repo / name
        if not (self.hub.folder / repo).is_dir():
            return self._refuse(404, "RepoNotFound")
        if repo in self.hub.gated:
            return self._refuse(401, "GatedRepo")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        if path.stat().st_size < LARGE:
            return self._content(repo, name, start)
        port = self.server.server_address[1]
        self._answer(302, {"Location": f"http://localhost:{port}/cdn/{repo}/{name}"}, b"")

    def _content(self, repo: str, name: str, start: int) -> None:
        content = (self.hub.folder / repo / name).read_bytes()
        size = len(content)
        if start and name in self.hub.ill:
            return self._refuse(500, "")
        headers = {"Content-Length": str(size - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if name in self.hub.wrong:
            content = bytes(255 - b for b in content)
        self._send(name, content[start:], start, headers)

    def _send(self, name: str, body: bytes, start: int, headers: dict[str, str]) -> None:
        cuts, stall = self.hub.cut.get(name), self.hub.stall.get(name)
        if cuts:
            self._answer(206 if start else 200, headers, body[: cuts.pop(0)])
            self.close_connection = True
            if name in self.hub.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif stall is not None and start <= stall < start + len(body):
            self._answer(206 if start else 200, headers, body[: stall - start])
            self.hub.stalled.set()
            self.hub.release.wait(60)
            self.wfile.write(body[stall - start :])
        else:
            self._answer(206 if start else 200, headers, b"" if self.hub.pace else body)
            for at in range(0, len(body) if self.hub.pace else 0, 1 << 16):
                time.sleep(self.hub.pace)
                self.wfile.write(body[at : at + (1 << 16)])
