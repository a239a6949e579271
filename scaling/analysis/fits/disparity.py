"""Groups of one model's users side by side: the law of each, the gap between them, and what scale does to it.

All groups are scored on the same runs, so their laws are resampled together: a run that is drawn is
drawn for every group, and what it has in common (seed, batch order, a bad rate) cancels in the gap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from scaling.analysis import laws
from scaling.analysis.data.groupcolumns import (
    KINDS,
    column_mean,
    document_error,
    find_groups,
    find_measure,
    measure_unit,
    with_all,
    with_errors,
)
from scaling.analysis.data.runs import Runs, as_runs
from scaling.analysis.fits.fitted import Fit
from scaling.analysis.fits.fitting import fit
from scaling.analysis.fits.prediction import fit_cost
from scaling.analysis.given import positive_numbers
from scaling.analysis.law import Law
from scaling.study.errors import FitError, did_you_mean
from scaling.study.table import Table
from scaling.study.units import format_flops, format_with_interval

BEYOND = 10.0  # the target as a multiple of the largest compute, where none is asked for
# A gap that changes by less than a tenth over the range asked about is called the same. A convention:
# small beside what a tenfold compute does to a reducible loss with an exponent of 0.05 or more (11 %).
SAME = 0.1
MISSED = "law misses it"  # the law's gap at the largest run is not the measured one


@dataclass(frozen=True, eq=False)
class Gaps:
    """Gaps between groups and a reference group, now and at a target compute.

    Args:
        reference: the group that the others are compared with; measure, unit: what is compared.
        fits: the law of each group, {group: Fit}.
        shares: of the training bytes, where known.
        now, target: the largest compute of the runs, and the compute asked about [FLOPs].
        table: one row per group but the reference, see `compare`; level: of its intervals.
        dropped: runs left out because a group has no value in them.
        perfect: values without any error, which were taken for half of the smallest one.
    """

    reference: str
    measure: str
    unit: str
    fits: Mapping[str, Fit]
    shares: Mapping[str, float | None]
    errors: Mapping[str, float]
    now: float
    target: float
    level: float
    seed: int
    table: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    dropped: int = 0
    perfect: int = 0

    @property
    def runs(self) -> Runs:
        """The runs, with the reference's loss."""
        return self.fits[self.reference].runs

    @property
    def others(self) -> list[str]:
        """The groups that are compared with the reference."""
        return [g for g in self.fits if g != self.reference]

    def verdict(self, group: str) -> str:
        """Return closes, stays, widens, reverses, opens, no gap, not identified, or law misses it.

        Raises:
            FitError: no such group.
        """
        found = self.table[self.table["group"] == group]
        if found.empty:
            raise FitError(
                f"gaps: no group {group!r}.{did_you_mean(group, self.others)} There are: {', '.join(self.others)}."
            )
        return str(found["verdict"].iloc[0])

    def losses(self, group: str, C: Any) -> np.ndarray:
        """Return the group's law at budgets C [FLOPs], as draws [S, C]; the first is the fit itself."""
        law = self.fits[group]
        inputs = path(law.runs, positive_numbers("C", C))
        drawn = {k: np.concatenate([[law.params[k]], v])[:, None] for k, v in law.draws.items()}
        return np.asarray(law.law(drawn, **inputs), float)

    def gap(self, group: str, C: Any) -> np.ndarray:
        """Return draws [S, C] of the group's loss minus the reference's; the first is the fit itself.

        The draws hold the scatter of runs, paired, and the choice of held-out documents, which is
        independent between groups and common to all runs.
        """
        moved = self._documents(group) - self._documents(self.reference)
        return self.losses(group, C) - self.losses(self.reference, C) + moved[:, None]

    def floor_gap(self, group: str) -> np.ndarray | None:
        """Return draws [S] of the difference between the floors E, where the law has one."""
        if "E" not in self.fits[group].law.names:
            return None
        ends = [
            np.concatenate([[self.fits[g].params["E"]], self.fits[g].draws["E"]])
            for g in (group, self.reference)
        ]
        return ends[0] - ends[1] + self._documents(group) - self._documents(self.reference)

    def curve(self, group: str, *, points: int = 60) -> pd.DataFrame:
        """Return the gap along compute: C [FLOPs], gap, lo, hi."""
        C = np.geomspace(float(self.runs.C.min()), max(self.now, self.target), points)
        gap, lo, hi = span_of(self.gap(group, C), self.level)
        return pd.DataFrame({"C": C, "gap": gap, "lo": lo, "hi": hi})

    def summary(self) -> Table:
        """Return the gaps as a table for people."""
        rows = []
        for row in self.table.to_dict("records"):
            cells = [" ".join(_written(row, k)) for k in ("measured", "now", "target", "floor", "ratio")]  # fmt: skip
            rows.append([f"{row['group']} - {self.reference}", *cells, row["verdict"]])
        header = [
            "gap", "measured at the largest", f"law at {format_flops(self.now)}", f"at {format_flops(self.target)}",
            "floors", "left", "with scale it",
        ]  # fmt: skip
        note = [
            f"{100 * self.level:g} % intervals; runs drawn together for all groups, held-out documents apart. left: gap at the "
            f"target over gap now; within {1 - SAME:g} to {1 + SAME:g} it stays.",
            f"{self.fits[self.reference].law.name}; {self.runs.conventions.rpartition('; ')[0]}; from the largest run on, N grows as the root of C.",
            *_advice(self),
        ]
        title = f"Gaps in {self.unit} ({self.measure}), {len(self.runs)} runs"
        return Table(header, rows, title=title, note="\n".join(note))

    def groups_table(self) -> Table:
        """Return the law of each group as a table: share of the text, parameters, loss now and later."""
        names = list(next(iter(self.fits.values())).law.names)
        rows = []
        for group, law in self.fits.items():
            share = self.shares.get(group)
            known = "" if share is None else f"{100 * share:.3g} %"
            ends = [" ".join(format_with_interval(*map(float, span_of(self.losses(group, [C])[:, 0], self.level)))) for C in (self.now, self.target)]  # fmt: skip
            written = [" ".join(format_with_interval(law.get(n), *law.interval(n))) for n in names]
            rows.append([group, known, *ends, *written])
        header = ["group", "share", f"at {format_flops(self.now)}", f"at {format_flops(self.target)}", *names]  # fmt: skip
        return Table(header, rows, title=f"Law of each group [{self.unit}]")

    def _documents(self, group: str) -> np.ndarray:
        """Return draws [S] of the error from the choice of held-out documents; the first is none."""
        rng = np.random.default_rng([self.seed, sorted(self.fits).index(group)])
        size = len(next(iter(self.fits[group].draws.values())))
        return np.concatenate([[0.0], self.errors[group] * rng.standard_normal(size)])

    def __repr__(self) -> str:
        return f"Gaps({', '.join(f'{g}: {self.verdict(g)}' for g in self.others)}; reference {self.reference})"

    def _repr_html_(self) -> str:
        return str(self.summary()._repr_html_())


def gaps(
    runs: Any,
    *,
    groups: Sequence[str] | None = None,
    reference: str | None = None,
    measure: str | None = None,
    law: str | Law = "chinchilla",
    target: float | None = None,
    level: float = 0.9,
    resamples: int = 500,
    seed: int = 0,
    **options: Any,
) -> Gaps:
    """Fit the law of each group, and say whether scale closes the gaps between them.

    Args:
        runs: runs that scored several groups, or what `load` takes.
        groups: their names; null: the groups of the data, else all validation sets.
        reference: compared with; null: the group with the lowest mean.
        measure: bpb (bits/byte), bpc (bits/character), loss (nats/token), excess (nats/token above
            the true source), or the beginning of other columns: accuracy for accuracy_en, accuracy_zh.
            Accuracy, F1, BLEU, ROUGE and the like are fitted as what lacks to the best, 1 - accuracy, so
            that a gap above 0 says that the group is worse off, as with losses. Null: bpb, or where groups
            have none accuracy, bleu, masked_accuracy or loss.
        law: of every group; reads N, D or C.
        target: compute asked about [FLOPs]; null: ten times the largest.
        level: of the intervals; resamples, seed: of the Bayesian bootstrap over runs.
        options: further ones of `fit`.

    Returns:
        Columns of `.table`: group, share; `measured` at the runs of the largest compute, `now` and `target`
        by the laws, `floor` between the floors, `ratio` of the target's gap to now's, each with _lo
        and _hi; `verdict`.

    Raises:
        FitError: fewer than two groups, an unknown one, or a law that reads more than N, D and C.
    """
    runs, law = as_runs(runs), laws.get(law)
    _check_law(law)
    measure = measure or find_measure(runs)
    column = KINDS.get(measure, measure)
    names = find_groups(runs, column, groups)
    if reference is not None and reference not in names:
        raise FitError(
            f"reference: no group {reference!r}.{did_you_mean(reference, names)} There are: {', '.join(names)}."
        )
    runs, dropped = with_all(runs, [f"{column}_{g}" for g in names])
    runs, fitted, perfect = with_errors(runs, measure, names)
    how = {"law": law, "level": level, "resamples": resamples, "seed": seed, **options}
    fits = {g: fit(runs.using(loss=f"{fitted}_{g}"), **how, intervals="bayesian") for g in names}
    best = min(names, key=lambda g: float(fits[g].runs.L.mean()))
    largest = float(runs.C.max())
    result = Gaps(
        reference=reference or best, measure=measure, unit=measure_unit(measure, fitted), fits=fits,
        shares={g: column_mean(runs, f"val_share_{g}") for g in names},
        errors={g: document_error(runs, measure, column, g) for g in names},  now=largest, target=target or BEYOND * largest, level=level, seed=seed,
        dropped=dropped, perfect=perfect,
    )  # fmt: skip
    return dataclasses.replace(result, table=pd.DataFrame([_row(result, g) for g in result.others]))


def judge(now: np.ndarray, then: np.ndarray, *, level: float) -> str:
    """Say what becomes of a gap, from paired draws of it now and later.

    Args:
        now, then: draws [S] of the gap; level: of the intervals that decide.

    Returns:
        no gap (0 is in both intervals), opens (in the first only), closes, stays (within SAME of what it
        was), widens, reverses (the other sign), or not identified.
    """
    _, low_now, high_now = span_of(now, level)
    _, low_then, high_then = span_of(then, level)
    if low_now <= 0 <= high_now:
        return "no gap" if low_then <= 0 <= high_then else "opens"
    _, low, high = span_of(then / now, level)
    if low >= 1 - SAME and high <= 1 + SAME:
        return "stays"
    if high < 0:
        return "reverses"
    return "closes" if high < 1 else "widens" if low > 1 else "not identified"


def _row(found: Gaps, group: str) -> dict[str, Any]:
    """Compare one group with the reference."""
    now, then = found.gap(group, [found.now, found.target]).T
    floor = found.floor_gap(group)
    row: dict[str, Any] = {"group": group, "share": found.shares[group]}
    for name, draws in (("now", now), ("target", then), ("floor", floor), ("ratio", then / now)):
        ends = (np.nan,) * 3 if draws is None else span_of(draws, found.level)
        row |= dict(zip((name, f"{name}_lo", f"{name}_hi"), map(float, ends), strict=True))
    row |= _measured(found, group)
    missed = row["now_hi"] < row["measured_lo"] or row["now_lo"] > row["measured_hi"]
    return row | {"verdict": MISSED if missed else judge(now, then, level=found.level)}


def _measured(found: Gaps, group: str) -> dict[str, float]:
    """Return the gap of the runs with the largest compute: mean over seeds, interval over documents and seeds."""
    one, other = found.fits[group].runs, found.fits[found.reference].runs
    rows = one.fit_rows.assign(gap=one.L - other.L)
    top = rows[np.isclose(rows["C"], rows["C"].max(), rtol=1e-6)]["gap"]
    repeated = [g["gap"] for _, g in rows.groupby(["N", "D"]) if len(g) > 1]
    freedom = sum(len(g) - 1 for g in repeated)
    luck = sum(float(g.var(ddof=1)) * (len(g) - 1) for g in repeated) / max(freedom, 1)
    documents = found.errors[group] ** 2 + found.errors[found.reference] ** 2
    half = stats.norm.ppf((1 + found.level) / 2) * np.sqrt(documents + luck / len(top))
    mean = float(top.mean())
    return {"measured": mean, "measured_lo": mean - half, "measured_hi": mean + half}


def path(runs: Runs, C: np.ndarray) -> dict[str, np.ndarray]:
    """Return what laws read at budgets: from the largest run on, N grows as the root of C, and D with what is left.

    Not the best sizes of a fit: those of a small study are known within a factor, and a gap read off them
    would move with them. At the largest compute this is the largest run itself.
    """
    rows = runs.fit_rows
    largest = rows.iloc[int(np.argmax(rows["C"].to_numpy(float)))]
    growth = C / float(largest["C"])
    N = float(largest["N"]) * np.sqrt(growth)
    D = float(largest["D"]) * growth / np.sqrt(growth) ** fit_cost(runs).power
    return {"N": N, "D": D, "C": C, "M": D / N}


def _check_law(law: Law) -> None:
    if not set(law.inputs) <= {"N", "D", "C", "M"}:
        raise FitError(
            f"gaps: law {law.name} reads {', '.join(law.inputs)}; needs one that reads N, D or C only. Use law=chinchilla."
        )


def span_of(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the fit's own value, which is the first draw, and the interval of the others."""
    lo, hi = np.nanquantile(draws[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return draws[0], lo, hi


def _written(row: Mapping[Any, Any], name: str) -> tuple[str, str]:
    if not np.isfinite(row[name]):
        return "", ""
    return format_with_interval(row[name], row[f"{name}_lo"], row[f"{name}_hi"])


def _advice(found: Gaps) -> list[str]:
    """Return what to keep in mind of this comparison."""
    lines = []
    if found.measure == "loss":
        lines.append("Losses per token compare groups only where a token holds as much of each: for languages use measure=bpb, or bpc.")  # fmt: skip
    if found.measure in ("bpb", "bpc") and len(found.fits) > 1:
        lines.append("Texts differ in how predictable they are: a gap per byte holds that too (floors), which no scale closes.")  # fmt: skip
    if found.perfect:
        lines.append(f"{found.perfect} values are without any error; for the law they are half of the smallest error. More held-out examples tell.")  # fmt: skip
    if found.dropped:
        lines.append(f"{found.dropped} runs left out: a group was not scored in them.")
    if any(v == MISSED for v in found.table.get("verdict", [])):
        lines.append("Law misses it: at the largest compute the law's interval and the measured gap do not meet, so nothing is said of larger ones. Try another law, or where=... for the larger runs only.")  # fmt: skip
    if any(v == "not identified" for v in found.table.get("verdict", [])):
        lines.append("Not identified: the runs allow it to close and to widen. More compute between the smallest and largest run, or more seeds, tell.")  # fmt: skip
    warned = sorted({w.split(":")[0] for f in found.fits.values() for w in f.warnings})
    if warned:
        lines.append(f"The groups' fits warn of {', '.join(warned)}; scaling fit SWEEP loss=COLUMN says more.")  # fmt: skip
    return lines
