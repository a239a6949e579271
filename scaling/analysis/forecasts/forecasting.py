"""A prediction to be held to: several laws, weighted by how well they foresaw larger runs.

One law's interval is right when the law is. At small scale no law quite is: the additive law is
off by a few per cent of the reducible loss. So the forecast stacks laws, adds their disagreement,
and widens everything by how much the same procedure missed when it was tried on its own past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis.data.runs import Runs, as_runs
from scaling.analysis.fits import uncertainty
from scaling.analysis.fits.prediction import Prediction, extrapolation, fit_cost
from scaling.analysis.forecasts.stacking import LAWS, OBJECTIVE, Stack, build_stack, log_loss, mix
from scaling.analysis.given import as_numbers, common_shape
from scaling.analysis.laws import Law
from scaling.analysis.traps import warn
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity, format_with_interval

FAR = 3.0  # times farther beyond the runs than the past was tried: the intervals are a guess there


@dataclass(frozen=True, eq=False, repr=False)
class Forecast(Prediction):
    """A prediction stacked over laws, with four intervals kept apart.

    Args (besides those of `Prediction`, whose `lo hi` are of the mean and `next_lo next_hi` of a run):
        parameter_lo, parameter_hi: the loss that the leading law's parameters leave open; as if
            that law were true.
        law_lo, law_hi: union over the laws that tie, each with the noise of a run.
        parameters: one row per law and parameter: law, parameter, value, lo, hi.
        laws: one row per law: law, weight, loss (at the first target), past_error (RMS relative
            error on runs beyond the rolling cuts), ties.
        past: one row per rolling cut: C (largest fitted), runs (fitted), predicted (how many),
            beyond (farthest, in C), error (RMS relative error), claimed (RMS SD it would have stated).
        stretch: factor by which the past errors widened the intervals; 1 is none.
        noise: SD of ln L of a run; noise_from: replicates or residuals.
        runs: what it rests on; objective: of every fit; warnings: what to keep in mind.
    """

    parameter_lo: np.ndarray | None = None
    parameter_hi: np.ndarray | None = None
    law_lo: np.ndarray | None = None
    law_hi: np.ndarray | None = None
    parameters: pd.DataFrame | None = None
    laws: pd.DataFrame | None = None
    past: pd.DataFrame | None = None
    stretch: float = 1.0
    noise: float = float("nan")
    noise_from: str = ""
    runs: Runs | None = None
    objective: str = OBJECTIVE
    warnings: tuple[str, ...] = ()

    def intervals(self) -> pd.DataFrame:
        """Return the four intervals of every target: parameter, mean, next run, law set."""
        kinds = {
            "parameter": (self.parameter_lo, self.parameter_hi), "mean": (self.lo, self.hi),
            "next run": (self.next_lo, self.next_hi), "law set": (self.law_lo, self.law_hi),
        }  # fmt: skip
        flat = {k: [np.ravel(np.asarray(x)) for x in pair] for k, pair in kinds.items()}
        rows = [
            {"N": N, "D": D, "interval": kind, "lo": lo[i], "hi": hi[i]}
            for i, (N, D) in enumerate(zip(np.ravel(self.N), np.ravel(self.D), strict=True))
            for kind, (lo, hi) in flat.items()
        ]
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """Return the forecast as a table, with what it rests on."""
        assert self.laws is not None and self.past is not None
        rows = []
        each = self.intervals().groupby("interval", sort=False)
        spans = {kind: part.reset_index(drop=True) for kind, part in each}
        for i, row in enumerate(self.to_frame().itertuples()):
            loss, _ = format_with_interval(row.loss, row.next_lo, row.next_hi)
            cells = [format_with_interval(row.loss, s["lo"][i], s["hi"][i])[1] for s in spans.values()]  # fmt: skip
            rows.append([format_quantity(row.N), format_quantity(row.D), format_flops(row.C), loss,
                         *cells, f"{row.beyond_C:.3g}x"])  # fmt: skip
        parts = ", ".join(f"{r.law} {100 * r.weight:.0f} %" for r in self.laws.itertuples())
        tried = f"Tried on {len(self.past)} earlier cuts of the same runs" if len(self.past) else "Too few runs to try it on their own past"  # fmt: skip
        note = [
            f"Laws: {parts}. {tried}; intervals stretched {self.stretch:.2g}x for it.",
            f"Noise of one run: {100 * self.noise:.2g} %, from {self.noise_from}. {100 * self.level:g} % intervals.",
            *(f"- {w}" for w in self.warnings),
        ]
        header = ["N", "D [tokens]", "C [FLOPs]", "loss [nats/token]", *spans, "beyond the data in C"]  # fmt: skip
        return Table(header, rows, title="Forecast over laws", note="\n".join(note))


def forecast(
    runs: Runs,
    *,
    N: Any,
    D: Any,
    candidates: Sequence[str | Law] = LAWS,
    level: float = 0.9,
) -> Forecast:
    """Forecast the loss of runs that do not exist yet, with an interval for each single run.

    1. Fit each law (robustly, with its priors) that the runs can carry; few runs leave the simplest.
    2. Cut the runs at earlier budgets, fit below, predict above. A law's weight is its prior weight
       over its mean squared error there.
    3. Variance = within laws + between laws + scatter of a run, times the squared stretch by which
       the stack missed on the cuts; quantiles of Student's t. The interval of a run is never
       narrower than that of the leading law alone.

    Args:
        runs: finished runs; verify runs are never looked at.
        N, D: sizes [parameters] and tokens to forecast, numbers or arrays.
        candidates: laws to stack, by name, of N, D and C; level: of the intervals.

    Returns:
        Loss with its parameter, mean, next-run and law-set intervals.

    Raises:
        FitError: too few runs for every law, or N or D not above 0.
    """
    runs = as_runs(runs)
    N, D = _targets(N, D)
    if not 0 < level < 1:
        raise FitError(f"level: must lie between 0 and 1; got {level!r}. Use 0.9 for 90 %.")
    stack = build_stack(runs, candidates)
    if not stack.fits:
        raise FitError(
            f"forecast: {len(runs)} runs are too few for any of the laws. Train at least 6."
        )
    mean, sd = (np.array(x) for x in zip(*(log_loss(f, N.ravel(), D.ravel()) for f in stack.fits), strict=True))  # fmt: skip
    spans = _spans(stack, mean, sd, level)
    shaped = {k: np.exp(v).reshape(N.shape) for k, v in spans.items()}
    C = fit_cost(runs).flops(N, D)
    beyond = extrapolation(runs, {"N": N, "D": D, "C": C})
    table = pd.DataFrame({
        "law": [f.law.name for f in stack.fits], "weight": stack.weight, "loss": np.exp(mean[:, 0]),
        "past_error": stack.past_error, "ties": stack.tying,
    })  # fmt: skip
    return Forecast(
        N=N, D=D, C=C, **shaped, level=level, extrapolation=beyond, law=" + ".join(table["law"]),
        parameters=_parameters(stack, level), laws=table, past=stack.past, stretch=stack.stretch, noise=stack.noise,
        noise_from=stack.noise_from, runs=runs, warnings=tuple(_warnings(stack, beyond)),
    )  # fmt: skip


def _targets(N: Any, D: Any) -> tuple[np.ndarray, np.ndarray]:
    given = {"N": as_numbers("N", N), "D": as_numbers("D", D)}
    N, D = (np.broadcast_to(x, common_shape(given)) for x in given.values())
    if not (np.isfinite(N) & np.isfinite(D) & (N > 0) & (D > 0)).all() or not N.size:
        raise FitError(
            f"forecast: N and D must be finite and above 0; got N={N.tolist()}, D={D.tolist()}."
        )
    return N, D


def _spans(stack: Stack, mean: np.ndarray, sd: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Return ln of the loss and of the bounds of every interval; later ones hold earlier ones."""
    center, spread = mix(stack.weight, mean, sd)
    first = stack.leading
    own = uncertainty.quantile(level, stack.fits[first].freedom)  # few runs: the SDs are unsure too
    t = uncertainty.quantile(level, min(f.freedom for f in stack.fits)) * stack.stretch
    scatter = uncertainty.quantile(level, stack.freedom) * stack.noise * (stack.stretch if stack.noise_from == "residuals" else 1.0)  # fmt: skip
    alone = own * sd[first]
    lo, hi = center - t * spread, center + t * spread
    lo, hi = np.minimum(lo, mean[first] - alone), np.maximum(hi, mean[first] + alone)
    next_lo, next_hi = center - np.hypot(center - lo, scatter), center + np.hypot(hi - center, scatter)  # fmt: skip
    each = np.hypot(t * sd, scatter)[stack.tying]
    tied = mean[stack.tying]
    return {
        "loss": center, "parameter_lo": mean[first] - alone, "parameter_hi": mean[first] + alone,
        "lo": lo, "hi": hi, "next_lo": next_lo, "next_hi": next_hi,
        "law_lo": np.minimum(next_lo, (tied - each).min(0)), "law_hi": np.maximum(next_hi, (tied + each).max(0)),
    }  # fmt: skip


def _parameters(stack: Stack, level: float) -> pd.DataFrame:
    rows = []
    for fitted in stack.fits:
        for name in (*fitted.law.names, *(n for n in ("a",) if n in fitted.law.derived)):
            lo, hi = fitted.interval(name, level=level)
            rows.append((fitted.law.name, name, fitted.get(name), lo, hi))
    return pd.DataFrame(rows, columns=["law", "parameter", "value", "lo", "hi"])


def _warnings(stack: Stack, beyond: dict[str, np.ndarray]) -> list[str]:
    """Say where the intervals are not backed by the past."""
    if stack.past.empty:
        return [
            warn("W-FEW", f"{len(stack.runs)} runs leave no earlier budget to try the forecast on, so the intervals are those of the laws as they stand. Train more budgets.")
        ]  # fmt: skip
    tried, asked = float(stack.past["beyond"].max()), float(np.max(beyond["C"]))
    if asked > FAR * tried:
        return [
            warn("W-EXTRAP", f"the target lies {asked:.3g} times beyond the runs in C and the past could be tried {tried:.3g} times beyond only; the intervals are not calibrated there. Train a run in between.")
        ]  # fmt: skip
    return []
