"""Runs that do not belong in one fit are refused, with the values and the ways on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

import scaling as sl
from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.mixing import check_mixed
from scaling.analysis.traps import codes
from scaling.study.errors import FitError

SAMPLE = "results/sample"


def simulated(**columns) -> Runs:
    """A 5 x 5 grid of Chinchilla's law, with further columns."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    truth = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
    runs = sl.simulate("chinchilla", truth, n, d, noise=0.003)
    values = {k: np.resize(np.array(v, dtype=object), len(runs.table)) for k, v in columns.items()}
    return dataclasses.replace(runs, table=runs.table.assign(**values))


def quick(runs, **options):
    return sl.fit(runs, intervals="none", starts=1, **options)


def test_texts_are_refused_with_counts_and_every_way_on_works():
    runs = simulated(data_hash=["aa", "aa", "aa", "bb", "bb"])
    with pytest.raises(FitError) as caught:
        quick(runs)
    message = str(caught.value)
    for part in ("aa in 15 runs, bb in 10 runs", "where.data_hash=aa", "group=data_hash", "mixed=data"):  # fmt: skip
        assert part in message
    one = quick(runs.where(data_hash="aa"))
    assert len(one.runs) == 15 and "W-TEXT" not in codes(one.warnings)
    assert "W-TEXT" in codes(quick(runs.using(mixed="data")).warnings)
    apart = sl.fit_groups(runs, by="data_hash", intervals="none", starts=1)
    assert dict(apart.sizes) == {"aa": 15, "bb": 10}
    with pytest.raises(FitError, match="mixed=data"):
        quick(runs.using(mixed="data").using(mixed="none"))


@pytest.mark.parametrize("act", [sl.fit_isoflops, lambda r: sl.compare(r, ["chinchilla", "kaplan"], holdout_above=1e18), lambda r: sl.forecast(r, N=1e9, D=1e12)])  # fmt: skip
def test_other_fits_refuse_too(act):
    with pytest.raises(FitError, match="mixed=data"):
        act(simulated(data_hash=["aa", "bb"]))


@pytest.mark.slow
def test_audit_reports_what_a_fit_refuses():
    runs = simulated(data_hash=["aa", "bb"])
    found = sl.audit(runs, laws=("chinchilla",), objectives=("huber_log",), outliers=("none",), resamples=20)  # fmt: skip
    assert "W-TEXT" in {f.code for f in found.findings}


def test_law_that_reads_what_tells_the_texts_apart_is_not_refused():
    vocab = [1000, 4000, 16000, 64000, 256000]
    runs = simulated(vocab=vocab, data_hash=[f"tokens-{v}" for v in vocab])
    law = sl.laws.get("vocabulary")
    check_mixed(runs, law)
    with pytest.raises(FitError, match="data_hash"):
        check_mixed(runs, sl.laws.get("chinchilla"))
    with pytest.raises(FitError):  # a law of another setting explains no other text
        reads_lr = dataclasses.replace(law, columns=dict.fromkeys(law.inputs, "lr"))
        check_mixed(simulated(lr=[0.1, 0.2], data_hash=["a", "b"]), reads_lr)
    # two texts under one vocabulary are not explained by it
    with pytest.raises(FitError, match="data_hash"):
        check_mixed(simulated(vocab=[1000, 1000, 4000], data_hash=["a", "b", "c"]), law)


def test_tokenizers_may_differ_where_losses_are_per_byte():
    runs = simulated(tokenizer=["x", "y"], vocab=[10, 20], data_hash=["a", "b"])
    table = runs.table.assign(val_bits_per_byte=runs.table["val_loss"])
    per_byte = dataclasses.replace(runs, table=table).using(loss="val_bits_per_byte")
    check_mixed(per_byte)
    with pytest.raises(FitError):
        check_mixed(per_byte.using(loss="val_loss"))


def test_validation_set_that_changed_is_refused_where_it_is_fitted():
    runs = simulated(val_sets=[{"zh": {"data_hash": "a"}}, {"zh": {"data_hash": "b"}}, None])
    check_mixed(runs)
    table = runs.table.assign(val_loss_zh=runs.table["val_loss"])
    zh = dataclasses.replace(runs, table=table).using(loss="val_loss_zh")
    with pytest.raises(FitError, match=r"val_sets\.zh\.data_hash: a in 9 runs, b in 8 runs"):
        check_mixed(zh)


def test_other_numbers_are_refused_and_other_commits_are_said():
    with pytest.raises(FitError, match=r"numbers_version: 1 in 13 runs, 2 in 12 runs.*mixed=code"):
        quick(simulated(numbers_version=[1, 2]))
    assert quick(simulated(numbers_version=[1, 2]).using(mixed="code")).params["E"] > 1
    states = [{"scaling": "0.1.0", "code": "aaaaaaaa1"}, {"scaling": "0.2.0", "code": "bbbbbbbb1"}]
    told = quick(simulated(numbers_version=[1], software=states))
    assert "W-CODE" in codes(told.warnings)  # another release with the same numbers is no refusal
    assert "W-CODE" not in codes(quick(simulated(numbers_version=[1], software=states[:1])).warnings)  # fmt: skip


def test_older_records_are_told_apart_by_release_and_commit():
    old = [{"scaling": "0.1.0", "commit": "a" * 40}, {"scaling": "0.1.3", "commit": "a" * 40, "dirty": "beef"}]  # fmt: skip
    assert "aaaaaaaa+beef" in " ".join(quick(simulated(software=old)).warnings)
    with pytest.raises(FitError, match=r"0\.1 in 13 runs, 0\.2 in 12 runs"):
        quick(simulated(software=[old[0], {"scaling": "0.2.0"}]))
    # one record that says its numbers does not speak for those that do not
    check_mixed(simulated(numbers_version=[None, 1], software=old))


def test_tables_that_say_nothing_are_never_refused():
    check_mixed(simulated())
    check_mixed(simulated(data_hash=[None, "a"], software=[None], numbers_version=[None]))
    check_mixed(sl.load(pd.DataFrame({"N": [1e6, 2e6], "D": [1e8, 2e8], "loss": [3.0, 2.9]})))
    check_mixed(sl.load(SAMPLE))


@pytest.mark.parametrize(("values", "word"), [({"no": 1}, "no such column"), ({"seed": 77}, "no run has '77'")])  # fmt: skip
def test_where_names_what_is_missing(values, word):
    with pytest.raises(FitError, match=word):
        simulated(seed=[0, 1]).where(**values)


def test_where_takes_numbers_as_they_are_written():
    runs = simulated(lr=[0.001, 0.002])
    assert len(runs.where(lr="1e-3")) == 13 and len(runs.where(runs.N > 1e7, lr=0.002)) == 7


def test_command_line_mixes_or_chooses_when_told(tmp_path, monkeypatch, capsys):
    from scaling.cli import main

    monkeypatch.chdir(tmp_path)
    table = simulated(data_hash=["aa", "bb"]).table
    table.to_csv("runs.csv", index=False)
    quick_keys = ["intervals=none", "starts=1"]
    assert main(["fit", "runs.csv", *quick_keys]) == 1
    assert "mixed=data" in capsys.readouterr().err
    assert main(["fit", "runs.csv", *quick_keys, "mixed=data"]) == 0
    assert main(["fit", "runs.csv", *quick_keys, "where.data_hash=aa"]) == 0
    assert main(["fit", "runs.csv", *quick_keys, "mixed=dota"]) == 1
    assert "Did you mean 'data'?" in capsys.readouterr().err
