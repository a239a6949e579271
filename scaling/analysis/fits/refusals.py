"""Runs that no law can be fitted to, whatever the optimiser: each refused with what, where, what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scaling.study.errors import FitError

if TYPE_CHECKING:
    from scaling.analysis.data.runs import Runs
    from scaling.analysis.law import Law

# C over 6 N D beyond these is another unit. Head and attention of tiny models reach 8, and all
# parameters over the active ones of sparse models a few hundred.
FAR = 10**2.75

# Beyond these no unit makes sense of a number, and powers of it overflow.
LIMITS = (1e-30, 1e45)


def check_values(rows: pd.DataFrame, names: Mapping[str, str]) -> None:
    """Refuse values that are missing, not finite, not above 0, or beyond any unit.

    Raises:
        FitError: with the first such row and how many there are.
    """
    for name, convention in names.items():
        values = rows[name].to_numpy(float)
        bad = ~np.isfinite(values) | (values <= 0)
        if bad.any():
            first = rows.index[bad][0]
            other = ", or count by runs.using(flops='6nd')" if name == "C" else ""
            raise FitError(
                f"runs: {name} ({convention}) must be finite and above 0; got {rows.loc[first, name]} in "
                f"{_place(rows.loc[first, 'run_id'])} ({bad.sum()} such of {len(rows)}). Leave these rows out: delete them, "
                f"or write `failed` into a column `status` there{other}."
            )
        low, high = LIMITS
        absurd = (values < low) | (values > high)
        if absurd.any():
            first = rows.index[absurd][0]
            raise FitError(
                f"runs: {name} ({convention}) is {rows.loc[first, name]:.4g} in {rows.loc[first, 'run_id']} ({absurd.sum()} such of "
                f"{len(rows)}), outside {low:g} to {high:g}. Check the column and its units: load(..., units=...)."
            )


def _place(run_id: object) -> str:
    """Return the name of a run; rows without one are numbered, and it says from where."""
    return (
        f"{run_id}, counted from row0" if re.search(r"(^|:)row\d+$", str(run_id)) else str(run_id)
    )


def check_scale(rows: pd.DataFrame) -> None:
    """Refuse a compute that contradicts 6 N D by a power of ten, as when N is in millions.

    Raises:
        FitError: with the factor and the units it suggests.
    """
    ratio = compute_ratio(rows)
    if ratio is None or 1 / FAR < (middle := float(np.median(ratio))) < FAR:
        return
    power = math.log10(middle)
    unit = {3: "k", 6: "M", 9: "B", 12: "T"}.get(round(abs(power)), f"1e{round(abs(power))}")
    guess = (
        f"N or D seems to be in units of {unit}: load(..., units={{'params': {unit!r}}}) or 'tokens'"
        if power > 0
        else f"C seems to be in units of 1e{round(-power)} FLOPs: load(..., units={{'flops': '1e{round(-power)}'}})"
    )
    raise FitError(
        f"runs: the given C is {middle:.3g} times 6 N D, for example in {rows['run_id'].iloc[0]} (N={rows['N'].iloc[0]:.4g}, "
        f"D={rows['D'].iloc[0]:.4g}). {guess}. Of a sparse model give the active parameters."
    )


def compute_ratio(rows: pd.DataFrame) -> np.ndarray | None:
    """Return C / (6 N D) of each row, from the compute that was given or counted; else null."""
    for name in ("flops_counted", "flops"):
        if name in rows:
            C = pd.to_numeric(rows[name], errors="coerce").to_numpy(float)
            if (np.isfinite(C) & (C > 0)).all() and len(C):
                return C / (6.0 * rows["N"].to_numpy(float) * rows["D"].to_numpy(float))
    return None


def check_signal(runs: Runs, law: Law, fixed: Collection[str] = ()) -> None:
    """Refuse runs that cannot say anything about a law of loss, whatever the optimiser.

    Args:
        runs: the runs; law: the law to be fitted; fixed: names of the parameters that are held.

    Raises:
        FitError: one run only, an input that never varies, a loss that never varies, an accuracy
            in the place of a loss, or a loss that rises with both N and D.
    """
    free = [p for p in law.params if p.name not in fixed]
    if len(runs) == 1 and len(free) > 1:
        raise FitError(
            f"fit: there is one run ({runs.fit_rows['run_id'].iloc[0]}); a law needs several sizes. Add runs."
        )
    for name in law.inputs:
        moves = any(name in p.unit_of for p in free)
        if name in "NDC" and moves and _constant(runs.column(name)):
            raise FitError(
                f"fit: {name} is {runs.column(name)[0]:.4g} in all {len(runs)} runs, so {law.name} cannot say how the loss depends on it. "
                f"Add runs of other {name}, hold its parameters (fixed=...), or choose a law without {name}."
            )
    if law.output == "loss" and {"N", "D", "C"} & set(law.inputs):
        _check_direction(runs)


def _constant(values: np.ndarray) -> bool:
    return len(values) > 1 and bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _check_direction(runs: Runs) -> None:
    L, n = runs.L, len(runs)
    if n > 1 and _constant(L):
        raise FitError(
            f"fit: {runs.loss} is {L[0]:.4g} in all {n} runs, so there is nothing to fit. Check the column."
        )
    if n < 4 or not _rises(runs):
        return
    if L.max() <= 1:
        raise FitError(
            f"fit: {runs.loss} lies between {L.min():.3g} and {L.max():.3g} and rises with size: an accuracy, not a loss. "
            "Fit the error 1 - accuracy as the loss, or a law of accuracy (sl.laws.names())."
        )
    raise FitError(
        f"fit: {runs.loss} rises with N and with D (from {L.min():.3g} to {L.max():.3g}); a loss falls. Check the sign, "
        "and that it is not an accuracy or a throughput; fit 100 - score where it is a score in per cent."
    )


def _rises(runs: Runs) -> bool:
    """Whether log loss rises with log N and log D, clearly: not by the luck of a few runs."""
    y = np.log(runs.L)
    together = np.log(runs.N) + np.log(runs.D)
    if _constant(together):
        return False
    slopes = [
        float(np.polyfit(np.log(x), y, 1)[0]) for x in (runs.N, runs.D) if not _constant(np.log(x))
    ]
    r = float(np.corrcoef(together, y)[0, 1])
    # Student's t of a correlation; 4 is rarely luck even with four runs.
    t = r * math.sqrt((len(y) - 2) / max(1 - r * r, 1e-12))
    return all(s > 0 for s in slopes) and t > 4
