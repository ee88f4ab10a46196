"""The Dockerfile, without an engine: its steps, what a build is sent, and what its libraries ask of the system.

`docker/chroot` runs it all in a bare Debian, by hand; what can rot between two such runs is held here.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def _load():
    spec = importlib.util.spec_from_file_location("steps", ROOT / "docker" / "steps.py")
    module = sys.modules["steps"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


steps = _load()
TEXT = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def sent():
    return steps.sent(ROOT)


def of(word: str, text: str = TEXT, **given: str):
    return [step for step in steps.parse(text, given) if step.word == word]


def test_it_runs_the_studio_as_an_ordinary_user():
    (command,) = of("CMD")
    assert command.values == ("python", "app.py") and command.folder == "/home/artist/chrysalis"
    assert command.user == "artist"
    assert re.search(r"useradd [^&;]*--uid 1000 artist\b", of("RUN")[0].values[0])
    after = [step.word for step in steps.parse(TEXT) if step.user == command.user]
    assert "RUN" not in after  # so nothing is installed by, or for, whoever runs it


def test_it_listens_where_spaces_look_and_keeps_networks_in_the_volume():
    (command,), (volume,), (port,) = of("CMD"), of("VOLUME"), of("EXPOSE")
    seen = command.environment
    assert (seen["HOST"], seen["PORT"], port.values) == ("0.0.0.0", "7860", ("7860",))
    assert seen["PATH"].split(":")[0] == "/opt/venv/bin"
    for name in ("HF_HOME", "CHRYSALIS_CACHE"):
        assert Path(seen[name]).is_relative_to(volume.values[0])
    made = next(step for step in of("RUN") if volume.values[0] in step.values[0])
    assert f"-o {command.user}" in made.values[0] and made.line < volume.line


def test_the_health_check_asks_the_port_it_is_told():
    """The command as Docker's shell would run it, against a server of this test's."""
    (check,) = of("HEALTHCHECK")
    code = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); " \
           "print(s.server_port, flush=True); s.handle_request()"  # fmt: skip
    shell = check.values[0].replace("python ", shlex.quote(sys.executable) + " ", 1)
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        port = server.stdout.readline().strip()
        assert subprocess.run(["sh", "-c", shell], env={"PORT": port}, timeout=60).returncode == 0
        server.wait(20)
        again = subprocess.run(["sh", "-c", shell], env={"PORT": port}, timeout=60, capture_output=True)
        assert again.returncode != 0  # nobody is there any more
    finally:
        server.kill()
        server.wait(20)
        server.stdout.close()


@pytest.mark.parametrize(
    ("torch", "calls"),
    [
        ("cuda", ["install -r /opt/requirements.txt"]),
        (
            "cpu",
            [
                "install --index-url https://download.pytorch.org/whl/cpu torch torchvision",
                "install -r /opt/requirements.txt",
            ],
        ),
        ("tpu", None),
    ],
)
def test_torch_comes_from_where_the_argument_says(tmp_path, torch, calls):
    """The step's own shell command, with a pip that only writes down how it was called."""
    (step,) = [step for step in of("RUN", TORCH=torch) if "pip install" in step.values[0]]
    pip, log = tmp_path / "pip", tmp_path / "log"
    pip.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(log))}\n')
    pip.chmod(0o755)
    environment = step.environment | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["/bin/sh", "-c", step.values[0]], env=environment, capture_output=True, text=True, timeout=20
    )
    if calls is None:
        assert done.returncode and "TORCH must be cuda or cpu, got tpu" in done.stderr and not log.exists()
    else:
        assert done.returncode == 0 and log.read_text().splitlines() == calls


def test_code_comes_after_what_is_installed(sent):
    copies = {step.values[0]: step for step in of("COPY")}
    install = next(step for step in of("RUN") if "pip install" in step.values[0])
    assert copies["requirements.txt"].line < install.line < copies["."].line
    for source in copies:
        assert steps.below(source, sent), f"COPY {source} copies nothing"


def test_a_build_is_sent_what_the_studio_needs_and_no_more(sent):
    tops = {path.split("/")[0] for path in sent}
    assert not tops & {".git", ".venv", ".ci", "shared", "out", "tests", "training", "benchmarks"}
    assert not [path for path in sent if "__pycache__" in path or path.endswith(".pyc")]
    for folder in ("assets/models", "engine", "morph_ui"):
        needed = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file()}
        needed = {path for path in needed if not path.endswith(".pyc")}
        assert needed and needed <= set(sent), needed - set(sent)
    assert {"app.py", "requirements.txt", "LICENSE", "assets/examples/ATTRIBUTION.md"} <= set(sent)


def test_no_file_that_is_sent_imports_one_that_is_not(sent):
    ours = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p.is_dir() and not p.name.startswith("."))}
    there = {Path(path).stem for path in sent if "/" not in path}
    for path in (path for path in sent if path.endswith(".py")):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            missing = {name.split(".")[0] for name in names} & (ours - there)
            assert not missing, f"{path} imports {missing}, which .dockerignore leaves out"


def test_nothing_installed_asks_for_debian_packages():
    """opencv-python (unlike its headless twin) needs libxcb1, libgl1 and libglib2.0-0: then the image would too."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    waiting = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    known: set[str] = set()
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name in known or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        known.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        waiting += [Requirement(need) for need in needs]
    assert {"torch", "controlnet-aux", "opencv-python-headless", "av"} <= known
    asks = {
        "opencv-python": "libgl1",
        "opencv-contrib-python": "libgl1",
        "mediapipe": "libgl1",
        "soundfile": "libsndfile1",
    }
    steps_text, listed = " ".join(step.values[0] for step in of("RUN")), ROOT / "packages.txt"
    for name in known & set(asks):
        assert asks[name] in steps_text, f"{name} needs Debian's {asks[name]}"
    installed = set(re.findall(r"\blib[a-z0-9.+-]+", " ".join(re.findall(r"apt-get install([^&;]*)", steps_text))))
    assert (set(listed.read_text().split()) if listed.exists() else set()) == installed


def test_what_a_dockerignore_leaves_out():
    """Against the examples of Docker's reference."""
    out = steps.patterns("# comment\n*/temp*\n*/*/temp*\ntemp?\n**/*.pyc\n/shared/\n")
    assert out == ("*/temp*", "*/*/temp*", "temp?", "**/*.pyc", "/shared/")
    for path in ("a/temporary.txt", "a/b/temporary.txt", "tempa", "tempb/inside", "x.pyc", "a/b/c/x.pyc", "shared/a/b"):
        assert steps.ignored(out, path), path
    for path in ("temp", "a/b/c/temporary.txt", "xpyc", "a/shared", "tempab"):
        assert not steps.ignored(out, path), path
    with pytest.raises(ValueError, match=r"without ! and \[, got !keep"):
        steps.patterns("*\n!keep")


def test_variables_users_and_continued_lines():
    text = """
# a comment
FROM base:1
ARG A=1
ENV B=$A/${A} PATH=/x:$PATH
WORKDIR /a
WORKDIR b
RUN first \\
  # left out
  && second $B
USER 5
COPY --chown=5:5 "a b" c ./
CMD ["x", "y z"]
"""
    parsed = steps.parse(text, {"A": "2"})
    run, copy, command = parsed[5], parsed[7], parsed[8]
    assert run.values == ("first    && second $B",) and (run.user, run.folder, run.line) == ("root", "/a/b", 8)
    assert run.environment == {"A": "2", "B": "2/2", "PATH": f"/x:{steps.PATH}"}
    assert copy.values == ("a b", "c", "./") and copy.flags == {"chown": "5:5"} and copy.user == "5"
    assert command.values == ("x", "y z") and "A" not in command.environment
    said = subprocess.run(
        ["bash", "-c", 'CMD() { printf "%s|" "$@" "${ENVIRONMENT[@]}"; }; eval "$(tail -n 2)"'],
        input=steps.script(parsed), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == f"5|/a/b|x|y z|PATH=/x:{steps.PATH}|B=2/2|"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("RUN true", "line 1 must be one of .*FROM once and first, got RUN"),
        ("FROM a\nFROM b", "line 2 must be one of .*got FROM"),
        ("FROM a\nADD x /", "line 2 must be one of .*got ADD"),
        ("FROM a\nRUN --mount=type=cache true", "line 2 must be without flags not known here, got RUN --mount"),
        ("FROM a\nRUN <<E\nx\nE", "line 2 must be a command for the shell"),
        ("FROM a\nENV A=${B:-c}", r"line 2 must hold only \$NAME"),
        ("FROM a\nENV A b", "line 2 must be NAME=VALUE pairs"),
        ("FROM a\nCOPY a b", r"line 2 must copy into a folder \(its name ends with /\), got b"),
        ("FROM a\nCMD python app.py", "line 2 must be a JSON list"),
        ("FROM a\nRUN a \\", "line 2 must end somewhere"),
    ],
)
def test_what_is_not_known_is_named_and_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        steps.parse(text)


def test_the_script_knows_every_step_of_the_dockerfile():
    text = (ROOT / "docker" / "chroot").read_text()
    for word in {step.word for step in steps.parse(TEXT)}:
        assert re.search(rf"^{word}\(\) {{", text, re.M), word
    assert subprocess.run(["bash", "-n", ROOT / "docker" / "chroot"]).returncode == 0
    assert (ROOT / "docker" / "chroot").stat().st_mode & 0o111
