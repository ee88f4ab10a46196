"""The benchmark runs and prints the keys it promises; no figure is judged here."""

import json
import subprocess
import sys

from conftest import ROOT


def test_interpolate_prints_its_keys(tiny):
    args = ["interpolate", "--model", str(tiny), "--repeats", "1", "--json"]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"engine_over_network", "batched_speedup", "first_frame_s", "peak_mb"} <= set(figures)
    assert figures["batched_difference"] < 1 and figures["unet_evaluations"] > 0
