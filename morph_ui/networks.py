"""The menu of networks: what is here, what would be fetched and how large it is, on what terms."""

from __future__ import annotations

import html
import os
from typing import Any

import gradio as gr

from engine.checkpoints.resolve import CATALOGUE, CLIPS, DETECTORS, absent, chosen, present
from engine.requests import EngineError
from morph_ui.widgets import default, guidance_of

HINT = "or the path of a diffusers folder or .safetensors file; then LoRAs: sd15 + /loras/ink.safetensors:0.8"


def choices() -> list[tuple[str, str]]:
    """(label, name) of every network: whether it is here, or what would be fetched."""
    return [(f"{e.name} · {'here' if here else f'{e.gb:.1f} GB to fetch'}", e.name) for e, here in present()]


def about(model: str, wants: tuple[str, ...] = ()) -> str:
    """What a network is, on what terms it may be used, and what a first job with it fetches."""
    try:
        choice = chosen(model or "")
        missing = absent(choice.needs(wants))
    except EngineError as e:
        return f'<p class="network-note">{html.escape(str(e))}</p>'
    e = choice.entry
    lines = [f"{e.about[0].upper()}{e.about[1:]}, {e.size} px. {e.licence}: {e.terms}." if e else "Of your own."]
    if missing:
        sizes = {x.about: x.gb for x in (choice.extras | CLIPS | DETECTORS).values()}
        names = ", ".join(n for n, _ in missing)
        gigabytes = sum(e.gb if e and n == e.name else sizes.get(n, 0.0) for n, _ in missing)
        lines.append(f"The first job with it fetches {names}: {gigabytes:.1f} GB, kept on this machine.")
    if e and e.memory:
        lines.append(f"For a GPU of {e.memory:.0f} GB or more; on a CPU a picture takes minutes.")
    return f'<p class="network-note">{html.escape(" ".join(lines))}</p>'


def network_box(tab: str, request: type, guidance: gr.Slider | None = None, wants: tuple[str, ...] = ()) -> gr.Dropdown:
    """The menu and its note, begun with CHRYSALIS_MODEL or the request's own.

    ``guidance`` follows the network: what suits flora is little for Stable Diffusion."""
    first = os.environ.get("CHRYSALIS_MODEL") or default(request, "model")
    with gr.Group(elem_classes="settings"):
        box = gr.Dropdown(choices(), value=first, label="Network", info=HINT, allow_custom_value=True,
                          elem_id=f"{tab}-network", elem_classes="network")  # fmt: skip
        note = gr.HTML(about(first, wants), elem_id=f"{tab}-network-note", apply_default_css=False)
    box.change(lambda model: about(model, wants), box, note, queue=False, show_progress="hidden",
               api_visibility="private")  # fmt: skip
    if guidance is not None:
        base = first.split(" + ")[0]
        guidance.value = CATALOGUE[base].guidance if base in CATALOGUE and base != "flora" else guidance.value
        # When it is chosen from the menu: loaded settings bring a guidance of their own, and Gradio's `input` also
        # comes when the menu is merely left.
        box.select(None, box, guidance, js=guidance_of(request), show_progress="hidden", api_visibility="private")
    box.network_note, box.network_wants = note, wants
    return box


def after(run: Any, box: Any) -> None:
    """Has a menu and its note say after a run what is here by then."""
    run.then(lambda m: [gr.update(choices=choices()), about(m, box.network_wants)], box, [box, box.network_note],
             queue=False, show_progress="hidden", api_visibility="private")  # fmt: skip


def refresh(page: Any) -> None:
    """Has every menu of the page say, whenever it is loaded, what is here by then."""
    menus = [b for b in page.blocks.values() if isinstance(b, gr.Dropdown) and "network" in (b.elem_classes or [])]
    page.load(lambda: [gr.update(choices=choices()) for _ in menus], outputs=menus, queue=False, show_progress="hidden",
              api_visibility="private")  # fmt: skip
