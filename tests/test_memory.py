"""Budgets, parts that wait outside, and a lack of memory in the middle of a job."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_network, picture
from diffusers import AutoencoderKL

from engine.checkpoints.manager import ModelManager
from engine.context import Context
from engine.diffusion import memory
from engine.diffusion.attention import per_step
from engine.diffusion.guidance import Conditioning
from engine.diffusion.memory import GB, Room, plan
from engine.diffusion.schedule import LCM
from engine.jobs.run import run
from engine.methods import learn, morph
from engine.requests import Done, EngineError, InterpolateRequest, MorphRequest, Progress

SD15 = {"unet": 1_719_041_928, "vae": 167_307_726, "text": 246_120_960}  # bytes in half precision
SDXL = {"unet": 5_134_927_368, "vae": 167_307_726, "text": 1_635_440_640}  # as benchmarks/memory.py counts them
CPU = torch.device("cpu")


@pytest.fixture
def model(tiny):
    """A network that nobody else has."""
    return ModelManager("cpu", torch.float32).load(str(tiny))


@pytest.mark.parametrize(
    ("parts", "size", "gigabytes", "tiles", "offload"),
    [(SD15, 512, g, g < 2, g < 4) for g in (1.5, 2.5, 3, 4, 6, 24)]
    + [(SDXL, 1024, g, g < 6, g < 12) for g in (4, 6, 8, 12, 24)],
)
def test_the_plan_fits_the_budget(parts, size, gigabytes, tiles, offload):
    """By the plan's own figures: what is on the device, rows or pictures at work, what a job keeps and a reserve."""
    p = plan(int(gigabytes * GB), parts, 320, size, 8, 2, 64)
    assert (p.tiles, p.offload) == (tiles, offload)
    row = memory.ROW * (size // 8) ** 2 * 320 * 2
    shown = memory.TILED if tiles else p.pictures * memory.PICTURE * size**2 * 128 * 2
    for part, work in (("unet", p.rows * row), ("vae", shown)):
        weights = parts[part] if offload else sum(parts.values())
        least = (p.rows if part == "unet" else p.pictures) == 1 and not p.spare
        assert least or weights + memory.RESERVE + work + p.spare <= gigabytes * GB


def test_an_autoencoder_in_float32_decodes_fewer_pictures_a_time():
    half, whole = (plan(24 * GB, SDXL, 320, 1024, 8, 2, 64, n) for n in (2, 4))
    assert half.pictures == 2 * whole.pictures and half.rows == whole.rows
    assert not plan(12 * GB, SDXL, 320, 1024, 8, 2, 64, 2).tiles and plan(12 * GB, SDXL, 320, 1024, 8, 2, 64, 4).tiles


@torch.no_grad()
@pytest.mark.parametrize(("side", "tile"), [(1024, 512), (256, 256)])
def test_tiles_are_never_as_large_as_the_pictures_sdxl_is_for(side, tile):
    vae = AutoencoderKL(sample_size=side, block_out_channels=(4,), norm_num_groups=2)
    seen, forward = [], vae.decoder.forward
    vae.decoder.forward = lambda z: seen.append(z.shape[2]) or forward(z)
    for on in (False, True):
        memory.tile(vae, on)
        assert vae.decode(torch.zeros(1, 4, 640, 8)).sample.shape == (1, 3, 640, 8)
    assert seen[0] == 640 and seen[1] == max(seen[1:]) == tile


def test_what_a_job_keeps_is_on_the_device_or_outside_or_its_first_steps(monkeypatch):
    card = torch.device("cuda")
    monkeypatch.setattr(memory, "limit", lambda device: 1000)
    assert memory.outside(300) == 700 and memory.outside(900) == 250
    assert memory.keep(card, 90, 300, 9, 10) == (10, card, ())
    assert memory.keep(card, 89, 300, 9, 10) == (10, CPU, ())
    assert memory.keep(card, 89, 300, 9, 99) == (77, CPU, ())
    assert memory.keep(card, 0, 0, 0, 5) == (5, card, ())  # a network without such attentions


def test_larger_budgets_take_more_at_a_time():
    rows = [plan(g * GB, SD15, 320, 512, 8, 2, 64).rows for g in (4, 6, 8, 12, 24, 80)]
    assert rows == sorted(rows) and rows[0] >= 1 and rows[-1] == 64 and len(set(rows)) >= 5
    controlled = SD15 | {"unet": SD15["unet"] + 722_000_000}
    assert plan(4 * GB, controlled, 320, 512, 8, 2, 64).offload


def test_a_limit_is_what_was_asked_for_and_no_more_than_there_is():
    whole = memory.limit(CPU)
    assert memory.limit(CPU, 1.0) == GB < whole == memory.limit(CPU, 1e6)
    assert ModelManager("cpu", memory=0.5).limit == GB // 2


def short(limit, asked=None):
    """Doubles what it is given, if that is not more than ``limit`` rows."""

    def fn(first, rows):
        if asked is not None:
            asked.append((first, len(rows)))
        if len(rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows * 2

    return fn


@torch.no_grad()
def test_when_memory_runs_out_the_chunk_is_halved_and_then_a_sentence(monkeypatch):
    monkeypatch.setattr(memory, "release", lambda device: None)  # which takes its time
    room, asked, x = Room(CPU), [], torch.randn(10, 4, 8, 8)
    assert torch.equal(room.chunk(short(3, asked), (x,), 16, "rows"), x * 2)
    assert asked == [(0, 10), (0, 5), (0, 2), (2, 2), (4, 2), (6, 2), (8, 2)]
    assert room.trouble == "memory of cpu ran out; it went on with 2 pictures a time"
    asked.clear()
    room.chunk(short(3, asked), (x,), 16, "rows")
    room.chunk(short(16, asked), (x,), 16, "pictures")
    assert asked == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (0, 10)]  # rows and pictures are remembered apart
    with pytest.raises(EngineError, match="memory of cpu must hold one picture of"):
        room.chunk(short(0), (x,), 16, "rows")

    def broken(first, rows):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        room.chunk(broken, (x,), 16, "rows")


@torch.no_grad()
def test_another_network_leaves_before_chunks_get_smaller(tmp_path, tiny):
    models = ModelManager("cpu", torch.float32)
    models.load(str(make_network(tmp_path / "other")))
    model, tries = models.load(str(tiny)), []

    def greedy(first, rows):
        tries.append((len(rows), len(models._resident)))
        if len(models._resident) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows

    assert torch.equal(model.room.chunk(greedy, (torch.arange(5),), 16, "rows"), torch.arange(5))
    assert tries == [(5, 2), (5, 1)] and not model.room.trouble


@torch.no_grad()
def test_offloaded_parts_wait_outside_and_make_the_same_pictures(model, monkeypatch):
    x, z, resident = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 4, 8, 8), model.resident

    def all_of_it():
        return model.encode(x), model.denoiser([Conditioning(model.embed(["a rose"]))])(z, 1.0), model.decode(z)

    whole = all_of_it()
    resident.settle(resident.bytes // 2)
    assert resident.plan.offload and resident.plan.tiles and model.vae.use_tiling and model.rows == 1
    model.vae.disable_tiling()  # tiles overlap and blend: nearly the same, not quite
    at_work = []
    for part, modules in resident.modules().items():

        def moved(*args, part=part, own=modules[0].to, **kw):
            at_work.append((part, args[0] if args else None))
            return own(*args, **kw)

        monkeypatch.setattr(modules[0], "to", moved)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(all_of_it(), whole, strict=True))
    to_the_device = [part for part, where in at_work if isinstance(where, torch.device)]
    assert to_the_device == ["vae", "text", "unet", "vae"]  # each just before its work, the others out before it
    assert [p for p, where in at_work if where == "cpu"][:2] == ["unet", "text"]


def test_memory_that_runs_out_in_the_middle_is_told_and_the_picture_is_the_same(tiny, monkeypatch):
    models = ModelManager("cpu", torch.float32)
    request = InterpolateRequest(picture(1, (64, 64)), picture(2, (64, 64)), frames=9, steps=6, model=str(tiny))
    *_, calm = run(Context(models), request)
    unet, memo = models.load(str(tiny)).unet, type(models.memo)
    forward = unet.forward

    def greedy(sample, *args, **kw):
        if len(sample) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(sample, *args, **kw)

    models.memo = memo()
    monkeypatch.setattr(unet, "forward", greedy)
    *told, done = run(Context(models), request)
    assert isinstance(done, Done)
    assert any("memory of cpu ran out; it went on with" in n for n in done.notes)
    assert any(isinstance(e, Progress) and "memory of cpu ran out" in e.doing for e in told)
    far = [np.asarray(a, int) - np.asarray(b, int) for a, b in zip(done.frames, calm.frames, strict=True)]
    assert np.abs(far).max() <= 1
    models.memo = memo()
    monkeypatch.setattr(unet, "forward", forward)
    *_, after = run(Context(models), request)
    assert not after.notes  # the next job is not told of the last one's trouble


def test_a_morph_says_how_many_steps_memory_let_look_at_both_pictures(tiny, monkeypatch):
    kept, redraw = [], learn.redraw
    monkeypatch.setattr(
        memory, "outside", lambda waiting: 2 * 2 * per_step(models.load(str(tiny)).unet, torch.empty(8, 8))
    )
    monkeypatch.setattr(morph, "redraw", lambda *args: kept.append((yield from redraw(*args))) or kept[-1])
    models = ModelManager("cpu", torch.float32)
    own = models.load(str(tiny)).resident
    monkeypatch.setattr(own, "settle", lambda limit: None)
    own.plan = replace(own.plan, spare=0)
    pair = picture(1, (64, 64)), picture(2, (64, 64))
    *_, done = run(
        Context(models), MorphRequest(pair, frames=3, steps=6, lora="none", reschedule=False, model=str(tiny))
    )
    assert any("only the first 2 of 4 steps look at both pictures" in n for n in done.notes)
    assert len({sigma for _, sigma in kept[0][1]}) == 2


@torch.no_grad()
def test_a_picture_too_large_to_decode_goes_in_tiles(tiny, monkeypatch):
    models = ModelManager("cpu", torch.float32)
    model = models.load(str(tiny))
    z, decode = torch.randn(1, 4, 16, 16), model.vae.decode
    whole = model.decode(z)

    def greedy(rows, *args, **kw):
        if not model.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(rows, *args, **kw)

    monkeypatch.setattr(model.vae, "decode", greedy)
    tiled = model.decode(z)
    assert tiled.shape == whole.shape and "go in tiles" in model.room.trouble
    assert (tiled - whole).abs().mean() < whole.std()
    models.load(str(tiny))
    assert not model.vae.use_tiling  # the next job plans anew


def test_few_step_weights_count_as_memory_and_leave_with_their_sampler(model):
    resident, own, shown = model.resident, model.unet.conv_in.weight, []
    before, few = resident.bytes, {"conv_in.weight": own.detach() + 1}
    resident.equip("live", lambda: few)
    assert resident.has("live") and resident.few_step_times == LCM
    for sampler in ("ddim", "live", "ddim"):
        with resident.weights_for(sampler):
            shown.append(own.data_ptr() == few["conv_in.weight"].data_ptr())
    assert shown == [False, True, False]
    assert resident.bytes == before + own.numel() * own.element_size()


def test_few_steps_are_refused_where_there_is_no_lora_for_them(model):
    with pytest.raises(EngineError, match=r"sampler must be ddim for .*, which has no few-step LoRA, got 'live'"):
        model.resident.weights_for("live")
