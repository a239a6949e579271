"""What is known of a number, and what each possible run would add to it.

A Gaussian belief: parameters as uncertain as the runs leave them, losses as the law says plus a
misfit that is smooth in (ln N, ln D) and as large as the scatter of single runs, for a misfit of that
size does not show in residuals. So repeating cheap runs stops paying, and runs close to what is
decided count for more than the law alone would have it (Kennedy and O'Hagan 2001; for design
Chaloner and Verdinelli 1995, sections 2 and 4).

Shapes: S draws of the parameters, P parameters, n runs, G candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaling.analysis.allocation.aim import Aim, slopes
from scaling.analysis.optimum import evaluate

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

FREE = 4.0  # SD of theta before any run: a factor e^4, as in the fit's own covariance
REACH = 2.3  # e-folds of N or D over which a misfit changes; about one decade
MOST = 400  # runs conditioned on; more are thinned, with their noise, as the matrix is [n, n]
JITTER = 1e-12


@dataclass(frozen=True)
class Belief:
    """Knowledge of an aim before and after choosing candidates.

    Args:
        variance: of the aim [S]; link: covariance of the aim with each candidate's loss [S, G].
        shared: covariance of the candidates' losses [S, G, G]; noise: variance of a run [G].
    """

    variance: np.ndarray
    link: np.ndarray
    shared: np.ndarray
    noise: np.ndarray

    def after(self, chosen: list[int]) -> State:
        """Return what is known once these candidates have been trained."""
        state = State(self.variance, self.link, np.einsum("sgg->sg", self.shared), ())
        for j in chosen:
            state = self.add(state, j)
        return state

    def add(self, state: State, j: int) -> State:
        """Return the state after one more candidate: a step of a pivoted Cholesky factor."""
        column = self.shared[:, :, j] - sum(u * u[:, j : j + 1] for u in state.factors)
        root = np.sqrt(state.own[:, j] + self.noise[j])[:, None]
        u = column / root
        w = state.link[:, j : j + 1] / root
        return State(state.variance - w[:, 0] ** 2, state.link - u * w, state.own - u * u, (*state.factors, u))  # fmt: skip

    def gains(self, state: State) -> np.ndarray:
        """Return by how much each candidate would lower the mean ln variance of the aim, [G]."""
        share = state.link**2 / (state.own + self.noise) / state.variance[:, None]
        return -np.log1p(-np.minimum(share, 1 - 1e-12)).mean(0)


@dataclass(frozen=True)
class State:
    """Variance of the aim [S], covariance with each candidate [S, G], own variance of each [S, G]."""

    variance: np.ndarray
    link: np.ndarray
    own: np.ndarray
    factors: tuple[np.ndarray, ...]

    @property
    def score(self) -> float:
        """Mean ln variance over the draws."""
        return float(np.log(self.variance).mean())


def believe(
    fit: Fit, aim: Aim, N: np.ndarray, D: np.ndarray, *, theta: np.ndarray, noise: np.ndarray,
    own_noise: np.ndarray, misfit: float,
) -> Belief:  # fmt: skip
    """Return the belief that the fit's runs leave.

    Args:
        N, D: candidates [G]; theta: draws [S, P].
        noise: variance of ln L of a run at each candidate [G]; own_noise: at each run [n].
        misfit: SD of the law's error in ln L; 0 takes the law as true.
    """
    runs = fit.runs
    keep = np.unique(np.linspace(0, len(runs) - 1, min(len(runs), MOST)).round().astype(int))
    old_noise = own_noise[keep] * len(keep) / len(runs)
    sizes, tokens = np.concatenate([runs.N[keep], N]), np.concatenate([runs.D[keep], D])
    n = len(keep)

    def log_loss(params: dict) -> np.ndarray:
        columns = {k: v[:, None] for k, v in params.items()}
        inputs = {"N": sizes, "D": tokens, "C": fit.cost.flops(sizes, tokens)}
        return np.log(evaluate(fit.law, columns, **inputs))

    J, g = slopes(fit, theta, log_loss), aim.slope(fit, theta)
    places, weight = aim.touches(fit, theta)
    x = np.log(np.stack([sizes, tokens], -1))
    K = FREE**2 * np.matmul(J, J.swapaxes(1, 2)) + misfit**2 * _alike(x, x)
    c = FREE**2 * np.einsum("srp,sp->sr", J, g) + misfit**2 * np.einsum("st,str->sr", weight, _alike(places, x))  # fmt: skip
    V = FREE**2 * (g * g).sum(-1) + misfit**2 * np.einsum("st,stu,su->s", weight, _alike(places, places), weight)  # fmt: skip
    known = K[:, :n, :n] + np.diag(old_noise + JITTER)
    told = np.linalg.solve(known, np.concatenate([K[:, :n, n:], c[:, :n, None]], -1))
    shared = K[:, n:, n:] - np.matmul(K[:, n:, :n], told[..., :-1])
    link = c[:, n:] - np.einsum("sgn,sn->sg", K[:, n:, :n], told[..., -1])
    return Belief(V - (c[:, :n] * told[..., -1]).sum(-1), link, shared, noise)


def _alike(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of the misfit between points [..., A, 2] and [..., B, 2]."""
    away = x[..., :, None, :] - y[..., None, :, :]
    return np.exp(-0.5 * (away**2).sum(-1) / REACH**2)
