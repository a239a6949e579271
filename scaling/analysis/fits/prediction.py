"""What a fit says about runs not in it: losses with intervals and the distance beyond the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from scaling.analysis.data.runs import Runs
from scaling.analysis.laws import Cost
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity, format_with_interval


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Predicted losses; every field is an array of the shape asked for (0-d for single numbers).

    Args:
        N, D, C: where [parameters, tokens, FLOPs].
        loss: predicted mean loss [nats/token]; lo, hi: its interval.
        next_lo, next_hi: the interval the next single run falls into, at `level`.
        extrapolation: {"C": factor, "N": ..., "D": ...}; 1 is inside the data, 4 is four times
            beyond the largest (or below the smallest) run in the fit.
    """

    N: np.ndarray
    D: np.ndarray
    C: np.ndarray
    loss: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    next_lo: np.ndarray
    next_hi: np.ndarray
    level: float
    extrapolation: Mapping[str, np.ndarray] = field(default_factory=dict)
    law: str = ""

    def contains(self, loss: float | np.ndarray) -> np.ndarray:
        """Return whether measured losses lie inside the next-run interval."""
        return (self.next_lo <= loss) & (loss <= self.next_hi)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per prediction."""
        names = ("N", "D", "C", "loss", "lo", "hi", "next_lo", "next_hi")
        frame = pd.DataFrame({n: np.atleast_1d(getattr(self, n)).ravel() for n in names})
        return frame.assign(
            **{f"beyond_{k}": np.atleast_1d(v).ravel() for k, v in self.extrapolation.items()}
        )

    def table(self) -> Table:
        """Return the predictions as a table for people."""
        percent = f"{100 * self.level:g} %"
        rows = []
        for row in self.to_frame().itertuples():
            loss, mean = format_with_interval(row.loss, row.lo, row.hi)
            _, single = format_with_interval(row.loss, row.next_lo, row.next_hi)
            rows.append(
                [
                    format_quantity(row.N),
                    format_quantity(row.D),
                    format_flops(row.C),
                    loss,
                    mean,
                    single,
                    f"{row.beyond_C:.3g}x",
                ]
            )
        header = [
            "N",
            "D [tokens]",
            "C [FLOPs]",
            "loss [nats/token]",
            f"mean, {percent}",
            f"next run, {percent}",
            "beyond the data in C",
        ]
        return Table(header, rows, title=f"Predicted by {self.law}")

    def __repr__(self) -> str:
        """Return one line: the first prediction with the interval of a run, and how many there are."""
        first = self.to_frame().iloc[0]
        loss, run = format_with_interval(first["loss"], first["next_lo"], first["next_hi"])
        where = f"N = {format_quantity(first['N'])}, D = {format_quantity(first['D'])}"
        more = f"; {np.size(self.N)} of these" if np.size(self.N) > 1 else ""
        return f"{type(self).__name__}({self.law}: loss {loss} {run} at {where}{more})"

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def extrapolation(runs: Runs, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return by which factor each of C, N, D lies outside the runs; 1 inside their range."""
    factors = {}
    for name in ("C", "N", "D"):
        if name in inputs:
            known, asked = getattr(runs, name), np.asarray(inputs[name], float)
            factors[name] = np.maximum(np.maximum(asked / known.max(), known.min() / asked), 1.0)
    return factors


def fit_cost(runs: Runs) -> Cost:
    """Return compute as factor * N^power * D: exactly 6ND, or least squares through the runs' C.

    Counted compute per token is not 6N for small models (attention, head); over the sizes of one
    study a power of N describes it, which keeps the optimum in closed form.
    """
    if runs.flops == "6nd":
        return Cost()
    per_token, log_n = np.log(runs.C / runs.D), np.log(runs.N)
    if np.ptp(log_n) == 0 or np.allclose(per_token - log_n, np.log(6.0), atol=2e-2):
        return Cost(float(np.exp(np.mean(per_token - log_n))))
    power, factor = np.polyfit(log_n, per_token, 1)
    return Cost(float(np.exp(factor)), float(power))
