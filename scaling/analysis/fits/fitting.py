"""Fit a law to runs: `fit` finds the optimum, certifies it, and says how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis import laws
from scaling.analysis.data.runs import Runs, as_runs
from scaling.analysis.fits import solver, uncertainty, verdicts
from scaling.analysis.fits.certificate import Certificate, certify
from scaling.analysis.fits.fitted import Fit
from scaling.analysis.fits.mixing import check_mixed
from scaling.analysis.fits.noise import SD_OF_MAD, scatter, spread
from scaling.analysis.fits.objectives import EFFICIENT_KNEE, HOFFMANN_KNEE, Objective, get_objective
from scaling.analysis.fits.posed import check_held, clusters, make_problem, run_weights
from scaling.analysis.fits.problem import Problem
from scaling.analysis.fits.refusals import check_signal
from scaling.analysis.fits.starts import starts as find_starts
from scaling.analysis.law import Law
from scaling.study.errors import FitError

__all__ = ["Certificate", "Fit", "certify", "fit", "make_problem"]

NARROW = 1e12  # condition of J'J at which Newton steps lose half of their digits
EXACT = 1e-12  # residuals below it are rounding
STARTS = 8  # one is enough on the public tables tried; eight can show a second basin


def fit(
    runs: Runs | pd.DataFrame | str | Path,
    law: str | Law = "chinchilla",
    *,
    objective: str | Objective | None = None,
    delta: float | str = HOFFMANN_KNEE,
    over: float = 1.0,
    weights: Any = None,
    intervals: str = "auto",
    resamples: int = uncertainty.RESAMPLES,
    level: float = 0.9,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    priors: bool = False,
    starts: int = STARTS,
) -> Fit:
    """Fit a scaling law to finished runs.

    Args:
        runs: the runs, in the conventions chosen by `runs.using`; a path or DataFrame is loaded.
        law: name of a registered law, or a Law.
        objective: huber_log (Hoffmann et al. 2022), mse_log, l1_log, huber, mse, l1 or asymmetric;
            the law's own unless given.
        delta: knee of huber; a number, "noise" (1.345 robust SDs of the residuals), or "free" (a
            Huber likelihood with a scale of its own, refused where that collapses).
        over: weight of over-estimates against under-estimates.
        weights: one per run, a column, or "seeds": 1/SD^2 from runs repeated with other seeds.
        intervals: auto (profile, or bayesian under a sharp objective), profile (likelihood; follows
            curved valleys), bootstrap or bayesian (over runs), by_model, by_budget or by:COLUMN
            (over groups of runs), residual, wild, parametric, delta (instant) or none.
        level: of the intervals; resamples, seed: of the bootstraps.
        fixed: parameters to hold, e.g. {"E": 0.9} where the source's entropy is known.
        priors: use the priors the law states (chinchilla_k has one on k).
        starts: how many starts are solved to the end.

    Returns:
        The optimum with certificate, intervals and warnings. Trouble is a warning, not an exception.

    Raises:
        FitError: fewer runs than free parameters, unusable values, unknown names; runs of different
            text or code, unless `runs.using(mixed=...)` allows it.
    """
    runs, law = as_runs(runs), laws.get(law)
    _check_options(level, starts, seed)
    uncertainty.check_method(intervals, resamples)
    held = check_held(law, fixed)
    check_mixed(runs, law)
    check_signal(runs, law, held)
    chosen = get_objective(objective or law.objective, _number(delta), over)
    weighted = run_weights(runs, weights, log=chosen.log)
    problem = make_problem(runs, law, chosen, held, weights=weighted)
    ends = solver.solve(problem, find_starts(problem, starts, seed=seed))
    if isinstance(delta, str):
        problem, ends = _tie_knee(problem, ends, delta)
    if priors and any(p.prior for p in problem.free):  # a prior is weighed against the noise
        best = ends.theta[ends.value.argmin()]
        square, slope = scatter(problem, best)  # the objective is about square/slope of -log L
        problem = replace(problem, prior_scale=square / slope)
        ends = solver.solve(problem, ends.theta)
    theta = ends.theta[ends.value.argmin()]
    if problem.objective.shape == "l1":
        theta = solver.polish_l1(problem, theta)
    elif certify(problem, theta, ends).condition > NARROW and not problem.prior_scale:
        with np.errstate(all="ignore"):
            theta = solver.polish_narrow(problem, theta)
    intervals = uncertainty.choose(problem, theta, intervals)
    draws = uncertainty.draw(
        problem, theta, method=intervals, resamples=resamples, seed=seed,
        clusters=clusters(runs, intervals),
    )  # fmt: skip
    fitted = Fit(
        law=law, runs=runs, objective=problem.objective, fixed=held, intervals=intervals, level=level,
        seed=seed, weights=weighted, prior_scale=problem.prior_scale,
        params={k: float(v) for k, v in problem.to_params(theta).items()},
        draws={k: np.broadcast_to(v, len(draws)) for k, v in problem.to_params(draws).items()},
        value=float(problem.value(theta[None])[0]),
        certificate=certify(problem, theta, ends), spread=spread(problem, theta),
    )  # fmt: skip
    object.__setattr__(fitted, "warnings", tuple(verdicts.judge(fitted)))
    return fitted


def _check_options(level: float, starts: int, seed: int) -> None:
    uncertainty.check_level(level)
    if not (isinstance(starts, Integral) and starts >= 1):
        raise FitError(f"starts: needs a whole number, at least 1; got {starts!r}.")
    if not (isinstance(seed, Integral) and seed >= 0):
        raise FitError(f"seed: needs a whole number, 0 or above; got {seed!r}.")


def _number(delta: float | str) -> float:
    if not isinstance(delta, str):
        return delta
    if delta not in ("noise", "free"):
        raise FitError(f"delta: {delta!r} is neither a number nor 'noise' or 'free'.")
    return HOFFMANN_KNEE


def _tie_knee(problem: Problem, ends: solver.Solution, how: str) -> tuple[Problem, solver.Solution]:
    """Move Huber's knee with the noise, by a robust SD ("noise") or by likelihood ("free").

    Raises:
        FitError: the free scale collapses: its knee is so far below the residuals that the
            objective is L1 under another name, as in Besiroglu et al. 2024's headline fit.
    """
    if problem.objective.shape != "huber":
        raise FitError(
            f"delta: {how!r} moves a knee, and {problem.objective.name} has none. Use huber_log or huber."
        )
    for _ in range(5):  # the scale settles within two or three rounds
        r = np.abs(problem.residuals(ends.theta[ends.value.argmin()][None])[0])
        if how == "free" and not r.max() > EXACT:
            raise FitError(
                f"W-SCALE: the free scale collapsed: the law meets every run to {r.max():.1e}, so there is no noise to take a scale from. Give delta as a number."
            )
        sd = SD_OF_MAD * float(np.median(r)) + 1e-300
        knee = EFFICIENT_KNEE * sd if how == "noise" else _free_knee(r)
        if how == "free" and knee < 1e-2 * sd:
            raise FitError(
                f"W-SCALE: the free scale collapsed: its knee {knee:.1e} is {knee / sd:.1e} of the residuals' SD {sd:.1e}, "
                "so this would be the l1_log objective under Huber's name. Use objective='l1_log', or delta='noise'."
            )
        if abs(knee / problem.objective.delta - 1) < 1e-6:
            break
        problem = replace(problem, objective=replace(problem.objective, delta=knee))
        ends = solver.solve(problem, ends.theta)
    return problem, ends


def _free_knee(r: np.ndarray) -> float:
    """Return the knee 1e-3 s at the scale s of greatest Huber likelihood: n = sum psi(r/s) r/s."""
    s = float(np.sqrt(np.mean(r * r))) + 1e-300
    for _ in range(100):
        z = r / s
        share = float(np.mean(np.minimum(z, HOFFMANN_KNEE) * z))
        s *= share if share < 0.5 else np.sqrt(share)
        if abs(share - 1) < 1e-9:
            break
    return HOFFMANN_KNEE * s
