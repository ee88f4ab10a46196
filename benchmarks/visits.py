"""A visitor of the studio over HTTP, as the page's own script and gradio_client are: events in, a stream out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import httpx

PATIENCE = 180.0  # seconds without a word until a stream is given up
UPDATE = "update"


class Refused(Exception):
    """What was asked is answered by an error: its words, and the status of the answer."""

    def __init__(self, words: str, status: int = 200):
        super().__init__(words)
        self.words, self.status = words, status


class Site:
    """What the page tells of itself: its events, by element or by API name, and what its widgets begin with."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        config = httpx.get(f"{self.url}/config", timeout=PATIENCE).json()
        self.components = {c["id"]: c for c in config["components"]}
        self.events = {d["id"]: d for d in config["dependencies"]}
        self.named = {d["api_name"]: d for d in config["dependencies"] if d["backend_fn"]}
        self.ids = {c["props"].get("elem_id"): i for i, c in self.components.items() if c["props"].get("elem_id")}

    def event(self, element: str, kind: str, inputs: int = -1) -> dict[str, Any]:
        """The event of an element (``inputs``: the one with so many of them)."""
        found = [d for d in self.events.values() if [self.ids.get(element), kind] in [list(t) for t in d["targets"]]]
        return next(d for d in found if d["backend_fn"] and inputs in (-1, len(d["inputs"])))

    def given(self, event: dict[str, Any], **values: Any) -> list[Any]:
        """What an event takes: each widget's value at the start, or that in ``values`` by its element's name."""
        out = []
        for i in event["inputs"]:
            props = self.components[i]["props"]
            name = str(props.get("elem_id") or props.get("label")).replace("-", "_")
            out.append(values.get(name, props.get("value")))
        return out

    def told(self, event: dict[str, Any], data: list[Any], element: str) -> Any:
        """The value of an element in what an event gave; None where it was not changed."""
        value = data[event["outputs"].index(self.ids[element])]
        if isinstance(value, dict) and value.get("__type__") == UPDATE:
            return value.get("value")
        return value


class Visitor:
    """One session. Close it to leave without a word."""

    def __init__(self, site: Site):
        self.site, self.hash = site, secrets.token_hex(6)
        self.http = httpx.Client(base_url=f"{site.url}/gradio_api/", timeout=PATIENCE)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.close()

    def upload(self, block: bytes, name: str = "picture.png") -> dict[str, Any]:
        """Sends a file; what stands for it in an event."""
        answer = self.http.post("upload", files={"files": (name, block)})
        if answer.status_code != 200:
            raise Refused(answer.text, answer.status_code)
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def download(self, file: dict[str, Any] | str) -> bytes:
        """A file of a result, or what a page shows."""
        path = file if isinstance(file, str) else file["path"]
        where = (
            path if path.startswith("gradio_api/") else f"gradio_api/file={quote(PurePath(path).as_posix(), safe='/:')}"
        )
        answer = self.http.get(f"{self.site.url}/{where}")
        answer.raise_for_status()
        return answer.content

    def call(self, event: dict[str, Any], data: list[Any], **more: Any) -> list[Any]:
        """An event that does not go through the queue."""
        body = {"fn_index": event["id"], "data": data, "session_hash": self.hash} | more
        answer = self.http.post(f"run/{event['api_name']}" if event["api_name"] else "run/predict", json=body)
        if answer.status_code != 200:
            raise Refused(answer.text, answer.status_code)
        return answer.json().get("data", [])

    def join(self, event: dict[str, Any], data: list[Any]) -> str:
        """An event that does: its name."""
        body = {"fn_index": event["id"], "data": data, "session_hash": self.hash}
        answer = self.http.post("queue/join", json=body)
        if answer.status_code != 200:
            raise Refused(answer.text, answer.status_code)
        return answer.json()["event_id"]

    def cancel(self, event: dict[str, Any], name: str) -> None:
        body = {"session_hash": self.hash, "fn_index": event["id"], "event_id": name}
        self.http.post("cancel", json=body).raise_for_status()

    @contextmanager
    def stream(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The messages to this session, as they come."""
        with self.http.stream("GET", "queue/data", params={"session_hash": self.hash}) as answer:
            lines = (line[5:] for line in answer.iter_lines() if line.startswith("data:"))
            yield (json.loads(line) for line in lines)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """The line by which Gradio knows that the page is there, until this is left."""
        with self.http.stream("GET", f"heartbeat/{self.hash}") as answer:
            next(answer.iter_raw())
            yield


def ended(message: dict[str, Any]) -> list[Any] | None:
    """What a message that ends an event gives; None for all others. `Refused` where it is an error."""
    if message["msg"] not in ("process_completed", "unexpected_error", "server_stopped"):
        return None
    output = message.get("output") or {}
    if not message.get("success", False) or output.get("error"):
        raise Refused(str(output.get("error") or message.get("message") or ""))
    return output.get("data") or []
