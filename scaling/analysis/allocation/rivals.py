"""Laws that the runs do not tell apart: the interval of an aim that holds for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scaling.analysis.allocation.aim import Aim
from scaling.analysis.fits.fitting import fit as fit_law

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

# AIC within which laws are not told apart (Burnham and Anderson 2002, section 2.6). Without the
# correction for few runs: that would turn "too few to tell" into "the simpler law holds".
CLOSE = 4.0
RIVALS = {"chinchilla": ("chinchilla_k",), "chinchilla_tied": ("chinchilla_k_tied",)}
DRAWS = 400  # of a rival, for the ends of a 90 % interval to a twentieth of its width
SPARE = 3  # runs beyond its parameters that a law with one more bend needs to be judged


@dataclass(frozen=True)
class Standing:
    """What is known of an aim.

    Args:
        value, lo, hi: by the law that was fitted [parameters or nats/token].
        low, high: ends of the interval over all laws not told apart; laws: their names.
    """

    aim: Aim
    value: float
    lo: float
    hi: float
    low: float
    high: float
    laws: tuple[str, ...]

    @property
    def within(self) -> float:
        """How far the further end lies from the value, over all laws: a factor for N*, nats for the loss."""
        if not all(map(np.isfinite, (self.low, self.high, self.value))) or self.low <= 0:
            return float("inf")
        if self.aim.decide == "loss":
            return max(self.high - self.value, self.value - self.low)
        return max(self.high / self.value, self.value / self.low)


def rivals(fit: Fit) -> list[Fit]:
    """Return the fit, and fits of laws with one more bend that these runs do not tell from it."""
    wanted = () if fit.fixed else RIVALS.get(fit.law.name, ())
    if len(fit.runs) < len(fit.law.params) + 1 + SPARE:
        return [fit]
    others = [
        _thinned(fit_law(fit.runs, law, objective=fit.objective, intervals="delta", level=fit.level, priors=True, starts=2))
        for law in wanted
    ]  # fmt: skip
    return [fit, *(f for f in others if aic(f) <= aic(fit) + CLOSE)]


def _thinned(fit: Fit) -> Fit:
    """Return the fit with fewer draws; without a closed form each costs a search for the optimum."""
    return replace(fit, draws={k: v[:: len(v) // DRAWS] for k, v in fit.draws.items()})


def aic(fit: Fit) -> float:
    """Return Akaike's criterion from the residuals' variance."""
    free = len(fit.law.params) - len(fit.fixed) + 1
    error = float(np.mean(fit.log_errors**2)) + 1e-300
    return len(fit.runs) * float(np.log(error)) + 2 * free


def standing(fit: Fit, aim: Aim, laws: list[Fit] | None = None) -> Standing:
    """Return what is known of an aim, by the fitted law and over the laws not told from it.

    Args:
        laws: what `rivals(fit)` gave, if it is at hand.
    """
    every = rivals(fit) if laws is None else laws
    value, lo, hi = aim.interval(fit)
    # a law without an optimum there has no interval of it; one that is open leaves ours open
    with np.errstate(all="ignore"):
        spans = [aim.interval(f)[1:] for f in every[1:]]
    most = np.inf
    if aim.decide == "loss" and aim.flops >= fit.runs.C.max():
        most = max(
            hi, float(fit.runs.L.min())
        )  # more compute does no worse than the best run so far
    low = min([lo, *(s[0] for s in spans if not np.isnan(s[0]))])
    high = max([hi, *(min(s[1], most) for s in spans if not np.isnan(s[1]))])
    return Standing(aim, value, lo, hi, low, high, tuple(f.law.name for f in every))
