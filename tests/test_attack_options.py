"""Options and inputs of the wrong kind are refused in words, whatever kind they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scaling as sl
from scaling.analysis.traps import codes
from scaling.study.errors import FitError, RecordError


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 4e10, 5)))
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(25))
    return pd.DataFrame({"N": N, "D": D, "loss": (1.7 + 400 / N**0.34 + 410 / D**0.28) * noise})


@pytest.mark.parametrize(
    "options",
    [
        {"over": "x"}, {"delta": None}, {"level": "a"}, {"level": None}, {"starts": 1.5},
        {"starts": "a"}, {"seed": -1}, {"seed": "a"}, {"resamples": "a"}, {"resamples": 20.5},
        {"fixed": {"E": "a"}}, {"fixed": {"E": None}}, {"fixed": {"alpha": 0}}, {"fixed": {"A": 0}},
        {"fixed": {"A": -3}}, {"fixed": {"alpha": 50}}, {"fixed": {"alpha": -0.3}}, {"fixed": ["E"]},
        {"fixed": "E=1"}, {"weights": ["a"] * 25}, {"weights": {"a": 1}}, {"intervals": None},
        {"intervals": ["profile"]}, {"law": None}, {"law": 5}, {"law": ["chinchilla"]},
    ],
    ids=str,
)  # fmt: skip
def test_fit_refuses_options_of_the_wrong_kind_in_words(
    table: pd.DataFrame, options: dict[str, object]
) -> None:
    name = next(iter(options))
    with pytest.raises(FitError, match=name):
        sl.fit(table, **options)


@pytest.mark.parametrize("source", [5, None, [1, 2], {"N": [1.0]}, np.ones((3, 3))], ids=type)
def test_load_refuses_what_is_neither_path_nor_table(source: object) -> None:
    with pytest.raises(RecordError, match="a path, a DataFrame"):
        sl.fit(source)


def test_load_refuses_columns_of_several_levels(table: pd.DataFrame) -> None:
    table = table.set_axis(pd.MultiIndex.from_product([["a"], table.columns]), axis=1)
    with pytest.raises(RecordError, match="2 levels"):
        sl.load(table)


def test_free_scale_without_noise_is_refused(table: pd.DataFrame) -> None:
    exact = table.assign(loss=1.7 + 400 / table.N**0.34 + 410 / table.D**0.28)
    with pytest.raises(FitError, match="W-SCALE"):
        sl.fit(exact, delta="free")


def test_sizes_in_millions_are_doubted_up_to_a_trillion(table: pd.DataFrame) -> None:
    fit = sl.fit(table.assign(N=table.N / 1e6), intervals="none")  # the largest is 1000
    assert "W-UNIT" in codes(fit.warnings)


@pytest.mark.parametrize("mask", ["N > 1e8", 5, [True], np.arange(25)], ids=type)
def test_where_refuses_what_is_no_mask(table: pd.DataFrame, mask: object) -> None:
    with pytest.raises(FitError, match="one true or false"):
        sl.load(table).where(mask)


@pytest.mark.parametrize(
    "how", [{"columns": "N"}, {"columns": ["N"]}, {"columns": {1: 2}}], ids=str
)
def test_load_refuses_columns_that_are_no_mapping(table: pd.DataFrame, how: dict) -> None:
    with pytest.raises(FitError, match="columns: needs"):
        sl.load(table, **how)


@pytest.mark.parametrize("source", ["", "https://example.com/runs.csv"])
def test_load_refuses_what_is_no_path(source: str) -> None:
    with pytest.raises(RecordError, match="is no path"):
        sl.load(source)


def test_load_reads_utf16_and_says_when_text_is_not_utf8(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    table.to_csv(tmp_path / "wide.csv", index=False, encoding="utf-16")
    table.to_csv(tmp_path / "tabs.csv", index=False, encoding="utf-16", sep="\t")
    for name in ("wide.csv", "tabs.csv"):
        assert np.array_equal(sl.load(tmp_path / name).N, table.N)
    table.rename(columns={"N": "参数"}).to_csv(tmp_path / "g.csv", index=False, encoding="gbk")
    with pytest.raises(RecordError, match="not UTF-8"):
        sl.load(tmp_path / "g.csv", columns={"参数": "N"})
