"""What a method is given: what earlier jobs have learnt, pictures and prompts, looks on the way, walks."""

import numpy as np
import pytest
import torch
from conftest import picture

from engine.checkpoints.manager import Memo
from engine.context import Context, free_from, noise_source, walk
from engine.diffusion.model import LatentDiffusion
from engine.jobs.cache import Cache
from engine.requests import result
from engine.vision import images

PICTURES = [np.asarray(picture(i, (64, 48))) for i in range(3)]


@pytest.fixture
def context(models, tiny):
    """One without a cache, in which nothing is remembered."""
    models.memo = Memo()
    context = Context(models)
    result(context.load(str(tiny), ()))
    return context


def test_what_is_remembered_is_made_once_for_each_kind_key_and_network(context, monkeypatch):
    made = []

    def ask(*key):
        return context.remember(*key, lambda: made.append(key) or len(made))

    keys = [("prompts", 1), ("prompts", 1), ("prompts", 2), ("latent", 1), ("prompts", "1")]
    assert [ask(*key) for key in keys] == [1, 1, 2, 3, 4]
    monkeypatch.setattr(context.model.resident, "fingerprint", "of other weights")
    assert ask("prompts", 1) == 5 and context.get("prompts", 2) is None
    another = Context(context.models)  # the next job
    result(another.load(context.model.name, ()))
    assert another.get("prompts", 1) == 5


def test_what_is_remembered_takes_about_its_bytes(context):
    z, frame = torch.zeros(2, 4, 8, 8), picture(0, (64, 48))
    context.put("frame", 1, (z, [frame, frame]))
    assert z.nbytes + 2 * 64 * 48 * 3 <= context.models.memo.size < 2 * z.nbytes + 2 * 64 * 48 * 3 + 2 * 4096


def test_loras_inversions_and_features_are_kept_on_disk_or_not_at_all(context, tmp_path, monkeypatch):
    tensors = {"x": torch.ones(3)}
    for kind in ("lora", "inversion", "features"):
        assert context.put(kind, "key", tensors) is tensors and context.get(kind, "key") is None
    context.cache = Cache(tmp_path)
    context.put("lora", "key", tensors, about="a rose")
    assert torch.equal(context.get("lora", "key")["x"], tensors["x"]) and context.get("inversion", "key") is None
    assert [item.about for item in context.cache.items()] == ["a rose"] and context.models.memo.size == 0
    monkeypatch.setattr(context.model.resident, "fingerprint", "of other weights")
    assert context.get("lora", "key") is None


@torch.no_grad()
def test_pictures_remembered_are_to_the_last_bit_those_encoded_anew(context):
    alone = [context.encode_each([p]) for p in PICTURES]
    context.models.memo = Memo()
    context.encode_each(PICTURES[1:2])
    context.encode_each(PICTURES, together=True)
    assert torch.equal(context.encode_each(PICTURES), torch.cat(alone))
    assert torch.allclose(context.encode(PICTURES), torch.cat(alone), atol=1e-4)


@torch.no_grad()
def test_what_is_new_is_encoded_in_one_batch_where_that_is_wanted(context, monkeypatch):
    alone, batches = torch.cat([context.model.encode(images.to_tensor([p])) for p in PICTURES]), []
    encode = LatentDiffusion.encode
    monkeypatch.setattr(LatentDiffusion, "encode", lambda model, x: batches.append(len(x)) or encode(model, x))
    second = context.encode_each(PICTURES[1:2], True)
    found = context.encode_each([*PICTURES, PICTURES[0]], True)
    assert batches == [1, 2] and torch.equal(found[1:2], second) and torch.equal(found[3], found[0])
    assert torch.allclose(found[:3], alone, atol=1e-5)
    assert torch.equal(context.encode_each(PICTURES, True), found[:3]) and batches == [1, 2]


def test_a_look_is_soft_small_and_made_after_the_jobs_own_pictures(context, monkeypatch):
    """Of latents that are small negatives of pictures it makes the pictures."""
    assert context.look(torch.zeros(1, 4, 6, 8)) == []
    small = [-torch.nn.functional.avg_pool2d(images.to_tensor([p]), 8) for p in PICTURES]
    z = torch.cat([torch.cat([x, x[:, :1]], 1) for x in small])
    monkeypatch.setattr(LatentDiffusion, "encode", lambda *_: z)
    assert context.encode(PICTURES) is z
    seen = images.to_tensor(context.look(z))
    assert seen.shape == (3, 3, 24, 32)
    assert (torch.nn.functional.avg_pool2d(seen, 4) + torch.cat(small)).abs().mean() < 0.1


def test_prompts_are_embedded_once(context, monkeypatch):
    first = context.embed("a rose", "")
    monkeypatch.setattr(type(context.model), "embed", None)
    assert context.embed("a rose", "") is first and len(first) == 2


def test_a_walk_tells_its_steps_and_shows_frames_only_where_there_are_any():
    told, x = [], torch.full((2, 4, 3, 3), 5.0)
    for frames in ((), (7, 8)):
        steps = walk(lambda x, s: x - s, x, [2.0, 1.0, 0.0], "walking", frames)
        told.append(list(steps))
    assert [a.steps for a in told[0] + told[1]] == [2] * 4 and {a.latents is None for a in told[0]} == {True}
    assert [float(a.latents[0, 0, 0, 0]) for a in told[1]] == [3, 3] and told[1][0].frames == (7, 8)
    end = result(walk(lambda x, s: x - s, x, [2.0, 1.0, 0.0], "", step=lambda x, x0, s, s_next: x0))
    assert torch.equal(end, x - 3)


def test_every_row_has_a_noise_source_of_its_own():
    cpu, shape = torch.device("cpu"), (4, 3, 3)
    both, second = noise_source(shape, [(1, 0), (2, 0)], cpu), noise_source(shape, [(2, 0)], cpu)
    first = both()
    assert torch.equal(first[1:], second()) and not torch.equal(first, both()) and not torch.equal(first[0], first[1])


def test_a_strength_for_every_place_is_the_sigma_from_which_it_is_free(context):
    strength, schedule = torch.tensor([[[[0.0, 0.5], [0.8, 1.0]]]]), context.model.schedule
    assert free_from(context.model, strength, 0.6).flatten().tolist() == pytest.approx(
        [0.0, *map(schedule.sigma, (0.3, 0.48, 0.6))]
    )
