"""The *Morph* tab: two or more pictures, and DiffMorpher's way through them."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from engine.requests import FORMS, LORAS, MORPH_PRESETS, MOST, EngineError, MorphRequest
from engine.vision import images
from morph_ui.networks import after, network_box
from morph_ui.stage import QUIET, api, defaults, read_for, refilm, refused, stage, stream
from morph_ui.stream import Session, bar, message, sentence
from morph_ui.widgets import default, new_seed, picture_url, presets, seed_box, slider, thumbnails, timeline

R = MorphRequest
TITLE = "Morph"
LARGEST = 1.5e9  # bytes of LoRAs
NUMBERED = re.compile(r"lora-(\d+)")
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
LORA_LABELS = {"mix": "mixed along the way", "fixed": "one mix for all frames", "none": "none (faster, looser)"}
FORM_LABELS = {"sum": "the sum of their changes", "factors": "their factors, as the published code does"}


def controls() -> dict[str, gr.components.Component]:
    """The request's fields as widgets, in the page's order; keyed by field name."""
    c: dict[str, Any] = {"pictures": timeline()}
    shelf = gr.Row(elem_classes="tryout")
    c["prompt"] = gr.Textbox(
        "", label="In words", placeholder="what they show, e.g. a rose; words under a picture count first", lines=1
    )
    with gr.Row(elem_classes="act"):
        c["make"] = gr.Button("Make", variant="primary", elem_id="morph-make", scale=3)
        c["stop"] = gr.Button("Stop", variant="stop", elem_id="morph-stop", scale=3, visible=False)
        c["seed"], _ = seed_box("morph")
    with gr.Group(elem_classes="settings"):
        preset = c["preset"] = gr.Radio(list(MORPH_PRESETS), label="Preset", value="draft", elem_id="morph-preset")
        with gr.Row():
            c["frames"] = slider(R, "frames", "Frames", info="from one picture to the next", min_width=150)
            c["steps"] = slider(R, "steps", "Steps", info="", min_width=150)
        c["attention"] = slider(R, "attention", "Look at both pictures", info="share of the steps; above .6 blurs")
        with gr.Row():
            c["loop"] = gr.Checkbox(default(R, "loop"), label="close the loop", min_width=120)
            c["reschedule"] = gr.Checkbox(default(R, "reschedule"), label="even steps", min_width=120)
            c["exact_ends"] = gr.Checkbox(default(R, "exact_ends"), label="exact pictures", min_width=120)
    with gr.Accordion("Advanced", open=False, elem_id="morph-advanced", elem_classes="advanced"):
        with gr.Row():
            c["lora"] = gr.Dropdown([(LORA_LABELS[n], n) for n in LORAS], value=default(R, "lora"), label="LoRAs",
                                    info="each picture is learnt by one", min_width=150)  # fmt: skip
            c["fix"] = slider(R, "fix", "The one mix", info="0 the first's, 1 the last's", min_width=150)
        c["form"] = gr.Dropdown([(FORM_LABELS[n], n) for n in FORMS], value=default(R, "form"), label="What is mixed")
        with gr.Row():
            c["lora_steps"] = slider(R, "lora_steps", "Steps of learning", info="at most", min_width=150)
            c["lora_rank"] = slider(R, "lora_rank", "Rank", info="of the LoRAs learnt here", min_width=150)
        with gr.Row():
            c["lora_draws"] = slider(R, "lora_draws", "Noise levels a step", info="", min_width=150)
            c["lora_patience"] = slider(R, "lora_patience", "Patience", info="least gain in 20 steps; 0 goes on",
                                        min_width=150)  # fmt: skip
        c["lora_rate"] = gr.Number(default(R, "lora_rate"), label="Learning rate", info="0 is the network's own",
                                   min_width=140)  # fmt: skip
        c["loras"] = gr.File(label="LoRAs of your own: lora-2 for the second picture, others in their order",
                             file_count="multiple", file_types=[".safetensors", ".zip"], height=110,
                             allow_reordering=True)  # fmt: skip
        with gr.Row():
            c["own"] = slider(R, "own", "Keep of its own", info="while it looks at both (β)", min_width=150)
            c["adain"] = gr.Checkbox(default(R, "adain"), label="mix the noise's statistics (AdaIN)", min_width=150)
        with gr.Row():
            shapes = [("proportions of the first", "fit"), ("square, cropped", "crop"), ("square, whole", "pad")]
            c["fit"] = gr.Radio(shapes, value=default(R, "fit"), label="Frame")
            c["size"] = slider(R, "size", "Longer side", info="pixels; 0 is the network's own")
    c["model"] = network_box("morph", R)
    for name, value in presets(preset, R, MORPH_PRESETS, c)["draft"].items():
        c[name].value = value
    with shelf:
        examples(c["pictures"])
    return {f.name: c[f.name] for f in fields(R) if f.name in c} | {k: c[k] for k in ("make", "stop", "preset")}


def keyframes(value: Any) -> list[dict[str, str]]:
    """The timeline's pictures, each with ``path`` and ``words``. A path must be an upload of ours or an example.

    The value comes from the browser, so nothing in it is believed.
    """
    try:
        found = json.loads(value) if value else {}
        coming = int(found.get("coming") or 0)
        items = [{n: str(k.get(n) or "") for n in ("path", "words")} for k in found.get("items", ())]
    except (TypeError, ValueError, AttributeError):
        raise EngineError(f"pictures must be a timeline, got {str(value)[:40]!r}") from None
    if coming:
        raise EngineError(
            f"pictures must all have arrived, got {coming} still being sent; press Make again in a moment"
        )
    roots = [Path(get_upload_folder()).resolve(), EXAMPLES.resolve()]
    for i, k in enumerate(items, 1):
        path = Path(k["path"].replace("\0", "")).resolve()
        if not any(path.is_relative_to(root) for root in roots):
            raise EngineError(f"picture {i} must be uploaded here, got {path.name}, which lies elsewhere")
        if not path.is_file():
            raise EngineError(f"picture {i} must be dropped again, got an upload that is no longer kept")
        if path.is_relative_to(roots[0]):
            os.utime(path)  # Gradio deletes uploads by their age, and this one is in use
    return items


def loras_of(paths: list[str], pictures: int) -> tuple[bytes, ...]:
    """LoRA files for pictures: ``lora-2.safetensors`` for the second, others in their order; a zip holds several."""
    files: list[tuple[str, bytes]] = []
    for path in map(Path, paths):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as z:
                inside = [i for i in z.infolist() if i.filename.endswith(".safetensors")][:MOST]
                if sum(i.file_size for i in inside) > LARGEST:
                    raise EngineError(f"loras must be at most {LARGEST / 1e9:g} GB together, got more in {path.name}")
                files += [(Path(i.filename).name, z.read(i)) for i in inside]
        else:
            files.append((path.name, path.read_bytes()))
    if len(files) > pictures:
        raise EngineError(f"loras must be at most {pictures} files, one a picture, got {len(files)}")
    out: dict[int, bytes] = {}
    for name, block in sorted(files, key=lambda f: not NUMBERED.match(f[0])):
        number = NUMBERED.match(name)
        place = int(number[1]) - 1 if number else -1
        if not 0 <= place < pictures or place in out:
            place = next(i for i in range(pictures) if i not in out)
        out[place] = block
    return tuple(out.get(i, b"") for i in range(max(out, default=-1) + 1))


def request_of(values: dict[str, Any], paths: list[str], words: list[str]) -> R:
    """Values of the widgets, the files of the pictures and the words for them → a request."""
    values = {k: v for k, v in values.items() if k not in ("pictures", "prompts")}
    if values["seed"] is None:
        values["seed"] = new_seed()
    if not 2 <= len(paths) <= MOST:
        raise EngineError(f"pictures must be 2 to {MOST}, got {len(paths) or 'none'}; drop them in the timeline")
    loras = loras_of(values.pop("loras") or [], len(paths))
    pictures = tuple(images.read(p, f"picture {i}") for i, p in enumerate(paths, 1))
    for name in R.WHOLE:
        if isinstance(values[name], float) and values[name].is_integer():
            values[name] = int(values[name])
    return R(pictures, prompts=tuple(words), loras=loras, **values)


def asked(values: dict[str, Any]) -> R:
    """The same from the page, whose pictures are the timeline's JSON."""
    items = keyframes(values["pictures"])
    return request_of(values, [k["path"] for k in items], [k["words"] for k in items])


def called(values: dict[str, Any]) -> R:
    """The same from the API, where Gradio has taken the files in and looked after their paths."""
    return request_of(values, values["pictures"] or [], (values["prompts"] or "").splitlines())


def build(worker: Any) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    session = gr.State(Session(), delete_callback=Session.forget)
    with gr.Row(elem_classes="studio"):
        with gr.Column(scale=5, min_width=320, elem_classes="left"):
            c = controls()
            make, stop, preset = c.pop("make"), c.pop("stop"), c.pop("preset")
        with gr.Column(scale=7, min_width=320, elem_classes="right"):
            right = stage("morph")
    out = right.outputs(c["seed"], make, stop)
    names, widgets, back = list(c), list(c.values()), right.back
    after(make.click(fresh(worker, names), [session, back, *widgets], out, **QUIET), c["model"])
    stop.click(Session.stop, session, queue=False, **QUIET)
    back.input(refilm, [session, back], [right.film, right.pngs, right.status], **QUIET)
    plain = [n for n in names if n not in ("pictures", "loras")]
    back_in = [c["pictures"], c["loras"], preset, *(c[n] for n in plain), right.status]
    right.load.upload(loaded(plain), right.load, back_in, **QUIET)
    about = (
        "Morph through ``pictures``, two or more files. ``prompts``: words for each, one a line. Streams progress in "
        "the report; ends with an MP4, a zip of PNGs, the settings and a zip of the LoRAs. Fields as in "
        "``python -m engine morph --help``."
    )
    own = {
        "pictures": gr.File(file_count="multiple", visible=False, label="pictures"),
        "prompts": gr.Textbox("", visible=False, label="prompts"),
        "loras": gr.File(file_count="multiple", visible=False, label="loras"),
    }
    api(worker, "morph", about, R, called, own)
    return session


def fresh(worker: Any, names: list[str]) -> Callable[..., Iterator[list[Any]]]:
    """The handler of Make."""

    def run(session: Session, back: bool, *values: Any) -> Iterator[list[Any]]:
        yield [gr.skip(), bar(0, "reading the pictures"), *[gr.skip()] * 8]
        try:
            request = asked(dict(zip(names, values, strict=True)))
        except Exception as e:
            yield refused(sentence(e))
            return
        yield from stream(worker, session, request, set(), back)

    return run


def loaded(names: list[str]) -> Callable[[str], list[Any]]:
    """Settings back from a file: every widget, and the words of the pictures that are there or will be dropped."""

    known = defaults(R)

    def load(path: str) -> list[Any]:
        try:
            settings = read_for("morph", path)
            words = [str(w) for w in settings.get("prompts", [])]
            n = int(settings.get("keyframes", 2))
            brought = any(settings.get("loras", []))
        except EngineError as e:
            return [*[gr.skip()] * (len(names) + 3), message(sentence(e), "problem")]
        except (TypeError, ValueError):
            text = f"Settings must be as they were written here, got {Path(path).name}, which was changed."
            return [*[gr.skip()] * (len(names) + 3), message(text, "problem")]
        value = json.dumps({"words": words + [""] * (MOST - len(words))})
        note = f"Settings of {Path(path).name} are set. The same {n} pictures make it again"
        note += ", with the same LoRAs of your own" if brought else ""
        return [value, None, None, *[settings.get(n, known.get(n, gr.skip())) for n in names], message(note)]

    return load


def examples(line: gr.HTML) -> None:
    """Ready ways to click: pairs, and one through four flowers."""
    pairs = json.loads((EXAMPLES / "pairs.json").read_text())
    ways = [[(p["a"], p["prompt"]), (p["b"], p["prompt_b"] or p["prompt"])] for p in pairs]
    ways.insert(1, [w for way in (ways[0], ways[2]) for w in way])
    shelf = thumbnails([[EXAMPLES / name for name, _ in way] for way in ways], "morph-examples")

    def choose(event: gr.EventData) -> str:
        way = ways[int(event.index)]
        items = [{"path": str(EXAMPLES / n), "url": picture_url(EXAMPLES / n, 236), "words": w} for n, w in way]
        return json.dumps({"items": items})

    shelf.choose(choose, None, line, show_progress="hidden", api_visibility="private")
