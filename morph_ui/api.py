"""What other programs call: a named endpoint a method, whose parameters are the fields of its request."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import MISSING
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.components import Component

from engine.requests import Done, EnlargeRequest, Field, Frame, Preview, Progress, fields_of, pictures_of, settle
from engine.requests.finish import Finish, finish_of
from engine.vision import images, sources, video
from engine.vision.film import opened
from morph_ui.panels import film
from morph_ui.panels.status import sentence
from morph_ui.session import Session
from morph_ui.visitors import heard

KINDS: dict[type, Any] = {str: gr.Textbox, bool: gr.Checkbox}
FILM, LORAS, PICTURES = ("mp4", "zip", "report"), ("loras",), ("pictures", "report")


Read = Callable[[Any, dict[str, Any]], Any]  # a request from its class and values by name


def api(
    worker: Any,
    request: Any,
    about: str,
    outputs: tuple[str, ...],
    read: Read,
    last: Any = MappingProxyType({}),
    **more: Component,
) -> None:
    """``/{method}``: pictures as files, ``more`` inputs, the request's plain fields, the ``last`` ones → ``outputs``.

    The request is the one judge of its fields, and its sentences name them.
    """
    inputs = {n: upload(n, f) for n, f in pictures_of(request).items() if n not in last} | more
    # Plain inputs of their own: the page's would check values before the request does.
    for n, f in fields_of(request).items():
        if f.type is not tuple:
            inputs[n] = KINDS.get(f.type, gr.Number)(value=f.default, label=n, visible=False)
    inputs |= last
    outs = {n: gr.JSON(visible=False, label=n) if n == "report" else upload(n) for n in outputs}

    def call(*values: Any) -> Iterator[dict[Component, Any]]:
        session = Session(finish=Finish())
        try:
            run = session.begin(read(request, dict(zip(inputs, values, strict=True))))
            for event in heard(run.events(worker)):
                if isinstance(event, Frame | Done):
                    run.take(event, session.save)
                yield {outs["report"]: told(event)}
            yield {outs[n]: value for n, value in results(session).items() if n in outs}
        except Exception as e:
            raise gr.Error(sentence(e, names=True), print_exception=False) from None
        finally:
            session.forget()  # Gradio has copied what it serves

    call.__doc__ = f"{about} Fields as in ``python -m engine {request.method} --help``."
    # None lets a file be left out; other defaults are the components' own.
    call.__signature__ = named(inputs, [n for n, f in pictures_of(request).items() if f.default is MISSING])
    own = {"api_name": request.method, "concurrency_limit": None, "show_progress": "hidden"}
    gr.Button(visible=False).click(call, list(inputs.values()), list(outs.values()), **own)


def named(inputs: Iterable[str], needed: Collection[str] = ()) -> inspect.Signature:
    """Parameters of these names; all but those that are ``needed`` may be left out."""
    kind, none = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return inspect.Signature([inspect.Parameter(n, kind, default=none if n in needed else None) for n in inputs])


def told(event: Any) -> Any:
    """Progress, as the report has it meanwhile."""
    doing = isinstance(event, Progress)
    return {"progress": round(event.fraction, 4), "doing": event.doing} if doing else gr.skip()


def upload(name: str, field: Field | None = None) -> gr.File:
    """A file, or several where the field (or the output) has several."""
    several = name == "pictures" if field is None else field.type is tuple
    return gr.File(file_count="multiple" if several else "single", visible=False, label=name)


def open_pictures(request: Any, values: dict[str, Any]) -> Any:
    """Pictures as files and loose values by name → a request."""
    opened = {}
    for name, field in pictures_of(request).items():
        path, mode = values.pop(name), field.spec.layer
        if path is not None:
            opened[name] = images.read(path, field.spec.label) if mode == "RGB" else images.layer(path, name, name)
        elif field.default is MISSING:
            opened[name] = None
    return request(**opened, **settle(request, values))


def results(session: Session) -> dict[str, Any]:
    """What a finished run gives: files by the output's name, and the report."""
    run, done = session.run, session.run.done
    assert done is not None
    more = {"seconds": round(done.seconds, 2), "unet_evaluations": done.evaluations}
    out: dict[str, Any] = {"report": done.settings | more | {"quality": done.quality, "notes": list(done.notes)}}
    if run.made:
        paths = [str(session.path(f"{run.request.method}-{i:02d}.png")) for i in range(len(done.frames))]
        for i, path in enumerate(paths):
            video.save_png(done.frames[i], path, done.settings | {"frame": i})
        return out | {"pictures": paths}
    mp4, pngs = film.write(session)
    return out | {"mp4": mp4, "zip": pngs, "loras": film.write_loras(session)}


def enlarging(worker: Any) -> None:
    """``/enlarge``: pictures, zips and films, and a scale → an MP4 (of several alike), PNGs, a detail, a report."""
    inputs = [upload("pictures"), gr.Number(2, label="scale", visible=False)]
    outs = {n: upload(n) for n in ("mp4", "pictures", "detail")} | {"report": gr.JSON(visible=False, label="report")}

    def call(pictures: list[str] | None, scale: float = 2) -> Iterator[dict[Component, Any]]:
        """Make ``pictures`` (files, zips, films) 2 or 4 times as large; ``detail`` is a part, before | after."""
        session = Session()
        try:
            values = settle(EnlargeRequest, {"scale": scale})
            found = sources.read_all(pictures or (), values["scale"])
            run = session.enlarge(EnlargeRequest(tuple(found.pictures), **values))
            made, settings, done = video.Stored(session.path("larger")), found.kept(run.request), None
            for event in made.fill(heard(run.events(worker)), settings):
                if isinstance(event, Preview):
                    event.picture.save(session.path("detail.png"))
                elif isinstance(event, Done):
                    done = event
                yield {outs["report"]: told(event)}
            film = session.path("larger.mp4") if found.alike else None
            for part in video.writing_mp4(made, film, settings, video.steady(found.rate)) if film else ():
                yield {outs["report"]: told(Progress(part, "writing the film"))}
            assert done is not None
            notes = {"notes": [*found.notes, *done.notes]}
            report = done.settings | {"seconds": round(done.seconds, 2)} | notes
            files = film and str(film), made.paths, str(session.path("detail.png"))
            yield dict(zip(outs.values(), (*files, report), strict=True))
        except Exception as e:
            raise gr.Error(sentence(e, names=True), print_exception=False) from None
        finally:
            session.forget()

    own = {"api_name": "enlarge", "concurrency_limit": None, "show_progress": "hidden"}
    gr.Button(visible=False).click(call, inputs, list(outs.values()), **own)


def filming() -> None:
    """``/film``: frames that are there (pictures, a zip, a film) and a `Finish` → a film of any format, a report."""
    fields = fields_of(Finish)
    inputs = {"pictures": upload("pictures")}
    for n, f in fields.items():
        inputs[n] = KINDS.get(f.type, gr.Number)(value=f.default or None, label=n, visible=False)
    for n in ("hold", "durations"):  # one number, or several
        inputs[n] = gr.Textbox("", label=n, visible=False)
    del inputs["holds"]
    inputs["loop"] = gr.Checkbox(None, label="loop", visible=False)
    outs = {"film": upload("film"), "report": gr.JSON(visible=False, label="report")}

    def call(*values: Any) -> Iterator[dict[Component, Any]]:
        """Finish ``pictures`` as a film. Fields as in ``python -m engine film --help``, ``format``: mp4, webm, webp,
        gif or zip; ``hold`` and ``durations`` may be lists; ``loop`` empty: as the frames' own settings say."""
        session, given = Session(), dict(zip(inputs, values, strict=True))
        try:
            found = given.pop("pictures") or ()
            finish = finish_of(given)
            film, notes = opened(found, finish, given["loop"])
            path = session.path(f"film.{finish.format}")
            for part in heard(film.writing(path)):
                yield {outs["report"]: told(Progress(part, "writing the film"))}
            yield {outs["film"]: str(path), outs["report"]: film.report | {"notes": [*notes, *film.notes]}}
        except Exception as e:
            raise gr.Error(sentence(e, names=True), print_exception=False) from None
        finally:
            session.forget()

    call.__signature__ = named(inputs, ["pictures"])
    own = {"api_name": "film", "concurrency_limit": None, "show_progress": "hidden"}
    gr.Button(visible=False).click(call, list(inputs.values()), list(outs.values()), **own)
