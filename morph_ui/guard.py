"""What stands before Gradio: how much may be sent, what a file that is served may do, that nobody has us
fetch, and how often a password is tried."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio import processing_utils

from engine.requests.files import uploads
from morph_ui.tries import Tries

UPLOAD = 1_500_000_000  # bytes of files sent at once: twelve LoRAs
BODY = 100_000_000  # bytes of anything else: a canvas has three layers
FORM = 100_000  # bytes of a name and a password
ROOM = 2_000_000_000  # bytes of the disk that uploads leave free
STALE = 600  # seconds after which a part of an upload that was broken off is thrown away
FILE = re.compile(r"/gradio_api/(file|proxy)[=/](.*)", re.DOTALL)
LOGIN = re.compile(r"(^|/)login/?$")
SENT = re.compile(r"/gradio_api/upload/?$")
ELSEWHERE = re.compile(r"\s*([a-z][a-z0-9+.-]+:|[\\/]{2})|.*\0", re.IGNORECASE | re.DOTALL)
# What a browser may show of itself; anything else it saves.
SHOWN = (b"image/jpeg", b"image/png", b"image/gif", b"image/webp", b"video/mp4", b"video/webm")
# What a file's answer says. (A range's would repeat all that was asked with, the visitor's cookie too.)
SAID = (
    b"accept-ranges",
    b"cache-control",
    b"content-disposition",
    b"content-length",
    b"content-range",
    b"content-type",
)
SAID = (*SAID, b"etag", b"last-modified", b"vary", b"content-encoding")
POLICY = b"sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Guard:
    """ASGI middleware around Gradio's app."""

    def __init__(self, app: Callable[[Any, Receive, Send], Awaitable[None]]):
        self.app, self.tries = app, Tries()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if found := FILE.search(path):
            if found[1] == "proxy" or ELSEWHERE.match(found[2]) or ELSEWHERE.match(unquote(found[2])):
                await self.refuse(send, 403, "file must be one of this studio, got an address of elsewhere")
            else:
                await self.app(scope, receive, _harmless(send))
            return
        if scope["method"] == "POST" and LOGIN.search(path):
            await self.login(scope, receive, send)
            return
        most, told = (UPLOAD if SENT.search(path) else BODY), dict(scope["headers"]).get(b"content-length", b"")
        sent = int(told) if told.isdigit() and len(told) < 20 else 0
        if sent > most:
            await self.refuse(
                send, 413, f"what is sent must be at most {most // 1_000_000} MB, got {sent // 1_000_000}"
            )
        elif most == UPLOAD and (why := _no_room(sent)):
            await self.refuse(send, 507, why)
        else:
            await self.app(scope, _counted(receive, most), send)

    async def login(self, scope: Any, receive: Receive, send: Send) -> None:
        """Hands a password on, of those whose address has not sent too many wrong ones."""
        address = (scope.get("client") or ("", 0))[0]
        if wait := self.tries.begin(address):
            text = f"password must be tried again in {wait} s, got too many wrong ones from {address}"
            await self.refuse(send, 429, text, (b"retry-after", str(wait).encode()))
            return

        async def seen(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != 400:  # what Gradio says to a wrong one
                self.tries.right(address)
            await send(message)

        await self.app(scope, _counted(receive, FORM), seen)

    async def refuse(self, send: Send, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
        """Answers with a sentence."""
        body = f"{text[0].upper()}{text[1:]}.".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        headers += [*more, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _counted(receive: Receive, most: int) -> Receive:
    """The request's body, which breaks off where it is longer than it may be, whatever its header said."""
    count = 0

    async def counted() -> Any:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        return message if count <= most else {"type": "http.disconnect"}

    return counted


def _harmless(send: Send) -> Send:
    """An answer with a file, whose headers keep it from doing anything in a browser."""

    async def harmless(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [(n.lower(), v) for n, v in message["headers"] if n.lower() in SAID]
            kind = dict(headers).get(b"content-type", b"").partition(b";")[0].strip()
            if message["status"] < 300 and kind not in SHOWN:
                name = dict(headers).get(b"content-disposition", b"").partition(b";")[2]
                headers = [h for h in headers if h[0] not in (b"content-type", b"content-disposition")]
                headers += [(b"content-type", b"application/octet-stream")]
                headers += [(b"content-disposition", b";".join(filter(None, (b"attachment", name))))]
            headers += [(b"x-content-type-options", b"nosniff"), (b"content-security-policy", POLICY)]
            message = message | {"headers": headers}
        await send(message)

    return harmless


def _no_room(sent: int) -> str:
    """Why an upload cannot be taken, or ""; what others left half sent is thrown away."""
    folder = uploads()
    with suppress(OSError):
        for part in Path(folder).glob("tmp*"):
            if part.is_file() and time.time() - part.stat().st_mtime > STALE:
                part.unlink()
        if (free := shutil.disk_usage(folder).free) < sent + ROOM:
            return f"disk must have {(sent + ROOM) / 1e9:.1f} GB free for what is sent, got {free / 1e9:.1f}; try later"
    return ""


def stay() -> None:
    """Has Gradio fetch nothing for visitors: it would bring whatever lies at an address that they name."""

    async def fetched(url: str, cache_dir: str) -> str:
        raise gr.Error("File must be uploaded here, got an address of elsewhere.", print_exception=False)

    processing_utils.async_ssrf_protected_download = fetched
