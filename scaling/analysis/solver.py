"""Find the optimum of a law on data, for many starts or many resamples at once.

Three choices make single starts reliable (each measured on 15 public tables): inputs centred at
their geometric mean, linear coefficients solved for when searching starts, and a damped Newton
method that lowers the knee of a robust objective step by step.

Shapes: S problems solved together, n runs, P free parameters. theta_SP, r_Sn, J_SnP, w_Sn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import linprog, nnls
from scipy.stats import qmc

from scaling.analysis.laws import Law, Param, get
from scaling.analysis.objectives import Objective

STEPS = 200  # Newton steps per knee; about 15 are used
CHUNK = 2_000_000  # largest S * n * P worked on at once: 16 MB per array


@dataclass(frozen=True)
class Problem:
    """A law on data, in the searched parameters theta: centred inputs, logs of positive scales."""

    law: Law
    inputs: Mapping[str, np.ndarray]  # divided by `center`
    loss: np.ndarray
    objective: Objective
    center: Mapping[str, float]
    free: tuple[Param, ...]
    fixed: Mapping[str, float] = field(default_factory=dict)  # in the law's own units
    prior_scale: float = 0.0  # objective per unit of -log prior; 0 leaves priors out

    @property
    def low(self) -> np.ndarray:
        """Lower bounds of theta."""
        return np.array([np.log(p.low) if p.log else p.low for p in self.free])

    @property
    def high(self) -> np.ndarray:
        """Upper bounds of theta; a floor cannot lie above the lowest loss."""
        top = [self.loss.min() * (1 - 1e-9) if p.name == "E" else p.high for p in self.free]
        return np.array([np.log(t) if p.log else t for t, p in zip(top, self.free, strict=True)])

    def to_params(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Return the law's own parameters, in the units of the data, for theta of shape [..., P]."""
        values = self._centred(theta)
        return {p.name: values[p.name] * self._scale(p, values) for p in self.law.params}

    def to_theta(self, params: Mapping[str, float]) -> np.ndarray:
        """Return theta [P] for parameters in the units of the data."""
        values = {p.name: params[p.name] / self._scale(p, params) for p in self.free}
        return np.array([np.log(values[p.name]) if p.log else values[p.name] for p in self.free])

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """Return r_Sn."""
        values = {k: np.asarray(v)[..., None] for k, v in self._centred(theta).items()}
        return self.objective.residuals(self.law.loss(**self.inputs, **values), self.loss)

    def jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return r_Sn and J_SnP = d r / d theta, analytic where the law has a gradient."""
        if self.law.gradient is None or any(
            p.unit_of for p in self.law.params if p.name in self.fixed
        ):
            return self.residuals(theta), self._numeric_jacobian(theta)
        values = {k: np.asarray(v)[..., None] for k, v in self._centred(theta).items()}
        fitted = self.law.loss(**self.inputs, **values)
        slopes = self.law.gradient(**self.inputs, **values)
        columns = [slopes[p.name] * (values[p.name] if p.log else 1.0) for p in self.free]
        J = np.stack(np.broadcast_arrays(*columns, fitted)[:-1], axis=-1)
        r = self.objective.residuals(fitted, self.loss)
        return r, J / fitted[..., None] if self.objective.log else J

    def prior(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the penalty [S], its gradient [S, P] and its curvature [P]."""
        mean = np.array([p.prior[0] if p.prior else 0.0 for p in self.free])
        weight = np.array(
            [self.prior_scale / p.prior[1] ** 2 if p.prior else 0.0 for p in self.free]
        )
        away = theta - mean
        return 0.5 * (weight * away * away).sum(-1), weight * away, weight

    def value(
        self, theta: np.ndarray, weights: np.ndarray, delta: float | None = None
    ) -> np.ndarray:
        """Return the objective [S] at theta."""
        return (weights * self.objective.rho(self.residuals(theta), delta)).sum(-1) + self.prior(
            theta
        )[0]

    def gradient(self, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the gradient [S, P] of the objective."""
        r, J = self.jacobian(theta)
        return np.einsum("snp,sn->sp", J, weights * self.objective.psi(r)) + self.prior(theta)[1]

    def _centred(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        theta = np.asarray(theta, float)
        values = {
            p.name: np.exp(theta[..., i]) if p.log else theta[..., i]
            for i, p in enumerate(self.free)
        }
        everything = {**self.fixed, **values}
        for name, value in self.fixed.items():
            param = next(p for p in self.law.params if p.name == name)
            values[name] = np.asarray(value / self._scale(param, everything))
        return values

    def _scale(self, param: Param, values: Mapping[str, np.ndarray | float]) -> np.ndarray | float:
        """Factor from centred to own units: A = A' * center^alpha because A/N^alpha = A'/N'^alpha."""
        scale: np.ndarray | float = 1.0
        for name, power in param.unit_of.items():
            scale = scale * self.center[name] ** (
                values[power] if isinstance(power, str) else power
            )
        return scale

    def _numeric_jacobian(self, theta: np.ndarray) -> np.ndarray:
        h = 1e-6  # central differences: error about h^2 + 1e-16/h = 1e-10 on these smooth laws
        steps = h * np.eye(theta.shape[-1])
        return np.stack(
            [(self.residuals(theta + s) - self.residuals(theta - s)) / (2 * h) for s in steps], -1
        )


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
    with np.errstate(over="ignore", invalid="ignore"):  # a step too far gives inf, and is not taken
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
    with np.errstate(over="ignore", invalid="ignore"):  # hopeless draws sort last
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
    base = simple._centred(starts(simple, 24, seed=seed))
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
    values = {k: np.asarray(v) for k, v in problem._centred(theta).items()}
    for i in linear:
        values[problem.free[i].name] = np.asarray(0.0)
    base = problem.law.loss(**problem.inputs, **values) + 0.0 * problem.loss
    if on is None:
        return base
    values[problem.free[on].name] = np.asarray(1.0)
    return problem.law.loss(**problem.inputs, **values) - base


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
