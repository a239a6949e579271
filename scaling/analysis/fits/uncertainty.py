"""How sure a fit is: draws of its parameters, from which intervals are read.

Each method returns theta_SP, S plausible parameter vectors; any quantity (E, a, N*, a loss far
away) gets its interval by computing it for each draw, so all intervals of a fit agree. Profile
likelihood does not need draws (see `likelihood`); a bootstrap over runs stands beside it, for what is
computed from many draws at once, such as decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
from scipy import stats

from scaling.analysis.fits.noise import dispersion, is_sharp, scatter, spread
from scaling.analysis.fits.problem import Problem
from scaling.analysis.fits.solver import solve
from scaling.study.errors import FitError, did_you_mean

__all__ = ["METHODS", "RESAMPLES", "covariance", "dispersion", "draw", "interval", "quantile", "spread", "widen"]  # fmt: skip

METHODS = {
    "auto": "chosen by the objective",
    "profile": "profile likelihood",
    "bootstrap": "bootstrap over runs",
    "bayesian": "Bayesian bootstrap over runs",
    "by_model": "bootstrap over model sizes",
    "by_budget": "bootstrap over budgets",
    "residual": "bootstrap of residuals",
    "wild": "bootstrap of residuals with random signs",
    "parametric": "parametric bootstrap",
    "delta": "delta method",
    "none": "none",
}
RESAMPLES = 1000
MANY = 20_000  # runs beyond which the likelihood is Gaussian and its profile takes minutes
GAUSSIAN = 4000  # draws of the delta method; they cost nothing
FREE = 4.0
BLOCK = 4_000_000  # weights drawn at once, 32 MB; below 4,000 runs the usual 1,000 resamples are one block


def check_method(method: str, resamples: int) -> None:
    """Raise FitError for an unknown method or too few resamples."""
    if not isinstance(method, str) or (method not in METHODS and not method.startswith("by:")):
        raise FitError(
            f"intervals: {method!r} is none of {', '.join(METHODS)}, by:COLUMN.{did_you_mean(str(method), METHODS)}"
        )
    if method != "none" and not (isinstance(resamples, Integral) and resamples >= 20):
        raise FitError(
            f"resamples: {resamples!r} is not a whole number or too few for an interval; give at least 20, better {RESAMPLES}."
        )


def check_level(level: float) -> None:
    """Raise FitError for a level that is no probability."""
    if not (isinstance(level, Real) and 0 < level < 1):
        raise FitError(
            f"level: must lie between 0 and 1; got {level!r}. Use 0.9 for 90 % intervals."
        )


def choose(problem: Problem, theta: np.ndarray, method: str) -> str:
    """Return the method that `auto` stands for: what covered best in simulated studies.

    A smooth objective takes the profile; one that is L1 in effect has a jagged likelihood with few
    runs and no local measure of unequal noise, and takes the Bayesian bootstrap, whose resamples
    never lack a run (benchmarks/coverage.py).
    """
    if method != "auto":
        return method
    if is_sharp(problem, theta):
        return "bayesian"
    return "profile" if problem.loss.shape[-1] <= MANY else "delta"


def draw(
    problem: Problem, theta: np.ndarray, *, method: str, resamples: int, seed: int,
    clusters: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return theta_SP by the named method; no rows for `none`.

    Args:
        clusters: [n] labels of the runs that are drawn together, for the methods that begin with by.

    Raises:
        FitError: unknown method, too few resamples, or too few clusters.
    """
    check_method(method, resamples)
    rng = np.random.default_rng(seed)
    if method == "none":
        return np.empty((0, len(theta)))
    too_few = problem.loss.shape[-1] < len(theta) + 2  # no resample of them could say more
    if method == "delta" or (method == "profile" and too_few):
        return gaussian(problem, theta, GAUSSIAN, rng)
    if method in ("residual", "wild", "parametric"):
        return renoise(problem, theta, method, resamples, rng)
    if method == "bayesian":
        n = problem.loss.shape[-1]
        ends = [
            refit(draw_priors(problem, k, rng), theta, n * rng.dirichlet(np.ones(n), k))
            for k in blocks(resamples, n)
        ]
        return np.concatenate(ends)
    return bootstrap(problem, theta, resamples, rng, clusters)


def bootstrap(
    problem: Problem, theta: np.ndarray, resamples: int, rng: np.random.Generator,
    clusters: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Refit on runs, or clusters of runs, drawn with replacement; all are solved together.

    A resample is a vector of weights (how often each run was drawn). Resamples with fewer distinct
    runs than the law has parameters, plus one, identify nothing and are drawn again.
    """
    n = problem.loss.shape[-1]
    _, label = np.unique(np.arange(n) if clusters is None else clusters, return_inverse=True)
    count = int(label.max()) + 1
    if count < 3:
        raise FitError(
            f"intervals: {count} clusters cannot be resampled; needs 3 or more, better 10. Train other sizes or seeds; "
            "bootstrap and profile take all runs as independent, which is too narrow if clusters share their luck."
        )

    def resample(how_many: int) -> np.ndarray:
        return rng.multinomial(count, np.full(count, 1 / count), size=how_many)[:, label]

    ends, least = [], min(len(theta) + 1, n)
    for k in blocks(resamples, n):
        weights = resample(k)
        for _ in range(100):
            poor = (weights > 0).sum(1) < least
            if not poor.any():
                break
            weights[poor] = resample(int(poor.sum()))
        ends.append(refit(draw_priors(problem, k, rng), theta, weights))
    return np.concatenate(ends)


def blocks(resamples: int, n: int) -> list[int]:
    """Return how many resamples of n runs are drawn and solved at a time, so that memory stays flat."""
    rows = max(BLOCK // n, 1)
    return [min(rows, resamples - i) for i in range(0, resamples, rows)]


def refit(problem: Problem, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the optima theta_SP for S vectors of weights [S, n], times the problem's own weights."""
    base = 1.0 if problem.weights is None else problem.weights
    many = np.tile(theta, (len(weights), 1))
    return solve(problem, many, weights * base, tolerance=1e-8).theta


@dataclass(frozen=True, eq=False)
class DrawnPriors:
    """A penalty that moves the middle of each prior to a draw from it.

    A prior is one more observation. Resamples that all kept its middle would know a parameter that
    only the prior tells as if it had been measured without error.

    Args:
        weight, middle: of the priors in the objective, [P]; shift: of the middles, [S, P].
    """

    weight: np.ndarray
    middle: np.ndarray
    shift: np.ndarray

    def __call__(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return value [S], gradient [S, P] and curvature of w/2 ((x - shift)^2 - x^2), x from the middle."""
        pull = self.weight * self.shift
        value = (pull * (0.5 * self.shift - (theta - self.middle))).sum(-1)
        return value, -pull, np.zeros((*theta.shape, theta.shape[-1]))

    def take(self, rows: np.ndarray | slice) -> DrawnPriors:
        """Return those of some of the resamples."""
        return replace(self, shift=self.shift[rows])


def draw_priors(problem: Problem, resamples: int, rng: np.random.Generator) -> Problem:
    """Return the problem with its priors drawn anew for each resample; as it is without priors."""
    if not problem.prior_scale:
        return problem
    middle, sd = np.array([p.prior or (0.0, 0.0) for p in problem.free]).T
    shift = sd * rng.standard_normal((resamples, len(sd)))
    return replace(problem, penalty=DrawnPriors(problem.prior(middle[None])[2], middle, shift))


def renoise(
    problem: Problem, theta: np.ndarray, method: str, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Refit losses made anew around the fit: with its residuals, their signs, or Gaussian noise."""
    fitted, r = problem.fitted(theta[None])[0], -problem.residuals(theta[None])[0]
    n, w = len(r), 1.0 if problem.weights is None else np.sqrt(problem.weights)
    r = r * w * np.sqrt(n / max(n - len(theta), 1))
    ends = []
    for k in blocks(resamples, n):
        if method == "residual":
            noise = rng.choice(r - r.mean(), (k, n))
        elif method == "wild":
            noise = r * rng.choice([-1.0, 1.0], (k, n))
        else:
            noise = rng.normal(0.0, np.sqrt(np.mean(r * r)), (k, n))
        noise = noise / w
        loss = fitted * np.exp(noise) if problem.objective.log else fitted + noise
        again = draw_priors(replace(problem, loss=np.maximum(loss, 1e-3 * fitted)), k, rng)
        ends.append(solve(again, np.tile(theta, (k, 1)), tolerance=1e-8).theta)
    return np.concatenate(ends)


def gaussian(
    problem: Problem, theta: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw from Student's t around the optimum with the covariance of the estimator."""
    freedom = max(problem.loss.shape[-1] - len(theta), 1)
    normal = rng.multivariate_normal(
        np.zeros(len(theta)), covariance(problem, theta), size=draws // 2, method="eigh"
    )
    normal *= np.sqrt(freedom / rng.chisquare(freedom, len(normal)))[:, None]
    both = np.concatenate([normal, -normal])  # antithetic: the median is the optimum
    return np.clip(theta + both, problem.low, problem.high)


def covariance(problem: Problem, theta: np.ndarray, *, bounded: bool = True) -> np.ndarray:
    """Return the covariance of theta by linearisation, [P, P]; parameters on a bound have none.

    A sandwich: B^-1 M B^-1 with the curvature B = J'bJ of the objective and M from each run's own
    residual over one minus its leverage (HC3; MacKinnon and White 1985), so runs need not scatter
    alike. A knee far below the noise leaves too few runs to say that of each: there the noise is taken
    as equal (Huber 1981, section 6.3). Without `bounded`, as if no bound were near.
    """
    J = problem.jacobian(theta[None])[1][0]
    inside = (theta > problem.low) & (theta < problem.high) | (not bounded)
    full = np.zeros((len(theta), len(theta)))
    B, M = _bread_and_meat(problem, theta, J[:, inside], inside)
    inverse = np.linalg.inv(B)
    full[np.ix_(inside, inside)] = inverse @ M @ inverse
    return full


def curvature(problem: Problem, theta: np.ndarray, *, bounded: bool = True) -> np.ndarray:
    """Return the expected Hessian of the objective, [P, P], with rows of parameters on a bound zero."""
    J = problem.jacobian(theta[None])[1][0]
    inside = (theta > problem.low) & (theta < problem.high) | (not bounded)
    full = np.zeros((len(theta), len(theta)))
    full[np.ix_(inside, inside)] = _bread_and_meat(problem, theta, J[:, inside], inside)[0]
    return full


def _bread_and_meat(
    problem: Problem, theta: np.ndarray, J: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r = problem.residuals(theta[None])[0]
    w = np.ones_like(r) if problem.weights is None else problem.weights
    square, slope = scatter(problem, theta)
    # The ridge bounds a parameter that the runs leave free at an SD of FREE (a factor e^4).
    ridge = np.diag(problem.prior(theta)[2][inside] + square / slope / FREE**2)
    B = slope * (J.T * w) @ J + ridge
    if is_sharp(problem, theta):
        return B, square * (J.T * w) @ J + ridge * square / slope
    leverage = np.clip(slope * w * np.einsum("np,pq,nq->n", J, np.linalg.inv(B), J), 0.0, 0.9)
    own = (w * problem.objective.psi(r) / (1.0 - leverage)) ** 2
    return B, (J.T * own) @ J + ridge * square / slope


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
