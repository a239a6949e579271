"""Where to start a fit: many cheap guesses from the data, the best of them kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import nnls
from scipy.stats import qmc

from scaling.analysis.law import Param
from scaling.analysis.laws import get
from scaling.analysis.problem import Problem


def starts(problem: Problem, count: int, *, seed: int = 0) -> np.ndarray:
    """Return the `count` best of many starts: parameters that enter linearly are solved for.

    Draws the others from their start ranges (scrambled Sobol points, so any count covers them),
    solves the linear ones by non-negative least squares on relative errors, keeps the best.
    """
    lifted = _lifted_starts(problem, count, seed=seed)
    if lifted is not None:
        return lifted
    others = [p for p in problem.free if not p.linear]
    draws = 1 << max(
        8 if len(others) > 2 else 6, (4 * count - 1).bit_length()
    )  # Sobol likes powers of 2
    unit = qmc.Sobol(max(len(others), 1), seed=seed).random(draws) if others else np.zeros((1, 1))
    theta = np.array([_project(problem, others, row) for row in unit])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # hopeless draws sort last
        score = np.nan_to_num(np.square(problem.residuals(theta)).sum(-1), nan=np.inf)
    return theta[np.argsort(score)[:count]]


def _lifted_starts(problem: Problem, count: int, *, seed: int) -> np.ndarray | None:
    """Return starts that share the asymptotes of a simpler law's starts, at spread-out bends.

    The bend decides the basin, so the best start of each of `count` values is kept.
    """
    if problem.law.lift is None or problem.fixed:
        return None
    name, extra, lift = problem.law.lift
    param = next(p for p in problem.free if p.name == extra)
    simple = replace(problem, law=get(name), free=get(name).params)
    base = simple.centred(starts(simple, 24, seed=seed))
    kept = []
    for value in np.geomspace(*param.start, count):
        lifted = lift(base, np.full(24, value))
        theta = np.stack(
            [np.log(lifted[p.name]) if p.log else lifted[p.name] for p in problem.free], -1
        )
        theta = np.clip(theta, problem.low, problem.high)
        kept.append(theta[np.argmin(np.square(problem.residuals(theta)).sum(-1))])
    return np.array(kept)


def _project(problem: Problem, others: list[Param], unit: np.ndarray) -> np.ndarray:
    """Turn a point of the unit cube into theta, solving for the linear parameters."""
    theta = np.zeros(len(problem.free))
    linear = []
    for i, p in enumerate(problem.free):
        if p in others:
            lo, hi = (np.log(s) if p.log else s for s in p.start)
            theta[i] = lo + (hi - lo) * unit[others.index(p)]
        else:
            linear.append(i)
    if linear:
        columns = np.stack([_column(problem, theta, linear, i) for i in linear], -1)
        offset = _column(problem, theta, linear, None)
        target = (problem.loss - offset) / problem.loss
        solved, _ = nnls(columns / problem.loss[:, None], target)
        for i, value in zip(linear, solved, strict=True):
            p = problem.free[i]  # a zero coefficient starts small, not at minus infinity
            theta[i] = np.log(max(value, 1e-6)) if p.log else value
    return np.clip(theta, problem.low, problem.high)


def _column(problem: Problem, theta: np.ndarray, linear: list[int], on: int | None) -> np.ndarray:
    """Loss with one linear parameter at 1 and the others at 0 (`on=None`: all at 0)."""
    values = {k: np.asarray(v) for k, v in problem.centred(theta).items()}
    for i in linear:
        values[problem.free[i].name] = np.asarray(0.0)
    base = problem.law.loss(**problem.inputs, **values) + 0.0 * problem.loss
    if on is None:
        return base
    values[problem.free[on].name] = np.asarray(1.0)
    return problem.law.loss(**problem.inputs, **values) - base
