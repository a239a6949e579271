"""How much single runs scatter around a fit: what its residuals say."""

from __future__ import annotations

import numpy as np

from scaling.analysis.fits.problem import Problem

SD_OF_MAD = 1.4826  # of a Gaussian
WINDOW = 0.5  # half width, in SDs, over which the density of residuals at zero is taken
GAUSSIAN_SHARE = 0.3829  # of a Gaussian within WINDOW SDs
GAUSSIAN_DENSITY = 0.7979  # slope at zero of the share within +-h SDs
SHRINK = 30.0  # runs; a share from so many runs has an error of a quarter


def scatter(problem: Problem, theta: np.ndarray) -> tuple[float, float]:
    """Return mean psi^2 (per degree of freedom) and mean slope of psi at the optimum.

    The slope of a robust psi is the share of residuals inside its knee; with the knee far below
    the noise that is a handful, so the density of residuals near zero stands in for it.
    """
    r = problem.residuals(theta[None])[0]
    w = np.ones_like(r) if problem.weights is None else problem.weights
    psi = problem.objective.psi(r)
    square = float((w * psi * psi).sum() / max(len(r) - len(theta), 1))
    if problem.objective.shape == "square":
        return square, float(np.average(problem.objective.curvature(r, np.inf), weights=w))
    knee = problem.objective.delta if problem.objective.shape == "huber" else 0.0
    sd = robust_sd(r, len(theta))
    if not is_sharp(problem, theta):
        return square, float(np.average(problem.objective.curvature(r, knee), weights=w))
    # A sharp objective passes through about as many runs as it has parameters: those do not count.
    # With few runs the share is shrunk to a Gaussian's, as if SHRINK more runs had followed one.
    others = max(len(r) - len(theta), 1)
    inside = max(float((np.abs(r) <= WINDOW * sd).sum()) - len(theta), 0.0)
    share = (inside + SHRINK * GAUSSIAN_SHARE) / (others + SHRINK)
    near = share / GAUSSIAN_SHARE * GAUSSIAN_DENSITY / sd
    lean = 0.5 * (1.0 + problem.objective.over)  # half of the residuals near zero lie above
    return square, near * (knee if knee else 1.0) * lean


def is_sharp(problem: Problem, theta: np.ndarray) -> bool:
    """Return whether the objective is L1 in effect: its knee lies far below the residuals."""
    if problem.objective.shape == "square":
        return False
    knee = problem.objective.delta if problem.objective.shape == "huber" else 0.0
    return knee < WINDOW * robust_sd(problem.residuals(theta[None])[0], len(theta))


def robust_sd(r: np.ndarray, parameters: int) -> float:
    """Return the SD of residuals by their median size, without as many of the smallest as parameters.

    A robust fit makes about that many residuals vanish; counting them understates the noise.
    """
    size = np.sort(np.abs(r))[min(parameters, len(r) - 1) :]
    return SD_OF_MAD * float(np.median(size)) + 1e-300


def dispersion(problem: Problem, theta: np.ndarray) -> float:
    """Return the variance of psi over its squared mean slope: sigma^2 for least squares."""
    square, slope = scatter(problem, theta)
    return square / slope**2


def spread(problem: Problem, theta: np.ndarray) -> float:
    """Return the SD of one run around the fitted mean, in log loss, with degrees of freedom counted."""
    r = problem.residuals(theta[None])[0]
    if not problem.objective.log:
        r = np.log((problem.loss + r) / problem.loss)
    return float(np.sqrt(r @ r / max(len(r) - len(theta), 1)))
