"""The image, as far as it can be looked at without building it."""

import json
import re
import shlex
import subprocess
from pathlib import Path

from engine.requests.settings import VARIABLES

ROOT = Path(__file__).resolve().parents[1]
TEXT = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip()]


def of(kind):
    return [rest for name, rest in STEPS if name == kind]


def test_what_is_copied_is_there():
    for step in of("COPY"):
        *sources, target = [word for word in shlex.split(step) if not word.startswith("--")]
        assert all((ROOT / source).exists() for source in sources), step
        assert target == "." or any(f"-r {target}{Path(source).name}" in TEXT for source in sources), step


def test_its_commands_can_be_read_and_their_files_are_there():
    for step in of("RUN"):
        subprocess.run(["sh", "-n", "-c", step], check=True)
    command = json.loads(of("CMD")[0])
    assert command[0] == "python" and (ROOT / command[1]).is_file()
    (check,) = (shlex.split(step.split(" CMD ")[1]) for step in of("HEALTHCHECK"))
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")


def test_what_it_sets_is_read_by_the_studio_and_lies_in_its_volume():
    known = {name for names in VARIABLES.values() for name in names} | {"HF_HOME"}
    own = dict(pair.split("=", 1) for pair in shlex.split(of("ENV")[-1]))
    assert own.keys() - known == {"PYTHONUNBUFFERED"} and own["PORT"] == of("EXPOSE")[0]
    volume = Path(of("VOLUME")[0])
    assert all(Path(own[name]).is_relative_to(volume) for name in ("HF_HOME", "CHRYSALIS_CACHE"))
    assert own["HOST"] == "0.0.0.0" and of("USER") == ["artist"]
