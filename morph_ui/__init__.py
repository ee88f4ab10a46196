"""The page: ``build(worker, settings)`` gives the Blocks; one line a tab."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves the machine

import gradio as gr
from starlette.middleware import Middleware

from engine.requests import EngineError
from engine.requests.files import uploads
from engine.requests.settings import Settings
from morph_ui.api import enlarging, filming
from morph_ui.components.help import help_keys
from morph_ui.components.history import history
from morph_ui.components.visit import ARRIVE, visit
from morph_ui.guard import Guard, stay
from morph_ui.networks import refresh
from morph_ui.panels import AT_ONCE
from morph_ui.panels.lasting import arrive
from morph_ui.tabs import draw, edit, interpolate, morph
from morph_ui.tries import NOTE
from morph_ui.visitors import lean, sweep, visits

# In the head and not as css=: Gradio scopes the rules inside @media to .contain, which leaves the page itself out.
HEAD = f"<style>{(Path(__file__).parent / 'studio.css').read_text(encoding='utf8')}</style>"
HEAD += f"<script>{(Path(__file__).parent / 'numbers.js').read_text(encoding='utf8')}</script>"
SYSTEM = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
READY = "() => { window.chrysalisReady = true; window.dispatchEvent(new Event('chrysalis-ready')); }"
PLACES = 1000  # far more than may wait (`Settings.queue`); threads begin when they are needed, and end
TABS = {"Interpolate": interpolate, "Morph": morph, "Draw": draw, "Edit": edit}


def theme() -> gr.themes.Base:
    """Quiet greys and one green, all of them read easily (4.5 : 1); the system's own fonts: nothing is fetched."""
    fonts = {"font": SYSTEM, "font_mono": ("ui-monospace", "monospace")}
    base = gr.themes.Base(primary_hue="emerald", neutral_hue="stone", radius_size="lg", **fonts)
    primary = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    primary |= {f"{name}_dark": value for name, value in primary.items()} | {"button_primary_text_color": "white"}
    quiet = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_400"}
    quiet |= {"input_placeholder_color": "*neutral_500", "input_placeholder_color_dark": "*neutral_400"}
    weights = {"block_label_text_weight": "500", "block_title_text_weight": "500"}
    return base.set(color_accent="*primary_700", **primary, **quiet, **weights)


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
        gr.HTML("<header><b>Chrysalis</b></header>", elem_id="title", apply_default_css=False)
        names, states = [title.lower() for title in TABS], []
        seen = visit(names)
        with gr.Tabs():
            for title, tab in TABS.items():
                with gr.Tab(title, id=title.lower()):
                    states.append(tab.build(worker, settings))
        # Set once by an event, or Gradio would never delete it when the visit is over.
        arrived = page.load(arrive(names), seen, [*states, seen], js=ARRIVE, **AT_ONCE)
        arrived.then(None, js=READY, **AT_ONCE)
        history(*(tab.R for tab in TABS.values()))
        enlarging(worker)
        filming()
        refresh(page, settings)
        help_keys()
    return page.queue(max_size=64, default_concurrency_limit=None, api_open=False)


def launch(page: gr.Blocks, routes: Sequence[Any] = (), **options: Any) -> Any:
    """Serves the page with its theme, and ``routes`` beside it; only a visit's own files can be asked for."""
    sweep()
    stay()
    lean()
    own = {"allowed_paths": [str(visits())], "max_file_size": "120mb", "footer_links": ["api", "settings"]}
    own |= {"app_kwargs": {"routes": [*routes], "middleware": [Middleware(Guard)]}}
    # Whatever is asked takes one of these until its end: of 40, the jobs of one visitor could leave none to others.
    own |= {"max_threads": PLACES}
    own |= {"auth_message": NOTE} if options.get("auth") else {}
    quiet = {"run_history": False, "ssr_mode": False, "show_error": True, "quiet": True}
    # Gradio would ask its own page for 3 s and give up, on a busy machine or behind a company's proxy.
    return page.launch(theme=theme(), head=HEAD, _frontend=False, **own, **quiet, **options)
