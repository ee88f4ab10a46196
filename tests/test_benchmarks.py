"""The benchmark runs and prints the keys it promises; no figure is judged here."""

import json
import subprocess
import sys

import torch
from conftest import ROOT, picture

from benchmarks.morph import frames_of
from benchmarks.naive import Naive
from engine import images, lora
from engine.cache import Cache
from engine.models import Models
from engine.schema import MorphRequest


def test_interpolate_prints_its_keys(tiny):
    args = ["interpolate", "--model", str(tiny), "--repeats", "1", "--json"]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"engine_over_network", "batched_speedup", "first_frame_s", "peak_mb"} <= set(figures)
    assert figures["batched_difference"] < 1 and figures["unet_evaluations"] > 0


def test_the_engines_morph_is_the_plain_one(tiny, tmp_path):
    """All frames in one batch, a mix per row, features kept in half precision: the pictures of the plain way."""
    models = Models("cpu", torch.float32)
    models.cache = Cache(tmp_path)
    net = models.load(str(tiny))
    r = MorphRequest((picture(0, (64, 64)), picture(1, (64, 64))), steps=10, frames=5, model=str(tiny), size=64)
    naive = Naive(net, r.steps)
    with torch.no_grad():
        z, words = net.encode(images.to_tensor(list(r.pictures))), net.embed(["a", "b"])
        loras = [naive.fit(z[i : i + 1], words[i : i + 1], 4, 3, 0.05) for i in (0, 1)]
        noise = []
        for i, (a, b) in enumerate(loras):
            naive.merge({n: b[n] @ a[n] for n in a})
            noise.append(naive.invert(z[i : i + 1], words[i : i + 1]))
        plain = naive.pictures(naive.way(noise, [words[:1], words[1:]], loras, [i / 4 for i in range(5)]))
    assert all(torch.equal(m.weight, naive.own[n]) for n, m in lora.targets(net.unet).items())
    bank = lora.Bank({n: (torch.stack([f[0][n] for f in loras]), torch.stack([f[1][n] for f in loras]))
                      for n in loras[0][0]})  # fmt: skip
    scaled = torch.cat(noise) * (1 + net.levels(r.steps)[0] ** 2) ** 0.5
    _, batched = frames_of(models, r, scaled, words, bank)
    assert (plain - batched).abs().mean() < 2e-3 < (plain[1:] - plain[:-1]).abs().mean()
