"""The figure and the numbers of learning-rate transfer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.present import plot, style
from scaling.present.transfer import best_rates, spread

RATES = 1e-3 * 2.0 ** np.arange(6)


def sweep(drift):
    """Parabolas in log rate whose best rate falls as size^-drift from 0.006 at size 32."""
    rows = []
    for size in (32, 64, 128):
        best = 0.006 * (size / 32) ** -drift
        rows += [{"size": size, "lr": lr, "loss": 2 + 0.1 * np.log(lr / best) ** 2} for lr in RATES]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_best_rates_recovers_the_drift(drift):
    best = best_rates(sweep(drift))
    assert best["lr"].to_list() == pytest.approx([0.006 * 2 ** (-drift * i) for i in range(3)])
    assert spread(best) == pytest.approx(4**drift)


def test_best_at_the_end_of_the_grid_is_that_end():
    frame = sweep(0.0)
    frame = frame[frame["lr"] <= 0.002]
    assert set(best_rates(frame)["lr"]) == {0.002}


def test_transfer_draws_a_curve_and_a_star_per_size():
    frame = sweep(0.5)
    frame.loc[17, "loss"] = None  # a diverged run
    ax = plot.transfer(frame, "width", title="standard")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [f"width {n}" for n in (32, 64, 128)]  # fmt: skip
    assert sum(line.get_marker() == "*" for line in ax.lines) == 3
    assert len(style._TABLES[ax]["minima"]) == 3
