"""What a record says of machine and code: true, free of people and paths, kept over lives."""

from __future__ import annotations

import getpass
import json
import re
import socket
import subprocess
from pathlib import Path

import pytest
from small_run import small_plan

from scaling.study import plan as plan_module
from scaling.study.record import read_record, write_record
from scaling.training import logbook
from scaling.training.environment import earlier_lives, find_environment, find_software, git_state
from scaling.training.trainer import train


def test_record_names_versions_and_machine_but_nobody(tmp_path):
    record = train(small_plan(tmp_path))
    assert {"python", "torch", "numpy"} <= set(record.software) and record.numbers_version == 1
    assert record.environment is not None and {"os", "machine", "cores", "launcher"} <= set(record.environment)  # fmt: skip
    text = json.dumps([record.software, record.environment])
    assert socket.gethostname() not in text and getpass.getuser() not in record.environment.values()
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)/", text)
    assert record.lives is None


@pytest.mark.parametrize(
    ("variables", "launcher", "job"),
    [
        ({}, "process", None),
        ({"SLURM_JOB_ID": "17", "RAY_JOB_ID": "1"}, "slurm", "17"),
        ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}, "slurm", "17_2"),
        ({"SCALING_LAUNCHER": "4711"}, "local", None),
        ({"TORCHELASTIC_RUN_ID": "none"}, "torchrun", None),
    ],
)  # fmt: skip
def test_environment_names_launcher_and_job(variables, launcher, job):
    found = find_environment(variables)
    assert found["launcher"] == launcher and found.get("job") == job


def test_git_state_tells_changes_apart(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x", *arguments], check=True, capture_output=True)  # fmt: skip

    assert git_state(tmp_path) == {}  # no checkout
    code = tmp_path / "scaling" / "模型.py"
    code.parent.mkdir()
    code.write_text("a = 1\n")
    git("init")
    assert git_state(tmp_path) == {}  # no commit yet
    git("add", "-A")
    git("commit", "-m", "first")
    clean = git_state(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{40}", clean["commit"]) and "dirty" not in clean
    (tmp_path / "notes.txt").write_text("beside the code")
    assert git_state(tmp_path) == clean
    code.write_text("a = 2\n")
    changed = git_state(tmp_path)
    (code.parent / "new.py").write_text("b = 1\n")
    added = git_state(tmp_path)
    assert clean["commit"] == changed["commit"] == added["commit"]
    assert len({s.get("dirty") for s in (clean, changed, added)}) == 3
    code.write_text("a = 1\n")
    (code.parent / "new.py").unlink()
    assert git_state(tmp_path) == clean


def interrupt_at(plan, step: int) -> None:
    """Train until a row at or after a step, then stop as Ctrl-C would."""

    def stop(state):
        if (state["step"] or 0) >= step:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(plan, on_progress=stop)


def test_run_continued_with_other_code_keeps_both_lives(tmp_path, monkeypatch):
    plan = small_plan(tmp_path)
    interrupt_at(plan, 20)
    first = read_record(plan.folder)
    here = find_environment()
    interrupt_at(plan, 40)  # the same code on the same machine: the same life
    assert read_record(plan.folder).lives is None
    monkeypatch.setattr(logbook, "find_software", lambda: {**find_software(), "torch": "99.0"})
    monkeypatch.setattr(logbook, "find_environment", lambda: {**here, "cpu": "another"})
    record = train(plan)
    assert record.software["torch"] == "99.0" and record.environment["cpu"] == "another"
    (life,) = record.lives
    assert life["software"] == first.software and life["environment"] == first.environment
    assert 40 <= life["until_step"] < record.steps and life["until"]
    assert read_record(plan.folder) == record and train(plan) == record


def test_run_that_begins_again_has_one_life(tmp_path, monkeypatch):
    """Its checkpoints are gone, so nothing of the first life is in it."""
    plan = small_plan(tmp_path)
    interrupt_at(plan, 20)
    for path in (plan.folder / "checkpoint").iterdir():
        path.unlink()
    monkeypatch.setattr(logbook, "find_software", lambda: {"torch": "99.0"})
    record = train(plan)
    assert record.lives is None and record.software == {"torch": "99.0"}


def test_another_job_on_the_same_machine_is_the_same_life(tmp_path):
    plan = small_plan(tmp_path)
    before = logbook._planned_record(plan)
    now = {"software": before.software, "environment": {**before.environment, "job": "12"}}
    assert earlier_lives(before, now, step=3, at=None) is None
    assert (
        earlier_lives(before.replace(software={}, environment=None), now, step=3, at=None) is None
    )


def test_older_records_read_without_the_new_fields(tmp_path):
    sample = Path(__file__).parent.parent / "results" / "sample"
    record = read_record(next(f.parent for f in sample.glob("*/run.json")))
    assert record.lives is None
    old = {k: v for k, v in record.to_dict().items() if k not in ("lives", "environment", "numbers_version")}  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(old))
    assert read_record(tmp_path).numbers_version is None
    write_record(tmp_path, record)


def test_raised_numbers_version_gives_every_run_another_name(tmp_path, monkeypatch):
    plan = small_plan(tmp_path)
    before = (plan.hash, plan.setting_hash)
    monkeypatch.setattr(plan_module, "NUMBERS_VERSION", 2)
    raised = small_plan(tmp_path)
    assert raised.hash != before[0] and raised.setting_hash != before[1]
