"""What a fit minimises, named on every result: a robust loss of log or raw residuals, summed.

Sums, not means: a mean-reduced Huber(1e-3) has gradients so small that common optimisers stop
after two steps (Besiroglu et al. 2024 on Hoffmann et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.study.errors import FitError, did_you_mean

# Below this share of the residuals' scale Huber's knee makes no difference to plain L1.
L1_KNEE = 1e-6


@dataclass(frozen=True)
class Objective:
    """Sum over runs of rho(residual); residual = ln L_fit - ln L, or L_fit - L when not `log`.

    Args:
        name: huber_log, mse_log, l1_log, huber, mse or l1.
        shape: square (r^2/2), huber (r^2/2 up to the knee delta, then linear) or l1 (|r|).
        log: residuals of the log loss, so relative errors.
        delta: knee of huber, in the residual's unit.
    """

    name: str
    shape: str
    log: bool
    delta: float = 1e-3

    def rho(self, r: np.ndarray, delta: float | None = None) -> np.ndarray:
        """Return the contribution of each residual."""
        if self.shape == "square":
            return 0.5 * r * r
        knee = self.delta if delta is None else delta
        size = np.abs(r)
        if self.shape == "l1" and delta is None:
            return size
        value = np.where(size <= knee, 0.5 * r * r, knee * (size - 0.5 * knee))
        return value / knee if self.shape == "l1" else value

    def psi(self, r: np.ndarray, delta: float | None = None) -> np.ndarray:
        """Return the derivative of rho."""
        if self.shape == "square":
            return r
        if self.shape == "l1" and delta is None:
            return np.sign(r)
        knee = self.delta if delta is None else delta
        value = np.clip(r, -knee, knee)
        return value / knee if self.shape == "l1" else value

    def curvature(self, r: np.ndarray, delta: float) -> np.ndarray:
        """Return the second derivative of rho."""
        if self.shape == "square":
            return np.ones_like(r)
        inside = (np.abs(r) <= delta).astype(float)
        return inside / delta if self.shape == "l1" else inside

    def residuals(self, fitted: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """Return the residuals of fitted losses."""
        return np.log(fitted) - np.log(loss) if self.log else fitted - loss

    def __str__(self) -> str:
        knee = f", delta {self.delta:g}" if self.shape == "huber" else ""
        return f"{self.name} (sum over runs{knee})"


_SHAPES = {"huber": "huber", "mse": "square", "l1": "l1"}
NAMES = tuple(f"{shape}{log}" for log in ("_log", "") for shape in _SHAPES)


def get_objective(name: str | Objective, delta: float = 1e-3) -> Objective:
    """Return an objective by name.

    Args:
        name: huber_log (Hoffmann et al. 2022), mse_log, l1_log, huber, mse, l1.
        delta: knee of huber; 1e-3 is Hoffmann's.

    Raises:
        FitError: unknown name, or a delta that is not above 0.
    """
    if isinstance(name, Objective):
        return name
    if name not in NAMES:
        raise FitError(
            f"objective: {name!r} is none of {', '.join(NAMES)}.{did_you_mean(name, NAMES)}"
        )
    if not delta > 0:
        raise FitError(
            f"objective: delta must be above 0; got {delta!r}. Hoffmann et al. use 1e-3."
        )
    return Objective(name, _SHAPES[name.removesuffix("_log")], name.endswith("_log"), float(delta))
