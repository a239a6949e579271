"""How sure a fit is: draws of its parameters, from which every interval is read.

Each method returns theta_SP, S plausible parameter vectors; any quantity (E, a, N*, a loss far
away) gets its interval by computing it for each draw, so all intervals of a fit agree.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from scaling.analysis.problem import Problem
from scaling.analysis.solver import solve
from scaling.study.errors import FitError

METHODS = ("bootstrap", "delta", "none")
RESAMPLES = 400
FREE = 4.0


def draw(
    problem: Problem, theta: np.ndarray, *, method: str, resamples: int, seed: int
) -> np.ndarray:
    """Return theta_SP by the named method; no rows for `none`.

    Raises:
        FitError: unknown method, or too few resamples for an interval.
    """
    if method not in METHODS:
        raise FitError(f"intervals: {method!r} is none of {', '.join(METHODS)}.")
    if method == "none":
        return np.empty((0, len(theta)))
    if resamples < 20:
        raise FitError(
            f"resamples: {resamples} is too few for an interval; give at least 20, better {RESAMPLES}."
        )
    return (bootstrap if method == "bootstrap" else delta)(problem, theta, resamples, seed)


def bootstrap(problem: Problem, theta: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Refit on runs drawn with replacement; all resamples are solved together.

    A resample is a vector of weights (how often each run was drawn). Resamples with fewer distinct
    runs than the law has parameters, plus one, identify nothing and are drawn again.
    """
    rng, n = np.random.default_rng(seed), len(problem.loss)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    least = min(len(theta) + 1, n)
    for _ in range(100):
        poor = (weights > 0).sum(1) < least
        if not poor.any():
            break
        weights[poor] = rng.multinomial(n, np.full(n, 1 / n), size=int(poor.sum()))
    return solve(problem, np.tile(theta, (resamples, 1)), weights, tolerance=1e-8).theta


def delta(problem: Problem, theta: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draw from the Gaussian around the optimum whose covariance is that of the estimator.

    Covariance: residual variance times (J'J)^-1, for a robust objective times the variance of psi
    over its mean slope squared (Huber 1981, section 6.3).
    """
    rng = np.random.default_rng(seed)
    draws = rng.multivariate_normal(
        theta, covariance(problem, theta), size=resamples, method="eigh"
    )
    return np.clip(draws, problem.low, problem.high)


def covariance(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Return the covariance of theta by linearisation, [P, P]; parameters on a bound have none."""
    J = problem.jacobian(theta[None])[1][0]
    inside = (theta > problem.low) & (theta < problem.high)
    noise = dispersion(problem, theta)
    # The ridge bounds a parameter that the runs leave free at an SD of FREE (a factor e^4).
    normal = J.T @ J + np.diag(problem.prior(theta)[2] + noise / FREE**2)
    full = np.zeros((len(theta), len(theta)))
    full[np.ix_(inside, inside)] = noise * np.linalg.inv(normal[np.ix_(inside, inside)])
    return full


def dispersion(problem: Problem, theta: np.ndarray) -> float:
    """Return mean psi^2 / (mean slope of psi)^2 per degree of freedom: sigma^2 for least squares.

    The mean slope of a robust psi counts residuals inside the knee, too few of them when the knee
    is far below the noise; a knee of 1.345 robust SDs stands in for it then (Huber's 95 %).
    """
    r = problem.residuals(theta[None])[0]
    freedom = max(len(r) - len(theta), 1)
    if problem.objective.shape == "square":
        return float(r @ r / freedom)
    scale = 1.4826 * float(np.median(np.abs(r))) + 1e-300
    knee = (
        max(problem.objective.delta, 1.345 * scale)
        if problem.objective.shape == "huber"
        else 1.345 * scale
    )
    psi, inside = np.clip(r, -knee, knee), float((np.abs(r) <= knee).mean())
    return float(psi @ psi / freedom / inside**2)


def spread(problem: Problem, theta: np.ndarray) -> float:
    """Return the SD of one run around the fitted mean, in log loss, with degrees of freedom counted."""
    fitted = np.exp(np.log(problem.loss) + problem.residuals(theta[None])[0]) if problem.objective.log else (
        problem.loss + problem.residuals(theta[None])[0])  # fmt: skip
    r = np.log(fitted / problem.loss)
    return float(np.sqrt(r @ r / max(len(r) - len(theta), 1)))


def interval(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the central interval of draws along the first axis; NaN without draws."""
    if not len(draws):
        return np.full(draws.shape[1:], np.nan), np.full(draws.shape[1:], np.nan)
    lo, hi = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return lo, hi


def quantile(level: float, freedom: int) -> float:
    """Return half the width, in SDs, of a central interval when the SD has few degrees of freedom."""
    return float(stats.t.ppf((1 + level) / 2, max(freedom, 1)))


def widen(level: float, freedom: int) -> float:
    """Return Student's t over the normal quantile: the price of a residual SD from few runs."""
    tail = (1 + level) / 2
    return float(stats.t.ppf(tail, max(freedom, 1)) / stats.norm.ppf(tail))
