"""Find the optimum of a law on data, for many starts or many resamples at once.

Three choices make single starts reliable: inputs centred at their geometric mean, linear
coefficients solved for when searching starts, and a damped Newton method that lowers the knee of
a robust objective step by step.

Shapes: S problems solved together, n runs, P free parameters. theta_SP, r_Sn, J_SnP, w_Sn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from scaling.analysis.problem import Problem

STEPS = 200  # Newton steps per knee; about 15 are used
CHUNK = 2_000_000  # largest S * n * P worked on at once: 16 MB per array


@dataclass(frozen=True)
class Solution:
    """Optimum of S problems: theta_SP, value_S, and the Newton decrement relative to the value."""

    theta: np.ndarray
    value: np.ndarray
    decrement: np.ndarray


def solve(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, *, tolerance: float = 1e-16
) -> Solution:
    """Minimise the objective from each start.

    Args:
        theta: starts [S, P]; weights: [n] or [S, n], a run of weight 2 counts as two runs.
        tolerance: stop when a Newton step promises less than this part of the objective.
    """
    theta = np.clip(np.atleast_2d(theta), problem.low, problem.high)
    weights = np.broadcast_to(weights, (len(theta), len(problem.loss)))
    per_chunk = max(1, CHUNK // (weights.shape[1] * theta.shape[1]))
    parts = [
        _solve_chunk(problem, theta[i : i + per_chunk], weights[i : i + per_chunk], tolerance)
        for i in range(0, len(theta), per_chunk)
    ]
    return Solution(
        *(np.concatenate([getattr(p, f) for p in parts]) for f in ("theta", "value", "decrement"))
    )


def _solve_chunk(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, tolerance: float
) -> Solution:
    with np.errstate(
        over="ignore", invalid="ignore", divide="ignore"
    ):  # a step too far gives inf, and is not taken
        *coarse, last = _knees(problem, theta)
        for delta in coarse:
            theta, value, decrement = _newton(problem, theta, weights, delta, 1e-3)
        theta, value, decrement = _newton(problem, theta, weights, last, tolerance)
    if problem.objective.shape == "l1":
        value = problem.value(theta, weights)
    return Solution(theta, value, decrement)


def _knees(problem: Problem, theta: np.ndarray) -> list[float]:
    """Return falling Huber knees, from the residuals' own scale to the objective's.

    Far from the optimum a small knee leaves almost no curvature to steer by; lowering it step by
    step keeps Newton's method inside its region of convergence (Madsen and Nielsen 1993).
    """
    if problem.objective.shape == "square":
        return [np.inf]
    scale = float(np.median(np.abs(problem.residuals(theta)))) + 1e-12
    last = (
        problem.objective.delta if problem.objective.shape == "huber" else min(1e-7, 1e-3 * scale)
    )
    count = max(1, int(np.ceil(np.log(max(scale / last, 1.0)) / np.log(5.0))))
    return [*np.geomspace(max(scale, last), last, count + 1)[:-1], last]


def _newton(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, delta: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Damped Newton; the damping matrix is that of reweighted least squares, which always descends."""
    theta, S = theta.copy(), len(theta)
    damping, decrement = np.full(S, 1e-3), np.full(S, np.inf)
    value = problem.value(theta, weights, delta)
    open_ = np.arange(S)
    for _ in range(STEPS):
        g, H, M = _expand(problem, theta[open_], weights[open_], delta)
        step, decrement[open_] = _step(problem, theta[open_], g, H, M, damping[open_])
        trial = np.clip(theta[open_] + step, problem.low, problem.high)
        new = problem.value(trial, weights[open_], delta)
        decrement[open_] /= np.maximum(np.abs(value[open_]), 1e-300)
        better = new <= value[open_]
        # What the undamped model still promises; a promise below rounding cannot be kept.
        done = (decrement[open_] <= tolerance) & (damping[open_] < 1.0)
        theta[open_[better]], value[open_[better]] = trial[better], new[better]
        damping[open_] = np.where(
            better, np.maximum(damping[open_] * 0.1, 1e-12), damping[open_] * 10.0
        )
        done |= damping[open_] > 1e8  # no descent left at the precision of the arithmetic
        open_ = open_[~done]
        if not len(open_):
            break
    return theta, value, decrement


def _expand(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, delta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gradient g_SP, Hessian H_SPP and majorising Hessian M_SPP of the objective."""
    r, J = problem.jacobian(theta)
    psi = weights * problem.objective.psi(r, delta)
    bend = weights * problem.objective.curvature(r, delta)
    weight = np.where(r == 0, bend, psi / np.where(r == 0, 1.0, r))
    _, prior_gradient, prior_curvature = problem.prior(theta)
    g = np.einsum("snp,sn->sp", J, psi) + prior_gradient
    bent = np.matmul((J * bend[..., None]).swapaxes(1, 2), J)
    M = np.matmul((J * weight[..., None]).swapaxes(1, 2), J) + np.diag(prior_curvature)
    h = 1e-6
    columns = []  # sum psi d2r, by differences of the analytic Jacobian with psi held
    for shift in h * np.eye(theta.shape[1]):
        ahead = problem.jacobian(theta + shift)[1]
        columns.append((np.einsum("snp,sn->sp", ahead, psi) - (g - prior_gradient)) / h)
    curl = np.stack(columns, -1)
    return g, bent + 0.5 * (curl + curl.swapaxes(1, 2)) + np.diag(prior_curvature), M


def _step(
    problem: Problem,
    theta: np.ndarray,
    g: np.ndarray,
    H: np.ndarray,
    M: np.ndarray,
    damping: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the damped Newton step within bounds and the decrement g'H^-1 g / 2."""
    P = theta.shape[1]
    held = ((theta <= problem.low) & (g > 0)) | ((theta >= problem.high) & (g < 0))
    keep = ~held
    g = np.where(held, 0.0, g)
    mask = keep[:, :, None] & keep[:, None, :]
    diagonal = np.einsum("spp->sp", M).max(-1)[:, None, None] * np.eye(P)
    damped = H + damping[:, None, None] * (M + 1e-6 * diagonal + 1e-300 * np.eye(P))
    damped = np.where(mask, damped, np.where(np.eye(P, dtype=bool), 1.0, 0.0))
    values, vectors = np.linalg.eigh(damped)
    values = np.maximum(np.abs(values), 1e-14 * np.abs(values).max(-1, keepdims=True))
    along = np.einsum("spq,sp->sq", vectors, g)
    step = -np.einsum("spq,sq->sp", vectors, along / values)
    return np.where(held, 0.0, step), 0.5 * (along**2 / values).sum(-1)


def polish_l1(problem: Problem, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Finish a least-absolute-deviation fit exactly, by linear programmes in a shrinking box.

    The optimum of L1 sits where as many residuals are zero as there are parameters, a corner that
    smooth methods only approach. min sum w (u + v), r + J d = u - v, |d| <= box; u, v >= 0.
    """
    P, n, box = len(theta), len(problem.loss), 1e-2
    value = problem.value(theta[None], weights)[0]
    for _ in range(60):
        r, J = (x[0] for x in problem.jacobian(theta[None]))
        cost = np.concatenate([np.zeros(P), weights, weights])
        equal = np.hstack([J, -np.eye(n), np.eye(n)])
        limits = [
            (max(-box, lo - t), min(box, hi - t))
            for t, lo, hi in zip(theta, problem.low, problem.high, strict=True)
        ]
        answer = linprog(
            cost, A_eq=equal, b_eq=-r, bounds=[*limits, *[(0, None)] * (2 * n)], method="highs"
        )
        if answer.x is None:
            break
        trial = theta + answer.x[:P]
        new = problem.value(trial[None], weights)[0]
        if new < value:
            theta, value = trial, new
        else:
            box *= 0.25
        if box < 1e-12:
            break
    return theta
