"""The *Morph* tab: two or more pictures, and DiffMorpher's way through them."""

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import gradio as gr

from engine.checkpoints.kinds import check_lora
from engine.requests import MOST, EngineError, MorphRequest, settle
from engine.requests.settings import Settings
from engine.vision import images
from engine.vision.containers import archive
from engine.vision.video import BROKEN
from morph_ui.api import FILM, LORAS, api, upload
from morph_ui.components.shelf import EXAMPLES, examples, shelf
from morph_ui.components.timeline import example, keyframes, points, timed, timeline, timing
from morph_ui.form import Form
from morph_ui.panels import QUIET, Updates
from morph_ui.panels.film import Film
from morph_ui.session import Session
from morph_ui.tabs import Asked, columns, first, wire, wire_points
from morph_ui.tabs.arrows import arrows

R = MorphRequest
ABOUT = "Morph through two ``pictures`` or more; ``prompts``: words for each, one a line. MP4, PNGs, report and LoRAs."
LARGEST = 1.5e9  # bytes of LoRAs
# Weights hardly pack: a zip may become so many times its size, or so many bytes if that is more.
PACKED, SMALL = 4, 8e6
NUMBERED = re.compile(r"lora-(\d+)")


def build(worker: Any, settings: Settings) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    state = gr.State(Session(), delete_callback=Session.forget)
    left, right = columns(5, 7)
    with left:
        line, ways = timeline("morph", MOST), ready()
        with gr.Row(elem_classes="tryout"):
            tryout = shelf("morph", [[name for name, _ in way] for way in ways])
        form = Form(R, settings, seed=first.SEEDS["morph"])
        form.inputs["pictures"] = line
    with right:
        panel = Film("morph")
        first.place(form)

    def take(event: gr.EventData) -> str:
        return example(ways[int(event.index)])

    def note(settings: dict[str, Any]) -> tuple[str, Updates]:
        text, words = remember(settings)
        return text, {line: words}

    tryout.choose(take, None, line, **QUIET)
    wire(worker, state, form, panel, ask, note)
    first.wire(form, state, panel)
    wire_points(form, line)
    panel.finish.time(line, state, panel)
    arrows(worker, form, line, sides)
    closed = "on => window.dispatchEvent(new CustomEvent('chrysalis-loop', { detail: { tab: 'morph', on } }))"
    form.widgets["loop"].change(None, form.widgets["loop"], None, js=closed, **QUIET)
    more = {"prompts": gr.Textbox("", visible=False, label="prompts"), "loras": upload("loras", form.fields["loras"])}
    last = {"points": gr.Textbox("", visible=False, label="points")}
    api(worker, R, ABOUT, FILM + LORAS, lambda _, values: call(values), last, **more)
    return state


def ready() -> list[list[tuple[str, str]]]:
    """Ready ways: pairs, and one through four flowers; (name of a picture, its words)."""
    ways = [[(p["a"], p["prompt"]), (p["b"], p["prompt_b"] or p["prompt"])] for p in examples("pairs")]
    return [ways[0], ways[0] + ways[2], *ways[1:]]


def remember(settings: dict[str, Any]) -> tuple[str, str]:
    """What is said of settings from a file; and for the timeline, the words of the pictures that are there or will be
    dropped."""
    try:
        words = [str(w) for w in settings.get("prompts", [])]
        n, files = int(settings.get("keyframes", 2)), any(settings.get("loras", []))
    except (TypeError, ValueError):
        raise EngineError("settings must be as they were written here, got some that were changed") from None
    text = f". The same {n} pictures make it again" + ", with the same LoRAs of your own" * files
    own = {"words": words + [""] * (MOST - len(words)), "points": settings.get("points", [])}
    return text, json.dumps(own | timed(settings))


def ask(session: Session, values: dict[str, Any]) -> Asked:
    """A request from the page, whose pictures are the timeline's."""
    placed, items = values.pop("example", None), keyframes(values["pictures"])
    own: dict[str, Any] = {"points": points(values["pictures"])}
    session.finish = replace(session.finish, **timing(values["pictures"]))
    if placed and not items:
        own |= {"points": []}
        items = [{"path": str(EXAMPLES / name), "words": words} for name, words in first.FLOWERS]
    return call(values | own | {"pictures": [k["path"] for k in items], "prompts": [k["words"] for k in items]}), {}


def sides(values: dict[str, Any], way: int) -> dict[str, Any]:
    """The two pictures of a way, with its points and words."""
    items, put = keyframes(values["pictures"]), points(values["pictures"])
    a, b = items[way], items[(way + 1) % len(items)]
    own: dict[str, Any] = {n: images.read(k["path"]) for n, k in (("a", a), ("b", b))}
    words = {"prompt": a["words"] or values["prompt"], "prompt_b": b["words"] or values["prompt"]}
    return own | words | {"points": put[way : way + 1]}


def call(values: dict[str, Any]) -> R:
    """A request from paths of pictures and LoRAs, words for each, and loose values."""
    paths = values["pictures"] or []
    if not 2 <= len(paths) <= MOST:
        raise EngineError(f"pictures must be 2 to {MOST}, got {len(paths) or 'none'}; drop them in the timeline")
    pictures = tuple(images.read(p, f"picture {i}") for i, p in enumerate(paths, 1))
    own = {"pictures": pictures, "loras": read_loras(values["loras"] or [], len(paths))}
    return R(**settle(R, values | own))


def read_loras(paths: list[str], pictures: int) -> tuple[bytes, ...]:
    """LoRA files for pictures: ``lora-2.safetensors`` for the second, others in their order; a zip holds several."""
    inside = [(path, *file) for path in map(Path, paths) for file in held(path)]
    if len(inside) > pictures:
        raise EngineError(f"loras must be at most {pictures} files, one a picture, got {len(inside)}")
    if sum(size for *_, size in inside) > LARGEST:
        raise EngineError(f"loras must be at most {LARGEST / 1e9:g} GB together, got more")
    files = [(PurePosixPath(name).name, unpack(path, name)) for path, name, _ in inside]
    out: dict[int, bytes] = {}
    for name, block in sorted(files, key=lambda f: not NUMBERED.match(f[0])):
        number = NUMBERED.match(name)
        place = int(number[1]) - 1 if number else -1
        if not 0 <= place < pictures or place in out:
            place = next(i for i in range(pictures) if i not in out)
        out[place] = block
    return tuple(out.get(i, b"") for i in range(max(out, default=-1) + 1))


def held(path: Path) -> list[tuple[str, int]]:
    """(name, bytes) of a LoRA, or of those in a zip, nothing of which is unpacked yet. EngineError for a zip that
    cannot be read, has none, or would become far more than it is."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        return [(path.name, size)]
    with opened(path) as z:
        files = [(i.filename, i.file_size) for i in z.infolist() if i.filename.lower().endswith(".safetensors")]
    if not files:
        raise EngineError(f"loras must be .safetensors files, got {path.name} with none in it")
    if (whole := sum(n for _, n in files)) > (most := max(SMALL, PACKED * size)):
        got = f"{whole / 1e6:.0f} MB of {size / 1e6:.1f} in {path.name}"
        raise EngineError(f"loras must be at most {most / 1e6:.0f} MB in a zip of that size, got {got}")
    return files


def unpack(path: Path, name: str) -> bytes:
    """A LoRA, which may lie in a zip. EngineError for one that is not whole or of another kind."""
    if not zipfile.is_zipfile(path):
        block = path.read_bytes()
    else:
        with opened(path) as z:
            block = z.read(name)
    check_lora(block, f"LoRA {PurePosixPath(name).name}")
    return block


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with archive(path) as z:
            yield z
    except BROKEN as e:
        raise EngineError(f"loras must be in a zip that can be read, got {path.name}: {e}") from None
