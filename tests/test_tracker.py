"""The wandb mirror: really offline, read back from its own file; never in the way."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

import pytest
from small_run import small_plan

from scaling.study.record import read_metrics
from scaling.training.tracker import Tracker, list_tags
from scaling.training.trainer import train

wandb = pytest.importorskip("wandb")
BLOCK = 32_768  # LevelDB log framing, which wandb files use after a 7-byte header


def read_wandb(path: Path) -> list:
    """Read the records of a .wandb file, which another process writes, on a busy machine a little later."""
    end = time.monotonic() + 20  # s; usually it is complete at once
    while True:
        records = _read_records(path)
        if any(r.WhichOneof("record_type") == "exit" for r in records) or time.monotonic() > end:
            return records
        time.sleep(0.1)


def _read_records(path: Path) -> list:
    from wandb.proto import wandb_internal_pb2

    data, position, part, records = path.read_bytes(), 7, b"", []
    assert data.startswith(b":W&B")
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:
            break
        chunk = data[position + 7 : position + 7 + size]
        position += 7 + size
        part = part + chunk if kind in (3, 4) else chunk  # middle and last pieces continue
        if kind in (1, 4):  # whole, or last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            records.append(record)
    return records


def test_offline_mirror_holds_every_row_and_the_result(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    plan = small_plan(
        tmp_path, **{"tracker.name": "wandb", "tracker.tags": "pilot, 第一轮", "sweep": "toy"}
    )
    record = train(plan)
    (path,) = plan.folder.glob("wandb/offline-run-*/run-*.wandb")
    records = read_wandb(path)
    runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (runs[0].run_id, runs[0].run_group, runs[0].project) == (plan.run_id, "toy", "scaling")
    assert (runs[0].display_name, runs[0].job_type) == (plan.run_id, "fit")
    assert list(runs[0].tags) == [
        "llama",
        "markov",
        "D=15.4k",
        "next_token",
        "adamw",
        "pilot",
        "第一轮",
    ]
    config = {
        ".".join(u.nested_key) or u.key: json.loads(u.value_json) for u in runs[0].config.update
    }
    assert (config["model.width"], config["optim.lr"], config["record.data_hash"]) == (
        16,
        0.01,
        record.data_hash,
    )
    assert all(
        not isinstance(v, dict) for k, v in config.items() if not k.startswith(("_", "record."))
    )
    mirrored = []
    for r in records:
        if r.WhichOneof("record_type") == "history":
            mirrored.append(
                {
                    (i.key or ".".join(i.nested_key)): json.loads(i.value_json)
                    for i in r.history.item
                }
            )
    rows = read_metrics(plan.folder)
    for key in ("train_loss", "val_loss"):
        assert [m[key] for m in mirrored if key in m] == [row[key] for row in rows if key in row]
    summary = {}
    for r in records:
        if r.WhichOneof("record_type") == "summary":
            summary |= {
                (i.key or ".".join(i.nested_key)): json.loads(i.value_json)
                for i in r.summary.update
            }
    assert summary["val_loss"] == record.val_loss and summary["status"] == "done"


def test_missing_wandb_is_noted_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what `import` sees when it is not installed
    plan = small_plan(tmp_path, **{"tracker.name": "wandb"})
    assert train(plan).status == "done"
    assert "wandb is not installed" in (plan.folder / "notes.log").read_text()


def test_missing_key_is_noted_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    plan = small_plan(tmp_path, **{"tracker.name": "wandb", "tracker.mode": "online"})
    assert train(plan).status == "done"
    assert "wandb login" in (plan.folder / "notes.log").read_text()


def test_failure_on_the_way_is_noted_once():
    class Broken:
        def log(self, *_args, **_kwargs):
            raise ConnectionError("server\nis gone")

    notes = []
    tracker = Tracker(Broken(), notes.append)
    for step in (1, 2):
        tracker.log({"step": step})
    assert notes == ["tracker: wandb could not log a row (server); the run goes on without it"]


def test_tags_say_the_budget_that_was_asked_for(tmp_path):
    by_flops = small_plan(
        tmp_path, **{"budget.tokens": None, "budget.flops": 1e9, "sweep": "扫描" * 40}
    )
    assert list_tags(by_flops)[2].startswith("C=1")
    verify = small_plan(tmp_path, role="verify", **{"tracker.tags": "x" * 100 + ", , llama"})
    assert list_tags(verify) == ["llama", "markov", "D=15.4k", "next_token", "adamw", "x" * 64]


def test_resumed_run_goes_on_under_the_same_id(tmp_path):
    """Offline every life leaves a file; wandb joins those of one id, and so do we."""
    import scaling as sl

    plan = small_plan(tmp_path, **{"tracker.name": "wandb"})

    def stop(state):
        if (state["step"] or 0) >= 30:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(plan, on_progress=stop)
    record = train(plan)
    files = list(plan.folder.glob("wandb/offline-run-*/run-*.wandb"))
    lives = [
        next(r.run for r in read_wandb(f) if r.WhichOneof("record_type") == "run") for f in files
    ]
    assert {life.run_id for life in lives} == {plan.run_id} and len(lives) == 2
    table = sl.load(plan.folder / "wandb").table
    assert len(table) == 1 and table["val_loss"].item() == pytest.approx(record.val_loss)
    assert table["group"].item() == plan.config.sweep
