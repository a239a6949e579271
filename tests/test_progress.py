"""Progress of a sweep: what it counts and what it says about the time left."""

import os
import time

import pytest
from children import nobody, start_command, wait_for

from scaling.cli.jobs import Job
from scaling.cli.progress import say, seconds_left, sweep_progress, what_differs
from scaling.cli.rounds import describe_jobs
from scaling.study.config import RunConfig
from scaling.study.plan import make_plan
from scaling.study.record import RunRecord, read_record, write_record
from scaling.training.logbook import utc_now


def plans(folder):
    return [
        make_plan(RunConfig.from_dict({"model": {"params": "10k"}, "budget": {"tokens": "1M"}, "seed": seed, "results": str(folder)}))
        for seed in range(3)
    ]  # fmt: skip


def end(plan, status="done", finished_at=None):
    values = {"val_loss": 2.5, "seconds": 1.0, "tokens_per_second": 1e4} if status == "done" else {}
    write_record(
        plan.folder,
        RunRecord(plan.run_id, status, finished_at=finished_at or utc_now(), steps=1, steps_planned=plan.steps, **values),
    )  # fmt: skip


def test_runs_that_end_between_two_looks_are_numbered_one_by_one(tmp_path, capsys):
    one, two, _ = started = plans(tmp_path)
    with sweep_progress(started, done=4):
        end(one)
        end(two, "diverged")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["5/7", "6/7"]
    assert sum("diverged" in line for line in lines) == 1


def test_run_that_had_failed_before_is_no_news(tmp_path, capsys):
    started = plans(tmp_path)
    end(started[0], "failed", "2020-01-01T00:00:00+00:00")
    with sweep_progress(started, done=0):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("before", "now", "left"), [(0.0, 0.25, 30.0), (0.5, 0.6, 40.0), (0.5, 0.51, None), (0.0, 1.0, 0.0)])  # fmt: skip
def test_time_left_rests_on_what_this_launch_did(before, now, left):
    assert seconds_left(10.0, before=before, now=now) == (
        None if left is None else pytest.approx(left)
    )


def test_rows_name_what_differs_beyond_the_runs_name(tmp_path):
    apart = plans(tmp_path)
    assert set(what_differs(apart).values()) == {""}  # seeds are in the name
    rates = [make_plan(apart[0].config.replace(**{"optim.lr": lr})) for lr in (0.01, 0.02)]
    assert list(what_differs(rates).values()) == ["lr=0.01", "lr=0.02"]


def test_log_says_how_far_a_sweep_is_while_nothing_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scaling.cli.progress.UPDATE_SECONDS", 0.0)
    with sweep_progress(plans(tmp_path), done=4):
        pass
    assert "4/7 runs, 0 running, 0% of compute" in capsys.readouterr().err


def test_launch_says_which_runs_train_together(tmp_path):
    budgets = [
        make_plan(RunConfig.from_dict({"model": {"params": "10k"}, "budget": {"tokens": t}, "optim": {"horizon": "1M"}, "results": str(tmp_path)}))
        for t in ("1M", "2M", "4M")
    ]  # fmt: skip
    seeds = plans(tmp_path)
    jobs = [Job((), tuple(budgets)), Job((), tuple(seeds)), Job((), tuple(seeds[:1]))]
    text = describe_jobs(jobs)
    assert text.startswith("1 trunk, 2 branches after it; 3 runs as one program.")
    assert describe_jobs(jobs[2:]) == ""


def test_line_that_nobody_reads_is_lost_and_the_next_one_too():
    with os.fdopen(nobody(), "w") as stream:
        say("one", file=stream)
        say("two", file=stream)


@pytest.mark.parametrize("grid", [[], ["-m", "seed=0,1"]])
def test_run_goes_on_when_the_reader_of_its_output_has_gone(tmp_path, grid):
    small = ["model.params=3k", "budget.tokens=8k", "data.source=markov", "data.vocab=64"]
    kept = ["data.size=100k", "data.val_tokens=4096", "train.evals=3", f"results={tmp_path}"]
    wait_for(start_command(tmp_path, "train", *grid, *small, *kept))
    records = [read_record(path.parent) for path in tmp_path.glob("single/*/run.json")]
    assert [r.status for r in records] == ["done"] * (2 if grid else 1)


def test_long_sweep_one_by_one_is_told_once_how_to_go_faster(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scaling.cli.progress.UPDATE_SECONDS", 0.0)
    monkeypatch.setattr("scaling.cli.progress.POLL_SECONDS", 0.01)
    one, *_ = started = plans(tmp_path)

    def train_a_part(hint):
        (one.folder / "run.json").unlink(missing_ok=True)
        with sweep_progress(started, done=0, hint=hint):
            record = RunRecord(one.run_id, "running", steps=one.steps // 2, steps_planned=one.steps)
            write_record(one.folder, record)
            time.sleep(0.2)
        return capsys.readouterr().err

    assert "faster" not in train_a_part("go faster")  # seconds are left
    monkeypatch.setattr("scaling.cli.progress.LONG", 0.0)
    assert train_a_part("go faster").count("are left, go faster") == 1
    assert "are left," not in train_a_part(None)
