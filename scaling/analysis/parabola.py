"""One IsoFLOP curve: the parabola through its runs, its vertex, and how surely that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

FAR = 10.0  # a drawn vertex counts as at most so far from the runs, in ln N


@dataclass(frozen=True)
class Skipped:
    """A budget left out: its compute, how many runs it has, and why."""

    C: float
    points: int
    reason: str


@dataclass(frozen=True, eq=False)
class Parabola:
    """L = c0 + c1 x + c2 x^2 in x = ln N - center, through the runs of one budget.

    Args:
        budget: its number; C: its compute [FLOPs].
        x: of the runs, [runs]; loss: theirs [nats/token].
    """

    budget: int
    C: float
    center: float
    c0: float
    c1: float
    c2: float
    x: np.ndarray
    loss: np.ndarray

    @property
    def log_vertex(self) -> float:
        """ln N*."""
        return self.center - self.c1 / (2 * self.c2)

    @property
    def depth(self) -> float:
        """Loss at the vertex."""
        return self.c0 - self.c1**2 / (4 * self.c2)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest N of the runs."""
        return float(np.exp(self.center + self.x.min())), float(np.exp(self.center + self.x.max()))

    @property
    def edge(self) -> bool:
        """Whether the best run is the smallest or largest size."""
        return int(np.argmin(self.loss)) in (int(np.argmin(self.x)), int(np.argmax(self.x)))

    @property
    def design(self) -> np.ndarray:
        """Columns 1, x, x^2 of the runs, [runs, 3]."""
        return np.vander(self.x, 3, increasing=True)

    @property
    def rss(self) -> float:
        """Sum of squared residuals."""
        residual = self.loss - self.design @ (self.c0, self.c1, self.c2)
        return float(residual @ residual)


def fit_parabola(group: pd.DataFrame, min_points: int) -> Parabola | Skipped:
    """Fit the runs of one budget (columns budget, C, N, loss), or say why there is no minimum."""
    C = float(np.exp(np.log(group["C"]).mean()))
    log_n, loss = np.log(group["N"].to_numpy()), group["loss"].to_numpy()
    center = float(log_n.mean())
    x = log_n - center
    sizes = len(np.unique(np.round(log_n, 3)))
    if sizes < min_points:
        reason = f"{sizes} different sizes, fewer than {min_points}; add sizes at this budget."
        return Skipped(C, len(group), reason)
    (c0, c1, c2), *_ = np.linalg.lstsq(np.vander(x, 3, increasing=True), loss, rcond=None)
    if c2 <= 0:
        reason = "the parabola opens downward; widen the sizes, or repeat noisy runs."
        return Skipped(C, len(group), reason)
    vertex = -c1 / (2 * c2)
    if not x.min() < vertex < x.max():
        side, other = ("small", "larger") if vertex >= x.max() else ("large", "smaller")
        reason = (
            f"the minimum lies at the edge or outside: all sizes are too {side}; add {other} ones."
        )
        return Skipped(C, len(group), reason)
    return Parabola(
        int(group["budget"].iloc[0]), C, center, float(c0), float(c1), float(c2), x, loss
    )


def draw_vertices(
    curves: Sequence[Parabola], draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ln N* and depth of each curve from the distribution of its coefficients.

    The scatter is pooled over the curves: one of 5 points has 2 degrees of freedom, ten have 20.
    It is one unknown, so a draw stretches all curves alike (Student's t).

    Returns:
        Two arrays [curves, draws]; NaN where no curve has a point to spare.
    """
    freedom = sum(len(c.x) - 3 for c in curves)
    if not freedom:
        return np.full((len(curves), draws), np.nan), np.full((len(curves), draws), np.nan)
    variance = sum(c.rss for c in curves) / freedom
    stretch = np.sqrt(freedom / rng.chisquare(freedom, draws))
    vertices, depths = [], []
    for curve in curves:
        covariance = variance * np.linalg.inv(curve.design.T @ curve.design)
        noise = rng.multivariate_normal(np.zeros(3), covariance, size=draws, method="eigh")
        c0, c1, c2 = (np.array([curve.c0, curve.c1, curve.c2]) + noise * stretch[:, None]).T
        # a draw without curvature has no vertex; it counts as far out
        c2 = np.maximum(c2, 0.05 * curve.c2)
        vertices.append(np.clip(-c1 / (2 * c2), -FAR, FAR) + curve.center)
        depths.append(c0 - c1**2 / (4 * c2))
    return np.array(vertices), np.array(depths)
