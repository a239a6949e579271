"""What a design will tell before it is trained: a plausible law sampled with noise and fitted again, many times.

Shapes: S simulated studies, n runs of the design, B budgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scaling.analysis.allocation.decided import Surface
from scaling.analysis.data.runs import Runs
from scaling.analysis.designs.truths import Noise, Truth, given_truth, plausible_truth
from scaling.analysis.fits import solver
from scaling.analysis.fits.objectives import HOFFMANN_KNEE, get_objective
from scaling.analysis.fits.posed import make_problem
from scaling.analysis.fits.prediction import fit_cost
from scaling.analysis.fits.refusals import check_signal
from scaling.analysis.fits.starts import starts
from scaling.analysis.frontier.exponents import LEAST, robust_sd
from scaling.analysis.frontier.minima import FINDERS, find_minima, group_budgets
from scaling.analysis.law import Cost, Law
from scaling.analysis.optimum import best_allocation, evaluate
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_flops

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

STUDIES = 200  # the 90 % quantile of so many draws has an error of about 8 %
SLOW_STUDIES = 80  # of laws without closed derivatives, which take five times as long
BLOCK = 100  # studies solved together: each costs a third of one of twenty, and a second is no wait
LEAST_SIZES = 4  # at a budget, as `fit_isoflops` asks
BEYOND = 10.0  # times the largest budget: where the optimum is asked for if nothing else is said
HUGE = 1e6  # a factor beyond which an estimate says nothing
LEVEL = 0.9


@dataclass(frozen=True, eq=False)
class Estimate:
    """What one way of fitting makes of the simulated studies.

    Args:
        how: the way, in words; truth: the quantities that were true; draws: their estimates, [S].
    """

    how: str
    truth: Mapping[str, float]
    draws: Mapping[str, np.ndarray]

    def within(self, name: str, *, level: float = LEVEL) -> float:
        """Return the distance from the truth that a share `level` of the studies stays within.

        The distance of `a` and `loss` is a difference; of anything else a factor, 1 at the truth.
        """
        with np.errstate(all="ignore"):
            if name in ("a", "loss"):
                away = np.abs(self.draws[name] - self.truth[name])
                return float(np.quantile(np.where(np.isfinite(away), away, HUGE), level))
            away = np.abs(np.log(self.draws[name] / self.truth[name]))
        return float(np.exp(np.quantile(np.where(np.isfinite(away), away, np.log(HUGE)), level)))


@dataclass(frozen=True, eq=False)
class DesignStudy:
    """What a design will tell, if its runs follow a law with noise.

    Args:
        truth: the law and noise that were simulated; runs: the design with its noise-free losses.
        sd: of ln L, [n]; target: compute that the optimum is asked for [FLOPs].
        estimates: by ways of fitting; warnings: what the design cannot tell.
    """

    truth: Truth
    runs: Runs
    sd: np.ndarray
    target: float
    estimates: tuple[Estimate, ...]
    cost: Cost
    studies: int = STUDIES
    level: float = LEVEL
    warnings: tuple[str, ...] = field(default=())

    def within(self, name: str) -> float:
        """Return how near the law's fit comes to the truth; see `Estimate.within`."""
        return self.estimates[0].within(name, level=self.level)

    def summary(self) -> Table:
        """Return the intervals to expect as a table, a row per way of fitting."""
        names = list(self.estimates[0].truth)
        header = ["fitted by", *(f"{n}, within" for n in names)]
        rows = [
            [
                e.how,
                *(f"{e.within(n, level=self.level):.3g}" if n in e.truth else "-" for n in names),
            ]
            for e in self.estimates
        ]
        return Table(
            header, rows, title="What the design will tell", note="\n".join(self.describe())
        )

    def describe(self) -> list[str]:
        """Say in a few lines what was simulated and what came out."""
        law, loss = self.truth.surface.law, self.runs.L
        order = np.argsort(loss)
        most, least = (f"{100 * self.sd[order[i]]:.2g} %" for i in (-1, 0))
        noise = most if most == least else f"{most} at the worst run to {least} at the best"
        return [
            f"Simulated {self.studies} times from {law.name} as in {self.truth.source}; one run scatters {noise}.",
            *(self._line(e, first=i == 0) for i, e in enumerate(self.estimates)),
        ]

    def _line(self, estimate: Estimate, *, first: bool) -> str:
        parts = []
        if "a" in estimate.truth:
            away = estimate.within("a", level=self.level)
            parts.append(f"a = {_beside(estimate.truth['a'], away)}")
        if "N" in estimate.truth:
            parts.append(f"N* at {format_flops(self.target)} FLOPs {_factor(estimate.within('N', level=self.level))}")  # fmt: skip
        if "R_D" in estimate.truth:
            parts.append(f"R_D = {estimate.truth['R_D']:g} {_factor(estimate.within('R_D', level=self.level))}")  # fmt: skip
        if "loss" in estimate.truth:
            where = (
                "loss there"
                if "N" in estimate.truth
                else f"loss at {format_flops(self.target)} FLOPs"
            )
            parts.append(f"{where} within {_digits(estimate.within('loss', level=self.level))} nats/token")  # fmt: skip
        tail = f" ({100 * self.level:g} % of studies)" if first else ""
        return f"{estimate.how}: {'; '.join(parts)}{tail}."

    def __repr__(self) -> str:
        return f"DesignStudy({len(self.runs)} runs; {'; '.join(self.describe()[1:])})"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def simulate_design(
    points: Mapping[str, Any] | pd.DataFrame | Runs,
    law: Fit | Surface | Truth | None = None,
    *,
    noise: float | Noise | None = None,
    target: float | tuple[float, float] | None = None,
    studies: int | None = None,
    level: float = LEVEL,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> DesignStudy:
    """Say how sure a design will be of its answers, before it is trained.

    Gives the runs losses by a law with noise, fits them as `fit` and (where budgets repeat)
    `fit_isoflops` do, many times, and measures how far the estimates lie from the truth.

    Args:
        points: N [parameters] and D [tokens] of the runs, of equal length; C [FLOPs] (6ND if not
            given) and unique_tokens where text is repeated; a table or finished runs.
        law: a fit or Surface that is taken to be true; None: the known law whose runs were nearest
            in size.
        noise: SD of ln L of one run, a number or a function of the loss; None: the law's own.
        target: compute [FLOPs] where N* and the loss are asked for, or the (N, D) of a run whose
            loss is; None: 10 times the largest budget.
        studies: how many are simulated (null: 200, or 80 of laws that are slow); level: share of them that stays within; seed: of the noise.
        on_progress: called with the number of studies done.

    Returns:
        How near to the truth a, N* and the loss at the target will come.

    Raises:
        FitError: fewer runs than the law has parameters, values not above 0, or no noise known.
    """
    table = _read_points(points)
    studies = studies or usual_studies(points)
    truth = plausible_truth(table["N"].to_numpy(), repeats=_repeats(table)) if law is None else given_truth(law, noise)  # fmt: skip
    truth = truth if noise is None else given_truth(truth, noise)
    runs = _noiseless(table, truth.surface)
    check_signal(runs, truth.surface.law, {})
    sd = np.broadcast_to(np.asarray(truth.noise(runs.L), float), runs.L.shape)
    moved_Sn = sd * np.random.default_rng(seed).standard_normal((studies, len(sd)))
    cost = fit_cost(runs)
    budget, place = _target(target, runs, cost)
    fitted = _fit_law(runs, truth.surface, moved_Sn, cost, budget, place, on_progress)
    minima = _fit_minima(runs, truth.surface, moved_Sn, cost, budget)
    estimates = (fitted,) if minima is None else (fitted, minima)
    return DesignStudy(truth, runs, sd, budget, estimates, cost, studies, level)


def usual_studies(points: Mapping[str, Any] | pd.DataFrame | Runs) -> int:
    """Return how many studies are simulated unless said otherwise."""
    return SLOW_STUDIES if _repeats(_read_points(points)) else STUDIES


def _repeats(table: pd.DataFrame) -> bool:
    """Whether some run sees its text more than once."""
    return bool((table["unique_tokens"] < 0.999 * table["tokens"]).any())


def _read_points(points: Mapping[str, Any] | pd.DataFrame | Runs) -> pd.DataFrame:
    """Return columns N, tokens, C and unique_tokens, each run once."""
    if isinstance(points, Runs):
        points = points.fit_rows
    columns = {
        k: np.asarray(points[k], float) for k in ("N", "D", "C", "unique_tokens") if k in points
    }
    if not {"N", "D"} <= set(columns) or len({v.shape for v in columns.values()}) != 1:
        raise FitError(
            f"simulate_design: needs N and D, a value per run each; got {', '.join(f'{k} {v.shape}' for k, v in columns.items()) or 'neither'}."
        )
    table = pd.DataFrame({"N": columns["N"], "tokens": columns["D"]})
    table["C"] = columns.get("C", 6.0 * table["N"] * table["tokens"])
    unique = pd.Series(columns.get("unique_tokens", np.full(len(table), np.inf)))
    table["unique_tokens"] = np.fmin(unique, table["tokens"])
    values = table.to_numpy()
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise FitError("simulate_design: N, D and C must be finite and above 0 in every run.")
    return table


def _noiseless(table: pd.DataFrame, surface: Surface) -> Runs:
    """Return the runs with the losses that the law gives them."""
    frame = pd.DataFrame({
        "run_id": [f"point-{i}" for i in range(len(table))], "status": "done", "role": "fit",
        "params_non_embedding": table["N"], "params_total": table["N"], "tokens": table["tokens"],
        "flops_counted": table["C"], "unique_tokens": table["unique_tokens"],
    })  # fmt: skip
    inputs = {"N": table["N"], "D": table["tokens"], "C": table["C"], "U": table["unique_tokens"]}
    loss = evaluate(surface.law, surface.point, **{k: v.to_numpy() for k, v in inputs.items()})
    if not (np.isfinite(loss).all() and (loss > 0).all()):
        raise FitError(
            f"simulate_design: {surface.law.name} gives losses that are not finite and above 0 at these sizes. Check its parameters."
        )
    return Runs(frame.assign(val_loss=loss), params="non_embedding", flops="counted")


def _target(
    target: float | tuple[float, float] | None, runs: Runs, cost: Cost
) -> tuple[float, tuple[float, float] | None]:
    """Return the compute asked about, and the run if it is one run."""
    if isinstance(target, tuple):
        return float(cost.flops(*target)), target
    return float(target or BEYOND * runs.C.max()), None


def _fit_law(
    runs: Runs, surface: Surface, moved_Sn: np.ndarray, cost: Cost, budget: float,
    place: tuple[float, float] | None, on_progress: Callable[[int], None] | None,
) -> Estimate:  # fmt: skip
    """Fit the law to every study and read what it says.

    Each is solved from the truth and from a start of its own, and the lower end counts: where a
    design leaves a valley or a second optimum, starts at the truth alone would stay near it.
    """
    law = surface.law
    objective = get_objective(law.objective, HOFFMANN_KNEE, 1.0)
    problem = make_problem(runs, law, objective, {})
    start = problem.to_theta(surface.params)
    ends = []
    for first in range(0, len(moved_Sn), BLOCK):
        loss = runs.L * np.exp(moved_Sn[first : first + BLOCK])
        again = replace(problem, loss=loss)
        own = np.array([starts(replace(problem, loss=row), 1, seed=0)[0] for row in loss])
        near, far = (
            solver.solve(again, x, tolerance=1e-8) for x in (np.tile(start, (len(loss), 1)), own)
        )
        ends.append(np.where((near.value <= far.value)[:, None], near.theta, far.theta))
        if on_progress is not None:
            on_progress(first + len(loss))
    draws = {k: np.broadcast_to(v, len(moved_Sn)) for k, v in problem.to_params(np.concatenate(ends)).items()}  # fmt: skip
    truth = {k: np.asarray(v, float) for k, v in surface.params.items()}
    true = _quantities(law, truth, cost, budget, place, runs)
    return Estimate(
        f"Fitted by {law.name}",
        {k: float(v) for k, v in true.items()},
        _quantities(law, draws, cost, budget, place or _best(law, truth, budget, cost), runs),
    )


def _quantities(
    law: Law, params: Mapping[str, np.ndarray], cost: Cost, budget: float,
    place: tuple[Any, Any] | None, runs: Runs,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return what is asked of a law: a, N* at the budget, the loss at a place, R_D."""
    found: dict[str, np.ndarray] = {}
    with np.errstate(all="ignore"):
        if (
            "U" in law.inputs
        ):  # what repeats are worth, and the longest training on the largest text
            unique = runs.column(law.columns["U"])
            last = int(np.argmax(runs.C))
            found["R_D"] = params["R_D"]
            found["loss"] = evaluate(law, params, N=runs.N[last], D=budget / runs.C[last] * runs.D[last], U=unique[last])  # fmt: skip
            return found
        if "a" in law.derived:
            found["a"] = np.asarray(law.derived["a"](params, cost), float)
        N, D = best_allocation(law, params, budget, cost)
        found["N"] = np.asarray(N, float)
        at = place or (N, D)
        found["loss"] = evaluate(law, params, N=at[0], D=at[1], C=budget)
    return found


def _best(law: Law, params: Mapping[str, Any], budget: float, cost: Cost) -> tuple[Any, Any] | None:
    return None if "U" in law.inputs else best_allocation(law, params, budget, cost)


def _fit_minima(
    runs: Runs, surface: Surface, moved_Sn: np.ndarray, cost: Cost, budget: float
) -> Estimate | None:
    """Read the minima of the curves as `fit_isoflops` would; None unless two budgets have one."""
    if "U" in surface.law.inputs:
        return None
    points = group_budgets(runs)
    curves, _ = find_minima(points, FINDERS["parabola"], LEAST_SIZES)
    if len(curves) < 2:
        return None
    column = {name: i for i, name in enumerate(runs.fit_rows["run_id"])}
    drawn, seen = [], []
    for curve in curves:
        own = points[points["budget"] == curve.budget].sort_values("N", kind="stable")
        vertex = curve.draw(moved_Sn[:, [column[r] for r in own["run_id"]]].T)[0]
        low, high = np.log(curve.range)
        drawn.append(vertex)
        seen.append((low < vertex) & (vertex < high))  # another minimum is left out of the line
    slope, intercept = _lines(np.log([c.C for c in curves]), np.array(drawn), np.array(seen))
    N = best_allocation(surface.law, surface.point, budget, cost)[0]
    truth = {"N": float(N)}
    draws = {"N": np.exp(intercept + slope * np.log(budget))}
    if "a" in surface.law.derived:
        truth = {"a": float(surface.law.derived["a"](surface.params, cost)), **truth}
        draws["a"] = slope
    return Estimate(f"By the minima of {len(curves)} IsoFLOP curves", truth, draws)


def _lines(x: np.ndarray, y_BS: np.ndarray, seen_BS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and intercept [S] of the weighted line through the minima that each study saw."""
    sd = robust_sd(y_BS)
    weights = 1.0 / np.maximum(sd, LEAST * np.median(sd)) ** 2
    w = weights[:, None] * seen_BS
    total = np.where(seen_BS.sum(0) >= 2, w.sum(0), np.nan)  # one minimum gives no line
    with np.errstate(all="ignore"):
        middle, height = (w * x[:, None]).sum(0) / total, (w * y_BS).sum(0) / total
        away = x[:, None] - middle
        slope = (w * away * (y_BS - height)).sum(0) / (w * away**2).sum(0)
    return slope, height - slope * middle


def _beside(value: float, away: float) -> str:
    """Write a value and its width with the decimals of the width's first digit, two at least."""
    if away >= 1:
        return f"{value:.2f} ± {_digits(away)}"
    decimals = max(2, -math.floor(math.log10(away))) if away > 0 else 4
    return f"{value:.{decimals}f} ± {away:.{decimals}f}"


def _digits(value: float) -> str:
    return "anything" if value > 10 else f"{value:.1g}" if value < 0.095 else f"{value:.2g}"


def _factor(value: float) -> str:
    digits = 2 if value >= 1.15 else 3  # 1.04 says more than 1
    return "is not determined" if value > 100 else f"within a factor {value:.{digits}g}"
