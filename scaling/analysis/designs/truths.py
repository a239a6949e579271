"""Laws that runs not yet trained may plausibly follow, with a noise that they may plausibly have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaling.analysis import laws
from scaling.analysis.allocation.decided import Surface, as_surface
from scaling.analysis.frontier.minima import interpolated_noise
from scaling.study.errors import FitError
from scaling.study.units import format_quantity

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

Noise = Callable[[np.ndarray], np.ndarray]  # loss [nats/token] -> SD of ln L of one run


@dataclass(frozen=True, eq=False)
class Truth:
    """A law taken to be true, and how runs scatter around it.

    Args:
        surface: law and parameters; noise: SD of ln L at a loss.
        source: where both come from, in a phrase; low, high: the sizes it was fitted to [parameters].
    """

    surface: Surface
    noise: Noise
    source: str
    low: float = 0.0
    high: float = float("inf")

    def distance(self, N: np.ndarray) -> float:
        """Return how many e-folds the middle size lies outside the sizes of the fit."""
        middle = float(np.median(np.log(N)))
        return max(np.log(self.low) - middle, middle - np.log(self.high), 0.0)


# `sl.fit(sl.load("results/sample"))`: 55 byte-level runs on Python's sources, 1.3k to 144k parameters
# (non-embedding).
_TINY = {"E": 0.4189, "A": 3.565, "B": 14.66, "alpha": 0.1486, "beta": 0.2258}
# Their seeds scatter by exp(-7.36) L^3.07 (`sl.seed_noise`, 30 degrees of freedom), 0.8 % in the mean of
# squares; around the law runs scatter by 1.5 %, for no law is exact. So the noise is taken 1.9 times
# as large, falling with the loss as the seeds do.
_TINY_NOISE = (-6.72, 3.07)

# The 240 runs that Besiroglu et al. 2024 (arXiv:2404.10102) read from Hoffmann et al.'s figure scatter by
# 0.5 % around their law (median size of the residuals over 0.67), reading errors included. Seeds add
# what Porian et al. 2024 measured, which matters at high losses only.
_LARGE_NOISE = 0.005

# Muennighoff et al. 2023 (arXiv:2305.16264): repeats after which a token is worth 1/e of a new one
_REPEATS = 15.4


def _tiny_noise(loss: np.ndarray) -> np.ndarray:
    p, q = _TINY_NOISE
    return np.exp(p + q * np.log(loss))


def _large_noise(loss: np.ndarray) -> np.ndarray:
    return np.hypot(_LARGE_NOISE, interpolated_noise()(loss))


def tiny_truth() -> Truth:
    """Return the law of our own byte-level runs."""
    return Truth(
        Surface(laws.get("chinchilla"), _TINY), _tiny_noise,
        "55 byte-level runs of 1.3k to 144k parameters (results/sample)", 1.27e3, 1.44e5,
    )  # fmt: skip


def large_truth() -> Truth:
    """Return the law of Hoffmann et al.'s runs as Besiroglu et al. fitted it again."""
    return Truth(
        Surface.published("chinchilla", "epoch"), _large_noise,
        "Hoffmann et al.'s runs of 57M to 16B parameters, as fitted by Besiroglu et al. 2024", 5.7e7, 1.6e10,
    )  # fmt: skip


def plausible_truth(N: np.ndarray, *, repeats: bool = False) -> Truth:
    """Return the known law whose runs were nearest in size.

    Args:
        N: sizes of the design; repeats: whether it repeats text, so that the law must know of it.
    """
    truth = min((tiny_truth(), large_truth()), key=lambda t: t.distance(N))
    if not repeats:
        return truth
    surface = Surface(laws.get("data_repeats"), {**truth.surface.params, "R_D": _REPEATS})
    source = f"{truth.source}; repeats lose value with R_D = {_REPEATS:g} (Muennighoff et al. 2023)"
    return Truth(surface, truth.noise, source, truth.low, truth.high)


def given_truth(law: Fit | Surface | Truth, noise: float | Noise | None) -> Truth:
    """Return a fit or a surface as a truth; its own scatter is the noise unless one is given.

    Raises:
        FitError: neither a fit nor a surface, or a noise that is unknown or not above 0.
    """
    if isinstance(law, Truth):
        return law if noise is None else Truth(law.surface, as_noise(noise), law.source, law.low, law.high)  # fmt: skip
    surface = as_surface(law)
    spread = getattr(law, "spread", None)
    if noise is None and not spread:
        raise FitError(
            "noise: a law without runs says nothing of how they scatter. Give the SD of ln L, e.g. noise=0.005 for 0.5 %."
        )
    source = surface.conventions or "a law that was given"
    if surface.runs is not None:
        N = surface.runs.N
        source = f"the fit to {len(N)} runs of {format_quantity(N.min())} to {format_quantity(N.max())} parameters"
    return Truth(surface, as_noise(spread if noise is None else noise), source)


def as_noise(noise: float | Noise | None) -> Noise:
    """Return an SD of ln L as a function of the loss.

    Raises:
        FitError: a number that is not finite and above 0.
    """
    if callable(noise):
        return noise
    if noise is None or not (np.isfinite(noise) and noise > 0):
        raise FitError(f"noise: must be finite and above 0; got {noise!r}. Give e.g. 0.005 for 0.5 %.")  # fmt: skip
    value = float(noise)
    return lambda loss: np.full_like(np.asarray(loss, float), value)
