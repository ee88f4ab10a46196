"""The page: ``build(worker)`` gives the Blocks; one line a tab."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves the machine

import gradio as gr

from morph_ui import draw, edit, interpolate, morph, networks
from morph_ui.stream import FILES, sweep

# In the head and not as css=: Gradio scopes the rules inside @media to .contain, which leaves the page itself out.
HEAD = f"<style>{(Path(__file__).parent / 'studio.css').read_text()}</style>"
SYSTEM = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")


def theme() -> gr.themes.Base:
    """Quiet greys and one green; the system's own fonts, so that nothing is fetched."""
    return gr.themes.Base(
        primary_hue="emerald",
        neutral_hue="stone",
        radius_size="lg",
        font=SYSTEM,
        font_mono=("ui-monospace", "monospace"),
    ).set(button_primary_text_color="white", block_label_text_weight="500", block_title_text_weight="500")


def build(worker: Any) -> gr.Blocks:
    """The studio over a `Worker` (anything with ``submit(request) -> Job``)."""
    with gr.Blocks(title="Chrysalis", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        gr.HTML("<header><b>Chrysalis</b><span>one picture becomes another</span></header>", elem_id="title")
        sessions = []
        with gr.Tabs():
            for tab in (interpolate, morph, draw, edit):
                with gr.Tab(tab.TITLE, id=tab.TITLE.lower()):
                    sessions.append(tab.build(worker))
        # Set once by an event, or Gradio would never delete it when the visit is over.
        for session in sessions:
            page.load(
                type(session.value), outputs=session, queue=False, show_progress="hidden", api_visibility="private"
            )
        networks.refresh(page)
    return page.queue(max_size=64, default_concurrency_limit=None)


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serves the page with its theme; only a visit's own files can be asked for."""
    FILES.mkdir(parents=True, exist_ok=True)
    sweep()
    return page.launch(
        theme=theme(), head=HEAD, allowed_paths=[str(FILES)], max_file_size="120mb", footer_links=["api", "settings"],
        run_history=False, ssr_mode=False, show_error=True, quiet=True, **options,
    )  # fmt: skip
