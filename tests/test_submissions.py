"""Handing a sweep to a queue, as far as no queue is needed: files, packs, and what a job executes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading

import pytest
from small_run import small_plan

from scaling.cli import main
from scaling.cli.batch import FRUITLESS, Batch, is_held, wait_for_silent
from scaling.cli.compose import compose_sweep
from scaling.cli.jobs import Job
from scaling.cli.packing import pack_jobs
from scaling.cli.slurm import job_speed
from scaling.cli.submissions import (
    Submission,
    ended_runs,
    queued_runs,
    read_submissions,
    write_submission,
)
from scaling.cli.sweep import unique_plans
from scaling.study.errors import TrainError
from scaling.study.record import read_record
from scaling.training.claim import Claim, find_holder
from scaling.training.interrupt import Interrupt, leave

TINY = [
    "model.layers=2", "model.width=16", "model.heads=2", "model.context=32", "data.source=markov",
    "data.vocab=32", "data.size=40000", "data.val_tokens=512", "budget.tokens=2048", "train.evals=1",
]  # fmt: skip


def submission(folder, **changes) -> Submission:
    values = {"engine": "slurm", "name": "mine", "jobs": {"17_0": ["a", "b"], "17_1": ["c"]}, "at": "2026-01-02T03:04:05+00:00"}  # fmt: skip
    return Submission(**{**values, **changes}, folder=folder / "logs" / changes.get("at", "first"))


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def test_submission_is_read_as_it_was_written(tmp_path):
    folder = tmp_path / "结果 1"
    first = submission(folder, by="李", host="login1")
    later = submission(folder, at="2026-01-03T00:00:00+00:00")
    for one in (later, first):
        write_submission(one)
    (folder / "logs" / "cut").mkdir()
    (folder / "logs" / "cut" / "submission.json").write_text('{"engine": "sl')
    for number, wrong in enumerate(({"at": 3}, {"jobs": [1]}, {"jobs": {"1_0": "abc"}}, {"jobs": {"1_0": [None]}})):  # fmt: skip
        values = {"engine": "slurm", "name": "mine", "jobs": {}, "at": "2020"} | wrong
        (folder / "logs" / f"wrong{number}").mkdir()
        (folder / "logs" / f"wrong{number}" / "submission.json").write_text(json.dumps(values))
    assert read_submissions(folder) == [first, later]
    assert read_submissions(folder)[0].folder == folder / "logs" / "first"
    assert first.arrays == ["17"]


def test_where_slurm_does_not_answer_submitted_runs_are_unknown(tmp_path, no_slurm):
    assert queued_runs(tmp_path) == {}
    write_submission(submission(tmp_path))
    queued = queued_runs(tmp_path)
    assert {run: (q.job, q.state) for run, q in queued.items()} == {
        "a": ("17_0", "unknown"), "b": ("17_0", "unknown"), "c": ("17_1", "unknown"),
    }  # fmt: skip


def test_ended_job_is_told_by_its_last_words_and_where_the_rest_is(tmp_path, no_slurm):
    write_submission(submission(tmp_path))
    log = tmp_path / "logs" / "first" / "17_1_0_log.err"
    log.write_text("starting\nslurmstepd: error: Detected 1 oom_kill event\n\n")
    said = ended_runs(tmp_path, ["a", "c", "never submitted"])
    assert set(said) == {"a", "c"}
    assert "oom_kill" in said["c"] and str(log) in said["c"] and "job 17_1" in said["c"]
    assert "never started" in said["a"]


def test_status_tells_what_became_of_a_job_that_left_no_record(tmp_path, monkeypatch, capsys, no_slurm):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (plan,) = [p for _, p in unique_plans(compose_sweep(TINY).points)]
    folder = tmp_path / "results" / "single"
    one = submission(folder, jobs={"17": [plan.run_id]})
    write_submission(one)
    assert main(["status", *TINY]) == 0
    assert "queued" in capsys.readouterr().out  # nobody can be asked here
    one.log("17").write_text("bash: line 3: module: command not found\n")
    monkeypatch.setattr("scaling.cli.submissions.ask_slurm", lambda _: {})
    assert main(["status", *TINY]) == 0
    assert "module: command not found" in capsys.readouterr().out


def test_without_sbatch_the_error_says_where_to_go(tmp_path, monkeypatch, capsys, no_slurm):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *TINY, f"data.cache={tmp_path}/c", "hydra/launcher=slurm"]) == 1
    assert "no sbatch" in capsys.readouterr().err


def test_without_submitit_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(["train", "-m", *TINY, f"data.cache={tmp_path}/c", "hydra/launcher=slurm"]) == 1
    assert "scaling-lab[slurm]" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [1, 7, 100])
def test_packs_hold_every_job_once_and_are_about_as_long_as_asked(tmp_path, jobs):
    plans = (small_plan(tmp_path),)
    work = [Job((), plans) for _ in range(jobs)]
    seconds = {id(job): 30.0 + 7 * (i % 5) for i, job in enumerate(work)}
    packs = pack_jobs(work, minutes=5, seconds=lambda job: seconds[id(job)])
    assert sorted(id(job) for pack in packs for job in pack) == sorted(seconds)
    lengths = [sum(seconds[id(job)] for job in pack) for pack in packs]
    # as few packs as hold them; dealing to the emptiest leaves them within one job of each other
    assert len(packs) == -(-sum(seconds.values()) // 300)
    assert max(lengths) - min(lengths) <= max(seconds.values())


def test_long_jobs_and_pack_minutes_0_are_jobs_of_their_own(tmp_path):
    work = [Job((), (small_plan(tmp_path, seed=s),)) for s in range(4)]
    long = {id(job): 400.0 * (i < 2) + 10 for i, job in enumerate(work)}
    assert [len(p) for p in pack_jobs(work, minutes=5, seconds=lambda j: long[id(j)])] == [1, 1, 2]
    assert [len(p) for p in pack_jobs(work, minutes=0, seconds=lambda j: 10.0)] == [1] * 4


@pytest.mark.parametrize(
    ("changes", "gpus"),
    [({"gres": "gpu:a100:4"}, 4), ({"gres": "gpu"}, 1), ({"gres": "shm:4,gpu:2"}, 2), ({"gpus_per_node": 8, "nodes": 2}, 16)],
)  # fmt: skip
def test_speed_of_a_job_follows_from_its_gpus(changes, gpus):
    settings = {"flops_per_second": None, "nodes": 1, "tasks_per_node": 1, "gpus_per_node": None, "gres": None, "cpus_per_task": 8}  # fmt: skip
    one = job_speed({**settings, "gpus_per_node": 1})
    assert job_speed({**settings, **changes}) == pytest.approx(gpus * one)
    assert job_speed({**settings, "flops_per_second": "1e15"}) == 1e15


@pytest.fixture
def handlers():
    """A job's process sets handlers of its own; the tests' are put back."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}  # fmt: skip
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_job_trains_the_other_runs_when_one_fails(tmp_path, handlers):
    short = {"budget.tokens": 2048, "train.evals": 1}
    good, bad = small_plan(tmp_path, **short), small_plan(tmp_path, **short, **{"data.size": 4096, "data.max_epochs": 0.1})  # fmt: skip
    batch = Batch([[bad.config.to_dict()], [good.config.to_dict()]])
    with pytest.raises(TrainError, match=bad.run_id):
        batch()
    assert read_record(good.folder).status == "done"


def test_job_that_gets_nowhere_is_not_started_for_ever(tmp_path, capsys):
    submitit = pytest.importorskip("submitit")
    batch = Batch([[small_plan(tmp_path).config.to_dict()]])
    lives = 0
    while batch is not None:
        batch.at_start = batch.progress()  # as a life begins; it ends without a step
        following = batch.checkpoint()
        assert following is None or isinstance(following, submitit.helpers.DelayedSubmission)
        batch, lives = following and following.function, lives + 1
    assert lives == FRUITLESS
    assert "timeout_min" in capsys.readouterr().out


def test_next_life_of_a_slurm_job_takes_its_own_claim_over(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    claim = Claim(tmp_path)
    claim.__enter__()  # never left: killed
    monkeypatch.setattr("socket.gethostname", lambda: "the-node-it-is-started-on-again")
    assert find_holder(tmp_path)  # on another host, heard of just now
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert find_holder(tmp_path) is None
    monkeypatch.setenv("SLURM_JOB_ID", "32")  # another job has no such knowledge
    assert find_holder(tmp_path)
    claim._done.set()


def test_slurm_is_only_asked_where_it_is(tmp_path, no_slurm):
    assert shutil.which("squeue") is None
    assert ended_runs(tmp_path, ["a"]) == {}


def test_signal_before_a_time_limit_is_the_trainers_while_it_trains(handlers):
    signal.signal(signal.SIGUSR2, leave)  # as a job does
    with Interrupt() as interrupt, interrupt.deferred():
        os.kill(os.getpid(), signal.SIGUSR2)
        assert interrupt.signal == signal.SIGUSR2  # kept until a step is done
    with pytest.raises(SystemExit) as end:  # nothing to save: importing, between two runs
        os.kill(os.getpid(), signal.SIGUSR2)
    assert end.value.code == 128 + signal.SIGUSR2


def test_job_of_others_is_waited_for_only_while_it_is_silent(tmp_path, monkeypatch):
    plan = small_plan(tmp_path)
    plan.folder.mkdir(parents=True)
    with Claim(plan.folder):
        assert is_held([plan])
        monkeypatch.setattr("scaling.cli.batch.WATCH", 0.1)
        monkeypatch.setattr("scaling.cli.batch.POLL_SECONDS", 0.2)
        threading.Timer(0.5, os.utime, [plan.folder / "claim.json"]).start()  # a heartbeat
        assert not wait_for_silent([plan])
    assert wait_for_silent([plan])
