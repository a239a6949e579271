"""Launching again is how a sweep resumes: what is tried again, how often, and what is said of it."""

from __future__ import annotations

import json

import pytest
from hydra.core.utils import JobReturn, JobStatus
from small_run import small_plan
from small_sweep import launch, records

from scaling.analysis.data.runs import load
from scaling.cli.batch import _train_group
from scaling.cli.compose import Point
from scaling.cli.rounds import train_in_rounds
from scaling.cli.standing import describe_standings, find_standing
from scaling.study.errors import TrainError
from scaling.study.plan import make_plan
from scaling.study.record import read_record, write_record
from scaling.training.trainer import train

TOO_LITTLE_TEXT = ("data.unique_tokens=5000",)  # for 7,680 tokens, so that data.max_epochs refuses


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))


def test_failed_run_has_a_stated_number_of_tries_and_keeps_every_reason(tmp_path, capsys):
    code, said = launch(capsys, *TOO_LITTLE_TEXT, "seed=1")
    assert code == 1 and "data.max_epochs" in said and "follows" not in said  # needs somebody
    for number in (2, 3):
        code, said = launch(capsys, *TOO_LITTLE_TEXT, "seed=1")
        assert (
            code == 1 and f"1 run: 1 failed (try {number} of 3: DataError: data.max_epochs" in said
        )
    code, said = launch(capsys, *TOO_LITTLE_TEXT, "seed=1")
    assert code == 1 and "3 tries spent" in said and "retry.again=true" in said
    (record,) = records(tmp_path)
    assert [f["error"] for f in record.failures] == ["DataError"] * 3 and record.attempts == 3
    assert all(f["host"] and f["at"] and "Set data.max_epochs=2" in f["reason"] for f in record.failures)  # fmt: skip
    code, said = launch(capsys, *TOO_LITTLE_TEXT, "seed=1", "retry.failed=3")
    assert "try 4 of 4" in said
    code, said = launch(capsys, *TOO_LITTLE_TEXT, "seed=1", "retry.again=true")
    assert "try 1 of 3" in said
    # what the message asked for is another setting, whose tries begin anew
    code, said = launch(capsys, *TOO_LITTLE_TEXT, "seed=1", "data.max_epochs=2")
    (record,) = records(tmp_path)
    assert code == 0 and record.status == "done" and len(record.failures) == 5


def test_failure_that_may_pass_is_tried_again_in_the_same_launch(tmp_path, capsys, monkeypatch):
    import scaling.training.member as member

    save, calls = member.save_weights, []

    def stumble(*arguments):
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        save(*arguments)

    monkeypatch.setattr(member, "save_weights", stumble)
    code, said = launch(capsys, "seed=1,2")
    assert code == 0 and said.count("try 2 of 3 follows (RuntimeError: CUDA error") == 2
    assert [(r.status, r.attempts, len(r.failures)) for r in records(tmp_path)] == [
        ("done", 2, 1)
    ] * 2


def test_failure_that_no_record_can_keep_ends_the_launch(tmp_path, capsys, monkeypatch):
    """A disk that fills after a first failure: the record stays as it was, with tries left."""
    import scaling.training.trainer as trainer

    plan = small_plan(tmp_path)
    failure = {"at": "", "host": "a", "step": 3, "error": "TrainError", "reason": "TrainError: a bad day", "settings": None}  # fmt: skip
    plan.folder.mkdir(parents=True)
    write_record(
        plan.folder,
        train(small_plan(tmp_path, seed=9)).replace(status="failed", failures=[failure]),
    )
    calls = []

    def full(folder):
        calls.append(folder)
        raise TrainError(f"{folder}: no space")

    monkeypatch.setattr(trainer, "check_writable", full)

    def launch_once(jobs):
        results = []
        for job in jobs:
            result = JobReturn(status=JobStatus.FAILED)
            try:
                trainer.train_together(job.plans)
            except TrainError as error:
                result.return_value = error
            results.append(result)
        return results

    point = Point([], plan.config)
    _, failed = train_in_rounds("s", [(point, plan)], launch_once, workers=1)
    assert failed == 1 and len(calls) == 1 + plan.config.retry.failed
    calls.clear()
    problems: list[str] = []
    _train_group([plan], problems)  # the same inside a cluster's job
    assert len(problems) == 1 and len(calls) == 1 + plan.config.retry.failed


def test_configuration_that_was_refused_is_not_tried_again(tmp_path, capsys):
    refused = ("seed=1", "train.device=cuda:7")
    assert launch(capsys, *refused)[0] == 1
    code, said = launch(capsys, *refused)
    assert code == 1 and "not tried again: ConfigError: train.device" in said
    assert records(tmp_path)[0].attempts == 1
    assert launch(capsys, "seed=1")[0] == 0  # on another device it is the same run


def test_diverged_run_stays_and_is_followed_at_a_lower_rate(tmp_path, capsys):
    lower = ("optim.lr=1e6,0.01", "seed=1", "retry.diverged=2", "retry.lr_factor=1e-4")
    code, _ = launch(capsys, *lower)
    assert code == 0
    found = {r.lr: r for r in records(tmp_path)}
    assert {lr: r.status for lr, r in found.items()} == {
        1e6: "diverged", 1e2: "diverged", 1e-2: "done",
    }  # fmt: skip
    # the second step down is the sweep's own run at 0.01, which is not trained twice
    assert found[1e2].retry_of == found[1e6].run_id and found[1e-2].retry_of is None
    assert "all 3 runs are finished (2 diverged)" in launch(capsys, *lower)[1]
    assert "all 2 runs are finished (1 diverged)" in launch(capsys, *lower[:2])[1]


def test_fit_reads_the_follower_and_not_the_run_that_diverged(tmp_path, capsys):
    lower = ("optim.lr=1e6", "seed=1", "retry.diverged=1", "retry.lr_factor=1e-8")
    assert launch(capsys, *lower)[0] == 0
    runs = load(tmp_path / "results" / "small")
    assert list(runs.fit_rows["lr"]) == [0.01]
    (diverged,) = [r for r in records(tmp_path) if r.status == "diverged"]
    assert list(runs.fit_rows["retry_of"]) == [diverged.run_id]


def test_summary_says_where_every_run_stands(tmp_path):
    plans = [small_plan(tmp_path, seed=seed) for seed in range(8)]
    done = train(plans[0])

    def leave(plan, **changes):
        plan.folder.mkdir(parents=True)
        write_record(plan.folder, done.replace(run_id=plan.run_id, **changes))

    leave(plans[1], status="diverged", reason="training loss is nan")
    leave(plans[2], status="running", steps=24)
    leave(plans[3], status="running", steps=51)
    failure = {"at": "", "host": "a", "step": 3, "error": "TrainError", "reason": "TrainError: out of memory", "settings": None}  # fmt: skip
    leave(plans[4], status="failed", reason="TrainError: out of memory", failures=[failure])
    leave(plans[5], status="failed", reason="ConfigError: train.device")
    plans[6].folder.mkdir(parents=True)
    (plans[6].folder / "run.json").write_text('{"schema_version": 99}')
    standings = [find_standing(plan) for plan in plans]
    assert describe_standings(standings) == (
        "8 runs: 1 done, 1 diverged (stays), 2 interrupted (continue at 40 %, 85 %), "
        "2 failed (try 2 of 3: TrainError: out of memory; not tried again: ConfigError: train.device), "
        f"1 unreadable (left alone: {plans[6].folder}/run.json: schema_version is 99, this package reads 1. "
        "Read it with the version that wrote it, or run it again.), 1 waiting"
    )
    assert [s.open for s in standings] == [False, False, True, True, True, False, False, True]


def test_changed_configuration_trains_new_runs_and_says_that_the_old_ones_stay(tmp_path, capsys):
    assert launch(capsys, "seed=1,2")[0] == 0
    before = {r.run_id: r for r in records(tmp_path)}
    code, said = launch(capsys, "seed=1,2", "optim.lr_scale=0.5")
    assert (
        code == 0 and "2 runs of results/small are not asked for by the sweep as it now is" in said
    )
    after = {r.run_id: r for r in records(tmp_path)}
    assert len(after) == 4 and all(after[i] == r for i, r in before.items())


def test_old_record_that_failed_counts_as_one_try(tmp_path):
    plan = small_plan(tmp_path)
    record = train(plan)
    values = json.loads((plan.folder / "run.json").read_text())
    for name in ("attempts", "failures", "retry_of"):
        del values[name]
    old = values | {"status": "failed", "reason": "TrainError: out of memory"}
    (plan.folder / "run.json").write_text(json.dumps(old))
    assert read_record(plan.folder).attempts is None and record.attempts == 1
    tries = find_standing(plan).tries
    assert (tries.used, tries.allowed, tries.error) == (1, 3, "TrainError")
    assert find_standing(make_plan(plan.config.replace(**{"retry.failed": 0}))).tries.spent
