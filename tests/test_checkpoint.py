"""Checkpoints: whole or not at all, the last two kept, damage noticed and survived."""

from __future__ import annotations

import os

import pytest
import torch
from small_run import small_plan

from scaling.study.errors import CheckpointError
from scaling.training.checkpoint import (
    Progress,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    peek_checkpoint,
    save_checkpoint,
    save_weights,
)
from scaling.training.device import choose_engine
from scaling.training.learner import Learner
from scaling.training.trainer import train


@pytest.fixture
def learner(tmp_path):
    return build(small_plan(tmp_path))


def build(plan, seed: int = 0) -> Learner:
    engine = choose_engine(plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train)
    return Learner(
        plan.shape, engine, optim=plan.config.optim, lr=plan.lr, weight_decay=0.1, seed=seed
    )


def taker(learner: Learner):
    return lambda tensors: learner.load(0, tensors)


def learn(learner: Learner, steps: int, seed: int = 0) -> list[float]:
    tokens = torch.randint(
        32, (steps, 4, 33), generator=torch.Generator().manual_seed(seed)
    ).numpy()
    return [learner.learn(t[None, :, :-1], t[None, :, 1:], lr=[0.01])[0].item() for t in tokens]


def test_restored_learner_goes_on_to_the_bit(tmp_path, learner):
    learn(learner, 3)
    progress = Progress(run_hash="abc", step=3, loss_sum=1 / 3, loss_count=2, seconds=0.1)
    save_checkpoint(tmp_path, learner.tensors(0), progress)
    expected = learn(learner, 4, seed=1)
    other = build(small_plan(tmp_path), seed=9)
    restored, problems = load_checkpoint(tmp_path, taker(other), run_hash="abc")
    assert (restored, problems) == (progress, [])
    assert learn(other, 4, seed=1) == expected


def test_only_the_last_two_are_kept(tmp_path, learner):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, learner.tensors(0), Progress("abc", step))
    assert [p.name for p in list_checkpoints(tmp_path)] == [
        "step-000000010.safetensors",
        "step-000000002.safetensors",
    ]
    assert not [p for p in (tmp_path / "checkpoint").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("damage", ["cut in half", "empty", "one bit", "header"])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, learner, damage):
    learn(learner, 1)
    save_checkpoint(tmp_path, learner.tensors(0), Progress("abc", 1))
    learn(learner, 1)
    path = save_checkpoint(tmp_path, learner.tensors(0), Progress("abc", 2))
    data = bytearray(path.read_bytes())
    if damage == "cut in half":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = bytearray()
    else:
        data[len(data) - 100 if damage == "one bit" else 20] ^= 4
    path.write_bytes(data)
    restored, problems = load_checkpoint(tmp_path, taker(learner), run_hash="abc")
    assert restored.step == 1
    assert len(problems) == 1 and "step-000000002.safetensors: damaged" in problems[0]


def test_checkpoint_of_another_run_or_shape_is_not_taken(tmp_path, learner):
    learn(learner, 1)
    save_checkpoint(tmp_path, learner.tensors(0), Progress("abc", 1))
    restored, problems = load_checkpoint(tmp_path, taker(learner), run_hash="xyz")
    assert restored.step == 0 and "belongs to run abc" in problems[0]
    wider = build(small_plan(tmp_path, **{"model.width": 32}))
    fresh = [p.clone() for p in wider.model.parameters()]
    restored, problems = load_checkpoint(tmp_path, taker(wider), run_hash="abc")
    assert restored.step == 0 and "the model has" in problems[0]
    assert all(torch.equal(a, b) for a, b in zip(fresh, wider.model.parameters(), strict=True))


def test_interrupted_write_leaves_the_old_checkpoint(tmp_path, learner, monkeypatch):
    learn(learner, 1)
    save_checkpoint(tmp_path, learner.tensors(0), Progress("abc", 1))

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, learner.tensors(0), Progress("abc", 2))
    assert [p.name for p in (tmp_path / "checkpoint").iterdir()] == ["step-000000001.safetensors"]


def test_weights_round_trip_with_a_tied_head(tmp_path):
    plan = small_plan(tmp_path, **{"model.tied": True})
    first, second = build(plan, seed=0), build(plan, seed=1)
    save_weights(tmp_path, first.tensors(0))
    load_weights(tmp_path, second.model)
    assert torch.equal(first.model.head.weight, second.model.head.weight)
    assert second.model.head.weight is second.model.embedding.weight


def test_missing_weights_are_named(tmp_path, learner):
    with pytest.raises(CheckpointError, match="keep_checkpoint"):
        load_weights(tmp_path, learner.model)


def test_run_without_kept_weights_leaves_no_checkpoint(tmp_path):
    plan = small_plan(
        tmp_path, **{"train.keep_checkpoint": False, "train.checkpoint_seconds": 1e-3}
    )
    assert train(plan).status == "done"
    assert list((plan.folder / "checkpoint").iterdir()) == []


@pytest.mark.parametrize("progress", ["{", "5", '{"run_hash": "a", "years": 3}'])
def test_checkpoint_whose_counters_cannot_be_read_is_passed_over(tmp_path, progress):
    from safetensors.torch import save_file

    good = save_checkpoint(tmp_path, {"model.w": torch.ones(2)}, Progress(run_hash="a", step=1))
    save_file({}, good.with_name("step-000000002.safetensors"), metadata={"progress": progress})
    assert peek_checkpoint(tmp_path, run_hash="a") == Progress(run_hash="a", step=1)
    found, problems = load_checkpoint(tmp_path, lambda tensors: None, run_hash="a")
    assert found.step == 1 and "damaged" in problems[0]
