"""Several processes train one run: the same losses, one record, and an end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from small_run import STEPS, small_plan

from scaling.study.errors import TrainError
from scaling.study.record import read_metrics, read_record
from scaling.training.checkpoint import list_checkpoints, load_weights
from scaling.training.distributed import check_rows
from scaling.training.model import Transformer
from scaling.training.place import find_place, first_host
from scaling.training.trainer import train

HERE = Path(__file__).parent
NUMBERS = ("step", "tokens", "train_loss", "val_loss", "lr", "grad_norm")

# Sums over rows and processes are rounded in another order: 6e-8 of a value each time, and 60 steps
# at a high rate carry it on. Measured at 2, 3 and 4 processes: 6e-8 nats. A lost row or a gradient
# that is not shared changes the loss by 1e-3 and more.
LOSS_TOLERANCE = 2e-6
NORM_TOLERANCE = 1e-5  # relative; a norm is a sum of squares over all weights

# What each process does, by the names it is given: `ddp`, `fsdp` train to the end; `half` is stopped
# by Ctrl-C on the way and leaves a checkpoint, `again` goes on with it; `given` goes on with one that was
# there; `terminated` and `killed` are long enough to be.
CHILD = """
import os, signal, sys
from pathlib import Path
from small_run import small_plan
from scaling.training.trainer import train
folder = Path(sys.argv[1])
for name in sys.argv[2:]:
    where = folder / {"again": "half"}.get(name, name)
    changes = {"train.parallel": "fsdp" if "fsdp" in name else "ddp", "train.micro_batch_tokens": 96}
    if name in ("terminated", "killed"):
        changes |= {"budget.tokens": 256 * 20_000, "data.size": 6_000_000, "train.log_points": 20_000}
    def tell(progress):
        if name.startswith("half") and progress["step"] == 30:
            os.kill(os.getpid(), signal.SIGINT)
        if progress["step"] == 20:
            print(name, "is at 20", flush=True)
    try:
        record = train(small_plan(where, **changes), on_progress=tell)
        print(name, record.status, record.val_loss, flush=True)
    except KeyboardInterrupt:
        print(name, "stopped", flush=True)
    except SystemExit as end:
        print(name, "exit", end.code, flush=True)
"""


def environment(**more: str) -> dict[str, str]:
    return (
        os.environ
        | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}", "OMP_NUM_THREADS": "1"}
        | more
    )


def torchrun(count: int, *arguments: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={count}",
    ]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=300, env=environment()
    )


def start_slurm(folder: Path, *names: str) -> list[subprocess.Popen]:
    """Start two processes as srun would: nothing watches over them but they themselves."""
    script = folder / "child.py"
    script.write_text(CHILD)
    common = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_JOB_NODELIST": "localhost", "SLURM_TASKS_PER_NODE": "2",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), *names],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(**common, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
        )
        for rank in range(2)
    ]  # fmt: skip


def run_child(folder: Path, count: int, *names: str) -> list[str]:
    """Train under torchrun; returns what the processes printed, sorted."""
    script = folder / "child.py"
    script.write_text(CHILD)
    done = torchrun(count, str(script), str(folder), *names)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


def numbers(folder: Path) -> list[dict]:
    """Rows without what depends on the clock."""
    return [{k: row[k] for k in NUMBERS if k in row} for row in read_metrics(folder)]


def assert_same_losses(folder: Path, expected: Path) -> None:
    rows, others = numbers(folder), numbers(expected)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() & {"train_loss", "val_loss"}:
            assert row[name] == pytest.approx(other[name], abs=LOSS_TOLERANCE)
        if "grad_norm" in row:
            assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=NORM_TOLERANCE)


def stop_halfway(plan) -> None:
    def stop(progress):
        if progress["step"] == 30:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(plan, on_progress=stop)
    assert list_checkpoints(plan.folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run as one process trains it."""
    plan = small_plan(tmp_path_factory.mktemp("alone"))
    train(plan)
    return plan.folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made of the same run: each engine, interruptions, a notice, a kill."""
    folder = tmp_path_factory.mktemp("two")
    stop_halfway(small_plan(folder / "given"))
    names = ("ddp", "fsdp", "half", "again", "half_fsdp", "given", "terminated", "killed")
    first, second = start_slurm(folder, *names)
    try:
        printed = read_until(first, "terminated is at 20")
        second.send_signal(signal.SIGTERM)
        printed += read_until(first, "killed is at 20")
        second.send_signal(signal.SIGKILL)
        start = time.monotonic()
        _, said = first.communicate(timeout=120)
        end = Ending(first.returncode, time.monotonic() - start, said)
        assert second.stdout is not None
        return folder, printed, second.stdout.read().splitlines(), end
    finally:
        first.kill()
        second.kill()


class Ending(NamedTuple):
    """How the process ended that was left alone."""

    code: int
    seconds: float
    said: str


def read_until(process: subprocess.Popen, last: str) -> list[str]:
    """Return the lines a process prints up to one."""
    assert process.stdout is not None and process.stderr is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if lines[-1] == last:
            return lines
    raise AssertionError(process.stderr.read())


def folder_of(two, name: str) -> Path:
    return small_plan(two[0] / name).folder


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(two, alone, engine):
    folder = folder_of(two, engine)
    assert_same_losses(folder, alone)
    record = read_record(folder)
    assert (record.status, record.devices, record.parallel) == ("done", 2, engine)
    assert record.val_loss == pytest.approx(read_record(alone).val_loss, abs=LOSS_TOLERANCE)


def test_every_process_returns_the_one_record(two):
    for name in ("ddp", "fsdp"):
        line = f"{name} done {read_record(folder_of(two, name)).val_loss}"
        assert line in two[1] and line in two[2]
    rows = numbers(folder_of(two, "ddp"))
    assert len([row for row in rows if "train_loss" in row]) == 20  # written once, by one
    assert not list(folder_of(two, "ddp").glob("claim.json"))


def test_two_processes_go_on_to_the_bit_after_an_interruption(two):
    assert read_record(folder_of(two, "half")).resumes == 1
    assert numbers(folder_of(two, "half")) == numbers(folder_of(two, "ddp"))


def test_checkpoint_of_one_process_goes_on_with_two(two, alone):
    folder = folder_of(two, "given")
    assert (read_record(folder).resumes, read_record(folder).devices) == (1, 2)
    assert_same_losses(folder, alone)


def test_checkpoint_of_two_divided_processes_goes_on_with_one(two, alone):
    plan = small_plan(two[0] / "half_fsdp")
    assert list_checkpoints(plan.folder)
    record = train(plan)
    assert (record.status, record.resumes, record.devices) == ("done", 1, 1)
    assert_same_losses(plan.folder, alone)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_final_weights_are_whole_and_load_anywhere(two, engine):
    plan = small_plan(two[0] / engine)
    load_weights(plan.folder, Transformer(plan.shape))  # names and shapes of the plain model


def test_notice_to_one_process_saves_and_ends_both(two):
    folder, _, second, _ = two
    record = only_record(folder / "terminated")
    assert record.status == "running" and "interrupted by SIGTERM" in record.reason
    assert list_checkpoints(folder / "terminated/results/single" / record.run_id)
    assert "terminated exit 143" in second


def test_killed_process_ends_the_other_with_a_message(two):
    folder, _, _, end = two
    assert end.code == 1 and "process 0 of 2: another one is gone" in end.said
    # a closed socket is noticed at once; an interpreter's end may take seconds on a busy machine
    assert end.seconds < 60
    record = only_record(folder / "killed")
    assert record.status == "failed" and "Start the same command again" in record.reason


def only_record(folder: Path):
    (path,) = folder.glob("results/single/*")
    return read_record(path)


@pytest.mark.slow
def test_four_processes_have_the_losses_of_one_and_go_on_to_the_bit(tmp_path, alone):
    printed = run_child(tmp_path, 4, "ddp", "fsdp", "half", "again")
    assert len([line for line in printed if line.startswith("ddp done")]) == 4
    for name in ("ddp", "fsdp"):
        assert_same_losses(small_plan(tmp_path / name).folder, alone)
    assert numbers(small_plan(tmp_path / "half").folder) == numbers(
        small_plan(tmp_path / "ddp").folder
    )


@pytest.mark.slow
def test_rows_that_do_not_divide_evenly_give_the_losses_of_one(tmp_path, alone):
    run_child(tmp_path, 3, "ddp", "fsdp")  # 8 sequences: 2, 3 and 3, in passes of 3
    for name in ("ddp", "fsdp"):
        assert_same_losses(small_plan(tmp_path / name).folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["run", "sweep"])
def test_torchrun_trains_from_the_command_line(tmp_path, mode, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    run = [
        "model.params=3k",
        "budget.tokens=20k",
        "data=markov",
        "data.vocab=64",
        "data.size=40k",
        "data.val_tokens=2048",
        "optim.batch_tokens=512",
    ]
    grid = ["-m", "seed=1,2"] if mode == "sweep" else []
    done = torchrun(2, "-m", "scaling", "train", *grid, *run)
    assert done.returncode == 0, done.stderr
    records = [json.loads(p.read_text()) for p in Path("results").rglob("run.json")]
    assert [r["devices"] for r in records] == [2] * (2 if grid else 1)
    assert all(r["status"] == "done" for r in records)
    assert done.stdout.count("validation loss") == (0 if grid else 1)


def test_torchruns_variables_are_read():
    variables = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu1",
        "MASTER_PORT": "123",
    }
    place = find_place(variables)
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.local_size) == (5, 8, 1, 4)
    assert (place.host, place.port) == ("gpu1", 123)
    assert find_place(variables | {"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert find_place({}) is None


def test_sruns_variables_are_read_and_a_batch_script_is_alone():
    script = {
        "SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "6",
        "SLURM_JOB_NODELIST": "gpu[003-004,9]", "SLURM_TASKS_PER_NODE": "2(x3)",
    }  # fmt: skip
    assert find_place(script) is None
    step = script | {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
    }
    place = find_place(step)
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.local_size) == (3, 6, 1, 2)
    assert place.host == "gpu003" and 10_000 <= place.port < 30_000
    other = find_place(step | {"SLURM_JOB_ID": "78"})
    assert other is not None and other.port != place.port
    with pytest.raises(TrainError, match="variables cannot be read"):
        find_place(step | {"SLURM_PROCID": "first"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("gpu[003-010,12],x1", "gpu003"),
        ("a,b", "a"),
        ("r[1-2]n[5,7]-ib", "r1n5-ib"),
    ],
)
def test_first_host_of_slurms_list(nodes, first):
    assert first_host(nodes) == first


def test_batch_smaller_than_the_processes_is_refused():
    check_rows(8, 8)
    with pytest.raises(TrainError, match="a batch of 8 sequences cannot be divided over 9"):
        check_rows(8, 9)


def test_small_run_is_long_enough_to_be_stopped_halfway():
    assert STEPS > 30
