"""Budgets, eviction, parts that wait outside, and a lack of memory in the middle of a job."""

import pytest
import torch
from conftest import make_network, picture

from engine.checkpoints.manager import Models
from engine.diffusion import memory
from engine.diffusion.memory import GB, plan
from engine.diffusion.model import Network, Row
from engine.jobs.run import run
from engine.requests import Done, EngineError, InterpolateRequest, Progress

SD15 = {"unet": 1_719_041_928, "vae": 167_307_726, "text": 246_120_960}  # bytes in half precision


@pytest.mark.parametrize(("gigabytes", "tiles", "offload"), [(2.5, True, True), (3, True, True), (4, True, False),
                                                             (6, False, False), (24, False, False)])  # fmt: skip
def test_the_plan_fits_the_budget(gigabytes, tiles, offload):
    """By the plan's own figures: weights that are on the device, rows at work and a reserve stay within it."""
    p = plan(int(gigabytes * GB), SD15, 320, 512, 8, 2, 64)
    assert (p.tiles, p.offload) == (tiles, offload)
    weights = max(SD15.values()) if offload else sum(SD15.values())
    row, shown = memory.ROW * 64 * 64 * 320 * 2, memory.TILED if tiles else memory.PICTURE * 512 * 512 * 128 * 2
    assert p.rows == 1 or weights + memory.RESERVE + p.rows * row <= gigabytes * GB
    assert p.pictures == 1 or weights + memory.RESERVE + p.pictures * shown <= gigabytes * GB


def test_larger_budgets_take_more_at_a_time():
    rows = [plan(g * GB, SD15, 320, 512, 8, 2, 64).rows for g in (4, 6, 8, 12, 24, 80)]
    assert rows == sorted(rows) and rows[0] >= 1 and rows[-1] == 64 and len(set(rows)) >= 5
    controlled = SD15 | {"unet": SD15["unet"] + 722_000_000}
    assert plan(4 * GB, controlled, 320, 512, 8, 2, 64).offload


def test_a_limit_comes_from_the_argument_or_the_environment(monkeypatch):
    cpu = torch.device("cpu")
    whole = memory.limit(cpu)
    assert memory.limit(cpu, 1.0) == GB and whole > GB
    monkeypatch.setenv("CHRYSALIS_MEMORY_GB", "0.5")
    assert memory.limit(cpu) == GB // 2 and memory.limit(cpu, 1.0) == GB
    assert memory.limit(cpu, 1e6) == whole


def test_the_least_recently_used_networks_leave_when_memory_asks_for_it(tmp_path):
    names = [str(make_network(tmp_path / n)) for n in "abcd"]
    one = Models("cpu", torch.float32).load(names[0]).bytes
    models = Models("cpu", torch.float32)
    working = memory.RESERVE + memory.TILED + memory.ROW * 8**2 * 16 * 4  # what the plan leaves for one row
    models.limit = int(2.5 * one + working)
    a, b, c, d = names
    first = models.load(a)
    models.load(b)
    assert models.load(a) is first
    models.load(c)
    assert list(models._resident) == [a, c]  # b was the one not used for longest
    models.load(d)
    assert list(models._resident) == [c, d]
    models.limit = one // 2  # less than a single one: it is tried all the same, alone
    assert models.load(a) is not first and list(models._resident) == [a]


def test_a_lack_of_memory_while_loading_has_the_others_leave_and_then_is_a_sentence(tmp_path, monkeypatch):
    a, b = (str(make_network(tmp_path / n)) for n in "ab")
    models, tries = Models("cpu", torch.float32), []
    models.load(a)
    real = Network.__init__

    def short(self, *args, **kw):
        tries.append(list(models._resident))
        if models._resident:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(self, *args, **kw)

    monkeypatch.setattr(Network, "__init__", short)
    models.load(b)
    assert tries == [[a], []]
    monkeypatch.setattr(Network, "__init__", lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError("none left")))
    with pytest.raises(EngineError, match=r"memory of cpu must hold .*a, of .* GB more, got too little"):
        models.load(a)
    monkeypatch.setattr(Network, "__init__", real)
    assert models.load(a)


def test_offloaded_parts_wait_outside_and_make_the_same_pictures(tmp_path, monkeypatch):
    folder = str(make_network(tmp_path / "net"))
    models = Models("cpu", torch.float32)
    net, x, z = models.load(folder), torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 4, 8, 8)

    def all_of_it():
        with torch.no_grad():
            return [net.encode(x), net.field([Row(net.embed(["a rose"]))])(z, 1.0), net.decode(z)]

    whole = all_of_it()
    net.limit = net.bytes // 2
    net.settle()
    assert net.plan.offload and net.plan.tiles and net.vae.use_tiling and net.batch == 1
    net.vae.disable_tiling()  # tiles overlap and blend: nearly the same, not quite
    at_work = []
    for part, modules in net.modules().items():

        def moved(*args, part=part, own=modules[0].to, **kw):
            at_work.append((part, args[0] if args else None))
            return own(*args, **kw)

        monkeypatch.setattr(modules[0], "to", moved)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(all_of_it(), whole, strict=True))
    to_the_device = [part for part, where in at_work if isinstance(where, torch.device)]
    assert to_the_device == ["vae", "text", "unet", "vae"]  # each just before its work, the others out before it
    assert [p for p, where in at_work if where == "cpu"][:2] == ["unet", "text"]


def test_memory_that_runs_out_in_the_middle_is_told_and_the_picture_is_the_same(tmp_path, monkeypatch):
    folder = str(make_network(tmp_path / "net"))
    models = Models("cpu", torch.float32)
    request = InterpolateRequest(picture(1, (64, 64)), picture(2, (64, 64)), frames=9, steps=6, model=folder)
    calm = list(run(models, request))
    models.memo = type(models.memo)()
    net, limit = models.load(folder), 3
    forward = net.unet.forward

    def greedy(sample, *args, **kw):
        if len(sample) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(sample, *args, **kw)

    monkeypatch.setattr(net.unet, "forward", greedy)
    events = list(run(models, request))
    done = events[-1]
    assert isinstance(done, Done)
    assert any("memory of cpu ran out; it went on with" in n for n in done.notes)
    assert any(isinstance(e, Progress) and "memory of cpu ran out" in e.doing for e in events)
    far = [max(abs(x - y) for p, q in zip(a.getdata(), b.getdata(), strict=True) for x, y in zip(p, q, strict=True))
           for a, b in zip(done.frames, calm[-1].frames, strict=True)]  # fmt: skip
    assert max(far) <= 1
    monkeypatch.setattr(net.unet, "forward", forward)
    models.memo = type(models.memo)()
    assert not list(run(models, request))[-1].notes  # the next job is not told of the last one's trouble


def test_another_network_leaves_before_chunks_get_smaller(tmp_path):
    a, b = (str(make_network(tmp_path / n)) for n in "ab")
    models = Models("cpu", torch.float32)
    models.load(a)
    net, tries = models.load(b), []

    def greedy(rows):
        tries.append((len(rows), list(models._resident)))
        if len(models._resident) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows

    with torch.no_grad():
        assert torch.equal(net.chunked(greedy, torch.arange(5)), torch.arange(5))
    assert tries == [(5, [a, b]), (5, [b])] and not net.trouble


def test_a_picture_too_large_to_decode_goes_in_tiles(tmp_path, monkeypatch):
    models = Models("cpu", torch.float32)
    net, z = models.load(str(make_network(tmp_path / "net"))), torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        whole, decode = net.decode(z), net.vae.decode

        def greedy(rows, *args, **kw):
            if not net.vae.use_tiling:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(rows, *args, **kw)

        monkeypatch.setattr(net.vae, "decode", greedy)
        tiled = net.decode(z)
    assert tiled.shape == whole.shape and "go in tiles" in net.trouble
    assert (tiled - whole).abs().mean() < whole.std()


def test_the_few_step_weights_count_as_memory(tmp_path):
    from engine.checkpoints import lora_files as lorafile
    from engine.diffusion import lora

    models = Models("cpu", torch.float32)
    net = models.load(str(make_network(tmp_path / "net")))
    bank = lora.blank(net, 1, 4)
    bank = lora.Bank({n: (a, torch.ones_like(b)) for n, (a, b) in bank.factors.items()})
    net.few = tmp_path / "few.safetensors"
    net.few.write_bytes(lorafile.to_bytes(bank, {}))
    before = net.bytes
    with net.sampler("live"):
        pass
    assert net.bytes > before
    assert net.jumps(steps=4) == [float(net.sigmas[t]) for t in (999, 759, 499, 259)] + [0.0]  # LCM's own grid
