"""The compute frontier read from training curves (Approach 1): the best loss at each compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis.data.runs import Runs, as_runs, load
from scaling.analysis.data.trainingcurves import tidy_curves
from scaling.analysis.fits import uncertainty
from scaling.analysis.fits.fitting import Fit, fit
from scaling.analysis.fits.mixing import check_mixed
from scaling.analysis.frontier.bias import Bias, make_bias
from scaling.analysis.frontier.exponents import Exponent
from scaling.analysis.traps import warn
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

GRID = 1500  # log-spaced budgets, as in the source
RESAMPLES = 200
SURFACE_POINTS = 400  # points of curves from which the surface behind the bias is fitted


@dataclass(frozen=True, eq=False)
class Envelope:
    """The lower envelope of training curves.

    Args:
        runs: what it was read from.
        points: C [FLOPs], loss [nats/token], N, D and run_id of the best curve at each budget;
            `edge` marks those won by the smallest or largest size, which no exponent uses.
        curves: the curves, as `runs.curves()`.
        a, b: exponents of N* and D* in C, over runs drawn with replacement.
        bias: error that comes from these sizes and lengths alone, if a Chinchilla surface through the
            curves were the truth and all curves fully decayed; None if none could be fitted.
        warnings: what to keep in mind.
    """

    runs: Runs
    points: pd.DataFrame
    curves: pd.DataFrame
    a: Exponent
    b: Exponent
    warnings: tuple[str, ...] = ()
    level: float = 0.9
    draws: Mapping[str, np.ndarray] = field(default_factory=dict)
    bias: Bias | None = None

    def optimal(self, C: Any) -> pd.DataFrame:
        """Return N* and D* at each budget [FLOPs] by the fitted power laws, with intervals."""
        C = np.atleast_1d(np.asarray(C, float))
        N, D = self.a.factor * C**self.a.value, self.b.factor * C**self.b.value
        drawn = {
            x: np.exp(self.draws[f"{x}_intercept"][:, None] + self.draws[f"{x}_slope"][:, None] * np.log(C))
            if self.draws else np.empty((0, len(C))) for x in ("N", "D")
        }  # fmt: skip
        table = {"C": C}
        for name, value, draws in (
            ("N", N, drawn["N"]), ("D", D, drawn["D"]), ("tokens_per_param", D / N, drawn["D"] / drawn["N"]),
        ):  # fmt: skip
            lo, hi = uncertainty.interval(draws, self.level)
            table |= {name: value, f"{name}_lo": lo, f"{name}_hi": hi}
        return pd.DataFrame(table)

    def summary(self) -> Table:
        """Return a few points of the envelope and the exponents."""
        at = np.unique(np.linspace(0, len(self.points) - 1, 8).round().astype(int))
        rows = [
            [format_flops(p.C), format_quantity(p.N), format_quantity(p.D), f"{p.loss:.4f}"]
            for p in self.points.iloc[at].itertuples()
        ]
        note = [
            f"N* grows as C^a, a = {self.a}; D* as C^b, b = {self.b}.",
            *([_bias_text(self.bias)] if self.bias else []),
            f"{self.runs.conventions}.",
            *(f"- {w}" for w in self.warnings),
        ]
        header = ["C [FLOPs]", "N", "D [tokens]", "loss [nats/token]"]
        return Table(header, rows, title="Envelope of training curves", note="\n".join(note))

    def __repr__(self) -> str:
        return f"Envelope({len(self.points)} budgets, a = {self.a})"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def fit_envelope(
    runs: Runs | pd.DataFrame, *, skip: float = 0.1, level: float = 0.9, seed: int = 0
) -> Envelope:
    """Find the size with the lowest loss at each compute along the training curves (Approach 1).

    Interpolates each curve in log C, takes the lowest at 1,500 budgets, regresses ln N and ln D of
    the winners on ln C. Sizes come in steps, so the exponent is known no better than their spacing.

    Args:
        runs: runs loaded from their folders, or a table of curves in long form: one row per point
            with run_id, params (or N), tokens (or D), loss, and flops (or C; else 6ND).
        skip: share of each run's tokens left out at its start, where warm-up rules the loss.
        level: of the intervals; seed: of the resampling of runs.

    Raises:
        FitError: no curves, or fewer than three sizes win somewhere.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.1. Curves whose learning rate has not
    decayed lie above a run that ends there, which favours large sizes; IsoFLOP minima do not.
    """
    if isinstance(runs, pd.DataFrame):
        curves = tidy_curves(runs)
        runs = _last_points(curves)
    else:
        runs = as_runs(runs)
        check_mixed(runs)
        curves = runs.curves()
    if curves.empty:
        raise FitError(
            "envelope: the runs have no training curves. Load them from their results folder, or give a table with one row per point of each curve."
        )
    last = curves.groupby("run_id")["tokens"].transform("max")
    curves = curves[curves["tokens"] >= skip * last]
    lengths = curves.groupby("run_id").size()
    ids = np.array(lengths.index[lengths >= 2])
    if len(ids) < 3:
        raise FitError(
            f"envelope: {len(ids)} runs have two or more validation points; needs 3. Raise train.evals."
        )
    budgets = np.geomspace(curves["C"].min(), curves["C"].max(), GRID)
    first = curves.groupby("run_id").first().loc[ids]
    size, per_token = first["N"].to_numpy(float), (first["C"] / first["tokens"]).to_numpy(float)
    losses = _interpolate_all(curves, curves["loss"].to_numpy(float), ids, budgets)
    points = _winners(budgets, losses, size, per_token, ids)
    (a, g), (b, h) = _slopes(points)
    draws = _resample(budgets, losses, size, per_token, seed)
    N_span, D_span = (uncertainty.interval(draws.get(f"{x}_slope", np.empty(0)), level) for x in ("N", "D"))  # fmt: skip
    return Envelope(
        runs, points, curves, Exponent(a, float(N_span[0]), float(N_span[1]), float(np.exp(g))),
        Exponent(b, float(D_span[0]), float(D_span[1]), float(np.exp(h))), tuple(_warn(points)), level, draws,
        _estimate_bias(curves, ids, budgets, size, per_token),
    )  # fmt: skip


def _last_points(curves: pd.DataFrame) -> Runs:
    last = curves.loc[curves.groupby("run_id")["tokens"].idxmax()]
    columns = {"N": "params", "C": "flops"}
    return load(last[["run_id", "N", "tokens", "C", "loss"]].rename(columns=columns))


def _interpolate_all(
    curves: pd.DataFrame, loss: np.ndarray, ids: np.ndarray, budgets: np.ndarray
) -> np.ndarray:
    """Return the loss of each run at each budget, [runs, budgets]; infinite where it has no value."""
    table = curves.assign(loss=loss).sort_values("C")
    rows = []
    for name in ids:
        curve = table[table["run_id"] == name]
        value = np.interp(
            np.log(budgets), np.log(curve["C"]), np.log(curve["loss"]), left=np.inf, right=np.inf
        )
        rows.append(np.exp(value))
    return np.stack(rows)


def _winners(
    budgets: np.ndarray, losses: np.ndarray, size: np.ndarray, per_token: np.ndarray, ids: np.ndarray
) -> pd.DataFrame:  # fmt: skip
    best, keep, edge = _lowest(losses, size)
    return pd.DataFrame({
        "C": budgets[keep], "loss": losses.min(0)[keep], "N": size[best],
        "D": budgets[keep] / per_token[best], "run_id": ids[best], "edge": edge,
    })  # fmt: skip


def _lowest(losses: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the winning run of each budget that has one, which those are, and which an extreme size wins."""
    keep = np.isfinite(losses).any(0)
    best = losses[:, keep].argmin(0)
    return best, keep, (size[best] == size.min()) | (size[best] == size.max())


def _slopes(points: pd.DataFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """Slope and intercept of ln N and ln D along the frontier, without the budgets won by the extreme sizes."""
    inside = points[~points["edge"]]
    if inside["N"].nunique() < 2:
        sizes = ", ".join(format_quantity(n) for n in np.unique(points["N"]))
        raise FitError(
            f"envelope: only sizes {sizes} win anywhere, and the extreme ones do not count. Train at least two sizes between them."
        )
    log_c = np.log(inside["C"])
    (a, g), (b, h) = (np.polyfit(log_c, np.log(inside[name]), 1) for name in ("N", "D"))
    return (float(a), float(g)), (float(b), float(h))


def _resample(
    budgets: np.ndarray, losses: np.ndarray, size: np.ndarray, per_token: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Draw runs with replacement and read the frontier again; draws with too few winners are left out."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        pick = np.unique(rng.integers(len(size), size=len(size)))
        best, keep, edge = _lowest(losses[pick], size[pick])
        run, log_c = pick[best[~edge]], np.log(budgets[keep][~edge])
        if len(np.unique(size[run])) >= 3:
            both = np.stack([np.log(size[run]), log_c - np.log(per_token[run])], axis=1)
            found.append(np.polyfit(log_c, both, 1))  # [slope or intercept, N or D]
    if not found:
        return {}
    draws = np.array(found)
    return {
        f"{x}_{end}": draws[:, i, j]
        for j, x in enumerate(("N", "D"))
        for i, end in enumerate(("slope", "intercept"))
    }


def _estimate_bias(
    curves: pd.DataFrame, ids: np.ndarray, budgets: np.ndarray, size: np.ndarray, per_token: np.ndarray
) -> Bias | None:  # fmt: skip
    """Read the envelope of a fitted surface's exact curves at the same points, against its optimum."""
    surface = _surface(curves)
    if surface is None:
        return None
    exact = surface.law(surface.params, N=curves["N"].to_numpy(float), D=curves["tokens"].to_numpy(float))  # fmt: skip
    points = _winners(budgets, _interpolate_all(curves, exact, ids, budgets), size, per_token, ids)
    inside = points[~points["edge"]]
    if inside["N"].nunique() < 2:
        return None
    C = inside["C"].to_numpy()
    assert surface.law.optimum is not None
    best = surface.law.optimum(surface.params, C, surface.cost)[0]
    shift = np.log(inside["N"].to_numpy() / best)
    return make_bias(
        C, shift, np.ones(len(C)), surface.params["alpha"], surface.params["beta"], np.ones(len(C)),
        target=float(budgets.max()), power=surface.cost.power,
    )  # fmt: skip


def _surface(curves: pd.DataFrame) -> Fit | None:
    """Fit Chinchilla to points along the curves, which only has to have about their shape."""
    at = np.unique(np.linspace(0, len(curves) - 1, SURFACE_POINTS).round().astype(int))
    table = curves.iloc[at][["N", "tokens", "C", "loss"]]
    runs = load(table.rename(columns={"N": "params", "C": "flops"}).reset_index(drop=True))
    try:
        return fit(runs, "chinchilla", intervals="none", starts=2)
    except FitError:  # fewer points than parameters
        return None


def _warn(points: pd.DataFrame) -> list[str]:
    warnings = [warn("W-SCHED", "Curves before the learning rate decays lie too high, more so for short ones, which favours large sizes; compare with the IsoFLOP minima.")]  # fmt: skip
    winners = points.loc[~points["edge"], "N"].nunique()
    if winners < 4:
        warnings.append(warn("W-BUDGETS", f"Only {winners} sizes between the extreme ones win anywhere; the exponent rests on their steps. Train sizes closer together."))  # fmt: skip
    return warnings


def _bias_text(bias: Bias) -> str:
    return (
        f"Bias of these sizes and lengths without noise, curves taken as decayed: D* {100 * float(bias):+.2g} % "
        f"at {format_flops(bias.target)} FLOPs, a {bias.a:+.2g}."
    )
