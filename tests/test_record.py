"""Records survive a round trip, and damage is named."""

import json

import pytest

from scaling.study.errors import RecordError
from scaling.study.record import RunRecord, read_metrics, read_record, record_fields, write_record


def test_record_survives_a_round_trip(tmp_path):
    record = RunRecord(
        run_id="a", status="done", params_total=123, val_loss=2.5, software={"torch": "2"}
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert (
        json.loads((tmp_path / "run.json").read_text())["val_perplexity"] is None
    )  # unknown is null, not 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ('{"run_id": "a", "status": "do', "damaged"),
        ("[1]", "damaged"),
        (
            '{"run_id": "a", "status": "done", "schema_version": 999}',
            "schema_version is 999, this package reads 1",
        ),
        (
            '{"run_id": "a", "status": "done", "schema_version": 1, "los": 2}',
            "unknown fields .'los'.",
        ),
        ('{"status": "done", "schema_version": 1}', "missing fields .'run_id'."),
        ('{"run_id": "a", "status": "perhaps", "schema_version": 1}', "status is 'perhaps'"),
    ],
)
def test_damaged_record_is_named_with_its_cure(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RecordError, match=message) as error:
        read_record(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_missing_record_says_so(tmp_path):
    with pytest.raises(RecordError, match="not there"):
        read_record(tmp_path)


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_record(tmp_path, RunRecord(run_id="a", status="done", val_loss=float("nan")))
    assert not (tmp_path / "run.json").exists()


def test_last_line_cut_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train_loss": 3.0}\n{"step": 2, "train')
    assert read_metrics(tmp_path) == [{"step": 1, "train_loss": 3.0}]
    path.write_text('{"step": 1, "tr\n{"step": 2, "train_loss": 2.0}\n')
    with pytest.raises(RecordError, match="line 1 is damaged"):
        read_metrics(tmp_path)


def test_every_field_has_a_meaning():
    assert all(meaning for _, _, meaning in record_fields())
