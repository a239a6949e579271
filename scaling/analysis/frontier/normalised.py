"""Training curves laid over each other: reducible loss and compute, each divided by its own end.

Curves of models trained compute-optimally fall on one curve when so normalised; a size that does not
is a sign of hyperparameters that do not scale (Qiu et al. 2025, arXiv:2507.02119).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from scaling.analysis.fits.fitted import Fit
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

POINTS = 60  # of a run's compute at which curves are compared
START = 0.1  # share of a run until which warm-up still shapes a curve; left out of the summary
SAME = 0.03  # sizes and tokens closer than this are one configuration


@dataclass(frozen=True, eq=False)
class Collapse:
    """Normalised training curves, and how far apart they lie.

    Args:
        curves: run_id, N, D, C [FLOPs, at the end], x (share of the run's compute), loss
            [nats/token], value ((loss - floor) over the same at the run's end).
        spread: x, between (SD over configurations, relative to their mean), seeds (SD over runs of
            one configuration before each is divided by its end, relative to their mean; NaN
            without repeats), count (configurations there).
        floor: what was subtracted [nats/token]; within: factor around the efficient path.
        left_out: how many runs with curves lie further from the path; unread: how many near it have
            one point, or come down to the floor.
    """

    curves: pd.DataFrame
    spread: pd.DataFrame
    floor: float
    within: float | None
    left_out: int
    unread: int = 0

    @property
    def between(self) -> float:
        """SD between configurations relative to their mean, its median over the run past its start."""
        return self._median("between")

    @property
    def seeds(self) -> float:
        """SD between runs of one configuration, likewise; NaN without repeats."""
        return self._median("seeds")

    def _median(self, name: str) -> float:
        # at the end itself all curves are 1 by construction
        part = self.spread[self.spread["x"].between(START, 0.95)]
        known = part[name].dropna()
        return float(known.median()) if len(known) else float("nan")

    def summary(self) -> Table:
        """Return the sizes that were laid over each other, and how far apart they are."""
        ends = self.curves.groupby("run_id", sort=False).last().sort_values("C")
        rows = [
            [format_quantity(r.N), format_quantity(r.D), format_flops(r.C), f"{r.loss:.4f}"]
            for r in ends.itertuples()
        ]
        note = [f"Curves differ by {100 * self.between:.2g} % of the reducible loss (median over the run)"]  # fmt: skip
        if np.isfinite(self.seeds):
            note[0] += f", seeds of one configuration by {100 * self.seeds:.2g} %"
        note = [f"{note[0]}; floor {self.floor:.4g}."]
        if self.left_out:
            note.append(f"{self.left_out} runs left out: further than a factor {self.within:g} from the efficient path.")  # fmt: skip
        if self.unread:
            note.append(f"{self.unread} runs left out: a curve of one point, or one that comes down to the floor, cannot be divided by its end.")  # fmt: skip
        return Table(["N", "D [tokens]", "C [FLOPs]", "final loss"], rows, title="Collapse of training curves", note="\n".join(note))  # fmt: skip

    def __repr__(self) -> str:
        return f"Collapse({self.curves['run_id'].nunique()} runs, {100 * self.between:.2g} % apart)"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def collapse(fit: Fit, *, within: float | None = 2.0, floor: float | None = None) -> Collapse:
    """Divide the reducible loss and the compute of each training curve by their ends.

    Args:
        fit: a law with a floor E; its runs must have training curves.
        within: keep runs whose size is at most this factor from the best at their compute; None
            keeps all.
        floor: irreducible loss [nats/token] to subtract; the fitted E if None.

    Returns:
        The curves, and their spread over sizes beside that over seeds. Spread below that of the
        seeds is what Qiu et al. call supercollapse; it needs a learning rate that decays to zero.

    Raises:
        FitError: no floor, no curves, or fewer than two configurations near the path with curves
            of two points above the floor.

    Source: Qiu et al. 2025, arXiv:2507.02119, section 2; there the horizon of each size is optimal
    by design, here runs are chosen by their distance from the fitted path.
    """
    level = _floor(fit, floor)
    long = fit.runs.curves()
    if long.empty:
        raise FitError(
            "collapse: the runs have no training curves. Load them from their results folder."
        )
    rows = fit.runs.fit_rows.set_index("run_id")[["N", "D", "C"]]
    near = rows[_is_near(fit, rows, within)]
    drawn = set(long["run_id"])
    long = long[long["run_id"].isin(near.index)]
    parts = [_normalise(g, near.loc[name], level) for name, g in long.groupby("run_id")]
    # empty parts would make every column one of objects
    curves = pd.concat([p for p in parts if len(p)] or [_EMPTY])
    kept = curves["run_id"].unique()
    kinds = _configurations(near.loc[kept]) if len(kept) else pd.Series(dtype=int)
    if kinds.nunique() < 2:
        raise FitError(
            f"collapse: {kinds.nunique()} sizes with curves above the floor {level:.4g} lie within a factor {within} of the efficient path; needs 2. "
            "Give a larger within=, or None for all runs, or a lower floor=."
        )
    spread = _spread(curves, kinds, level)
    far, unread = len(drawn - set(near.index)), len((drawn & set(near.index)) - set(kept))
    return Collapse(curves.reset_index(drop=True), spread, level, within, far, unread)


_EMPTY = pd.DataFrame(columns=["run_id", "N", "D", "C", "x", "loss", "value"])


def _floor(fit: Fit, floor: float | None) -> float:
    if floor is not None:
        return float(floor)
    if "E" not in fit.law.names:
        raise FitError(
            f"collapse: law {fit.law.name} has no floor E. Give floor=, or fit one that has, e.g. chinchilla."
        )
    return float(fit.params["E"])


def _is_near(fit: Fit, rows: pd.DataFrame, within: float | None) -> np.ndarray:
    if within is None:
        return np.ones(len(rows), bool)
    best = fit.optimal(rows["C"].to_numpy(float))["N"].to_numpy(float)
    off = np.abs(np.log(rows["N"].to_numpy(float) / best))
    return np.asarray(off <= np.log(within) * (1 + 1e-9))


def _normalise(points: pd.DataFrame, run: pd.Series, floor: float) -> pd.DataFrame:
    """Return one curve over its end; nothing where it has one point, or its end lies on the floor."""
    points = points[points["loss"].notna() & (points["tokens"] > 0)].sort_values("tokens")
    if len(points) < 2 or points["loss"].min() <= floor:
        return _EMPTY
    value = (points["loss"] - floor) / (points["loss"].iloc[-1] - floor)
    x = points["tokens"] / points["tokens"].iloc[-1]
    return pd.DataFrame({
        "run_id": points["run_id"], "N": run["N"], "D": run["D"], "C": run["C"],
        "x": x, "loss": points["loss"], "value": value,
    })  # fmt: skip


def _configurations(rows: pd.DataFrame) -> pd.Series:
    """Return a number for each run; runs of equal N and D, so different seeds, share one."""
    near = (np.log(rows[["N", "D"]].astype(float)) / np.log1p(SAME)).round()
    return pd.Series(near.groupby(["N", "D"]).ngroup().to_numpy(), index=rows.index)


def _spread(curves: pd.DataFrame, kinds: pd.Series, floor: float) -> pd.DataFrame:
    """Return the relative SD between configurations, and within them, along the run."""
    x = np.geomspace(curves.groupby("run_id")["x"].min().min(), 1.0, POINTS)
    values = {name: _at(x, g) for name, g in curves.groupby("run_id")}
    ends = curves.groupby("run_id")["loss"].last() - floor
    means, squares, freedom = [], np.zeros(POINTS), np.zeros(POINTS)
    for _, members in kinds.groupby(kinds):
        table = np.array([values[name] for name in members.index])
        means.append(table.mean(0))
        if len(table) > 1:
            spare = np.isfinite(table).all(0) * (len(table) - 1)
            reducible = table * ends[members.index].to_numpy()[:, None]  # not yet divided
            squares += np.nan_to_num(_relative_variance(reducible)) * spare
            freedom += spare
    between = np.sqrt(_relative_variance(np.array(means)))
    seeds = np.sqrt(np.divide(squares, freedom, out=np.full(POINTS, np.nan), where=freedom > 0))
    count = np.isfinite(means).sum(0)
    return pd.DataFrame({"x": x, "between": between, "seeds": seeds, "count": count})


def _at(x: np.ndarray, curve: pd.DataFrame) -> np.ndarray:
    """Return a curve's normalised loss at shares of its compute, NaN before its first point."""
    known, value = np.log(curve["x"]), np.log(curve["value"])
    return np.exp(np.interp(np.log(x), known, value, left=np.nan))


def _relative_variance(table: np.ndarray) -> np.ndarray:
    """Return variance over squared mean of each column; NaN with fewer than two values."""
    known = np.isfinite(table)
    count = known.sum(0)
    filled = np.where(known, table, 0.0)
    mean = filled.sum(0) / np.maximum(count, 1)
    square = (np.where(known, table - mean, 0.0) ** 2).sum(0) / np.maximum(count - 1, 1)
    return np.divide(square, mean**2, out=np.full(len(mean), np.nan), where=count > 1)
