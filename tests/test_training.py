"""The training from nothing to a folder that the studio loads, interrupted once; and what it stands on."""

import csv
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, done
from PIL import Image, ImageOps

from engine.checkpoints.manager import ModelManager
from engine.requests import DrawRequest
from training import network
from training.data import KINDS, Look, caption, colour_name, look, picture_of
from training.light import CROP, MARGIN, some
from training.loop import BF16, STOP, Run, Weights, get, orthogonal, put
from training.network import drop

# The steps themselves on networks of a few channels, where the judge of the decoder speaks at once.
TINY = """
from training import autoencoder, light, network
autoencoder.ENCODER, autoencoder.DECODER, autoencoder.WARM = (8, 8, 16, 32), (8, 8, 16, 32), 2
network.CHANNELS = (32, 32, 64, 64)
light.WIDTH, light.PHOTOS, light.DRAWN, light.GUESSED, light.VAL = 8, 4, 4, 4, 2
from training.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """The tree's 20 photographs and their mirror images as a set to learn from."""
    folder = tmp_path_factory.mktemp("flowers")
    with (folder / "index.csv").open("w") as f:
        table = csv.writer(f)
        table.writerow(["file", "label", "source", "split"])
        for n, file in enumerate(sorted((ROOT / "assets" / "examples").glob("*.webp"))):
            photo = Image.open(file).convert("RGB")
            for name, one in ((file.name, photo), (f"m-{file.name}", ImageOps.mirror(photo))):
                one.save(folder / name)
                table.writerow([name, file.name.split("-")[0], "flower_photos", "val" if n % 4 == 0 else "train"])
    return folder


def start(flowers: Path, work: Path, *arguments: str) -> subprocess.Popen:
    env = {"CHRYSALIS_DATA": flowers, "CHRYSALIS_WORK": work, "CHRYSALIS_FLORA": work / "flora"}
    plain = {"OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}  # compiling takes longer than these few steps
    env = os.environ | {k: str(v) for k, v in env.items()} | plain
    command = [sys.executable, "-c", TINY, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines(work: Path) -> list[dict]:
    path = work / "training.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_from_nothing_to_a_picture_through_an_interrupt(flowers, tmp_path):
    arguments = ("all", "--minutes", "0.6", "--batch", "10")
    first, until = start(flowers, tmp_path, *arguments), time.monotonic() + 90
    while not any(line["step"] == "joint, val" for line in lines(tmp_path)):
        assert first.poll() is None and time.monotonic() < until, first.stdout.read()
        time.sleep(0.2)
    time.sleep(2)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=30)
    assert first.returncode == 0 and "stopped and saved" in said, said
    before = [line["samples"] for line in lines(tmp_path) if line["step"] == "joint"][-1]
    assert before > 0 and not (tmp_path / "unet.pt").exists()

    second = start(flowers, tmp_path, *arguments)
    said, _ = second.communicate(timeout=150)
    assert second.returncode == 0, said
    seen = {line["step"]: line for line in lines(tmp_path)}
    for step in ("joint", "decoder", "network", "few-steps", "light", "clip"):
        assert seen[step]["samples"] > 0 and np.isfinite(list(seen[step].values())[1:]).all(), seen
    assert seen["joint"]["samples"] > before and seen["joint"]["minutes"] < 0.4  # both calls together
    assert "judge0" in seen["decoder"] and "ratio" in seen["decoder"]
    folder = tmp_path / "flora"
    assert {p.name for p in folder.iterdir()} >= {"unet", "vae", "text_encoder", "tokenizer", "live", "light", "clip"}
    drawing = picture_of("strokes", 0, np.asarray(Image.open(next(flowers.glob("*.webp"))).convert("RGB")))
    request = DrawRequest(strokes=Image.fromarray(drawing).convert("RGBA"), model=str(folder), steps=4, seed=1)
    frame = np.asarray(done(ModelManager("cpu", torch.float32), request).frames[0])
    assert frame.shape == (256, 256, 3) and frame.std() > 1


def test_without_the_photographs_it_says_so_in_a_sentence(tmp_path):
    said, _ = (process := start(tmp_path, tmp_path / "work", "joint")).communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("CHRYSALIS_DATA must name a folder of 256 × 256 pictures")


def test_a_checkpoint_of_the_recipe_goes_on(monkeypatch):
    """recipe.py saves UNet, text encoder and a head that nothing trained, in this order, with AdamW's state."""
    monkeypatch.setattr(network, "CHANNELS", (32, 32, 64, 64))
    torch.manual_seed(0)

    unet, text = network.build_unet(), network.build_text_encoder()
    head = torch.nn.Sequential(torch.nn.Conv2d(256, 512, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(512, 328, 1))
    masters = [p.detach().clone() for m in (unet, text, head) for p in m.parameters()]
    optimiser = torch.optim.AdamW(masters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for m in masters[: -len([*head.parameters()])]:
        m.grad = torch.randn_like(m)
    optimiser.step()
    saved = {"m": masters, "ema": {k: [m + 1 for m in masters] for k in (20_000, 150_000)}, "o": optimiser.state_dict()}

    ours, words, params = network.modules(None)
    weights = Weights(params, 1e-3, network.AVERAGES, 0.01)
    weights.load(saved)
    own = [*ours.parameters(), *words.parameters()]
    assert all(torch.equal(p, m.to(BF16)) for p, m in zip(own, masters, strict=False))
    assert torch.equal(weights.averages[20_000][0], masters[0] + 1)
    for p in own:
        p.grad = torch.ones_like(p)
    weights.step(1e-3, 4, 100)
    assert all((p - m.to(BF16)).abs().max() > 0 for p, m in zip(own[:4], masters, strict=False))
    assert len(weights.state()["o"]["param_groups"][0]["params"]) == len(masters)  # and back again


def test_small_steps_are_not_lost_in_the_working_precision():
    p = torch.nn.Parameter(torch.ones(64))
    weights = Weights([p], 1e-5, (100,), dtype=torch.bfloat16)
    for seen in range(400):
        p.grad = torch.ones_like(p)
        weights.step(1e-5, 1, seen)
    assert p.dtype == torch.bfloat16 and abs(float(weights.masters[0][0]) - (1 - 400e-5)) < 1e-4
    weights.show(100)
    assert p[0].item() == float(weights.averages[100][0][0].bfloat16())
    weights.show(None)
    assert p[0].item() == float(weights.masters[0][0].bfloat16())


def test_a_run_stops_saved_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.WORK", tmp_path)
    torch.save({"n": 8, "sec": 60.0, "w": 1}, tmp_path / "toy.pt")
    run = Run("toy", "toy", 5)
    assert run.state["w"] == 1
    try:
        for _ in run.until(lambda: {"w": 2}):
            run.count(4, loss=torch.tensor(1.5))
            if run.steps == 3:
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        STOP.clear()
    saved = Run("toy", "toy", 5)
    assert (saved.samples, saved.steps, saved.seconds, saved.state["w"]) == (20, 3, run.seconds, 2)
    assert run.seconds >= 60 and 0 < run.share < 0.1
    assert lines(tmp_path)[-1] == {
        "step": "toy", "samples": 20, "minutes": 1.0, "loss": 1.5
    }  # fmt: skip


def test_checkpoints_are_read_as_mere_numbers(tmp_path, monkeypatch):
    """Numpy's are kept as Python's; files of before, which have some, are read; and nothing in a file is run."""
    monkeypatch.setattr("training.loop.WORK", tmp_path)
    state = {
        "n": np.int64(3),
        "o": {0: {"lr": np.float64(0.1), "betas": (np.float32(0.5), 0.99)}},
        "on": np.bool_(True),
    }
    state |= {"m": [torch.ones(2)], "z": np.arange(3)}
    put(state, "new")
    kept = torch.load(tmp_path / "new.pt", weights_only=True)
    assert [type(kept[k]) for k in ("n", "on", "z")] == [int, bool, torch.Tensor] and kept["o"][0]["betas"] == (
        0.5,
        0.99,
    )
    torch.save({k: v for k, v in state.items() if k != "z"}, tmp_path / "old.pt")
    old = get("old")
    assert old and {k: old[k] for k in ("n", "o", "on")} == {k: state[k] for k in ("n", "o", "on")}
    torch.save({"n": 1, "run": Path("/")}, tmp_path / "odd.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        get("odd")
    assert get("none") is None


def test_words_follow_what_is_seen():
    assert colour_name(1, 0.9, 0.1) == "yellow" and colour_name(0.8, 0.1, 0.1) == "red"
    picture = np.full((256, 256, 3), (30, 90, 20), np.uint8)
    picture[64:192, 64:192] = (240, 220, 20)
    seen = look(picture)
    assert seen.flower == "yellow" and "green" in seen.ground
    texts = [caption("rose", Look("red", "dark", False), random.Random(i)) for i in range(200)]
    assert 5 < texts.count("") < 40 and sum("red" in t for t in texts) > 100


def test_drawings_of_the_mirror_image_are_mirrored_and_others():
    photo = np.asarray(Image.open(sorted((ROOT / "assets" / "examples").glob("*.webp"))[0]).convert("RGB"))
    made = {kind: picture_of(kind, 5, photo) for kind in KINDS}
    assert np.array_equal(made["photo-m"], photo[:, ::-1]) and made["half"].shape == (128, 128, 3)
    assert np.abs(made["half-m"].astype(int) - made["half"][:, ::-1]).max() <= 1
    ink = {kind: float((made[kind] < 128).mean()) for kind in ("sketch", "sketch-m")}
    assert 0 < ink["sketch-m"] != ink["sketch"]
    colours = [len(np.unique(made[kind].reshape(-1, 3), axis=0)) for kind in ("strokes", "strokes-m")]
    assert colours[0] <= 16 and colours[1] <= 10 and colours[0] != colours[1]


def test_drops_leave_none_both_lines_or_colours_as_often_as_said():
    torch.manual_seed(0)
    given, phi = torch.ones(20_000, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    lines, paint = drop(given, given, phi, 0.55).flatten(1).bool().unbind(1)
    found = [~lines & ~paint, lines & paint, lines & ~paint, ~lines & paint]
    for share, wanted in zip(found, (0.45, 0.55 * 0.45, 0.55 * 0.22, 0.55 * 0.33), strict=True):
        assert abs(float(share.float().mean()) - wanted) < 0.01


def test_an_orthogonal_update_turns_nothing_and_evens_what_is_large_and_small():
    u, values, v = torch.linalg.svd(torch.randn(8, 72, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    found = orthogonal(u @ torch.diag(values * torch.logspace(0, -1, 8)) @ v)
    along = u.T @ found @ v.T
    assert along.diag().min() > 0.6 and along.diag().max() < 1.3
    assert (along - torch.diag(along.diag())).abs().max() < 1e-4


def test_a_crop_is_of_its_latents_and_counts_up_to_the_border_but_not_to_a_cut():
    z = np.zeros((1, 4, 32, 32), np.float16)
    z[0, 0], z[0, 1] = np.mgrid[:32, :32]
    x = np.repeat(np.mgrid[:256, :256][..., None], 3, -1)[:1].astype(np.uint8)  # every row is of its own grey
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        latent, picture, (down, across) = some(z, x, rng)
        top, left = int(latent[0, 0, 0, 0]), int(latent[0, 1, 0, 0])
        assert round(float(picture[0, 0, 0, 0] + 1) * 127.5) == 8 * top and picture.shape[-2:] == (8 * CROP, 8 * CROP)
        for at, counts in ((top, down), (left, across)):
            low, high = counts.start, 8 * CROP - counts.stop
            assert (low, high) == (8 * MARGIN * (at > 0), 8 * MARGIN * (at + CROP < 32))
            seen.add((low > 0, high > 0))
    assert seen == {(False, True), (True, False), (True, True)}
