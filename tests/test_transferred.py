"""Effective data transferred, read off runs, and its law: simulated runs whose transfer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scaling as sl
from scaling.analysis import laws
from scaling.analysis.fits.worth import transferred
from scaling.present import plot, style
from scaling.study.errors import FitError
from scaling.study.units import format_quantity

ROOT = Path(__file__).parent.parent
LAW = laws.get("transfer_loss")
TRUTH = {
    "E": 1.0,
    "A": 14.0,
    "B": 23.0,
    "alpha": 0.4,
    "beta": 0.25,
    "k": 1.4e7,
    "mu": 0.05,
    "nu": -0.36,
}
SIZES, TOKENS = np.geomspace(4e3, 64e3, 4), np.geomspace(3e4, 4e6, 15)


def simulated(*, noise=0.0, seed=0, kinds=(0.0, 1.0)):
    N, D, P = (x.ravel() for x in np.meshgrid(SIZES, TOKENS, kinds))
    loss = LAW(TRUTH, N=N, D=D, P=P) * np.exp(np.random.default_rng(seed).normal(0, noise, len(N)))
    return sl.load(pd.DataFrame({"params": N, "tokens": D, "val_loss": loss, "pretrained": P}))


def test_tokens_read_off_the_runs_are_those_of_the_law():
    found = transferred(simulated())
    within = found[found["reach"] == "within"]
    true = laws.get("transfer")(
        {k: TRUTH[k] for k in ("k", "mu", "nu")}, N=within["N"], D=within["D"]
    )
    # fifteen budgets over two decades lie a factor 1.42 apart. A straight line between two, against
    # D^-0.25, is off in log D by at most 0.25 ln(1.42)^2 / 8 = 0.4 % of D + D_T, of which D_T is a seventh or more
    assert len(within) > 30
    np.testing.assert_allclose(within["D_T"], true, rtol=0.03)


def test_runs_out_of_reach_are_said_to_be():
    found = transferred(simulated()).set_index(["N", "D"])
    longest = found.xs(TOKENS[-1], level="D", drop_level=False)
    # the true worth is above 0, so the longest run from scratch is never as good
    assert set(longest["reach"]) == {"beyond"} and longest["D_T"].isna().all()
    runs = simulated()
    worse = runs.table.assign(
        val_loss=runs.table["val_loss"].where(runs.table["pretrained"] == 0, 9.0)
    )
    assert set(transferred(sl.load(worse))["reach"]) == {"below"}


def test_law_recovers_a_worth_that_falls_with_size():
    fit = sl.fit(simulated(noise=0.003), law="transfer_loss", delta="noise", intervals="none")
    # 120 runs of 0.3 %: the profile intervals of such a fit are 0.03 wide in either exponent
    assert fit.params["nu"] == pytest.approx(TRUTH["nu"], abs=0.06)
    assert fit.params["mu"] == pytest.approx(TRUTH["mu"], abs=0.06)


@pytest.mark.parametrize("kinds", [(0.0,), (1.0,)])
def test_one_kind_of_runs_shows_no_transfer(kinds):
    with pytest.raises(FitError, match="there is one. Train the other"):
        transferred(simulated(kinds=kinds))


def test_size_without_a_curve_from_scratch_is_named():
    runs = simulated()
    table = runs.table
    few = table[
        (table["params"] > SIZES[0]) | (table["pretrained"] == 1) | (table["tokens"] == TOKENS[0])
    ]
    with pytest.raises(FitError, match="N = 4,000: 1 budgets from scratch beside 15 runs"):
        transferred(sl.load(few))


def test_figure_shows_both_kinds_and_the_tokens_between_them():
    fit = sl.fit(simulated(), law="transfer_loss", intervals="none")
    figure = plot.pretraining(fit)
    left, right = figure.axes
    marks = [line for line in left.lines if line.get_marker() == "o"]
    assert len(marks) == 2 * len(SIZES)
    assert sum(line.get_markerfacecolor() == "white" for line in marks) == len(SIZES)
    shown = style.table_of(figure)
    assert set(shown["reach"].dropna()) == {"within", "beyond"}
    assert right.get_ylim()[0] < shown["D_T"].min()
    style.close(figure)
    with pytest.raises(FitError, match="not chinchilla"):
        plot.pretraining(sl.fit(simulated(kinds=(0.0,)), intervals="none"))


def test_page_says_what_the_kept_runs_give():
    page = (ROOT / "docs" / "transfer.md").read_text(encoding="utf-8")
    runs = sl.load(ROOT / "results" / "transfer")
    fitted = sl.fit(runs, law="transfer_loss", delta="noise", intervals="none").params
    for name, text in (
        ("k", f"{fitted['k']:.1e}".replace("+0", "")),
        ("mu", f"{fitted['mu']:.2f}"),
        ("nu", f"{fitted['nu']:.2f}"),
    ):
        assert f"| {name} | {text} |" in page
    found = transferred(runs)
    assert len(found) == 28
    for D, rows in found.groupby("D"):
        cells = [
            format_quantity(round(v, -3)) if v == v else "beyond"
            for v in rows.sort_values("N")["D_T"]
        ]
        assert f"| {format_quantity(round(D, -3))} | {' | '.join(cells)} |" in page
