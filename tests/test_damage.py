"""Files that are damaged, cut, changed or deleted while a run needs them."""

from __future__ import annotations

import os
import shutil

import pytest
from disturbed import assert_alike, interrupted
from small_run import numbers, small_plan

from scaling.cli.fit import sweep_file
from scaling.study.errors import DataError, RecordError
from scaling.study.record import read_metrics, read_record
from scaling.training.checkpoint import list_checkpoints
from scaling.training.data import prepare
from scaling.training.data.build import prepared_folder
from scaling.training.data.store import shard_paths
from scaling.training.trainer import train

OFTEN = {"train.checkpoint_seconds": 1e-6}


def test_record_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(RecordError, match=r"run\.json: cannot be read \(Is a directory\)"):
        read_record(tmp_path)


@pytest.mark.parametrize("damage", [b"[1]", b"\xff\xfe\xb9", b"{oops", b"3"])
def test_damaged_metrics_row_is_named_unless_it_is_the_last(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 2}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl: line 2 is damaged"):
        read_metrics(tmp_path)
    path.write_bytes(b'{"step": 1}\n' + damage)
    assert read_metrics(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("damage", [b"{a: [", b"\xff\xfe\xb9", b"- a\n"])
def test_damaged_sweep_copy_is_named(tmp_path, damage):
    (tmp_path / "sweep.yaml").write_bytes(damage)
    with pytest.raises(RecordError, match=r"sweep\.yaml: damaged\. Delete it"):
        sweep_file(tmp_path)


def test_checkpoints_after_a_damaged_later_one_are_kept(tmp_path, undisturbed):
    plan = interrupted(tmp_path)
    later = plan.folder / "checkpoint" / "step-000000055.safetensors"
    later.write_bytes(b"of another text, or cut")
    plan = interrupted(tmp_path, step=36)  # goes on from 30, saves at each step
    kept = [p.stem for p in list_checkpoints(plan.folder)]
    assert len(kept) == 2 and all(30 < int(name[-9:]) < 40 for name in kept)
    assert_alike(plan, undisturbed)


def test_shard_cut_while_it_is_read_is_named_and_the_run_goes_on_later(tmp_path, undisturbed):
    plan = small_plan(tmp_path)

    def cut(progress):
        if progress["step"] >= 30:
            os.truncate(path, 5000)

    prepare(plan.config.data, context=32)
    (path,) = shard_paths(prepared_folder(plan.config.data), "train")
    with pytest.raises(DataError, match=r"train-00000\.tokens: was changed while it was read"):
        train(plan, on_progress=cut)
    with pytest.raises(DataError, match=r"Delete the folder .* rebuilt by the next run"):
        train(plan)
    shutil.rmtree(path.parent)
    assert_alike(plan, undisturbed)
    assert "continued from step 30" in (plan.folder / "notes.log").read_text()


@pytest.mark.parametrize("name", ["train", "val"])
def test_shard_that_disappears_during_a_run_does_no_harm(name, tmp_path, undisturbed):
    plan = small_plan(tmp_path)
    prepare(plan.config.data, context=32)
    (path,) = shard_paths(prepared_folder(plan.config.data), name)
    record = train(plan, on_progress=lambda _: path.unlink(missing_ok=True))
    assert record.val_loss == undisturbed[0].val_loss
    assert not path.exists()
    assert_alike(
        small_plan(tmp_path / "again", **{"data.cache": plan.config.data.cache}), undisturbed
    )
    assert path.exists()  # built again


def test_folder_deleted_under_the_run_is_written_again(tmp_path, undisturbed):
    plan = small_plan(tmp_path, **OFTEN)

    def delete(progress):
        if progress["step"] == 30:
            shutil.rmtree(plan.folder)

    record = train(plan, on_progress=delete)
    assert record.val_loss == undisturbed[0].val_loss
    assert numbers(plan.folder) == undisturbed[1]
    assert (plan.folder / "config.yaml").exists()
    assert "deleted while it trained" in (plan.folder / "notes.log").read_text()


def test_damaged_row_does_not_cost_the_run(tmp_path, undisturbed):
    plan = interrupted(tmp_path)
    path = plan.folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{oops", '{"step": "x"}', *lines[2:]]) + "\n")
    record = train(plan)
    assert record.val_loss == undisturbed[0].val_loss
    assert numbers(plan.folder) == [undisturbed[1][0], *undisturbed[1][2:]]
    assert "2 damaged lines are left out" in (plan.folder / "notes.log").read_text()
