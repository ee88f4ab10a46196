"""The few builders that the tabs share. Bounds and defaults come from the request's own dataclass."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from engine.checkpoints.resolve import CATALOGUE

HERE = Path(__file__).parent


def default(request: type, name: str) -> Any:
    return next(f.default for f in fields(request) if f.name == name)


def slider(request: type, name: str, label: str, **kw: Any) -> gr.Slider:
    """A slider for a field, between the request's own bounds."""
    bound = request.BOUNDS[name]
    return gr.Slider(
        bound.low, bound.high, value=default(request, name),
        step=bound.step, label=label, info=kw.pop("info", bound.help) or None, buttons=[], **kw,
    )  # fmt: skip


def presets(radio: gr.Radio, request: type, table: dict[str, dict[str, Any]], c: dict[str, Any]) -> dict[str, Any]:
    """Makes ``radio`` set the widgets of a preset's fields, in the browser: at once, whatever is pressed next.

    Returns every preset with all the fields that any of them sets.
    """
    names = sorted({name for values in table.values() for name in values})
    # Guidance, where a preset does not name it, is what suits the network.
    free = [p for p, values in table.items() if "guidance" in names and "guidance" not in values]
    whole = {p: {n: values.get(n, default(request, n)) for n in names} for p, values in table.items()}
    lists = json.dumps({p: list(values.values()) for p, values in whole.items()})
    at = names.index("guidance") if free else -1
    js = f"(name, model) => ({lists})[name].map((v, i) => i === {at} && {json.dumps(free)}.includes(name) ? " \
         f"({guidance_of(request)})(model) : v)"  # fmt: skip
    radio.input(None, [radio, c["model"]], [c[n] for n in names], js=js, show_progress="hidden",
                api_visibility="private")  # fmt: skip
    return whole


def guidance_of(request: type) -> str:
    """JavaScript: a network's name, with LoRAs or not, or the path of one → the guidance that suits it."""
    own = {n: (default(request, "guidance") if n == "flora" else e.guidance) for n, e in CATALOGUE.items()
           } if any(f.name == "guidance" for f in fields(request)) else {}  # fmt: skip
    return f"m => ({json.dumps(own)})[(m || '').split(' + ')[0].split(' · ')[0]] ?? 7.5"


def drop_zone(label: str, elem_id: str) -> gr.Image:
    """A picture by drag, paste, upload or webcam, handed on as a path: `engine.vision.images.read` is the one reader.

    Gradio's own reading fails on broken files before we could say what is wrong with them.
    """
    zone = gr.Image(
        label=label, elem_id=elem_id, type="filepath", image_mode=None, height=210,
        sources=["upload", "clipboard", "webcam"], buttons=[],
    )  # fmt: skip
    original = zone.preprocess

    def path(payload: Any) -> Any:
        if payload is None or not payload.path:
            return original(payload)
        return payload.path

    zone.preprocess = path
    return zone


def seed_box(tab: str) -> tuple[gr.Number, gr.Button]:
    """A seed and its dice. An empty box means a new seed, which is then written back."""
    with gr.Row(elem_classes="seed"):
        seed = gr.Number(value=7, precision=0, label="Seed", min_width=110)
        dice = gr.Button("⚂", elem_id=f"{tab}-dice", elem_classes="tool dice", size="sm", scale=0, min_width=44)
    dice.click(new_seed, outputs=seed, queue=False, show_progress="hidden", api_visibility="private")
    return seed, dice


def new_seed() -> int:
    return random.SystemRandom().randrange(2**32)


def picture_url(path: Path | Image.Image, side: int) -> str:
    """A small square copy of a picture as a data URL; what is transparent is white."""
    with Image.open(path) if isinstance(path, Path) else path as picture:
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture.convert("RGBA"))
    block = io.BytesIO()
    ImageOps.fit(ground.convert("RGB"), (side, side)).save(block, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(block.getvalue()).decode()


def thumbnails(rows: Sequence[Sequence[Path | Image.Image]], elem_id: str) -> gr.HTML:
    """A shelf of small pictures to click, a row of one or more each; tells ``choose`` which one."""

    def inline(path: Path | Image.Image) -> str:
        return f'<img alt="" src="{picture_url(path, 112)}">'

    buttons = "".join(
        f'<button type="button" data-index="{i}" aria-label="Example {i + 1}">{"".join(map(inline, row))}</button>'
        for i, row in enumerate(rows)
    )
    return gr.HTML(
        html_template=f'<div class="shelf"><span>try</span>{buttons}</div>',
        css_template=".shelf { display: flex; gap: 10px; align-items: center; overflow-x: auto; font-size: 13px;"
        " color: var(--body-text-color-subdued); } .shelf button { display: flex; padding: 0; border: 1px solid"
        " var(--border-color-primary); border-radius: 9px; overflow: hidden; flex: none; cursor: pointer;"
        " background: none; }"
        " .shelf img { width: 46px; height: 46px; margin: 0; object-fit: cover; display: block; }"
        " .shelf button:hover { border-color: var(--color-accent); }",
        js_on_load="element.querySelectorAll('button').forEach(b => b.addEventListener('click',"
        " () => trigger('choose', { index: +b.dataset.index })));",
        elem_id=elem_id,
        elem_classes="examples",
        apply_default_css=False,
    )


def player(tab: str) -> gr.HTML:
    """The picture, its scrubber and the strip of frames. Python sets its value; it tells which cell was chosen."""
    return gr.HTML(
        value=None,
        html_template=(HERE / "player.html").read_text(),
        css_template=(HERE / "player.css").read_text(),
        js_on_load=(HERE / "player.js").read_text(),
        elem_id=f"{tab}-player",
        apply_default_css=False,
    )


def timeline() -> gr.HTML:
    """Pictures in a row, each with its words: add, remove, reorder by drag.

    Its value is JSON, {"items": [{"path", "words"} …], "coming": how many are still being sent}. Set from Python it may
    hold "items" (examples) or "words" (for the pictures that are there, and the next ones).
    """
    return gr.HTML(
        value=None,
        html_template=(HERE / "timeline.html").read_text(),
        css_template=(HERE / "timeline.css").read_text(),
        js_on_load=(HERE / "timeline.js").read_text(),
        elem_id="morph-timeline",
        apply_default_css=False,
    )


def viewer(tab: str, invitation: str) -> gr.HTML:
    """Results: one large, with a before/after slider, the others in a strip or a sheet below. Python sets its value."""
    return gr.HTML(
        value=None,
        html_template=(HERE / "viewer.html").read_text(),
        css_template=(HERE / "viewer.css").read_text(),
        js_on_load=(HERE / "viewer.js").read_text(),
        elem_id=f"{tab}-viewer",
        apply_default_css=False,
        invitation=invitation,
    )


def feed(tab: str) -> gr.HTML:
    """The one way from Python to a canvas: its value {"tab", "layers"} is put there as an operation of the canvas's
    own, which can be undone. So nothing ever writes to what it listens to."""
    return gr.HTML(
        value=None,
        html_template="",
        js_on_load="""
watch('value', () => {
  const v = props.value && JSON.parse(props.value);
  if (!v) return;
  const tab = [...document.querySelectorAll('[role=tab]')].find(b => b.textContent.trim().toLowerCase() === v.tab);
  if (tab && tab.getAttribute('aria-selected') !== 'true') tab.click();
  const put = tries => {
    const place = document.querySelector(`#${v.tab}-canvas [data-ready], #${v.tab}-canvas[data-ready]`);
    if (place) place.dispatchEvent(new CustomEvent('chrysalis-open', { detail: v.layers }));
    else if (tries) setTimeout(() => put(tries - 1), 100);
  };
  put(50);
});""",
        elem_id=f"{tab}-feed",
        apply_default_css=False,
        visible="hidden",
    )
