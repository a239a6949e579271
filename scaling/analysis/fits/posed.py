"""A law posed on runs: inputs centred, parameters held, weights chosen, ready to be solved."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.objectives import Objective
from scaling.analysis.fits.problem import Problem
from scaling.analysis.fits.replicates import seed_noise
from scaling.analysis.law import Law, check_units
from scaling.study.errors import FitError, did_you_mean

# Below, intervals from clusters are too narrow. Cameron, Gelbach and Miller 2008 (Review of Economics
# and Statistics 90, 414) find tests far off with 5, better with 10; there is no sharp line.
FEW_CLUSTERS = 10


def law_inputs(law: Law, runs: Runs) -> dict[str, np.ndarray]:
    """Return the law's inputs [runs] from the runs' conventions and columns."""
    return {name: runs.column(law.columns.get(name, name)) for name in law.inputs}


def make_problem(
    runs: Runs,
    law: Law,
    objective: Objective,
    fixed: Mapping[str, float],
    prior_scale: float = 0.0,
    weights: np.ndarray | None = None,
) -> Problem:
    """Return the law on the runs with inputs centred at their geometric mean.

    Raises:
        FitError: unknown or unusable fixed parameter, or fewer runs than free parameters.
    """
    fixed = check_held(law, fixed)
    free = tuple(p for p in law.params if p.name not in fixed)
    if len(runs.fit_rows) < max(len(free), 1) or not free:
        raise FitError(
            f"fit: {len(runs)} runs cannot determine the {len(free)} free parameters of {law.name}. "
            f"Train at least {len(free) + 1} runs, hold some (fixed=...), or choose a smaller law."
        )
    data = law_inputs(law, runs)
    check_units(law)
    scaled = {name for p in law.params for name in p.unit_of}  # only these can be centred exactly
    center = {k: float(np.exp(np.log(v).mean())) if k in scaled else 1.0 for k, v in data.items()}
    inputs = {k: v / center[k] for k, v in data.items()}
    return Problem(
        law, inputs, runs.L, objective, center, free, dict(fixed), prior_scale, weights=weights
    )


def check_held(law: Law, fixed: Any) -> dict[str, float]:
    """Return the held parameters as numbers.

    Raises:
        FitError: not a mapping, not a parameter, or a value the parameter cannot have.
    """
    if not isinstance(fixed or {}, Mapping):
        raise FitError(f"fixed: needs {{parameter: value}}, e.g. {{'E': 1.7}}; got {fixed!r}.")
    params, held = {p.name: p for p in law.params}, {}
    for name, value in (fixed or {}).items():
        usable = isinstance(value, Real) and not isinstance(value, bool)
        number = float(value) if usable else np.nan
        if name not in params or not np.isfinite(number):
            raise FitError(
                f"fixed: {name}={value!r} cannot be held; {law.name} has {', '.join(law.names)}, held at a finite number.{did_you_mean(str(name), law.names)}"
            )
        # Bounds of a scale are those after centring, so only its sign is known here.
        p = params[name]
        low, high = (p.low, p.high) if not p.unit_of else (0.0 if p.log else -np.inf, np.inf)
        if not low <= number <= high or (p.log and number <= 0):
            raise FitError(
                f"fixed: {name}={value!r} cannot be held; {name} of {law.name} lies {'above 0' if p.log and low <= 0 else f'from {low:g}'}{f' up to {high:g}' if np.isfinite(high) else ''}."
            )
        held[name] = number
    return held


def run_weights(runs: Runs, weights: Any, *, log: bool = True) -> np.ndarray | None:
    """Return weights [runs] with mean 1: given ones, a column, or from repeated seeds ("seeds").

    Args:
        log: the residuals are of log losses; the noise of seeds is relative, so that of raw ones grows with L.

    Raises:
        FitError: wrong length, values that are not finite and above 0, or no repeated seeds.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        values = seed_noise(runs).weights(runs.L) if weights == "seeds" else runs.column(weights)
        if weights == "seeds" and not log:
            values = values / runs.L**2
    else:
        values = _as_numbers(weights)
    if values.shape != (len(runs),):
        raise FitError(
            f"weights: {values.shape} values for {len(runs)} runs in the fit. Give one per run, the name of a column, or 'seeds'."
        )
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise FitError(
            f"weights: must be finite and above 0; got {values[~(values > 0) | ~np.isfinite(values)][0]!r}. Leave such runs out with runs.where(...)."
        )
    return values / values.mean()


def _as_numbers(weights: Any) -> np.ndarray:
    try:
        return np.asarray(weights, float)
    except (TypeError, ValueError):
        raise FitError(
            f"weights: {type(weights).__name__} {weights!r:.60} is not a row of numbers. Give one per run, the name of a column, or 'seeds'."
        ) from None


def clusters(runs: Runs, method: str) -> np.ndarray | None:
    """Return labels [runs] of what a cluster bootstrap draws together: sizes, budgets or a column."""
    if method == "by_model":
        return np.round(np.log(runs.N), 6)
    if method == "by_budget":
        order = np.argsort(runs.C)
        steps = np.diff(np.log(runs.C[order]), prepend=np.log(runs.C.min())) > np.log(1.05)
        labels = np.empty(len(runs))
        labels[order] = np.cumsum(steps)
        return labels
    if not method.startswith("by:"):
        return None
    column = method[3:]
    if column not in runs.fit_rows:
        raise FitError(
            f"intervals: {method!r} names no column of the runs. Use by_model, by_budget or by:COLUMN."
        )
    values = runs.fit_rows[column]
    alone = runs.fit_rows["run_id"]  # a run without a value is a cluster of its own
    return values.map(str).where(values.notna(), alone).to_numpy(object)
