"""What a fit should be doubted for, in plain sentences that say what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scaling.analysis.fitted import Fit


def judge(fit: Fit) -> list[str]:
    """Return the warnings of a fit, the gravest first; none means that no check failed."""
    checks = (_same_text, _converged, _basins, _floor, _bounds, _design, _few_runs, _precision)
    return [sentence for check in checks for sentence in check(fit)]


def _same_text(fit: Fit) -> list[str]:
    """A plan names its text, which may change between runs: other files, another Python's library."""
    rows = fit.runs.fit_rows
    texts = rows["data_hash"].dropna().nunique() if "data_hash" in rows else 0
    if texts < 2:
        return []
    return [
        f"The runs saw {texts} different texts (column data_hash); their losses can be compared only if the held-out "
        "tokens are the same. Fit the runs of one text, or delete the others and train the sweep again."
    ]


def _converged(fit: Fit) -> list[str]:
    # L1 has no gradient at its optimum, a corner; the linear programme that ends it is its proof.
    if fit.objective.shape == "l1" or fit.certificate.decrement < 1e-9 or fit.value < 1e-20:
        return []
    return [
        f"The optimum is not certain: one more step would still gain {fit.certificate.decrement:.1e} of the "
        "objective. Try starts=32 or another objective."
    ]


def _basins(fit: Fit) -> list[str]:
    basins = fit.certificate.basins
    if len(basins) < 2 or fit.value < 1e-20 or fit.certificate.gap > 0.02:
        return []
    return [
        f"Two optima cannot be told apart: a second one is only {100 * fit.certificate.gap:.2g} % worse. "
        "Hold a parameter (fixed=...) or add runs away from the present ones."
    ]


def _floor(fit: Fit) -> list[str]:
    if "E" not in fit.law.names or "E" in fit.fixed:
        return []
    lowest, E = float(fit.runs.L.min()), fit.params["E"]
    if fit.get("E") < 1e-3 * lowest:
        return [
            "The floor E is at zero: these runs do not show one. Read E as unknown, not as 0; add runs of "
            "lower loss, or hold it where the source's entropy is known (fixed={'E': ...})."
        ]
    reducible = (float(fit.runs.L.max()) - E) / (lowest - E)
    # E needs the reducible loss to fall at least 2 to 3 times, and to reach about a fifth of E.
    if reducible < 2.5 or (lowest - E) > 0.5 * E:
        return [
            f"The floor E={E:.3g} rests on the law, not on the data: the reducible loss falls {reducible:.2g} times "
            f"and is still {lowest - E:.2g} nats at the best run. Do not quote E; lower-loss runs would show it."
        ]
    return []


def _bounds(fit: Fit) -> list[str]:
    names = [n for n in fit.certificate.on_bound if n != "E"]
    if not names:
        return []
    return [
        f"{', '.join(names)} ended on a bound of the search, so is not determined by these runs. Add runs that vary what it multiplies, or use a smaller law."
    ]


def _design(fit: Fit) -> list[str]:
    sentences = []
    if fit.law.inputs == ("N", "D"):
        log_n, log_d = np.log(fit.runs.N), np.log(fit.runs.D)
        for name, x in (("N", log_n), ("D", log_d)):
            if np.ptp(x) < np.log(3.0):
                sentences.append(
                    f"{name} spans only {np.exp(np.ptp(x)):.2g}x, too little for its exponent. Add runs at other {name}; 10x is a good span."
                )
        if np.ptp(log_n) > 0 and np.ptp(log_d) > 0:
            together = abs(float(np.corrcoef(log_n, log_d)[0, 1]))
            if together > 0.9:
                sentences.append(
                    f"N and D rise together (correlation {together:.2f} of their logs), so their exponents cannot be told apart. "
                    "Add runs with large N and few tokens, and small N and many."
                )
    if fit.certificate.condition > 1e10:
        sentences.append(
            f"Some parameters can be traded for others without cost (condition {fit.certificate.condition:.0e}). Use the predictions, not the parameters; or a smaller law."
        )
    return sentences


def _few_runs(fit: Fit) -> list[str]:
    free = len(fit.law.params) - len(fit.fixed)
    if len(fit.runs) >= 3 * free:
        return []
    return [
        f"{len(fit.runs)} runs for {free} free parameters is few; intervals are rough. Aim for {3 * free} or more."
    ]


def _precision(fit: Fit) -> list[str]:
    """An interval of an exponent as wide as the exponent says nothing."""
    wide = []
    for name in ("alpha", "beta"):
        if name in fit.law.names and name not in fit.fixed and fit.intervals != "none":
            lo, hi = fit.interval(name)
            if hi - lo > fit.params[name]:
                wide.append(f"{name} in [{lo:.2g}, {hi:.2g}]")
    if not wide:
        return []
    return [
        f"Exponents are barely determined: {', '.join(wide)}. Widen the range of N and D, or repeat runs with other seeds."
    ]
