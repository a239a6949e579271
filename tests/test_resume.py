"""A run killed with -9 at any moment ends like the one that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from children import start_child, start_telling, wait_for
from small_run import STEPS, numbers, small_plan

from scaling.study.record import read_metrics, read_record
from scaling.training.checkpoint import list_checkpoints
from scaling.training.trainer import train


def train_slowly(folder: Path, pause: float, steps: Connection) -> None:
    """In a process of its own: train with a checkpoint after every step, slowly enough to hit."""

    def tell(progress):
        steps.send(progress["step"])
        time.sleep(pause)

    train(small_plan(folder, **{"train.checkpoint_seconds": 1e-6}), on_progress=tell)


def kill_after(folder: Path, step: int) -> None:
    """Train in a process of its own and kill it without notice once it is past a step."""
    child, steps = start_telling(train_slowly, folder, 0.02)
    while steps.recv() < step:
        pass
    os.kill(child.pid, signal.SIGKILL)
    assert wait_for(child) == -signal.SIGKILL


def test_run_killed_twice_gives_the_same_losses_to_the_bit(tmp_path, undisturbed):
    record, rows = undisturbed
    plan = small_plan(tmp_path)
    for step in (10, 35):
        kill_after(tmp_path, step)
        assert read_record(plan.folder).status == "running"
    resumed = train(plan)
    assert resumed.resumes == 2
    assert (resumed.val_loss, resumed.val_excess, resumed.train_loss) == (
        record.val_loss,
        record.val_excess,
        record.train_loss,
    )
    assert numbers(plan.folder) == rows
    notes = (plan.folder / "notes.log").read_text()
    assert "continued from step" in notes and "took over from process" in notes


def test_damaged_last_checkpoint_and_cut_metrics_are_survived(tmp_path, undisturbed):
    record, rows = undisturbed
    plan = small_plan(tmp_path)
    kill_after(tmp_path, 30)
    newest, older = list_checkpoints(plan.folder)
    newest.write_bytes(newest.read_bytes()[:-1000])
    with open(plan.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "tok')
    resumed = train(plan)
    assert numbers(plan.folder) == rows
    assert resumed.val_loss == record.val_loss
    notes = (plan.folder / "notes.log").read_text()
    assert f"{newest.name}: damaged" in notes
    assert f"continued from step {int(older.stem.split('-')[1])} of {STEPS}" in notes


@pytest.mark.slow
def test_kill_before_the_first_checkpoint_starts_again(tmp_path, undisturbed):
    _, rows = undisturbed
    plan = small_plan(tmp_path)
    kill_after(tmp_path, 20)
    for path in list_checkpoints(plan.folder):
        path.unlink()
    record = train(plan)
    assert numbers(plan.folder) == rows and record.resumes == 0


def test_run_whose_text_has_changed_starts_again(tmp_path):
    text = tmp_path / "text.txt"
    changes = {
        "data.source": "text",
        "data.path": str(text),
        "data.vocab": 256,
        "train.checkpoint_seconds": 1e-6,
    }

    def stop(progress):
        if progress["step"] >= 20:
            raise KeyboardInterrupt

    for words in ("once upon a time ", "and then there was "):
        text.write_text("\n\n".join(f"{words * 40}{i}" for i in range(300)))
        plan = small_plan(tmp_path, **changes)
        if words.startswith("once"):
            with pytest.raises(KeyboardInterrupt):
                train(plan, on_progress=stop)
            assert list_checkpoints(plan.folder)
    record = train(plan)
    assert (record.status, record.resumes, record.steps) == ("done", 0, STEPS)
    assert "belongs to run" in (plan.folder / "notes.log").read_text()
    assert len([row for row in read_metrics(plan.folder) if "train_loss" in row]) == 20


def train_until_told(folder: Path, news: Connection) -> None:
    """In a process of its own: say when the run has begun, and go on once a file is there."""

    def tell(_):
        news.send("began")
        while not (folder / "go on").exists():
            time.sleep(0.01)

    train(small_plan(folder), on_progress=tell)


def test_two_processes_on_one_run_do_not_mix(tmp_path, undisturbed):
    _, rows = undisturbed
    plan = small_plan(tmp_path)
    first, news = start_telling(train_until_told, tmp_path)
    assert news.recv() == "began"
    second = start_child(train, plan)
    assert wait_for(second) == 1  # refused while the first is at it
    (tmp_path / "go on").touch()
    assert wait_for(first) == 0
    assert numbers(plan.folder) == rows
    assert json.loads((plan.folder / "run.json").read_text())["status"] == "done"
