"""Which runs under an allowance say most about an aim: a bracket of the optimum, then the best rest.

1. A part of the allowance brackets the optimum at the largest budget it pays for three times: sizes
   that show the minimum whatever law holds.
2. Greedily, the candidate that lowers the mean ln variance of the aim most, per compute to a power; several
   powers are tried, and the best design kept (the power that is best depends on the allowance).
3. Exchanges: each run beyond the bracket against every candidate that fits, until none gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaling.analysis.allocation.aim import Aim
from scaling.analysis.allocation.belief import Belief, State, believe
from scaling.analysis.allocation.rivals import Standing, rivals, standing
from scaling.analysis.fits.noise import dispersion
from scaling.analysis.fits.replicates import SeedNoise, seed_noise
from scaling.analysis.fits.uncertainty import gaussian, widen
from scaling.study.errors import FitError
from scaling.study.units import format_flops, format_quantity

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

# Chosen on simulated truths inside and outside the fitted law (benchmarks/next_runs.py): without the
# bracket a wrong law stays undetected; with .7 of the allowance in it little is left to choose.
BRACKET = 0.4
SIZES = (1 / 3, 1.0, 3.0)  # of the bracket, times N*; a factor of 9 shows a bend of half a per cent
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of compute, by which a gain is divided
DRAWS = 12  # parameter vectors averaged over; twice as many change designs little
# Most of the allowance in one run: a size is read from several large runs side by side, a loss far away
# mostly from how low the largest one comes. Expected widths of .55 and .53, swapped .58 and .57.
LARGEST = {"size": 1 / 6, "loss": 1 / 3}
GRID_C, GRID_N = 14, 22  # candidates per axis; finer ones gain under a per cent
PASSES = 3  # of exchanges; the second seldom changes anything
RATIOS = (10.0, 100.0)  # tokens per parameter that are always tried
BEYOND = (
    2.0  # factor by which the others may leave the ratios of the runs: rules were checked there
)
ROUNDING = 1e-9


@dataclass(frozen=True)
class Caps:
    """What a single run may be.

    Args:
        flops: most compute of one run [FLOPs]; null: a sixth of the allowance, for the loss a third.
        smallest, largest: parameters; null: from the smallest in the fit to what the budget allows.
        least_ratio, most_ratio: tokens per parameter; null: twice beyond those of the runs, at least 10 to 100.
    """

    flops: float | None = None
    smallest: float | None = None
    largest: float | None = None
    least_ratio: float | None = None
    most_ratio: float | None = None

    def filled(self, fit: Fit, allowance: float, decide: str) -> Caps:
        """Return the caps with every default in numbers.

        Raises:
            FitError: a cap is not above 0, or nothing lies between two of them.
        """
        runs = fit.runs
        M = runs.D / runs.N
        flops = min(self.flops or allowance * LARGEST[decide], allowance)
        least = self.least_ratio or min(RATIOS[0], float(M.min()) / BEYOND)
        most = self.most_ratio or max(RATIOS[1], float(M.max()) * BEYOND)
        smallest = self.smallest or float(runs.N.min())
        largest = self.largest or float(_size_at(fit, flops, least))
        caps = Caps(flops, smallest, largest, least, most)
        for name, low, high in (("size", smallest, largest), ("tokens per parameter", least, most)):
            if not 0 < low <= high:
                raise FitError(
                    f"next_sweep: no {name} lies between {format_quantity(low)} and {format_quantity(high)}. Widen the limits, or raise the allowance ({format_flops(allowance)} FLOPs)."
                )
        return caps

    def allow(self, fit: Fit, N: np.ndarray, D: np.ndarray) -> np.ndarray:
        """Return which runs keep within the caps."""
        loose = 1.0 + 1e-6
        return (
            (fit.cost.flops(N, D) <= (self.flops or np.inf) * loose)
            & (N * loose >= (self.smallest or 0.0)) & ((self.largest or np.inf) * loose >= N)
            & (D / N * loose >= (self.least_ratio or 0.0)) & ((self.most_ratio or np.inf) * loose >= D / N)
        )  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """Runs that were chosen, and what they are expected to bring.

    Args:
        N, D, C: of the runs [parameters, tokens, FLOPs]; bracket: how many of them, from the first,
            bracket the optimum.
        narrowing: expected width of the interval of the aim over its width now, in logs.
        now: what is known of the aim before the runs.
        index: of the chosen runs in the pool, or among the candidates.
    """

    N: np.ndarray
    D: np.ndarray
    C: np.ndarray
    bracket: int
    narrowing: float
    now: Standing
    index: tuple[int, ...] = ()


def choose_runs(
    fit: Fit, aim: Aim, *, allowance: float, most: int = 12, caps: Caps | None = None,
    bracket: float = BRACKET, misfit: float = 1.0, seed: int = 0,
    pool: tuple[np.ndarray, np.ndarray] | None = None,
) -> Chosen:  # fmt: skip
    """Choose runs that narrow the interval of the aim most.

    Args:
        fit: a law with an optimum; aim: what is to be known.
        allowance: compute of all runs together [FLOPs]; most: runs; caps: of a single run.
        bracket: share of the allowance that brackets the optimum; 0 trusts the law.
        misfit: SD of the law's smooth error over the scatter of a run; 0 trusts the law.
        seed: of the draws averaged over.
        pool: N and D of the only runs that can be had; without a bracket. Caps are left to the caller.

    Raises:
        FitError: no optimum at the aim, or nothing fits the caps.
    """
    if not (np.isfinite(allowance) and allowance > 0):
        raise FitError(f"allowance: must be above 0 FLOPs; got {allowance!r}.")
    full = (caps or Caps()).filled(fit, allowance, aim.decide)
    N, D, first = (*pool, 0) if pool else candidates(fit, full, allowance * bracket)
    if not len(N):
        raise FitError(
            f"next_sweep: no run of at most {format_flops(full.flops)} FLOPs keeps within the limits of size and tokens per parameter. Raise the allowance, or widen the limits."
        )
    laws, seeds = rivals(fit), repeated_seeds(fit)
    beliefs = [belief_of(fit, aim, N, D, misfit=misfit, seed=seed, seeds=seeds)]
    for i, rival in enumerate(laws[1:], start=1):
        with suppress(FitError):  # a rival without an optimum at the aim has nothing to say of it
            beliefs.append(belief_of(rival, aim, N, D, misfit=misfit, seed=seed + i, seeds=seeds))
    C = fit.cost.flops(N, D)
    chosen = _Search(tuple(beliefs), C, allowance, most, first).best()
    narrowing = expected_narrowing(fit, aim, N[chosen], D[chosen], seed=seed, seeds=seeds)
    return Chosen(
        N[chosen], D[chosen], C[chosen], first, narrowing, standing(fit, aim, laws), tuple(chosen)
    )


def candidates(fit: Fit, caps: Caps, bracket: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return N and D of the candidates [G], and how many of them, from the first, are the bracket."""
    assert caps.flops and caps.smallest and caps.largest
    low = min(float(fit.runs.C.min()), caps.flops)
    sizes = np.geomspace(caps.smallest, caps.largest, GRID_N)
    N, C = (x.ravel() for x in np.meshgrid(sizes, np.geomspace(low, caps.flops, GRID_C)))
    D = fit.cost.tokens(C, N)
    keep = caps.allow(fit, N, D)
    N, D, first = N[keep], D[keep], 0
    if bracket > 0:
        C_each = min(bracket / len(SIZES), caps.flops)
        middle = float(fit.optimal(C_each)["N"].iloc[0])
        # no size is tried that is further from the sizes trained than the budget is
        grown = max(C_each / float(fit.runs.C.max()), 1.0)
        middle = np.clip(middle, fit.runs.N.min(), fit.runs.N.max() * grown)
        around = middle * np.array(SIZES)
        there = fit.cost.tokens(C_each, around)
        inside = caps.allow(fit, around, there)
        N, D, first = np.concatenate([around[inside], N]), np.concatenate([there[inside], D]), int(inside.sum())  # fmt: skip
    return N, D, first


def belief_of(
    fit: Fit,
    aim: Aim,
    N: np.ndarray,
    D: np.ndarray,
    *,
    misfit: float,
    seed: int = 0,
    seeds: SeedNoise | None = None,
) -> Belief:
    """Return what a fit leaves unknown of the aim.

    Raises:
        FitError: no parameters within the fit's uncertainty have one.
    """
    theta = _draws(fit, aim, seed)
    noise, own = (run_noise(fit, n, d, seeds=seeds) for n, d in ((N, D), (fit.runs.N, fit.runs.D)))
    return believe(fit, aim, N, D, theta=theta, noise=noise, own_noise=own, misfit=misfit * float(np.sqrt(own.mean())))  # fmt: skip


def run_noise(
    fit: Fit, N: np.ndarray, D: np.ndarray, *, seeds: SeedNoise | None = None
) -> np.ndarray:
    """Return the variance of ln L of one run at N, D, as the fit's objective sees it.

    Residuals give its level; seeds repeated in four or more settings, how it changes with the loss.

    Args:
        seeds: what `repeated_seeds` found; null: all runs are alike.
    """
    level = dispersion(fit.problem, fit.theta)
    if not fit.objective.log:
        level = level / float(np.mean(fit.runs.L)) ** 2
    level = max(level, 1e-12)  # exact losses: designs follow the law's slopes alone
    if seeds is None:
        return np.full(len(N), level)
    inputs = {"N": N, "D": D, "C": fit.cost.flops(N, D), "M": D / N}
    loss = fit.law(fit.params, **{k: inputs[k] for k in fit.law.inputs})
    return level * seeds.sd(loss) ** 2 / np.mean(seeds.sd(fit.runs.L) ** 2)


def repeated_seeds(fit: Fit) -> SeedNoise | None:
    """Return the noise that repeated seeds show; null where none are repeated."""
    try:
        return seed_noise(fit.runs)
    except FitError:
        return None


def expected_narrowing(
    fit: Fit, aim: Aim, N: np.ndarray, D: np.ndarray, *, seed: int = 0, seeds: SeedNoise | None = None
) -> float:  # fmt: skip
    """Return the expected width of the aim's interval after training runs, over its width now.

    By the law alone, as the next fit will state it: averaged over draws of the parameters, and with
    Student's t for the degrees of freedom gained.
    """
    belief = belief_of(fit, aim, N, D, misfit=0.0, seed=seed, seeds=seeds)
    after = belief.after(list(range(len(N))))
    gain = 0.5 * float(np.mean(np.log(after.variance) - np.log(belief.variance)))
    now, later = (widen(fit.level, fit.freedom + k) for k in (0, len(N)))
    return float(np.exp(gain)) * later / now


def _draws(fit: Fit, aim: Aim, seed: int) -> np.ndarray:
    """Return theta [S, P]: the optimum, and draws around it that have an optimum at the aim."""
    drawn = gaussian(fit.problem, fit.theta, 20 * DRAWS, np.random.default_rng(seed))
    inside = ((drawn > fit.problem.low) & (drawn < fit.problem.high)).all(1)
    theta = np.concatenate([fit.theta[None], drawn[inside]])
    value = aim.value(fit, {k: np.asarray(v) for k, v in fit.problem.to_params(theta).items()})
    # a draw whose optimum lies beyond any model says nothing about designs
    near = np.isfinite(value) & (np.abs(value - np.nanmedian(value)) < 12.0)
    if not near.any():
        raise FitError(
            f"next_sweep: law {fit.law.name} has no optimum at {format_flops(aim.flops)} FLOPs. Give budgets, next_sweep(fit, C=[...]), or another law."
        )
    return theta[near][:DRAWS]


def _size_at(fit: Fit, C: float, ratio: float) -> float:
    """Return N at which a budget gives `ratio` tokens per parameter: C = factor N^power ratio N."""
    return float((C / (fit.cost.factor * ratio)) ** (1.0 / (fit.cost.power + 1.0)))


@dataclass(frozen=True)
class _Search:
    """The best subset of candidates by greedy choice and exchange.

    Args:
        beliefs: one per law; cost: of each candidate [FLOPs]; first: so many candidates, from the
            first, are chosen already.
    """

    beliefs: tuple[Belief, ...]
    cost: np.ndarray
    allowance: float
    most: int
    first: int

    def best(self) -> list[int]:
        designs = [self._greedy(power) for power in POWERS]
        return self._exchange(min(designs, key=lambda d: _score(self._states(d))))

    def _states(self, chosen: Sequence[int]) -> list[State]:
        return [b.after(list(chosen)) for b in self.beliefs]

    def _gains(self, states: Sequence[State], left: float, chosen: list[int]) -> np.ndarray:
        """Gain of each candidate that is new and affordable, averaged over the laws; else -1."""
        every = [b.gains(s) for b, s in zip(self.beliefs, states, strict=True)]
        # a neighbour tells as much as a run repeated, and of the law's shape besides
        usable = (self.cost <= left * (1 + ROUNDING)) & ~np.isin(np.arange(len(self.cost)), chosen)
        return np.where(usable, np.mean(every, axis=0), -1.0)

    def _greedy(self, power: float) -> list[int]:
        chosen = list(range(self.first))
        states, left = self._states(chosen), self.allowance - float(self.cost[: self.first].sum())
        while len(chosen) < self.most:
            gains = self._gains(states, left, chosen)
            j = int(np.argmax(np.where(gains > 0, gains / self.cost**power, -1.0)))
            if gains[j] <= 0:
                break
            states = [b.add(s, j) for b, s in zip(self.beliefs, states, strict=True)]
            chosen.append(j)
            left -= float(self.cost[j])
        return chosen

    def _exchange(self, chosen: list[int]) -> list[int]:
        score = _score(self._states(chosen))
        for _ in range(PASSES):
            before = score
            for i in range(self.first, len(chosen)):
                rest = chosen[:i] + chosen[i + 1 :]
                states, left = self._states(rest), self.allowance - float(self.cost[rest].sum())
                gains = self._gains(states, left, rest)
                j = int(gains.argmax())
                better = _score([b.add(s, j) for b, s in zip(self.beliefs, states, strict=True)])
                if gains[j] > 0 and better < score - 1e-6:
                    chosen, score = [*chosen[:i], j, *chosen[i + 1 :]], better
            if score > before - 1e-6:
                break
        return chosen


def _score(states: Sequence[State]) -> float:
    return float(np.mean([s.score for s in states]))
