"""Which networks are resident, and what is said of those that cannot be."""

import pytest
import torch
from conftest import make_network

from engine.checkpoints.manager import Memo, ModelManager
from engine.diffusion import memory
from engine.diffusion.residency import Resident
from engine.requests import EngineError


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return [str(make_network(tmp_path_factory.mktemp("networks") / n)) for n in "abc"]


def test_unknown_and_incomplete_networks(tmp_path, models):
    with pytest.raises(EngineError, match=r"model must be one of flora, .* got 'nonsense', which is not there"):
        models.load("nonsense")
    broken = make_network(tmp_path / "net")
    for file in (broken / "vae").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(EngineError, match="model net must have weights in the folder vae, got none"):
        models.load(str(broken))
    for file in (broken / "scheduler").iterdir():
        file.unlink()
    (broken / "scheduler").rmdir()
    with pytest.raises(EngineError, match="got none of scheduler"):
        models.load(str(broken))


def test_networks_beside_noise_of_another_kind_are_refused(tmp_path, models):
    with pytest.raises(EngineError, match=r"must be of the kind of .*, got a network for inpainting"):
        models.load(str(make_network(tmp_path / "net", extra=5)))
    with pytest.raises(EngineError, match="got one with 6 more channels"):
        models.load(str(make_network(tmp_path / "odd", extra=6)))


def test_a_device_that_is_not_here_is_a_sentence():
    with pytest.raises(EngineError, match="device must be auto, cpu, cuda or mps, and be here, got 'nonsense'"):
        ModelManager("nonsense")


def test_every_job_has_a_model_of_its_own_over_the_same_modules(networks):
    models = ModelManager("cpu", torch.float32)
    one, other = models.load(networks[0]), models.load(networks[0])
    assert one is not other and one.resident is other.resident
    one.room.tell("it went on")
    one.evaluations = 7
    assert not other.room.trouble and not other.evaluations


def test_the_least_recently_used_networks_leave_when_memory_asks_for_it(networks):
    a, b, c = networks
    models = ModelManager("cpu", torch.float32)
    first = models.load(a).resident
    # What the plan leaves for one row is not to be given up for a third network.
    models.limit = int(2.5 * first.bytes + memory.RESERVE + memory.TILED + memory.ROW * 8**2 * 16 * 4)
    models.load(b)
    assert models.load(a).resident is first
    models.load(c)
    assert list(models._resident) == [a, c]  # b was the one not used for longest
    models.limit = first.bytes // 2  # less than a single one: it is tried all the same, alone
    assert models.load(b) and list(models._resident) == [b]


def test_a_lack_of_memory_while_loading_has_the_others_leave_and_then_is_a_sentence(networks, monkeypatch):
    a, b, *_ = networks
    models, tries, real = ModelManager("cpu", torch.float32), [], Resident.__init__
    models.load(a)

    def short(self, *args, **kw):
        tries.append(list(models._resident))
        if models._resident:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(self, *args, **kw)

    def never(self, *args, **kw):
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(Resident, "__init__", short)
    models.load(b)
    assert tries == [[a], []]
    monkeypatch.setattr(Resident, "__init__", never)
    with pytest.raises(EngineError, match=r"memory of cpu must hold .*a, of .* GB more, got too little"):
        models.load(a)
    monkeypatch.setattr(Resident, "__init__", real)
    assert models.load(a)


def test_the_memo_is_bounded():
    memo = Memo(limit=100)
    for i in range(10):
        memo.put(i, i, 30)
    assert memo.size <= 100 and memo.get(9) == 9 and memo.get(0) is None
    memo.put("huge", 1, 1000)
    assert memo.get("huge") == 1 and memo.get(9) is None
    assert [memo.put("huge", 2, 50), memo.size] == [2, 50]  # in place of the first
