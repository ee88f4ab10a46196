"""Beside a canvas: the widgets of results, where they go on, settings back, and the API of *Draw* and *Edit*."""

from __future__ import annotations

import base64
import inspect
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from engine.requests import Done, EngineError, Frame, Progress
from engine.vision import images, video
from morph_ui.easel import Easel, chosen
from morph_ui.stage import defaults, read_for
from morph_ui.stream import begin, events, message, sentence, take
from morph_ui.widgets import feed, new_seed, viewer


@dataclass(frozen=True)
class Board:
    """The right-hand side: status, viewer, downloads, where results go on."""

    status: gr.HTML
    screen: gr.HTML
    png: gr.DownloadButton
    pngs: gr.DownloadButton
    load: gr.UploadButton
    under: gr.Button
    onward: gr.Button
    feed: gr.HTML

    def outputs(self, seed: gr.Number, make: gr.Button, stop: gr.Button) -> list[Any]:
        """What `busy` and `ended` update, in their order."""
        return [self.screen, self.status, seed, make, stop, self.png, self.pngs, self.under, self.onward]


def board(tab: str, invitation: str, onward: str) -> Board:
    """Builds it, inside the caller's column. ``onward`` names the tab that a result may go to."""
    status = gr.HTML(message(""), elem_id=f"{tab}-status", elem_classes="status-line", apply_default_css=False)
    screen = viewer(tab, invitation)
    with gr.Row(elem_classes="take"):
        png = gr.DownloadButton("PNG", interactive=False, elem_id=f"{tab}-png", size="sm")
        pngs = gr.DownloadButton("All PNGs", visible=False, elem_id=f"{tab}-zip", size="sm")
        under = gr.Button("Use as photograph", interactive=False, elem_id=f"{tab}-under", size="sm")
        send = gr.Button(f"Go on in {onward}", interactive=False, elem_id=f"{tab}-onward", size="sm")
        load = gr.UploadButton("Load settings", file_types=[".png", ".zip"], size="sm", elem_id=f"{tab}-load")
    return Board(status, screen, png, pngs, load, under, send, feed(tab))


def passed_on(session: Easel, tab: str) -> Any:
    """The chosen result as the photograph of a tab's canvas."""
    if not session.frames:
        return gr.skip()
    block = io.BytesIO()
    session.frames[chosen(session)].picture.save(block, "PNG")
    return feed_value(tab, {"photo": inline_png(block.getvalue())})


def inline_png(block: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(block).decode()


_FED = iter(range(1, 2**62))


def feed_value(tab: str, layers: dict[str, str]) -> str:
    """What a `feed` puts on a canvas; numbered, or the same drawing twice would be no change."""
    return json.dumps({"n": next(_FED), "tab": tab, "layers": layers})


def settle(request: type, values: dict[str, Any]) -> dict[str, Any]:
    """Values of widgets as the request wants them: an empty seed is a new one, 3.0 is 3."""
    values = dict(values)
    if values.get("seed") is None:
        values["seed"] = new_seed()
    for name in request.WHOLE:  # type: ignore[attr-defined]
        if isinstance(values.get(name), float) and values[name].is_integer():
            values[name] = int(values[name])
    return values


def loaded(method: str, names: list[str], request: type) -> Callable[[str], list[Any]]:
    """Settings back from a file: every widget; the drawing has a file of its own."""
    known = defaults(request)

    def load(path: str) -> list[Any]:
        try:
            settings = read_for(method, path)
        except EngineError as e:
            return [*[gr.skip()] * len(names), message(sentence(e), "problem")]
        note = f"Settings of {Path(path).name} are set; open the same drawing on the canvas to make it again."
        return [*[settings.get(n, known.get(n, gr.skip())) for n in names], message(note)]

    return load


def api(worker: Any, name: str, about: str, R: type, request_of: Callable, pictures: list[str]) -> None:
    """`/name` for gradio_client: picture files and the request's fields by name → (PNG files, report)."""

    def call(*values: Any) -> Iterator[tuple[Any, Any]]:
        session = Easel()
        try:
            request = request_of(dict(zip(inputs, values, strict=True)))
            begin(session, request)
            for event in events(worker, request, session):
                if isinstance(event, Frame | Done):
                    take(session, event)
                if isinstance(event, Progress):
                    yield None, {"progress": round(event.fraction, 4), "doing": event.doing}
                elif not isinstance(event, Done):
                    yield gr.skip(), gr.skip()
            done = session.done
            assert done is not None
            paths = []
            for i, picture in enumerate(done.frames):
                paths.append(str(session.path(f"{name}-{i:02d}.png")))
                video.save_png(picture, paths[-1], done.settings | {"frame": i})
            yield paths, done.settings | {"seconds": round(done.seconds, 2), "unet_evaluations": done.evaluations,
                                          "quality": done.quality, "notes": list(done.notes)}  # fmt: skip
        except Exception as e:
            raise gr.Error(sentence(e), print_exception=False) from None
        finally:
            session.forget()  # Gradio has copied what it serves

    kinds = {str: gr.Textbox, bool: gr.Checkbox}
    inputs: dict[str, Any] = {n: gr.File(visible=False, label=n) for n in pictures}
    for f in fields(R):
        if f.name not in inputs and isinstance(f.default, str | int | float):
            inputs[f.name] = kinds.get(type(f.default), gr.Number)(value=f.default, label=f.name, visible=False)
    call.__doc__ = about
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature(
        [inspect.Parameter(n, kind, default=inspect.Parameter.empty if n == "guide" else None) for n in inputs]
    )
    outs = [gr.File(file_count="multiple", visible=False, label="pictures"), gr.JSON(visible=False, label="report")]
    gr.Button(visible=False).click(
        call, list(inputs.values()), outs, api_name=name, concurrency_limit=None, show_progress="hidden"
    )


def layers_of(values: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    """The API's files as layers: ``kinds`` says what each is (`engine.vision.images.layer`; "photo" is read as one)."""
    out = {}
    for name, kind in kinds.items():
        path = values.pop(name, None)
        if path is not None:
            out[name] = images.read(path, name) if kind == "photo" else images.layer(path, name, kind)
    return out
