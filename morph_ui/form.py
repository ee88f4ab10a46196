"""The widgets of a request, made from what its fields declare, and what they hold as a request again."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import gradio as gr
from gradio.blocks import BlockContext
from gradio.components import Component

from engine.requests import Field, fields_of, new_seed, settle
from engine.requests.settings import Settings
from engine.requests.shared import BEFORE
from morph_ui.networks import Network, guidance_of
from morph_ui.panels import AT_ONCE, Updates

FINE = 0.001  # numbers of smaller steps are typed, not slid
# What suits a network is a table by its name; LoRAs and the label of the menu are left out of that.
SUITABLE = "model => ({})[(model || '').split(' + ')[0].split(' · ')[0]] ?? 7.5"
# What a tab is about, in rows; the other settings fold.
MAIN = {
    "interpolate": (("low", "high"),),
    "morph": (("tier", "frames"), ("loop", "reschedule", "exact_ends")),
    "draw": (("realism", "sketch_scale", "stroke_scale"),),
    "edit": (("strength",),),
}


class Form:
    """Built inside the caller's column: words, *Make* with *Stop* and the seed. What matters most comes below them, or
    into ``main``; all the rest folds below that, or in ``more``. ``places``: the groups, for what a tab has of its own;
    ``wants``: what its jobs ask for beside the network; ``seed``: what it begins with."""

    def __init__(
        self,
        request: Any,
        settings: Settings,
        main: BlockContext | None = None,
        more: BlockContext | None = None,
        wants: Any = (),
        seed: int = 7,
    ):
        self.request, self.tab, self.fields, self.settings = request, request.method, fields_of(request), settings
        self.widgets: dict[str, Component] = {}
        self.inputs: dict[str, Component] = {}  # what else the handler of Make is given, by name
        self.places: dict[str, BlockContext] = {}
        self.start = {n: f.default for n, f in self.fields.items()} | request.presets[request.preset]
        self.start |= {"seed": seed, "model": settings.model or self.start["model"]}
        self.suits = guidance_of(request)
        if self.suits:
            self.start["guidance"] = self.suits.get(self.start["model"].split(" + ")[0], 7.5)
        self._rows("words")
        self._act()
        own = {"elem_id": f"{self.tab}-settings", "elem_classes": "settings main"}
        with main or nullcontext(), gr.Group(**own) as self.places[""]:
            self._presets()
            self._row(*MAIN[self.tab])
        with more or nullcontext():
            self._more(wants)
        self._wire()

    @property
    def components(self) -> set[Component]:
        """What a handler is given, beside the session."""
        return {*self.widgets.values(), *self.inputs.values()}

    def values(self, given: dict[Component, Any]) -> dict[str, Any]:
        """What is in the widgets and the inputs, by name."""
        return {n: given[c] for n, c in (self.widgets | self.inputs).items()}

    def read(self, values: dict[str, Any]) -> Any:
        """Values by name → a request. An empty seed is a new one, 3.0 is 3."""
        return self.request(**settle(self.request, values))

    def load(self, settings: dict[str, Any]) -> Updates:
        """The widgets as settings of a file say; what an older file lacks is as it was then, files are not in it."""
        known = {
            n: None if f.type is tuple else settings.get(n, BEFORE.get(n, f.default)) for n, f in self.fields.items()
        }
        return {c: known[n] for n, c in self.widgets.items()} | {self.preset: None}

    def _rows(self, group: str) -> None:
        """The widgets of a group, in rows as they are declared to lie beside each other."""
        rows: list[list[Field]] = []  # but for what is there already
        for f in self.fields.values():
            if f.spec.group == group and f.name not in self.widgets:
                rows += [] if f.spec.beside and rows else [[]]
                rows[-1].append(f)
        self._row(*rows)

    def _row(self, *rows: Sequence[str | Field]) -> None:
        """Widgets in rows, of fields or of their names."""
        for row in rows:
            with gr.Row() if len(row) > 1 else nullcontext():
                for f in (self.fields[f] if isinstance(f, str) else f for f in row):
                    self.widgets[f.name] = widget(f, self.start[f.name], f"{self.tab}-{f.name.replace('_', '-')}")

    def _act(self) -> None:
        with gr.Row(elem_id=f"{self.tab}-act", elem_classes="act"):
            self.make = gr.Button("Make", variant="primary", elem_id=f"{self.tab}-make", scale=3)
            self.stop = gr.Button("Stop", variant="stop", elem_id=f"{self.tab}-stop", scale=3, visible=False)
            with gr.Row(elem_classes="seed"):
                # An empty box, or -1, means a new seed, which is then written back. No precision: it would round.
                seed = self.widgets["seed"] = gr.Number(self.start["seed"], label="Seed", min_width=110)
                small = {"elem_classes": "tool dice", "size": "sm", "scale": 0, "min_width": 44}
                dice = gr.Button("⚂", elem_id=f"{self.tab}-dice", **small)
        dice.click(new_seed, outputs=seed, **AT_ONCE)

    def _more(self, wants: Any) -> None:
        """All that is seldom touched, in one fold."""
        with gr.Accordion("More", open=False, elem_id=f"{self.tab}-advanced", elem_classes="advanced"):
            self.network = Network(self.tab, self.start["model"], self.settings, wants)
            self.widgets["model"] = self.network.box
            with gr.Group(elem_classes="settings") as self.places["results"]:
                self._rows("results")
                self._rows("")
                self._rows("advanced")
            if any(f.spec.group == "poses" for f in self.fields.values()):
                how = {"open": False, "elem_id": f"{self.tab}-poses", "elem_classes": "advanced"}
                with gr.Accordion("Poses", **how) as self.places["poses"]:
                    self._rows("poses")

    def _presets(self) -> None:
        first, own = self.request.preset, {"elem_id": f"{self.tab}-preset", "elem_classes": "presets"}
        self.preset = gr.Radio(list(self.request.presets), label="Preset", value=first, **own)

    def _wire(self) -> None:
        """Presets set their fields in the browser: at once, whatever is pressed next. Guidance follows the network."""
        model, quiet = self.network.box, {"show_progress": "hidden", "api_visibility": "private"}
        suitable = SUITABLE.format(json.dumps(self.suits))
        presets = self.request.presets
        names = sorted({name for values in presets.values() for name in values})
        start = {n: self.fields[n].default for n in names} | ({"guidance": None} if self.suits else {})  # what suits
        whole = {p: [(start | values)[n] for n in names] for p, values in presets.items()}
        js = f"(name, model) => ({json.dumps(whole)})[name].map(v => v ?? ({suitable})(model))"
        self.preset.input(None, [self.preset, model], [self.widgets[n] for n in names], js=js, **quiet)
        if self.suits:
            # When it is chosen from the menu: loaded settings bring a guidance of their own, and Gradio's `input` also
            # comes when the menu is merely left.
            model.select(None, model, self.widgets["guidance"], js=suitable, **quiet)
            if self.network.mine:
                self.network.mine.choose(self.network.suited, None, self.widgets["guidance"], **quiet)


def widget(field: Field, value: Any, elem_id: str) -> Component:
    """The widget that suits what a field may hold."""
    spec, kind = field.spec, field.type
    how: dict[str, Any] = {"label": spec.label, "elem_id": elem_id, "min_width": 150}
    if kind is tuple:
        files = [".safetensors", ".zip"]
        return gr.File(file_count="multiple", file_types=files, height=110, allow_reordering=True, **how)
    if kind is bool:
        return gr.Checkbox(value, **how)
    if kind is str and not spec.choices:
        words = {"elem_classes": "words"} if spec.group == "words" else {}
        return gr.Textbox(value, placeholder=spec.help, lines=1, **words, **how)
    how |= {"value": value, "info": spec.help or None}
    if spec.choices:
        return gr.Dropdown(spec.labels, **how)
    if spec.step < FINE:
        return gr.Number(**how)
    return gr.Slider(spec.low, spec.high, step=spec.step, buttons=[], **how)
