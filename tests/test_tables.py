"""Table files: formats, column mappings, units, text numbers, and refusals of all of them."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.analysis.data.runs import load
from scaling.study.errors import FitError, RecordError

N, D, L = np.array([1e6, 2e6, 4e6]), np.array([1e8, 3e8, 5e8]), np.array([3.5, 3.2, 3.0])
FRAME = pd.DataFrame({"N": N, "D": D, "loss": L, "lr": [1e-3, 2e-3, 3e-3]})


def same(runs):
    """Conversions multiply by exact powers or logs, so only rounding may differ: 1e-12."""
    np.testing.assert_allclose(runs.N, N, rtol=1e-12)
    np.testing.assert_allclose(runs.D, D, rtol=1e-12)
    np.testing.assert_allclose(runs.C, 6 * N * D, rtol=1e-12)
    np.testing.assert_allclose(runs.L, L, rtol=1e-12)
    return runs


def write_jsonl(frame, path, opener=open):
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in frame.to_dict("records"))


@pytest.mark.parametrize(
    "name", ["t.csv", "t.csv.gz", "t.tsv", "t.jsonl", "t.jsonl.gz", "t.json", "t.parquet"]
)
def test_every_format_gives_the_same_runs(tmp_path, name):
    path = tmp_path / name
    if ".jsonl" in name:
        write_jsonl(FRAME, path, gzip.open if name.endswith("gz") else open)
    elif name == "t.json":
        path.write_text(json.dumps(FRAME.to_dict("list")))
    elif name == "t.parquet":
        pytest.importorskip("pyarrow")
        FRAME.to_parquet(path)
    else:
        FRAME.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    np.testing.assert_array_equal(same(load(path)).column("lr"), FRAME["lr"])


def test_csv_with_semicolons_is_read(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv", index=False, sep=";")
    same(load(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "not a readable table"),
        ("a.csv", b"N,D,loss\n", "no rows"),
        ("a.csv", b'N,D\n1,"2\n', "not a readable table"),
        ("a.csv.gz", b"not gzip", "not a readable table"),
        ("a.jsonl", b'{"N": 1}\n{"N": ', "line 2"),
        ("a.jsonl", b"[1, 2]\n", "line 1 is not an object"),
        ("a.json", b"3", "neither a list of rows"),
        ("a.json", b"[1, 2]", "neither a list of rows"),
        ("a.parquet", b"PAR1", "not a readable table"),
        ("a.xlsx", b"", "cannot read '.xlsx'"),
        ("a", b"", "a file without ending"),
        ("a.csv", b"\xff\xfe\x00", "not a readable table"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, says):
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=says) as error:
        load(tmp_path / name)
    assert name in str(error.value)


def test_mapping_and_units_bring_a_table_to_ours():
    theirs = pd.DataFrame(
        {"n_params_M": N / 1e6, "seen": D / 1e9, "bpb": L / np.log(2) / 4.2, "lr": 1e-3}
    )
    runs = load(
        theirs,
        columns={"n_params_M": "params", "seen": "tokens", "bpb": "val_loss"},
        units={"params": "1e6", "tokens": "B", "loss": "bits/byte"},
        bytes_per_token=4.2,
    )
    assert same(runs).column("lr").tolist() == [1e-3] * 3


@pytest.mark.parametrize(
    ("unit", "divide"),
    [("M", 1e6), (1e6, 1e6), ("1e6", 1e6), ("million", 1e6), ("k", 1e3), ("B", 1e9), ("T", 1e12)],
)
def test_units_of_counts_multiply(unit, divide):
    same(load(FRAME.assign(N=N / divide), units={"N": unit}))
    same(load(FRAME.assign(D=D / divide), units={"tokens": unit}))


# A PF-day is 1e15 FLOP/s x 86,400 s = 8.64e19 FLOPs (Kaplan et al. 2020, section 1.3).
@pytest.mark.parametrize(
    ("unit", "divide"),
    [("PF-days", 8.64e19), ("PF-day", 8.64e19), ("EFLOP", 1e18), ("TFLOPs", 1e12), ("FLOPs", 1)],
)
def test_units_of_compute_multiply(unit, divide):
    table = FRAME.drop(columns="D").assign(C=6 * N * D / divide)
    same(load(table, units={"flops": unit}))


def test_units_of_loss_become_nats_per_token():
    same(load(FRAME.assign(loss=np.exp(L)), units={"loss": "perplexity"}))
    same(load(FRAME.assign(loss=L / np.log(2)), units={"val_loss": "bits/token"}))
    per_byte = FRAME.assign(loss=L / np.array([4.0, 4.1, 4.2]), bytes_per_token=[4.0, 4.1, 4.2])
    same(load(per_byte, units={"loss": "nats/byte"}))
    with pytest.raises(FitError, match="needs the bytes per token"):
        load(FRAME, units={"loss": "bits/byte"})
    with pytest.raises(FitError, match="Did you mean 'perplexity'"):
        load(FRAME, units={"loss": "perplexty"})


def test_text_numbers_are_read_as_people_write_them():
    text = FRAME.assign(N=["1,000,000", "2M", " 4e6 "], D=["100M", "0.3B", "500_000_000"])
    same(load(text))
    with pytest.raises(FitError, match=r"column 'params': 'big' in row 1 is not a number"):
        load(FRAME.assign(N=["1M", "big", "4M"]))
    with pytest.raises(FitError, match="'1,5' in row 0"):  # a decimal comma, or fifteen?
        load(FRAME.assign(loss=["1,5", "1,4", "1,3"]))


def test_text_in_other_columns_is_read_for_a_law():
    runs = load(FRAME.assign(unique_tokens=["100M", "1B", "2e9"]))
    assert runs.column("unique_tokens").tolist() == [1e8, 1e9, 2e9]
    with pytest.raises(FitError, match="must hold finite numbers; it does not in row0"):
        load(FRAME.assign(note=["a", "b", "c"])).column("note")


def test_mapping_beside_the_file_is_used_and_can_be_overruled(tmp_path):
    path = tmp_path / "runs.csv"
    FRAME.assign(size=N / 1e6, bits=L / np.log(2))[["size", "D", "bits"]].to_csv(path, index=False)
    side = tmp_path / "runs.columns.yaml"
    side.write_text("columns: {size: params, bits: val_loss}\nunits: {params: M, val_loss: bits}\n")
    same(load(path))
    np.testing.assert_allclose(load(path, units={"params": "B"}).N, N * 1e3)
    side.write_text("columns: {sise: params, bits: val_loss}\n")
    with pytest.raises(FitError, match="'sise' is no column. Did you mean 'size'"):
        load(path)
    for wrong in ("- a\n", "colums: {}\n", "columns: 3\n", "a: [\n"):
        side.write_text(wrong)
        with pytest.raises(RecordError, match=r"runs.columns.yaml: not a column mapping"):
            load(path)


def test_misnamed_columns_are_answered_with_the_nearest():
    with pytest.raises(FitError, match="'size_n' is no column. Did you mean 'size_N'"):
        load(FRAME.rename(columns={"N": "size_N"}), columns={"size_n": "params"})
    with pytest.raises(FitError, match=r"other way round: \{'size': 'params'\}"):
        load(FRAME.rename(columns={"N": "size"}), columns={"params": "size"})
    with pytest.raises(
        FitError, match=r"lacks params, flops.*Use load\(..., columns=\{'num_param': 'params'\}"
    ):
        load(FRAME.rename(columns={"N": "num_param"}))
    with pytest.raises(FitError, match="units: 'parms' is no column. Did you mean 'params'"):
        load(FRAME, units={"parms": "M"})
    with pytest.raises(FitError, match="no loss column.*'vall_loss': 'val_loss'"):
        load(FRAME.rename(columns={"loss": "vall_loss"}))


def test_two_columns_for_one_name_are_refused():
    with pytest.raises(FitError, match="'N', 'lr' are all mapped to 'params'"):
        load(FRAME, columns={"N": "params", "lr": "params"})
    with pytest.raises(FitError, match="column 'N' is there more than once"):
        load(pd.concat([FRAME, FRAME[["N"]]], axis=1))


def test_a_mapped_column_has_precedence_and_the_other_is_kept():
    runs = load(FRAME.assign(clean=L - 1), columns={"clean": "loss_clean", "loss": "val_loss"})
    assert "loss_clean" in runs.table
    both = load(FRAME.assign(val_loss=9.0, clean=L), columns={"clean": "val_loss"})
    np.testing.assert_array_equal(both.L, L)
    assert (both.table["val_loss_original"] == 9.0).all()


def test_spelling_of_common_names_does_not_matter():
    same(load(FRAME.rename(columns={"N": " Num Params", "D": "Train-Tokens", "loss": "Eval/Loss"})))


def test_single_missing_cells_are_filled_by_6nd_and_said():
    table = FRAME.assign(C=6 * N * D)
    table.loc[0, "N"], table.loc[1, "D"], table.loc[2, "C"] = np.nan, np.nan, np.nan
    runs = same(load(table))
    assert "params filled in from C = 6 N D in 1 of 3 rows" in runs.describe().text()
    table.loc[0, "D"] = np.nan
    with pytest.raises(FitError, match=r"must be finite and above 0; got nan in row0"):
        _ = load(table).N


@pytest.mark.parametrize(
    ("name", "unit", "factor"),
    [("seen (B)", "B", 1e9), ("seen_billion", "billion", 1e9), ("词元（亿）", "1e8", 1e8)],
)
def test_unit_in_a_name_has_to_be_stated(name, unit, factor):
    """0.1 to 5 `tokens` would fit without a word, and put every optimum off by the unit."""
    table = FRAME.assign(D=D / factor).rename(columns={"D": name})
    with pytest.raises(FitError, match=f"units.tokens={unit}; units.tokens=1 "):
        load(table, columns={name: "tokens"})
    same(load(table, columns={name: "tokens"}, units={"tokens": unit}))
    small = load(table, columns={name: "tokens"}, units={"tokens": 1})
    np.testing.assert_allclose(small.D, D / factor, rtol=1e-12)


def test_whole_counts_need_no_unit_whatever_their_name():
    same(load(FRAME.rename(columns={"D": "seen_B"}), columns={"seen_B": "tokens"}))


def test_all_columns_that_are_missing_are_suggested_at_once():
    table = FRAME.rename(columns={"N": "模型参数", "D": "tokens so far"})
    with pytest.raises(FitError, match="'columns.模型参数=params' 'columns.tokens so far=tokens'"):
        load(table)
    with pytest.raises(FitError, match="'columns.tokens so far=tokens' columns.mine=params"):
        load(FRAME.rename(columns={"N": "x", "D": "tokens so far"}))


def test_row_without_a_value_is_named_with_its_number_and_a_way_on():
    table = FRAME.copy()
    table.loc[1, "loss"] = np.nan
    with pytest.raises(FitError, match=r"in row1, counted from row0 .* column `status`"):
        _ = load(table).L
    assert len(load(table.assign(status=[None, "failed", None])).L) == 2


def test_several_tables_are_labelled_by_study(tmp_path):
    FRAME.to_csv(tmp_path / "ours.csv", index=False)
    other = FRAME.assign(loss=L + 0.1)
    runs = load(tmp_path / "ours.csv", other)
    assert runs.table["study"].tolist() == ["ours"] * 3 + ["table"] * 3
    assert runs.table["run_id"].tolist()[:4] == [
        "ours:row0",
        "ours:row1",
        "ours:row2",
        "table:row0",
    ]
    named = load({"a": FRAME, "b": other})
    assert [(k, len(part)) for k, part in named.groups("study")] == [("a", 3), ("b", 3)]
    np.testing.assert_array_equal(named.group("b", by="study").L, L + 0.1)
    assert set(load(FRAME, other).table["study"]) == {"table-1", "table-2"}
    with pytest.raises(FitError, match="duplicates"):
        load(tmp_path / "ours.csv", FRAME)


def test_a_mapping_may_concern_one_of_several_tables():
    other = FRAME.assign(loss=L + 0.1).rename(columns={"loss": "final"})
    assert len(load(FRAME, other, columns={"final": "val_loss"})) == 6
    with pytest.raises(FitError, match="'finale' is no column. Did you mean 'final'"):
        load(FRAME, other, columns={"finale": "val_loss"})


def test_rows_that_differ_in_any_setting_are_no_duplicates():
    twice = pd.concat([FRAME, FRAME.assign(lr=1.0)])
    assert len(load(twice)) == 6
    with pytest.raises(FitError, match="6 rows are duplicates"):
        load(pd.concat([FRAME, FRAME]))


def test_tables_with_lists_and_missing_statuses_are_read():
    runs = load(FRAME.assign(tags=[["a"], ["b"], []], status=["done", None, "failed"]))
    assert len(runs) == 2


def test_page_on_loading_runs_as_it_is_written(tmp_path, monkeypatch):
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(7, 700, 5), np.geomspace(1, 90, 4)))
    loss = 1.7 + 400 * (1e6 * N) ** -0.34 + 410 * (1e9 * D) ** -0.28
    theirs = pd.DataFrame({"n_params_M": N, "seen": D, "bpb": loss / np.log(2) / 4.3})
    both = [
        theirs.assign(dataset="c4", data_hash="b28656f38e90159d"),
        theirs.assign(dataset="code", data_hash="0c12", bpb=1.1 * theirs["bpb"]),
    ]
    pd.concat(both).to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "loading.md").read_text()
    space = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(block, space)
    # No noise: what is left is the optimiser's tolerance.
    assert space["fits"]["c4"].params["alpha"] == pytest.approx(0.34, rel=1e-3)
    assert space["fits"]["code"].get("E") == pytest.approx(1.1 * 1.7, rel=1e-3)
    assert len(space["small"]) == 20
