"""What a fit should be doubted for: named warnings in plain sentences that say what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from scaling.analysis.fits.checks import check_ceiling, check_description, check_runs
from scaling.analysis.fits.mixing import warn_mixed
from scaling.analysis.fits.noise import robust_sd
from scaling.analysis.fits.posed import FEW_CLUSTERS, clusters, law_inputs
from scaling.analysis.fits.uncertainty import covariance
from scaling.analysis.traps import warn

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

AT_ZERO = 0.01  # of the lowest loss; a floor below this is none that anybody could tell
EXACT = 1e-20  # an objective below this is rounding: the law passes through every run
SHARP = (
    0.1  # knee over noise below which Huber's objective is L1 in effect, with few runs a coarse one
)
RUNAWAY = 1e8  # condition at which parameters can be traded for each other without end
FAR = 100.0  # times the largest compute; published forecasts that held went 30 to 1000 times


def judge(fit: Fit) -> list[str]:
    """Return the warnings of a fit, the gravest first; none means that no check failed."""
    checks = (
        _misfit, _mixed, _converged, _basins, _floor, _bounds, _needs, _traded, _spans, _few_runs,
        _few_clusters, _outliers, _sharp, _precision,
    )  # fmt: skip
    own = [sentence for check in checks for sentence in check(fit)]
    return own + check_runs(fit.runs, fit.law, intervals=fit.intervals)


def judge_distance(factor: float, what: str = "C") -> list[str]:
    """Return the warning that a prediction lies far beyond the runs, `factor` times in `what`."""
    if factor <= FAR:
        return []
    return [
        warn(
            "W-EXTRAP",
            f"the prediction lies {factor:.3g} times beyond the runs in {what}; its interval holds the law's uncertainty, not the law's own failure. Back-test the law at such a distance, or train a run in between.",
        )
    ]


def _misfit(fit: Fit) -> list[str]:
    return [*check_description(fit), *check_ceiling(fit)]


def _mixed(fit: Fit) -> Iterator[str]:
    """A plan names its text, which may change between runs: other files, another Python's library."""
    yield from warn_mixed(fit.runs, fit.law)


def _converged(fit: Fit) -> Iterator[str]:
    # L1 has no gradient at its optimum, a corner; the linear programme that ends it is its proof.
    if fit.objective.shape == "l1" or fit.certificate.decrement < 1e-9 or fit.value < EXACT:
        return
    yield warn(
        "W-STOP",
        f"the optimum is not certain: one more step would still gain {fit.certificate.decrement:.1e} of the "
        "objective. Try starts=32 or another objective.",
    )


def _basins(fit: Fit) -> Iterator[str]:
    basins, gap = fit.certificate.basins, fit.certificate.gap
    if len(basins) < 2 or fit.value < EXACT or gap > 0.02:
        return
    yield warn(
        "W-BASIN",
        f"two optima cannot be told apart: a second one is only {100 * gap:.2g} % worse. "
        "Hold a parameter (fixed=...) or add runs away from the present ones.",
    )


def _floor(fit: Fit) -> Iterator[str]:
    if "E" not in fit.law.names or "E" in fit.fixed or fit.law.output != "loss":
        return
    lowest, E = float(fit.runs.L.min()), fit.params["E"]
    known = _known_floor(fit)
    if known is not None and known > E / 0.9:
        yield warn(
            "W-FLOOR0",
            f"the floor E={E:.3g} lies below the entropy of the source, {known:.4g}, which no model beats: the law's form is at fault. Hold it: fixed={{'E': {known:.4g}}}.",
        )
    if fit.get("E") < AT_ZERO * lowest:
        yield warn(
            "W-FLOOR0",
            "the floor E is at zero: these runs do not show one. Read E as unknown, not as 0; add runs of "
            "lower loss, or hold it where the source's entropy is known (fixed={'E': ...}).",
        )
        return
    reducible = (float(fit.runs.L.max()) - E) / (lowest - E)
    # E needs the reducible loss to fall at least 2 to 3 times, and to reach about a fifth of E.
    if reducible < 2.5 or (lowest - E) > 0.5 * E:
        yield warn(
            "W-E",
            f"the floor E={E:.3g} rests on the law, not on the data: the reducible loss falls {reducible:.2g} times "
            f"and is still {lowest - E:.2g} nats at the best run. Do not quote E; lower-loss runs would show it.",
        )


def _known_floor(fit: Fit) -> float | None:
    rows = fit.runs.fit_rows
    if fit.runs.loss != "val_loss" or "entropy_rate" not in rows:
        return None
    known = rows["entropy_rate"].dropna().unique()
    return float(known[0]) if len(known) == 1 else None


def _bounds(fit: Fit) -> Iterator[str]:
    names = [n for n in fit.certificate.on_bound if n != "E"]
    if names:
        yield warn(
            "W-BOUND",
            f"{', '.join(names)} ended on a bound of the search, so is not determined by these runs. Add runs that vary what it multiplies, or use a smaller law.",
        )


def _needs(fit: Fit) -> Iterator[str]:
    data = law_inputs(fit.law, fit.runs)
    for need in fit.law.needs:
        if not need.met(data):
            yield warn("W-DESIGN", need.text)


def _traded(fit: Fit) -> Iterator[str]:
    """Coefficients that run off together leave predictions as they are and mean nothing themselves."""
    if fit.certificate.condition > RUNAWAY:
        yield warn(
            "W-RUNAWAY",
            f"some parameters can be traded for others without cost (condition {fit.certificate.condition:.0e}), so coefficients may run away. Use the predictions, not the parameters; or a smaller law.",
        )


def _spans(fit: Fit) -> Iterator[str]:
    if fit.law.inputs != ("N", "D"):
        return
    log_n, log_d = np.log(fit.runs.N), np.log(fit.runs.D)
    for name, x in (("N", log_n), ("D", log_d)):
        if np.ptp(x) < np.log(3.0):
            yield warn(
                "W-DESIGN",
                f"{name} spans only {np.exp(np.ptp(x)):.2g}x, too little for its exponent. Add runs at other {name}; 10x is a good span.",
            )
    if np.ptp(log_n) > 0 and np.ptp(log_d) > 0:
        together = abs(float(np.corrcoef(log_n, log_d)[0, 1]))
        if together > 0.9:
            yield warn(
                "W-DESIGN",
                f"N and D rise together (correlation {together:.2f} of their logs), so their exponents cannot be told apart. "
                "Add runs with large N and few tokens, and small N and many.",
            )


def _few_runs(fit: Fit) -> Iterator[str]:
    free = len(fit.law.params) - len(fit.fixed)
    if len(fit.runs) < 3 * free:
        yield warn(
            "W-FEW",
            f"{len(fit.runs)} runs for {free} free parameters is few; intervals are rough. Aim for {3 * free} or more.",
        )


def _few_clusters(fit: Fit) -> Iterator[str]:
    labels = clusters(fit.runs, fit.intervals)
    count = FEW_CLUSTERS if labels is None else len(np.unique(labels))
    if count < FEW_CLUSTERS:
        yield warn(
            "W-CLUSTER",
            f"intervals={fit.intervals} draws from {count} clusters only, which cannot carry an interval: read it as a lower bound. Train more of them ({FEW_CLUSTERS} or more), such as other sizes or seeds.",
        )


def _outliers(fit: Fit) -> Iterator[str]:
    """Under a squared objective one bad run moves everything; a robust one has set it aside."""
    r = fit.log_errors
    sd = robust_sd(r, len(fit.law.params) - len(fit.fixed))
    far = np.abs(r) > 6.0 * sd  # one in a billion under Gaussian noise
    if fit.objective.shape == "square" and far.any() and np.abs(r).max() > 1e-6:
        first = fit.runs.fit_rows["run_id"].iloc[int(np.argmax(np.abs(r)))]
        yield warn(
            "W-OUTLIER",
            f"{far.sum()} of {len(r)} runs more than six robust SDs from the law, {first} furthest, and a squared objective follows what is far. Look at it, or use huber_log.",
        )


def _sharp(fit: Fit) -> Iterator[str]:
    if fit.objective.shape != "huber" or len(fit.runs) > 100:
        return  # with many runs L1 in effect costs precision, and its intervals say so
    r = fit.problem.residuals(fit.theta[None])[0]
    ratio = fit.objective.delta / robust_sd(r, len(fit.theta))
    if ratio < SHARP and fit.value > EXACT:
        yield warn(
            "W-DELTA",
            f"the knee {fit.objective.delta:g} is {ratio:.2g} of the residuals' SD, so this objective is L1 in effect and wastes a third of {len(fit.runs)} runs. Use delta='noise'.",
        )


def _plainly_known(fit: Fit, name: str) -> bool:
    """Whether nothing needs a look: no intervals, or an SD that leaves no doubt without a profile."""
    if fit.intervals != "profile":
        return fit.intervals == "none"
    at = [p.name for p in fit.problem.free].index(name)
    sd = float(np.sqrt(covariance(fit.problem, fit.theta, bounded=False)[at, at]))
    return sd < 0.1 * fit.params[name]


def _precision(fit: Fit) -> Iterator[str]:
    """An interval of an exponent as wide as the exponent says nothing, an open one less."""
    wide, flat = [], []
    for name in ("alpha", "beta"):
        if name in fit.law.names and name not in fit.fixed and not _plainly_known(fit, name):
            lo, hi = fit.interval(name)
            param = next(p for p in fit.law.params if p.name == name)
            if lo <= param.low or hi >= param.high:
                flat.append(name)
            elif hi - lo > fit.params[name]:
                wide.append(f"{name} in [{lo:.2g}, {hi:.2g}]")
    if flat:
        yield warn(
            "W-FLAT",
            f"the profile of {', '.join(flat)} is flat: the runs rule out no value on one side. Read it as not identified; widen the range of N and D.",
        )
    if wide:
        yield warn(
            "W-WIDE",
            f"exponents are barely determined: {', '.join(wide)}. Widen the range of N and D, or repeat runs with other seeds.",
        )
