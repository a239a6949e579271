"""Disks that are full, files that cannot grow, memory that is used up: said, and the run goes on later."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from disturbed import assert_alike
from safetensors import SafetensorError
from small_run import small_plan

from scaling.study.errors import TrainError
from scaling.study.record import read_record, write_atomic
from scaling.training.data import prepare
from scaling.training.team import is_out_of_memory
from scaling.training.trainer import train, train_together

OFTEN = {"train.checkpoint_seconds": 1e-6}


def test_disk_that_fills_up_during_a_run_is_named_and_the_run_goes_on_later(tmp_path, monkeypatch):
    whole = train(small_plan(tmp_path / "whole"))
    plan = small_plan(tmp_path, **{"train.checkpoint_seconds": 1e-6})

    def full(*_args, **_keywords):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:

        def fill_up(progress):
            if progress["step"] >= 30:
                patch.setattr("scaling.training.checkpoint.save_file", full)

        with pytest.raises(TrainError, match=r"stopped by the file system \(I/O error: No space"):
            train(plan, on_progress=fill_up)
    assert read_record(plan.folder).status == "failed"
    record = train(plan)
    assert record.resumes == 1 and record.val_loss == whole.val_loss


def test_write_that_fails_names_its_file(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "run.json", "{}")
    assert caught.value.filename == str(tmp_path / "run.json")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_failure_of_a_team_leaves_its_finished_runs_alone(tmp_path, monkeypatch):
    plans = [small_plan(tmp_path, **{"seed": s, "train.stack": 8}) for s in (0, 1)]

    def full(folder, _tensors):
        if folder == plans[1].folder:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("scaling.training.member.save_weights", full)
        with pytest.raises(TrainError, match="stopped by the file system"):
            train_together(plans)
    assert [read_record(p.folder).status for p in plans] == ["done", "failed"]
    assert [r.status for r in train_together(plans)] == ["done", "done"]


@pytest.mark.parametrize("limit", [20_000, 4_000, 2_000])  # bytes: checkpoint, run.json, rows
def test_file_that_cannot_grow_stops_the_run_with_a_message(limit, tmp_path, undisturbed):
    plan = small_plan(tmp_path, **OFTEN)
    prepare(plan.config.data, context=32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(TrainError, match=r"stopped by the file system \(.*File too large"):
            train(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_alike(plan, undisturbed)


def test_memory_that_is_used_up_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_limit_on_memory_is_answered_before_training(tmp_path):
    plan = small_plan(tmp_path, **{"optim.batch_tokens": 32 * 8192, "train.micro_batch_tokens": 32 * 8192, "budget.tokens": 32 * 8192})  # fmt: skip
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), before[1]))
    try:
        with pytest.raises(TrainError, match=r"Set train\.micro_batch_tokens="):
            train(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
