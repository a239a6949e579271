"""Faults of a whole sweep: nothing finished is lost, nothing runs twice, and what happened is said."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest
from children import start_command, wait_for
from small_run import numbers
from small_sweep import SMALL, finish, launch, records, start, wait_until

from scaling.study.record import COPY, read_record
from scaling.training.checkpoint import list_checkpoints

TWELVE = "seed=" + ",".join(map(str, range(12)))
SIX = "seed=0,1,2,3,4,5"
LOCAL = ("hydra/launcher=local", "hydra.launcher.n_jobs=2")
LONG = ("budget.tokens=3M", "data.size=3.2M")  # minutes, if nobody stops it
SECONDS = ("budget.tokens=200k", "data.size=250k")
GARBAGE = (b"", b'{"run_id": "cut o', b"\x00" * 2000, b"\xff\xfe\xb9", b"[1]", b"[" * 100_000)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    return tmp_path


def results(folder):
    """What must not change of a finished run: everything that does not depend on the clock."""
    return {r.run_id: (r.val_loss, r.train_loss, numbers(folder / "results" / "small" / r.run_id)) for r in records(folder)}  # fmt: skip


def run_folders(folder):
    return sorted(path.parent for path in (folder / "results" / "small").glob("*/config.yaml"))


def assert_once(folder, *, runs):
    """Every run is done, and was begun by one process only."""
    found = records(folder)
    assert [r.status for r in found] == ["done"] * runs
    assert [r.attempts for r in found] == [1] * runs and {r.resumes for r in found} == {0}
    for record in found:
        steps = [row["step"] for row in numbers(folder / "results" / "small" / record.run_id)]
        assert steps == sorted(steps)  # rows of two processes would be mixed


def test_ten_damaged_records_are_put_right(here, capsys):
    twelve = (TWELVE, "data.source=zipf_memory", "data.noise=0.01")  # simulated: no time is lost
    assert launch(capsys, *twelve)[0] == 0
    before = results(here)
    rng = random.Random(0)
    for number, folder in enumerate(run_folders(here)[:10]):
        (folder / "run.json").write_bytes(rng.choice(GARBAGE))
        if number >= 8:  # and two copies with them
            (folder / COPY).write_bytes(b"\x00")
    assert len(records_readable(here)) == 10
    code, said = launch(capsys, *twelve)
    assert code == 0 and said.count("damaged, restored from its copy") == 8
    assert said.count("damaged, set aside as run.json.damaged") == 2
    assert "12 runs: 10 done, 2 waiting" in said
    assert results(here) == before  # trained again, two of them, to the bit
    assert "all 12 runs are finished" in launch(capsys, *twelve)[1]


def records_readable(folder):
    found = []
    for path in run_folders(folder):
        with contextlib.suppress(Exception):
            found.append(read_record(path))
    return found


def test_disk_that_fills_up_fails_runs_once_each_and_the_same_command_goes_on(here, capsys):
    assert launch(capsys, "seed=0")[0] == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (run_folders(here)[0] / "run.json").stat().st_size
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (size + 2000, before[1])
    )  # records fit, weights do not
    try:
        code, said = launch(capsys, "seed=0,1,2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and said.count("stopped by the file system") == 2 and "follows" not in said
    failed = [r for r in records(here) if r.status == "failed"]
    assert [len(r.failures) for r in failed] == [1, 1]
    code, said = launch(capsys, "seed=0,1,2")
    assert code == 0 and "3 runs: 1 done, 2 failed (2 x try 2 of 3: OSError" in said
    assert [(r.status, r.attempts) for r in records(here)] == [
        ("done", 1),
        ("done", 2),
        ("done", 2),
    ]


def test_launcher_without_room_for_its_own_files_says_so(here, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert launch(capsys, "seed=0")[0] == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        code, said = launch(capsys, "seed=0,1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and "small/sweep.yaml: File too large" in said and "the same command goes on" in said  # fmt: skip
    assert records(here)[0].status == "done"


@pytest.mark.parametrize("when", [-40.0, 40.0])  # years
def test_records_and_claims_of_another_time_hinder_nobody(here, capsys, when):
    """A clock that has jumped: files of the past and the future, and a dead claim among them."""
    assert launch(capsys, "seed=0,1")[0] == 0
    done, interrupted = run_folders(here)
    then = time.time() + when * 365 * 86_400
    record = json.loads((interrupted / "run.json").read_text())
    year = time.gmtime(then).tm_year
    stamps = dict.fromkeys(("started_at", "updated_at"), f"{year}-01-01T00:00:00+00:00")
    (interrupted / "run.json").write_text(json.dumps(record | stamps | {"status": "running", "steps": 15}))  # fmt: skip
    (interrupted / "claim.json").write_text('{"pid": 1073741824, "host": "')
    for path in (*done.iterdir(), *interrupted.iterdir()):
        if path.is_file():
            os.utime(path, (then, then))
    code, said = launch(capsys, "seed=0,1")
    assert code == 0 and "2 runs: 1 done, 1 interrupted (continues at 50 %)" in said
    assert [r.status for r in records(here)] == ["done", "done"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_results_that_cannot_be_written_are_refused_and_finished_ones_still_answer(here, capsys):
    assert launch(capsys, "seed=0")[0] == 0
    folder = here / "results"
    with read_only(folder):
        code, said = launch(capsys, "seed=0,1")
        assert code == 1 and "results/small: cannot be written" in said
        code, said = launch(capsys, "seed=0")
        assert (code == 0 and "all 1 runs are finished" in said) or "nothing to train" in said


@contextlib.contextmanager
def read_only(folder):
    """Make a folder read-only, to root as well, who heeds no permissions."""
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return
    commands = (["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder])
    if any(subprocess.run(c, capture_output=True).returncode for c in commands):
        subprocess.run(["umount", folder], capture_output=True)
        pytest.skip("this machine lends no mount")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_two_launches_at_once_train_each_run_once(here):
    outputs = [here / "one", here / "two"]
    both = [start_command(here, "train", "-m", *SMALL, SIX, output=path) for path in outputs]
    codes = [wait_for(child) for child in both]
    said = [path.read_text() for path in outputs]
    assert codes == [0, 0], said
    assert_once(here, runs=6)
    assert "failed" not in "".join(said)


@pytest.mark.slow
def test_two_launches_of_two_workers_each_train_each_run_once(here):
    both = [start(here, TWELVE, "budget.tokens=80k", "data.size=100k", *LOCAL) for _ in range(2)]
    said = finish(*both)
    assert [child.returncode for child in both] == [0, 0], said
    assert_once(here, runs=12)
    assert "failed" not in "".join(said)


@pytest.mark.slow
def test_run_folder_removed_while_it_trains_is_trained_whole(here):
    whole = here / "whole"
    whole.mkdir()
    finish(start(whole, "seed=0,1", *SECONDS))
    child = start(here, "seed=0,1", *SECONDS, "train.checkpoint_seconds=0.1")
    wait_until(lambda: any(list_checkpoints(f) for f in run_folders(here)))
    shutil.rmtree(next(f for f in run_folders(here) if list_checkpoints(f)))
    (said,) = finish(child)
    assert child.returncode == 0, said
    assert results(here) == results(whole)


def is_in_the_middle(folder):
    """Some runs are done, and one is far from either end (of 781 steps)."""
    found = records_readable(folder)
    training = [r for r in found if r.status == "running" and 50 < (r.steps or 0) < 400]
    return training and any(r.status == "done" for r in found)


@pytest.mark.slow
def test_killed_launcher_leaves_no_worker_and_a_second_launch_trains_nothing_twice(here):
    first = start(here, SIX, *SECONDS, *LOCAL, "train.checkpoint_seconds=0.5")
    wait_until(lambda: is_in_the_middle(here))
    first.send_signal(signal.SIGKILL)
    second = start(here, SIX, *SECONDS, *LOCAL)  # while orphans may still be saving
    finish(first, seconds=120)  # its workers hold the other end of its output
    (said,) = finish(second)
    assert second.returncode == 0, said
    assert " done" in said and "6 runs: " in said  # what it found is said
    found = records(here)
    assert [r.status for r in found] == ["done"] * 6
    for record in found:  # who was begun twice went on from where it was
        assert record.attempts == 1 + record.resumes, record.run_id
    assert not list((here / "results" / "small").glob("*/claim.json"))


@pytest.mark.slow
def test_half_of_the_workers_killed_and_the_sweep_is_whole(here):
    whole = here / "whole"
    whole.mkdir()
    finish(start(whole, SIX, *SECONDS, *LOCAL))
    child = start(here, SIX, *SECONDS, *LOCAL, "train.checkpoint_seconds=0.5")
    folder = here / "results" / "small"
    wait_until(lambda: is_in_the_middle(here))
    claim = json.loads(next(folder.glob("*/claim.json")).read_text())
    os.kill(claim["pid"], signal.SIGKILL)
    (said,) = finish(child)
    if child.returncode:  # nothing more was done before it gave up: the same command goes on
        assert "killed from outside" in said and "The same command goes on" in said
        assert start(here, SIX, *SECONDS, *LOCAL).wait(300) == 0
    assert results(here) == results(whole)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_results_on_a_full_disk_are_completed_once_there_is_room(here):
    disk = here / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=140k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lends no mount")
    try:
        where = f"results={disk}/结果 r"
        first = start(here, SIX, where)
        (said,) = finish(first)
        assert first.returncode == 1 and "No space left on device" in said, said
        done = {p: p.read_bytes() for p in disk.rglob("run.json") if b'"done"' in p.read_bytes()}
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        second = start(here, SIX, where)
        (said,) = finish(second)
        assert second.returncode == 0, said
        found = [read_record(p.parent) for p in disk.rglob("run.json")]
        assert [r.status for r in found] == ["done"] * 6
        assert all(p.read_bytes() == text for p, text in done.items())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 0.5, 1, 2, 3, 5, 9])
def test_ctrl_c_in_the_first_seconds_prints_no_traceback(seconds, here):
    """The seconds count from where Python can call anything of ours; before, no program catches Ctrl-C."""
    code = "import scaling.cli, sys; print('ready', flush=True); sys.exit(scaling.cli.main())"
    child = start(here, "seed=1,2", *LONG, *LOCAL, start_new_session=True, program=("-c", code))
    assert child.stdout.readline() == "ready\n"
    time.sleep(seconds)
    os.killpg(child.pid, signal.SIGINT)
    (said,) = finish(child, seconds=90)
    assert child.returncode == 130, said
    assert "Traceback" not in said and "the same command continues" in said


@pytest.mark.slow
@pytest.mark.parametrize("notice", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_launcher_leaves_saved_runs_and_no_worker(notice, here):
    child = start(here, "seed=1,2", *LONG, *LOCAL)
    folder = here / "results" / "small"
    # the first row is before any step
    wait_until(
        lambda: sum(p.read_text().count("\n") > 1 for p in folder.glob("*/metrics.jsonl")) == 2,
        seconds=300,  # other work may keep the machine busy
    )
    child.send_signal(notice)
    assert child.wait(120) == (143 if notice == signal.SIGTERM else -9)
    wait_until(lambda: not list(folder.glob("*/claim.json")), seconds=300)
    for path in folder.glob("*/run.json"):
        record = read_record(path.parent)
        assert record.status == "running" and "interrupted by SIGTERM" in record.reason
        assert list_checkpoints(path.parent)
