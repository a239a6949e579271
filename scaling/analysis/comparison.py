"""Which law to believe: error in the sample, information criteria, and above all larger compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scaling.analysis import laws
from scaling.analysis.fitting import Fit, fit
from scaling.analysis.laws import Law
from scaling.analysis.runs import Runs, as_runs
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_flops


@dataclass(frozen=True, eq=False)
class Comparison:
    """Laws side by side.

    Args:
        rows: one row per law: law, params (free), error (RMS of ln L in the fit), aicc, bic,
            holdout (mean |L_fit - L| / L on the held-out runs), a, loss and warnings' count; the
            smallest `holdout`, else aicc, comes first.
        fits: {law name: Fit} on the runs at or below `holdout_above`.
        holdout_above: compute [FLOPs] above which runs were kept out of the fits, or None.
        held_out: how many runs that was.
    """

    rows: pd.DataFrame
    fits: dict[str, Fit]
    holdout_above: float | None
    held_out: int

    @property
    def best(self) -> str:
        """Name of the law with the smallest held-out error (AICc if nothing was held out)."""
        return str(self.rows["law"].iloc[0])

    def summary(self) -> Table:
        """Return the comparison as a table."""
        body = [
            [r.law, str(r.params), f"{100 * r.error:.3g}", f"{r.aicc:.1f}", f"{r.bic:.1f}",
             f"{100 * r.holdout:.3g}" if np.isfinite(r.holdout) else "-", f"{r.a:.3f}" if np.isfinite(r.a) else "-"]
            for r in self.rows.itertuples()
        ]  # fmt: skip
        held = (
            f"{self.held_out} runs above {format_flops(self.holdout_above)} FLOPs"
            if self.held_out
            else "none held out"
        )
        n = len(next(iter(self.fits.values())).runs)
        header = [
            "law",
            "free parameters",
            "error in fit [%]",
            "AICc",
            "BIC",
            "held-out error [%]",
            "a",
        ]
        note = f"{n} runs fitted; held out: {held}. AICc and BIC are of the log-MSE fit; differences below 4 mean little, and neither sees larger compute."
        return Table(header, body, title="Laws compared", note=note)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.rows['law'])}; best {self.best})"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def compare(
    runs: Runs,
    candidates: Sequence[str | Law] = ("chinchilla", "chinchilla_k", "kaplan"),
    *,
    holdout_above: float | None = None,
    objective: str = "huber_log",
) -> Comparison:
    """Fit several laws and compare them, on held-out larger compute where asked.

    Args:
        runs: finished runs; candidates: names or laws.
        holdout_above: runs with more FLOPs are kept out of every fit and then predicted.
        objective: of the fits; the information criteria come from a log-MSE fit besides.

    Raises:
        FitError: nothing lies above, or too little below, `holdout_above`.
    """
    runs = as_runs(runs)
    limit = np.inf if holdout_above is None else holdout_above
    inside = ~(limit < runs.C)
    if holdout_above is not None and (inside.all() or not inside.any()):
        raise FitError(
            f"compare: holdout_above={holdout_above:.3g} leaves {inside.sum()} runs to fit and {(~inside).sum()} to predict; C spans {runs.C.min():.3g} to {runs.C.max():.3g}."
        )
    near, far = runs.where(inside), runs.where(~inside) if not inside.all() else None
    fits = {
        laws.get(c).name: fit(near, c, objective=objective, intervals="none") for c in candidates
    }
    rows = pd.DataFrame([_row(f, near, far) for f in fits.values()])
    rows = rows.sort_values("holdout" if far is not None else "aicc", ignore_index=True)
    return Comparison(rows, fits, holdout_above, 0 if far is None else len(far))


def _row(fitted: Fit, near: Runs, far: Runs | None) -> dict[str, object]:
    free, n = len(fitted.law.params) - len(fitted.fixed), len(near)
    square = fit(near, fitted.law, objective="mse_log", intervals="none", starts=4)
    aicc, bic = criteria(2 * square.value, n, free)
    return {
        "law": fitted.law.name, "params": free, "error": float(np.sqrt(np.mean(fitted.residuals()["residual"] ** 2))),
        "aicc": aicc, "bic": bic, "holdout": np.nan if far is None else relative_error(fitted, far),
        "a": fitted.get("a") if "a" in fitted.law.derived else np.nan, "warnings": len(fitted.warnings),
    }  # fmt: skip


def relative_error(fitted: Fit, runs: Runs) -> float:
    """Return the mean |L_fit - L| / L of a fit on other runs."""
    predicted = fitted.law(fitted.params, **{k: getattr(runs, k) for k in fitted.law.inputs})
    return float(np.mean(np.abs(predicted - runs.L) / runs.L))


def criteria(rss: float, n: int, free: int) -> tuple[float, float]:
    """Return AICc and BIC of a least-squares fit; the noise SD counts as one more parameter."""
    k = free + 1
    deviance = n * np.log(max(rss, 1e-300) / n)
    aicc = deviance + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf)
    return float(aicc), float(deviance + k * np.log(n))
