"""`scaling status`: what records say, of a sweep file's runs and of folders without one."""

import pytest

from scaling.cli import main
from scaling.cli.compose import compose_sweep
from scaling.cli.status import run_state
from scaling.study.plan import make_plan
from scaling.study.record import RunRecord, write_record
from scaling.training.logbook import utc_now

SMALL = ["model.params=3k", "budget.tokens=8k"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(status="done", *keys, **values):
    """Write a record for the run that the command line stands for, and return its folder."""
    (point,) = compose_sweep([*SMALL, *keys]).points
    plan = make_plan(point.config)
    values = {"val_loss": 2.5, "steps": plan.steps, "updated_at": utc_now()} | values
    write_record(plan.folder, RunRecord(plan.run_id, status, **values))
    return plan.folder


def said(capsys, *arguments, code=0):
    assert main(["status", *arguments]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_status_without_a_name_counts_every_sweep(place, capsys):
    record("done", "sweep=one")
    record("failed", "sweep=one", "seed=1")
    record("done")
    lines = said(capsys).splitlines()
    assert any("one" in x and "1 done" in x and "1 failed" in x for x in lines)
    assert any("single" in x and "1 done" in x for x in lines)


def test_status_reads_a_folder_that_no_sweep_file_names(place, capsys):
    folder = record("done")
    for arguments in (["single"], [str(folder)], SMALL, ["-m", *SMALL]):
        text = said(capsys, *arguments)
        assert folder.name in text and "1 done of 1 runs" in text and "2.5000" in text


def test_status_of_nothing_says_what_there_is(place, capsys):
    assert "no records" in said(capsys, code=1)
    record("done", "sweep=ladder")
    assert "Did you mean 'ladder'" in said(capsys, "lader", code=1)
    assert "leave out" in said(capsys, "ladder", "seed=1", code=1).lower()


def test_run_that_left_after_a_notice_is_interrupted_at_once(place):
    reason = "interrupted by SIGINT at step 3; start it again to go on"
    assert run_state(record("running", reason=reason))[0] == "interrupted"
    assert run_state(record("running", "seed=1"))[0] == "running"
    late = record("running", "seed=2", updated_at="2020-01-01T00:00:00+00:00")
    assert run_state(late)[0] == "interrupted"
