"""A proxy as small as one can be: what is asked for under a prefix is asked of the studio without it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}  # of one connection only


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: every answer ends with its connection, and goes on as it comes, so that events are not held back."""

    port, prefix, asked, forwarded = 0, "", list[str](), dict[str, str]()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == self.prefix:
            self.send_response(301)
            self.send_header("Location", f"{self.prefix}/" + f"?{query}" * bool(query))
            return self.end_headers()
        if not path.startswith(f"{self.prefix}/"):
            self.asked.append(self.path)
            return self.send_error(404)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        studio = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            studio.request(self.command, self.path[len(self.prefix) :], body, kept | self.forwarded)
            self.answer(studio.getresponse())
        except OSError:  # the browser has left
            self.close_connection = True
        finally:
            studio.close()

    do_POST = do_HEAD = do_GET

    def answer(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.end_headers()
        while block := answer.read1(65536):
            self.wfile.write(block)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def behind(url: str, prefix: str, **forwarded: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy before the studio at ``url``: its own address with the ``prefix``, and what was asked outside of that.

    It keeps the Host of who asks, as nginx is told to and Caddy does, and adds the headers ``forwarded``."""
    own = {"port": urlsplit(url).port, "prefix": prefix, "asked": [], "forwarded": forwarded}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), own))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}", own["asked"]
    finally:
        server.shutdown()
        server.server_close()
