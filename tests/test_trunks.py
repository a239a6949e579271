"""Shared trunks: found by the planner, the same losses to the bit, and less compute."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
from children import start_child, wait_for
from small_run import BATCH, STEPS, numbers, small_plan

from scaling.study.record import read_record
from scaling.study.trunks import branch_step, find_trunks, trunk_hash, trunk_key
from scaling.training.trainer import train, train_together

BUDGETS = (1, 2, 4)  # x 60 steps


def budget_plans(folder: Path, budgets=BUDGETS, **changes):
    """Plans of one model and several budgets that share warm-up and batch."""
    shared = {"optim.horizon": STEPS * BATCH, "data.max_epochs": 5} | changes
    return [small_plan(folder, **{"budget.tokens": b * STEPS * BATCH}, **shared) for b in budgets]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Each budget trained alone from the start."""
    plans = budget_plans(tmp_path_factory.mktemp("straight"))
    return [(train(p), numbers(p.folder)) for p in plans]


def test_doubling_budgets_with_a_fifth_of_cooldown_cost_19_instead_of_31(tmp_path):
    plans = budget_plans(tmp_path, (1, 2, 4, 8, 16))
    (trunk,) = find_trunks(plans)
    unit = plans[0].tokens
    assert sum(p.tokens for p in plans) == 31 * unit
    assert sum(p.tokens for p in plans) - trunk.shared_tokens == 19 * unit
    assert trunk.parent is plans[-1]
    assert [branch_step(p) for p in trunk.branches] == [0.8 * b * STEPS for b in (1, 2, 4, 8)]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, {"optim.lr": 0.02}, {"optim.batch_tokens": 2 * BATCH}, {"model.width": 24},
        {"optim.schedule": "cosine"}, {"data.order_seed": 7}, {"optim.beta2": 0.9}, {"optim.warmup": 0.1},
    ],
)  # fmt: skip
def test_runs_that_differ_before_the_cooldown_share_no_trunk(tmp_path, change):
    plans = [*budget_plans(tmp_path, (1, 2)), *budget_plans(tmp_path, (4,), **change)]
    assert trunk_key(plans[2]) != trunk_key(plans[0]) == trunk_key(plans[1])
    assert trunk_hash(plans[2]) != trunk_hash(plans[0]) == trunk_hash(plans[1])
    assert len(find_trunks(plans)) == 2


def test_budgets_by_their_own_rules_share_no_trunk(tmp_path):
    plans = budget_plans(tmp_path, **{"optim.horizon": None})  # warm-up is a share of each budget
    assert len(find_trunks(plans)) == len(plans)


def test_cooldowns_of_another_length_and_shape_branch_off_too(tmp_path):
    plans = [*budget_plans(tmp_path), *budget_plans(tmp_path, (4,), **{"optim.cooldown_shape": "linear", "optim.cooldown": 0.4})]  # fmt: skip
    (trunk,) = find_trunks(plans)
    assert len(trunk.branches) == 3


def test_branches_have_the_losses_of_straight_runs_to_the_bit(tmp_path, straight):
    plans = budget_plans(tmp_path)
    records = train_together(plans)
    for plan, record, (alone, rows) in zip(plans, records, straight, strict=True):
        assert (record.val_loss, record.val_loss_se, record.train_loss) == (alone.val_loss, alone.val_loss_se, alone.train_loss)  # fmt: skip
        assert numbers(plan.folder) == rows
    parents = [r.parent for r in records]
    assert parents == [plans[-1].run_id, plans[-1].run_id, None]
    assert [r.parent_tokens for r in records] == [48 * BATCH, 96 * BATCH, None]
    assert [r.resumes for r in records] == [0, 0, 0]
    assert records[0].parent_seconds <= records[0].seconds


def test_branch_of_another_cooldown_shape_equals_its_straight_run(tmp_path):
    linear = {"optim.cooldown_shape": "linear"}
    alone = train(budget_plans(tmp_path / "a", (2,), **linear)[0])
    plans = [*budget_plans(tmp_path / "b", (4,)), *budget_plans(tmp_path / "b", (2,), **linear)]
    assert train_together(plans)[1].val_loss == alone.val_loss


def train_until(folder: Path, rows: int) -> None:
    """In a process of its own: train and die, without notice, once so many rows are written."""
    count = itertools.count(1)

    def stop(_):
        if next(count) == rows:
            os.kill(os.getpid(), signal.SIGKILL)

    train_together(budget_plans(folder, **{"train.checkpoint_seconds": 1e-6}), on_progress=stop)


@pytest.mark.parametrize(
    "rows",  # on the trunk, past a branch, in a branch
    [pytest.param(10, marks=pytest.mark.slow), 45, pytest.param(63, marks=pytest.mark.slow)],
)
def test_trunk_killed_at_any_time_ends_like_the_undisturbed_one(tmp_path, straight, rows):
    assert wait_for(start_child(train_until, tmp_path, rows)) == -signal.SIGKILL
    plans = budget_plans(tmp_path)
    records = train_together(plans)
    for plan, record, (alone, expected) in zip(plans, records, straight, strict=True):
        assert record.val_loss == alone.val_loss
        assert numbers(plan.folder) == expected


def test_finished_runs_of_a_trunk_are_left_alone(tmp_path, straight):
    plans = budget_plans(tmp_path)
    first = train(plans[0])
    records = train_together(plans)
    assert read_record(plans[0].folder) == first
    assert [r.val_loss for r in records] == [alone.val_loss for alone, _ in straight]


def test_one_failing_run_does_not_stop_the_others(tmp_path, straight):
    from scaling.study.errors import DataError

    plans = budget_plans(tmp_path)
    short = small_plan(tmp_path, **{"seed": 3, "data.unique_tokens": 5000})
    with pytest.raises(DataError, match="max_epochs"):
        train_together([short, *plans])
    assert [read_record(p.folder).status for p in plans] == ["done"] * 3
    assert read_record(short.folder).status == "failed"


def test_branch_that_cools_down_past_the_end_of_its_trunk_does_not_lengthen_it(tmp_path):
    # leaves at step 92 of 132, the trunk ends at 120 and cools down from 108
    changes = [(2, {"optim.cooldown": 0.1}), (2.2, {"optim.cooldown": 0.3})]
    together, alone = (
        [budget_plans(tmp_path / name, (budget,), **change)[0] for budget, change in changes]
        for name in "ab"
    )
    records = train_together(together)
    assert [r.parent for r in records] == [None, together[0].run_id]
    assert [r.steps for r in records] == [120, 132]
    for plan, record, other in zip(together, records, alone, strict=True):
        assert record.val_loss == train(other).val_loss
        assert numbers(plan.folder) == numbers(other.folder)


def test_one_run_in_two_sweeps_is_two_records(tmp_path):
    plans = [small_plan(tmp_path, sweep=sweep, **{"train.stack": 2}) for sweep in ("one", "two")]
    first, second = train_together(plans)
    assert first.run_id == second.run_id and first.val_loss == second.val_loss
    assert numbers(plans[0].folder) == numbers(plans[1].folder)


def test_run_with_another_kernel_takes_no_steps_of_a_trunk(tmp_path):
    plans = [
        *budget_plans(tmp_path, (1,), **{"train.attention": "matmul"}),
        *budget_plans(tmp_path, (2,), **{"train.attention": "sdpa"}),
    ]
    assert [r.parent for r in train_together(plans)] == [None, None]
