"""The menu of networks: what is here, what would be fetched and how large it is, on what terms."""

import html
from typing import Any

import gradio as gr

from engine.checkpoints.library import found
from engine.checkpoints.resolve import CATALOGUE, CLIPS, DETECTORS, Choice, available, missing, resolve
from engine.requests import EngineError, fields_of
from engine.requests.files import split_network
from engine.requests.settings import Settings
from morph_ui.components.shelf.own import cards, mine
from morph_ui.panels import AT_ONCE

KNOWS = (
    "It knows single flowers, close up: faces, rooms and animals come back soft or wrong, so choose a Stable Diffusion "
    "network for those."
)
HINT = "or where a file of yours lies (.safetensors, a folder); + adds a LoRA: sd15 + /loras/ink.safetensors:0.8"


NO_COLOURS = "It can be shown no colours: Draw begins with them, under as much noise as realism says."
NO_LINES = "It can be shown no lines."


def choices(settings: Settings) -> list[tuple[str, str]]:
    """(label, name) of every network: whether it is here, or what would be fetched; then the artist's own."""
    listed = [(f"{e.name} · {'here' if here else f'{e.gb:.1f} GB to fetch'}", e.name) for e, here in available()]
    return listed + [(own.label, own.name) for own in found(settings.folders) if not (own.lora or own.why)]


def describe(model: str, settings: Settings, wants: tuple[str, ...] = ()) -> str:
    """What a network is, on what terms it may be used, and what a first job with it fetches."""
    try:
        choice = resolve(model or "", settings.paths, settings.folders)
        absent = missing(choice.needs(wants))
    except EngineError as e:
        return f'<p class="network-note">{html.escape(str(e))}</p>'
    e = choice.entry
    lines = [f"{e.about[0].upper()}{e.about[1:]}, {e.size} px. {e.licence}: {e.terms}." if e else "Of your own."]
    if e and e.name == "flora":
        lines.append(KNOWS)
    if "stroke" in wants:
        lines += [said for kind, said in (("stroke", NO_COLOURS), ("sketch", NO_LINES)) if not shows(choice, kind)]
    if absent:
        sizes = {x.about: x.gb for x in ({**choice.extras} | CLIPS | DETECTORS).values()}
        names = ", ".join(n for n, _ in absent)
        gigabytes = sum(e.gb if e and n == e.name else sizes.get(n, 0.0) for n, _ in absent)
        lines.append(f"The first job with it fetches {names}: {gigabytes:.1f} GB, kept on this machine.")
    if e and e.memory:
        lines.append(f"For a GPU of {e.memory:.0f} GB or more; on a CPU a picture takes minutes.")
    return f'<p class="network-note">{html.escape(" ".join(lines))}</p>'


def shows(choice: Choice, kind: str) -> bool:
    """Whether a network can be shown lines ("sketch") or colours ("stroke"), by a control or as flora sees them."""
    return bool(choice.family == "flora" or kind in choice.extras or choice.beside(kind))


def toggled(model: str, lora: str) -> str:
    """The network with a LoRA more, or without it where it had it at any strength."""
    first, *more = split_network(model)
    kept = [text for text in more if text != lora and text.rpartition(":")[0] != lora]
    return " + ".join([first, *kept, *([lora] if kept == more else [])])


def chosen(event: gr.EventData) -> str:
    return str(event.name)


def added(model: str, event: gr.EventData) -> str:
    return toggled(model or "", str(event.name))


def guidance_of(request: type) -> dict[str, float]:
    """The guidance that suits each network of the catalogue; empty for a request without it."""
    own = fields_of(request).get("guidance")
    return {n: own.default if n == "flora" else e.guidance for n, e in CATALOGUE.items()} if own else {}


class Network:
    """The menu of a tab and its note. ``wants``: what the tab's jobs ask for beside the network."""

    def __init__(self, tab: str, first: str, settings: Settings, wants: tuple[str, ...]):
        self.settings, self.describe = settings, lambda model: describe(model, settings, wants)
        with gr.Group(elem_classes="settings"):
            own = {"elem_id": f"{tab}-network", "elem_classes": "network"}
            menu = choices(settings)
            self.box = gr.Dropdown(menu, value=first, label="Network", info=HINT, allow_custom_value=True, **own)
            self.note = gr.HTML(self.describe(first), elem_id=f"{tab}-network-note", apply_default_css=False)
            self.mine = self._mine(tab) if settings.folders else None
        self.box.change(self.describe, self.box, self.note, **AT_ONCE)
        if settings.folders:  # the menu is opened
            self.box.focus(lambda: gr.update(choices=choices(settings)), None, self.box, **AT_ONCE)

    def _mine(self, tab: str) -> gr.HTML:
        """The artist's own files, asked of the disk whenever they are opened; a click chooses one, or adds it."""
        with gr.Accordion("Your own files", open=False, elem_id=f"{tab}-own") as fold:
            grid = mine(tab)
        fold.expand(self.cards, self.box, grid, **AT_ONCE)
        grid.choose(chosen, None, self.box, **AT_ONCE)
        grid.join(added, self.box, self.box, **AT_ONCE)
        self.box.change(
            lambda model, shown: self.cards(model) if shown else gr.skip(), [self.box, grid], grid, **AT_ONCE
        )
        return grid

    def cards(self, model: str) -> str:
        texts = [text.partition(" · ")[0] for text in split_network(model or "")]
        texts += [text.rpartition(":")[0] for text in texts]
        return cards(found(self.settings.folders), texts, self.settings.paths is None)

    def suited(self, event: gr.EventData) -> float:
        """The guidance for a file of the artist's own: that of the catalogue's network of its family."""
        family = resolve(str(event.name), self.settings.paths, self.settings.folders).family
        return next((e.guidance for e in CATALOGUE.values() if e.family == family), 7.5)

    def after(self, run: Any) -> None:
        """Has both say after an event what is here by then."""
        both, settings = [self.box, self.note], self.settings
        run.then(lambda m: [gr.update(choices=choices(settings)), self.describe(m)], self.box, both, **AT_ONCE)


def refresh(page: gr.Blocks, settings: Settings) -> None:
    """Has every menu of the page say, whenever it is loaded, what is here by then."""
    menus = [b for b in page.blocks.values() if isinstance(b, gr.Dropdown) and "network" in (b.elem_classes or [])]
    page.load(lambda: [gr.update(choices=choices(settings)) for _ in menus], outputs=menus, **AT_ONCE)
