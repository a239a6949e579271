"""The compute frontier read from training curves (Approach 1): the best loss at each compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis import uncertainty
from scaling.analysis.isoflops import Exponent
from scaling.analysis.runs import Runs, as_runs
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

GRID = 1500  # log-spaced budgets, as in the source
RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class Envelope:
    """The lower envelope of training curves.

    Args:
        runs: what it was read from.
        points: C [FLOPs], loss [nats/token], N, D and run_id of the best curve at each budget;
            `edge` marks those won by the smallest or largest size, which no exponent uses.
        curves: the curves, as `runs.curves()`.
        a, b: exponents of N* and D* in C, over runs drawn with replacement.
        warnings: what to keep in mind.
    """

    runs: Runs
    points: pd.DataFrame
    curves: pd.DataFrame
    a: Exponent
    b: Exponent
    warnings: tuple[str, ...] = ()
    level: float = 0.9

    def optimal(self, C: Any) -> pd.DataFrame:
        """Return N* and D* at each budget [FLOPs] by the fitted power laws."""
        C = np.atleast_1d(np.asarray(C, float))
        N, D = self.a.factor * C**self.a.value, self.b.factor * C**self.b.value
        return pd.DataFrame({"C": C, "N": N, "D": D, "tokens_per_param": D / N})

    def summary(self) -> Table:
        """Return a few points of the envelope and the exponents."""
        at = np.unique(np.linspace(0, len(self.points) - 1, 8).round().astype(int))
        rows = [
            [format_flops(p.C), format_quantity(p.N), format_quantity(p.D), f"{p.loss:.4f}"]
            for p in self.points.iloc[at].itertuples()
        ]
        note = [
            f"N* grows as C^a, a = {self.a}; D* as C^b, b = {self.b}.",
            f"{self.runs.conventions}.",
            *(f"- {w}" for w in self.warnings),
        ]
        return Table(
            ["C [FLOPs]", "N*", "D* [tokens]", "loss [nats/token]"],
            rows,
            title="Envelope of training curves",
            note="\n".join(note),
        )

    def __repr__(self) -> str:
        return f"Envelope({len(self.points)} budgets, a = {self.a})"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def fit_envelope(runs: Runs, *, skip: float = 0.1, level: float = 0.9, seed: int = 0) -> Envelope:
    """Find the size with the lowest loss at each compute along the training curves (Approach 1).

    Interpolates each curve in log C, takes the lowest at 1,500 budgets, regresses ln N and ln D of
    the winners on ln C.

    Args:
        runs: runs loaded from their folders, with at least three sizes.
        skip: share of each run's tokens left out at its start, where warm-up rules the loss.
        level: of the intervals; seed: of the resampling of runs.

    Raises:
        FitError: no curves, or fewer than three sizes win somewhere.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.1. Curves whose learning rate has not
    decayed lie above a run that ends there, which favours large sizes; IsoFLOP minima do not.
    """
    runs = as_runs(runs)
    curves = runs.curves()
    if curves.empty:
        raise FitError(
            "envelope: the runs have no training curves. Load them from their results folder, not from a table."
        )
    last = curves.groupby("run_id")["tokens"].transform("max")
    curves = curves[curves["tokens"] >= skip * last]
    ids = [r for r, c in curves.groupby("run_id") if len(c) >= 2]
    if len(ids) < 3:
        raise FitError(
            f"envelope: {len(ids)} runs have two or more validation points; needs 3. Raise train.evals."
        )
    budgets = np.geomspace(curves["C"].min(), curves["C"].max(), GRID)
    losses = np.stack([_interpolate(curves[curves["run_id"] == r], budgets) for r in ids])
    size = curves.groupby("run_id")["N"].first()[ids].to_numpy(float)
    per_token = (
        (curves["C"] / curves["tokens"]).groupby(curves["run_id"]).first()[ids].to_numpy(float)
    )
    points = _winners(budgets, losses, size, per_token, np.array(ids))
    a, b = _slopes(points)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        pick = np.unique(rng.integers(len(ids), size=len(ids)))
        drawn = _winners(budgets, losses[pick], size[pick], per_token[pick], np.array(ids)[pick])
        if drawn.loc[~drawn["edge"], "N"].nunique() >= 3:
            draws.append([e[0] for e in _slopes(drawn)])
    (a_lo, b_lo), (a_hi, b_hi) = uncertainty.interval(np.array(draws).reshape(-1, 2), level)
    warnings = [
        "Curves before the learning rate decays lie too high; compare with the IsoFLOP minima."
    ]
    return Envelope(
        runs,
        points,
        curves,
        Exponent(a[0], float(a_lo), float(a_hi), a[1]),
        Exponent(b[0], float(b_lo), float(b_hi), b[1]),
        tuple(warnings),
        level,
    )


def _interpolate(curve: pd.DataFrame, budgets: np.ndarray) -> np.ndarray:
    """Loss of one curve at each budget; infinite where the run has no value."""
    curve = curve.sort_values("C")
    value = np.interp(
        np.log(budgets), np.log(curve["C"]), np.log(curve["loss"]), left=np.inf, right=np.inf
    )
    return np.exp(value)


def _winners(
    budgets: np.ndarray,
    losses: np.ndarray,
    size: np.ndarray,
    per_token: np.ndarray,
    ids: np.ndarray,
) -> pd.DataFrame:
    best = losses.argmin(0)
    keep = np.isfinite(losses.min(0))
    best, C = best[keep], budgets[keep]
    edge = (size[best] == size.min()) | (size[best] == size.max())
    return pd.DataFrame(
        {
            "C": C,
            "loss": losses.min(0)[keep],
            "N": size[best],
            "D": C / per_token[best],
            "run_id": ids[best],
            "edge": edge,
        }
    )


def _slopes(points: pd.DataFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """Exponent and factor of N and D along the frontier, without the budgets won by the extreme sizes."""
    inside = points[~points["edge"]]
    if inside["N"].nunique() < 2:
        sizes = ", ".join(format_quantity(n) for n in np.unique(points["N"]))
        raise FitError(
            f"envelope: only sizes {sizes} win anywhere, and the extreme ones do not count. Train at least two sizes between them."
        )
    log_c = np.log(inside["C"])
    fits = [np.polyfit(log_c, np.log(inside[name]), 1) for name in ("N", "D")]
    (a, g), (b, h) = fits
    return (float(a), float(np.exp(g))), (float(b), float(np.exp(h)))
