"""Sweeps on a real Slurm: arrays, time limits, preemption, dead nodes, cancelled jobs, impatient people.

`make test-slurm` installs Slurm where it may and runs these; nothing here is a stand-in.
"""

from __future__ import annotations

import functools
import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from slurm_cluster import Cluster, until
from small_run import numbers

import scaling
from scaling.cli import main
from scaling.cli.compose import compose_sweep
from scaling.cli.submissions import ended_runs, queued_runs, read_submissions
from scaling.study.config import RunConfig
from scaling.study.errors import RecordError
from scaling.study.plan import make_plan
from scaling.study.record import RunRecord, read_record
from scaling.training.trainer import train

pytestmark = pytest.mark.slurm

SLURM = ["train", "-m", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=0.1"]  # fmt: skip
TINY = [
    "model.layers=2", "model.width=16", "model.heads=2", "model.context=32", "data.source=markov", "data.order=1",
    "data.vocab=32", "data.size=40000", "data.val_tokens=512", "data.max_epochs=1e6", "optim.batch_tokens=256",
    "data.cache=../cache", "train.evals=1", "train.threads=1", "train.device=cpu", "train.precision=float32",
]  # fmt: skip
SHORT = "budget.tokens=2048"  # 8 steps
LONG_SECONDS = 8  # enough for Slurm to look for work a few times while a run trains
ENDLESS = "budget.tokens=1e9"
START = 90  # s for a job to import torch on a machine that does other things too


@pytest.fixture(scope="module")
def slurm():
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    with slurm_cluster.cluster() as found:
        yield found


@pytest.fixture
def place(slurm, tmp_path_factory, monkeypatch) -> Path:
    """A folder with a space and Chinese in its name, in which the cluster can be used."""
    folder = tmp_path_factory.mktemp("a sweep 扫描")
    monkeypatch.chdir(folder)
    # jobs use the code that is tested here, whatever is installed
    root = str(Path(scaling.__file__).parents[1])
    for name, value in {**slurm.env, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    yield folder
    slurm.call("scancel", "--quiet", "--user", getpass.getuser())


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> str:
    """A budget that takes some seconds here and now, whatever else this machine does."""
    folder = tmp_path_factory.mktemp("speed")
    (point,) = compose_sweep([*TINY, "budget.tokens=76800", f"results='{folder}'"]).points
    record = train(make_plan(point.config.replace(**{"data.cache": str(folder / "cache")})))
    return f"budget.tokens={max(150_000, int(LONG_SECONDS * record.tokens_per_second))}"


def launch(sweep: str, *overrides: str) -> int:
    return main([*SLURM, *TINY, f"sweep={sweep}", *overrides])


def records(sweep: str) -> dict[str, RunRecord]:
    found = {}
    for path in Path("results", sweep).glob("*/config.yaml"):
        try:
            found[path.parent.name] = read_record(path.parent)
        except RecordError:
            continue
    return found


def all_done(sweep: str, count: int) -> bool:
    return [r.status for r in records(sweep).values()] == ["done"] * count


def steps(sweep: str) -> int:
    return min([r.steps or 0 for r in records(sweep).values()], default=0)


def reason(sweep: str) -> str:
    (record,) = records(sweep).values()
    return record.reason or ""


def only_job(sweep: str) -> str:
    (job,) = [j for s in read_submissions(Path("results", sweep)) for j in s.jobs]
    return job


@functools.cache
def undisturbed(config: str) -> tuple[RunRecord, list[dict]]:
    """Train a run in this process and in one go."""
    plan = make_plan(RunConfig.from_dict(yaml.safe_load(config)))
    return train(plan), numbers(plan.folder)


def assert_undisturbed(sweep: str) -> None:
    """Compare a run that was interrupted with the same one in one go: every number is the same to the bit."""
    ((run_id, record),) = records(sweep).items()
    folder = Path("results", sweep, run_id)
    config = RunConfig.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))
    same = config.replace(sweep="undisturbed", results="undisturbed")  # one for all tests
    alone, rows = undisturbed(yaml.safe_dump(same.to_dict(), sort_keys=True))
    assert (record.val_loss, record.train_loss) == (alone.val_loss, alone.train_loss)
    assert numbers(folder) == rows
    assert record.resumes >= 1


def test_sweep_is_arrays_whose_jobs_hold_several_short_runs(slurm, place, capsys):
    many = ("seed=0,1,2,3,4,5,6,7", "train.stack=1", SHORT)
    # 20 s are assumed for the start of a run: two of them are longer than this pack
    assert launch("arrays", *many, "hydra.launcher.pack_minutes=0.5") == 0
    said = capsys.readouterr().out
    (submission,) = read_submissions(Path("results/arrays"))
    assert sorted(len(runs) for runs in submission.jobs.values()) == [1, 1, 1, 1, 2, 2]
    (array,) = submission.arrays
    assert f"scancel {array}" in said and "scaling status arrays --watch" in said
    assert set(slurm.jobs("arrays")) == {f"{array}_{i}" for i in range(6)}  # one array
    # the launcher has returned; jobs go on
    until(lambda: all_done("arrays", 8), 2 * START, "all runs are done")
    assert launch("arrays", *many) == 0
    assert "nothing to train" in capsys.readouterr().out


def test_more_jobs_than_an_array_holds_are_several_arrays(slurm, place):
    assert launch("wide", "seed=range(8)", "train.stack=1", SHORT, "hydra.launcher.pack_minutes=0", "hydra.launcher.array_parallelism=1") == 0  # fmt: skip
    submissions = read_submissions(Path("results/wide"))
    assert [len(s.jobs) for s in submissions] == [6, 2]  # 6 is the test cluster's largest array


def test_pressed_twice_at_the_same_time_submits_each_run_once(slurm, place):
    command = [sys.executable, "-m", "scaling", *SLURM, *TINY, "sweep=twice", "seed=0,1,2", "train.stack=1", SHORT, "hydra.launcher.pack_minutes=0"]  # fmt: skip
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate(timeout=2 * START)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert len(slurm.jobs("twice")) == 3
    assert sorted("submitted 3 runs" in text for text in said) == [False, True]
    assert sorted("nothing is left to submit" in text for text in said) == [False, True]
    until(lambda: all_done("twice", 3), 2 * START, "all runs are done")
    assert all(r.resumes == 0 for r in records("twice").values())


def test_cancelled_run_is_told_and_healed_by_running_the_sweep_again(slurm, place, long, capsys):
    many = ("seed=0,1", "train.stack=1", long, "hydra.launcher.pack_minutes=0")
    assert launch("healed", *many) == 0
    folder = Path("results/healed")
    until(lambda: len(records("healed")) == 2 and steps("healed") > 0, START, "both runs train")
    (submission,) = read_submissions(folder)
    job, (run,) = next(iter(submission.jobs.items()))
    slurm.call("scancel", job)
    until(lambda: run not in queued_runs(folder), 30, "the job is gone")
    assert slurm.jobs("healed")[job] == "CANCELLED"
    assert "interrupted by SIGTERM" in (records("healed")[run].reason or "")
    assert "cancelled" in ended_runs(folder, [run])[run].lower()
    capsys.readouterr()
    assert launch("healed", *many) == 0
    assert "submitted 1 run as 1 job" in capsys.readouterr().out
    until(lambda: all_done("healed", 2), 2 * START, "both runs are done")
    assert records("healed")[run].resumes == 1


def disturbed(name: str, *overrides: str) -> str:
    """Submit one run, and return its job once it trains and has a checkpoint."""
    assert launch(name, "train.checkpoint_seconds=1", *overrides) == 0
    until(lambda: steps(name) > 0, START, f"{name} trains")
    return only_job(name)


def test_signal_before_a_time_limit_saves_requeues_and_changes_no_number(slurm, place, long):
    job = disturbed("limit", long)
    slurm.call("scancel", "--signal=USR2", job)  # as Slurm does before a limit
    until(lambda: slurm.lives(job) == 1, 30, "the job is in the queue again")
    until(lambda: "interrupted by SIGUSR2" in reason("limit"), 30, "the run says that it was saved")
    until(lambda: all_done("limit", 1), 2 * START, "the run is done")
    assert slurm.jobs("limit")[job] in ("COMPLETED", "COMPLETING", "RUNNING")
    assert_undisturbed("limit")


def test_time_limit_of_slurm_itself_saves_and_requeues(slurm, place):
    # one minute is the least, and Slurm sends the signal up to a minute before it is due: perhaps
    # before the first step, and then the job gets on in its next life
    assert launch("minute", ENDLESS, "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10") == 0  # fmt: skip
    job = only_job("minute")
    until(lambda: any(r.resumes for r in records("minute").values()), 4 * START, "a life goes on where another stopped")  # fmt: skip
    assert slurm.lives(job) >= 1


@pytest.mark.parametrize("partition", ["low", "patient"])
def test_preempted_run_saves_and_comes_back(slurm, place, long, partition):
    """Without and with a grace time, in which Slurm expects a job to end by itself."""
    name = f"preempted-{partition}"
    job = disturbed(
        name, long, f"hydra.launcher.partition={partition}", "hydra.launcher.nodelist=n1"
    )
    slurm.call("sbatch", "-p", "high", "-w", "n1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")  # fmt: skip
    until(lambda: slurm.lives(job) == 1, 30, "the job is in the queue again")
    until(lambda: "interrupted by SIGTERM" in reason(name), 30, "the run says that it was saved")
    until(lambda: all_done(name, 1), 2 * START, "the run is done")
    assert_undisturbed(name)


def test_run_of_a_dead_node_goes_on_when_the_node_is_back(slurm, place, long):
    job = disturbed("dead", long, "hydra.launcher.nodelist=n2")
    slurm.lose_node("n2")
    until(lambda: slurm.lives(job) == 1, 60, "Slurm has given the node up")
    slurm.start_node("n2")
    until(lambda: all_done("dead", 1), 2 * START, "the run is done")
    assert_undisturbed("dead")


def test_run_survives_its_node_daemon_being_started_anew(slurm, place, long):
    disturbed("daemon", long, "hydra.launcher.nodelist=n2")
    slurm.kill("slurmd-n2", 9)
    slurm.start_node("n2")
    until(lambda: all_done("daemon", 1), 2 * START, "the run is done")


def test_one_run_on_two_nodes(slurm, place):
    # nodes of this cluster have no addresses of their own
    two = ("hydra.launcher.nodes=2", "hydra.launcher.setup=['export MASTER_ADDR=127.0.0.1']", "train.parallel=ddp")  # fmt: skip
    assert launch("two", SHORT, *two) == 0
    until(lambda: all_done("two", 1), 2 * START, "the run is done")
    (record,) = records("two").values()
    assert (record.devices, record.parallel) == (2, "ddp")


def test_waiting_launch_ends_with_the_reason_of_a_job_that_died(slurm, place, capsys):
    die = "hydra.launcher.setup=['echo no such module >&2', 'exit 3']"
    assert launch("waited", SHORT, die, "hydra.launcher.wait=true") == 1
    said = capsys.readouterr().err
    assert "no such module" in said and "1 of 1 runs failed" in said
    assert launch("waited", SHORT, "hydra.launcher.wait=true") == 0
    assert all_done("waited", 1)


def test_refusal_by_slurm_is_told_without_a_traceback(slurm, place, capsys):
    assert launch("refused", SHORT, "hydra.launcher.partition=gpu") == 1
    said = capsys.readouterr().err
    assert "invalid partition" in said and "Traceback" not in said and "sinfo" in said
    assert queued_runs(Path("results/refused")) == {}


def test_large_runs_are_submitted_with_settings_of_their_own(slurm, place):
    speed = ["hydra.launcher.flops_per_second=1e9", "hydra.launcher.large_minutes=1"]
    assert launch("large", "budget.tokens=2048,1e9", *speed, "hydra.launcher.large.cpus_per_task=3", "hydra.launcher.large.partition=short") == 0  # fmt: skip
    rows = slurm.call("squeue", "-h", "-r", "-t", "all", "-n", "large", "-o", "%C %P").split("\n")
    assert sorted(rows) == ["1 low", "3 short"]


def test_cluster_stands_alone(slurm: Cluster):
    assert set(slurm.nodes()) == {"n1", "n2"}
    assert os.environ.get("SLURM_CONF") != str(slurm.conf)  # outside of `place`
