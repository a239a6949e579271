"""A prediction to be held to: several laws, weighted by how well they foresaw larger runs.

One law's interval is right when the law is. At small scale no law quite is: the additive law is
off by a few per cent of the reducible loss. So the forecast stacks laws, adds their disagreement,
and widens everything by how much the same procedure missed when it was tried on its own past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis import laws, solver, uncertainty
from scaling.analysis.fitting import make_problem
from scaling.analysis.laws import Law
from scaling.analysis.objectives import get_objective
from scaling.analysis.prediction import Prediction, extrapolation, fit_cost
from scaling.analysis.runs import Runs, as_runs
from scaling.analysis.starts import starts
from scaling.study.errors import FitError
from scaling.study.table import Table

LAWS = ("chinchilla", "chinchilla_k")
# The past counts as this many extra cuts with errors as claimed, so that one bad cut among few does
# not rule the width. With 2, nominal 90 % covered 85 to 100 % on eight simulated truths, 95 % overall.
PAST = 2.0


@dataclass(frozen=True, eq=False)
class Forecast(Prediction):
    """A prediction stacked over laws.

    Args (besides those of `Prediction`):
        laws: one row per law: law, weight, loss (at the first target), past_error (RMS relative
            error on runs beyond the rolling cuts).
        past: one row per rolling cut: C (largest fitted), runs (fitted), predicted (how many),
            error (RMS relative error of the stack), claimed (RMS SD it would have stated).
        stretch: factor by which the past errors widened the intervals; 1 is none.
    """

    laws: pd.DataFrame | None = None
    past: pd.DataFrame | None = None
    stretch: float = 1.0

    def table(self) -> Table:
        """Return the forecast as a table, with what it rests on."""
        base = super().table()
        assert self.laws is not None and self.past is not None
        parts = ", ".join(f"{r.law} {100 * r.weight:.0f} %" for r in self.laws.itertuples())
        note = f"Laws: {parts}. Tried on {len(self.past)} earlier cuts of the same runs; intervals stretched {self.stretch:.2g}x for it."
        return Table(base.header, base.rows, title="Forecast over laws", note=note)


def forecast(
    runs: Runs,
    *,
    N: Any,
    D: Any,
    candidates: Sequence[str | Law] = LAWS,
    level: float = 0.9,
) -> Forecast:
    """Forecast the loss of runs that do not exist yet, with an interval for each single run.

    1. Fit each law by least squares on log loss (priors on).
    2. Cut the runs at earlier budgets, fit below, predict above: weights of the laws are inverse
       to their mean squared error there.
    3. Variance = within laws + between laws + scatter of a run, times the squared stretch by which
       the stack missed on the cuts; quantiles of Student's t.

    Args:
        runs: finished runs; verify runs are never looked at.
        N, D: sizes [parameters] and tokens to forecast, numbers or arrays.
        candidates: laws to stack; level: of the intervals.

    Raises:
        FitError: too few runs for every law, or N or D not above 0.
    """
    runs = as_runs(runs)
    N, D = (
        np.asarray(x, float)
        for x in np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float))
    )
    if not (np.isfinite(N) & np.isfinite(D) & (N > 0) & (D > 0)).all():
        raise FitError(
            f"forecast: N and D must be finite and above 0; got N={N.tolist()}, D={D.tolist()}."
        )
    chosen = [laws.get(c) for c in candidates]
    chosen = [law for law in chosen if len(runs) >= len(law.params) + 2]
    if not chosen:
        raise FitError(
            f"forecast: {len(runs)} runs are too few for any of the laws. Train at least 7."
        )
    cuts = [
        _predict_all(runs.where(near), chosen, runs.N[~near], runs.D[~near])
        | {"loss": np.log(runs.L[~near])}
        for near in _cuts(runs, chosen)
    ]
    weight = _weigh(cuts, len(chosen))
    past = pd.DataFrame(
        [_settle(c, weight) for c in cuts], columns=["C", "runs", "predicted", "error", "claimed"]
    )
    stretch = _stretch(past)
    now = _predict_all(runs, chosen, N.ravel(), D.ravel())
    flat, sd, scatter = _stack(now, weight)
    mean, spread = flat.reshape(N.shape), sd.reshape(N.shape)
    t = uncertainty.quantile(level, len(runs) - min(len(law.params) for law in chosen)) * stretch
    half, single = t * spread, t * np.hypot(spread, scatter)
    C = fit_cost(runs).flops(N, D)
    table = pd.DataFrame({
        "law": [law.name for law in chosen], "weight": weight, "loss": np.exp(now["mean"][:, 0]),
        "past_error": [_rms(np.concatenate([c["mean"][i] - c["loss"] for c in cuts])) if cuts else np.nan for i in range(len(chosen))],
    })  # fmt: skip
    return Forecast(
        N=N, D=D, C=C, loss=np.exp(mean), lo=np.exp(mean - half), hi=np.exp(mean + half),
        next_lo=np.exp(mean - single), next_hi=np.exp(mean + single), level=level,
        extrapolation=extrapolation(runs, {"N": N, "D": D, "C": C}), law=" + ".join(table["law"]),
        laws=table, past=past, stretch=stretch,
    )  # fmt: skip


def _cuts(runs: Runs, chosen: Sequence[Law]) -> list[np.ndarray]:
    """Return masks of the runs below each earlier budget, where enough are left to fit on."""
    least = max(max(len(law.params) for law in chosen) + 3, int(np.ceil(0.4 * len(runs))))
    budgets = np.unique(np.round(np.log(runs.C), 1))  # within 10 % is one budget
    masks = [np.round(np.log(runs.C), 1) <= b for b in budgets[:-1]]
    masks = [m for m in masks if m.sum() >= least]
    return masks[-8:]  # a ladder of single runs has as many cuts as runs; the last eight are enough


def _predict_all(runs: Runs, chosen: Sequence[Law], N: np.ndarray, D: np.ndarray) -> dict[str, Any]:
    """Return each law's ln L [laws, points], its SD, and the scatter of a run [laws]."""
    parts = [_predict(runs, law, N, D) for law in chosen]
    mean, sd, scatter = (np.array(x) for x in zip(*parts, strict=True))
    return {"mean": mean, "sd": sd, "scatter": scatter, "C": float(runs.C.max()), "runs": len(runs)}


def _predict(
    runs: Runs, law: Law, N: np.ndarray, D: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit one law by log least squares; SDs of ln L by linearisation, g' cov g."""
    objective, weights = get_objective("mse_log"), np.ones(len(runs))
    problem = make_problem(runs, law, objective, {})
    ends = solver.solve(problem, starts(problem, 4), weights, tolerance=1e-10)
    theta = ends.theta[ends.value.argmin()]
    if any(p.prior for p in problem.free):
        problem = make_problem(
            runs, law, objective, {}, prior_scale=uncertainty.dispersion(problem, theta)
        )
        ends = solver.solve(problem, ends.theta, weights, tolerance=1e-10)
        theta = ends.theta[ends.value.argmin()]

    def log_loss(at: np.ndarray) -> np.ndarray:
        values = {k: np.asarray(v)[..., None] for k, v in problem.to_params(at).items()}
        return np.log(law(values, N=N, D=D))

    shifts = 1e-5 * np.eye(len(theta))
    slope = (log_loss(theta + shifts) - log_loss(theta - shifts)) / 2e-5  # [P, points]
    variance = np.einsum("pm,pq,qm->m", slope, uncertainty.covariance(problem, theta), slope)
    return log_loss(theta), np.sqrt(np.maximum(variance, 0.0)), uncertainty.spread(problem, theta)


def _weigh(cuts: Sequence[dict[str, Any]], count: int) -> np.ndarray:
    """Return weights inverse to the mean squared error beyond the cuts; equal without cuts."""
    if not cuts:
        return np.full(count, 1.0 / count)
    error = np.mean([np.mean((c["mean"] - c["loss"]) ** 2, axis=1) for c in cuts], axis=0)
    weight = 1.0 / (error + 1e-10)  # 1e-10: an error of 1e-5 is exact, two exact laws share
    return weight / weight.sum()


def _stack(parts: dict[str, Any], weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return ln L of the stack, its SD (within and between laws), and the scatter of a run."""
    mean = weight @ parts["mean"]
    variance = weight @ (parts["sd"] ** 2 + (parts["mean"] - mean) ** 2)
    return mean, np.sqrt(variance), float(weight @ parts["scatter"])


def _settle(cut: dict[str, Any], weight: np.ndarray) -> dict[str, float]:
    mean, sd, scatter = _stack(cut, weight)
    return {
        "C": cut["C"],
        "runs": cut["runs"],
        "predicted": len(mean),
        "error": _rms(mean - cut["loss"]),
        "claimed": _rms(np.hypot(sd, scatter)),
    }


def _stretch(past: pd.DataFrame) -> float:
    """Return how much wider the intervals must be; a lucky past never narrows them."""
    if past.empty:
        return 1.0
    ratio = (past["error"] / past["claimed"].clip(lower=1e-12)) ** 2
    return float(np.sqrt(max(1.0, (ratio.sum() + PAST) / (len(ratio) + PAST))))


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
