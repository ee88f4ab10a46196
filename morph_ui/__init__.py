"""The page: ``build(worker, settings)`` gives the Blocks; one line a tab."""

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves the machine

import gradio as gr

from engine.requests import EngineError
from engine.requests.files import uploads
from engine.requests.settings import Settings
from morph_ui.api import enlarging, filming
from morph_ui.components.history import history
from morph_ui.components.visit import ARRIVE, visit
from morph_ui.networks import refresh
from morph_ui.panels import AT_ONCE
from morph_ui.panels.lasting import arrive
from morph_ui.session import sweep, visits
from morph_ui.tabs import draw, edit, interpolate, morph

# In the head and not as css=: Gradio scopes the rules inside @media to .contain, which leaves the page itself out.
HEAD = f"<style>{(Path(__file__).parent / 'studio.css').read_text(encoding='utf8')}</style>"
HEAD += f"<script>{(Path(__file__).parent / 'numbers.js').read_text(encoding='utf8')}</script>"
SYSTEM = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
TABS = {"Interpolate": interpolate, "Morph": morph, "Draw": draw, "Edit": edit}


def theme() -> gr.themes.Base:
    """Quiet greys and one green; the system's own fonts, so that nothing is fetched."""
    fonts = {"font": SYSTEM, "font_mono": ("ui-monospace", "monospace")}
    base = gr.themes.Base(primary_hue="emerald", neutral_hue="stone", radius_size="lg", **fonts)
    return base.set(button_primary_text_color="white", block_label_text_weight="500", block_title_text_weight="500")


def folders() -> None:
    """Makes the folders of visits and of uploads. EngineError where they cannot be written: not after the work."""
    for place in (visits(), uploads()):
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        except OSError as e:
            raise EngineError(
                f"folder for pictures must be one that can be written, got {place}: {e.strerror}"
            ) from None


def build(worker: Any, settings: Settings | None = None) -> gr.Blocks:
    """The studio over a `Worker` (anything with ``submit(request) -> Job``)."""
    settings = settings or Settings.read()
    folders()
    with gr.Blocks(title="Chrysalis", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        gr.HTML("<header><b>Chrysalis</b><span>one picture becomes another</span></header>", elem_id="title")
        names, states = [title.lower() for title in TABS], []
        seen = visit(names)
        with gr.Tabs():
            for title, tab in TABS.items():
                with gr.Tab(title, id=title.lower()):
                    states.append(tab.build(worker, settings))
        # Set once by an event, or Gradio would never delete it when the visit is over.
        page.load(arrive(names), seen, [*states, seen], js=ARRIVE, **AT_ONCE)
        history(*(tab.R for tab in TABS.values()))
        enlarging(worker)
        filming()
        refresh(page, settings)
    return page.queue(max_size=64, default_concurrency_limit=None)


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serves the page with its theme; only a visit's own files can be asked for."""
    sweep()
    own = {"allowed_paths": [str(visits())], "max_file_size": "120mb", "footer_links": ["api", "settings"]}
    quiet = {"run_history": False, "ssr_mode": False, "show_error": True, "quiet": True}
    return page.launch(theme=theme(), head=HEAD, **own, **quiet, **options)
