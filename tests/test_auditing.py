"""Audits: designed faults are found, honest claims are not accused, published faults come out alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from published import FOLDER, epoch, needs_tables

from scaling.analysis import laws
from scaling.analysis.audits import reproduction
from scaling.analysis.audits.auditing import audit
from scaling.analysis.audits.claims import PUBLISHED, Printed, get_claims
from scaling.analysis.data.runs import load
from scaling.analysis.data.simulation import simulate
from scaling.analysis.fits.fitting import fit
from scaling.cli import main
from scaling.study.errors import FitError

TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
QUICK = {
    "laws": ("chinchilla",),
    "objectives": ("huber_log", "l1_log"),
    "outliers": ("none",),
    "resamples": 100,
}
C = 5.76e23


@pytest.fixture(scope="module")
def runs():
    N, D = np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6))
    return simulate("chinchilla", TRUTH, N, D, noise=0.005, seed=3)


def printed(params, digits=12):
    return {k: f"{v:.{digits}g}" for k, v in params.items()}


def test_honest_claim_is_not_accused(runs):
    found = fit(runs, resamples=200)
    lo, hi = found.interval("a", level=0.95)
    claim = {
        "params": printed(found.params),
        "objective": "huber_log",
        "intervals": {"a": [lo, hi]},
        "level": 0.95,
        "optimum": {"C": C, "N": f"{found.optimal(C)['N'].iloc[0]:.12g}"},
    }
    result = audit(runs, claim, **QUICK)
    assert result.faults == ()
    assert not {"W-ROUND", "W-MEAN", "W-SCALE", "W-NARROW"} & result.codes
    stop = result.find("W-STOP")
    assert stop.severity == "note" and stop.numbers["excess"] < 1e-6  # twelve digits of the optimum
    assert stop.change["wasted_share"] < 1e-6


def test_early_stop_rounding_and_narrow_interval_are_found_in_a_simulated_claim(runs):
    """Hoffmann's three faults, designed: numbers off the optimum, few digits, a width of .001."""
    claim = {
        "params": {"E": "1.69", "A": "406.4", "B": "410.7", "alpha": "0.34", "beta": "0.28"},
        "objective": "huber_log",
        "intervals": {"a": [0.454, 0.455]},
        "level": 0.8,
        "runs": 36,
        "optimum": {"C": C, "N": "40e9"},
    }
    result = audit(runs, claim, **QUICK)
    assert {"W-STOP", "W-ROUND", "W-NARROW"} <= {f.code for f in result.faults}
    assert result.find("W-STOP").numbers["excess"] > 1e-2
    assert result.find("W-NARROW").numbers["needed"] > 1000 * 36
    change = result.find("W-STOP").change
    assert change["N_before"] == pytest.approx(32.19e9, rel=1e-3)  # of the printed numbers
    assert change["loss_before"] > change["loss_after"] and change["wasted"] > 0


def test_l1_optimum_sold_as_huber_is_a_collapsed_scale(runs):
    l1 = fit(runs, objective="l1_log", intervals="none")
    claim = {"params": printed(l1.params), "objective": "huber_log", "free_scale": True, "optimum": {"C": C}}  # fmt: skip
    found = audit(runs, claim, **QUICK).find("W-SCALE")
    assert found.severity == "fault" and found.numbers["excess_l1_log"] < 1e-6
    # s = delta mean|r|, and mean|r| of Gaussian noise of .005 is .005 sqrt(2/pi) = .004; the fit's
    # five parameters take a tenth of it, 36 runs scatter it by 13 %.
    assert found.numbers["scale"] == pytest.approx(1e-3 * 0.004, rel=0.4)
    assert found.numbers["knee"] == pytest.approx(1e-3 * found.numbers["scale"])


def test_other_objective_than_named_is_told_apart(runs):
    square = fit(runs, objective="mse", intervals="none")
    claim = {"params": printed(square.params), "objective": "huber_log", "optimum": {"C": C}}
    found = audit(runs, claim, **QUICK).find("W-STOP")
    assert "are the optimum of mse " in found.text and found.severity == "fault"


def test_table_alone_is_audited_without_claims(runs):
    result = audit(runs, C=1e24, **QUICK)
    assert result.claims is None and "W-CHOICE" in result.codes and "W-EXTRAP" in result.codes
    assert result.faults == () and result.C == 1e24
    assert [f.severity for f in result.findings] == sorted(
        (f.severity for f in result.findings), key=["fault", "doubt", "note"].index
    )


def test_data_faults_of_a_table_are_findings(runs):
    rows = pd.DataFrame({"params": runs.N, "tokens": runs.D, "loss": runs.L, "flops": 6 * runs.N * runs.D})  # fmt: skip
    mixed = rows.assign(flops=rows["flops"] * np.where(np.arange(len(rows)) % 2, 1.0, 3.0))
    result = audit(mixed, C=1e24, **QUICK)
    assert result.find("W-CONV").severity == "fault"


def test_one_bad_model_is_named(runs):
    table = runs.table.copy()
    largest = table["params_non_embedding"] == table["params_non_embedding"].max()
    table.loc[largest, "val_loss"] *= 1.05  # the largest model was badly tuned
    models = {**QUICK, "outliers": ("none", "models")}
    (found,) = (f for f in audit(load(table), C=1e24, **models).findings if f.code == "W-OUTLIER")
    assert "Without the 10B model the others agree much better" in found.text
    # an untouched table has no such model: 0.5 % noise on 36 runs
    assert not any("agree much better" in f.text for f in audit(runs, C=1e24, **models).findings)


def test_k_form_truth_rejects_the_additive_law():
    N, D = np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6))
    params = {"E": 1.7, "A": 1e5, "B": 1e6, "alpha": 0.6, "beta": 0.6, "k": 0.5}
    table = simulate("chinchilla_k", params, N, D, noise=0.001, seed=1)
    result = audit(table, C=1e24, resamples=100, objectives=("mse_log",), outliers=("none",))
    assert result.find("W-LAW").numbers["bic_gain"] > 10
    good = simulate("chinchilla", TRUTH, N, D, noise=0.001, seed=1)
    assert (
        "W-LAW"
        not in audit(good, C=1e24, resamples=100, objectives=("mse_log",), outliers=("none",)).codes
    )


def test_runs_needed_reproduces_the_published_count():
    # Besiroglu et al. 2024: SE .020 of a from 240 points, an 80 % interval .454 to .455: 634,773.
    # Their SE is printed to two digits, so it is known to 2.5 % and the count to 5 %.
    assert reproduction.runs_needed(0.020, 240, 0.001, 0.8) == pytest.approx(634_773, rel=0.05)
    # the formula itself, with the SE that their count implies
    assert reproduction.runs_needed(0.020065, 240, 0.001, 0.8) == pytest.approx(634_773, rel=1e-3)


def test_hoffmanns_rounding_moves_the_optimum_as_published(runs):
    claim, optimum = get_claims("hoffmann"), laws.CHINCHILLA.optimum
    N, D = optimum(claim.unrounded, C, laws.Cost())
    # 40B in the paper; 40.36e9, 2.379e12 and 58.9 by arithmetic, to .1 %.
    assert pytest.approx([40.36e9, 2.379e12, 58.9], rel=1e-3) == [N, D, D / N]
    N, D = optimum(claim.values, C, laws.Cost())
    assert pytest.approx([32.19e9, 2.982e12, 92.6], rel=1e-3) == [N, D, D / N]
    reference = fit(runs, intervals="none")
    low, high = reproduction.round_off(claim, C, reference)
    assert low < 32.19e9 < 40.36e9 < high


def test_compute_wasted_is_that_of_the_closed_form():
    """Twice or half the optimal size costs 18.58 % more compute with Epoch's constants."""
    N, D = np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6))
    reference = fit(simulate("chinchilla", TRUTH, N, D), intervals="none")
    best = float(reference.optimal(C)["N"].iloc[0])
    _, wasted, share = reproduction.waste(reference, 2 * best, C)
    # Relative to the compute that would do: a table of formula facts prints 18.58 %, to .02 points.
    assert 100 * wasted / (C - wasted) == pytest.approx(18.58, abs=0.02)
    assert share == pytest.approx(wasted / C)
    assert reproduction.waste(reference, best, C)[1] < 1e-6 * C


def test_llama3_allocation_cannot_give_its_stated_optimum(runs):
    claim = {k: v for k, v in PUBLISHED["llama3"].items() if k != "where"}
    found = audit(runs, claim, **QUICK).find("W-ROUND")
    # .29 C^.53 at 3.8e25 is 10.46T (arithmetic); the paper states 16.55T.
    assert found.numbers["printed"] == pytest.approx(10.46e12, rel=1e-3)
    assert found.numbers["high"] < 16.55e12 and found.severity == "fault"


@pytest.mark.parametrize(
    ("text", "value", "half"), [("0.34", 0.34, 0.005), ("406.4", 406.4, 0.05), ("0.50", 0.5, 0.005), ("40e9", 4e10, 5e8)]
)  # fmt: skip
def test_printed_numbers_keep_their_digits(text, value, half):
    number = Printed.read(text)
    assert (number.value, number.half) == pytest.approx((value, half))


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ("hofmann", "Did you mean 'hoffmann'"),
        ({"parms": {}}, "Did you mean 'params'"),
        ({"params": {"E": "1.7"}}, "missing or unknown"),
        ({"params": {"E": "x", "A": "1", "B": "1", "alpha": "1", "beta": "1"}}, "params.E must be a number above 0"),
        ({"intervals": {"a": [0.5, 0.4]}}, "lo below hi"),
        ({"intervals": {"a": 0.5}}, "lo below hi"),
        ({"level": 95}, "between 0 and 1"),
        ({"objective": "hubber_log"}, "Did you mean 'huber_log'"),
        ({"reduction": "median"}, "one of sum, mean"),
        ({"optimum": {"X": 1}}, "one of C, N, D"),
        ({"allocation": {"of": "N"}}, "factor and exponent"),
        ({"where": {"run_id": "nobody"}}, "no run has run_id"),
    ],
)  # fmt: skip
def test_senseless_claims_are_refused(runs, claim, words):
    with pytest.raises(FitError, match=words):
        audit(runs, claim, **QUICK)


def test_yaml_claims_are_read_and_damage_is_named(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({**PUBLISHED["hoffmann"], "optimum": {"C": C, "N": "40B"}}))
    claim = get_claims(path)
    assert claim.name == "claims" and claim.optimum["N"].ends == (39.5e9, 40.5e9)
    for text in ("{a: [", "- 1\n- 2\n"):
        path.write_text(text)
        with pytest.raises(FitError, match=r"claims\.yaml"):
            get_claims(path)


def scaling(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "scaling", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "MPLBACKEND": "Agg"}, check=False,
    )  # fmt: skip


def test_command_audits_a_table_and_writes_three_files(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"size": runs.N, "seen": runs.D, "loss": runs.L, "split": "final"})
    table.to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"params": printed(TRUTH, 2), "objective": "huber_log"}))  # fmt: skip
    arguments = [
        "audit", "runs.csv", "claims=mine.yaml", "target.flops=1e24", "columns.size=params", "columns.seen=tokens",
        "where.split=final", "resamples=50", "laws=chinchilla", "objectives=huber_log,l1_log", "outliers=none,models",
    ]  # fmt: skip
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "W-ROUND" in said and "What the decisions at 1e24 FLOPs owe" in said
    assert max(len(line) for line in said.split("\n\n")[2].splitlines()) <= 100
    folder = tmp_path / "audit" / "runs_mine"
    stored = json.loads((folder / "audit.json").read_text(), parse_constant=pytest.fail)
    assert stored["target_flops"] == 1e24 and any(f["code"] == "W-ROUND" for f in stored["findings"])  # fmt: skip
    assert len(stored["universes"]) == 2 + 6
    assert (folder / "audit.md").read_text().startswith("# Audit of mine")
    html = (folder / "audit.html").read_text()
    assert "<svg" in html and "http://" not in html.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("audit",), "scaling audit runs.csv"),
        (("audit", "nothing.csv"), "no such file"),
        (("audit", "t.csv", "claim=hoffmann"), "Did you mean 'claims'"),
        (("audit", "t.csv", "target.flops=many"), "target.flops"),
        (("audit", "t.csv", "where.x=1"), "no such column"),
        (("audit", "t.csv", "claims="), "no value"),
    ],
)
def test_command_refuses_in_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"params": [1e6, 2e6], "tokens": [1e7, 3e7], "loss": [3.0, 2.5]}).to_csv("t.csv")
    assert main(list(arguments)) == 1
    error, *more = capsys.readouterr().err.splitlines()
    assert words in error and all(line.startswith("More: ") for line in more) and len(more) <= 1


@pytest.mark.slow  # 8 s each
@needs_tables
@pytest.mark.parametrize("name", ["hoffmann", "epoch"])
def test_command_finds_the_published_faults_on_its_own(name, tmp_path):
    result = scaling("audit", FOLDER / "epoch_chinchilla.csv", f"claims={name}", "resamples=100", cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    stored = json.loads((tmp_path / "audit" / f"epoch_chinchilla_{name}" / "audit.json").read_text())  # fmt: skip
    faults = {f["code"]: f["numbers"] for f in stored["findings"] if f["severity"] == "fault"}
    if name == "epoch":
        assert set(faults) == {"W-SCALE"}
        # their notebook's scale is exp(-12.27) = 4.7e-6 and its knee 4.7e-9
        assert faults["W-SCALE"]["scale"] == pytest.approx(np.exp(-12.27), rel=0.02)
        assert faults["W-SCALE"]["excess_l1_log"] < 1e-5 < 1e-4 < faults["W-SCALE"]["excess"]
        return
    assert set(faults) == {"W-STOP", "W-MEAN", "W-ROUND", "W-NARROW"}
    assert faults["W-STOP"]["excess_unrounded"] == pytest.approx(
        0.209, abs=1e-3
    )  # 0.00123116 / f* - 1
    assert faults["W-ROUND"]["N_printed"] == pytest.approx(32.19e9, rel=1e-3)
    assert faults["W-ROUND"]["N_unrounded"] == pytest.approx(40.36e9, rel=1e-3)
    # 600,000 or more with an SE of .020; 100 resamples know the SE to 7 %, so the count to 15 %,
    # and two of these SDs make the bound.
    assert faults["W-NARROW"]["needed"] > 0.7 * 600_000
    assert stored["reference"]["value"] == pytest.approx(0.001018274017801, rel=1e-9)


@needs_tables
def test_mean_reduction_stops_where_hoffmanns_fit_stopped():
    claim = get_claims("hoffmann")
    stop = reproduction.stop_of_mean(epoch(), claim, claim.objective)
    # Two iterations, to E 1.6935, alpha .33899, beta .28468 (our survey's run of SciPy's default).
    assert stop.iterations == 2
    assert stop.params["E"] == pytest.approx(1.6935, abs=1e-4)
    assert stop.params["alpha"] == pytest.approx(0.33899, abs=1e-4)
    assert stop.params["beta"] == pytest.approx(0.28468, abs=1e-4)


@needs_tables
def test_hoffmanns_claims_have_their_faults_and_no_others():
    quick = {"laws": ("chinchilla",), "objectives": ("huber_log",), "outliers": ("none",), "resamples": 100}  # fmt: skip
    faults = {f.code for f in audit(epoch(), "hoffmann", **quick).faults}
    assert faults == {"W-STOP", "W-MEAN", "W-ROUND", "W-NARROW"}


@needs_tables
def test_bootstrap_of_epochs_points_needs_six_hundred_thousand_runs():
    found = fit(epoch(), intervals="bootstrap", resamples=400)
    se = float(np.std(found.law.derived["a"](found.draws, found.cost), ddof=1))
    assert se == pytest.approx(
        0.020, rel=0.1
    )  # printed to two digits; 400 resamples know it to 4 %
    assert reproduction.runs_needed(se, 240, 0.001, 0.8) > 5e5
