"""Loading runs: conventions, damage, refusals, speed."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from scaling.analysis.data.runs import load
from scaling.study.errors import FitError, RecordError
from scaling.study.record import COPY, RunRecord, write_record


def record(i, **changes):
    values = {
        "run_id": f"run{i}", "status": "done", "params_total": 1_000_000 + i, "params_non_embedding": 900_000 + i,
        "params_embedding": 50_000, "params_head": 50_000, "vocab": 256, "width": 128, "tokens": 20_000_000,
        "flops_counted": 3e14, "val_loss": 3.0 - 0.001 * i,
    }  # fmt: skip
    return RunRecord(**{**values, **changes})


def write(root, *records):
    for r in records:
        write_record(root / (r.sweep or "s") / r.run_id, r)
    return root


def test_load_reads_folders_and_keeps_verify_runs_out(tmp_path):
    write(
        tmp_path,
        record(0),
        record(1),
        record(2, role="verify"),
        record(3, status="diverged", val_loss=None),
    )
    runs = load(tmp_path)
    assert len(runs) == 2
    assert list(runs.verify["run_id"]) == ["run2"]
    assert len(runs.frame) == 4
    np.testing.assert_allclose(runs.L, [3.0, 2.999])


def test_conventions_choose_n_and_c(tmp_path):
    runs = load(write(tmp_path, record(0)))
    assert runs.N[0] == 900_000
    assert runs.C[0] == 6 * 900_000 * 20e6
    assert runs.using(params="total").N[0] == 1_000_000
    assert runs.using(params="body_head").N[0] == 900_000 + 256 * 128
    assert runs.using(params="total").C[0] == 6 * 1_000_000 * 20e6
    assert runs.using(flops="counted").C[0] == 3e14
    assert "total" in repr(runs.using(params="total"))


def test_unknown_convention_and_empty_column_are_named(tmp_path):
    runs = load(write(tmp_path, record(0)))
    with pytest.raises(FitError, match="Did you mean 'total'"):
        runs.using(params="totl")
    with pytest.raises(FitError, match="no values in column 'val_excess'"):
        runs.using(loss="val_excess")


def test_damaged_record_is_read_from_its_copy(tmp_path):
    """The last word on a run is written twice, so that a finished run is not lost by one file."""
    write(tmp_path, record(0), record(1))
    (tmp_path / "s" / "run1" / "run.json").write_text('{"run_id": "run1", "sta')
    runs = load(tmp_path)
    assert len(runs) == 2 and not runs.problems
    np.testing.assert_allclose(runs.L, [3.0, 2.999])


def test_damaged_record_without_a_copy_is_skipped_and_named(tmp_path):
    write(tmp_path, record(0), record(1), record(2))
    (tmp_path / "s" / "run1" / COPY).write_text("")
    (tmp_path / "s" / "run1" / "run.json").write_text('{"run_id": "run1", "sta')
    body = json.loads((tmp_path / "s" / "run2" / "run.json").read_text())
    (tmp_path / "s" / "run2" / "run.json").write_text(json.dumps(body | {"schema_version": 99}))
    (tmp_path / "s" / "run9").mkdir()
    (tmp_path / "s" / "run9" / "config.yaml").write_text("{}")
    runs = load(tmp_path)
    assert len(runs) == 1
    assert [p.path.split("/")[-2] for p in runs.problems] == ["run1", "run2", "run9"]
    assert "damaged" in runs.problems[0].message
    assert "schema_version" in runs.problems[1].message
    assert "Skipped" in runs.describe().text()


def test_empty_or_missing_sources_are_refused(tmp_path):
    with pytest.raises(RecordError, match=r"no readable run\.json"):
        load(tmp_path)
    with pytest.raises(RecordError, match="no such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(RecordError, match=r"cannot read '\.xls'"):
        (tmp_path / "a.xls").write_text("")
        load(tmp_path / "a.xls")
    with pytest.raises(FitError, match="none of 1 runs is done"):
        _ = load(write(tmp_path / "r", record(0, status="running"))).N


def test_overlapping_folders_count_once_but_copies_are_refused(tmp_path):
    write(tmp_path, record(0), record(1))
    assert len(load(tmp_path, tmp_path / "s")) == 2
    write(tmp_path, record(0, sweep="copy"))
    with pytest.raises(FitError, match="duplicates"):
        load(tmp_path)


def test_table_with_common_names_is_read_and_compute_filled_in(tmp_path):
    frame = pd.DataFrame({"N": [1e6, 2e6], "D": [1e8, 1e8], "loss": [3.0, 2.9]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    runs = load(tmp_path / "t.csv")
    np.testing.assert_allclose(runs.C, 6 * frame["N"] * frame["D"])
    assert "flops filled in from C = 6 N D" in runs.describe().text()
    tokens = load(pd.DataFrame({"N": [1e6], "C": [6e14], "loss": [3.0]}))
    assert tokens.D[0] == pytest.approx(1e8)
    named = load(frame.rename(columns={"loss": "bits"}), columns={"bits": "val_loss"})
    np.testing.assert_allclose(named.L, frame["loss"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
@pytest.mark.parametrize("column", ["N", "D", "loss"])
def test_unusable_values_are_refused(column, value):
    frame = pd.DataFrame({"N": [1e6, 2e6, 3e6], "D": [1e8, 1e8, 1e8], "loss": [3.0, 2.9, 2.8]})
    frame.loc[1, column] = value
    with pytest.raises(FitError, match=r"must be finite and above 0; got .* in row1"):
        _ = load(frame).L


def test_missing_columns_and_duplicate_rows_are_refused():
    frame = pd.DataFrame({"N": [1e6, 1e6], "D": [1e8, 1e8], "loss": [3.0, 3.0]})
    with pytest.raises(FitError, match="duplicates"):
        load(frame)
    assert len(load(frame.assign(seed=[0, 1]))) == 2
    with pytest.raises(FitError, match="lacks tokens, flops"):
        load(frame[["N", "loss"]])
    with pytest.raises(FitError, match="no loss column"):
        load(frame[["N", "D"]])


def test_curves_carry_compute_along_the_run(tmp_path):
    write(tmp_path, record(0))
    rows = [
        {"step": 5, "tokens": 10_000_000, "val_loss": 3.5},
        {"step": 7, "tokens": 1, "train_loss": 4.0},
        {"step": 10, "tokens": 20_000_000, "val_loss": 3.0},
    ]
    (tmp_path / "s" / "run0" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    runs = load(tmp_path)
    curves = runs.curves()
    assert list(curves["step"]) == [5, 10]
    np.testing.assert_allclose(curves["C"], [runs.C[0] / 2, runs.C[0]])


def test_one_damaged_curve_does_not_keep_the_others_back(tmp_path):
    write(tmp_path, record(0), record(1))
    line = json.dumps({"step": 10, "tokens": 20_000_000, "val_loss": 3.0}) + "\n"
    for i in (0, 1):
        (tmp_path / "s" / f"run{i}" / "metrics.jsonl").write_text(line)
    (tmp_path / "s" / "run1" / "metrics.jsonl").write_text("{damaged\n" + line)
    runs = load(tmp_path)
    assert runs.curves()["run_id"].tolist() == ["run0"]
    (problem,) = runs.curve_problems
    assert problem.path.endswith("run1") and "line 1 is damaged" in problem.message
    (tmp_path / "s" / "run0" / "metrics.jsonl").write_text("{damaged\n" + line)
    with pytest.raises(RecordError, match="curves: none can be read"):
        load(tmp_path).curves()


@pytest.mark.parametrize(
    ("name", "value"),
    [("val_loss", "3.0"), ("tokens", 1.5), ("steps", True), ("run_id", 3), ("software", []),
     ("val_loss", float("nan")), ("status", None), ("compiled", "yes"), ("resumes", None)],
)  # fmt: skip
def test_a_field_of_another_type_is_a_problem_and_no_crash(tmp_path, name, value):
    write(tmp_path, record(0), record(1))
    path = tmp_path / "s" / "run1" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    runs = load(tmp_path)
    assert len(runs) == 1
    assert f"{name} is" in runs.problems[0].message


def test_whole_numbers_may_be_written_either_way(tmp_path):
    write(tmp_path, record(0, tokens=20_000_000.0, val_loss=3))
    assert load(tmp_path).D[0] == 20_000_000


def test_groups_are_named_and_mistakes_answered(tmp_path):
    write(tmp_path, *[record(i, data_source="ab"[i % 2], role="verify" if i == 3 else "fit") for i in range(4)])  # fmt: skip
    runs = load(tmp_path)
    parts = dict(runs.groups("data_source"))
    assert {k: len(part) for k, part in parts.items()} == {"a": 2, "b": 1}
    assert len(parts["b"].verify) == 1  # a group keeps its held-out runs
    assert runs.group("a", by="data_source").L.tolist() == [3.0, 2.998]
    with pytest.raises(FitError, match="no column 'data_sorce'. Did you mean 'data_source'"):
        dict(runs.groups("data_sorce"))
    with pytest.raises(FitError, match="data_source is never 'c'. There are: a, b"):
        runs.group("c", by="data_source")
    assert [label for label, _ in runs.groups("sweep")] == ["(none)"]


def test_loading_a_thousand_runs_takes_about_a_second(tmp_path):
    text = json.dumps(record(0).to_dict())
    for i in range(1000):
        folder = tmp_path / f"run{i}"
        folder.mkdir()
        (folder / "run.json").write_text(text.replace('"run0"', f'"run{i}"'))
    start = time.perf_counter()
    assert len(load(tmp_path)) == 1000
    assert time.perf_counter() - start < 5  # 0.3 s alone; other work shares the machine
