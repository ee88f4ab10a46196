"""The menu of networks: what is here, what would be fetched and how large it is, on what terms."""

import html
from typing import Any

import gradio as gr

from engine.checkpoints.resolve import CATALOGUE, CLIPS, DETECTORS, available, missing, resolve
from engine.requests import EngineError, fields_of
from engine.requests.settings import Settings
from morph_ui.panels import AT_ONCE

KNOWS = (
    "It knows single flowers, close up: faces, rooms and animals come back soft or wrong, so choose a Stable Diffusion "
    "network for those."
)
HINT = "or the path of a diffusers folder or .safetensors file; then LoRAs: sd15 + /loras/ink.safetensors:0.8"


def choices() -> list[tuple[str, str]]:
    """(label, name) of every network: whether it is here, or what would be fetched."""
    return [(f"{e.name} · {'here' if here else f'{e.gb:.1f} GB to fetch'}", e.name) for e, here in available()]


def describe(model: str, settings: Settings, wants: tuple[str, ...] = ()) -> str:
    """What a network is, on what terms it may be used, and what a first job with it fetches."""
    try:
        choice = resolve(model or "", settings.paths)
        absent = missing(choice.needs(wants))
    except EngineError as e:
        return f'<p class="network-note">{html.escape(str(e))}</p>'
    e = choice.entry
    lines = [f"{e.about[0].upper()}{e.about[1:]}, {e.size} px. {e.licence}: {e.terms}." if e else "Of your own."]
    if e and e.name == "flora":
        lines.append(KNOWS)
    if absent:
        sizes = {x.about: x.gb for x in ({**choice.extras} | CLIPS | DETECTORS).values()}
        names = ", ".join(n for n, _ in absent)
        gigabytes = sum(e.gb if e and n == e.name else sizes.get(n, 0.0) for n, _ in absent)
        lines.append(f"The first job with it fetches {names}: {gigabytes:.1f} GB, kept on this machine.")
    if e and e.memory:
        lines.append(f"For a GPU of {e.memory:.0f} GB or more; on a CPU a picture takes minutes.")
    return f'<p class="network-note">{html.escape(" ".join(lines))}</p>'


def guidance_of(request: type) -> dict[str, float]:
    """The guidance that suits each network of the catalogue; empty for a request without it."""
    own = fields_of(request).get("guidance")
    return {n: own.default if n == "flora" else e.guidance for n, e in CATALOGUE.items()} if own else {}


class Network:
    """The menu of a tab and its note. ``wants``: what the tab's jobs ask for beside the network."""

    def __init__(self, tab: str, first: str, settings: Settings, wants: tuple[str, ...]):
        self.describe = lambda model: describe(model, settings, wants)
        with gr.Group(elem_classes="settings"):
            own = {"elem_id": f"{tab}-network", "elem_classes": "network"}
            self.box = gr.Dropdown(choices(), value=first, label="Network", info=HINT, allow_custom_value=True, **own)
            self.note = gr.HTML(self.describe(first), elem_id=f"{tab}-network-note", apply_default_css=False)
        self.box.change(self.describe, self.box, self.note, **AT_ONCE)

    def after(self, run: Any) -> None:
        """Has both say after an event what is here by then."""
        both = [self.box, self.note]
        run.then(lambda m: [gr.update(choices=choices()), self.describe(m)], self.box, both, **AT_ONCE)


def refresh(page: gr.Blocks) -> None:
    """Has every menu of the page say, whenever it is loaded, what is here by then."""
    menus = [b for b in page.blocks.values() if isinstance(b, gr.Dropdown) and "network" in (b.elem_classes or [])]
    page.load(lambda: [gr.update(choices=choices()) for _ in menus], outputs=menus, **AT_ONCE)
