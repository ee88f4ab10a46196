"""Imports point down (README, map of the tree). The forbidden ones are named here, so that the layers cannot rot."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "engine/schema": ["torch", "numpy", "gradio", "engine", "morph_ui"],
    "engine/geometry.py": ["diffusers", "engine"],
    "engine/sampling.py": ["diffusers", "engine"],
    "engine/images.py": ["diffusers", "engine.diffusion.model", "engine.checkpoints.manager", "engine.methods"],
    "engine/drawing.py": ["diffusers", "engine"],
    "engine/rendering.py": ["diffusers", "gradio", "engine.methods"],
    "engine/catalogue.py": ["torch", "diffusers", "gradio", "engine.checkpoints.manager"],
    "engine/hub.py": ["torch", "diffusers", "gradio", "engine.checkpoints.manager", "engine.diffusion.model"],
    "engine/control.py": ["diffusers", "engine"],
    "engine/memory.py": ["diffusers", "engine"],
    "engine/loading.py": ["gradio", "engine.diffusion.model", "engine.checkpoints.manager", "engine.methods"],
    "engine/pose.py": ["torch", "diffusers", "gradio"],
    "engine/detectors.py": ["diffusers", "gradio"],
    "engine/cluster.py": ["torch", "gradio"],
    "engine/zero.py": ["torch"],
    "engine/hooks.py": ["diffusers", "engine"],
    "engine/cache.py": [
        "engine.checkpoints.manager",
        "engine.diffusion.model",
        "engine.methods",
        "diffusers",
        "gradio",
    ],
    "engine/network.py": ["engine.checkpoints.manager", "engine.methods", "gradio"],
    "engine/models.py": ["engine.methods", "diffusers", "gradio"],
    "engine/ranking.py": ["engine.methods", "diffusers"],
    "engine/perceptual.py": ["engine.methods", "diffusers", "engine.requests"],
    "engine/lora.py": ["engine.methods", "engine.checkpoints.manager", "diffusers"],
    "engine/lorafile.py": ["engine.methods", "engine.checkpoints.manager", "diffusers"],
    "engine/textual.py": ["engine.methods", "gradio", "diffusers"],
    "engine/methods": ["diffusers", "gradio", "morph_ui"],
    "engine/video.py": ["torch"],
    "engine/worker.py": ["torch", "gradio"],
    "engine": ["gradio", "morph_ui", "training"],
    "morph_ui": [
        "torch",
        "diffusers",
        "engine.checkpoints.manager",
        "engine.diffusion.model",
        "engine.methods",
        "training",
    ],
    "morph_ui/stream.py": ["gradio"],
    "app.py": ["torch", "diffusers", "gradio"],
}


def imports(path: Path, top_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


@pytest.mark.parametrize(("place", "banned"), FORBIDDEN.items(), ids=list(FORBIDDEN))
def test_forbidden_imports(place, banned):
    path = ROOT / place
    for file in [path] if path.is_file() else path.rglob("*.py"):
        found = imports(file, top_only=place == "app.py")
        bad = {i for i in found for b in banned if i == b or i.startswith(b + ".")}
        if place == "engine/schema":
            bad = {i for i in bad if not i.startswith("engine.requests")}
        assert not bad, f"{file.relative_to(ROOT)} must not import {bad}"


def test_methods_do_not_know_each_other():
    for file in (ROOT / "engine/methods").glob("*.py"):
        if file.name != "__init__.py":
            assert not {i for i in imports(file, False) if i.startswith("engine.methods")}


def test_importing_does_nothing():
    """No folder made, no network loaded, no log set up at import: only definitions, constants and imports."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If)
    for file in [*(ROOT / "engine").rglob("*.py"), *(ROOT / "morph_ui").rglob("*.py")]:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Expr):
                text = ast.unparse(node)
                assert isinstance(node.value, ast.Constant) or text.startswith("os.environ.setdefault"), (file, text)
            else:
                assert isinstance(node, allowed), (file, ast.unparse(node))


@pytest.mark.parametrize(
    ("tab", "request_type", "elsewhere"),
    [
        ("interpolate", "InterpolateRequest", {"picks", "reseeds"}),
        ("morph", "MorphRequest", {"prompts"}),
        ("draw", "DrawRequest", {"sketch", "strokes", "photo", "mask"}),
        ("edit", "EditRequest", {"guide", "photo", "mask"}),
    ],
)
def test_the_tab_has_a_control_for_every_field(tab, request_type, elsewhere):
    """But for what the strip's own buttons set, the words under each picture of the timeline, and the canvas."""
    import importlib
    import inspect

    import gradio as gr

    from engine import requests as schema
    from engine.checkpoints.resolve import CATALOGUE

    with gr.Blocks():
        keys = set(importlib.import_module(f"morph_ui.{tab}").controls())
    keys -= {"make", "stop", "preset", "where", "faithful", "realistic", "poses", "examples"}
    assert keys == set(inspect.signature(getattr(schema, request_type)).parameters) - elsewhere
    assert tuple(CATALOGUE) == schema.CATALOGUE_NAMES


def test_what_the_readme_points_at_is_there():
    for page in (ROOT / "README.md", ROOT / "training/README.md", ROOT / "assets/models/flora/README.md"):
        targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
        assert targets or page.parent != ROOT
        missing = [t for t in targets if not (page.parent / t).exists()]
        assert not missing, f"{page.relative_to(ROOT)} points at {missing}"
    tree = (ROOT / "README.md").read_text().partition("## The map")[2].partition("```")[2].partition("```")[0]
    named = set(re.findall(r"[\w/]+\.(?:py|js|css|html)\b", tree))
    for file in [*(ROOT / "engine").rglob("*.py"), *(ROOT / "morph_ui").rglob("*.py")]:
        inside = file.name == "__init__.py" or file.parent.name == "schema"
        assert inside or any(n.endswith(file.name) for n in named), f"the README's map lacks {file.relative_to(ROOT)}"
