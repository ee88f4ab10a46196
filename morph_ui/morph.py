"""The *Morph* tab: two or more pictures, and DiffMorpher's way through them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from engine import images
from engine.schema import CATALOGUE_NAMES, FORMS, LORAS, MORPH_PRESETS, EngineError, MorphRequest
from morph_ui.stage import QUIET, api, ended, read_for, refilm, stage, stream
from morph_ui.stream import Session, message, sentence
from morph_ui.widgets import default, new_seed, picture_url, seed_box, slider, thumbnails, timeline

R = MorphRequest
TITLE = "Morph"
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
        preset = gr.Radio(list(MORPH_PRESETS), label="Preset", value="draft", elem_id="morph-preset")
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
        c["loras"] = gr.File(label="LoRAs of your own, for the pictures in their order", file_count="multiple",
                             file_types=[".safetensors"], height=110)  # fmt: skip
        with gr.Row():
            c["own"] = slider(R, "own", "Keep of its own", info="while it looks at both (β)", min_width=150)
            c["adain"] = gr.Checkbox(default(R, "adain"), label="mix the noise's statistics (AdaIN)", min_width=150)
        with gr.Row():
            shapes = [("proportions of the first", "fit"), ("square, cropped", "crop"), ("square, whole", "pad")]
            c["fit"] = gr.Radio(shapes, value=default(R, "fit"), label="Frame")
            c["size"] = slider(R, "size", "Longer side", info="pixels; 0 is the network's own")
        c["model"] = gr.Dropdown(list(CATALOGUE_NAMES), value=default(R, "model"), label="Network",
                                 info="flora is here; the others come from the hub on first use, or name a folder",
                                 allow_custom_value=True)  # fmt: skip
    names = sorted({name for values in MORPH_PRESETS.values() for name in values})

    def preset_values(name: str) -> list[Any]:
        return [MORPH_PRESETS[name].get(n, default(R, n)) for n in names]

    for n, value in zip(names, preset_values("draft"), strict=True):
        c[n].value = value
    preset.input(preset_values, preset, [c[n] for n in names], show_progress="hidden", api_visibility="private")
    with shelf:
        examples(c["pictures"])
    return {f.name: c[f.name] for f in fields(R) if f.name in c} | {k: c[k] for k in ("make", "stop")}


def keyframes(value: Any) -> list[dict[str, str]]:
    """The timeline's pictures, each with ``path`` and ``words``. A path must be an upload of ours or an example."""
    try:
        items = json.loads(value)["items"] if value else []
        names = ("path", "url", "words")
        items = [{n: str(k.get(n) or "") for n in names} for k in items]
    except (TypeError, ValueError, KeyError, AttributeError):
        raise EngineError(f"pictures must be a timeline, got {str(value)[:40]!r}") from None
    roots = [Path(get_upload_folder()).resolve(), EXAMPLES.resolve()]
    for k in items:
        path = Path(k["path"]).resolve()
        if not any(path.is_relative_to(root) for root in roots):
            raise EngineError(f"pictures must be uploaded here, got {path.name}, which lies elsewhere")
    return items


def request_of(values: dict[str, Any]) -> R:
    """Values of the widgets (the timeline's JSON, or for the API a list of files and lines of words) → a request."""
    values = dict(values)
    if values["seed"] is None:
        values["seed"] = new_seed()
    given = values.pop("pictures")
    if isinstance(given, list):
        paths, words = given, values.pop("prompts", "").splitlines()
    else:
        items = keyframes(given)
        paths, words = [k["path"] for k in items], [k["words"] for k in items]
    if len(paths) < 2:
        raise EngineError(f"pictures must be two or more, got {len(paths) or 'none'}; drop them in the timeline")
    pictures = tuple(images.read(p, f"picture {i}") for i, p in enumerate(paths, 1))
    loras = tuple(Path(p).read_bytes() for p in values.pop("loras") or ())
    for name in R.WHOLE:
        if isinstance(values[name], float) and values[name].is_integer():
            values[name] = int(values[name])
    return R(pictures, prompts=tuple(words), loras=loras, **values)


def build(worker: Any) -> gr.State:
    """The tab's widgets and wiring, inside the caller's Blocks. Returns the visit's session."""
    session = gr.State(Session(), delete_callback=Session.forget)
    with gr.Row(elem_classes="studio"):
        with gr.Column(scale=5, min_width=320, elem_classes="left"):
            c = controls()
            make, stop = c.pop("make"), c.pop("stop")
        with gr.Column(scale=7, min_width=320, elem_classes="right"):
            right = stage("morph")
    out = right.outputs(c["seed"], make, stop)
    names, widgets, back = list(c), list(c.values()), right.back
    make.click(fresh(worker, names), [session, back, *widgets], out, **QUIET)
    stop.click(Session.stop, session, queue=False, **QUIET)
    back.input(refilm, [session, back], [right.film, right.pngs, right.status], **QUIET)
    plain = [n for n in names if n not in ("pictures", "loras")]
    right.load.upload(loaded(plain), [right.load, c["pictures"]],
                      [c["pictures"], *(c[n] for n in plain), right.status], **QUIET)  # fmt: skip
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
    api(worker, "morph", about, R, request_of, own)
    return session


def fresh(worker: Any, names: list[str]) -> Callable[..., Iterator[list[Any]]]:
    """The handler of Make."""

    def run(session: Session, back: bool, *values: Any) -> Iterator[list[Any]]:
        try:
            request = request_of(dict(zip(names, values, strict=True)))
        except Exception as e:
            yield ended(session, sentence(e), "problem", back)
            return
        yield from stream(worker, session, request, set(), back)

    return run


def loaded(names: list[str]) -> Callable[[str, str], list[Any]]:
    """Settings back from a file: every widget, and the words of the pictures that are there or will be dropped."""

    def load(path: str, line: str) -> list[Any]:
        try:
            settings = read_for("morph", path)
            items = keyframes(line)
        except EngineError as e:
            return [gr.skip(), *[gr.skip()] * len(names), message(sentence(e), "problem")]
        words = [str(w) for w in settings.get("prompts", ())]
        for item, word in zip(items, words, strict=False):
            item["words"] = word
        value = json.dumps({"items": items, "waiting": words[len(items) :]})
        n = settings.get("keyframes", 2)
        note = f"Settings of {Path(path).name} are set. Drop the same {n} pictures to make it again"
        if any(settings.get("loras", ())):
            note += ", and the same LoRAs"
        return [value, *[settings.get(n, gr.skip()) for n in names], message(note)]

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
        return json.dumps({"items": items, "waiting": []})

    shelf.choose(choose, None, line, show_progress="hidden", api_visibility="private")
