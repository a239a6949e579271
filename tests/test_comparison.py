"""Comparing laws: the true one wins, held-out compute decides, published differences."""

import numpy as np
import pytest
from published import epoch, needs_tables

from scaling.analysis.comparison import compare
from scaling.analysis.simulation import isoflop_grid, simulate
from scaling.study.errors import FitError

PARAMS = {"E": 0.9, "A": 60.0, "B": 300.0, "alpha": 0.35, "beta": 0.37}
SHARP = {**PARAMS, "A": 60.0**2, "B": 300.0**2, "alpha": 0.7, "beta": 0.74, "k": 0.5}
N, D = isoflop_grid(np.geomspace(1e12, 1e16, 7), points=7)


def test_power_form_wins_when_true_and_not_when_additive():
    sharp = compare(simulate("chinchilla_k", SHARP, N, D, noise=0.004))
    plain = compare(simulate("chinchilla", PARAMS, N, D, noise=0.004))
    assert sharp.best == "chinchilla_k"
    assert plain.best == "chinchilla"


def test_held_out_compute_decides():
    runs = simulate("chinchilla_k", SHARP, N, D, noise=0.002)
    c = compare(runs, ["chinchilla", "chinchilla_k", "kaplan"], holdout_above=5e14)
    assert c.best == "chinchilla_k"
    assert c.held_out + len(c.fits["chinchilla"].runs) == len(runs)
    assert "held-out error" in c.summary().text()
    with pytest.raises(FitError, match="leaves 49 runs to fit and 0 to predict"):
        compare(runs, holdout_above=1e20)


@needs_tables
def test_differences_on_public_runs_agree_with_reference():
    rows = compare(epoch(), ["chinchilla", "chinchilla_k"]).rows.set_index("law")
    assert rows.loc["chinchilla_k", "bic"] - rows.loc["chinchilla", "bic"] == pytest.approx(
        -40.7, abs=0.5
    )
    held = compare(epoch(), ["chinchilla"], holdout_above=9.99e20).rows
    assert held["holdout"][0] == pytest.approx(0.01051, abs=2e-5)  # 1.051 % on the 23 largest runs
