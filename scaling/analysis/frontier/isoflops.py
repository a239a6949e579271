"""Compute-optimal sizes read from IsoFLOP curves: one minimum per budget (Approach 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis.data.runs import Runs, as_runs
from scaling.analysis.fits import uncertainty
from scaling.analysis.fits.mixing import check_mixed
from scaling.analysis.fits.objectives import Objective
from scaling.analysis.fits.prediction import fit_cost
from scaling.analysis.frontier.bias import Bias
from scaling.analysis.frontier.curveverdicts import describe_bias, judge_curves
from scaling.analysis.frontier.exponents import Exponent, Line, fit_line
from scaling.analysis.frontier.lawcurve import fit_surface, law_finder, surface_bias
from scaling.analysis.frontier.minima import (
    FINDERS,
    Finder,
    Noise,
    draw_minima,
    estimate_noise,
    find_minima,
    group_budgets,
)
from scaling.analysis.frontier.parabola import Curve, Parabola, Skipped
from scaling.analysis.law import Cost, Law
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

__all__ = ["Exponent", "IsoFlops", "fit_isoflops"]

RESAMPLES = 500
METHODS = {
    "parabola": "parabola in ln N",
    "akima": "Akima spline of ln L over ln N",
    "law": "minima of a fitted law",
}
SHOWN = 4  # budgets left out that a summary names


@dataclass(frozen=True, eq=False)
class IsoFlops:
    """Minima of IsoFLOP curves and the exponents through them.

    Args:
        runs: what was fitted; method: parabola, akima or law.
        budgets: one row per budget with a minimum: budget, C [FLOPs], N [parameters], D [tokens],
            loss [nats/token], each of N, D, loss with _lo and _hi, tokens_per_param, points, weight.
        points: the runs by budget: budget, C, N, D, loss, run_id, used.
        curves: per budget what was fitted; `curve(budget, N)` reads it.
        a, b: exponents of N* and D* in C, None with fewer than two budgets.
        bias: error the method makes on these sizes without noise, if a Chinchilla surface fitted to
            the runs were the truth; `float(bias)` is the relative error of D* at the largest budget,
            `bias.D(C)` at any. None if no surface could be fitted.
        noise: SD of ln L of one run, given or estimated; NaN if unknown.
        excess: SD of ln N* between budgets beyond what that noise explains.
        skipped: budgets left out, with the reason; warnings: what to keep in mind.
    """

    runs: Runs
    budgets: pd.DataFrame
    points: pd.DataFrame
    curves: tuple[Curve, ...]
    a: Exponent | None
    b: Exponent | None
    draws: Mapping[str, np.ndarray] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    level: float = 0.9
    cost: Cost = field(default_factory=Cost)
    method: str = "parabola"
    bias: Bias | None = None
    noise: float = float("nan")
    excess: float = 0.0
    weighted: bool = True

    @property
    def parabolas(self) -> pd.DataFrame:
        """Per budget the range N_min to N_max of its runs, and for parabolas L = c0 + c1 x + c2 x^2 in x = ln N - center."""
        return pd.DataFrame([_coefficients(c) for c in self.curves])

    def optimal(self, C: Any) -> pd.DataFrame:
        """Return N* and D* at each budget [FLOPs] by the fitted power laws, with intervals.

        Raises:
            FitError: fewer than two budgets have a minimum, so there is no power law.
        """
        if self.a is None:
            raise FitError(
                "isoflops: one budget gives no power law in C. Train an IsoFLOP curve at a second budget."
            )
        budgets = np.atleast_1d(np.asarray(C, float))
        N = self.a.factor * budgets**self.a.value
        N_draws = self._drawn(budgets)
        table = {"C": budgets}
        for name, value, draws in (
            ("N", N, N_draws), ("D", self.cost.tokens(budgets, N), self.cost.tokens(budgets, N_draws)),
            ("tokens_per_param", self.cost.tokens(budgets, N) / N, self.cost.tokens(budgets, N_draws) / N_draws),
        ):  # fmt: skip
            lo, hi = uncertainty.interval(draws, self.level)
            table |= {name: value, f"{name}_lo": lo, f"{name}_hi": hi}
        return pd.DataFrame(table)

    def _drawn(self, budgets: np.ndarray) -> np.ndarray:
        """Return N* at each budget for each draw, [draws, budgets]."""
        if "slope" not in self.draws:
            return np.empty((0, len(budgets)))
        return np.exp(
            self.draws["intercept"][:, None] + self.draws["slope"][:, None] * np.log(budgets)
        )

    def curve(self, budget: int, N: Any) -> np.ndarray:
        """Return the loss of one budget's curve at sizes N."""
        return next(c for c in self.curves if c.budget == budget).at(np.asarray(N, float))

    def summary(self) -> Table:
        """Return minima, exponents, bias, and what was left out, as a table."""
        rows = []
        for row in self.budgets.itertuples():
            span = f"[{format_quantity(row.N_lo)}, {format_quantity(row.N_hi)}]"
            rows.append([
                format_flops(row.C), format_quantity(row.N), span, format_quantity(row.D),
                f"{row.tokens_per_param:.3g}", f"{row.loss:.4f}", str(row.points),
            ])  # fmt: skip
        header = [
            "C [FLOPs]", "N*", f"{100 * self.level:g} % interval", "D* [tokens]",
            "tokens per parameter", "loss [nats/token]", "runs",
        ]  # fmt: skip
        return Table(
            header, rows, title=f"IsoFLOP minima ({METHODS[self.method]})", note="\n".join(self._notes())
        )  # fmt: skip

    def _notes(self) -> list[str]:
        note = [f"N* grows as C^a, a = {self.a}; D* as C^b, b = {self.b}."] if self.a else []
        if np.isfinite(self.noise) and self.method != "law":
            note.append(f"One run scatters {100 * self.noise:.2g} % around a smooth curve.")
        if self.bias is not None:
            note.append(describe_bias(self.bias, self.method))
        note += [f"{self.runs.conventions}."]
        shown = self.skipped if len(self.skipped) <= SHOWN + 1 else self.skipped[:SHOWN]
        note += [f"Left out {format_flops(s.C)} ({s.points} runs): {s.reason}" for s in shown]
        if len(shown) < len(self.skipped):
            note.append(
                f"And {len(self.skipped) - len(shown)} more budgets, in `.skipped` in Python."
            )
        return note + [f"- {w}" for w in self.warnings]

    def __repr__(self) -> str:
        return f"IsoFlops({len(self.budgets)} minima by {self.method}, a = {self.a}; {len(self.skipped)} budgets left out)"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def fit_isoflops(
    runs: Runs, method: str = "parabola", *, min_points: int = 4, weighted: bool = True,
    nearest: int | None = None, noise: Noise = None, law: str | Law = "chinchilla",
    objective: str | Objective | None = None, level: float = 0.9, seed: int = 0,
) -> IsoFlops:  # fmt: skip
    """Find the loss-optimal model size at each compute budget (Approach 2).

    Finds N* per budget, then regresses ln N* on ln C for the exponent a in N* ~ C^a. Intervals
    carry the noise of the runs to all of it, and what the minima scatter beyond that.

    Args:
        runs: finished runs; a budget is a group of equal `flops` within 5 %.
        method: parabola (Hoffmann et al. 2022): least squares in ln N; smooth, but biased on curves
            that are not symmetric, see `.bias`. akima (Porian et al. 2024): a spline of ln L over
            ln N; assumes no shape, follows noise more. law: the minimum along each curve of a
            surface `law` fitted to all curves together; exact if the law holds.
        min_points: smaller budgets are left out and listed in `.skipped`.
        weighted: minima count by 1/SD^2 in the exponent, SD^2 being that of the noise plus what they
            scatter beyond it. Simulated, intervals of both kinds cover as they should and those of
            weighted minima are narrower, by 3 to 22 % for parabolas and 1 to 7 % for splines; on Llama 3's curves a is 0.4634
            against 0.4632 for False, which counts all alike, as papers do. Weights without that
            excess would give 0.486 there: one precise minimum would rule the line.
        nearest: how many runs around the lowest of each budget to use; None for all. Five make a
            parabola local where the sizes span decades, at the price of noise.
        noise: SD of ln L between seeds, a number or a function of the loss; estimated if None.
        law, objective: for method="law".
        level: of the intervals; seed: of the draws behind them.

    Returns:
        One row per budget: C [FLOPs], N* [parameters], D* [tokens], loss [nats/token].

    Raises:
        FitError: no budget brackets a minimum; an unknown method; unusable noise.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.2; Porian et al. 2024, arXiv:2406.19146.
    """
    runs = as_runs(runs)
    check_mixed(runs)
    _check(method, min_points, nearest)
    points = group_budgets(runs)
    rng = np.random.default_rng(seed)
    finder: Finder
    if method == "law":
        surface = fit_surface(runs, law, _on_curves(points, min_points), objective=objective, level=level, seed=seed)  # fmt: skip
        finder = law_finder(surface)
    else:
        finder = FINDERS[method]
    curves, skipped = find_minima(points, finder, min_points, nearest)
    if not curves:
        reasons = "; ".join(f"{format_flops(s.C)}: {s.reason}" for s in skipped[:4])
        raise FitError(
            f"isoflops: no budget brackets a minimum ({reasons}). Train {min_points} or more sizes per budget, on both sides of the best."
        )
    points["used"] = points["budget"].isin([c.budget for c in curves])
    if method == "law":
        drawn = [c.draw(np.empty((0, 0))) for c in curves]
        vertices, depths = (np.array(d) for d in zip(*drawn, strict=True))
        spread, freedom = estimate_noise(curves)
    else:
        vertices, depths, spread, freedom = draw_minima(curves, noise, RESAMPLES, rng)
    cost = fit_cost(runs)
    line = _line(curves, vertices, weighted, freedom, rng, scatter=method != "law")
    budgets = _table(curves, vertices, depths, line, cost, level)
    bias = None if method == "law" else _estimate_bias(runs, points, curves, method, line.weights)
    a, b = _exponents(line, cost, level) if len(curves) > 1 else (None, None)
    return IsoFlops(
        runs, budgets, points, tuple(curves), a, b, line.draws, tuple(skipped),
        tuple(judge_curves(curves, skipped, budgets, bias, line, method)), level, cost, method, bias, spread,
        line.excess, weighted,
    )  # fmt: skip


def _check(method: str, min_points: int, nearest: int | None) -> None:
    if method not in METHODS:
        raise FitError(f"method: {method!r} is none of {', '.join(METHODS)}.")
    if min_points < 3:
        raise FitError(
            f"min_points: a parabola needs 3 points, and 4 to see its scatter; got {min_points}."
        )
    if nearest is not None and nearest < min_points:
        raise FitError(
            f"nearest: {nearest} runs around the lowest are fewer than min_points={min_points}. Give 5 or more, or None for all."
        )


def _on_curves(points: pd.DataFrame, min_points: int) -> list[str]:
    """Return the runs of budgets with enough sizes."""
    sizes = points.groupby("budget")["N"].transform("nunique")
    return points.loc[sizes >= min_points, "run_id"].tolist()


def _line(
    curves: list[Curve], vertices: np.ndarray, weighted: bool, freedom: float,
    rng: np.random.Generator, *, scatter: bool,
) -> Line:  # fmt: skip
    """Return the power law through the minima; a single minimum has none, only its weight."""
    log_c = np.log([c.C for c in curves])
    log_n = np.array([c.log_vertex for c in curves])
    if len(curves) < 2:
        return Line(float("nan"), float("nan"), 0.0, np.ones(1))
    return fit_line(
        log_c, log_n, vertices, weighted=weighted, freedom=freedom, rng=rng, scatter=scatter
    )


def _exponents(line: Line, cost: Cost, level: float) -> tuple[Exponent, Exponent]:
    """Return a and b. D = C / (f N^e), so its exponent is 1 - e a and its factor 1 / (f G^e)."""
    a = line.exponent(level)
    b = Exponent(
        1 - cost.power * a.value, 1 - cost.power * a.hi, 1 - cost.power * a.lo,
        1 / (cost.factor * a.factor**cost.power),
    )  # fmt: skip
    return a, b


def _table(
    curves: list[Curve], vertices: np.ndarray, depths: np.ndarray, line: Line, cost: Cost, level: float
) -> pd.DataFrame:  # fmt: skip
    """Return one row per budget with intervals."""
    N_lo, N_hi = (np.exp(v) for v in uncertainty.interval(vertices.T, level))
    loss_lo, loss_hi = uncertainty.interval(depths.T, level)
    C, N = np.array([c.C for c in curves]), np.exp([c.log_vertex for c in curves])
    D = cost.tokens(C, N)
    return pd.DataFrame({
        "budget": [c.budget for c in curves], "C": C, "N": N, "N_lo": N_lo, "N_hi": N_hi,
        "D": D, "D_lo": cost.tokens(C, N_hi), "D_hi": cost.tokens(C, N_lo), "tokens_per_param": D / N,
        "loss": [c.depth for c in curves], "loss_lo": loss_lo, "loss_hi": loss_hi,
        "points": [len(c.x) for c in curves], "weight": line.weights,
        "status": ["best run at the edge" if c.edge else "ok" for c in curves],
    })  # fmt: skip


def _estimate_bias(
    runs: Runs, points: pd.DataFrame, curves: list[Curve], method: str, weights: np.ndarray
) -> Bias | None:
    """Return the bias under a Chinchilla surface through the same runs; None if it cannot be fitted."""
    used = points.loc[points["used"], "run_id"].tolist()
    try:
        surface = fit_surface(runs, "chinchilla", used, intervals="none", starts=2)
    except FitError:  # fewer runs than parameters
        return None
    return surface_bias(curves, surface, method, weights)


def _coefficients(curve: Curve) -> dict[str, float]:
    c = curve.c if isinstance(curve, Parabola) else np.full(3, np.nan)
    row = {"budget": curve.budget, "C": curve.C, "c0": c[0], "c1": c[1], "c2": c[2]}
    return row | {"center": curve.center, "N_min": curve.range[0], "N_max": curve.range[1]}
