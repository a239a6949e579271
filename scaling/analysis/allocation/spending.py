"""What the optimum costs, and which size is best for a budget of hours, energy, money or CO2.

A run of N parameters and D tokens costs x = k N^p D: so many kWh a token, which the runs say. The
same optimiser that spends FLOPs then spends kWh: where p is not 1, since devices work better on
larger models, the best size for an energy is another than the best one for its FLOPs. Beyond the
largest run p is that of FLOPs: a device that is busy gets no better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scaling.analysis.allocation.cells import Column
from scaling.analysis.allocation.decided import Decision, as_surface, check_given, decide, span_of
from scaling.analysis.data.costs import total_costs
from scaling.analysis.data.runs import Runs
from scaling.analysis.law import Cost, Law
from scaling.analysis.optimum import best_allocation, evaluate, numeric_optimum
from scaling.study.cost import AXES, SECONDS_PER_HOUR, CostConfig, format_amount
from scaling.study.errors import FitError, did_you_mean
from scaling.study.units import format_quantity

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

SKIP = 0.1  # of each run's tokens at its start, where warm-up rules the loss; as in the envelope
SIZES = 3  # different sizes from which on a power of N is fitted
AHEAD = 30.0  # how far beyond the runs a frontier is drawn, as a factor
POINTS = 120


@dataclass(frozen=True)
class PaidCost(Cost):
    """x = factor N^power D up to a size `knee`; beyond it a token costs as N^beyond, without a jump."""

    knee: float = math.inf
    beyond: float = 1.0

    def per_token(self, N: Any) -> np.ndarray:
        """Return x / D at a size."""
        N = np.asarray(N, float)
        inside = self.factor * np.minimum(N, self.knee) ** self.power
        return inside * np.maximum(N / self.knee, 1.0) ** self.beyond

    def tokens(self, C: Any, N: Any) -> Any:
        return C / self.per_token(N)

    def flops(self, N: Any, D: Any) -> Any:
        return self.per_token(N) * D


@dataclass(frozen=True)
class Spending:
    """What a run costs on one axis: x = factor N^power D.

    Args:
        axis, column, unit: what is spent; cost: how it follows from N and D.
        power_se: standard error of the power; null: it was not fitted.
        scatter: standard deviation of ln x of the runs about it; null: no run was asked.
        largest: largest size [parameters] it was fitted to.
        how: one sentence on where it comes from.
    """

    axis: str
    column: str
    unit: str
    cost: Cost
    power_se: float | None = None
    scatter: float | None = None
    largest: float | None = None
    how: str = ""


def fit_spending(runs: Runs, axis: str, *, flops: Cost | None = None, speed: float | None = None) -> Spending:  # fmt: skip
    """Find what a token costs at each size, by least squares of ln(x / D) on ln N.

    Args:
        axis: flops, hours, energy, money or co2.
        flops: how FLOPs depend on N and D; 6ND by default.
        speed: FLOPs/s of one device, to reckon with in place of the runs' own speed.

    Raises:
        FitError: no such axis, or the runs do not say what they cost on it.
    """
    if axis not in AXES:
        raise FitError(f"x: {axis!r} is none of {', '.join(AXES)}.{did_you_mean(axis, AXES)}")
    column, unit = AXES[axis]
    flops = flops or Cost()
    if axis == "flops":
        return Spending(axis, "C", unit, flops)
    rates = (runs.cost or CostConfig()).over(_recorded(runs))
    unit = rates.unit if axis == "money" else unit
    if speed is not None:
        return _at_speed(axis, unit, rates, flops, speed)
    rows = runs.fit_rows
    rows = rows[rows[column].notna()] if column in rows else rows.iloc[:0]
    if rows.empty:
        raise FitError(_lacking(axis))
    x, y = np.log(rows["N"].to_numpy(float)), np.log((rows[column] / rows["D"]).to_numpy(float))
    if len(np.unique(x)) < SIZES:
        rest = y - flops.power * x
        cost, se = Cost(math.exp(rest.mean()), flops.power), None
        how = f"{unit} in proportion to FLOPs, from {len(rows)} runs of fewer than {SIZES} sizes"
    else:
        power, rest0 = np.polyfit(x, y, 1)
        rest = y - power * x
        se = float(np.sqrt(((rest - rest0) ** 2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum()))  # fmt: skip
        knee = float(rows["N"].max())
        cost = PaidCost(math.exp(rest0), float(power), knee=knee, beyond=flops.power)
        how = f"{unit} a token grows as N^{power:.2f} ± {se:.2f} in {len(rows)} runs"
    scatter = float(rest.std(ddof=1)) if len(rest) > 1 else 0.0
    how += f", which lie {100 * scatter:.0f} % about it" if len(rest) > 1 else ""
    return Spending(axis, column, unit, cost, se, scatter, float(rows["N"].max()), how)


def _at_speed(axis: str, unit: str, rates: CostConfig, flops: Cost, speed: float) -> Spending:
    """Return the cost at a stated speed: FLOPs over it are device-hours, and rates do the rest."""
    hour = 1.0 / (speed * SECONDS_PER_HOUR)
    kwh = rates.stated_kwh(1.0)
    per_hour = {"hours": 1.0, "energy": kwh, "money": rates.money(1.0), "co2": rates.co2_kg(kwh)}[axis]  # fmt: skip
    if per_hour is None:
        raise FitError(_lacking(axis))
    cost = Cost(flops.factor * hour * per_hour, flops.power)
    return Spending(axis, AXES[axis][0], unit, cost, how=f"at {speed:.3g} FLOPs/s of a device (cost.speed)")  # fmt: skip


def _recorded(runs: Runs) -> Mapping[str, Any] | None:
    """Return the rates that the last run was trained with."""
    if "cost" not in runs.fit_rows:
        return None
    return next((c for c in reversed(runs.fit_rows["cost"].to_list()) if isinstance(c, dict)), None)


def _lacking(axis: str) -> str:
    need = {
        "hours": "their time (column seconds, or device_hours)",
        "energy": "their energy, nor is a power stated: cost.watts=400 [W a device]",
        "money": "what they cost, nor is a price stated: cost.rate=2.5 [a device-hour]",
        "co2": "their emissions, nor is a factor stated: cost.carbon=0.4 [kg/kWh], and cost.watts where energy was not measured",
    }[axis]
    return f"x={axis}: the runs do not say {need}."


def known_axes(runs: Runs, *, speed: float | None = None) -> list[str]:
    """Return the axes on which the cost of an optimum can be told: FLOPs and hours come first."""
    found = []
    for axis in AXES:
        try:
            fit_spending(runs, axis, speed=speed)
        except FitError:
            continue
        found.append(axis)
    return found


def is_priced(runs: Runs, *, speed: float | None = None) -> bool:
    """Whether more than time is known of what runs cost."""
    return bool({"energy", "money", "co2"} & set(known_axes(runs, speed=speed)))


def optimum_costs(fit: Fit, C: float | Sequence[float], *, speed: float | None = None) -> Decision:
    """Say what the best run at each compute budget costs in hours, energy, money and CO2.

    Args:
        C: budgets [FLOPs], in the convention of the runs; speed: as in `fit_spending`.

    Returns:
        Columns C, N, D, and device_hours, energy_kwh, money, co2_kg as far as they are known. Intervals
        hold what the law does not know of N* and D*, not how speed changes beyond the runs.

    Raises:
        FitError: the law has no N and D to choose.
    """
    surface, budgets = as_surface(fit), check_given("C", C)
    axes = [fit_spending(fit.runs, a, flops=surface.cost, speed=speed) for a in known_axes(fit.runs, speed=speed)]  # fmt: skip
    axes = [s for s in axes if s.axis != "flops"]

    def answer(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        N, D = best_allocation(surface.law, params, budgets, surface.cost)
        return {"N": N, "D": D, **{s.column: s.cost.flops(N, D) for s in axes}}

    columns = (
        Column("C", "C [FLOPs]", "flops"), Column("N", "N*"), Column("D", "D* [tokens]"),
        *(Column(s.column, s.unit, "amount") for s in axes),
    )  # fmt: skip
    made = decide(surface, f"What the optimum costs, {surface.law.name}", {"C": budgets}, answer, columns)  # fmt: skip
    return replace(made, notes=_notes(fit, axes, made.frame))


def _notes(fit: Fit, axes: Sequence[Spending], frame: pd.DataFrame) -> tuple[str, ...]:
    rates = (fit.runs.cost or CostConfig()).over(_recorded(fit.runs)).describe()
    total = ", ".join(
        f"{format_amount(value)} {next((s.unit for s in axes if s.column == name), name)}"
        for name, value in total_costs(fit.runs.fit_rows).items()
    )
    notes = [f"Stated: {rates}." if rates else "", f"The fitted runs took {total}; steps of a trunk once." if total else ""]  # fmt: skip
    notes += [f"{s.how[0].upper()}{s.how[1:]}." for s in axes if s.how][:1]
    largest = next((s.largest for s in axes if s.largest), None)
    if largest and frame["N"].max() > 10 * largest:
        notes.append(
            f"Beyond {format_quantity(largest)} parameters a FLOP is taken to cost what it does there, on what the runs were trained on; "
            "for another device state cost.speed, its FLOPs/s."
        )
    return tuple(filter(None, notes))


def frontier_data(fit: Fit, axis: str, *, speed: float | None = None) -> dict[str, pd.DataFrame]:
    """Return what a frontier against an axis shows.

    Returns:
        runs: x, loss, N; envelope: x, loss of the lowest training curve at each x; law: x, N, D,
        loss, lo, hi, inside (within the runs), the lowest loss for x by the fitted law; by_flops: the
        same for the size that is best for its FLOPs, empty where that is no other.

    Raises:
        FitError: the runs do not say what they cost on this axis, or the law has no N and D.
    """
    spending = fit_spending(fit.runs, axis, flops=fit.cost, speed=speed)
    rows = fit.runs.fit_rows
    if spending.column in rows and speed is None:
        x = rows[spending.column].to_numpy(float)
    else:
        x = spending.cost.flops(rows["N"].to_numpy(float), rows["D"].to_numpy(float))
    runs = pd.DataFrame({"run_id": rows["run_id"].to_numpy(), "x": x, "loss": rows["L"].to_numpy(float), "N": rows["N"].to_numpy(float)})  # fmt: skip
    known = runs[runs["x"].notna()].reset_index(drop=True)
    return {"runs": known, "envelope": _envelope(fit.runs, known), "law": _law_line(fit, spending, known), "by_flops": _flops_line(fit, spending, known)}  # fmt: skip


def _envelope(runs: Runs, known: pd.DataFrame) -> pd.DataFrame:
    """Return the lowest loss that any training curve has reached for at most x."""
    curves = runs.curves()
    if curves.empty:
        return pd.DataFrame(columns=["x", "loss"])
    curves = curves.merge(known[["run_id", "x"]], on="run_id")
    share = curves["tokens"] / curves.groupby("run_id")["tokens"].transform("max")
    points = pd.DataFrame({"x": curves["x"] * share, "loss": curves["loss"]})
    points = points[share >= SKIP].dropna().sort_values("x", ignore_index=True)
    lowest = points["loss"].cummin()
    return points[points["loss"] == lowest].reset_index(drop=True)


def _best(law: Law, params: Mapping[str, np.ndarray], x: np.ndarray, cost: Cost) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return N and D of the lowest loss for x; no closed form knows of a knee."""
    find = numeric_optimum if isinstance(cost, PaidCost) else best_allocation
    return find(law, params, x, cost)


def _law_line(fit: Fit, spending: Spending, known: pd.DataFrame) -> pd.DataFrame:
    surface = as_surface(fit)
    ends = known["x"].min(), known["x"].max()
    x = np.unique([*np.geomspace(ends[0], ends[1] * AHEAD, POINTS), *ends])

    def lowest(params: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        N, D = _best(surface.law, params, x, spending.cost)
        return N, D, evaluate(surface.law, params, N=N, D=D, C=surface.cost.flops(N, D))

    N, D, loss = lowest(surface.point)
    table = {"x": x, "N": N, "D": D, "loss": loss}
    if surface.drawn:
        table["lo"], table["hi"] = span_of(lowest(surface.drawn)[2], surface.level)
    else:
        table["lo"] = table["hi"] = np.full(len(x), np.nan)
    return pd.DataFrame(table).assign(inside=(x >= ends[0]) & (x <= ends[1]))


def _flops_line(fit: Fit, spending: Spending, known: pd.DataFrame) -> pd.DataFrame:
    """Return what the sizes that are best for their FLOPs reach, by what they cost on this axis."""
    surface = as_surface(fit)
    if not isinstance(spending.cost, PaidCost):
        return pd.DataFrame(columns=["x", "N", "D", "loss", "inside"])
    C = np.geomspace(fit.runs.C.min() / AHEAD, fit.runs.C.max() * AHEAD, POINTS)
    N, D = best_allocation(surface.law, surface.point, C, surface.cost)
    loss = evaluate(surface.law, surface.point, N=N, D=D, C=C)
    x, (low, high) = spending.cost.flops(N, D), (known["x"].min(), known["x"].max())
    line = pd.DataFrame({"x": x, "N": N, "D": D, "loss": loss, "inside": (x >= low) & (x <= high)})
    return line[(x >= low) & (x <= high * AHEAD)].reset_index(drop=True)
