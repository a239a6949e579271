"""What the next runs are to settle: the best size or the lowest loss at a compute to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.analysis.optimum import best_allocation, check_surface, evaluate
from scaling.study.errors import FitError

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

DECISIONS = {"size": "the best size N*", "loss": "the lowest loss"}
STEP = 1e-4  # of theta, central differences: error about 1e-8 on these smooth laws
AWAY = 0.5  # in ln N: where the slope and the bend of the loss along the budget are read


@dataclass(frozen=True)
class Aim:
    """A number that is to be known: ln N* or ln L at the optimum of a compute.

    Args:
        flops: the compute [FLOPs], in the convention of the runs; decide: size or loss.
    """

    flops: float
    decide: str = "size"

    def __post_init__(self) -> None:
        if self.decide not in DECISIONS:
            raise FitError(f"decide: {self.decide!r} is none of {', '.join(DECISIONS)}.")
        if not (np.isfinite(self.flops) and self.flops > 0):
            raise FitError(f"target flops: must be above 0; got {self.flops!r}.")

    def value(self, fit: Fit, params: Mapping[str, Any]) -> np.ndarray:
        """Return ln N* or ln L for parameter values that broadcast; NaN where there is no optimum."""
        check_surface(fit.law)
        with np.errstate(all="ignore"):
            N, D = best_allocation(fit.law, params, self.flops, fit.cost)
            if self.decide == "size":
                return np.log(N)
            return np.log(evaluate(fit.law, params, N=N, D=D, C=self.flops))

    def interval(self, fit: Fit) -> tuple[float, float, float]:
        """Return the value and its interval [parameters or nats/token] as the fit states them."""
        row = fit.optimal(self.flops).iloc[0]
        name = {"size": "N", "loss": "loss"}[self.decide]
        return float(row[name]), float(row[f"{name}_lo"]), float(row[f"{name}_hi"])

    def slope(self, fit: Fit, theta: np.ndarray) -> np.ndarray:
        """Return the derivatives of the value by theta, [S, P], at theta [S, P]."""
        return slopes(fit, theta, lambda params: self.value(fit, params)[..., None])[..., 0, :]

    def touches(self, fit: Fit, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where a misfit of the law would move the value, and by how much.

        A misfit d(x) of ln L at the optimum moves ln L by d, and ln N* by minus its slope along the
        budget over the bend of ln L there.

        Returns:
            Points (ln N, ln D) as [S, T, 2] and weights [S, T]: the value moves by the sum of
            weight times d(point).
        """
        params = {k: np.asarray(v) for k, v in fit.problem.to_params(theta).items()}
        with np.errstate(all="ignore"):
            best = np.log(best_allocation(fit.law, params, self.flops, fit.cost)[0])
        sizes = np.exp(best[:, None] + AWAY * np.array([-1.0, 0.0, 1.0]))
        tokens = fit.cost.tokens(self.flops, sizes)
        points = np.log(np.stack([sizes, tokens], -1))
        if self.decide == "loss":
            return points[:, 1:2], np.ones((len(theta), 1))
        columns = {k: v[:, None] for k, v in params.items()}
        L = np.log(evaluate(fit.law, columns, N=sizes, D=tokens, C=self.flops))
        bend = (L[:, 0] - 2 * L[:, 1] + L[:, 2]) / AWAY**2
        with np.errstate(divide="ignore"):  # flat to the last digit, far beyond any run
            weight = 1.0 / (2 * AWAY * bend)
        return points[:, ::2], np.stack([weight, -weight], -1)


def slopes(fit: Fit, theta: np.ndarray, quantity: Any) -> np.ndarray:
    """Return derivatives [S, T, P] by theta [S, P] of a quantity of parameters that returns [S, T]."""
    columns = []
    for step in STEP * np.eye(theta.shape[1]):
        ends = [
            quantity({k: np.asarray(v) for k, v in fit.problem.to_params(theta + s).items()})
            for s in (step, -step)
        ]
        columns.append((ends[0] - ends[1]) / (2 * STEP))
    return np.stack(columns, -1)
