"""Several runs in one process: each is as it would have been alone, whatever happens to the others."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
from children import start_child, wait_for
from small_run import BATCH, STEPS, numbers, small_plan

from scaling.study.errors import TrainError
from scaling.study.record import read_record
from scaling.training.checkpoint import list_checkpoints
from scaling.training.trainer import train, train_together

SEEDS = (
    {"seed": 0},
    {"seed": 1},
    {"seed": 0, "optim.lr": 0.02},
    {"seed": 0, "optim.schedule": "cosine"},
)


def plans_of(folder: Path, changes=SEEDS, **more):
    return [small_plan(folder, **{"train.stack": 8, **change, **more}) for change in changes]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    plans = plans_of(tmp_path_factory.mktemp("alone"))
    return [(train(p), numbers(p.folder)) for p in plans]


def test_stacked_runs_have_the_numbers_of_runs_alone_to_the_bit(tmp_path, alone):
    plans = plans_of(tmp_path)
    records = train_together(plans)
    assert [r.stacked for r in records] == [4] * 4
    for plan, record, (expected, rows) in zip(plans, records, alone, strict=True):
        assert (record.val_loss, record.train_loss) == (expected.val_loss, expected.train_loss)
        assert numbers(plan.folder) == rows


def test_diverging_run_leaves_the_others_of_its_stack_alone(tmp_path, alone):
    plans = plans_of(tmp_path, (*SEEDS[:2], {"optim.lr": 1e20, "optim.clip": 1.0}))
    records = train_together(plans)
    assert [r.status for r in records] == ["done", "done", "diverged"]
    assert [r.val_loss for r in records[:2]] == [a.val_loss for a, _ in alone[:2]]
    assert records[2].stacked == 3


def test_stack_of_trunks_gives_straight_runs(tmp_path):
    shared = {"optim.horizon": STEPS * BATCH, "data.max_epochs": 5}
    changes = [{"seed": s, "budget.tokens": b * STEPS * BATCH} for s in (0, 1) for b in (1, 2)]
    records = train_together(plans_of(tmp_path / "a", changes, **shared))
    straight = [train(p) for p in plans_of(tmp_path / "b", changes, **shared)]
    assert [r.val_loss for r in records] == [r.val_loss for r in straight]
    assert [r.stacked for r in records] == [2] * 4
    assert [r.parent is None for r in records] == [False, True, False, True]


def train_until(folder: Path, rows: int) -> None:
    """In a process of its own: train a stack and die, without notice, at so many rows."""
    count = itertools.count(1)

    def stop(_):
        if next(count) == rows:
            os.kill(os.getpid(), signal.SIGKILL)

    train_together(plans_of(folder, **{"train.checkpoint_seconds": 1e-6}), on_progress=stop)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder in which a stack was killed after 33 rows; copy it."""
    folder = tmp_path_factory.mktemp("killed")
    assert wait_for(start_child(train_until, folder, 33)) == -signal.SIGKILL
    return folder


def test_killed_stack_goes_on_to_the_bit(tmp_path, alone, killed):
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    plans = plans_of(tmp_path)
    records = train_together(plans)
    assert [r.val_loss for r in records] == [a.val_loss for a, _ in alone]
    assert [numbers(p.folder) for p in plans] == [rows for _, rows in alone]


@pytest.mark.slow
def test_runs_of_a_killed_stack_go_on_alone_or_with_others(tmp_path, alone, killed):
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    plans = plans_of(tmp_path)
    first = train(plans[1])
    rest = train_together([plans[0], plans[3]])
    assert first.val_loss == alone[1][0].val_loss
    assert [r.val_loss for r in rest] == [alone[0][0].val_loss, alone[3][0].val_loss]


def test_runs_out_of_step_after_damage_still_end_alike(tmp_path, alone, killed):
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    plans = plans_of(tmp_path)
    newest = list_checkpoints(plans[2].folder)[0]
    newest.write_bytes(newest.read_bytes()[:-64] + bytes(64))  # header whole, weights not
    records = train_together(plans)
    assert [r.val_loss for r in records] == [a.val_loss for a, _ in alone]
    assert "checksum" in (plans[2].folder / "notes.log").read_text()
    assert read_record(plans[2].folder).status == "done"


def test_finished_run_stays_finished_if_a_neighbour_in_its_stack_fails(tmp_path):
    plans = plans_of(tmp_path, SEEDS[:2])
    blocked = plans[1].folder / "checkpoint" / "model.safetensors"
    blocked.mkdir(parents=True)  # where its final weights should go
    with pytest.raises(TrainError, match="stopped by the file system"):
        train_together(plans)
    assert [read_record(p.folder).status for p in plans] == ["done", "failed"]
    blocked.rmdir()
    assert train_together(plans)[1].status == "done"
