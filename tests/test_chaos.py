"""Runs killed at any moment, by time, by rows and between any two file operations, end alike to the bit."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from children import CHILDREN
from small_run import BATCH, STEPS, small_plan

from scaling.study.plan import RunPlan
from scaling.study.record import read_metrics, read_record
from scaling.training.claim import find_claim
from scaling.training.trainer import train, train_together

NUMBERS = ("step", "tokens", "train_loss", "val_loss", "val_excess", "lr", "grad_norm")
SHARED = {"optim.horizon": STEPS * BATCH, "train.log_points": 8, "train.evals": 2}
CHANGES = {
    "alone": [{}],
    "trunk": [{"budget.tokens": b * STEPS * BATCH} for b in (0.5, 1)],
    "stack": [{"seed": seed, "train.stack": 8} for seed in (0, 1, 2)],
}
HOWS = ("rows", "files", "time")
MOST = {"rows": 10, "files": 300, "time": 0.6}  # about where a run alone ends; seconds for time
FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.utime"}


def plans_of(kind: str, folder: Path, **more) -> list[RunPlan]:
    return [small_plan(folder, **SHARED, **change, **more) for change in CHANGES[kind]]


def numbers(folder: Path) -> list[dict]:
    """Rows without what depends on the clock."""
    return [{k: row[k] for k in NUMBERS if k in row} for row in read_metrics(folder)]


def doomed(kind: str, folder: Path, how: str, when: float, notice: int, started) -> None:
    """Train until a number of rows is written, or of file operations done, and strike oneself."""
    plans = plans_of(kind, folder, **{"train.checkpoint_seconds": 1e-6})
    count = itertools.count(1)

    def strike(*_: object) -> None:
        if next(count) == int(when):
            os.kill(os.getpid(), notice)

    def on_file(event: str, arguments: tuple) -> None:
        if event in FILES and str(folder / "results") in str(arguments[0]):
            strike()

    if how == "files":
        sys.addaudithook(on_file)
    started.set()
    train_together(plans, on_progress=strike if how == "rows" else None)


def strike(kind: str, folder: Path, how: str, when: float, notice: int) -> int:
    """Start a child, have it struck, and return its exit code; negative if it died of the signal."""
    started = CHILDREN.Event()
    child = CHILDREN.Process(target=doomed, args=(kind, folder, how, when, notice, started))
    child.start()
    if how == "time":
        assert started.wait(120)
        time.sleep(when)
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.kill(child.pid, notice)
    child.join(120)
    return child.exitcode


@pytest.fixture
def place(tmp_path):
    """A folder in memory where there is one: a kill is not a power cut, and fsync takes most of the time."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if usable else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Each run trained alone and in one go."""
    found = {}
    for kind in CHANGES:
        plans = plans_of(kind, tmp_path_factory.mktemp(kind))
        found[kind] = [(train(p), numbers(p.folder)) for p in plans]
    return found


def assert_alike(kind: str, folder: Path, straight) -> None:
    """Continue what is left and compare every number with the undisturbed runs."""
    plans = plans_of(kind, folder)
    records = train_together(plans)
    for plan, record, (alone, rows) in zip(plans, records, straight[kind], strict=True):
        assert record.status == "done"
        assert (record.val_loss, record.train_loss) == (alone.val_loss, alone.train_loss)
        assert numbers(plan.folder) == rows
        left = {p.name for p in plan.folder.rglob("*") if p.is_file()}
        assert find_claim(plan.folder) is None  # one may lie there: killed when the record was done
        assert left - {"notes.log", "claim.json"} == {
            "config.yaml",
            "metrics.jsonl",
            "run.json",
            "run.copy.json",
            "model.safetensors",
        }


def chain(kind: str, folder: Path, seed: int, kills: int, straight) -> None:
    """Kill one job again and again at random points, and let it come to its end."""
    rng, hits = random.Random(seed), 0
    for how in itertools.islice(itertools.cycle(HOWS), kills):
        when = rng.uniform(1, MOST[how]) if how != "time" else rng.uniform(0, MOST[how])
        hits += strike(kind, folder, how, when, signal.SIGKILL) == -signal.SIGKILL
        for path in folder.rglob("run.json"):
            assert json.loads(path.read_text())["status"] in ("running", "done")
    assert hits  # else nothing was shown
    assert_alike(kind, folder, straight)


@pytest.mark.parametrize("kind", CHANGES)
def test_job_killed_three_times_ends_alike(kind, place, straight):
    chain(kind, place, seed=1, kills=3, straight=straight)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 14))
@pytest.mark.parametrize("kind", CHANGES)
def test_job_killed_at_random_points_ends_alike(kind, seed, place, straight):
    chain(kind, place, seed=seed, kills=3, straight=straight)  # 3 x 12 x 3 = 108 points


@pytest.mark.parametrize(("how", "when"), [("files", 3), ("rows", 3)])
def test_notice_is_answered_with_a_saved_run_and_a_reason(how, when, place, straight):
    assert strike("trunk", place, how, when, signal.SIGTERM) == 128 + signal.SIGTERM
    for plan in plans_of("trunk", place):
        if (plan.folder / "run.json").exists():
            record = read_record(plan.folder)
            assert record.status == "running" and "interrupted by SIGTERM" in record.reason
        assert not (plan.folder / "claim.json").exists()
    assert_alike("trunk", place, straight)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", CHANGES)
def test_notices_at_random_points_end_alike(kind, seed, place, straight):
    rng = random.Random(seed)
    for how in HOWS:
        when = rng.uniform(1, MOST[how]) if how != "time" else rng.uniform(0, MOST[how])
        code = strike(kind, place, how, when, rng.choice([signal.SIGTERM, signal.SIGUSR1]))
        # -15 or -10: before Python could listen; 0: it had ended
        assert code in (0, 128 + signal.SIGTERM, 128 + signal.SIGUSR1, -signal.SIGTERM, -signal.SIGUSR1)  # fmt: skip
    assert_alike(kind, place, straight)
