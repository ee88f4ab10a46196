"""The benchmark runs and prints the keys it promises; no figure is judged here."""

import json
import sys
from importlib import import_module

import pytest
import torch
from conftest import ROOT, make_network, picture
from diffusers import UNet2DConditionModel

from benchmarks.__main__ import main
from benchmarks.device import random_network
from benchmarks.figures import FIGURES
from benchmarks.morph import frames_of, stack_of
from benchmarks.naive import Naive
from benchmarks.tiny import make_few_steps
from engine.diffusion import lora
from engine.requests import EngineError, MorphRequest
from engine.vision import images


@pytest.mark.parametrize("package", ["benchmarks", "training"])
def test_every_module_finds_what_it_imports(package):
    for file in (ROOT / package).glob("*.py"):
        import_module(f"{package}.{file.stem}")


def test_interpolate_prints_its_keys(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "interpolate", "--model", str(tiny), "--repeats", "1", "--json"])
    main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"engine_over_network", "batched_speedup", "first_frame_s", "peak_mb"} <= set(figures)
    assert figures["batched_difference"] < 1 and figures["unet_evaluations"] > 0


def test_the_engines_morph_is_the_plain_one(tiny, models):
    """All frames in one batch, a mix per row, features kept in half precision: the pictures of the plain way."""
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
    scaled = torch.cat(noise) * (1 + net.schedule.sigmas(r.steps)[0] ** 2) ** 0.5
    _, batched = frames_of(models, r, scaled, words, stack_of(loras))
    assert (plain - batched).abs().mean() < 2e-3 < (plain[1:] - plain[:-1]).abs().mean()


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The lines of ``python -m benchmarks device`` on the tiny shape, by figure and network; and what it left."""
    place = tmp_path_factory.mktemp("device")
    flora = make_network(place / "flora", extra=8)
    make_few_steps(UNet2DConditionModel.from_pretrained(flora / "unet"), flora)
    args = ["--device", "cpu", "--shape", "tiny", "--size", "64", "--steps", "4", "--share", "0.02", "--seconds", "0"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        args += ["--flora", str(flora), "--folder", str(place / "net"), "--json", str(place / "lines")]
        patch.setattr(sys, "argv", ["benchmarks", "device", *args])
        main()
    lines = json.loads((place / "lines").read_text())
    assert end.value.code == 0, lines
    return lines, place / "net"


def of(device, figure, network="sd"):
    return [line for line in device[0] if line["figure"] == figure and line.get("network") == network]


def test_device_has_every_figure_and_says_on_what(device):
    lines, _ = device
    assert {line["figure"] for line in lines} == {"machine", "made", *FIGURES}
    assert lines[0]["kind"] == "cpu" and lines[0]["shape"] == "tiny" and lines[0]["runs"] == 1
    assert lines[0]["device"] and lines[0]["memory_gb"] > 0
    for figure in ("network", "live", "precision"):
        assert of(device, figure) and of(device, figure, "flora")
    assert [list(line) for line in lines if line["figure"] == "memory"] == [["figure", "skipped"]]
    for line in lines:
        for key in ("seconds", "whole_s", "bare_s", "engine_over_network", "lora_fit_s", "updates_per_s", "speedup"):
            assert line.get(key, 1) > 0, line
        assert line.get("resident_mb", 100) > 50, line
        if "evaluations_per_s" in line:
            assert line["evaluations_per_s"] == pytest.approx(line["evaluations"] / line["seconds"], rel=0.01)


def test_device_counts_are_those_of_the_methods(device):
    draft = 2 * (1 * 3 + 2 * 3 + 4 * 2)  # guidance's two rows; depths 2, 2 and 1 of four steps
    fitted = 2 * 4  # two steps of textual inversion, two pictures, guided
    paper = 2 * (1 * 8 * 3 + 2 * 7 * 3 + 4 * 6 * 2 + 8 * 5 * 2) + fitted  # candidates: eight, then one fewer a level
    assert [line["evaluations"] for line in of(device, "network")] == [draft]
    assert [line["evaluations"] for line in of(device, "interpolate")] == [draft, paper]
    assert [line["frames"] for line in of(device, "interpolate")] == [9, 17]
    # Inversion, both pictures again, the quick look's nine frames, and the fourteen between.
    walks = 2 * 4 + 2 * 4 + 9 * 4 + 14 * 4
    standard, own = of(device, "morph")
    assert standard["lora_steps"] == 3 and standard["evaluations"] == 3 * 2 * 2 + walks
    assert own["lora_steps"] == 4 and own["share"] == 0.02 and own["evaluations"] == 4 * 2 + walks
    assert all(line["frames"] == 16 and line["lora_fit_s"] < line["seconds"] for line in (standard, own))
    for network, controls in (("sd", ["sketch", "stroke"]), ("flora", [])):
        (live,) = of(device, "live", network)
        assert live["evaluations_per_update"] == 2 and live["controls"] == controls and live["updates"] >= 3


@pytest.mark.parametrize("network", ["sd", "flora"])
def test_device_precisions_give_the_same_pictures(device, network):
    plain, half = of(device, "precision", network)
    assert (plain["dtype"], half["dtype"]) == ("float32", "bfloat16")
    assert 0 < half["difference"] <= half["worst_frame"] < plain["contrast"] / 10


def test_device_makes_its_network_once(device):
    _, folder = device
    made = [f.stat().st_mtime_ns for f in sorted(folder.rglob("*.safetensors"))]
    assert len(made) == 6 and random_network(folder, "tiny") == folder
    assert [f.stat().st_mtime_ns for f in sorted(folder.rglob("*.safetensors"))] == made
    with pytest.raises(EngineError, match="shape sd1"):
        random_network(folder, "sd1")
