"""Graphs answer as torch does, only what is plain goes to them, and whatever befalls them no picture is lost."""

import gc
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pictures
import pytest
import torch
from conftest import ROOT, make_network, picture
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from benchmarks.tiny import done, make_controls, make_flora
from engine.checkpoints.manager import ModelManager
from engine.diffusion import lora, mapped, openvino_graphs, pages
from engine.diffusion.background import Background
from engine.diffusion.control import ControlInput
from engine.diffusion.cuda_graphs import CudaGraphs
from engine.diffusion.executor import Executor, executor
from engine.diffusion.graph_files import GraphFiles
from engine.diffusion.guidance import Conditioning
from engine.requests import DrawRequest
from engine.vision import images
from morph_ui.panels import summary

if importlib.util.find_spec("openvino") is None:  # not imported before the engine does it
    pytest.skip("openvino is not installed", allow_module_level=True)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def brisk(request, monkeypatch):
    """Other tests may keep the machine busy: what is idle would wait for them."""
    if "idle" not in request.node.name:
        monkeypatch.setattr(os, "nice", lambda by: 0)


def manager(folder: Path | None = None, dtype: torch.dtype = torch.float32) -> ModelManager:
    return ModelManager("cpu", dtype, executor="auto", graphs=folder)


def ready(models: ModelManager) -> None:
    models.executor.ready()


@torch.no_grad()
def answers(model, size=(64, 64), rows=3) -> list[torch.Tensor]:
    """What every part says: words, latents, pictures, noise under two guidance rows, and with few steps."""
    x = images.to_tensor([picture(i, size) for i in range(rows)])
    words, z = model.embed(["a rose", ""], ["blue"]), model.encode(x)
    own = [Conditioning(words[:1], 2.0), Conditioning(words[2:], -1.0)]
    out = [*words.tensors, z, model.decode(z), model.denoiser(own)(z, 2.0), model.denoiser(own[:1])(z[:1], 0.5)]
    if model.resident.has("live"):
        with model.resident.weights_for("live"):
            out.append(model.denoiser(own)(z, 2.0))
    return out


def gap(a, b) -> float:
    return max(float((x - y).abs().max() / max(1, float(x.abs().max()))) for x, y in zip(a, b, strict=True))


def network(kind: str, folder: Path) -> Path:
    if kind == "flora":
        return make_flora(folder)
    return make_network(folder, "v_prediction" if kind == "sd2" else "epsilon", attends=(0, 1))


@pytest.mark.parametrize(("kind", "sizes"), [("sd1", [(64, 64), (80, 64)]), ("sd2", [(64, 64)]), ("flora", [(64, 64)])])
def test_every_part_is_equal_at_every_size(kind, sizes, tmp_path):
    name, models = str(network(kind, tmp_path / "net")), manager(tmp_path / "graphs")
    equal(name, models, sizes)
    if kind != "flora":
        return
    again = manager(tmp_path / "graphs")  # another start: nothing is converted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_graphs, "convert", lambda *_: pytest.fail("what is on disk was converted again"))
        equal(name, again, [(64, 64)])


def test_sdxls_two_encoders_and_what_it_is_told_are_equal(xl):
    equal(str(xl), manager(), [(64, 64)])


def equal(name: str, models: ModelManager, sizes) -> None:
    plain = ModelManager("cpu", torch.float32).load(name)
    for size in sizes:
        own, first = answers(plain, size), answers(models.load(name), size)
        assert gap(own, first) <= 1e-4
        ready(models)
        model = models.load(name)
        assert gap(own, answers(model, size)) <= 1e-4 and model.executor == "openvino"


@torch.no_grad()
def test_the_light_decoder_has_a_graph_and_nothing_leaves_the_machine(tiny, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something was to be sent"))
    torch.manual_seed(0)
    wide = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    models = manager()
    model = models.load(str(tiny))
    model.resident.light = AutoencoderTiny(**wide).eval().requires_grad_(False)
    model.resident._plain = model.resident._parts()
    z = torch.randn(2, 4, 8, 8)
    own = model.resident.light.decode(z / model.resident.light.config.scaling_factor).sample
    for who in ("torch", "openvino"):
        model.answered.clear()
        assert gap([own], [model.look(z)]) <= 1e-4 and model.executor == who
        ready(models)
    # Its makers' own converter would report every conversion.
    assert sys.modules["openvino_telemetry"] is None


def test_halved_numbers_are_near(tiny):
    """Where torch has bfloat16, OpenVINO may have it, on processors that do."""
    models = manager(dtype=torch.bfloat16)
    own = answers(models.load(str(tiny)))
    ready(models)
    model = models.load(str(tiny))
    assert gap(own, answers(model)) < 0.1 and model.executor == "openvino"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["interpolate", "draw live", "edit", "interpolate live"])
def test_the_pictures_are_those_recorded(name, graphed):
    before = pictures.result(name)
    ready(graphed)
    again = pictures.result(name)
    assert pictures.distance(pictures.thumbnails(again.frames), STORED[name]) <= 2.0
    assert "openvino" in again.executor and before.frames[-1].size == again.frames[-1].size


STORED = pictures.stored(Path(__file__).with_name("pictures.png"))


@pytest.fixture(scope="module")
def graphed():
    models = manager()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "RESIDENT", {})

        def make(*args):
            own = manager()
            own.executor = models.executor
            return own

        patch.setattr(pictures, "manager", make)
        yield models


# ------------------------------------------------------------------------------------------- what stays in torch


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A network all of whose plain calls go to graphs, with controls beside it."""
    folder = make_network(tmp_path_factory.mktemp("warm") / "net", attends=(0, 1))
    make_controls(
        UNet2DConditionModel.from_pretrained(folder / "unet"), folder, lambda m, n: m.save_pretrained(folder / n), 4
    )
    models = manager()
    answers(models.load(str(folder), ("sketch",)))
    ready(models)
    return models, str(folder)


@pytest.mark.parametrize("what", ["plain", "hook", "forward", "attention", "LoRA", "control", "tiles", "learning"])
def test_only_plain_calls_go_to_graphs(warm, what):
    models, name = warm
    model = models.load(name, ("sketch",))
    z, words, more = torch.zeros(1, 4, 8, 8), model.embed(["a"]), {}
    undo, around, part = (lambda: None), nullcontext(), model.unet
    if what == "hook":
        undo = part.mid_block.register_forward_hook(lambda *_: None).remove
    elif what == "forward":
        part.mid_block.forward, undo = part.mid_block.forward, partial(delattr, part.mid_block, "forward")
    elif what == "attention":

        class Other(AttnProcessor):
            pass

        own = part.attn_processors
        part.set_attn_processor(Other())
        undo = partial(part.set_attn_processor, own)
    elif what == "LoRA":
        around, more = lora.attach(model, lora.blank(model, 1, 2)), {"lora_weights": torch.ones(1, 1)}
    elif what == "control":
        more = {"control": {"sketch": ControlInput(torch.zeros(1, 3, 64, 64))}}
    elif what == "tiles":
        model.vae.enable_tiling()
        undo = model.vae.disable_tiling
    before = set(models.executor._again)
    with torch.set_grad_enabled(what == "learning"), around:
        model.answered.clear()
        try:
            model.decode(z) if what == "tiles" else model.denoiser([Conditioning(words, **more)])(z, 1.0)
        finally:
            undo()
    assert model.executor == ("openvino" if what == "plain" else "torch")
    assert set(models.executor._again) == before  # and none is made that nobody would ask


def test_weights_that_are_merged_in_are_other_weights(tmp_path):
    """The few-step set has its own graphs, and a set that takes its place in memory is not taken for it."""
    models, name = manager(), str(make_flora(tmp_path / "net"))
    answers(models.load(name))
    ready(models)
    model = models.load(name)
    plain, few = answers(model)[-3], answers(model)[-1]
    assert (plain - few).abs().max() > 1e-3
    own = model.resident
    changed = {n: t + 0.01 for n, t in own._few_step_weights.items()}
    own.equip("live", lambda: changed)
    other = answers(models.load(name))[-1]
    ready(models)
    model = models.load(name)
    assert gap([other], [answers(model)[-1]]) <= 1e-4 < (other - few).abs().max()


def test_a_job_says_who_answered_and_torch_is_always_to_be_had(tiny):
    r = DrawRequest(sketch=None, strokes=picture(1, (64, 64)).convert("RGBA"), model=str(tiny), steps=2, size=64)
    models = manager()
    first = done(models, r)
    ready(models)
    models.memo = type(models.memo)()
    again = done(models, r)
    assert (first.executor, again.executor) == ("torch", "openvino")
    assert np.abs(np.asarray(first.frames[0], int) - np.asarray(again.frames[0])).max() <= 1
    # The page's line says it; torch goes without saying.
    assert [t.endswith(" with OpenVINO") for t in (summary(first, "pictures"), summary(again, "pictures"))] == [
        False,
        True,
    ]
    assert type(executor("torch", CPU, torch.float32)) is Executor
    assert type(executor("auto", torch.device("cuda"), torch.half)) is CudaGraphs
    assert type(executor("auto", torch.device("mps"), torch.half)) is Executor


# ------------------------------------------------------------------------------------------------------ faults


def fail(error):
    def raising(*_, **__):
        raise error

    return raising


def cut_off(folder: Path) -> None:
    for file in folder.glob("*/*/graph.bin"):
        file.write_bytes(file.read_bytes()[:-100])


def doubled(part):
    """A part with other weights."""
    twin = part.twin(part.tensors())
    for p in twin.module.parameters():
        p.data = 2 * p.data
    return twin


REAL = openvino_graphs.convert
FAULTS = {
    "missing": ("installed", lambda: "0.0", "openvino must be installed, 2025.2 or later, to draw faster, got none"),
    "too old": ("installed", lambda: "2023.1.0", "2025.2 or later, to draw faster, got 2023.1.0"),
    "broken": ("openvino_model.begin", fail(OSError("libtbb.so is gone")), "got OSError: libtbb.so is gone"),
    "fails": ("convert", fail(RuntimeError("no such op")), "must compile and be equal to torch, got no such op"),
    "no memory": ("convert", fail(MemoryError()), "memory must hold the graph of"),
    "bad_alloc": ("Graph", fail(RuntimeError("std::bad_alloc")), "memory must hold the graph of"),
    "full memory": ("free", lambda: 1 << 20, "memory must hold the graph of"),
    "dies": ("convert", fail(SystemExit("the thread dies")), "got the thread dies; torch goes on"),
    "too large": ("PACKED", 1e6, "must take at most 440 MB"),
    "another": ("convert", lambda part, given: REAL(doubled(part), given), "be equal to torch, got a difference of"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_torch_goes_on(fault, tiny, caplog, monkeypatch):
    where, what, said = FAULTS[fault]
    models = manager()
    place, _, name = where.rpartition(".")
    monkeypatch.setattr(openvino_graphs.openvino_model if place else openvino_graphs, name, what)
    with caplog.at_level(logging.WARNING):
        torch_goes_on(models, str(tiny))
    told = [r.getMessage() for r in caplog.records]
    assert any(said in t and t.endswith("torch goes on") for t in told), told
    assert len(told) == len(set(told)) <= 4  # a sentence a part at most, and none twice


def torch_goes_on(models: ModelManager, name: str) -> None:
    own = answers(ModelManager("cpu", torch.float32).load(name))
    for _ in range(2):
        model = models.load(name)
        assert gap(own, answers(model)) == 0 and model.executor == "torch"
        ready(models)


def test_a_graph_that_fails_at_work_is_left(tiny, caplog):
    models = manager()
    own = answers(models.load(str(tiny)))
    ready(models)
    for graph in models.executor._graphs.values():
        graph._request = SimpleNamespace(infer=fail(RuntimeError("out of memory")))
    with caplog.at_level(logging.WARNING):
        model = models.load(str(tiny))
        assert gap(own, answers(model)) == 0 and model.executor == "torch"
    assert caplog.records and not models.executor._graphs


@pytest.mark.parametrize("how", ["a file in its place", "full"])
def test_a_folder_that_takes_nothing_costs_time_only(how, tiny, tmp_path, caplog, monkeypatch):
    place = tmp_path / "graphs"
    if how == "full":
        monkeypatch.setattr(openvino_graphs.openvino_model, "save", fail(RuntimeError("Can't write, disk is full")))
    else:
        place.write_text("a file")
    models = manager(place)
    with caplog.at_level(logging.WARNING):
        own = answers(models.load(str(tiny)))
        ready(models)
    model = models.load(str(tiny))
    assert gap(own, answers(model)) <= 1e-4 and model.executor == "openvino"  # from memory
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 1 and "folder of graphs must be writable" in told[0]
    assert not place.is_dir() or not [p for p in place.rglob("*") if p.is_file()]


def test_a_file_that_was_cut_off_is_made_again(tiny, tmp_path):
    models = manager(tmp_path)
    own = answers(models.load(str(tiny)))
    ready(models)
    cut_off(tmp_path)
    models = manager(tmp_path)
    answers(models.load(str(tiny)))
    ready(models)
    model = models.load(str(tiny))
    assert gap(own, answers(model)) <= 1e-4 and model.executor == "openvino"
    files = GraphFiles(tmp_path, next(tmp_path.iterdir()).name)
    assert all(files.get(p.name) for p in files.folder.iterdir())


def test_a_network_that_leaves_while_it_is_converted(tiny, tmp_path, monkeypatch):
    models, real, other = manager(), openvino_graphs.convert, str(make_network(tmp_path / "other", seed=1))
    gone = threading.Event()
    monkeypatch.setattr(openvino_graphs, "convert", lambda part, given: gone.wait() and real(part, given))
    model = models.load(str(tiny))
    own = answers(model)
    models._evict(but="")
    gone.set()
    ready(models)
    assert not models.executor._graphs and not models.executor._again
    assert gap(own, answers(model)) == 0 and not models.executor._again  # a job that still has it goes on in torch
    monkeypatch.setattr(openvino_graphs, "convert", real)
    own = answers(models.load(other))
    ready(models)
    assert gap(own, answers(models.load(other))) <= 1e-4 and len(models.executor._graphs) == 4


def test_while_a_first_job_goes_on_nothing_is_begun(tiny, monkeypatch):
    """Neither OpenVINO's threads nor a copy: two cores are little enough. So it is at a command's end."""
    begun = threading.Event()
    monkeypatch.setattr(openvino_graphs.openvino_model, "begin", lambda threads: begun.set())
    models = manager()
    model = models.load(str(tiny))
    monkeypatch.setattr("engine.diffusion.plain.copy.deepcopy", lambda *_: begun.set())
    answers(model)
    assert not begun.wait(0.2) and len(models.executor._asked) == 4
    monkeypatch.setattr(threading, "main_thread", lambda: SimpleNamespace(is_alive=lambda: False))
    models.executor.background.wait()
    assert not begun.is_set()


def test_a_crowd_that_makes_no_pause_has_graphs_all_the_same(tiny, monkeypatch):
    monkeypatch.setattr(openvino_graphs, "PAUSE", 1e6)
    monkeypatch.setattr(openvino_graphs, "LONGEST", 0.2)
    models = manager()
    device = threading.Thread(target=lambda: answers(models.load(str(tiny))))  # a command's is the main one
    device.start()
    device.join()
    models.executor.background.wait()
    assert len(models.executor._graphs) == 4


@pytest.mark.parametrize("when", ["graphs answer", "they wait for a pause"])
def test_a_network_that_leaves_takes_all_with_it(when, tiny):
    models = manager()
    model = models.load(str(tiny))
    answers(model)
    if when == "graphs answer":
        ready(models)
    gone = [weakref.ref(own) for own in (model.unet, model.vae, *models.executor._graphs.values())]
    gone += [weakref.ref(t) for asked in models.executor._asked.values() for t in asked.weights]
    del model
    models._evict(but="")
    gc.collect()
    assert len(gone) > 4 and not [ref for ref in gone if ref()]
    ready(models)


def test_what_comes_into_a_part_before_its_graph_is_made(tiny):
    """It is asked for again as soon as the part is plain."""
    models = manager()
    model = models.load(str(tiny))
    own = answers(model)
    hook = model.unet.mid_block.register_forward_hook(lambda *_: None)
    ready(models)
    assert {key[1] for key in models.executor._graphs} == {"text", "encode", "decode"}
    hook.remove()
    answers(model)
    ready(models)
    model = models.load(str(tiny))
    assert gap(own, answers(model)) <= 1e-4 and model.executor == "openvino"


def test_parts_that_wait_outside_are_torchs(tiny):
    models = manager()
    model = models.load(str(tiny))
    object.__setattr__(model.resident.plan, "offload", True)
    answers(model)
    assert not models.executor._again and model.executor == "torch"


def test_graphs_leave_for_others_once_they_rest(tiny, monkeypatch):
    models = manager()
    answers(models.load(str(tiny)))
    ready(models)
    own = models.executor
    sizes = {k: g.size for k, g in own._graphs.items()}
    own.limit = sum(sizes.values())
    answers(models.load(str(tiny)), (80, 64))  # all are in use: torch answers
    ready(models)
    assert set(own._graphs) == set(sizes)
    monkeypatch.setattr(openvino_graphs, "RECENT", -1.0)
    for key in own._again:
        own._again[key] = min(own._again[key], 0.0) if key not in own._graphs else own._again[key]
    answers(models.load(str(tiny)), (80, 64))
    ready(models)
    assert set(own._graphs) != set(sizes) and sum(g.size for g in own._graphs.values()) <= own.limit


# ------------------------------------------------------------------------------------------------ what is below


def test_the_last_asked_for_is_first_at_idle_priority_and_a_dead_thread_is_replaced():
    said, nice = [], []
    waits = Background(lambda: said.append("begun"))

    def first():
        nice.append(os.getpriority(os.PRIO_PROCESS, 0) if sys.platform == "linux" else 19)
        for n in (1, 2, 3):
            waits.add(lambda n=n: said.append(n))

    waits.add(first)
    waits.wait()
    assert said == ["begun", 3, 2, 1] and nice == [19]
    assert sys.platform != "linux" or os.getpriority(os.PRIO_PROCESS, 0) < 19

    def dies():
        raise SystemExit

    waits.add(dies)
    waits.wait()
    waits.add(lambda: said.append("again"))
    waits.wait()
    assert said[-1] == "again"


IDLE = """
import os
from pathlib import Path
import torch
from torch import nn
from engine.diffusion.background import Background
from engine.diffusion.openvino_model import Graph, begin, compiled, convert
from engine.diffusion.plain import Plain

class Part(Plain):
    def forward(self, x):
        return (self.module(x),)

def ticks():
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            stat = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        found[task.name] = int(stat[11]) + int(stat[12]), int(stat[16])
    return found

x, made = torch.zeros(1, 64, 128, 128), []
waits = Background(lambda: begin(2))
waits.add(lambda: made.append(Graph(compiled(convert(Part(nn.Conv2d(64, 64, 3)), (x,)), 2, x.dtype), 0, [])))
waits.wait()
before = ticks()
for _ in range(60):
    made[0]((x,))
work = {n: (t - before.get(n, (0, 0))[0], nice) for n, (t, nice) in ticks().items()}
print(sum(t for t, nice in work.values() if nice < 19), sum(t for t, nice in work.values() if nice == 19))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_what_computes_is_not_idle():
    """OpenVINO's threads would inherit the priority of the one that starts them."""
    said = subprocess.run([sys.executable, "-c", IDLE], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    brisk, idle = map(int, said.split())
    assert brisk > 10 * idle


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere files are not let go of")
def test_what_is_let_go_of_is_read_again(tmp_path):
    """And it is only what somebody holds: what has left may be another's memory."""
    own, other = {"a": torch.arange(1 << 20) * 1.0}, {"b": torch.ones(1 << 20)}
    for name, tensors in (("own", own), ("other", other)):
        (tmp_path / name).mkdir()
        mapped.write(tensors, tmp_path / name)
    read, beside = mapped.read(tmp_path / "own"), mapped.read(tmp_path / "other")
    assert torch.equal(read["a"], own["a"]) and torch.equal(beside["b"], other["b"])
    held = pages.held(tmp_path, [*read.values(), torch.ones(3)])
    assert held == pages.spans(tmp_path / "own") < pages.spans(tmp_path) and len(held) == 1
    before = resident(held)
    with pages.lean(held):
        assert torch.equal(read["a"], own["a"])
    assert resident(held) < before // 10
    assert torch.equal(read["a"], own["a"])


def resident(spans) -> int:
    """KB of what lies at addresses that are in memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        start = line.split(" ")[0]
        if "-" in start:
            inside = tuple(int(n, 16) for n in start.split("-")) in spans
        elif inside and start == "Rss:":
            found += int(line.split()[1])
    return found


def test_graphs_on_disk_are_bounded_and_of_one_version(tmp_path):
    (tmp_path / "older" / "x").mkdir(parents=True)
    files = GraphFiles(tmp_path, "new", limit=2500)
    assert files.folder
    assert not (tmp_path / "older").exists()
    for i in range(4):
        place = files.put(str(i), lambda p: (p / "graph.bin").write_bytes(b"x" * 900))
        os.utime(place, (i, i))
        files.get("0")  # which is in use
    assert sorted(p.name for p in files.folder.iterdir()) == ["0", "3"]
    assert files.put("3", lambda p: None) == files.folder / "3"  # another process was quicker
    assert GraphFiles(None, "").get("0") is None and not files.trouble


def test_cards_record_what_comes_again(tiny, caplog):
    """With a stand-in for the card, which none of us has."""
    own, part = CudaGraphs(), SimpleNamespace(name="unet", untouched=lambda: True, weights=lambda: (1,))
    recorded, x = [], torch.ones(1)
    own.here = lambda given: True

    def record(part, given):
        recorded.append(given)
        return lambda given: (given[0] + 1,)

    own._record = record
    with torch.no_grad():
        found = [own.answer(own, part, (x,)) for _ in range(4)]
        assert found[:2] == [None, None] and [float(f[0]) for f in found[2:] if f] == [2, 2] and len(recorded) == 1
        own.forget(own)
        assert own.answer(own, part, (x,)) is None and not own._graphs
        own._record = fail(RuntimeError("operation not permitted when stream is capturing"))
        with caplog.at_level(logging.WARNING):
            assert [own.answer(own, part, (x,)) for _ in range(4)] == [None] * 4
    assert [r.getMessage() for r in caplog.records] == [
        "CUDA graphs must be recorded and played, got operation not permitted when stream is capturing; torch goes on"
    ]
