"""Imports point down (README, the map), do nothing, and the README's map and links are true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

MODELS = {"torch", "diffusers", "transformers", "safetensors"}
LOW = {"engine.requests", "engine.diffusion", "engine.checkpoints", "engine.vision"}
SEEN = ("aside", "containers", "images", "reading", "video", "film", "timeline", "sources", "drawing")
SEEN = (*SEEN, "annotators", "keypoints")
PAGE = {
    "engine.requests",
    "engine.checkpoints.resolve",
    "engine.checkpoints.kinds",
    "engine.checkpoints.library",
    *(f"engine.vision.{m}" for m in SEEN),
}
# What a package may import of ours beside itself.
ALLOWED = {
    "engine/requests": set(),
    "engine/diffusion": {"engine.requests"},
    "engine/checkpoints": {"engine.requests", "engine.diffusion"},
    "engine/vision": {"engine.requests", "engine.diffusion"},
    "engine/context.py": LOW,
    "engine/methods": LOW | {"engine.context"},
    "engine/jobs": {"engine"},
    "engine/__main__.py": {"engine"},
    "morph_ui": PAGE,
    "training": {"engine", "morph_ui"},
    "benchmarks": {"engine", "morph_ui", "training"},
}
FORBIDDEN = {
    "engine": {"gradio"},
    "engine/requests": MODELS | {"numpy", "gradio"},
    "engine/methods": {"diffusers", "transformers"},
    "engine/jobs/worker.py": MODELS,
    "engine/jobs/queue.py": MODELS,
    "engine/jobs/across.py": MODELS,
    "engine/jobs/health.py": MODELS,
    "engine/jobs/ray.py": MODELS,
    "engine/jobs/zerogpu.py": MODELS,
    "engine/checkpoints/resolve.py": MODELS,
    "engine/checkpoints/kinds.py": MODELS,  # it reads headers
    "engine/checkpoints/library.py": MODELS,
    "engine/checkpoints/hub.py": MODELS,
    "morph_ui": MODELS,
}
OURS = ("engine", "morph_ui", "training", "benchmarks")


def files(place: str) -> list[Path]:
    return [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules, and for ``from x import y`` also x.y, which may be one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return found


def within(name: str, places: set[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in places)


@pytest.mark.parametrize("place", ALLOWED)
def test_imports_point_down(place):
    allowed = ALLOWED[place] | {place.removesuffix(".py").replace("/", ".")}
    for file in files(place):
        bad = {i for i in imports(file) if within(i, set(OURS)) and not within(i, allowed)}
        assert not bad, f"{file.relative_to(ROOT)} must not import {bad}"


@pytest.mark.parametrize("place", FORBIDDEN)
def test_others_stay_where_they_belong(place):
    for file in files(place):
        bad = {i for i in imports(file) if within(i, FORBIDDEN[place])}
        assert not bad, f"{file.relative_to(ROOT)} must not import {bad}"


def test_every_module_has_a_place():
    known = {f for place in ALLOWED for f in files(place)} | {ROOT / "engine/__init__.py"}
    assert not {f for place in OURS for f in files(place)} - known


def test_spaces_can_come_before_torch():
    """What app.py imports before it asks for ZeroGPU."""
    code = "import sys, app; print(sorted({'torch', 'gradio', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_importing_does_nothing():
    """No folder made, no network loaded, no log set up at import: only definitions, constants and imports."""
    quiet = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
        ast.AugAssign,
        ast.If,
    )
    for file in [*files("engine"), *files("morph_ui")]:
        for node in ast.parse(file.read_text("utf8")).body:
            plain = isinstance(node, quiet) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            assert plain or ast.unparse(node).startswith("os.environ.setdefault("), (file, ast.unparse(node))


def test_what_the_documents_point_at_is_there():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "training/README.md", *ROOT.glob("assets/**/*.md")]
    for page in pages:
        targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf8"))
        missing = [t for t in targets if not (page.parent / t).exists()]
        assert not missing, f"{page.relative_to(ROOT)} points at {missing}"


def test_the_readme_is_short_and_its_map_names_every_package():
    text = (ROOT / "README.md").read_text("utf8")
    assert len(text.splitlines()) <= 200
    tree = text.partition("## The map")[2].partition("```")[2].partition("```")[0]
    named = [line.split()[0].rstrip("/") for line in tree.splitlines() if line.strip()]
    packages = {p.parent for top in (*OURS, "tests") for p in (ROOT / top).rglob("*.py")}
    lacking = {str(p.relative_to(ROOT)) for p in packages} - set(named)
    assert len(named) == len(set(named)) and not lacking, lacking
    assert all((ROOT / n).exists() for n in named)
