"""Compute-optimal sizes read from IsoFLOP curves: one parabola per budget (Approach 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis import uncertainty
from scaling.analysis.laws import Cost
from scaling.analysis.parabola import Parabola, Skipped, draw_vertices, fit_parabola
from scaling.analysis.prediction import fit_cost
from scaling.analysis.runs import Runs, as_runs
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity, format_with_interval

SAME_BUDGET = 0.05  # runs whose compute agrees within 5 % share a budget
RESAMPLES = 500


@dataclass(frozen=True)
class Exponent:
    """A fitted power law y = factor * C^value between optima, with its interval."""

    value: float
    lo: float
    hi: float
    factor: float

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        number, span = format_with_interval(self.value, self.lo, self.hi)
        return f"{number} {span}".strip()


@dataclass(frozen=True, eq=False)
class IsoFlops:
    """Minima of IsoFLOP curves and the exponents through them.

    Args:
        runs: what was fitted.
        budgets: one row per budget with a minimum: budget, C [FLOPs], N [parameters], D [tokens],
            loss [nats/token], each of N, D, loss with _lo and _hi, tokens_per_param, points.
        points: the runs by budget: budget, C, N, D, loss, run_id, used.
        parabolas: per budget coefficients of L = c0 + c1 x + c2 x^2 in x = ln N - center, and the
            range N_min to N_max of its points.
        a, b: exponents of N* and D* in C, None with fewer than two budgets.
        skipped: budgets left out, with the reason; warnings: what to keep in mind.
    """

    runs: Runs
    budgets: pd.DataFrame
    points: pd.DataFrame
    parabolas: pd.DataFrame
    a: Exponent | None
    b: Exponent | None
    draws: Mapping[str, np.ndarray] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    level: float = 0.9
    cost: Cost = field(default_factory=Cost)

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
        N_draws = np.exp(
            self.draws["intercept"][:, None] + self.draws["slope"][:, None] * np.log(budgets)
        )
        table = {"C": budgets}
        for name, value, draws in (
            ("N", N, N_draws), ("D", self.cost.tokens(budgets, N), self.cost.tokens(budgets, N_draws)),
            ("tokens_per_param", self.cost.tokens(budgets, N) / N, self.cost.tokens(budgets, N_draws) / N_draws),
        ):  # fmt: skip
            lo, hi = uncertainty.interval(draws, self.level)
            table |= {name: value, f"{name}_lo": lo, f"{name}_hi": hi}
        return pd.DataFrame(table)

    def curve(self, budget: int, N: Any) -> np.ndarray:
        """Return the parabola's loss of one budget at sizes N."""
        row = self.parabolas.set_index("budget").loc[budget]
        x = np.log(np.asarray(N, float)) - row["center"]
        return row["c0"] + row["c1"] * x + row["c2"] * x * x

    def summary(self) -> Table:
        """Return minima, exponents, and what was left out, as a table."""
        rows = []
        for row in self.budgets.itertuples():
            span = f"[{format_quantity(row.N_lo)}, {format_quantity(row.N_hi)}]"
            rows.append(
                [
                    format_flops(row.C),
                    format_quantity(row.N),
                    span,
                    format_quantity(row.D),
                    f"{row.tokens_per_param:.3g}",
                    f"{row.loss:.4f}",
                    str(row.points),
                ]
            )
        header = [
            "C [FLOPs]",
            "N*",
            f"{100 * self.level:g} % interval",
            "D* [tokens]",
            "tokens per parameter",
            "loss [nats/token]",
            "runs",
        ]
        note = [f"N* grows as C^a, a = {self.a}; D* as C^b, b = {self.b}."] if self.a else []
        note += [f"{self.runs.conventions}."]
        note += [
            f"Left out {format_flops(s.C)} ({s.points} runs): {s.reason}" for s in self.skipped
        ]
        note += [f"- {w}" for w in self.warnings]
        return Table(header, rows, title="IsoFLOP minima (parabola in ln N)", note="\n".join(note))

    def __repr__(self) -> str:
        return f"IsoFlops({len(self.budgets)} minima, a = {self.a}; {len(self.skipped)} budgets left out)"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def fit_isoflops(
    runs: Runs, *, min_points: int = 4, weighted: bool = True, level: float = 0.9, seed: int = 0
) -> IsoFlops:
    """Find the loss-optimal model size at each compute budget (Approach 2).

    Fits a parabola L(ln N) per budget, takes its vertex as N*, then regresses ln N* on ln C for
    the exponent a in N* ~ C^a. Intervals carry the scatter around the parabolas to all of it.

    Args:
        runs: finished runs; a budget is a group of equal `flops` within 5 %.
        min_points: smaller budgets are left out and listed in `.skipped`.
        weighted: minima count by how precisely they are known; False counts all alike.
        level: of the intervals; seed: of the draws behind them.

    Returns:
        One row per budget: C [FLOPs], N* [parameters], D* [tokens], loss [nats/token].

    Raises:
        FitError: no budget brackets a minimum.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.2. The vertex is biased on curves
    that are not symmetric in ln N even without noise; the exponent is not, if sizes are centred.
    """
    runs = as_runs(runs)
    if min_points < 3:
        raise FitError(
            f"min_points: a parabola needs 3 points, and 4 to see its scatter; got {min_points}."
        )
    points = _group(runs)
    curves: list[Parabola] = []
    skipped: list[Skipped] = []
    for _, group in points.groupby("budget"):
        curve = fit_parabola(group, min_points)
        if isinstance(curve, Skipped):
            skipped.append(curve)
        else:
            curves.append(curve)
    if not curves:
        reasons = "; ".join(f"{format_flops(s.C)}: {s.reason}" for s in skipped[:4])
        raise FitError(
            f"isoflops: no budget brackets a minimum ({reasons}). Train {min_points} or more sizes per budget, on both sides of the best."
        )
    cost = fit_cost(runs)
    vertices, depths = draw_vertices(curves, RESAMPLES, np.random.default_rng(seed))
    points["used"] = points["budget"].isin([c.budget for c in curves])
    budgets = pd.DataFrame(
        [_row(c, v, d, cost, level) for c, v, d in zip(curves, vertices, depths, strict=True)]
    )
    a, b, draws = _exponents(budgets, vertices, cost, level, weighted)
    return IsoFlops(
        runs, budgets, points, pd.DataFrame([_coefficients(c) for c in curves]), a, b, draws,
        tuple(skipped), tuple(_warn(curves, skipped, budgets)), level, cost,
    )  # fmt: skip


def _group(runs: Runs) -> pd.DataFrame:
    """Return the runs with a budget number: sorted by C, within 5 % of the smallest is one budget."""
    rows = (
        runs.fit_rows[["run_id", "N", "D", "C", "L"]]
        .rename(columns={"L": "loss"})
        .sort_values(["C", "N"], ignore_index=True)
    )
    budget, first, numbers = -1, -np.inf, []
    for value in np.log(rows["C"]):
        if value > first + np.log1p(SAME_BUDGET):
            budget, first = budget + 1, value
        numbers.append(budget)
    return rows.assign(budget=numbers)


def _coefficients(curve: Parabola) -> dict[str, Any]:
    row = {k: getattr(curve, k) for k in ("budget", "C", "c0", "c1", "c2", "center")}
    return row | dict(zip(("N_min", "N_max"), curve.range, strict=True))


def _row(
    curve: Parabola, vertices: np.ndarray, depths: np.ndarray, cost: Cost, level: float
) -> dict[str, Any]:
    N, C = float(np.exp(curve.log_vertex)), curve.C
    known = vertices[np.isfinite(vertices)], depths[np.isfinite(depths)]
    N_lo, N_hi = (float(np.exp(v)) for v in uncertainty.interval(known[0], level))
    loss_lo, loss_hi = map(float, uncertainty.interval(known[1], level))
    D = float(cost.tokens(C, N))
    return {
        "budget": curve.budget, "C": C, "N": N, "N_lo": N_lo, "N_hi": N_hi,
        "D": D, "D_lo": float(cost.tokens(C, N_hi)), "D_hi": float(cost.tokens(C, N_lo)),
        "tokens_per_param": D / N, "loss": curve.depth, "loss_lo": loss_lo, "loss_hi": loss_hi,
        "points": len(curve.x), "status": "best run at the edge" if curve.edge else "ok",
    }  # fmt: skip


def _exponents(
    budgets: pd.DataFrame, vertex_draws: np.ndarray, cost: Cost, level: float, weighted: bool
) -> tuple[Exponent | None, Exponent | None, dict[str, np.ndarray]]:
    """Regress ln N* on ln C; draws carry the uncertainty of the minima, not a bend of the line."""
    if len(budgets) < 2:
        return None, None, {}
    log_c, log_n = np.log(budgets["C"].to_numpy()), np.log(budgets["N"].to_numpy())
    drawn = np.where(np.isfinite(vertex_draws), vertex_draws, log_n[:, None])
    sd = np.subtract(*np.quantile(drawn, [0.75, 0.25], axis=1)) / 1.349
    # The median is added so that one budget that looks exact by luck cannot rule the line.
    weights = (
        1 / np.hypot(sd, np.median(sd)) if weighted and np.median(sd) > 0 else np.ones(len(sd))
    )
    slope, intercept = np.polyfit(log_c, log_n, 1, w=weights)
    slopes, intercepts = np.polyfit(log_c, drawn, 1, w=weights)
    lo, hi = uncertainty.interval(slopes, level)
    a = Exponent(float(slope), float(lo), float(hi), float(np.exp(intercept)))
    # D = C / (f N^e): its exponent is 1 - e a, its factor 1 / (f G^e)
    ends = sorted((1 - cost.power * float(hi), 1 - cost.power * float(lo)))
    b = Exponent(
        1 - cost.power * a.value, ends[0], ends[1], 1 / (cost.factor * a.factor**cost.power)
    )
    return a, b, {"slope": slopes, "intercept": intercepts}


def _warn(
    curves: Sequence[Parabola], skipped: Sequence[Skipped], budgets: pd.DataFrame
) -> list[str]:
    warnings = []
    if len(curves) < 3:
        warnings.append(
            f"{len(curves)} budget{'s' * (len(curves) > 1)} with a minimum: the exponent cannot be checked. Add budgets; 4 or more is good."
        )
    for c in curves:
        if c.edge:
            warnings.append(
                f"At {format_flops(c.C)} the best run is the smallest or largest size; the minimum rests on the parabola. Add sizes beyond it."
            )
    wide = budgets[budgets["N_hi"] / budgets["N_lo"] > 10]
    if len(wide):
        warnings.append(
            f"At {', '.join(map(format_flops, wide['C']))} the minimum is known to no better than 10x in N. Widen the sizes or repeat runs with other seeds."
        )
    if skipped:
        warnings.append(
            f"{len(skipped)} budget{'s' * (len(skipped) > 1)} left out; see `.skipped` for the reasons."
        )
    return warnings
